//! What can go wrong with the log, each with what to do about it.

use std::io;
use std::path::{Path, PathBuf};

/// An error of the raft log or of its keys.
#[derive(Debug, thiserror::Error)]
pub enum LogError {
    /// The filesystem under the log has no room.
    #[error(
        "the disk under the raft log is full (writing {path}): free space there, writing goes on by itself"
    )]
    DiskFull {
        /// The file that could not grow.
        path: PathBuf,
    },
    /// The kernel refused an operation.
    #[error("cannot {operation} {path}: {source}")]
    Io {
        /// What was attempted.
        operation: &'static str,
        /// On which file.
        path: PathBuf,
        /// The kernel's answer.
        source: io::Error,
    },
    /// Acknowledged bytes are not what was written.
    #[error(
        "the raft log is damaged: {path} at offset {offset}: {problem}. Nothing was discarded. Remedy: remove this \
         manager from the swarm (on another manager: `skep node demote` and `skep node rm` it), delete its state \
         directory and join again"
    )]
    Corrupt {
        /// The damaged file.
        path: PathBuf,
        /// Where in it.
        offset: u64,
        /// What was found.
        problem: String,
    },
    /// The key that unlocks the log is not on this machine.
    #[error(
        "the raft log is locked: {path} is sealed or missing; unlock this manager with the swarm's unlock key"
    )]
    Locked {
        /// Where the key is looked for.
        path: PathBuf,
    },
    /// An unlock key that is not the one the keys are sealed by.
    #[error("swarm could not be unlocked: invalid key provided")]
    WrongUnlockKey,
    /// A key that does not fit.
    #[error(
        "the key in {path} does not open the raft log's data key: it belongs to another log, or is damaged"
    )]
    WrongKey {
        /// The key file.
        path: PathBuf,
    },
    /// There is no log where one was expected.
    #[error("no raft log in {path}: this node has not been a manager (use `swarm init` or `swarm join`)")]
    Missing {
        /// The state directory.
        path: PathBuf,
    },
    /// There is a log where none was expected.
    #[error("{path} already holds a raft log: start from it, or remove the directory to begin anew")]
    Exists {
        /// The state directory.
        path: PathBuf,
    },
}

impl LogError {
    /// Classifies a kernel error on `path`.
    pub(crate) fn io(operation: &'static str, path: &Path, source: io::Error) -> Self {
        match source.kind() {
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => {
                Self::DiskFull { path: path.to_owned() }
            }
            _ => Self::Io { operation, path: path.to_owned(), source },
        }
    }

    pub(crate) fn corrupt(path: &Path, offset: u64, problem: impl Into<String>) -> Self {
        Self::Corrupt { path: path.to_owned(), offset, problem: problem.into() }
    }
}
