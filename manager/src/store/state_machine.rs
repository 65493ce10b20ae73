//! The store as the state machine raft drives.

use prost::Message;
use skep_proto::v1;

use super::Store;
use crate::raft::state_machine::{Encode, Rejected, StateMachine};

impl StateMachine for Store {
    fn apply(&self, index: u64, batch: &v1::Batch) -> Result<(), Rejected> {
        Store::apply(self, index, batch.clone()).map(drop).map_err(|stale| Rejected(stale.to_string()))
    }

    fn snapshot(&self) -> Encode {
        let view = self.view();
        Box::new(move || view.snapshot().encode_to_vec())
    }

    fn restore(&self, index: u64, bytes: &[u8]) -> Result<(), String> {
        let mut snapshot =
            v1::Snapshot::decode(bytes).map_err(|e| format!("decode snapshot at {index}: {e}"))?;
        // Entries without changes may follow the last batch: those too are part of the snapshot.
        snapshot.index = snapshot.index.min(index);
        Store::restore(self, snapshot);
        Ok(())
    }
}
