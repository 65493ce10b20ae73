//! The raft log on disk: encrypted segment files, one sync a batch, and snapshots.
//!
//! A write that fails never leaves the log in doubt: the segment it went to is given up at its last durable
//! offset, and the next write begins a new one, whose header says where the old one ends.

mod error;
mod frame;
mod kek;
mod keys;
mod record;
mod recover;
mod snapshot;
pub(crate) mod writer;

#[cfg(test)]
mod crash_tests;
#[cfg(test)]
mod sim_disk;

use std::path::{Path, PathBuf};
use std::sync::Arc;

use skep_proto::v1;

pub use error::LogError;
pub use kek::{Kept, KeyFile};
pub use keys::Key;
pub use record::Record;
pub use recover::Recovered;

use super::disk::{Disk, DiskFile};
use frame::{HEADER, Header, SEGMENT_MAGIC, encode_record, record_size};
use keys::{DataKey, FileCipher, random};

/// Where the log lies and how.
#[derive(Clone)]
pub struct LogOptions {
    /// The manager's state directory: `kek` in it, the log in `raft/` below it.
    pub state_dir: PathBuf,
    /// The file layer.
    pub disk: Arc<dyn Disk>,
    /// Size segments are made with.
    pub segment_bytes: u64,
    /// The key-encrypting key, when autolock has it sealed on this machine.
    pub unlock: Option<Key>,
}

impl LogOptions {
    /// A log on the host's disk with the usual segment size, unlocked by the key file.
    pub fn new(state_dir: impl Into<PathBuf>) -> Self {
        let disk = Arc::new(super::disk::RealDisk);
        Self { state_dir: state_dir.into(), disk, segment_bytes: 8 << 20, unlock: None }
    }

    fn dir(&self) -> PathBuf {
        self.state_dir.join("raft")
    }

    fn kek(&self) -> KeyFile {
        KeyFile::new(self.disk.clone(), &self.state_dir)
    }
}

/// A segment on disk.
#[derive(Debug, Clone, Copy)]
struct Segment {
    sequence: u64,
    /// The highest entry (or mark) in it.
    last_index: u64,
    /// Where the next segment's header says that it ends.
    length: u64,
}

struct Active {
    path: PathBuf,
    file: Box<dyn DiskFile>,
    cipher: FileCipher,
    size: u64,
    written: u64,
    durable: u64,
}

/// The log, open for writing.
pub struct Log {
    disk: Arc<dyn Disk>,
    dir: PathBuf,
    key: DataKey,
    segment_bytes: u64,
    identity: v1::RaftIdentity,
    hard_state: v1::RaftHardState,
    /// Oldest first; the last is the one that `active` writes, when it is there.
    segments: Vec<Segment>,
    active: Option<Active>,
}

/// Writes and removes snapshot files beside a log that goes on being written.
#[derive(Clone)]
pub(crate) struct Snapshots {
    disk: Arc<dyn Disk>,
    dir: PathBuf,
    key: DataKey,
}

impl Snapshots {
    /// Writes a snapshot durably.
    pub(crate) fn write(&self, snapshot: &v1::RaftSnapshot) -> Result<(), LogError> {
        snapshot::write(self.disk.as_ref(), &self.dir, &self.key, snapshot)
    }

    /// Removes those older than `index`, but for the newest `keep` of them.
    pub(crate) fn remove_before(&self, index: u64, keep: u64) -> Result<(), LogError> {
        snapshot::remove_before(self.disk.as_ref(), &self.dir, index, keep)
    }
}

impl Log {
    /// Whether there is a log in the state directory.
    pub fn exists(options: &LogOptions) -> bool {
        options.disk.list(&options.dir()).is_ok_and(|names| !recover::sequences(&names).is_empty())
    }

    /// Begins a log for a new member. With a snapshot it is a member from the start; without, it waits for
    /// the leader's.
    pub fn create(
        options: &LogOptions,
        identity: v1::RaftIdentity,
        snapshot: Option<&v1::RaftSnapshot>,
    ) -> Result<Self, LogError> {
        if Self::exists(options) {
            return Err(LogError::Exists { path: options.dir() });
        }
        let (disk, dir) = (options.disk.clone(), options.dir());
        disk.make_dir(&dir).map_err(|error| LogError::io("make", &dir, error))?;
        let key = DataKey::open(disk.as_ref(), &dir, &options.kek(), options.unlock)?;
        let segment_bytes = options.segment_bytes;
        let hard_state = snapshot
            .map(|snapshot| v1::RaftHardState { term: snapshot.term, vote: 0, commit: snapshot.index })
            .unwrap_or_default();
        let (segments, active) = (Vec::new(), None);
        let mut log = Self { disk, dir, key, segment_bytes, identity, hard_state, segments, active };
        if let Some(snapshot) = snapshot {
            log.snapshots().write(snapshot)?;
        }
        // The segment comes last: a log without one does not exist yet, and creating starts over.
        log.append(&[Record::HardState(hard_state)], true)?;
        log.disk
            .sync_dir(&options.state_dir)
            .map_err(|error| LogError::io("sync", &options.state_dir, error))?;
        Ok(log)
    }

    /// Opens the log of a member and reads it back.
    pub fn open(options: &LogOptions) -> Result<Recovered, LogError> {
        recover::open(options)
    }

    /// What writes this log's snapshots.
    pub(crate) fn snapshots(&self) -> Snapshots {
        Snapshots { disk: self.disk.clone(), dir: self.dir.clone(), key: self.key.clone() }
    }

    /// Whose log this is.
    pub fn identity(&self) -> &v1::RaftIdentity {
        &self.identity
    }

    /// Appends records as one write, and makes them durable when `sync` says so.
    pub fn append(&mut self, records: &[Record], sync: bool) -> Result<(), LogError> {
        let plain: Vec<Vec<u8>> = records.iter().map(Record::encode).collect();
        let size: usize = plain.iter().map(|record| record_size(record.len())).sum();
        let fits = self.active.as_ref().is_some_and(|active| active.written + size as u64 <= active.size);
        if !fits {
            self.roll(size as u64)?;
        }
        let result = self.write(plain, size, sync);
        if result.is_err() {
            self.give_up();
            return result;
        }
        for record in records {
            let index = match record {
                Record::Entry(entry) => entry.index,
                Record::Mark(mark) => mark.index,
                Record::HardState(hard_state) => {
                    self.hard_state = *hard_state;
                    0
                }
                _ => 0,
            };
            if let Some(segment) = self.segments.last_mut() {
                segment.last_index = segment.last_index.max(index);
            }
        }
        Ok(())
    }

    fn write(&mut self, plain: Vec<Vec<u8>>, size: usize, sync: bool) -> Result<(), LogError> {
        let active = self.active.as_mut().expect("append has just made sure of an active segment");
        let mut bytes = Vec::with_capacity(size);
        for record in plain {
            let offset = active.written + bytes.len() as u64;
            encode_record(&active.cipher, offset, active.durable, record, &mut bytes);
        }
        active
            .file
            .write_at(active.written, &bytes)
            .map_err(|error| LogError::io("write", &active.path, error))?;
        active.written += bytes.len() as u64;
        if sync {
            active.file.sync().map_err(|error| LogError::io("sync", &active.path, error))?;
            active.durable = active.written;
        }
        Ok(())
    }

    /// Leaves the active segment at its last durable byte.
    fn give_up(&mut self) {
        if let (Some(active), Some(segment)) = (self.active.take(), self.segments.last_mut()) {
            segment.length = active.durable;
        }
    }

    /// Seals the active segment and begins another with room for `need` bytes of records.
    fn roll(&mut self, need: u64) -> Result<(), LogError> {
        if let (Some(active), Some(segment)) = (&mut self.active, self.segments.last_mut()) {
            if active.durable < active.written {
                if let Err(error) = active.file.sync() {
                    let failure = LogError::io("sync", &active.path, error);
                    self.give_up();
                    return Err(failure);
                }
                active.durable = active.written;
            }
            segment.length = active.durable;
        }
        let previous = self.segments.last().copied();
        let sequence = previous.map_or(1, |segment| segment.sequence + 1);
        let path = recover::segment_path(&self.dir, sequence);
        let header =
            Header { sequence, previous: previous.map_or(0, |segment| segment.length), salt: random()? };
        let cipher = self.key.for_file(&header.salt);
        let mut bytes = header.encode(SEGMENT_MAGIC).to_vec();
        for record in [Record::Identity(self.identity.clone()), Record::HardState(self.hard_state)] {
            encode_record(&cipher, bytes.len() as u64, HEADER as u64, record.encode(), &mut bytes);
        }
        let written = bytes.len() as u64;
        let size = self.segment_bytes.max(written + need);
        let file = self.make_segment(&path, size, &bytes)?;
        self.segments.push(Segment { sequence, last_index: 0, length: written });
        self.active = Some(Active { path, file, cipher, size, written, durable: written });
        Ok(())
    }

    fn make_segment(&self, path: &Path, size: u64, bytes: &[u8]) -> Result<Box<dyn DiskFile>, LogError> {
        let temporary = path.with_extension("tmp");
        let io = |operation| move |error| LogError::io(operation, path, error);
        let make = || {
            let mut file = self.disk.create(&temporary, size).map_err(io("create"))?;
            file.write_at(0, bytes).map_err(io("write"))?;
            file.sync().map_err(io("sync"))?;
            self.disk.rename(&temporary, path).map_err(io("rename"))?;
            Ok(file)
        };
        let file = make().inspect_err(|_| {
            // The half-made file gives its room back; the first error is the one that matters.
            let _ = self.disk.remove(&temporary);
        })?;
        self.disk.sync_dir(&self.dir).map_err(|error| LogError::io("sync", &self.dir, error))?;
        Ok(file)
    }

    /// Removes the segments that a durable snapshot at `index` makes superfluous.
    pub fn compact(&mut self, index: u64) -> Result<(), LogError> {
        while self.segments.len() > 1 && self.segments[0].last_index <= index {
            let path = recover::segment_path(&self.dir, self.segments[0].sequence);
            self.disk.remove(&path).map_err(|error| LogError::io("remove", &path, error))?;
            self.segments.remove(0);
        }
        Ok(())
    }
}
