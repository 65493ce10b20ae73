//! What can go wrong while a container is made, said so that a person can act on it.

use std::fmt::Display;
use std::io;

/// A failure of the runtime.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The kernel refused something.
    #[error("{operation} {subject}: {source}")]
    System {
        /// What was tried.
        operation: &'static str,
        /// On what.
        subject: String,
        /// The kernel's answer.
        source: io::Error,
    },
    /// The container asks for something that is not possible or not allowed.
    #[error("{0}")]
    Refused(String),
    /// The command is not there.
    #[error("exec: {command:?}: {reason}")]
    NotFound {
        /// As given.
        command: String,
        /// Why, in Docker's words.
        reason: String,
    },
    /// The command is there and cannot be run.
    #[error("exec: {command:?}: {reason}")]
    NotExecutable {
        /// As given.
        command: String,
        /// Why.
        reason: String,
    },
    /// Reported by the container's first process before it ran the command.
    #[error("{message}")]
    Init {
        /// Its own error text.
        message: String,
        /// The exit code that this failure stands for.
        exit_code: i32,
    },
}

impl Error {
    /// The exit code Docker gives a container that failed to start in this way.
    pub fn exit_code(&self) -> i32 {
        match self {
            Self::NotFound { .. } => 127,
            Self::NotExecutable { .. } => 126,
            Self::Init { exit_code, .. } => *exit_code,
            Self::System { .. } | Self::Refused(_) => 128,
        }
    }

    /// The kernel's error number, when the kernel refused.
    pub fn errno(&self) -> Option<i32> {
        match self {
            Self::System { source, .. } => source.raw_os_error(),
            _ => None,
        }
    }
}

/// Names the operation and its subject on a failed system call.
pub(crate) trait Context<T> {
    /// Turns an I/O or errno failure into [`Error::System`].
    fn on(self, operation: &'static str, subject: impl Display) -> Result<T, Error>;
}

impl<T, E: Into<io::Error>> Context<T> for Result<T, E> {
    fn on(self, operation: &'static str, subject: impl Display) -> Result<T, Error> {
        self.map_err(|e| Error::System { operation, subject: subject.to_string(), source: e.into() })
    }
}
