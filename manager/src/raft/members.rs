//! Who the members are and where: raft-rs knows numbers only.

use std::collections::{BTreeMap, BTreeSet};

use prost::Message as _;
use raft::eraftpb::{ConfChangeType, ConfChangeV2, ConfState};
use skep_proto::v1;

/// The members by raft ID, and those that were removed and must not be listened to.
#[derive(Debug, Clone, Default)]
pub(crate) struct Members {
    pub(crate) peers: BTreeMap<u64, v1::RaftPeer>,
    pub(crate) removed: BTreeSet<u64>,
    pub(crate) conf: ConfState,
}

impl Members {
    pub(crate) fn from_envelope(envelope: &v1::RaftSnapshotEnvelope, conf: ConfState) -> Self {
        Self {
            peers: envelope.peers.iter().map(|peer| (peer.raft_id, peer.clone())).collect(),
            removed: envelope.removed.iter().copied().collect(),
            conf,
        }
    }

    /// Encodes the members beside the state machine's bytes.
    pub(crate) fn envelope(&self, state: Vec<u8>) -> Vec<u8> {
        v1::RaftSnapshotEnvelope {
            peers: self.peers.values().cloned().collect(),
            removed: self.removed.iter().copied().collect(),
            state,
        }
        .encode_to_vec()
    }

    /// Takes in an applied change, whose context names the peer.
    pub(crate) fn apply(&mut self, change: &ConfChangeV2, peer: Option<v1::RaftPeer>, conf: ConfState) {
        for single in change.get_changes() {
            let id = single.node_id;
            if single.get_change_type() == ConfChangeType::RemoveNode {
                self.peers.remove(&id);
                self.removed.insert(id);
            } else if let Some(peer) = peer.as_ref().filter(|peer| peer.raft_id == id) {
                self.peers.insert(id, peer.clone());
            }
        }
        self.conf = conf;
    }

    pub(crate) fn is_voter(&self, id: u64) -> bool {
        self.conf.voters.contains(&id) || self.conf.voters_outgoing.contains(&id)
    }

    pub(crate) fn by_node(&self, node_id: &str) -> Option<&v1::RaftPeer> {
        self.peers.values().find(|peer| peer.node_id == node_id)
    }
}
