//! What is asked of the data plane and what it answers: plain data.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV6};
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::bridge::{DefaultBridge, Pools};
use crate::cidr::{Cidr, Cidr6};

/// Where a data plane keeps its things and how they are named.
#[derive(Clone, Debug)]
pub struct DataPlaneOptions {
    /// What must survive a reboot.
    pub data_root: PathBuf,
    /// What need not: pinned namespaces, sockets.
    pub exec_root: PathBuf,
    /// Six lower-case characters that all global names carry.
    pub instance: String,
    /// The binary that serves `wireguard`.
    pub helper_exe: PathBuf,
    /// The swarm has this node only: no tunnel is made, and nothing listens for one.
    pub solo: bool,
    /// What the default bridge network is to be.
    pub default_bridge: DefaultBridge,
    /// What networks are cut from that ask for no range.
    pub pools: Pools,
    /// Ports of IPv6 are not served for containers that have IPv4 only, nor to clients with a link-local address: no process
    /// of the host's takes part in any connection.
    pub without_relays: bool,
}

/// One network to join.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Join {
    /// Network ID, unique beginning of one, or name.
    pub network: String,
    /// Address; none = any free one (bridge networks only).
    pub addr: Option<Ipv4Addr>,
    /// IPv6 address; none = any free one, where the network has them.
    pub addr6: Option<Ipv6Addr>,
    /// Link-local addresses to have besides.
    pub link_local: Vec<IpAddr>,
    /// Further names it answers to.
    pub aliases: Vec<String>,
    /// Hardware address; none = made from the address.
    pub mac: Option<[u8; 6]>,
    /// Names by which it alone knows other containers: container name or ID, and alias.
    pub links: Vec<(String, String)>,
    /// The way out is by the network with the highest; of equal ones by the first that has one.
    pub priority: i64,
    /// Driver options; see `endpoint.rs` for those that are known.
    pub options: BTreeMap<String, String>,
}

/// A port to publish on the host.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Publish {
    /// `tcp`, `udp` or `sctp`.
    pub protocol: String,
    /// Port inside the container.
    pub container_port: u16,
    /// Address on the host; none = all.
    pub host_ip: Option<IpAddr>,
    /// Instead of an address: on those that this interface has, as they come and go; `host_port` is then a port.
    pub interface: Option<String>,
    /// Port on the host; 0 = any free one.
    pub host_port: u16,
    /// With a port on the host: any free one from that to this; 0 = that port only.
    pub host_port_end: u16,
}

/// A container that another one may reach by some ports.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Linked {
    /// Its ID.
    pub container_id: String,
    /// Protocol and port of each.
    pub ports: Vec<(String, u16)>,
}

/// A container to connect.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct AttachRequest {
    /// Container ID.
    pub container_id: String,
    /// Container name.
    pub name: String,
    /// Networks; the first is the one it was created with.
    pub networks: Vec<Join>,
    /// Published ports.
    pub ports: Vec<Publish>,
    /// Those it may reach in the default bridge network, also where containers are kept from each other there.
    pub linked: Vec<Linked>,
    /// DNS servers, instead of the host's.
    pub dns_servers: Vec<IpAddr>,
    /// DNS search domains.
    pub dns_search: Vec<String>,
    /// DNS options.
    pub dns_options: Vec<String>,
    /// The user namespace that is to own its network namespace; none = the host's.
    pub user_namespace: Option<UserNamespace>,
}

/// A user namespace to be made, by what is written to its `uid_map` and `gid_map` (user_namespaces(7)), or one that is.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct UserNamespace {
    /// Lines of user IDs.
    pub uid_map: String,
    /// Lines of group IDs.
    pub gid_map: String,
    /// Where in /proc that of another container is, which is taken instead of a new one.
    #[serde(default)]
    pub shared: Option<PathBuf>,
}

/// A container's place in one network.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Endpoint {
    /// Network name.
    pub network: String,
    /// Network ID.
    pub network_id: String,
    /// Endpoint ID (64 hex characters).
    pub endpoint_id: String,
    /// Address; none = the network has no IPv4.
    pub addr: Option<Ipv4Addr>,
    /// Prefix length of the network; 0 = it has no IPv4.
    pub prefix_len: u8,
    /// Gateway, where the container has one in this network.
    pub gateway: Option<Ipv4Addr>,
    /// Its place by IPv6, where the network has that.
    #[serde(default)]
    pub v6: Option<Endpoint6>,
    /// Link-local addresses it asked for.
    #[serde(default)]
    pub link_local: Vec<IpAddr>,
    /// Hardware address, `aa:bb:cc:dd:ee:ff`.
    pub mac: String,
    /// Further names.
    pub aliases: Vec<String>,
}

impl Endpoint {
    /// Its addresses, of both families.
    pub fn addresses(&self) -> impl Iterator<Item = IpAddr> + '_ {
        self.addr.map(IpAddr::V4).into_iter().chain(self.v6.iter().map(|v6| IpAddr::V6(v6.addr)))
    }
}

/// A container's place in one network, by IPv6.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Endpoint6 {
    /// Address.
    pub addr: Ipv6Addr,
    /// Prefix length of the network.
    pub prefix_len: u8,
    /// Gateway, where the container has one in this network.
    pub gateway: Option<Ipv6Addr>,
}

/// A published port as bound.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Bound {
    /// `tcp`, `udp` or `sctp`.
    pub protocol: String,
    /// Port inside the container.
    pub container_port: u16,
    /// Address on the host; 0.0.0.0 and `::` = all of the family.
    pub host_ip: IpAddr,
    /// Port on the host; 0 = none: the port is open at the container's own address of that family.
    pub host_port: u16,
    /// The interface that has this address, where the port follows it.
    #[serde(default)]
    pub interface: Option<String>,
}

impl Bound {
    /// Whether the container's shim may serve it: there is a port of the host's IPv6, of a protocol that it knows.
    pub fn is_relayed(&self) -> bool {
        self.host_ip.is_ipv6() && self.host_port != 0 && self.protocol != "sctp"
    }
}

/// A published port of IPv6 that somebody has to serve where the kernel does not: it leads to an IPv4 address, or the
/// client's is link-local.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Relayed {
    /// `tcp` or `udp`.
    pub protocol: String,
    /// On the host.
    pub from: SocketAddrV6,
    /// In the container; none = it is in no network with a way out now.
    pub to: Option<SocketAddr>,
}

/// A connected container.
#[derive(Clone, Debug)]
pub struct Attached {
    /// The pinned namespace.
    pub netns: PathBuf,
    /// Whole content of its /etc/resolv.conf.
    pub resolv_conf: String,
    /// One per network, in the order asked for.
    pub endpoints: Vec<Endpoint>,
    /// Ports as bound.
    pub ports: Vec<Bound>,
    /// Those of them that are yet to be bound, and served.
    pub relays: Vec<Relayed>,
}

/// What of the swarm's state is in force.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Applied {
    /// Version by network ID.
    pub networks: BTreeMap<String, u64>,
    /// Version of the published ports.
    pub ingress: u64,
}

/// What makes a network of this host alone.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum LocalDriver {
    /// A bridge that the host routes for.
    #[default]
    Bridge,
    /// Interfaces with hardware addresses of their own on one of the host.
    Macvlan,
    /// Interfaces with the hardware address of the host's that they are on.
    Ipvlan,
}

impl LocalDriver {
    /// Docker's word.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Bridge => "bridge",
            Self::Macvlan => "macvlan",
            Self::Ipvlan => "ipvlan",
        }
    }
}

/// A network of this host alone to make.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct BridgeSpec {
    /// Name.
    pub name: String,
    /// What makes it.
    pub driver: LocalDriver,
    /// No IPv4 (IPv6 instead).
    pub without_ipv4: bool,
    /// Range; none = one that nothing on this host uses.
    pub subnet: Option<Cidr>,
    /// The host's address in it; none = the first. Of one that is no bridge, somebody else's; none = nobody's.
    pub gateway: Option<Ipv4Addr>,
    /// Where addresses are given from; none = the whole range.
    pub ip_range: Option<Cidr>,
    /// Addresses that are never given, by what they are for.
    pub aux_addresses: BTreeMap<String, Ipv4Addr>,
    /// IPv6 as well.
    pub ipv6: bool,
    /// Range of IPv6; none = one that nothing on this host uses.
    pub subnet6: Option<Cidr6>,
    /// The host's address in it; none = the first.
    pub gateway6: Option<Ipv6Addr>,
    /// Where addresses are given from; none = the whole range.
    pub ip_range6: Option<Cidr6>,
    /// Addresses of IPv6 that are never given, by what they are for.
    pub aux_addresses6: BTreeMap<String, Ipv6Addr>,
    /// No way out.
    pub internal: bool,
    /// Said of it and shown; any container may join a bridge.
    pub attachable: bool,
    /// Labels.
    pub labels: BTreeMap<String, String>,
    /// Driver options; see `bridge/options.rs` and `direct.rs` for those that are known.
    pub options: BTreeMap<String, String>,
    /// Name of the configuration network that its settings are of; empty = they are its own.
    pub config_from: String,
}

/// A network that is no more than settings for others.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ConfigNetwork {
    /// ID (64 hex characters).
    pub id: String,
    /// The settings.
    pub spec: BridgeSpec,
    /// Nanoseconds since the Unix epoch.
    pub created_at_ns: i64,
}

/// A network of this host alone as it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BridgeInfo {
    /// ID (64 hex characters).
    pub id: String,
    /// Name.
    pub name: String,
    /// What makes it.
    pub driver: LocalDriver,
    /// Interface on the host: the bridge, or what containers are on.
    pub interface: String,
    /// Range; none = it has no IPv4.
    pub subnet: Option<Cidr>,
    /// The user chose the range, and so may choose addresses.
    pub chosen: bool,
    /// The way out of it, where it has one.
    pub gateway: Option<Ipv4Addr>,
    /// Where addresses are given from; none = the whole range.
    pub ip_range: Option<Cidr>,
    /// Addresses that are never given, by what they are for.
    pub aux_addresses: BTreeMap<String, Ipv4Addr>,
    /// Addresses of IPv6, where it has them.
    pub v6: Option<Range6>,
    /// No way out.
    pub internal: bool,
    /// Said of it and shown; any container may join a bridge.
    pub attachable: bool,
    /// Labels.
    pub labels: BTreeMap<String, String>,
    /// Driver options.
    pub options: BTreeMap<String, String>,
    /// Name of the configuration network it was made from; empty = none.
    pub config_from: String,
    /// When it was made, nanoseconds since the epoch.
    pub created_at_ns: i64,
    /// Containers in it, by container ID.
    pub containers: BTreeMap<String, Member>,
}

/// The IPv6 addresses of a bridge network.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Range6 {
    /// Range.
    pub subnet: Cidr6,
    /// The host's address in it. The first of the range, which nobody can have, is none.
    pub gateway: Ipv6Addr,
    /// Where addresses are given from; none = the whole range.
    pub ip_range: Option<Cidr6>,
    /// Addresses that are never given, by what they are for.
    pub aux_addresses: BTreeMap<String, Ipv6Addr>,
    /// The user chose the range, and so may choose addresses.
    pub chosen: bool,
}

impl Range6 {
    /// The way out of it, where it has one.
    pub fn gateway(&self) -> Option<Ipv6Addr> {
        Some(self.gateway).filter(|g| *g != self.subnet.first())
    }
}

/// A container in a bridge network.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Member {
    /// Container name.
    pub name: String,
    /// Its place in the network.
    pub endpoint: Endpoint,
}
