//! Changes of the members, on the leader: join as a learner, promotion once caught up, another address, removal, handing
//! over.

#![expect(
    clippy::field_reassign_with_default,
    reason = "rust-protobuf's messages hide fields, so no literal makes them"
)]

use prost::Message as _;
use raft::eraftpb::{ConfChangeSingle, ConfChangeType, ConfChangeV2};
use raft::majority;
use skep_proto::v1;

use super::core::{Core, Reply};
use super::error::MembershipError;
use super::node::new_raft_id;
use super::waiter::Waiter;

/// A learner this close to the end of the log becomes a voter.
const CAUGHT_UP: u64 = 64;

impl Core {
    /// Proposes one change; raft takes no other until it is applied.
    fn change(&mut self, kind: ConfChangeType, peer: &v1::RaftPeer, waiter: Waiter) -> Result<(), Waiter> {
        let mut single = ConfChangeSingle::default();
        single.node_id = peer.raft_id;
        single.set_change_type(kind);
        let mut change = ConfChangeV2::default();
        change.mut_changes().push(single);
        change.context = v1::MembershipContext { peer: Some(peer.clone()) }.encode_to_vec().into();
        match self.raw.propose_conf_change(Vec::new(), change) {
            Ok(()) => {
                self.wait_for_last(waiter);
                Ok(())
            }
            Err(_) => Err(waiter),
        }
    }

    fn may_change(&self) -> Result<(), MembershipError> {
        if !self.leads() {
            return Err(MembershipError::NotLeader { leader: self.leader() });
        }
        if self.raw.raft.has_pending_conf() || self.raw.raft.lead_transferee.is_some() {
            return Err(MembershipError::Busy);
        }
        Ok(())
    }

    pub(super) fn join(
        &mut self,
        node_id: String,
        addr: String,
        reply: Reply<v1::RaftJoinResponse, MembershipError>,
    ) {
        match self.joiner(node_id, addr) {
            Err(error) => drop(reply.send(Err(error))),
            Ok((peer, response, true)) => {
                let waiter = Waiter::Join(response, reply);
                if let Err(Waiter::Join(_, reply)) =
                    self.change(ConfChangeType::AddLearnerNode, &peer, waiter)
                {
                    drop(reply.send(Err(MembershipError::Busy)));
                }
            }
            Ok((_, response, false)) => drop(reply.send(Ok(response))),
        }
    }

    /// Who joins, what it is told, and whether the membership must change for it.
    fn joiner(
        &self,
        node_id: String,
        addr: String,
    ) -> Result<(v1::RaftPeer, v1::RaftJoinResponse, bool), MembershipError> {
        self.may_change()?;
        let known = self.members.by_node(&node_id);
        let raft_id = match known {
            Some(peer) if self.members.is_voter(peer.raft_id) => {
                return Err(MembershipError::AlreadyMember { node_id });
            }
            Some(peer) => peer.raft_id,
            None => self.fresh_id(&node_id),
        };
        let peer = v1::RaftPeer { raft_id, node_id, addr };
        let mut peers: Vec<_> =
            self.members.peers.values().filter(|peer| peer.raft_id != raft_id).cloned().collect();
        peers.push(peer.clone());
        let response = v1::RaftJoinResponse { raft_id, cluster_id: self.identity.cluster_id.clone(), peers };
        let changed = known != Some(&peer);
        Ok((peer, response, changed))
    }

    fn fresh_id(&self, node_id: &str) -> u64 {
        let mut salt = self.raw.raft.raft_log.last_index() << 16 ^ self.raw.raft.term;
        loop {
            let id = new_raft_id(self.options.seed, salt, node_id);
            if !self.members.peers.contains_key(&id) && !self.members.removed.contains(&id) {
                return id;
            }
            salt = salt.wrapping_add(1);
        }
    }

    pub(super) fn remove(&mut self, node_id: &str, reply: Reply<(), MembershipError>) {
        match self.removable(node_id) {
            Err(error) => drop(reply.send(Err(error))),
            Ok(peer) => {
                let refused = self.change(ConfChangeType::RemoveNode, &peer, Waiter::Change(reply));
                if let Err(Waiter::Change(reply)) = refused {
                    drop(reply.send(Err(MembershipError::Busy)));
                }
            }
        }
    }

    /// A member says where it is reached now. Messages go there at once, whoever leads: more may have moved than a
    /// quorum can lack, and then nobody leads before this is known. The leader has it written down.
    pub(super) fn readdress(&mut self, node_id: &str, addr: String, reply: Reply<(), MembershipError>) {
        let Some(peer) = self.members.by_node(node_id).cloned() else {
            return drop(reply.send(Err(MembershipError::NotMember { node_id: node_id.to_owned() })));
        };
        self.reached(node_id, addr.clone());
        if peer.addr == addr {
            return drop(reply.send(Ok(())));
        }
        if let Err(error) = self.may_change() {
            return drop(reply.send(Err(error)));
        }
        let kind = match self.members.is_voter(peer.raft_id) {
            true => ConfChangeType::AddNode,
            false => ConfChangeType::AddLearnerNode,
        };
        let peer = v1::RaftPeer { addr, ..peer };
        if let Err(Waiter::Change(reply)) = self.change(kind, &peer, Waiter::Change(reply)) {
            drop(reply.send(Err(MembershipError::Busy)));
        }
    }

    /// A member was reached there: messages go there until the log says where it is.
    pub(super) fn reached(&mut self, node_id: &str, addr: String) {
        let Some(peer) = self.members.by_node(node_id) else { return };
        if peer.addr == addr || peer.raft_id == self.identity.raft_id {
            self.moved.remove(&peer.raft_id);
        } else {
            self.moved.insert(peer.raft_id, addr);
        }
    }

    fn removable(&mut self, node_id: &str) -> Result<v1::RaftPeer, MembershipError> {
        self.may_change()?;
        let not_member = || MembershipError::NotMember { node_id: node_id.to_owned() };
        let peer = self.members.by_node(node_id).cloned().ok_or_else(not_member)?;
        if !self.members.is_voter(peer.raft_id) {
            return Ok(peer);
        }
        // Who has just come will have a vote in a moment: until then it is one that the others would lack.
        if self.members.conf.learners.iter().any(|id| self.hears(*id)) {
            return Err(MembershipError::Busy);
        }
        let left: Vec<u64> =
            self.members.conf.voters.iter().copied().filter(|id| *id != peer.raft_id).collect();
        if left.is_empty() {
            return Err(MembershipError::LastManager { node_id: node_id.to_owned() });
        }
        let reachable = left.iter().filter(|id| self.hears(**id)).count();
        let (voters, quorum) = (left.len(), majority(left.len()));
        if reachable < quorum {
            return Err(MembershipError::WouldLoseQuorum {
                node_id: node_id.to_owned(),
                reachable,
                voters,
                quorum,
            });
        }
        if peer.raft_id == self.identity.raft_id {
            self.transfer()?;
            return Err(MembershipError::IsLeader { node_id: node_id.to_owned() });
        }
        Ok(peer)
    }

    /// Hands leadership to the voter that is furthest along; returns its raft ID.
    pub(super) fn transfer(&mut self) -> Result<u64, MembershipError> {
        if !self.leads() {
            return Err(MembershipError::NotLeader { leader: self.leader() });
        }
        let own = self.identity.raft_id;
        let best = (self.members.conf.voters.iter())
            .filter(|id| **id != own && self.hears(**id))
            .filter_map(|id| Some((self.raw.raft.prs().get(*id)?.matched, *id)))
            .max();
        let (_, id) = best.ok_or(MembershipError::NoSuccessor)?;
        self.raw.transfer_leader(id);
        Ok(id)
    }

    /// Promotes the learners that have caught up, one at a time.
    pub(super) fn tend_learners(&mut self) {
        if self.may_change().is_err() {
            return;
        }
        let last = self.raw.raft.raft_log.last_index();
        let ready = self.members.conf.learners.iter().copied().find(|id| {
            // Not by the progress's state: a lost answer leaves it probing until there is something to send.
            self.hears(*id)
                && self
                    .raw
                    .raft
                    .prs()
                    .get(*id)
                    .is_some_and(|progress| progress.matched > 0 && progress.matched + CAUGHT_UP >= last)
        });
        if let Some(peer) = ready.and_then(|id| self.members.peers.get(&id).cloned()) {
            // Refused means that another change came first: the next tick tries again.
            drop(self.change(ConfChangeType::AddNode, &peer, Waiter::Nobody));
        }
    }
}
