//! What the host has of overlays' IPv6: on the veths of routed containers, and on the tunnel.

use std::collections::{BTreeMap, BTreeSet};
use std::net::Ipv6Addr;
use std::sync::Mutex;

use super::links::{Repair, settled6};
use super::way::differences;
use crate::cidr::Cidr;
use crate::error::Result;
use crate::link::{Link, Links, Mac, Route};
use crate::names::Names;
use crate::routed::{host_neighbours6, host_routes6};
use crate::state::{Interface, State};
use crate::sysctl;

/// What the host has of IPv6.
#[derive(Default)]
pub struct Held6 {
    routes: Vec<(u32, Route<Ipv6Addr>)>,
    /// Those of them that are ours.
    own: Vec<(u32, Route<Ipv6Addr>)>,
    neighbours: Vec<(u32, Ipv6Addr, Mac)>,
}

impl Held6 {
    /// Reads it; nothing where the kernel has no IPv6.
    pub fn read(host: &mut Links) -> Result<Self> {
        if !sysctl::knows_ipv6() {
            return Ok(Self::default());
        }
        let (routes, own) = (host.routes()?, host.own_routes()?);
        Ok(Self { routes, own, neighbours: host.all_neighbours()? })
    }
}

/// Packets of IPv6 are to be passed on where any network has it, and are not.
pub fn forward6(state: &State, names: &Names) -> Option<Repair> {
    let needed = state.bridges.values().any(|b| b.v6.is_some()) || !state.overlays6().is_empty();
    let on = || sysctl::read(sysctl::FORWARD6).as_deref() == Some("1");
    (needed && sysctl::knows_ipv6() && !on()).then(|| Repair::Forward6(names.links()))
}

/// The host's end of a routed container's IPv6.
pub fn routed6(interface: &Interface, index: u32, held: &Held6) -> Vec<Repair> {
    let name = &interface.host;
    let wanted: BTreeSet<_> = host_routes6(interface).into_iter().collect();
    let settings = (!wanted.is_empty() && !settled6(name)).then(|| Repair::Settings6(name.clone()));
    let neighbours = host_neighbours6(interface).into_iter();
    let missing = neighbours.filter(|(addr, mac)| !held.neighbours.contains(&(index, *addr, *mac)));
    let missing = missing.map(|(addr, mac)| Repair::Neighbour6(name.clone(), addr, mac));
    let routes = differences(name, index, wanted, &held.own, &[], &Mutex::default());
    settings.into_iter().chain(missing).chain(routes).collect()
}

/// Routes into the tunnel, as of IPv4: every overlay's range, and the other nodes.
pub fn tunnel6(state: &State, names: &Names, links: &BTreeMap<String, Link>, held: &Held6) -> Vec<Repair> {
    let name = names.wireguard();
    let Some(link) = links.get(&name) else { return Vec::new() };
    let Some(desired) = state.swarm.as_ref().map(|s| &s.desired) else { return Vec::new() };
    if !sysctl::knows_ipv6() {
        return Vec::new();
    }
    let six = || desired.networks.values().filter(|n| n.subnet6.is_some());
    let ranges = six().filter_map(|n| n.subnet6).map(|s| s.network());
    let peers = six().flat_map(|n| &n.peers).filter_map(|p| p.overlay_addr6).map(Cidr::host);
    let src = desired.overlay_addr6;
    let wanted: BTreeSet<_> = ranges.chain(peers).map(|to| Route { to, via: None, src }).collect();
    let settings = (!wanted.is_empty() && !settled6(&name)).then(|| Repair::Settings6(name.clone()));
    static SAID: Mutex<BTreeSet<Route<Ipv6Addr>>> = Mutex::new(BTreeSet::new());
    let routes = differences(&name, link.index, wanted, &held.own, &held.routes, &SAID);
    settings.into_iter().chain(routes).collect()
}
