//! Interfaces, addresses, routes, settings and pins of the host: what differs from the state, and how
//! each difference is removed.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::net::Ipv6Addr;
use std::path::{Path, PathBuf};
use std::sync::Mutex;

use super::mesh;
use super::six::{Held6, forward6, routed6, tunnel6};
use super::way::{Way, differences};
use super::wire::{
    SETTINGS, SETTINGS6, answers_for_others, host_routes, isolates, make_bridge, ours, port_steps, settle6,
    wire,
};
use crate::cidr::Cidr;
use crate::direct;
use crate::error::{Error, Result};
use crate::link::{Links, Mac, Route, step};
use crate::names::Names;
use crate::netns;
use crate::state::{Bridge, Interface, Record, State};
use crate::sysctl;

/// One difference.
#[derive(Clone, Debug)]
pub enum Repair {
    /// A setting of the whole namespace.
    Sysctl(&'static str, &'static str),
    /// Packets of IPv6 are not passed on; what the names of our links begin with.
    Forward6(String),
    /// A bridge is missing, down or without its address.
    Bridge(Box<Bridge>),
    /// The interface that a network is on is ours, and missing.
    Parent(Box<Bridge>),
    /// A container's veth or namespace is missing.
    Wire(Box<Record>),
    /// A veth is not in its bridge, or not up.
    Enslave {
        /// The veth.
        link: String,
        /// Its interface, and whether its container publishes ports.
        interface: Box<Interface>,
        hairpin: bool,
    },
    /// Settings of an interface of ours.
    Settings(String),
    /// Its settings of IPv6.
    Settings6(String),
    /// A neighbour that needs no asking is missing.
    Neighbour6(String, Ipv6Addr, Mac),
    /// A route is missing.
    Route(String, Way),
    /// A route that nobody wants.
    DropRoute(String, Way),
    /// An interface that nobody wants.
    DropLink(String),
    /// A pinned namespace that nobody wants.
    Unpin(PathBuf),
    /// The ingress mesh.
    Mesh(Box<mesh::Differences>),
}

impl fmt::Display for Repair {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Sysctl(name, value) => write!(f, "sysctl net/{name} is not {value}"),
            Self::Forward6(_) => write!(f, "sysctl net/{} is not 1", sysctl::FORWARD6),
            Self::Bridge(bridge) => {
                write!(f, "bridge {} of network {} is not in order", bridge.interface, bridge.name)
            }
            Self::Parent(network) => {
                write!(f, "interface {} of network {} is missing", network.interface, network.name)
            }
            Self::Wire(record) => write!(f, "container {} is not wired", record.container_id),
            Self::Enslave { link, .. } => {
                write!(f, "interface {link} is not up, or not as it should be in its bridge")
            }
            Self::Settings(link) => write!(f, "settings of interface {link} differ"),
            Self::Settings6(link) => write!(f, "IPv6 settings of interface {link} differ"),
            Self::Neighbour6(link, addr, _) => write!(f, "neighbour {addr} on {link} is missing"),
            Self::Route(link, way) => write!(f, "route {way} on {link} is missing"),
            Self::DropRoute(link, way) => write!(f, "route {way} on {link} is not wanted"),
            Self::DropLink(link) => write!(f, "interface {link} belongs to nobody"),
            Self::Unpin(path) => write!(f, "namespace {} belongs to nobody", path.display()),
            Self::Mesh(found) => write!(f, "{found}"),
        }
    }
}

impl Repair {
    /// The container it is about, where it makes or removes what is a container's.
    pub fn container(&self) -> Option<&str> {
        match self {
            Self::Wire(record) => Some(&record.container_id),
            Self::Unpin(path) => path.file_name().and_then(|n| n.to_str()),
            _ => None,
        }
    }
}

const GLOBAL: [(&str, &str); 2] = [("ipv4/ip_forward", "1"), ("ipv4/conf/all/send_redirects", "0")];

/// Compares the kernel with the state. `leaving` are interfaces whose removal is under way.
pub fn plan(state: &State, names: &Names, pins: &Path, leaving: &BTreeSet<String>) -> Result<Vec<Repair>> {
    let mut host = Links::open()?;
    let links = host.list()?;
    let routes = host.routes()?;
    let addresses = host.addresses()?;
    let mut repairs: Vec<Repair> = GLOBAL
        .iter()
        .filter(|(name, value)| sysctl::read(name).as_deref() != Some(value))
        .map(|(name, value)| Repair::Sysctl(name, value))
        .collect();
    let mut addresses6 = Vec::new();
    let held6 = Held6::read(&mut host)?;
    if state.bridges.values().any(|b| b.v6.is_some()) {
        addresses6 = host.addresses()?;
    }
    repairs.extend(forward6(state, names));

    let mut wanted: BTreeSet<&str> = BTreeSet::new();
    for bridge in state.bridges.values() {
        wanted.insert(&bridge.interface);
        let addressed = bridge.hosted().is_none_or(|addr| {
            links.get(&bridge.interface).is_some_and(|link| addresses.contains(&(link.index, addr)))
        });
        let fine = links.get(&bridge.interface).is_some_and(|link| {
            let addressed6 = bridge.hosted6().is_none_or(|a| addresses6.contains(&(link.index, a)));
            let settled6 = bridge.v6.is_none() || (addressed6 && settled6(&bridge.interface));
            // Of one of the user's, addresses are the user's business, too.
            let whole = bridge.foreign || (link.up && addressed && settled6);
            whole && settled(&bridge.interface) && answers_for_others(bridge)
        });
        if !fine {
            repairs.push(Repair::Bridge(Box::new(bridge.clone())));
        }
    }
    for network in state.direct.values() {
        let ours = network.direct.as_ref().is_some_and(|d| d.made);
        if ours && !links.contains_key(&network.interface) {
            repairs.push(Repair::Parent(Box::new(network.clone())));
        }
    }
    for record in state.containers.values() {
        wanted.extend(record.interfaces.iter().map(|i| i.host.as_str()));
        let veths = record.interfaces.iter().filter(|i| i.on.is_none());
        let present = veths.clone().all(|i| links.contains_key(&i.host));
        let pin = pins.join(&record.container_id);
        if !present || !netns::is_pinned(&pin) || !has_uppers(record, &pin) {
            repairs.push(Repair::Wire(Box::new(record.clone())));
            continue;
        }
        for interface in veths {
            let link = &links[&interface.host];
            let fine = match &interface.bridge {
                Some(bridge) => links.get(bridge).is_some_and(|b| link.master == Some(b.index)),
                None => link.master.is_none(),
            };
            if !link.up || !fine || link.isolated != isolates(interface) {
                repairs.push(Repair::Enslave {
                    link: interface.host.clone(),
                    interface: Box::new(interface.clone()),
                    hairpin: !record.ports.is_empty(),
                });
            }
            if interface.bridge.is_none() {
                for route in host_routes(interface) {
                    if !routes.contains(&(link.index, route.clone())) {
                        repairs.push(Repair::Route(interface.host.clone(), route.into()));
                    }
                }
                let wanted = host_routes(interface);
                let stray =
                    routes.iter().filter(|(index, route)| *index == link.index && !wanted.contains(route));
                let stray = stray.map(|(_, r)| r.clone().into());
                repairs.extend(stray.map(|way| Repair::DropRoute(interface.host.clone(), way)));
                repairs.extend(routed6(interface, link.index, &held6));
                if !settled(&interface.host) {
                    repairs.push(Repair::Settings(interface.host.clone()));
                }
            }
        }
    }
    repairs.extend(tunnel(state, names, &links, &routes));
    repairs.extend(tunnel6(state, names, &links, &held6));
    repairs.extend(mesh(state, names, &mut host, &links)?);
    if state.swarm.is_none() && links.contains_key(&names.wireguard()) {
        repairs.push(Repair::DropLink(names.wireguard()));
    }
    let prefix = names.links();
    for name in links.keys().filter(|n| n.starts_with(&prefix)) {
        if !wanted.contains(name.as_str()) && !leaving.contains(name) {
            repairs.push(Repair::DropLink(name.clone()));
        }
    }
    for entry in std::fs::read_dir(pins).map_err(Error::file("list", pins))? {
        let path = entry.map_err(Error::file("list", pins))?.path();
        let known =
            path.file_name().and_then(|n| n.to_str()).is_some_and(|n| state.containers.contains_key(n));
        if !known {
            repairs.push(Repair::Unpin(path));
        }
    }
    Ok(repairs)
}

/// The part of [`plan`] that is about the tunnel and what travels in it.
pub fn plan_tunnel(state: &State, names: &Names) -> Result<Vec<Repair>> {
    let mut host = Links::open()?;
    let links = host.list()?;
    let routes = host.routes()?;
    let held6 = Held6::read(&mut host)?;
    let mut repairs = tunnel(state, names, &links, &routes);
    repairs.extend(tunnel6(state, names, &links, &held6));
    repairs.extend(forward6(state, names));
    repairs.extend(mesh(state, names, &mut host, &links)?);
    Ok(repairs)
}

fn mesh(
    state: &State,
    names: &Names,
    host: &mut Links,
    links: &BTreeMap<String, crate::link::Link>,
) -> Result<Option<Repair>> {
    let found = mesh::plan(state, names, host, links)?;
    Ok((!found.is_empty()).then(|| Repair::Mesh(found.into())))
}

/// Whether the interfaces of a container are there that have no end on the host. A namespace that cannot be looked into,
/// such as one that has gone since, is for the repair to judge, and keeps nothing else from being compared.
fn has_uppers(record: &Record, pin: &Path) -> bool {
    let mut wanted = record.interfaces.iter().filter(|i| i.on.is_some()).peekable();
    if wanted.peek().is_none() {
        return true;
    }
    let held = netns::Namespace::open(pin).and_then(|mut namespace| namespace.links.list());
    held.is_ok_and(|held| wanted.all(|i| held.contains_key(&i.guest)))
}

fn settled(link: &str) -> bool {
    SETTINGS
        .iter()
        .all(|(key, value)| sysctl::read(&format!("ipv4/conf/{link}/{key}")).as_deref() == Some(value))
}

pub(super) fn settled6(link: &str) -> bool {
    SETTINGS6
        .iter()
        .all(|(key, value)| sysctl::read(&format!("ipv6/conf/{link}/{key}")).as_deref() == Some(value))
}

/// Routes into the tunnel: every overlay's range (the peers' AllowedIPs choose among nodes, and virtual
/// addresses need a route to be sent at all), and the other nodes.
fn tunnel(
    state: &State,
    names: &Names,
    links: &BTreeMap<String, crate::link::Link>,
    held: &[(u32, Route)],
) -> Vec<Repair> {
    let name = names.wireguard();
    let Some(link) = links.get(&name) else { return Vec::new() };
    let Some(desired) = state.swarm.as_ref().map(|s| &s.desired) else { return Vec::new() };
    let src = desired.overlay_addr;
    let ranges = desired.networks.values().map(|n| n.subnet.network());
    let peers = desired.networks.values().flat_map(|n| &n.peers);
    let peers = peers.map(|p| Cidr::host(p.overlay_addr));
    let wanted: BTreeSet<Route> = ranges.chain(peers).map(|to| Route { to, via: None, src }).collect();
    static SAID: Mutex<BTreeSet<Route>> = Mutex::new(BTreeSet::new());
    let routes = differences(&name, link.index, wanted, held, held, &SAID);
    let settings = (!settled(&name)).then(|| Repair::Settings(name.clone()));
    routes.into_iter().chain(settings).collect()
}

/// Removes one difference.
pub fn repair(repair: &Repair, pins: &Path) -> Result<()> {
    let mut host = Links::open()?;
    match repair {
        Repair::Sysctl(name, value) => sysctl::write(name, value),
        Repair::Forward6(ours) => sysctl::forward6(ours),
        Repair::Bridge(bridge) => make_bridge(&mut host, bridge).map(drop),
        Repair::Parent(network) => direct::raise(&mut host, network),
        Repair::Wire(record) => wire(record, &pins.join(&record.container_id)),
        Repair::Enslave { link, interface, hairpin } => {
            let index = host.index(link)?;
            let mut steps = Vec::new();
            if let Some(bridge) = &interface.bridge {
                steps.push(step::set(index, None, Some(host.index(bridge)?)));
                steps.extend(port_steps(index, interface, *hairpin));
            } else {
                // 0 = out of whatever bridge it was put into.
                steps.push(step::set(index, None, Some(0)));
            }
            host.run(steps, &[])
        }
        Repair::Settings(link) => ours(link),
        Repair::Settings6(link) => settle6(link),
        Repair::Neighbour6(link, addr, mac) => {
            let index = host.index(link)?;
            host.run(vec![step::neighbour(index, *addr, *mac)], &[])
        }
        Repair::Route(link, way) => {
            let index = host.index(link)?;
            host.run(vec![way.make(index)], &[])
        }
        Repair::DropRoute(link, way) => {
            let index = host.index(link)?;
            host.run(vec![way.remove(index)], &[nix::errno::Errno::ESRCH])
        }
        Repair::DropLink(link) => host.delete(link),
        Repair::Unpin(path) => netns::unpin(path),
        Repair::Mesh(found) => mesh::repair(found),
    }
}
