//! What raft answers when it cannot do what was asked.

use std::time::Duration;

use skep_proto::v1;

use super::log::LogError;

fn named(leader: &Option<v1::RaftPeer>) -> String {
    match leader {
        Some(peer) => format!("the leader is {} at {}", peer.node_id, peer.addr),
        None => "there is no leader at the moment".into(),
    }
}

/// Why a proposal was not answered with an index.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum ProposeError {
    /// This manager does not lead; nothing was written.
    #[error("this manager is not the leader ({}); nothing was written", named(.leader))]
    NotLeader {
        /// Who leads, when known.
        leader: Option<v1::RaftPeer>,
    },
    /// No leader could be elected in time; nothing was written.
    #[error("no leader for {} s: a quorum of the managers is not reachable; nothing was written", .waited.as_secs())]
    QuorumLost {
        /// How long was waited.
        waited: Duration,
    },
    /// The change is in the log, but no quorum confirmed it in time.
    #[error("outcome unknown: {reason}; the change may still be applied, so look before trying again")]
    Unknown {
        /// What is known.
        reason: String,
    },
    /// The disk under the log is full.
    #[error("the disk under the raft log is full: free space on the leader{}",
        if *.may_apply { "; the change may still be applied" } else { "; nothing was written" })]
    DiskFull {
        /// Whether the change had been appended before the disk filled.
        may_apply: bool,
    },
    /// The batch is larger than one entry may be.
    #[error("the batch takes {bytes} bytes, more than the {limit} of one raft entry: split it")]
    TooLarge {
        /// Its size.
        bytes: usize,
        /// What one entry may hold.
        limit: usize,
    },
    /// The batch's precondition failed; nothing of it was applied.
    #[error("{0}")]
    Rejected(String),
    /// The raft node has ended.
    #[error("the raft node has stopped: {0}")]
    Stopped(String),
}

/// Why a read index could not be had.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ReadError {
    /// No quorum confirmed the leader in time.
    #[error("no leader was confirmed by a quorum within {} s: the answer may be stale", .waited.as_secs())]
    QuorumLost {
        /// How long was waited.
        waited: Duration,
    },
    /// The raft node has ended.
    #[error("the raft node has stopped: {0}")]
    Stopped(String),
}

/// Why the membership was not changed.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum MembershipError {
    /// Only the leader changes the membership.
    #[error("this manager is not the leader: {}", named(.leader))]
    NotLeader {
        /// Who leads, when known.
        leader: Option<v1::RaftPeer>,
    },
    /// Another change is under way.
    #[error("another change of the managers is under way: try again in a moment")]
    Busy,
    /// The node votes already.
    #[error("node {node_id} is already a manager: demote and remove it first if its state was lost")]
    AlreadyMember {
        /// Which node.
        node_id: String,
    },
    /// The node is no manager.
    #[error("node {node_id} is not a manager of this swarm")]
    NotMember {
        /// Which node.
        node_id: String,
    },
    /// Too few managers would be left answering.
    #[error(
        "removing manager {node_id} would leave {reachable} reachable of {voters} managers, and {quorum} are needed \
         for a quorum: bring managers back or add one first"
    )]
    WouldLoseQuorum {
        /// Whom to remove.
        node_id: String,
        /// Voters that would be left and answer.
        reachable: usize,
        /// Voters that would be left.
        voters: usize,
        /// What they would need.
        quorum: usize,
    },
    /// The last manager cannot be removed.
    #[error("node {node_id} is the last manager: leave with --force to give the swarm up")]
    LastManager {
        /// Which node.
        node_id: String,
    },
    /// The leader hands its office on before it can be removed.
    #[error("node {node_id} is the leader and is handing leadership over: ask the new leader")]
    IsLeader {
        /// Which node.
        node_id: String,
    },
    /// Nobody can take over.
    #[error("no other manager is reachable and up to date: leadership stays here")]
    NoSuccessor,
    /// A proposal under it failed.
    #[error(transparent)]
    Propose(#[from] ProposeError),
}

/// Why a raft node did not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The log.
    #[error(transparent)]
    Log(#[from] LogError),
    /// The state machine refused the snapshot.
    #[error("cannot restore the store from the raft snapshot at {index}: {problem}")]
    Restore {
        /// The snapshot's index.
        index: u64,
        /// What the store said.
        problem: String,
    },
    /// raft-rs refused the state.
    #[error("cannot start raft: {0}")]
    Raft(String),
    /// The log thread.
    #[error("cannot start the raft log's thread: {0}")]
    Thread(std::io::Error),
}
