//! Reading a log back: the newest snapshot, then every segment in order, judging what does not hold.

use std::collections::VecDeque;
use std::path::{Path, PathBuf};

use skep_proto::v1;

use super::error::LogError;
use super::frame::{Found, HEADER, Header, SEGMENT_MAGIC, read_record};
use super::keys::DataKey;
use super::record::Record;
use super::{Log, LogOptions, Segment, snapshot};
use crate::raft::disk::Disk;

/// A log as found on disk.
pub struct Recovered {
    /// The log, open for writing.
    pub log: Log,
    /// Term, vote and commit index.
    pub hard_state: v1::RaftHardState,
    /// The newest snapshot. A member that waits for the leader's first one has none.
    pub snapshot: Option<v1::RaftSnapshot>,
    /// The entries behind the snapshot, without gaps.
    pub entries: Vec<v1::RaftEntry>,
    /// What was cut off and why, for the daemon's log.
    pub notes: Vec<String>,
}

pub(super) fn segment_path(dir: &Path, sequence: u64) -> PathBuf {
    dir.join(format!("wal-{sequence:016x}.seg"))
}

/// Sequence numbers of the segments in `names`, ascending.
pub(super) fn sequences(names: &[String]) -> Vec<u64> {
    let mut found: Vec<u64> = names
        .iter()
        .filter_map(|name| name.strip_prefix("wal-")?.strip_suffix(".seg"))
        .filter_map(|hex| u64::from_str_radix(hex, 16).ok())
        .collect();
    found.sort_unstable();
    found
}

struct SegmentFile {
    path: PathBuf,
    bytes: Vec<u8>,
    header: Header,
}

fn load(disk: &dyn Disk, dir: &Path, sequence: u64) -> Result<SegmentFile, LogError> {
    let path = segment_path(dir, sequence);
    let bytes = disk.read(&path).map_err(|error| LogError::io("read", &path, error))?;
    let header = Header::decode(SEGMENT_MAGIC, &bytes)
        .filter(|header| header.sequence == sequence)
        .ok_or_else(|| LogError::corrupt(&path, 0, "the segment's header does not hold"))?;
    Ok(SegmentFile { path, bytes, header })
}

/// What the records add up to.
#[derive(Default)]
struct Replay {
    snapshot_index: u64,
    identity: Option<v1::RaftIdentity>,
    hard_state: v1::RaftHardState,
    entries: VecDeque<v1::RaftEntry>,
    mark: u64,
}

impl Replay {
    /// Takes one record in; returns the highest index it speaks of.
    fn take(&mut self, record: Record) -> Result<u64, String> {
        match record {
            Record::Identity(identity) => {
                if self.identity.as_ref().is_some_and(|known| *known != identity) {
                    return Err("the segment belongs to another member's log".into());
                }
                self.identity = Some(identity);
                Ok(0)
            }
            Record::HardState(hard_state) => {
                self.hard_state = hard_state;
                Ok(0)
            }
            Record::Mark(mark) => {
                self.entries.clear();
                self.mark = mark.index;
                Ok(mark.index)
            }
            Record::Entry(entry) => {
                let index = entry.index;
                while self.entries.back().is_some_and(|last| last.index >= index) {
                    self.entries.pop_back();
                }
                let before = self.entries.back().map_or(self.snapshot_index, |last| last.index);
                if index > before + 1 {
                    return Err(format!("entries {} to {} are missing", before + 1, index - 1));
                }
                self.entries.push_back(entry);
                Ok(index)
            }
            _ => Err("a snapshot's record in a segment".into()),
        }
    }
}

pub(super) fn open(options: &LogOptions) -> Result<Recovered, LogError> {
    let (disk, dir) = (options.disk.clone(), options.dir());
    let names = disk.list(&dir).map_err(|_| LogError::Missing { path: options.state_dir.clone() })?;
    let sequences = sequences(&names);
    let snapshots = snapshot::indexes(&names);
    if sequences.is_empty() {
        return Err(match snapshots.last() {
            Some(_) => LogError::corrupt(&dir, 0, "there are snapshots but no log segment"),
            None => LogError::Missing { path: options.state_dir.clone() },
        });
    }
    let key = DataKey::open(disk.as_ref(), &dir, &options.kek(), options.unlock)?;
    let mut notes = Vec::new();
    for name in names.iter().filter(|name| name.ends_with(".tmp")) {
        let path = dir.join(name);
        disk.remove(&path).map_err(|error| LogError::io("remove", &path, error))?;
        notes.push(format!("removed {}, which a crash left half-made", path.display()));
    }
    let snapshot = match snapshots.last() {
        Some(index) => Some(snapshot::read(disk.as_ref(), &dir, &key, *index)?),
        None => None,
    };
    let snapshot_index = snapshot.as_ref().map_or(0, |snapshot| snapshot.index);
    let mut replay = Replay { snapshot_index, ..Replay::default() };
    let segments = read_segments(disk.as_ref(), &dir, &key, &sequences, &mut replay, &mut notes)?;
    let last_path = segment_path(&dir, sequences[sequences.len() - 1]);
    // What was just read may so far be only in the page cache; from here on it counts as written.
    disk.sync_file(&last_path).map_err(|error| LogError::io("sync", &last_path, error))?;
    disk.sync_dir(&dir).map_err(|error| LogError::io("sync", &dir, error))?;
    if replay.mark > snapshot_index {
        let problem = format!("the log restarts behind snapshot {}, which is not there", replay.mark);
        return Err(LogError::corrupt(&dir, 0, problem));
    }
    let entries = entries_behind(snapshot.as_ref(), replay.entries);
    let mut hard_state = replay.hard_state;
    let last = entries.last().map_or(snapshot_index, |entry| entry.index);
    if hard_state.commit > last {
        let problem =
            format!("entries up to {} were committed but the log ends at {last}", hard_state.commit);
        return Err(LogError::corrupt(&last_path, 0, problem));
    }
    hard_state.commit = hard_state.commit.max(snapshot_index);
    let newest = entries.last().map(|entry| entry.term).max(snapshot.as_ref().map(|snapshot| snapshot.term));
    if newest.is_some_and(|term| term > hard_state.term) {
        // A snapshot became durable before the term it came in: no vote can have been given in that term.
        hard_state.term = newest.unwrap_or_default();
        hard_state.vote = 0;
    }
    let identity =
        replay.identity.ok_or_else(|| LogError::corrupt(&last_path, 0, "no record says whose log it is"))?;
    let segment_bytes = options.segment_bytes;
    let log = Log { disk, dir, key, segment_bytes, identity, hard_state, segments, active: None };
    Ok(Recovered { log, hard_state, snapshot, entries, notes })
}

/// The entries that follow the snapshot; none when the log and the snapshot disagree on history.
fn entries_behind(
    snapshot: Option<&v1::RaftSnapshot>,
    entries: VecDeque<v1::RaftEntry>,
) -> Vec<v1::RaftEntry> {
    let Some(snapshot) = snapshot else { return entries.into() };
    let agrees =
        entries.iter().find(|entry| entry.index == snapshot.index).is_none_or(|e| e.term == snapshot.term);
    match agrees {
        true => entries.into_iter().skip_while(|entry| entry.index <= snapshot.index).collect(),
        false => Vec::new(),
    }
}

fn read_segments(
    disk: &dyn Disk,
    dir: &Path,
    key: &DataKey,
    sequences: &[u64],
    replay: &mut Replay,
    notes: &mut Vec<String>,
) -> Result<Vec<Segment>, LogError> {
    let mut segments = Vec::with_capacity(sequences.len());
    let mut current = load(disk, dir, sequences[0])?;
    for (position, sequence) in sequences.iter().enumerate() {
        let next = match sequences.get(position + 1) {
            Some(next) if *next != sequence + 1 => {
                let path = segment_path(dir, sequence + 1);
                return Err(LogError::corrupt(&path, 0, "the segment is missing"));
            }
            Some(next) => Some(load(disk, dir, *next)?),
            None => None,
        };
        let sealed = next.as_ref().map(|next| next.header.previous);
        segments.push(read_segment(key, &mut current, *sequence, sealed, replay, notes)?);
        if let Some(next) = next {
            current = next;
        }
    }
    Ok(segments)
}

fn read_segment(
    key: &DataKey,
    file: &mut SegmentFile,
    sequence: u64,
    sealed: Option<u64>,
    replay: &mut Replay,
    notes: &mut Vec<String>,
) -> Result<Segment, LogError> {
    let corrupt = |at: usize, problem: String| LogError::corrupt(&file.path, at as u64, problem);
    if let Some(length) = sealed {
        if length > file.bytes.len() as u64 {
            return Err(corrupt(
                file.bytes.len(),
                format!("the file is shorter than the {length} bytes written"),
            ));
        }
        file.bytes.truncate(length as usize);
    }
    let cipher = key.for_file(&file.header.salt);
    let (mut at, mut last_index) = (HEADER, 0);
    while at < file.bytes.len() {
        match read_record(&cipher, &file.bytes, at, sealed.is_some()) {
            Found::Record { plain, next } => {
                let record = Record::decode(&plain).map_err(|problem| corrupt(at, problem))?;
                last_index = last_index.max(replay.take(record).map_err(|problem| corrupt(at, problem))?);
                at = next;
            }
            Found::End => break,
            Found::Torn => {
                let path = file.path.display();
                notes.push(format!(
                    "cut {path} at offset {at}: a crash interrupted the last write, never acknowledged"
                ));
                break;
            }
            Found::Damaged(problem) => return Err(corrupt(at, problem)),
        }
    }
    Ok(Segment { sequence, last_index, length: at as u64 })
}
