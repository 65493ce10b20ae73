//! What can go wrong with the tunnel, each naming the operation and its subject.

use std::io;
use std::path::PathBuf;

/// A failure of the WireGuard layer.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The key file could not be read or written.
    #[error("WireGuard key {}: {source}", path.display())]
    KeyFile {
        /// Which file.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The key file holds something else.
    #[error("WireGuard key {} is not 32 bytes of base64; restore it, or remove it to get a new identity in the overlay", path.display())]
    BadKey {
        /// Which file.
        path: PathBuf,
    },
    /// A peer's public key is not one.
    #[error("public key {key:?} of the peer at {endpoint} is not 32 bytes of base64")]
    BadPeerKey {
        /// What was given.
        key: String,
        /// The peer it was given for.
        endpoint: std::net::SocketAddr,
    },
    /// The same peer twice.
    #[error("peer {key} is given twice")]
    DuplicatePeer {
        /// Its public key.
        key: String,
    },
    /// Not a name the kernel takes.
    #[error("interface name {name:?}: {reason}")]
    BadName {
        /// The name.
        name: String,
        /// What is wrong with it.
        reason: String,
    },
    /// Somebody else has an interface of that name.
    #[error(
        "interface {name} exists and is of kind {kind}, not WireGuard; remove it or give this daemon another data root"
    )]
    NameTaken {
        /// The name.
        name: String,
        /// Its kind.
        kind: String,
    },
    /// Another socket has the port.
    #[error(
        "UDP port {port} for WireGuard interface {name} is in use; end the program that has it, or give the swarm another --data-path-port"
    )]
    PortTaken {
        /// The port.
        port: u16,
        /// The interface.
        name: String,
    },
    /// A netlink request failed.
    #[error("{operation} {name}: {source}")]
    Netlink {
        /// What was tried.
        operation: &'static str,
        /// On which interface.
        name: String,
        /// Why.
        #[source]
        source: rtnetlink::Error,
    },
    /// The configuration protocol of the device failed.
    #[error("{operation} of WireGuard interface {name}: {source}")]
    Configure {
        /// What was tried.
        operation: &'static str,
        /// On which interface.
        name: String,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The userspace process could not be started or stopped.
    #[error("userspace WireGuard for {name}: {operation}: {reason}")]
    Helper {
        /// The interface.
        name: String,
        /// What was tried.
        operation: &'static str,
        /// Why it failed, with what the process itself said.
        reason: String,
    },
}

impl Error {
    /// Shorthand for the many netlink calls.
    pub(super) fn netlink(operation: &'static str, name: &str) -> impl FnOnce(rtnetlink::Error) -> Self {
        let name = name.to_owned();
        move |source| Self::Netlink { operation, name, source }
    }
}
