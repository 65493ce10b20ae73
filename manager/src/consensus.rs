//! What the services of a manager need to know of raft and ask of it.

use async_trait::async_trait;
use skep_proto::v1;
use tokio::sync::watch;

/// The leader as this manager knows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Leader {
    /// Its node.
    pub node_id: String,
    /// Where it listens (host:port).
    pub addr: String,
}

/// A member of the raft group.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Member {
    /// Which manager.
    pub peer: v1::RaftPeer,
    /// Votes already (a learner does not).
    pub voter: bool,
    /// Heard of lately. Only the leader knows of others than itself.
    pub reachable: bool,
}

/// Why raft did not do what was asked.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{operation}: {reason}")]
pub struct ConsensusError {
    /// What was asked.
    pub operation: &'static str,
    /// Why it failed.
    pub reason: String,
}

/// The raft node of this manager.
#[async_trait]
pub trait Consensus: Send + Sync + 'static {
    /// The leader, as it changes.
    fn leader(&self) -> watch::Receiver<Option<Leader>>;
    /// The present members.
    fn members(&self) -> Vec<Member>;
    /// An index that includes every write acknowledged before the call, confirmed by a quorum.
    async fn read_index(&self) -> Result<u64, ConsensusError>;
    /// On the leader: takes a manager out of the group.
    async fn remove_member(&self, node_id: &str) -> Result<(), ConsensusError>;
    /// On the leader: hands the office to another up-to-date voter.
    async fn transfer_leadership(&self) -> Result<(), ConsensusError>;
}
