//! What raft drives: the replicated store, seen as a state machine.

use skep_proto::v1;

/// A batch whose precondition failed (a stale version, an object that is gone): none of it was applied.
///
/// Every replica comes to the same verdict, so this is an answer, not a failure.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct Rejected(pub String);

/// Encodes a frozen state, off the raft loop.
pub type Encode = Box<dyn FnOnce() -> Vec<u8> + Send>;

/// The state that raft replicates. `apply` must be deterministic: same batches, same state.
pub trait StateMachine: Send + Sync + 'static {
    /// Applies one committed batch, wholly or not at all. Called in index order, never concurrently.
    fn apply(&self, index: u64, batch: &v1::Batch) -> Result<(), Rejected>;

    /// Freezes the current state (cheaply: a view) and returns what encodes it later on another thread.
    fn snapshot(&self) -> Encode;

    /// Replaces the whole state with an encoded snapshot taken at `index`. An error leaves the old state.
    fn restore(&self, index: u64, bytes: &[u8]) -> Result<(), String>;
}
