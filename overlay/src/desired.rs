//! What the swarm wants of this host's data plane: plain data, computed by the manager, whole.

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, SocketAddr};

use serde::{Deserialize, Serialize};

/// `a.b.c.d/len`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(into = "String", try_from = "String")]
pub struct Cidr {
    /// Network address.
    pub addr: Ipv4Addr,
    /// Prefix length, 0-32.
    pub len: u8,
}

impl Cidr {
    /// The network mask.
    pub fn mask(&self) -> u32 {
        u32::MAX.checked_shl(32 - u32::from(self.len.min(32))).unwrap_or(0)
    }

    /// First address of the range.
    pub fn first(&self) -> Ipv4Addr {
        Ipv4Addr::from(u32::from(self.addr) & self.mask())
    }

    /// Last address of the range.
    pub fn last(&self) -> Ipv4Addr {
        Ipv4Addr::from(u32::from(self.addr) | !self.mask())
    }

    /// The same range written with its first address.
    pub fn network(&self) -> Self {
        Self { addr: self.first(), len: self.len }
    }

    /// Whether the address is within the range.
    pub fn contains(&self, addr: Ipv4Addr) -> bool {
        (self.first()..=self.last()).contains(&addr)
    }

    /// Whether the two ranges share an address.
    pub fn overlaps(&self, other: &Self) -> bool {
        self.first() <= other.last() && other.first() <= self.last()
    }

    /// The range of one address.
    pub fn host(addr: Ipv4Addr) -> Self {
        Self { addr, len: 32 }
    }
}

impl From<Cidr> for String {
    fn from(cidr: Cidr) -> Self {
        cidr.to_string()
    }
}

impl TryFrom<String> for Cidr {
    type Error = String;
    fn try_from(text: String) -> Result<Self, String> {
        text.parse()
    }
}

impl std::str::FromStr for Cidr {
    type Err = String;
    fn from_str(s: &str) -> Result<Self, String> {
        let bad = || format!("{s:?} is not an IPv4 network like 10.0.0.0/24");
        let (addr, len) = s.split_once('/').ok_or_else(bad)?;
        let (addr, len) = (addr.parse().map_err(|_| bad())?, len.parse().map_err(|_| bad())?);
        if len > 32 {
            return Err(bad());
        }
        Ok(Self { addr, len })
    }
}

impl std::fmt::Display for Cidr {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}/{}", self.addr, self.len)
    }
}

/// Another node of the swarm that shares a network with this one.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Peer {
    /// Node ID.
    pub node_id: String,
    /// Where its WireGuard listens.
    pub endpoint: SocketAddr,
    /// Base64 public key.
    pub public_key: String,
    /// Its own address in the overlay.
    pub overlay_addr: Ipv4Addr,
}

/// A task that may receive new connections.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Backend {
    /// Task ID.
    pub task_id: String,
    /// DNS name of the task (`web.1.<id>`).
    pub task_name: String,
    /// Address in the network.
    pub addr: Ipv4Addr,
    /// Node that runs it.
    pub node_id: String,
}

/// A service in one network.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Service {
    /// Service ID.
    pub id: String,
    /// Name, resolved to the VIP (or to all backends when there is none).
    pub name: String,
    /// Further names in this network.
    pub aliases: Vec<String>,
    /// Virtual IP.
    pub vip: Option<Ipv4Addr>,
    /// Who serves it.
    pub backends: Vec<Backend>,
}

/// A container outside services, on whichever node.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Attached {
    /// Container ID.
    pub container_id: String,
    /// Container name.
    pub name: String,
    /// Further names in this network.
    pub aliases: Vec<String>,
    /// Address in the network.
    pub addr: Ipv4Addr,
    /// Node that runs it.
    pub node_id: String,
}

/// One overlay network this host has containers in.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Network {
    /// Network ID.
    pub id: String,
    /// Name.
    pub name: String,
    /// Version of this view, acknowledged once applied.
    pub version: u64,
    /// Whole address range, VIPs included.
    pub subnet: Cidr,
    /// No way out of the network.
    pub internal: bool,
    /// The network published ports are served in.
    pub ingress: bool,
    /// The other nodes in it.
    pub peers: Vec<Peer>,
    /// Which node holds which addresses (this node's own included): CIDR -> node ID.
    pub blocks: BTreeMap<Cidr, String>,
    /// Services.
    pub services: Vec<Service>,
    /// Containers outside services.
    #[serde(default)]
    pub attached: Vec<Attached>,
    /// Whether nodes may attach containers of their own.
    #[serde(default)]
    pub attachable: bool,
}

/// A port that every node of the swarm listens on.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PublishedPort {
    /// `tcp`, `udp` or `sctp`.
    pub protocol: String,
    /// Port on every host.
    pub published: u16,
    /// Port of the backends.
    pub target: u16,
    /// Who serves it, addresses in the ingress network.
    pub backends: Vec<Backend>,
}

/// The whole desired state of the swarm's part of the data plane.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Desired {
    /// This node.
    pub node_id: String,
    /// This node's own address in the overlay.
    pub overlay_addr: Option<Ipv4Addr>,
    /// Networks by ID.
    pub networks: BTreeMap<String, Network>,
    /// Version of `ports`.
    pub ingress_version: u64,
    /// Ports published on every node.
    pub ports: Vec<PublishedPort>,
}
