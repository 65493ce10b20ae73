//! raft-rs's view of the log: the entries behind the last snapshot, in memory. Durability is the writer's.

use std::cell::Cell;
use std::collections::VecDeque;

use raft::eraftpb::{ConfState, Entry, HardState, Snapshot};
use raft::{GetEntriesContext, RaftState, Result, Storage, StorageError};

/// The log in memory.
pub(crate) struct MemoryLog {
    hard_state: HardState,
    conf_state: ConfState,
    /// Index and term of what precedes the first entry.
    base: (u64, u64),
    entries: VecDeque<Entry>,
    /// A snapshot kept for followers that need one.
    outgoing: Option<Snapshot>,
    /// Set when a follower needs a snapshot and there is none.
    wanted: Cell<bool>,
}

impl MemoryLog {
    /// A log whose first entry follows `base`; `conf_state` is the membership at that point.
    pub(crate) fn new(
        hard_state: HardState,
        conf_state: ConfState,
        base: (u64, u64),
        entries: Vec<Entry>,
    ) -> Self {
        Self {
            hard_state,
            conf_state,
            base,
            entries: entries.into(),
            outgoing: None,
            wanted: Cell::new(false),
        }
    }

    pub(crate) fn set_hard_state(&mut self, hard_state: HardState) {
        self.hard_state = hard_state;
    }

    pub(crate) fn last(&self) -> u64 {
        self.base.0 + self.entries.len() as u64
    }

    pub(crate) fn term_of(&self, index: u64) -> Option<u64> {
        match index.checked_sub(self.base.0)? {
            0 => Some(self.base.1),
            offset => self.entries.get(offset as usize - 1).map(|entry| entry.term),
        }
    }

    /// Takes entries in, replacing those of the same indexes and all behind them.
    pub(crate) fn append(&mut self, entries: &[Entry]) {
        let Some(first) = entries.first() else { return };
        let keep = first.index.saturating_sub(self.base.0 + 1) as usize;
        self.entries.truncate(keep);
        self.entries.extend(entries.iter().cloned());
    }

    /// Starts over behind a snapshot from the leader.
    pub(crate) fn install(&mut self, snapshot: &Snapshot) {
        let meta = snapshot.get_metadata();
        self.base = (meta.index, meta.term);
        self.entries.clear();
        self.conf_state = meta.get_conf_state().clone();
        self.hard_state.commit = self.hard_state.commit.max(meta.index);
        self.hard_state.term = self.hard_state.term.max(meta.term);
        self.outgoing = None;
    }

    /// Forgets the entries up to `index`.
    pub(crate) fn compact(&mut self, index: u64) {
        let Some(term) = self.term_of(index) else { return };
        let gone = (index - self.base.0) as usize;
        self.entries.drain(..gone);
        self.base = (index, term);
    }

    /// Whether a follower asked for a snapshot since the last call.
    pub(crate) fn take_wanted(&self) -> bool {
        self.wanted.take()
    }

    /// Keeps a snapshot for the followers that asked, or lets go of it.
    pub(crate) fn set_outgoing(&mut self, snapshot: Option<Snapshot>) {
        self.outgoing = snapshot;
    }
}

impl Storage for MemoryLog {
    fn initial_state(&self) -> Result<RaftState> {
        Ok(RaftState::new(self.hard_state.clone(), self.conf_state.clone()))
    }

    fn entries(
        &self,
        low: u64,
        high: u64,
        max_size: impl Into<Option<u64>>,
        _context: GetEntriesContext,
    ) -> Result<Vec<Entry>> {
        if low <= self.base.0 {
            return Err(StorageError::Compacted.into());
        }
        if high > self.last() + 1 {
            return Err(StorageError::Unavailable.into());
        }
        let from = (low - self.base.0 - 1) as usize;
        let count = high.saturating_sub(low) as usize;
        let mut entries: Vec<Entry> = self.entries.iter().skip(from).take(count).cloned().collect();
        raft::util::limit_size(&mut entries, max_size.into());
        Ok(entries)
    }

    fn term(&self, index: u64) -> Result<u64> {
        if index < self.base.0 {
            return Err(StorageError::Compacted.into());
        }
        self.term_of(index).ok_or_else(|| StorageError::Unavailable.into())
    }

    fn first_index(&self) -> Result<u64> {
        Ok(self.base.0 + 1)
    }

    fn last_index(&self) -> Result<u64> {
        Ok(self.last())
    }

    fn snapshot(&self, request_index: u64, to: u64) -> Result<Snapshot> {
        // A member that joined after the kept snapshot was made would refuse it: it is not in there.
        let fits = |snapshot: &&Snapshot| {
            let metadata = snapshot.get_metadata();
            let members = metadata.get_conf_state();
            let index = metadata.index;
            index >= request_index
                && index >= self.base.0
                && [&members.voters, &members.learners, &members.voters_outgoing, &members.learners_next]
                    .iter()
                    .any(|ids| ids.contains(&to))
        };
        match self.outgoing.as_ref().filter(fits) {
            Some(snapshot) => Ok(snapshot.clone()),
            None => {
                self.wanted.set(true);
                Err(StorageError::SnapshotTemporarilyUnavailable.into())
            }
        }
    }
}
