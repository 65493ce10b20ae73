//! What raft-rs has ready, carried out in the order that makes it correct: a follower's answers and a candidate's
//! votes leave only once what they promise is on disk; a leader's appends leave at once, beside its own write.

use std::collections::BTreeMap;

use prost::Message as _;
use raft::eraftpb::{Entry, EntryType, Message, Snapshot};
use skep_proto::v1;

use super::codec;
use super::core::Core;
use super::error::ProposeError;
use super::log::Record;
use super::log::writer::Job;
use super::members::Members;

/// A Ready that is not yet on disk.
pub(super) struct Unpersisted {
    number: u64,
    messages: Vec<Message>,
    /// It carried nothing to write, and only waits for those before it.
    empty: bool,
    /// The snapshot it installed.
    installed: Option<u64>,
}

impl Core {
    /// Lets go of what waited for the disk.
    pub(super) fn persisted(&mut self, number: u64) {
        while let Some(ready) = self.unpersisted.pop_front_if(|ready| ready.number <= number || ready.empty) {
            self.raw.on_persist_ready(ready.number);
            if let Some(index) = ready.installed {
                self.raw.advance_apply_to(index);
            }
            self.send(ready.messages);
        }
    }

    /// Handles everything raft has ready.
    pub(super) fn drive(&mut self) {
        while self.failure.is_none() && self.raw.has_ready() {
            let mut ready = self.raw.ready();
            let number = ready.number();
            self.last_number = number;
            self.send(ready.take_messages());
            self.reads.confirmed(ready.take_read_states());
            let mut job = Job { number, sync: ready.must_sync(), ..Job::default() };
            let installed = (!ready.snapshot().is_empty()).then(|| ready.snapshot().clone());
            if let Some(snapshot) = &installed {
                self.install(snapshot, &mut job);
            }
            if !ready.entries().is_empty() {
                self.raw.mut_store().append(ready.entries());
                job.records
                    .extend(ready.entries().iter().map(|entry| Record::Entry(codec::entry_to_wire(entry))));
            }
            if let Some(hard_state) = ready.hs() {
                self.raw.mut_store().set_hard_state(hard_state.clone());
                self.deferred = Some(codec::hard_state_to_wire(hard_state));
            }
            if job.sync {
                job.records.extend(self.deferred.take().map(Record::HardState));
            }
            let messages = ready.take_persisted_messages();
            let committed = ready.take_committed_entries();
            let installed = installed.map(|snapshot| snapshot.get_metadata().index);
            self.raw.advance_append_async(ready);
            let empty = job.records.is_empty() && job.install.is_none();
            self.unpersisted.push_back(Unpersisted { number, messages, empty, installed });
            if empty {
                self.persisted(0);
            } else {
                self.writer.submit(job);
            }
            self.apply(committed);
        }
        if self.raw.store().take_wanted() {
            self.snapshot_wanted = 100;
            self.take_snapshot();
        }
        if self.applied >= self.snapshot_index.saturating_add((self.options.snapshot_interval)()) {
            self.take_snapshot();
        }
    }

    fn install(&mut self, snapshot: &Snapshot, job: &mut Job) {
        let meta = snapshot.get_metadata();
        let restored = v1::RaftSnapshotEnvelope::decode(snapshot.data.as_ref())
            .map_err(|error| error.to_string())
            .and_then(|envelope| self.machine.restore(meta.index, &envelope.state).map(|()| envelope));
        let envelope = match restored {
            Ok(envelope) => envelope,
            Err(error) => {
                self.failure =
                    Some(format!("cannot restore the leader's snapshot at {}: {error}", meta.index));
                return;
            }
        };
        self.members = Members::from_envelope(&envelope, meta.get_conf_state().clone());
        self.raw.mut_store().install(snapshot);
        job.install = Some(codec::snapshot_to_wire(snapshot));
        job.records.push(Record::Mark(v1::RaftLogMark { index: meta.index, term: meta.term }));
        job.compact = Some(meta.index);
        job.keep = (self.options.keep_snapshots)();
        self.snapshot_index = meta.index;
        let behind = self.waiters.split_off(&(meta.index + 1));
        for (_, (_, waiter)) in std::mem::replace(&mut self.waiters, behind) {
            waiter.fail(ProposeError::Unknown {
                reason: "this manager fell behind and took a snapshot".into(),
            });
        }
        self.advance(meta.index);
    }

    fn send(&mut self, messages: Vec<Message>) {
        let mut by_peer: BTreeMap<u64, Vec<v1::RaftMessage>> = BTreeMap::new();
        for message in messages {
            let to = message.to;
            by_peer.entry(to).or_default().push(codec::message_to_wire(message, &self.identity.cluster_id));
        }
        for (to, messages) in by_peer {
            match self.peer(to) {
                Some(peer) => self.transport.send(&peer, messages, &self.reports),
                None => tracing::debug!(to, "no address for a raft peer"),
            }
        }
    }

    fn apply(&mut self, entries: Vec<Entry>) {
        let Some(last) = entries.last().map(|entry| entry.index) else { return };
        for entry in entries {
            let verdict = match entry.get_entry_type() {
                EntryType::EntryNormal if entry.data.is_empty() => Ok(()),
                EntryType::EntryNormal => self.apply_batch(&entry),
                EntryType::EntryConfChange | EntryType::EntryConfChangeV2 => self.apply_membership(&entry),
            };
            if let Some((term, waiter)) = self.waiters.remove(&entry.index) {
                if term == entry.term {
                    waiter.done(entry.index, verdict);
                } else {
                    // Another leader's entry took its place: the proposal was never committed.
                    waiter.fail(ProposeError::NotLeader { leader: self.leader() });
                }
            }
        }
        self.advance(last);
        self.raw.advance_apply_to(last);
    }

    fn advance(&mut self, index: u64) {
        self.applied = index;
        self.applied_seen.send_replace(index);
        self.reads.applied(index);
    }

    fn apply_batch(&mut self, entry: &Entry) -> Result<(), ProposeError> {
        let batch = v1::Batch::decode(entry.data.as_ref()).map_err(|error| {
            tracing::error!(index = entry.index, %error, "skipped an entry that is no batch");
            ProposeError::Rejected(format!("the entry is no batch: {error}"))
        })?;
        self.machine.apply(entry.index, &batch).map_err(|rejected| ProposeError::Rejected(rejected.0))
    }

    fn apply_membership(&mut self, entry: &Entry) -> Result<(), ProposeError> {
        let refused = |problem: String| {
            tracing::error!(index = entry.index, %problem, "skipped a change of the managers");
            ProposeError::Rejected(problem)
        };
        let (change, peer) = codec::conf_change_from_data(&entry.data).map_err(|error| refused(error.0))?;
        let conf = self.raw.apply_conf_change(&change).map_err(|error| refused(error.to_string()))?;
        if let Some(peer) = &peer {
            self.moved.remove(&peer.raft_id);
        }
        self.members.apply(&change, peer, conf);
        if self.members.removed.contains(&self.identity.raft_id) {
            self.removed = true;
        }
        // Who waits for the change finds it in the status.
        self.publish();
        Ok(())
    }
}
