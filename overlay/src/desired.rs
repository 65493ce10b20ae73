//! What the swarm wants of this host's data plane: plain data, computed by the manager, whole.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use serde::{Deserialize, Serialize};

pub use crate::cidr::{Address, Cidr, Cidr6};

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
    /// The same of IPv6, in networks that have it.
    #[serde(default)]
    pub overlay_addr6: Option<Ipv6Addr>,
    /// It takes published connections with the client's address on them.
    #[serde(default)]
    pub keeps_client_address: bool,
    /// Those of IPv6 as well.
    #[serde(default)]
    pub keeps_client_address6: bool,
    /// Addresses that are its own, outside of the overlay; told in the ingress network only.
    #[serde(default)]
    pub addresses: BTreeSet<IpAddr>,
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
    /// The same of IPv6, where the network has it.
    #[serde(default)]
    pub addr6: Option<Ipv6Addr>,
    /// Node that runs it.
    pub node_id: String,
}

/// How long connections may be idle, in seconds; none = as long as the kernel lets any other.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct IdleTimeout {
    /// Connections of TCP.
    pub tcp: Option<u32>,
    /// Flows of UDP.
    pub udp: Option<u32>,
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
    /// Virtual IP of IPv6.
    #[serde(default)]
    pub vip6: Option<Ipv6Addr>,
    /// Who serves it.
    pub backends: Vec<Backend>,
    /// How long connections with those may be idle.
    #[serde(default)]
    pub idle: IdleTimeout,
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
    /// The same of IPv6, where the network has it.
    #[serde(default)]
    pub addr6: Option<Ipv6Addr>,
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
    /// The same of IPv6, where the network has it.
    #[serde(default)]
    pub subnet6: Option<Cidr6>,
    /// No way out of the network.
    pub internal: bool,
    /// The network published ports are served in.
    pub ingress: bool,
    /// The other nodes in it.
    pub peers: Vec<Peer>,
    /// Which node holds which addresses (this node's own included): CIDR -> node ID.
    pub blocks: BTreeMap<Cidr, String>,
    /// The same of IPv6.
    #[serde(default)]
    pub blocks6: BTreeMap<Cidr6, String>,
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
    /// Where on every host.
    #[serde(default)]
    pub host: Door,
    /// Who serves it, addresses in the ingress network.
    pub backends: Vec<Backend>,
    /// Of UDP: addresses of those that get nothing new, but go on with what they have.
    #[serde(default)]
    pub leaving: Vec<Ipv4Addr>,
    /// The same of IPv6.
    #[serde(default)]
    pub leaving6: Vec<Ipv6Addr>,
    /// How long connections with those who serve it may be idle.
    #[serde(default)]
    pub idle: IdleTimeout,
}

/// Where on a host a port is open.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(from = "String", into = "String")]
pub enum Door {
    /// On all addresses of both families.
    #[default]
    Everywhere,
    /// On one, where the host has it.
    Address(IpAddr),
    /// On those that an interface has, as they come and go.
    Interface(String),
}

impl From<String> for Door {
    fn from(text: String) -> Self {
        match text.parse::<IpAddr>() {
            _ if text.is_empty() => Self::Everywhere,
            Ok(addr) if addr.is_unspecified() => Self::Everywhere,
            Ok(addr) => Self::Address(addr),
            Err(_) => Self::Interface(text),
        }
    }
}

impl From<Door> for String {
    fn from(door: Door) -> Self {
        match door {
            Door::Everywhere => Self::new(),
            Door::Address(addr) => addr.to_string(),
            Door::Interface(name) => name,
        }
    }
}

/// The whole desired state of the swarm's part of the data plane.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Desired {
    /// This node.
    pub node_id: String,
    /// This node's own address in the overlay.
    pub overlay_addr: Option<Ipv4Addr>,
    /// The same of IPv6, where any of the networks has it.
    #[serde(default)]
    pub overlay_addr6: Option<Ipv6Addr>,
    /// Networks by ID.
    pub networks: BTreeMap<String, Network>,
    /// Version of `ports`.
    pub ingress_version: u64,
    /// Ports published on every node.
    pub ports: Vec<PublishedPort>,
}

impl Desired {
    /// Whether ports are open on the hosts' IPv6 addresses, too: where the ingress network has IPv6.
    pub fn has_ports6(&self) -> bool {
        self.networks.values().any(|n| n.ingress && n.subnet6.is_some())
    }

    /// The interfaces that ports are open on.
    pub fn doors(&self) -> BTreeSet<&str> {
        let named = self.ports.iter().filter_map(|p| match &p.host {
            Door::Interface(name) => Some(name.as_str()),
            Door::Everywhere | Door::Address(_) => None,
        });
        named.collect()
    }
}
