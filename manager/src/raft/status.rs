//! What a raft node tells of itself.

use raft::StateRole;
use skep_proto::v1;

use super::core::Core;

/// A node's part in the group.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Role {
    /// Follows a leader, or waits for one.
    #[default]
    Follower,
    /// Asks for votes.
    Candidate,
    /// Leads.
    Leader,
}

/// A member as this node sees it.
#[derive(Debug, Clone, PartialEq)]
pub struct MemberStatus {
    /// Who and where.
    pub peer: v1::RaftPeer,
    /// Whether it votes; a learner does not yet.
    pub voter: bool,
    /// Whether this node heard from it lately (only a leader hears from all).
    pub reachable: bool,
    /// The last entry known to be on its disk (leader only).
    pub matched: u64,
}

/// A node's state, published on every change and every tick.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct RaftStatus {
    /// This member.
    pub raft_id: u64,
    /// The present term.
    pub term: u64,
    /// Its part.
    pub role: Role,
    /// Raft ID of the leader; 0 = none known.
    pub leader: u64,
    /// Last committed entry.
    pub commit: u64,
    /// Last applied entry.
    pub applied: u64,
    /// Last entry of the log.
    pub last_index: u64,
    /// Where the last snapshot was taken.
    pub snapshot_index: u64,
    /// All members.
    pub members: Vec<MemberStatus>,
    /// Raft IDs of former members.
    pub removed_members: Vec<u64>,
    /// The disk under the log is full; no write is acknowledged.
    pub disk_full: bool,
    /// This node was removed from the group.
    pub removed: bool,
    /// Why the node ended, when it did by itself.
    pub failure: Option<String>,
}

/// Who leads.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Leadership {
    /// In which term.
    pub term: u64,
    /// The leader, when there is one.
    pub leader: Option<v1::RaftPeer>,
    /// This node leads and has applied all that was committed before its term: leader logic may run.
    pub ready: bool,
}

impl Core {
    /// Tells what changed.
    pub(super) fn publish(&mut self) {
        let raft = &self.raw.raft;
        let role = match raft.state {
            StateRole::Leader => Role::Leader,
            StateRole::Follower => Role::Follower,
            StateRole::Candidate | StateRole::PreCandidate => Role::Candidate,
        };
        let status = RaftStatus {
            raft_id: self.identity.raft_id,
            term: raft.term,
            role,
            leader: raft.leader_id,
            commit: raft.raft_log.committed,
            applied: self.applied,
            last_index: raft.raft_log.last_index(),
            snapshot_index: self.snapshot_index,
            members: self.members.peers.values().map(|peer| self.member(peer)).collect(),
            removed_members: self.members.removed.iter().copied().collect(),
            disk_full: self.full,
            removed: self.removed,
            failure: self.failure.clone(),
        };
        self.status.send_if_modified(|old| std::mem::replace(old, status.clone()) != status);
        let ready = role == Role::Leader && raft.apply_to_current_term();
        let leadership = Leadership { term: raft.term, leader: self.leader(), ready };
        self.leadership.send_if_modified(|old| std::mem::replace(old, leadership.clone()) != leadership);
    }

    fn member(&self, peer: &v1::RaftPeer) -> MemberStatus {
        MemberStatus {
            peer: peer.clone(),
            voter: self.members.is_voter(peer.raft_id),
            reachable: self.hears(peer.raft_id),
            matched: self.raw.raft.prs().get(peer.raft_id).map_or(0, |progress| progress.matched),
        }
    }
}
