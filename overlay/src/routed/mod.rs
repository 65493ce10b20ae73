//! Places in networks: which interfaces, addresses and routes a container gets. Overlay networks are
//! routed (one veth carries all of them, no bridge); each bridge network has a veth of its own.

mod v6;

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use crate::bridge::{free_address, mac_of, mac_of6, random_id};
use crate::cidr::{Address, Cidr};
use crate::desired::Network;
use crate::endpoint;
use crate::error::{Error, Result};
use crate::link::{Mac, Route, Upper};
use crate::model::{AttachRequest, Endpoint, Endpoint6, Join, Range6};
use crate::names::{Names, mac_text};
use crate::state::{Bridge, Dns, Interface, Membership, On, Record, State};
use crate::sysctl;

pub use v6::{GATEWAY6, addresses6, answers_from6, host_neighbours6, host_routes6, routes6};

/// Next hop of every routed container: nobody has this address, a static neighbour answers for it.
pub const GATEWAY: Ipv4Addr = Ipv4Addr::new(169, 254, 1, 1);
/// MTU before the tunnel is known: IPv6 underlay of 1500 bytes less WireGuard's 80.
pub const SAFE_MTU: u16 = 1420;

enum Found<'a> {
    Bridge(&'a Bridge),
    Overlay(&'a Network),
}

impl Found<'_> {
    fn id(&self) -> &str {
        match self {
            Self::Bridge(bridge) => &bridge.id,
            Self::Overlay(network) => &network.id,
        }
    }

    fn name(&self) -> &str {
        match self {
            Self::Bridge(bridge) => &bridge.name,
            Self::Overlay(network) => &network.name,
        }
    }
}

/// Finds a network by ID, name or unambiguous beginning of the ID.
fn find<'a>(state: &'a State, key: &str) -> Result<Found<'a>> {
    let bridges = state.local().map(|b| (&b.id, &b.name, Found::Bridge(b)));
    let swarm = state.swarm.iter().flat_map(|s| s.desired.networks.values());
    let all: Vec<_> = bridges.chain(swarm.map(|n| (&n.id, &n.name, Found::Overlay(n)))).collect();
    let exact = all.iter().position(|(id, name, _)| *id == key || *name == key);
    let at = exact.or_else(|| {
        let mut begins =
            all.iter().enumerate().filter(|(_, (id, _, _))| !key.is_empty() && id.starts_with(key));
        let first = begins.next().map(|(at, _)| at);
        first.filter(|_| begins.next().is_none())
    });
    if at.is_none() && state.configs.values().any(|c| c.spec.name == key || c.id == key) {
        return Err(Error::Forbidden("cannot create endpoint on configuration-only network".into()));
    }
    let mut all = all;
    at.map(|at| all.swap_remove(at).2).ok_or_else(|| Error::NoSuchNetwork(key.into()))
}

/// Decides a container's interfaces and addresses. Ports are added by the caller.
pub fn plan(state: &State, request: &AttachRequest, names: &Names) -> Result<Record> {
    let id = &request.container_id;
    let mut record = Record {
        container_id: id.clone(),
        name: request.name.clone(),
        interfaces: Vec::new(),
        order: Vec::new(),
        ports: Vec::new(),
        doors: Vec::new(),
        asked: request.ports.clone(),
        linked: request.linked.clone(),
        relayed: false,
        dns: Dns {
            servers: request.dns_servers.clone(),
            search: request.dns_search.clone(),
            options: request.dns_options.clone(),
        },
        user_namespace: request.user_namespace.clone(),
    };
    let mut routed = None;
    for join in &request.networks {
        let found = find(state, &join.network)?;
        if record.order.iter().any(|n| n == found.id()) {
            return Err(Error::Invalid {
                what: "network",
                value: join.network.clone(),
                reason: "it is given twice".into(),
            });
        }
        record.order.push(found.id().to_owned());
        match found {
            Found::Bridge(bridge) => record.interfaces.push(bridged(state, bridge, join, names)?),
            Found::Overlay(network) => {
                let member = membership(state, network, join)?;
                match &mut routed {
                    None => routed = Some(carrier(state, member, join, names)),
                    Some(carrier) => {
                        add(carrier, member);
                        carrier.priority = carrier.priority.max(join.priority);
                    }
                }
            }
        }
    }
    if let Some(carrier) = routed {
        record.interfaces.insert(0, carrier);
    }
    endpoint::name(&mut record)?;
    Ok(record)
}

/// The record with one more network.
pub fn extend(state: &State, record: &Record, join: &Join, names: &Names) -> Result<Record> {
    let mut record = record.clone();
    let found = find(state, &join.network)?;
    if record.order.iter().any(|n| n == found.id()) {
        return Err(Error::AlreadyConnected { container: record.name, network: found.name().to_owned() });
    }
    record.order.push(found.id().to_owned());
    let interface = match found {
        Found::Bridge(bridge) => bridged(state, bridge, join, names)?,
        Found::Overlay(network) => {
            let member = membership(state, network, join)?;
            if let Some(carrier) = record.interfaces.iter_mut().find(|i| i.is_routed()) {
                add(carrier, member);
                carrier.priority = carrier.priority.max(join.priority);
                return Ok(record);
            }
            carrier(state, member, join, names)
        }
    };
    record.interfaces.push(interface);
    endpoint::name(&mut record)?;
    Ok(record)
}

/// The record without a network; none if the container is not in it.
pub fn without(record: &Record, network_id: &str) -> Option<Record> {
    let mut record = record.clone();
    let at = record.order.iter().position(|n| n == network_id)?;
    record.order.remove(at);
    for interface in &mut record.interfaces {
        interface.members.retain(|m| m.endpoint.network_id != network_id);
    }
    record.interfaces.retain(|i| !i.members.is_empty());
    Some(record)
}

/// The interface that carries a container's overlay networks, with the first of them.
fn carrier(state: &State, member: Membership, join: &Join, names: &Names) -> Interface {
    let mut interface = Interface {
        host: names.routed_veth(&member.endpoint.endpoint_id),
        guest: String::new(),
        mac: join.mac.unwrap_or_else(|| mac(&member.endpoint)),
        prefix: String::new(),
        mtu: state.tunnel_mtu.unwrap_or(SAFE_MTU).into(),
        bridge: None,
        on: None,
        isolated: false,
        priority: join.priority,
        sysctls: Vec::new(),
        members: Vec::new(),
    };
    add(&mut interface, member);
    interface
}

/// One more overlay network on the interface.
fn add(carrier: &mut Interface, mut member: Membership) {
    member.endpoint.mac = mac_text(&carrier.mac);
    carrier.members.push(member);
}

fn addresses_of<'a>(state: &'a State, network_id: &'a str) -> impl Iterator<Item = Ipv4Addr> + 'a {
    let members = state.containers.values().flat_map(Record::members);
    members.filter(move |m| m.endpoint.network_id == network_id).filter_map(|m| m.endpoint.addr)
}

/// Where an address is given from.
struct Range<'a, A> {
    bridge: &'a Bridge,
    subnet: Cidr<A>,
    part: Option<Cidr<A>>,
    gateway: A,
    chosen: bool,
    used: BTreeSet<A>,
}

impl<A: Address> Range<'_, A> {
    /// The address asked for, or any free one.
    fn give(&self, asked: Option<A>) -> Result<A> {
        let Self { bridge, subnet, part, gateway, used, .. } = self;
        match asked {
            Some(_) if !self.chosen => Err(Error::UnchosenSubnet),
            Some(addr) => {
                if !subnet.hosts(addr) {
                    return Err(Error::Invalid {
                        what: "address",
                        value: addr.to_string(),
                        reason: format!("not a host address of {} ({subnet})", bridge.name),
                    });
                }
                if used.contains(&addr) || addr == *gateway {
                    return Err(Error::AddressInUse { addr: addr.into(), network: bridge.name.clone() });
                }
                Ok(addr)
            }
            None => free_address(*subnet, part.unwrap_or(*subnet), *gateway, used)
                .ok_or_else(|| Error::Exhausted { network: bridge.name.clone(), subnet: subnet.to_string() }),
        }
    }
}

fn give(state: &State, bridge: &Bridge, asked: Option<Ipv4Addr>) -> Result<Option<Ipv4Addr>> {
    let Some(subnet) = bridge.subnet else {
        return match asked {
            None => Ok(None),
            Some(addr) => Err(Error::Invalid {
                what: "address",
                value: addr.to_string(),
                reason: format!("network {} has no IPv4: choose one of IPv6 (--ip6)", bridge.name),
            }),
        };
    };
    let given = addresses_of(state, &bridge.id);
    let range = Range {
        bridge,
        subnet,
        part: bridge.ip_range,
        gateway: bridge.gateway,
        chosen: bridge.chosen,
        used: given.chain(bridge.aux_addresses.values().copied()).collect(),
    };
    range.give(asked).map(Some)
}

/// A hardware address made from the address, of IPv4 where there is one.
fn mac(endpoint: &Endpoint) -> Mac {
    let v6 = || endpoint.v6.as_ref().map_or(Ipv6Addr::UNSPECIFIED, |v6| v6.addr);
    endpoint.addr.map_or_else(|| mac_of6(v6()), mac_of)
}

fn give6(state: &State, bridge: &Bridge, range: &Range6, asked: Option<Ipv6Addr>) -> Result<Endpoint6> {
    let members = state.containers.values().flat_map(Record::members);
    let own = members.filter(|m| m.endpoint.network_id == bridge.id);
    let given = own.filter_map(|m| m.endpoint.v6.as_ref()).map(|e| e.addr);
    let from = Range {
        bridge,
        subnet: range.subnet,
        part: range.ip_range,
        gateway: range.gateway,
        chosen: range.chosen,
        used: given.chain(range.aux_addresses.values().copied()).collect(),
    };
    Ok(Endpoint6 { addr: from.give(asked)?, prefix_len: range.subnet.len, gateway: bridge.way6() })
}

/// Checks the link-local addresses asked for.
fn link_local(bridge: &Bridge, join: &Join) -> Result<Vec<IpAddr>> {
    for addr in &join.link_local {
        let reason = match addr {
            IpAddr::V4(addr) if addr.is_link_local() && bridge.subnet.is_some() => continue,
            IpAddr::V4(addr) if addr.is_link_local() => format!("network {} has no IPv4", bridge.name),
            IpAddr::V6(addr) if addr.is_unicast_link_local() && bridge.v6.is_some() => continue,
            IpAddr::V6(addr) if addr.is_unicast_link_local() => {
                format!("network {} has no IPv6: make it with --ipv6", bridge.name)
            }
            _ => "it is not within 169.254.0.0/16 or fe80::/10".to_owned(),
        };
        return Err(Error::Invalid { what: "link-local address", value: addr.to_string(), reason });
    }
    Ok(join.link_local.clone())
}

fn bridged(state: &State, bridge: &Bridge, join: &Join, names: &Names) -> Result<Interface> {
    let addr = give(state, bridge, join.addr)?;
    let v6 = match (&bridge.v6, join.addr6) {
        (Some(range), asked) => Some(give6(state, bridge, range, asked)?),
        (None, None) => None,
        (None, Some(addr)) => {
            return Err(Error::Invalid {
                what: "address",
                value: addr.to_string(),
                reason: format!("network {} has no IPv6: make it with --ipv6", bridge.name),
            });
        }
    };
    let link_local = link_local(bridge, join)?;
    let options = endpoint::Options::read(&join.options)?;
    let endpoint_id = random_id();
    let on = bridge
        .direct
        .as_ref()
        .map(|direct| On { parent: bridge.interface.clone(), upper: direct.upper.clone() });
    let shares_mac = on.as_ref().is_some_and(|on| matches!(on.upper, Upper::Ipvlan { .. }));
    if shares_mac && join.mac.is_some() {
        return Err(Error::Parent("ipvlan interfaces do not support custom mac address assignment".into()));
    }
    let mut endpoint = Endpoint {
        network: bridge.name.clone(),
        network_id: bridge.id.clone(),
        endpoint_id,
        addr,
        prefix_len: bridge.subnet.map_or(0, |s| s.len),
        gateway: bridge.way(),
        v6,
        link_local,
        mac: String::new(),
        aliases: join.aliases.clone(),
    };
    let mac = join.mac.unwrap_or_else(|| mac(&endpoint));
    if !shares_mac {
        endpoint.mac = mac_text(&mac);
    }
    Ok(Interface {
        host: match on {
            Some(_) => names.direct(&endpoint.endpoint_id),
            None => names.bridge_veth(&endpoint.endpoint_id),
        },
        prefix: bridge.guests.clone(),
        guest: options.ifname.unwrap_or_default(),
        priority: join.priority,
        sysctls: options.sysctls,
        isolated: bridge.isolated,
        mac,
        mtu: bridge.mtu,
        bridge: on.is_none().then(|| bridge.interface.clone()),
        on,
        members: vec![Membership {
            endpoint,
            subnet: bridge.subnet,
            subnet6: None,
            internal: bridge.internal,
            ingress: false,
            links: join.links.clone(),
        }],
    })
}

fn membership(state: &State, network: &Network, join: &Join) -> Result<Membership> {
    let addr = join.addr.ok_or_else(|| Error::NeedsSwarmAddress(network.name.clone()))?;
    let v6 = endpoint6(state, network, join)?;
    if let Some(other) = join.link_local.first() {
        return Err(Error::Invalid {
            what: "link-local address",
            value: other.to_string(),
            reason: format!("network {} is an overlay: its containers have none", network.name),
        });
    }
    if let Some(name) = join.options.keys().next() {
        return Err(Error::Invalid {
            what: "endpoint option",
            value: name.clone(),
            reason: format!(
                "network {} is an overlay: one interface carries all of a container's",
                network.name
            ),
        });
    }
    if !network.subnet.contains(addr) {
        return Err(Error::Invalid {
            what: "address",
            value: addr.to_string(),
            reason: format!("not in network {} ({})", network.name, network.subnet),
        });
    }
    if addresses_of(state, &network.id).any(|used| used == addr) {
        return Err(Error::AddressInUse { addr: addr.into(), network: network.name.clone() });
    }
    Ok(Membership {
        endpoint: Endpoint {
            network: network.name.clone(),
            network_id: network.id.clone(),
            endpoint_id: random_id(),
            addr: Some(addr),
            prefix_len: network.subnet.len,
            gateway: (!network.internal).then_some(GATEWAY),
            v6,
            link_local: Vec::new(),
            mac: String::new(),
            aliases: join.aliases.clone(),
        },
        subnet: Some(network.subnet),
        subnet6: network.subnet6,
        internal: network.internal,
        ingress: network.ingress,
        links: join.links.clone(),
    })
}

/// The place by IPv6 that a manager has given.
fn endpoint6(state: &State, network: &Network, join: &Join) -> Result<Option<Endpoint6>> {
    let Some(addr) = join.addr6 else { return Ok(None) };
    let refuse = |reason| Err(Error::Invalid { what: "address", value: addr.to_string(), reason });
    let name = &network.name;
    let Some(subnet) = network.subnet6 else {
        return refuse(format!("network {name} has no IPv6: make it with --ipv6"));
    };
    if !subnet.contains(addr) {
        return refuse(format!("not in network {name} ({subnet})"));
    }
    if !sysctl::knows_ipv6() {
        return refuse(format!(
            "network {name} has IPv6, and the kernel of this host has not: turn it on there"
        ));
    }
    let mut members = state.containers.values().flat_map(Record::members);
    let held = |m: &Membership| m.endpoint.v6.as_ref().is_some_and(|v6| v6.addr == addr);
    if members.any(|m| m.endpoint.network_id == network.id && held(m)) {
        return Err(Error::AddressInUse { addr: addr.into(), network: name.clone() });
    }
    let gateway = (!network.internal).then_some(GATEWAY6);
    Ok(Some(Endpoint6 { addr, prefix_len: subnet.len, gateway }))
}

/// Addresses of IPv4 inside the container.
pub fn addresses(interface: &Interface) -> Vec<Cidr> {
    let routed = interface.is_routed();
    let one = |m: &Membership| match routed {
        true => m.endpoint.addr.map(Cidr::host),
        false => Some(Cidr { addr: m.endpoint.addr?, len: m.subnet?.len }),
    };
    let link_local = interface.members.iter().flat_map(|m| &m.endpoint.link_local);
    let link_local = link_local.filter_map(|a| match a {
        IpAddr::V4(addr) => Some(Cidr { addr: *addr, len: 16 }),
        IpAddr::V6(_) => None,
    });
    interface.members.iter().filter_map(one).chain(link_local).collect()
}

/// The first of the highest priority.
fn preferred<'a, T>(ways: impl Iterator<Item = (&'a Interface, T)>) -> Option<(&'a Interface, T)> {
    ways.reduce(|best, other| if other.0.priority > best.0.priority { other } else { best })
}

/// The way out by an interface of a network of this host alone: the next hop, or the interface itself.
fn way(interface: &Interface) -> Option<Option<Ipv4Addr>> {
    let four = |m: &&Membership| !interface.is_routed() && m.endpoint.addr.is_some();
    let mut places = interface.members.iter().filter(four);
    places.find_map(|m| way_by(interface, m, m.endpoint.gateway))
}

/// The way out from one place of an interface. In layer 3 there is no next hop.
fn way_by<A>(interface: &Interface, place: &Membership, gateway: Option<A>) -> Option<Option<A>> {
    match interface.on.as_ref().is_some_and(|on| on.upper.is_layer3()) {
        true => (!place.internal).then_some(None),
        false => gateway.map(Some),
    }
}

/// Routes inside the container, per interface in its order. A bridge's own subnet needs none.
///
/// The default route goes out by the network of the highest priority that has a way out. Of equal ones, by the overlay,
/// from an address that is not the ingress network's; and by internal overlays if there is no other way.
pub fn routes(record: &Record) -> Vec<Vec<Route>> {
    let default = |via, src| Route { to: Cidr::all(), via, src };
    let open = |i: &Interface| i.is_routed() && i.members.iter().any(|m| !m.internal);
    let ways = record.interfaces.iter().filter(|i| open(i) || way(i).is_some()).map(|i| (i, ()));
    let out = preferred(ways).map(|(i, ())| i).or_else(|| record.routed());
    let mut all = Vec::new();
    for interface in &record.interfaces {
        let is_out = out.is_some_and(|out| std::ptr::eq(out, interface));
        let mut routes = Vec::new();
        if interface.is_routed() {
            routes.push(Route { to: Cidr::host(GATEWAY), via: None, src: None });
            let own = interface.members.iter().filter(|m| !m.ingress);
            for (subnet, src) in own.filter_map(|m| Some((m.subnet?, m.endpoint.addr))) {
                routes.push(Route { to: subnet.network(), via: Some(GATEWAY), src });
            }
            if is_out {
                routes.push(default(Some(GATEWAY), way_out_from(interface)));
            }
        } else if is_out && let Some(via) = way(interface) {
            routes.push(default(via, None));
        }
        all.push(routes);
    }
    all
}

/// The address that leaves by the default route of a routed interface.
fn way_out_from(interface: &Interface) -> Option<Ipv4Addr> {
    let mut own = interface.members.iter().filter(|m| !m.ingress);
    let first = own.clone().next();
    let preferred = own.find(|m| !m.internal).or(first);
    preferred.or(interface.members.first()).and_then(|m| m.endpoint.addr)
}

/// The address that a server on all addresses answers datagrams of strangers from.
pub fn answers_from(record: &Record) -> Option<Ipv4Addr> {
    record.routed().and_then(way_out_from)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn interface(bridge: bool, networks: &[(&str, bool, bool)]) -> Interface {
        let member = |(addr, internal, ingress): &(&str, bool, bool)| {
            let addr: Ipv4Addr = addr.parse().expect("address");
            let [a, b, c, _] = addr.octets();
            Membership {
                endpoint: Endpoint {
                    network: String::new(),
                    network_id: addr.to_string(),
                    endpoint_id: String::new(),
                    addr: Some(addr),
                    prefix_len: 24,
                    gateway: (bridge && !internal).then_some(Ipv4Addr::new(a, b, c, 1)),
                    v6: None,
                    link_local: Vec::new(),
                    mac: String::new(),
                    aliases: Vec::new(),
                },
                subnet: Some(Cidr { addr: Ipv4Addr::new(a, b, c, 0), len: 24 }),
                subnet6: None,
                internal: *internal,
                ingress: *ingress,
                links: Vec::new(),
            }
        };
        Interface {
            host: String::new(),
            guest: String::new(),
            prefix: String::new(),
            isolated: false,
            mac: [0; 6],
            mtu: 1420,
            bridge: bridge.then(String::new),
            on: None,
            priority: 0,
            sysctls: Vec::new(),
            members: networks.iter().map(member).collect(),
        }
    }

    /// The default routes as (interface, next hop, source).
    fn defaults(interfaces: Vec<Interface>) -> Vec<(usize, String, String)> {
        let record = Record {
            asked: Vec::new(),
            linked: Vec::new(),
            container_id: String::new(),
            name: String::new(),
            interfaces,
            order: Vec::new(),
            ports: Vec::new(),
            doors: Vec::new(),
            relayed: false,
            dns: Dns::default(),
            user_namespace: None,
        };
        let text = |a: Option<Ipv4Addr>| a.map_or_else(String::new, |a| a.to_string());
        let all = routes(&record).into_iter().enumerate().flat_map(|(n, routes)| {
            let defaults = routes.into_iter().filter(|r| r.to.len == 0);
            defaults.map(move |r| (n, text(r.via), text(r.src))).collect::<Vec<_>>()
        });
        all.collect()
    }

    #[test]
    fn one_default_route_by_the_best_way_out() {
        let one = |n, via: &str, src: &str| vec![(n, via.to_owned(), src.to_owned())];
        let gateway = GATEWAY.to_string();
        let ingress = ("10.0.0.5", false, true);
        let open = ("10.0.1.5", false, false);
        let inner = ("10.0.2.5", true, false);
        let bridge = interface(true, &[("172.18.0.2", false, false)]);
        let closed = interface(true, &[("172.19.0.2", true, false)]);
        let preferred = Interface { priority: 1, ..bridge.clone() };
        for (interfaces, expected) in [
            (vec![bridge.clone()], one(0, "172.18.0.1", "")),
            (vec![closed.clone()], vec![]),
            (vec![closed.clone(), bridge.clone()], one(1, "172.18.0.1", "")),
            (vec![interface(false, &[ingress])], one(0, &gateway, "10.0.0.5")),
            (vec![interface(false, &[ingress, inner])], one(0, &gateway, "10.0.2.5")),
            (vec![interface(false, &[ingress, inner, open])], one(0, &gateway, "10.0.1.5")),
            (vec![interface(false, &[inner]), bridge.clone()], one(1, "172.18.0.1", "")),
            (vec![interface(false, &[open]), bridge.clone()], one(0, &gateway, "10.0.1.5")),
            (vec![interface(false, &[open]), preferred.clone()], one(1, "172.18.0.1", "")),
            (vec![bridge.clone(), Interface { priority: 2, ..closed.clone() }], one(0, "172.18.0.1", "")),
        ] {
            assert_eq!(defaults(interfaces.clone()), expected, "{interfaces:?}");
        }
    }
}
