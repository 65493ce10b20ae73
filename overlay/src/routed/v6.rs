//! IPv6 of containers: addresses, routes and neighbours, of bridges and of overlays. As with IPv4 an overlay's are
//! routed, and the neighbours at both ends of the veth are written down: nobody has to be asked.

use std::net::{IpAddr, Ipv6Addr};

use super::{preferred, way_by};
use crate::cidr::{Cidr, Cidr6};
use crate::link::{Mac, Route};
use crate::state::{Interface, Record};

/// Next hop of every routed container, as of IPv4: a static neighbour answers for it.
pub const GATEWAY6: Ipv6Addr = Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 1);

/// Addresses inside the container; none = it has no IPv6 there.
pub fn addresses6(interface: &Interface) -> Vec<Cidr6> {
    let places = interface.members.iter().filter_map(|m| Some((m.endpoint.v6.as_ref()?, &m.endpoint)));
    let all = places.flat_map(|(v6, endpoint)| {
        let link_local = endpoint.link_local.iter().filter_map(|a| match a {
            IpAddr::V6(addr) => Some(Cidr { addr: *addr, len: 64 }),
            IpAddr::V4(_) => None,
        });
        let len = if interface.is_routed() { 128 } else { v6.prefix_len };
        std::iter::once(Cidr { addr: v6.addr, len }).chain(link_local)
    });
    all.collect()
}

/// Routes inside the container, per interface in its order: to the overlays, and the default route by the network of the
/// highest priority that has a way out by IPv6 (the ingress network for one). Unlike with IPv4, what has none gets no
/// default route: programs then know at once to use IPv4.
pub fn routes6(record: &Record) -> Vec<Vec<Route<Ipv6Addr>>> {
    let out = preferred(record.interfaces.iter().filter_map(|i| Some((i, way6(i)?))));
    let own = |interface: &Interface| {
        let members = interface.members.iter().filter(|m| interface.is_routed() && !m.ingress);
        let route = |(subnet, addr): (Cidr6, Ipv6Addr)| Route {
            to: subnet.network(),
            via: Some(GATEWAY6),
            src: Some(addr),
        };
        members
            .filter_map(|m| Some((m.subnet6?, m.endpoint.v6.as_ref()?.addr)))
            .map(route)
            .collect::<Vec<_>>()
    };
    let all = record.interfaces.iter().map(|interface| {
        let mut routes = own(interface);
        let default = out.as_ref().filter(|(way, _)| std::ptr::eq(*way, interface));
        routes.extend(default.map(|(_, route)| route.clone()));
        routes
    });
    all.collect()
}

/// The default route by an interface.
fn way6(interface: &Interface) -> Option<Route<Ipv6Addr>> {
    let mut places = interface.members.iter().filter_map(|m| Some((m, m.endpoint.v6.as_ref()?)));
    let default = |via, src| Route { to: Cidr6::all(), via, src };
    if interface.is_routed() {
        let open = places.any(|(m, _)| !m.internal);
        return way_out_from6(interface).filter(|_| open).map(|src| default(Some(GATEWAY6), Some(src)));
    }
    places.find_map(|(m, e)| way_by(interface, m, e.gateway)).map(|via| default(via, None))
}

/// The address that leaves by the default route of a routed interface, chosen as that of IPv4.
fn way_out_from6(interface: &Interface) -> Option<Ipv6Addr> {
    let places = || interface.members.iter().filter_map(|m| Some((m, m.endpoint.v6.as_ref()?.addr)));
    let own = || places().filter(|(m, _)| !m.ingress);
    let preferred = own().find(|(m, _)| !m.internal).or_else(|| own().next());
    preferred.or_else(|| places().next()).map(|(_, addr)| addr)
}

/// The address that a server on all addresses answers datagrams of strangers from.
pub fn answers_from6(record: &Record) -> Option<Ipv6Addr> {
    record.routed().and_then(way_out_from6)
}

/// The host's routes to a routed container.
pub fn host_routes6(interface: &Interface) -> Vec<Route<Ipv6Addr>> {
    addresses6(interface).into_iter().map(|to| Route { to, via: None, src: None }).collect()
}

/// The neighbours of the host on a routed container's veth.
pub fn host_neighbours6(interface: &Interface) -> Vec<(Ipv6Addr, Mac)> {
    addresses6(interface).into_iter().map(|a| (a.addr, interface.mac)).collect()
}
