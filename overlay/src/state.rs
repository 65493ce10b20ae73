//! What the data plane knows, in memory and on disk: containers, bridges and the swarm's last word.
//!
//! Addresses in use are read off the containers' records, so that none can leak.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io::Write;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV6};
use std::path::{Path, PathBuf};

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::desired::{Cidr, Cidr6, Desired, Door};
use crate::direct::Direct;
use crate::error::{Error, Result};
use crate::link::{Mac, Upper};
use crate::mesh::Mesh;
use crate::model::{Bound, ConfigNetwork, Endpoint, Linked, Publish, Range6, Relayed, UserNamespace};
use crate::names::Names;

/// A container's connection, as wired.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Record {
    pub container_id: String,
    pub name: String,
    /// eth0, eth1, ... in this order.
    pub interfaces: Vec<Interface>,
    /// IDs of the networks in the order asked for.
    pub order: Vec<String>,
    pub ports: Vec<Bound>,
    /// Ports that are open on interfaces; where those are now is among the others.
    #[serde(default)]
    pub doors: Vec<DoorPort>,
    /// What was asked to be published; empty in records of earlier versions, which keep their ports as they are.
    #[serde(default)]
    pub asked: Vec<Publish>,
    /// Those it may reach in the default bridge network.
    #[serde(default)]
    pub linked: Vec<Linked>,
    /// Those of IPv6 are held, and served where the kernel does not, by the container's shim: until its next start.
    #[serde(default)]
    pub relayed: bool,
    pub dns: Dns,
    /// Owner of its network namespace.
    #[serde(default)]
    pub user_namespace: Option<UserNamespace>,
}

/// A port of a container that is open on the addresses of an interface.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DoorPort {
    pub protocol: String,
    pub container_port: u16,
    pub host_port: u16,
    pub interface: String,
}

/// What the container's resolver was asked to be.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Dns {
    pub servers: Vec<IpAddr>,
    pub search: Vec<String>,
    pub options: Vec<String>,
}

/// An interface that sits on one of the host, and has no end there.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct On {
    pub parent: String,
    pub upper: Upper,
}

/// One interface of a container.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Interface {
    /// Name of the host's end; what it is known by where it has none.
    pub host: String,
    /// Name inside; empty in records of earlier versions, which count from eth0.
    #[serde(default)]
    pub guest: String,
    /// What it is called where it has no name yet, before its number; empty = `eth`.
    #[serde(default)]
    pub prefix: String,
    /// Hardware address inside.
    pub mac: Mac,
    pub mtu: u32,
    /// Interface of the bridge; none = routed, or on one of the host's.
    pub bridge: Option<String>,
    /// On which interface of the host it sits, and how; none = a veth.
    #[serde(default)]
    pub on: Option<On>,
    /// Kept from the others of its bridge.
    #[serde(default)]
    pub isolated: bool,
    /// The default route is by the interface with the highest.
    #[serde(default)]
    pub priority: i64,
    /// Settings of the interface in the container, and their values.
    #[serde(default)]
    pub sysctls: Vec<(String, String)>,
    /// Networks reached through it: one for a bridge, all overlays for the routed veth.
    pub members: Vec<Membership>,
}

/// A place in a network and what of the network its rules need.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Membership {
    pub endpoint: Endpoint,
    /// Range of IPv4; none = the network has none.
    pub subnet: Option<Cidr>,
    /// Range of IPv6, of an overlay that has it.
    #[serde(default)]
    pub subnet6: Option<Cidr6>,
    pub internal: bool,
    pub ingress: bool,
    /// Names by which this container alone knows others: name or ID, and alias.
    #[serde(default)]
    pub links: Vec<(String, String)>,
}

/// A network of this host alone: a bridge, or directly on an interface of the host.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Bridge {
    pub id: String,
    pub name: String,
    /// The bridge, or the interface that containers are on.
    pub interface: String,
    /// Range of IPv4; none = it has none.
    pub subnet: Option<Cidr>,
    /// What nobody can have is none: the first address of the subnet, or 0.0.0.0 where there is no subnet or one of a pair.
    pub gateway: Ipv4Addr,
    pub internal: bool,
    #[serde(default)]
    pub attachable: bool,
    pub mtu: u32,
    #[serde(default)]
    pub ip_range: Option<Cidr>,
    #[serde(default)]
    pub aux_addresses: BTreeMap<String, Ipv4Addr>,
    /// Its addresses of IPv6, where it has them.
    #[serde(default)]
    pub v6: Option<Range6>,
    /// The user chose the range, and so may choose addresses.
    #[serde(default)]
    pub chosen: bool,
    /// Containers are kept from each other.
    #[serde(default)]
    pub isolated: bool,
    /// What leaves the host keeps its source.
    #[serde(default)]
    pub unmasked: bool,
    /// Every port of its containers is reached from outside, and not only those that are published.
    #[serde(default)]
    pub open: bool,
    /// The same by IPv6.
    #[serde(default)]
    pub open6: bool,
    /// Nothing is translated: published ports are reached at the container's address (gateway mode `routed`).
    #[serde(default)]
    pub untranslated: bool,
    /// The same by IPv6.
    #[serde(default)]
    pub untranslated6: bool,
    /// Interfaces of the host by which published ports are reached at the container's address as well.
    #[serde(default)]
    pub trusted: Vec<String>,
    /// What leaves the host by IPv4 has this address; none = that of the interface it leaves by.
    #[serde(default)]
    pub source: Option<Ipv4Addr>,
    /// The same by IPv6.
    #[serde(default)]
    pub source6: Option<Ipv6Addr>,
    /// The gateway's IPv4 address is for somebody else to have.
    #[serde(default)]
    pub inhibited: bool,
    /// The interface is the user's: it is there, has its addresses, and is neither made nor removed. Of it, only the kernel's
    /// settings (sysctls) are changed that ports and ways need.
    #[serde(default)]
    pub foreign: bool,
    /// Those settings of an interface of the user's as they were before.
    #[serde(default)]
    pub lent: BTreeMap<String, String>,
    /// What the containers' interfaces are called, before their number; empty = `eth`.
    #[serde(default)]
    pub guests: String,
    /// Where ports are published when no host address is given.
    #[serde(default)]
    pub host_binding: Option<IpAddr>,
    /// Not a bridge at all.
    #[serde(default)]
    pub direct: Option<Direct>,
    /// Name of the configuration network it was made from; empty = none.
    #[serde(default)]
    pub config_from: String,
    pub labels: BTreeMap<String, String>,
    pub options: BTreeMap<String, String>,
    pub created_at_ns: i64,
}

impl Bridge {
    /// Its gateway, where it has one.
    pub fn gateway(&self) -> Option<Ipv4Addr> {
        self.subnet.filter(|s| self.gateway != s.nobody()).map(|_| self.gateway)
    }

    /// What of that the host has itself, with the range.
    pub fn hosted(&self) -> Option<Cidr> {
        let hosted = self.gateway().filter(|_| !self.inhibited).zip(self.subnet);
        hosted.map(|(addr, subnet)| Cidr { addr, len: subnet.len })
    }

    /// The same of IPv6.
    pub fn hosted6(&self) -> Option<Cidr6> {
        let v6 = self.v6.as_ref()?;
        v6.gateway().map(|addr| Cidr { addr, len: v6.subnet.len })
    }

    /// Whether the host answers for containers that are kept from each other when they look for one another, so that what
    /// links open passes through it. Not on a bridge of the user's: whoever else is on it would be answered too.
    pub fn answers_for_others(&self) -> bool {
        self.isolated && !self.foreign && self.name == DEFAULT_BRIDGE && self.subnet.is_some()
    }

    /// What containers send to others by, where they may: an address that the user has named so comes first.
    pub fn way(&self) -> Option<Ipv4Addr> {
        let named = self.aux_addresses.get("DefaultGatewayIPv4").copied();
        named.or(self.gateway()).filter(|_| !self.internal && !self.is_layer3())
    }

    /// The same of IPv6.
    pub fn way6(&self) -> Option<Ipv6Addr> {
        let v6 = self.v6.as_ref();
        let named = v6.and_then(|v6| v6.aux_addresses.get("DefaultGatewayIPv6").copied());
        named.or(v6.and_then(Range6::gateway)).filter(|_| !self.internal && !self.is_layer3())
    }

    fn is_layer3(&self) -> bool {
        self.direct.as_ref().is_some_and(|d| d.upper.is_layer3())
    }
}

/// The swarm's last word.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Swarm {
    pub desired: Desired,
    pub listen_port: u16,
}

/// All that is known.
#[derive(Clone, Debug, Default)]
pub struct State {
    /// By container ID.
    pub containers: BTreeMap<String, Record>,
    /// Bridge networks by name.
    pub bridges: BTreeMap<String, Bridge>,
    /// Networks that are directly on an interface of the host, by name.
    pub direct: BTreeMap<String, Bridge>,
    /// Networks that are no more than settings for others, by name.
    pub configs: BTreeMap<String, ConfigNetwork>,
    pub swarm: Option<Swarm>,
    /// MTU of the tunnel, once there is one.
    pub tunnel_mtu: Option<u16>,
    /// The kernel has what the ingress mesh needs (VXLAN).
    pub has_mesh: bool,
    /// The kernel has IPv6.
    pub has_ipv6: bool,
    /// The kernel has timeouts of single connections.
    pub has_timeouts: bool,
    /// Addresses of the interfaces that ports are open on, the swarm's or a container's; none of one that this host has not.
    pub interfaces: BTreeMap<String, BTreeSet<IpAddr>>,
    /// Published swarm ports (protocol, port) that another program of this host holds.
    pub refused_ports: Vec<(String, u16)>,
    /// Counts changes of `swarm` and `refused_ports`.
    pub swarm_generation: u64,
    /// Counts changes.
    pub generation: u64,
}

/// What there is to know of an overlay with IPv6.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Overlay6 {
    pub internal: bool,
    pub ingress: bool,
}

impl State {
    /// The networks of this host alone.
    pub fn local(&self) -> impl Iterator<Item = &Bridge> {
        self.bridges.values().chain(self.direct.values())
    }

    /// The ranges of IPv6 of the overlays in force: of the swarm, and of containers that outlive theirs.
    pub fn overlays6(&self) -> BTreeMap<Cidr6, Overlay6> {
        let members = self.containers.values().flat_map(Record::members);
        let outlived = members.filter_map(|m| {
            Some((m.subnet6?.network(), Overlay6 { internal: m.internal, ingress: m.ingress }))
        });
        let networks = self.swarm.iter().flat_map(|s| s.desired.networks.values());
        let known = networks.filter_map(|n| {
            Some((n.subnet6?.network(), Overlay6 { internal: n.internal, ingress: n.ingress }))
        });
        outlived.chain(known).collect()
    }

    /// The interfaces that ports are open on.
    pub fn doors(&self) -> BTreeSet<String> {
        let swarm = self.swarm.iter().flat_map(|s| s.desired.doors());
        let own = self.containers.values().flat_map(|r| &r.doors).map(|d| d.interface.as_str());
        swarm.chain(own).map(str::to_owned).collect()
    }

    /// Whether a container's ports of IPv4, and those of IPv6, are open at its own address instead of the host's.
    pub fn untranslated(&self, record: &Record) -> (bool, bool) {
        let bridge = |place: Option<&Membership>| {
            place.and_then(|m| self.bridges.values().find(|b| b.id == m.endpoint.network_id))
        };
        let four = bridge(record.way()).is_some_and(|b| b.untranslated);
        (four, bridge(record.way6()).is_some_and(|b| b.untranslated6))
    }

    /// The addresses of this host that a swarm port is open on; none = all, of both families.
    pub fn open_at(&self, door: &Door) -> Option<BTreeSet<IpAddr>> {
        match door {
            Door::Everywhere => None,
            Door::Address(addr) => Some([*addr].into()),
            Door::Interface(name) => Some(self.interfaces.get(name).cloned().unwrap_or_default()),
        }
    }

    /// This node's part of the ingress mesh.
    pub fn mesh(&self, names: &Names) -> Option<Mesh> {
        let swarm = self.swarm.as_ref().filter(|_| self.has_mesh)?;
        Mesh::of(&swarm.desired, names, self.has_ipv6)
    }
}

impl Interface {
    /// It carries overlay networks.
    pub fn is_routed(&self) -> bool {
        self.bridge.is_none() && self.on.is_none()
    }
}

impl Record {
    /// All places in networks.
    pub fn members(&self) -> impl Iterator<Item = &Membership> {
        self.interfaces.iter().flat_map(|i| &i.members)
    }

    /// The places in bridge networks.
    pub fn bridged(&self) -> impl Iterator<Item = &Membership> {
        self.interfaces.iter().filter(|i| i.bridge.is_some()).flat_map(|i| &i.members)
    }

    /// The places in networks of this host alone.
    pub fn local(&self) -> impl Iterator<Item = &Membership> {
        self.interfaces.iter().filter(|i| !i.is_routed()).flat_map(|i| &i.members)
    }

    /// The places whose packets the host sees, and judges.
    pub fn judged(&self) -> impl Iterator<Item = &Membership> {
        self.interfaces.iter().filter(|i| i.on.is_none()).flat_map(|i| &i.members)
    }

    /// Whether it is on an interface of the host, where it is reached without ports of the host.
    pub fn is_direct(&self) -> bool {
        self.interfaces.iter().any(|i| i.on.is_some())
    }

    /// The routed interface.
    pub fn routed(&self) -> Option<&Interface> {
        self.interfaces.iter().find(|i| i.is_routed())
    }

    /// Its places in the ingress network, where all its other overlays are internal: it may answer by them, and no more.
    pub fn confined(&self) -> impl Iterator<Item = &Membership> {
        let members = || self.routed().into_iter().flat_map(|i| &i.members);
        let mut own = members().filter(|m| !m.ingress).peekable();
        let confined = own.peek().is_some() && own.all(|m| m.internal);
        members().filter(move |m| confined && m.ingress)
    }

    /// Endpoints in the order asked for.
    pub fn endpoints(&self) -> Vec<Endpoint> {
        let of = |id: &String| self.members().find(|m| m.endpoint.network_id == *id);
        self.order.iter().filter_map(of).map(|m| m.endpoint.clone()).collect()
    }

    /// Where published ports lead: the first bridge with a way out, else the first overlay address,
    /// that of the ingress network last.
    pub fn target(&self) -> Option<Ipv4Addr> {
        self.way().and_then(|m| m.endpoint.addr)
    }

    /// The place whose address that is.
    pub fn way(&self) -> Option<&Membership> {
        let open = self.bridged().find(|m| !m.internal && m.endpoint.addr.is_some());
        let overlay = || {
            let members = || self.routed().into_iter().flat_map(|r| &r.members);
            let own = members().find(|m| !m.internal && !m.ingress);
            own.or_else(|| members().find(|m| m.ingress))
        };
        open.or_else(overlay)
    }

    /// The place whose IPv6 address published ports lead to: the first bridge with a way out.
    pub fn way6(&self) -> Option<&Membership> {
        self.bridged().find(|m| !m.internal && m.endpoint.v6.is_some())
    }

    /// Where ports published by IPv6 lead.
    pub fn target6(&self) -> Option<Ipv6Addr> {
        self.way6().and_then(|m| m.endpoint.v6.as_ref()).map(|e| e.addr)
    }

    /// Whether its shim is to hold ports of IPv6: all its clients come by them where the container has no such address,
    /// else those with a link-local one, whose packets no host passes on.
    pub fn is_to_be_relayed(&self) -> bool {
        self.ports.iter().any(Bound::is_relayed)
    }

    /// The ports that its shim holds. Where it has an IPv6 address, the kernel comes first.
    pub fn relays(&self) -> Vec<Relayed> {
        let target = self.target6().map(IpAddr::V6).or_else(|| self.target().map(IpAddr::V4));
        let of = |port: &Bound| match port.host_ip {
            IpAddr::V6(addr) if self.relayed && port.is_relayed() => Some(Relayed {
                protocol: port.protocol.clone(),
                from: SocketAddrV6::new(addr, port.host_port, 0, 0),
                to: target.map(|t| SocketAddr::new(t, port.container_port)),
            }),
            _ => None,
        };
        self.ports.iter().filter_map(of).collect()
    }

    /// Whether there are rules of its own: a container of one bridge, without published ports, is
    /// covered by its network's.
    pub fn has_rules(&self) -> bool {
        let link_local = |m: &Membership| !m.endpoint.link_local.is_empty();
        let wired = self.routed().is_some() || self.interfaces.len() > 1;
        !self.ports.is_empty() || !self.linked.is_empty() || wired || self.members().any(link_local)
    }

    /// Whether it has a DNS server of its own: in all but the default bridge network.
    pub fn has_dns(&self) -> bool {
        self.members().any(|m| m.endpoint.network != DEFAULT_BRIDGE)
    }
}

/// Name of the network that is always there.
pub const DEFAULT_BRIDGE: &str = "bridge";

/// Files under `<data_root>/network`.
#[derive(Clone, Debug)]
pub struct Store {
    root: PathBuf,
}

impl Store {
    /// Opens (and makes) the folder.
    pub fn open(data_root: &Path) -> Result<Self> {
        let root = data_root.join("network");
        let containers = root.join("containers");
        // Addresses and names of everything that runs here are nobody else's business.
        let mut private = fs::DirBuilder::new();
        std::os::unix::fs::DirBuilderExt::mode(&mut private, 0o700);
        private.recursive(true).create(&containers).map_err(Error::file("create", &containers))?;
        Ok(Self { root })
    }

    /// Where the WireGuard key is.
    pub fn key(&self) -> PathBuf {
        self.root.join("wireguard.key")
    }

    /// All that was saved.
    pub fn load(&self) -> Result<State> {
        let mut state = State {
            bridges: self.read("bridges.json", "bridge networks")?.unwrap_or_default(),
            direct: self.read("direct.json", "networks on interfaces of the host")?.unwrap_or_default(),
            configs: self.read("configs.json", "configuration networks")?.unwrap_or_default(),
            swarm: self.read("swarm.json", "the swarm's network state")?,
            ..State::default()
        };
        let folder = self.root.join("containers");
        for entry in fs::read_dir(&folder).map_err(Error::file("list", &folder))? {
            let path = entry.map_err(Error::file("list", &folder))?.path();
            if path.extension().is_some_and(|e| e == "new") {
                fs::remove_file(&path).map_err(Error::file("remove", &path))?;
                continue;
            }
            // A half-known container is detached by the caller's `retain`; one bad file stops nothing.
            match read_json::<Record>(&path, "a container's network") {
                Ok(Some(mut record)) => {
                    for (number, interface) in record.interfaces.iter_mut().enumerate() {
                        if interface.guest.is_empty() {
                            interface.guest = format!("eth{number}");
                        }
                    }
                    state.containers.insert(record.container_id.clone(), record);
                }
                Ok(None) => {}
                Err(error) => {
                    tracing::warn!(%error, "dropping an unreadable container record");
                    fs::remove_file(&path).map_err(Error::file("remove", &path))?;
                }
            }
        }
        Ok(state)
    }

    fn read<T: DeserializeOwned>(&self, name: &str, what: &'static str) -> Result<Option<T>> {
        read_json(&self.root.join(name), what)
    }

    fn container(&self, id: &str) -> PathBuf {
        self.root.join("containers").join(format!("{id}.json"))
    }

    /// Saves a container. A namespace does not survive a reboot, so neither need its record: no fsync.
    pub fn save_container(&self, record: &Record) -> Result<()> {
        write_json(&self.container(&record.container_id), record, false)
    }

    /// Forgets a container.
    pub fn forget_container(&self, id: &str) -> Result<()> {
        remove(&self.container(id))
    }

    /// Saves the bridge networks.
    pub fn save_bridges(&self, bridges: &BTreeMap<String, Bridge>) -> Result<()> {
        write_json(&self.root.join("bridges.json"), bridges, true)
    }

    /// Saves the networks that are directly on an interface of the host.
    pub fn save_direct(&self, direct: &BTreeMap<String, Bridge>) -> Result<()> {
        write_json(&self.root.join("direct.json"), direct, true)
    }

    /// Saves the networks that are no more than settings for others.
    pub fn save_configs(&self, configs: &BTreeMap<String, ConfigNetwork>) -> Result<()> {
        write_json(&self.root.join("configs.json"), configs, true)
    }

    /// Saves, or forgets, the swarm's last word.
    pub fn save_swarm(&self, swarm: Option<&Swarm>) -> Result<()> {
        let path = self.root.join("swarm.json");
        match swarm {
            Some(swarm) => write_json(&path, swarm, true),
            None => remove(&path),
        }
    }
}

fn remove(path: &Path) -> Result<()> {
    match fs::remove_file(path) {
        Err(e) if e.kind() != std::io::ErrorKind::NotFound => Err(Error::file("remove", path)(e)),
        _ => Ok(()),
    }
}

fn read_json<T: DeserializeOwned>(path: &Path, what: &'static str) -> Result<Option<T>> {
    let bytes = match fs::read(path) {
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        other => other.map_err(Error::file("read", path))?,
    };
    serde_json::from_slice(&bytes).map(Some).map_err(|e| Error::Corrupt {
        path: path.display().to_string(),
        what,
        reason: e.to_string(),
    })
}

fn write_json<T: Serialize>(path: &Path, value: &T, durable: bool) -> Result<()> {
    let fresh = path.with_extension("new");
    let bytes = serde_json::to_vec(value).map_err(|e| Error::Corrupt {
        path: path.display().to_string(),
        what: "JSON",
        reason: e.to_string(),
    })?;
    let mut file = fs::File::create(&fresh).map_err(Error::file("create", &fresh))?;
    file.write_all(&bytes).map_err(Error::file("write", &fresh))?;
    if durable {
        file.sync_all().map_err(Error::file("sync", &fresh))?;
    }
    fs::rename(&fresh, path).map_err(Error::file("rename", &fresh))?;
    if durable && let Some(folder) = path.parent() {
        fs::File::open(folder).and_then(|f| f.sync_all()).map_err(Error::file("sync", folder))?;
    }
    Ok(())
}
