//! Snapshot files: written to a new name, synced, renamed, and only then do older files go (those
//! the swarm does not want kept).

use std::io;
use std::path::{Path, PathBuf};

use skep_proto::v1;

use super::error::LogError;
use super::frame::{Found, HEADER, Header, SNAPSHOT_MAGIC, encode_record, read_record};
use super::keys::{DataKey, random};
use super::record::Record;
use crate::raft::disk::Disk;

const CHUNK: usize = 1 << 20;
const SUFFIX: &str = ".snap";

fn path_of(dir: &Path, index: u64) -> PathBuf {
    dir.join(format!("snap-{index:016x}{SUFFIX}"))
}

/// Indexes of the snapshot files in `names`, ascending.
pub(super) fn indexes(names: &[String]) -> Vec<u64> {
    let mut found: Vec<u64> = names
        .iter()
        .filter_map(|name| name.strip_prefix("snap-")?.strip_suffix(SUFFIX))
        .filter_map(|hex| u64::from_str_radix(hex, 16).ok())
        .collect();
    found.sort_unstable();
    found
}

/// Writes a snapshot durably. A crash leaves either no file of that name or the whole of it.
pub(super) fn write(
    disk: &dyn Disk,
    dir: &Path,
    key: &DataKey,
    snapshot: &v1::RaftSnapshot,
) -> Result<(), LogError> {
    let path = path_of(dir, snapshot.index);
    let temporary = path.with_extension("tmp");
    let result = write_file(disk, &temporary, key, snapshot);
    if result.is_err() {
        // The half-made file gives its room back; the write's own error is the one that matters.
        let _ = disk.remove(&temporary);
        return result;
    }
    disk.rename(&temporary, &path).map_err(|error| LogError::io("rename", &path, error))?;
    disk.sync_dir(dir).map_err(|error| LogError::io("sync", dir, error))
}

fn write_file(
    disk: &dyn Disk,
    path: &Path,
    key: &DataKey,
    snapshot: &v1::RaftSnapshot,
) -> Result<(), LogError> {
    let io = |operation| move |error| LogError::io(operation, path, error);
    let header = Header { sequence: snapshot.index, previous: 0, salt: random()? };
    let cipher = key.for_file(&header.salt);
    let mut file = disk.create(path, 0).map_err(io("create"))?;
    file.write_at(0, &header.encode(SNAPSHOT_MAGIC)).map_err(io("write"))?;
    let mut offset = HEADER as u64;
    let head = v1::RaftSnapshot {
        data: Vec::new(),
        conf_state: snapshot.conf_state.clone(),
        index: snapshot.index,
        term: snapshot.term,
    };
    let chunks = snapshot.data.chunks(CHUNK).map(|chunk| Record::SnapshotChunk(chunk.to_vec()));
    let end = Record::SnapshotEnd(snapshot.data.len() as u64);
    for record in std::iter::once(Record::SnapshotHead(head)).chain(chunks).chain([end]) {
        let mut bytes = Vec::new();
        encode_record(&cipher, offset, 0, record.encode(), &mut bytes);
        file.write_at(offset, &bytes).map_err(io("write"))?;
        offset += bytes.len() as u64;
    }
    file.sync().map_err(io("sync"))
}

/// Reads the snapshot taken at `index`.
pub(super) fn read(
    disk: &dyn Disk,
    dir: &Path,
    key: &DataKey,
    index: u64,
) -> Result<v1::RaftSnapshot, LogError> {
    let path = path_of(dir, index);
    let bytes = disk.read(&path).map_err(|error| LogError::io("read", &path, error))?;
    let header = Header::decode(SNAPSHOT_MAGIC, &bytes)
        .filter(|header| header.sequence == index)
        .ok_or_else(|| LogError::corrupt(&path, 0, "the snapshot's header does not hold"))?;
    let cipher = key.for_file(&header.salt);
    let mut snapshot: Option<v1::RaftSnapshot> = None;
    let mut at = HEADER;
    loop {
        let corrupt = |problem: String| LogError::corrupt(&path, at as u64, problem);
        let (record, next) = match read_record(&cipher, &bytes, at, true) {
            Found::Record { plain, next } => (Record::decode(&plain).map_err(corrupt)?, next),
            Found::Damaged(problem) => return Err(corrupt(problem)),
            Found::End | Found::Torn => return Err(corrupt("the snapshot is cut short".into())),
        };
        match (record, &mut snapshot) {
            (Record::SnapshotHead(head), None) => snapshot = Some(head),
            (Record::SnapshotChunk(chunk), Some(whole)) => whole.data.extend_from_slice(&chunk),
            (Record::SnapshotEnd(length), Some(whole)) if whole.data.len() as u64 == length => break,
            _ => return Err(corrupt("the snapshot's records are out of order".into())),
        }
        at = next;
    }
    snapshot.ok_or_else(|| LogError::corrupt(&path, 0, "the snapshot is empty"))
}

/// Removes the snapshots older than `index`, but for the newest `keep` of them.
pub(super) fn remove_before(disk: &dyn Disk, dir: &Path, index: u64, keep: u64) -> Result<(), LogError> {
    let names = disk.list(dir).map_err(|error| LogError::io("list", dir, error))?;
    let keep = usize::try_from(keep).unwrap_or(usize::MAX);
    for old in indexes(&names).into_iter().rev().filter(|old| *old < index).skip(keep) {
        let path = path_of(dir, old);
        match disk.remove(&path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                return Err(LogError::io("remove", &path, error));
            }
            _ => {}
        }
    }
    Ok(())
}
