//! Places in networks: which interfaces, addresses and routes a container gets. Overlay networks are
//! routed (one veth carries all of them, no bridge); each bridge network has a veth of its own.

use std::collections::BTreeSet;
use std::net::Ipv4Addr;

use crate::bridge::{free_address, mac_of, random_id};
use crate::desired::{Cidr, Network};
use crate::error::{Error, Result};
use crate::link::Route;
use crate::model::{AttachRequest, Endpoint, Join};
use crate::names::{Names, mac_text};
use crate::state::{Bridge, Dns, Interface, Membership, Record, State};

/// Next hop of every routed container: nobody has this address, a static neighbour answers for it.
pub const GATEWAY: Ipv4Addr = Ipv4Addr::new(169, 254, 1, 1);
/// MTU before the tunnel is known: IPv6 underlay of 1500 bytes less WireGuard's 80.
const SAFE_MTU: u16 = 1420;

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
    let bridges = state.bridges.values().map(|b| (&b.id, &b.name, Found::Bridge(b)));
    let swarm = state.swarm.iter().flat_map(|s| s.desired.networks.values());
    let all: Vec<_> = bridges.chain(swarm.map(|n| (&n.id, &n.name, Found::Overlay(n)))).collect();
    let exact = all.iter().position(|(id, name, _)| *id == key || *name == key);
    let at = exact.or_else(|| {
        let mut begins =
            all.iter().enumerate().filter(|(_, (id, _, _))| !key.is_empty() && id.starts_with(key));
        let first = begins.next().map(|(at, _)| at);
        first.filter(|_| begins.next().is_none())
    });
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
        dns: Dns {
            servers: request.dns_servers.clone(),
            search: request.dns_search.clone(),
            options: request.dns_options.clone(),
        },
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
                    Some(carrier) => add(carrier, member),
                }
            }
        }
    }
    if let Some(carrier) = routed {
        record.interfaces.insert(0, carrier);
    }
    for (number, interface) in record.interfaces.iter_mut().enumerate() {
        interface.guest = format!("eth{number}");
    }
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
    let mut interface = match found {
        Found::Bridge(bridge) => bridged(state, bridge, join, names)?,
        Found::Overlay(network) => {
            let member = membership(state, network, join)?;
            if let Some(carrier) = record.interfaces.iter_mut().find(|i| i.bridge.is_none()) {
                add(carrier, member);
                return Ok(record);
            }
            carrier(state, member, join, names)
        }
    };
    let free = |name: &String| record.interfaces.iter().all(|i| i.guest != *name);
    interface.guest = (0..).map(|n| format!("eth{n}")).find(free).unwrap_or_default();
    record.interfaces.push(interface);
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
        mac: join.mac.unwrap_or_else(|| mac_of(member.endpoint.addr)),
        mtu: state.tunnel_mtu.unwrap_or(SAFE_MTU).into(),
        bridge: None,
        isolated: false,
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
    members.filter(move |m| m.endpoint.network_id == network_id).map(|m| m.endpoint.addr)
}

fn bridged(state: &State, bridge: &Bridge, join: &Join, names: &Names) -> Result<Interface> {
    let given = addresses_of(state, &bridge.id);
    let used: BTreeSet<_> = given.chain(bridge.aux_addresses.values().copied()).collect();
    let addr = match join.addr {
        Some(_) if !bridge.chosen => return Err(Error::UnchosenSubnet),
        Some(addr) => {
            let host = addr != bridge.subnet.first() && addr != bridge.subnet.last();
            if !bridge.subnet.contains(addr) || !host {
                return Err(Error::Invalid {
                    what: "address",
                    value: addr.to_string(),
                    reason: format!("not a host address of {} ({})", bridge.name, bridge.subnet),
                });
            }
            if used.contains(&addr) || addr == bridge.gateway {
                return Err(Error::AddressInUse { addr, network: bridge.name.clone() });
            }
            addr
        }
        None => {
            let last = state.last_given.get(&bridge.id).copied();
            let range = bridge.ip_range.unwrap_or(bridge.subnet);
            free_address(bridge.subnet, range, bridge.gateway, &used, last)
                .ok_or_else(|| Error::Exhausted { network: bridge.name.clone(), subnet: bridge.subnet })?
        }
    };
    let mac = join.mac.unwrap_or_else(|| mac_of(addr));
    let endpoint_id = random_id();
    Ok(Interface {
        host: names.bridge_veth(&endpoint_id),
        guest: String::new(),
        isolated: bridge.isolated,
        mac,
        mtu: bridge.mtu,
        bridge: Some(bridge.interface.clone()),
        members: vec![Membership {
            endpoint: Endpoint {
                network: bridge.name.clone(),
                network_id: bridge.id.clone(),
                endpoint_id,
                addr,
                prefix_len: bridge.subnet.len,
                gateway: (!bridge.internal).then_some(bridge.gateway),
                mac: mac_text(&mac),
                aliases: join.aliases.clone(),
            },
            subnet: bridge.subnet,
            internal: bridge.internal,
            ingress: false,
            links: join.links.clone(),
        }],
    })
}

fn membership(state: &State, network: &Network, join: &Join) -> Result<Membership> {
    let addr = join.addr.ok_or_else(|| Error::NeedsSwarmAddress(network.name.clone()))?;
    if !network.subnet.contains(addr) {
        return Err(Error::Invalid {
            what: "address",
            value: addr.to_string(),
            reason: format!("not in network {} ({})", network.name, network.subnet),
        });
    }
    if addresses_of(state, &network.id).any(|used| used == addr) {
        return Err(Error::AddressInUse { addr, network: network.name.clone() });
    }
    Ok(Membership {
        endpoint: Endpoint {
            network: network.name.clone(),
            network_id: network.id.clone(),
            endpoint_id: random_id(),
            addr,
            prefix_len: network.subnet.len,
            gateway: (!network.internal).then_some(GATEWAY),
            mac: String::new(),
            aliases: join.aliases.clone(),
        },
        subnet: network.subnet,
        internal: network.internal,
        ingress: network.ingress,
        links: join.links.clone(),
    })
}

/// Addresses inside the container.
pub fn addresses(interface: &Interface) -> Vec<Cidr> {
    let routed = interface.bridge.is_none();
    let one = |m: &Membership| match routed {
        true => Cidr::host(m.endpoint.addr),
        false => Cidr { addr: m.endpoint.addr, len: m.subnet.len },
    };
    interface.members.iter().map(one).collect()
}

/// Routes inside the container, per interface in its order. A bridge's own subnet needs none.
///
/// The default route goes out by the overlay, from an address that is not the ingress network's, unless
/// all overlays are internal and there is a bridge with a way out.
pub fn routes(record: &Record) -> Vec<Vec<Route>> {
    let way_out = record.bridged().any(|m| !m.internal);
    let default = |via, src| Route { to: Cidr { addr: Ipv4Addr::UNSPECIFIED, len: 0 }, via: Some(via), src };
    let mut has_default = false;
    let mut all = Vec::new();
    for interface in &record.interfaces {
        let mut routes = Vec::new();
        if interface.bridge.is_none() {
            routes.push(Route { to: Cidr::host(GATEWAY), via: None, src: None });
            let own = interface.members.iter().filter(|m| !m.ingress);
            for member in own.clone() {
                let src = Some(member.endpoint.addr);
                routes.push(Route { to: member.subnet.network(), via: Some(GATEWAY), src });
            }
            let open = interface.members.iter().any(|m| !m.internal);
            if open || !way_out {
                let preferred = own.clone().find(|m| !m.internal).or_else(|| own.clone().next());
                let source = preferred.or(interface.members.first());
                routes.push(default(GATEWAY, source.map(|m| m.endpoint.addr)));
                has_default = true;
            }
        } else if let Some(gateway) = interface.members.iter().find_map(|m| m.endpoint.gateway)
            && !has_default
        {
            routes.push(default(gateway, None));
            has_default = true;
        }
        all.push(routes);
    }
    all
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
                    addr,
                    prefix_len: 24,
                    gateway: (bridge && !internal).then_some(Ipv4Addr::new(a, b, c, 1)),
                    mac: String::new(),
                    aliases: Vec::new(),
                },
                subnet: Cidr { addr: Ipv4Addr::new(a, b, c, 0), len: 24 },
                internal: *internal,
                ingress: *ingress,
                links: Vec::new(),
            }
        };
        Interface {
            host: String::new(),
            guest: String::new(),
            isolated: false,
            mac: [0; 6],
            mtu: 1420,
            bridge: bridge.then(String::new),
            members: networks.iter().map(member).collect(),
        }
    }

    /// The default routes as (interface, next hop, source).
    fn defaults(interfaces: Vec<Interface>) -> Vec<(usize, String, String)> {
        let record = Record {
            container_id: String::new(),
            name: String::new(),
            interfaces,
            order: Vec::new(),
            ports: Vec::new(),
            dns: Dns::default(),
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
        for (interfaces, expected) in [
            (vec![bridge.clone()], one(0, "172.18.0.1", "")),
            (vec![closed.clone()], vec![]),
            (vec![closed.clone(), bridge.clone()], one(1, "172.18.0.1", "")),
            (vec![interface(false, &[ingress])], one(0, &gateway, "10.0.0.5")),
            (vec![interface(false, &[ingress, inner])], one(0, &gateway, "10.0.2.5")),
            (vec![interface(false, &[ingress, inner, open])], one(0, &gateway, "10.0.1.5")),
            (vec![interface(false, &[inner]), bridge.clone()], one(1, "172.18.0.1", "")),
            (vec![interface(false, &[open]), bridge.clone()], one(0, &gateway, "10.0.1.5")),
        ] {
            assert_eq!(defaults(interfaces.clone()), expected, "{interfaces:?}");
        }
    }
}
