//! The key that a manager's keys on disk are sealed with, in a file `kek` of its own: readable, or, with autolock,
//! sealed by the swarm's unlock key.
//!
//! The file is replaced whole, and nothing else changes with the unlock key: a crash leaves what either the old or
//! the new key opens.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use skep_identity::UnlockKey;

use super::error::LogError;
use super::keys::{Key, random};
use crate::raft::disk::{Disk, replace};

const MAGIC: &[u8; 8] = b"SKEPKEK1";
// No flipped bit makes one of the other.
const READABLE: u8 = b'r';
const SEALED: u8 = b'L';
/// Magic, kind, version of the cluster object it was written for.
const HEADER: usize = 8 + 1 + 8;

/// The file. Cheap to clone.
#[derive(Clone)]
pub struct KeyFile {
    disk: Arc<dyn Disk>,
    path: PathBuf,
}

/// What the file holds.
pub struct Kept {
    path: PathBuf,
    /// Version of the cluster object whose unlock key this follows; 0 from before there was one.
    pub version: u64,
    content: Content,
}

enum Content {
    Readable(Key),
    Sealed { header: Vec<u8>, sealed: Vec<u8> },
}

impl KeyFile {
    /// The file of the manager with this state directory.
    pub fn new(disk: Arc<dyn Disk>, state_dir: &Path) -> Self {
        Self { disk, path: state_dir.join("kek") }
    }

    /// Where it lies.
    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// What is in it; none when it is not there.
    pub fn read(&self) -> Result<Option<Kept>, LogError> {
        let bytes = match self.disk.read(&self.path) {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(LogError::io("read", &self.path, error)),
        };
        let (version, content) =
            parse(&bytes).ok_or_else(|| LogError::WrongKey { path: self.path.clone() })?;
        Ok(Some(Kept { path: self.path.clone(), version, content }))
    }

    /// A new key, in a new file.
    pub fn create(&self, lock: Option<&UnlockKey>) -> Result<Key, LogError> {
        if let Some(dir) = self.path.parent() {
            self.disk.make_dir(dir).map_err(|error| LogError::io("make", dir, error))?;
        }
        let key = random()?;
        self.write(&key, 0, lock)?;
        Ok(key)
    }

    /// Keeps `key`, sealed by the unlock key or, without one, readable.
    pub fn write(&self, key: &Key, version: u64, lock: Option<&UnlockKey>) -> Result<(), LogError> {
        let kind = if lock.is_some() { SEALED } else { READABLE };
        let header = [MAGIC.as_slice(), &[kind], &version.to_be_bytes()].concat();
        let body = match lock {
            None => key.to_vec(),
            Some(lock) => lock.seal(key, &header).ok_or_else(|| {
                LogError::io("read random bytes for", &self.path, io::Error::other("the kernel gave none"))
            })?,
        };
        replace(self.disk.as_ref(), &self.path, &[header, body].concat())
            .map_err(|error| LogError::io("write", &self.path, error))
    }
}

fn parse(bytes: &[u8]) -> Option<(u64, Content)> {
    let (header, body) = bytes.split_at_checked(HEADER)?;
    let rest = header.strip_prefix(MAGIC.as_slice())?;
    let version = u64::from_be_bytes(rest[1..].try_into().ok()?);
    let content = match rest[0] {
        READABLE => Content::Readable(body.try_into().ok()?),
        SEALED => Content::Sealed { header: header.to_vec(), sealed: body.to_vec() },
        _ => return None,
    };
    Some((version, content))
}

impl Kept {
    /// Whether it takes the unlock key to read it.
    pub fn is_sealed(&self) -> bool {
        matches!(self.content, Content::Sealed { .. })
    }

    /// The key, when it is readable or when `unlock` opens it.
    pub fn open(&self, unlock: Option<&UnlockKey>) -> Result<Key, LogError> {
        match (&self.content, unlock) {
            (Content::Readable(key), _) => Ok(*key),
            (Content::Sealed { .. }, None) => Err(LogError::Locked { path: self.path.clone() }),
            (Content::Sealed { header, sealed }, Some(unlock)) => {
                unlock.open(sealed, header).ok_or(LogError::WrongUnlockKey)
            }
        }
    }

    /// Whether it is kept as it should be with this unlock key, or with none.
    pub fn is_as(&self, lock: Option<&UnlockKey>) -> bool {
        match lock {
            None => !self.is_sealed(),
            Some(lock) => self.is_sealed() && self.open(Some(lock)).is_ok(),
        }
    }
}
