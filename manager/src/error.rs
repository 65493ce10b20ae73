//! Why a manager does not start, or does not leave.

use std::io;

use crate::raft::StartError;
use crate::raft::log::LogError;

/// Failure of a manager as a whole.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The address cannot be listened on.
    #[error(
        "cannot listen on {addr} for the swarm: {source}; free the port, or choose another with --listen-addr"
    )]
    Listen {
        /// Which address.
        addr: String,
        /// What the operating system said.
        #[source]
        source: io::Error,
    },
    /// A setting of the new cluster cannot be.
    #[error("cannot make a swarm: {0}")]
    Init(String),
    /// The identity.
    #[error(transparent)]
    Identity(#[from] skep_identity::Error),
    /// The keys on disk.
    #[error(transparent)]
    Keys(#[from] LogError),
    /// The raft node.
    #[error(transparent)]
    Raft(#[from] StartError),
    /// The managers there are did not let this one in.
    #[error("cannot join the managers at {addr}: {reason}")]
    Join {
        /// Whom it was asked of.
        addr: String,
        /// Why not.
        reason: String,
    },
    /// The other managers could not be told.
    #[error("cannot leave the managers in order: {0}")]
    Leave(String),
    /// A part of the manager panicked while starting.
    #[error("the manager did not start: {0}")]
    Internal(String),
}
