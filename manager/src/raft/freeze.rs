//! Snapshots of the state machine: when they are taken, and what they make superfluous.

use raft::eraftpb::Snapshot;
use skep_proto::v1;

use super::codec;
use super::core::Core;
use super::log::LogError;
use super::log::writer::Job;

/// A snapshot, and whether it is on disk.
pub(super) type Written = (Snapshot, Result<(), LogError>);

impl Core {
    /// Freezes the state now, and encodes and writes it elsewhere.
    pub(super) fn take_snapshot(&mut self) {
        let Some(term) = self.raw.store().term_of(self.applied).filter(|_| !self.snapshot_running) else {
            return;
        };
        self.snapshot_running = true;
        let (encode, index) = (self.machine.snapshot(), self.applied);
        let (members, snapshots, done) =
            (self.members.clone(), self.snapshots.clone(), self.written.0.clone());
        let timer = self.options.snapshot_timer.clone();
        let write = move || {
            let _timer = timer.as_ref().map(prometheus::Histogram::start_timer);
            let conf_state = Some(codec::conf_state_to_wire(&members.conf));
            let snapshot = v1::RaftSnapshot { data: members.envelope(encode()), conf_state, index, term };
            let result = snapshots.write(&snapshot);
            // The node may have stopped meanwhile; the file is whole all the same.
            let _ = done.send((codec::snapshot_from_wire(snapshot), result));
        };
        if self.options.inline_log {
            write();
        } else {
            drop(tokio::task::spawn_blocking(write));
        }
    }

    pub(super) fn on_snapshot_written(&mut self, (snapshot, result): Written) {
        self.snapshot_running = false;
        let index = snapshot.get_metadata().index;
        if self.snapshot_wanted > 0 {
            self.raw.mut_store().set_outgoing(Some(snapshot));
        }
        match result {
            Ok(()) if index >= self.snapshot_index => {
                self.snapshot_index = index;
                self.raw.mut_store().compact(index.saturating_sub(self.options.trailing));
                let (number, keep) = (self.last_number, (self.options.keep_snapshots)());
                self.writer.submit(Job { number, compact: Some(index), keep, ..Job::default() });
            }
            Ok(()) => {}
            Err(error) => {
                // Tried again after another interval; the log goes on growing meanwhile.
                self.snapshot_index = index;
                tracing::error!(%error, "could not write a raft snapshot");
            }
        }
    }
}
