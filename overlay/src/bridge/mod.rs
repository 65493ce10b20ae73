//! Local bridge networks: the networks themselves, their addresses, and the ports published from them.

mod default;
mod ipam;
mod options;
mod pools;
mod ports;
mod v6;

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, Ipv6Addr};

pub use default::{Changed, DefaultBridge};
pub use ipam::free_address;
pub use options::{check as check_options, check_interface};
pub use pools::{Pool, Pools};
pub use ports::{Ports, Wanted};
pub use v6::plan as plan6;

use crate::cidr::{Address, Cidr, Cidr6};
use crate::direct::{self, Direct};
use crate::error::{Error, Result};
use crate::link::{Mac, Upper};
use crate::model::{BridgeInfo, BridgeSpec, LocalDriver, Member};
use crate::names::Names;
use crate::nft;
use crate::state::{Bridge, State};
use options::{Mode, Options};

/// What a host routes already, and by which it is told from others.
#[derive(Default)]
pub struct Surroundings {
    /// Ranges of IPv4.
    pub taken: Vec<Cidr>,
    /// Ranges of IPv6.
    pub taken6: Vec<Cidr6>,
    /// Random, and always the same on one host.
    pub host: u64,
    /// What networks are cut from that ask for no range.
    pub pools: Pools,
}

/// Checks the request against what there is and makes the network's record.
pub fn plan(state: &State, spec: &BridgeSpec, names: &Names, around: &Surroundings) -> Result<Bridge> {
    check_free(state, &spec.name)?;
    if !spec.config_from.is_empty() && !state.configs.contains_key(&spec.config_from) {
        return Err(Error::NoSuchNetwork(spec.config_from.clone()));
    }
    let on_bridge = spec.driver == LocalDriver::Bridge;
    let read = if on_bridge { Options::read(&spec.options)? } else { Options::read(&BTreeMap::new())? };
    let subnet = match spec.subnet {
        _ if spec.without_ipv4 || read.ipv4 == Some(false) => {
            without_ipv4(spec, &read)?;
            None
        }
        Some(subnet) => Some(check_subnet(state, subnet)?),
        None => {
            let ours = state.local().filter_map(|b| b.subnet);
            let swarm = state.swarm.iter().flat_map(|s| s.desired.networks.values());
            let used: Vec<_> =
                around.taken.iter().copied().chain(ours).chain(swarm.map(|n| n.subnet)).collect();
            Some(around.pools.free(&used).ok_or_else(|| Error::NoSubnet(spec.name.clone()))?)
        }
    };
    if let (Some(gateway), Some(subnet)) = (spec.gateway, subnet)
        && !subnet.hosts(gateway)
    {
        return Err(Error::Invalid {
            what: "gateway",
            value: gateway.to_string(),
            reason: format!("not a host address of {subnet}"),
        });
    }
    let ip_range = spec.ip_range.map(|r| r.network());
    if let Some((range, subnet)) = ip_range.zip(subnet) {
        within("IP range", subnet, range)?;
    }
    for (addr, subnet) in spec.aux_addresses.values().zip(subnet.iter().cycle()) {
        within("auxiliary address", *subnet, Cidr::host(*addr))?;
    }
    let id = random_id();
    let (options, direct) = match on_bridge {
        true => (read, None),
        false => {
            let (parent, upper) = direct::read(spec)?;
            let parent = parent.unwrap_or_else(|| direct::dummy(&id));
            direct::check_shared(state, &parent, &upper)?;
            (Options { interface: Some(parent), ..read }, Some(Direct { upper, made: false }))
        }
    };
    if let Some(name) = options.interface.as_ref().filter(|n| n.starts_with(&names.links())) {
        return Err(Error::Invalid {
            what: "bridge name",
            value: name.clone(),
            reason: format!("names that begin with {:?} are Skep's own: choose another one", names.links()),
        });
    }
    let isolated = |mode| mode == Mode::Isolated;
    if (isolated(options.mode) || isolated(options.mode6)) && !spec.internal {
        return Err(Error::Parent("gateway mode 'isolated' can only be used for an internal network".into()));
    }
    let gateway = subnet.map_or(Ipv4Addr::UNSPECIFIED, |subnet| match on_bridge {
        true if isolated(options.mode) => subnet.nobody(),
        true if subnet.is_pair() => spec.gateway.unwrap_or(subnet.first()),
        true => spec.gateway.unwrap_or_else(|| next(subnet.first())),
        false => spec.gateway.unwrap_or(subnet.nobody()),
    });
    let hosted6 = on_bridge && !isolated(options.mode6);
    let v6 = plan6(state, spec, options.ipv6, hosted6, around)?;
    Ok(Bridge {
        interface: options.interface.unwrap_or_else(|| names.bridge(&id)),
        id,
        name: spec.name.clone(),
        subnet,
        gateway,
        internal: spec.internal,
        attachable: spec.attachable,
        mtu: options.mtu,
        ip_range,
        aux_addresses: spec.aux_addresses.clone(),
        v6,
        chosen: spec.subnet.is_some(),
        isolated: !options.icc,
        unmasked: !options.masquerade,
        open: options.mode == Mode::Open,
        open6: options.mode6 == Mode::Open,
        untranslated: options.mode == Mode::Routed,
        untranslated6: options.mode6 == Mode::Routed,
        trusted: options.trusted,
        source: options.source,
        source6: options.source6,
        inhibited: options.inhibited,
        foreign: false,
        lent: BTreeMap::new(),
        guests: options.prefix.unwrap_or_default(),
        host_binding: options.host_binding,
        direct,
        labels: spec.labels.clone(),
        options: spec.options.clone(),
        config_from: spec.config_from.clone(),
        created_at_ns: now_ns(),
    })
}

/// Checks that nothing of IPv4 is asked of a network that is to have none.
fn without_ipv4(spec: &BridgeSpec, options: &Options) -> Result<()> {
    if !spec.ipv6 && options.ipv6 != Some(true) {
        return Err(Error::Forbidden("IPv4 or IPv6 must be enabled".into()));
    }
    let aux = spec.aux_addresses.values().next();
    let given = spec.subnet.map(|s| s.to_string()).or(spec.ip_range.map(|r| r.to_string()));
    match given.or(spec.gateway.or(aux.copied()).map(|a| a.to_string())) {
        Some(value) => Err(Error::Invalid {
            what: "subnet",
            value,
            reason: "it is IPv4, which the network is made without: leave out --ipv4=false".into(),
        }),
        None => Ok(()),
    }
}

fn next(addr: Ipv4Addr) -> Ipv4Addr {
    Ipv4Addr::from(u32::from(addr).saturating_add(1))
}

/// The options of a network's driver that mean nothing to it: taken and shown as by Docker, and told of.
pub fn unknown_options(spec: &BridgeSpec) -> Vec<String> {
    match spec.driver {
        LocalDriver::Bridge => options::unknown(&spec.options).cloned().collect(),
        _ => direct::unknown(spec).cloned().collect(),
    }
}

/// That a network of this host alone can be called so, and none is.
pub fn check_free(state: &State, name: &str) -> Result<()> {
    check_name(name)?;
    match state.local().any(|n| n.name == name) || state.configs.contains_key(name) {
        true => Err(Error::NetworkExists(name.to_owned())),
        false => Ok(()),
    }
}

fn check_name(name: &str) -> Result<()> {
    let good = |c: char| c.is_ascii_alphanumeric() || "_.-".contains(c);
    let reserved = ["host", "none", "default", "container"];
    if name.is_empty() || !name.starts_with(|c: char| c.is_ascii_alphanumeric()) || !name.chars().all(good) {
        return Err(Error::Invalid {
            what: "network name",
            value: name.into(),
            reason: "only [a-zA-Z0-9][a-zA-Z0-9_.-]* are allowed".into(),
        });
    }
    if reserved.contains(&name) {
        return Err(Error::Invalid {
            what: "network name",
            value: name.into(),
            reason: "it is predefined".into(),
        });
    }
    Ok(())
}

fn check_subnet(state: &State, subnet: Cidr) -> Result<Cidr> {
    let subnet = subnet.network();
    if !(8..=31).contains(&subnet.len) || subnet.addr.is_loopback() || subnet.addr.is_multicast() {
        return Err(Error::Invalid {
            what: "subnet",
            value: subnet.to_string(),
            reason: "it must be a unicast range between /8 and /31".into(),
        });
    }
    let bridges = state.local().filter_map(|b| Some((b.subnet?, &b.name)));
    let swarm = state.swarm.iter().flat_map(|s| s.desired.networks.values());
    let all = bridges.chain(swarm.map(|n| (n.subnet, &n.name)));
    match all.into_iter().find(|(other, _)| other.overlaps(&subnet)) {
        Some((other, name)) => {
            Err(Error::Overlap { subnet: subnet.to_string(), other: format!("{other} of network {name}") })
        }
        None => Ok(subnet),
    }
}

/// Checks that a part of the range lies in it.
fn within<A: Address>(what: &'static str, subnet: Cidr<A>, part: Cidr<A>) -> Result<()> {
    if subnet.contains(part.first()) && subnet.contains(part.last()) {
        return Ok(());
    }
    Err(Error::Invalid { what, value: part.to_string(), reason: format!("it is not within {subnet}") })
}

/// The network with its containers.
pub fn info(state: &State, bridge: &Bridge) -> BridgeInfo {
    let member = |(id, record): (&String, &crate::state::Record)| {
        let place = record.local().find(|m| m.endpoint.network_id == bridge.id)?;
        Some((id.clone(), Member { name: record.name.clone(), endpoint: place.endpoint.clone() }))
    };
    BridgeInfo {
        id: bridge.id.clone(),
        name: bridge.name.clone(),
        driver: match bridge.direct.as_ref().map(|d| &d.upper) {
            None => LocalDriver::Bridge,
            Some(Upper::Macvlan { .. }) => LocalDriver::Macvlan,
            Some(Upper::Ipvlan { .. }) => LocalDriver::Ipvlan,
        },
        interface: bridge.interface.clone(),
        subnet: bridge.subnet,
        chosen: bridge.chosen,
        gateway: bridge.gateway(),
        ip_range: bridge.ip_range,
        aux_addresses: bridge.aux_addresses.clone(),
        v6: bridge.v6.clone(),
        internal: bridge.internal,
        attachable: bridge.attachable,
        labels: bridge.labels.clone(),
        options: bridge.options.clone(),
        config_from: bridge.config_from.clone(),
        created_at_ns: bridge.created_at_ns,
        containers: state.containers.iter().filter_map(member).collect(),
    }
}

/// A hardware address made from an IPv4 address, as Docker makes them.
pub fn mac_of(addr: Ipv4Addr) -> Mac {
    let [a, b, c, d] = addr.octets();
    [0x02, 0x42, a, b, c, d]
}

/// One made from an IPv6 address, where there is no other.
pub fn mac_of6(addr: Ipv6Addr) -> Mac {
    let [_, _, _, _, a, b, c, d] = nft::digest(&addr.octets()).to_be_bytes();
    [0x02, 0x42, a, b, c, d]
}

/// 64 random hex characters.
pub fn random_id() -> String {
    rand::random::<[u8; 32]>().map(|b| format!("{b:02x}")).concat()
}

/// Nanoseconds since the Unix epoch.
pub fn now_ns() -> i64 {
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    now.map_or(0, |d| i64::try_from(d.as_nanos()).unwrap_or(i64::MAX))
}
