//! What can go wrong in the data plane, in words a user can act on.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::path::Path;

/// An error of the data plane.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A file or a system call.
    #[error("{operation} {subject}: {source}")]
    Io {
        /// What was being done.
        operation: &'static str,
        /// To what.
        subject: String,
        /// Cause.
        source: io::Error,
    },
    /// A file of ours that cannot be read as what it should be.
    #[error("{path} is not readable as {what}: {reason}; remove it to start from nothing")]
    Corrupt {
        /// File.
        path: String,
        /// What it should be.
        what: &'static str,
        /// Why.
        reason: String,
    },
    /// nftables.
    #[error(transparent)]
    Nft(#[from] crate::nft::Error),
    /// No network of this name.
    #[error("network {0} not found")]
    NoSuchNetwork(String),
    /// Name taken.
    #[error("network with name {0} already exists")]
    NetworkExists(String),
    /// Still in use.
    #[error(
        "error while removing network: network {network} has active endpoints ({containers}); disconnect or remove them first"
    )]
    NetworkInUse {
        /// Network.
        network: String,
        /// Containers' names, with the beginnings of their endpoints' IDs.
        containers: String,
    },
    /// A name, subnet, option or the like that cannot be.
    #[error("{what} {value:?} is not valid: {reason}")]
    Invalid {
        /// What it is.
        what: &'static str,
        /// As given.
        value: String,
        /// Why not.
        reason: String,
    },
    /// The interface of the host that a network is to be on, or how, cannot be.
    #[error("{0}")]
    Parent(String),
    /// What the kind of a network does not let be.
    #[error("{0}")]
    Forbidden(String),
    /// Subnet taken.
    #[error(
        "invalid pool request: Pool overlaps with other one on this address space: {subnet} overlaps {other}; choose another"
    )]
    Overlap {
        /// As asked for.
        subnet: String,
        /// What has it.
        other: String,
    },
    /// No address left.
    #[error("no available IP addresses on this network's address pools: {network} ({subnet})")]
    Exhausted {
        /// Network.
        network: String,
        /// Its range.
        subnet: String,
    },
    /// No range left for a new network.
    #[error("all predefined address pools have been fully subnetted: give network {0} a range with --subnet")]
    NoSubnet(String),
    /// Address taken.
    #[error("Address already in use: {addr} in network {network}")]
    AddressInUse {
        /// Address.
        addr: IpAddr,
        /// Network.
        network: String,
    },
    /// Docker's condition for a chosen address.
    #[error(
        "user specified IP address is supported only when connecting to networks with user configured subnets"
    )]
    UnchosenSubnet,
    /// Connected already.
    #[error("endpoint with name {container} already exists in network {network}")]
    AlreadyConnected {
        /// Container name.
        container: String,
        /// Network.
        network: String,
    },
    /// Not connected.
    #[error("container {container} is not connected to network {network}")]
    NotConnected {
        /// Container.
        container: String,
        /// Network.
        network: String,
    },
    /// An overlay network gives no address by itself.
    #[error(
        "network {0} is an overlay network: its addresses are given by the swarm; use a service, or a bridge network"
    )]
    NeedsSwarmAddress(String),
    /// Another container has the port.
    #[error("Bind for {} failed: port is already allocated", SocketAddr::new(*host, *port))]
    PortTaken {
        /// Host address.
        host: IpAddr,
        /// Port.
        port: u16,
    },
    /// The host does not give the port: another program has it, or the address is none of the host's.
    #[error("failed to bind host port for {}:{target}/{protocol}: {source}", SocketAddr::new(*host, *port))]
    PortHeld {
        /// Host address.
        host: IpAddr,
        /// Port.
        port: u16,
        /// Where it was to lead.
        target: String,
        /// Protocol.
        protocol: String,
        /// Why not.
        source: io::Error,
    },
    /// Somebody has each of several ports.
    #[error("all ports are allocated: {first}-{last}/{protocol}")]
    PortsTaken {
        /// The first.
        first: u16,
        /// The last.
        last: u16,
        /// Protocol.
        protocol: String,
    },
    /// The ports of a container could not be had.
    #[error(
        "driver failed programming external connectivity on endpoint {container} ({endpoint_id}): {source}"
    )]
    Unprogrammed {
        /// Container name.
        container: String,
        /// Its place in the network that its ports are published by.
        endpoint_id: String,
        /// Why not.
        source: Box<Error>,
    },
    /// No port left to choose.
    #[error("no free {protocol} port left in 32768-60999 on {host}")]
    NoPort {
        /// Host address.
        host: IpAddr,
        /// Protocol.
        protocol: String,
    },
    /// A port cannot be published.
    #[error("cannot publish port {port}/{protocol}: {reason}")]
    Unpublishable {
        /// Port.
        port: u16,
        /// Protocol.
        protocol: String,
        /// Why.
        reason: String,
    },
    /// WireGuard.
    #[error("wireguard interface {interface}: {reason}")]
    WireGuard {
        /// Interface.
        interface: String,
        /// Why.
        reason: String,
    },
    /// DNS inside a container.
    #[error("DNS of container {container}: {reason}")]
    Dns {
        /// Container.
        container: String,
        /// Why.
        reason: String,
    },
    /// Several things failed; the rest was done.
    #[error("{}", .0.iter().map(ToString::to_string).collect::<Vec<_>>().join("; "))]
    Several(Vec<Error>),
    /// A worker thread ended early.
    #[error("{0} did not finish: {1}")]
    Interrupted(&'static str, String),
}

/// Result of the data plane.
pub type Result<T, E = Error> = std::result::Result<T, E>;

impl Error {
    /// Whether somebody else has the port.
    pub(crate) fn is_port_in_use(&self) -> bool {
        match self {
            Self::PortTaken { .. } => true,
            Self::PortHeld { source, .. } => source.kind() == io::ErrorKind::AddrInUse,
            _ => false,
        }
    }

    /// Wraps a system error about some subject.
    pub(crate) fn io(
        operation: &'static str,
        subject: impl std::fmt::Display,
    ) -> impl FnOnce(io::Error) -> Self {
        move |source| Self::Io { operation, subject: subject.to_string(), source }
    }

    /// Wraps a system error about a file.
    pub(crate) fn file(operation: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Self {
        Self::io(operation, path.display())
    }

    /// Wraps an errno about some subject.
    pub(crate) fn sys(
        operation: &'static str,
        subject: impl std::fmt::Display,
    ) -> impl FnOnce(nix::errno::Errno) -> Self {
        move |errno| Self::Io { operation, subject: subject.to_string(), source: errno.into() }
    }

    /// Nothing, the one error, or all of them.
    pub(crate) fn gather(mut errors: Vec<Self>) -> Result<()> {
        match errors.len() {
            0 => Ok(()),
            1 => errors.pop().map_or(Ok(()), Err),
            _ => Err(Self::Several(errors)),
        }
    }
}
