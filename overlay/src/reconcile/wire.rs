//! Wires one container, or one bridge, in the kernel: few requests, as many as possible in one write.

use std::net::Ipv6Addr;
use std::path::Path;

use nix::errno::Errno;

use super::home;
use crate::cidr::Cidr;
use crate::error::{Error, Result};
use crate::link::{self, Link, Links, Route, Step, Upper, Veth, policy, step};
use crate::names::GATEWAY_MAC;
use crate::netns::Namespace;
use crate::routed::{self, GATEWAY, GATEWAY6};
use crate::state::{Bridge, Interface, On, Record};
use crate::sysctl;
use crate::{bridge, endpoint, netns};

/// Makes the container's namespace where there is none, and its interfaces where they are missing.
pub fn wire(record: &Record, path: &Path) -> Result<()> {
    let found = netns::is_pinned(path);
    let mut namespace = match found {
        true => Namespace::open(path)?,
        false => Namespace::create(path, record.user_namespace.as_ref())?,
    };
    let mut host = Links::open()?;
    let routes = routed::routes(record);
    let routes6 = routed::routes6(record);
    for ((interface, routes), routes6) in record.interfaces.iter().zip(routes).zip(routes6) {
        let guest = &interface.guest;
        if let Some(on) = &interface.on {
            if namespace.links.find(guest)?.is_none() {
                place(&mut host, &mut namespace, interface, on)?;
                let index = namespace.links.index(guest)?;
                settle(&mut namespace, interface, index, &routes, &routes6)?;
            }
            continue;
        }
        if host.find(&interface.host)?.is_some() {
            if found {
                continue;
            }
            // It leads to a namespace that nobody can find any more.
            host.delete(&interface.host)?;
        }
        let bridge = interface.bridge.as_deref().map(|name| host.index(name)).transpose()?;
        host.add_veth(&Veth {
            host: &interface.host,
            host_mac: host_mac(interface),
            guest,
            guest_mac: interface.mac,
            netns: namespace.fd(),
            mtu: interface.mtu,
            bridge,
        })?;
        let index = namespace.links.index(guest)?;
        settle(&mut namespace, interface, index, &routes, &routes6)?;
        if bridge.is_none() {
            let index = host.index(&interface.host)?;
            let steps = host_routes(interface).into_iter().map(|r| step::route(index, &r));
            host.run(steps.chain(host_steps6(interface, index)?).collect(), &[])?;
            ours(&interface.host)?;
        } else {
            let index = host.index(&interface.host)?;
            host.run(port_steps(index, interface, !record.ports.is_empty()), &[])?;
        }
        host.wait_operational(&interface.host)?;
        namespace.links.wait_operational(guest)?;
    }
    home::settle(&namespace, record, !found)
}

/// Makes an interface on one of the host's.
fn place(host: &mut Links, namespace: &mut Namespace, interface: &Interface, on: &On) -> Result<()> {
    let parent = host.find(&on.parent)?.ok_or_else(|| {
        Error::Parent(format!(
            "the requested parent interface {} was not found on the Docker host",
            on.parent
        ))
    })?;
    let mac = matches!(on.upper, Upper::Macvlan { .. }).then_some(interface.mac);
    let made = host.add_upper(&link::On {
        upper: &on.upper,
        parent: parent.index,
        guest: &interface.guest,
        mac,
        netns: namespace.fd(),
    });
    made.map_err(|e| {
        let kind = if mac.is_some() { "macvlan" } else { "ipvlan" };
        Error::Parent(format!(
            "failed to create the {kind} port on {} (an interface carries either macvlan or ipvlan, and the kernel must have the driver): {e}",
            on.parent
        ))
    })
}

/// Removes a container's interfaces that are on the host's. Their hardware addresses are free at once, and not only when
/// the kernel gets round to the namespace.
pub fn unplace(record: &Record, path: &Path) -> Result<()> {
    let mut placed = record.interfaces.iter().filter(|i| i.on.is_some()).peekable();
    if placed.peek().is_none() || !netns::is_pinned(path) {
        return Ok(());
    }
    let mut namespace = Namespace::open(path)?;
    Error::gather(placed.filter_map(|i| namespace.links.delete(&i.guest).err()).collect())
}

/// Addresses and routes of a new interface in the container, which is set up.
fn settle(
    namespace: &mut Namespace,
    interface: &Interface,
    index: u32,
    routes: &[Route],
    routes6: &[Route<Ipv6Addr>],
) -> Result<()> {
    let mut steps: Vec<_> = routed::addresses(interface).iter().map(|a| step::address(index, *a)).collect();
    let addresses6 = routed::addresses6(interface);
    if !addresses6.is_empty() {
        namespace.within(|| settle6(&interface.guest))?;
        steps.extend(addresses6.iter().map(|a| step::address(index, *a)));
    }
    if !interface.sysctls.is_empty() {
        namespace.within(|| {
            let set = |(setting, value): &(String, String)| {
                sysctl::write(&endpoint::path(setting, &interface.guest), value)
            };
            interface.sysctls.iter().try_for_each(set)
        })?;
    }
    steps.push(step::set(index, None, None));
    if interface.is_routed() {
        steps.push(step::neighbour(index, GATEWAY, GATEWAY_MAC));
        steps.extend((!addresses6.is_empty()).then(|| step::neighbour(index, GATEWAY6, GATEWAY_MAC)));
    }
    steps.extend(routes.iter().map(|r| step::route(index, r)));
    steps.extend(routes6.iter().map(|r| step::route(index, r)));
    namespace.links.run(steps, &[])
}

/// Settings of a veth in a bridge.
pub fn port_steps(index: u32, interface: &Interface, hairpin: bool) -> Vec<Step> {
    let hairpin = hairpin.then(|| step::hairpin(index));
    hairpin.into_iter().chain([step::isolate(index, isolates(interface))]).collect()
}

/// Whether the bridge itself has to keep the container from the others. Where the kernel shows bridged packets to
/// our rules (br_netfilter), these do it; and ports published in the same network are translated while still on
/// the bridge, so it must let them pass.
pub fn isolates(interface: &Interface) -> bool {
    interface.isolated && sysctl::read("bridge/bridge-nf-call-iptables").as_deref() != Some("1")
}

/// Takes a running container from one record to another: interfaces, addresses, routes.
pub fn rewire(old: &Record, new: &Record, path: &Path) -> Result<()> {
    let mut host = Links::open()?;
    let had = |i: &Interface| old.interfaces.iter().find(|o| o.host == i.host);
    for gone in old.interfaces.iter().filter(|o| new.interfaces.iter().all(|n| n.host != o.host)) {
        match gone.on {
            Some(_) => Namespace::open(path)?.links.delete(&gone.guest)?,
            None => host.delete(&gone.host)?,
        }
    }
    wire(new, path)?;
    let mut namespace = Namespace::open(path)?;
    for interface in &new.interfaces {
        let Some(before) = had(interface) else { continue };
        let (had, has) = (routed::addresses(before), routed::addresses(interface));
        let index = namespace.links.index(&interface.guest)?;
        let fresh = has.iter().filter(|a| !had.contains(a)).map(|a| step::address(index, *a));
        let stale = had.iter().filter(|a| !has.contains(a)).map(|a| step::drop_address(index, *a));
        namespace.links.run(fresh.chain(stale).collect(), &[Errno::EADDRNOTAVAIL])?;
        if interface.is_routed() {
            let index = host.index(&interface.host)?;
            let (had, has) = (host_routes(before), host_routes(interface));
            let fresh = has.iter().filter(|r| !had.contains(r)).map(|r| step::route(index, r));
            let stale = had.iter().filter(|r| !has.contains(r)).map(|r| step::drop_route(index, r));
            host.run(fresh.chain(stale).collect(), &[Errno::ESRCH])?;
            rewire6(&mut host, &mut namespace, before, interface)?;
        }
    }
    // Routes from an address that is gone went with it; the default route may have another way out now.
    for (interface, routes) in new.interfaces.iter().zip(routed::routes(new)) {
        let index = namespace.links.index(&interface.guest)?;
        namespace.links.run(routes.iter().map(|r| step::route(index, r)).collect(), &[])?;
    }
    let had: Vec<_> = old.interfaces.iter().zip(routed::routes6(old)).collect();
    for (interface, routes) in new.interfaces.iter().zip(routed::routes6(new)) {
        let index = namespace.links.index(&interface.guest)?;
        // Of IPv6 they stay, without the address.
        let had = had.iter().filter(|(o, _)| o.host == interface.host).flat_map(|(_, routes)| routes);
        let stale = had.filter(|h| !routes.iter().any(|r| r.to == h.to));
        let stale = stale.map(|r| step::drop_route(index, &Route { src: None, ..r.clone() }));
        namespace.links.run(stale.collect(), &[Errno::ESRCH])?;
        namespace.links.run(routes.iter().map(|r| step::route(index, r)).collect(), &[])?;
    }
    Ok(())
}

/// Takes a routed interface to its new addresses of IPv6, at both ends.
fn rewire6(host: &mut Links, namespace: &mut Namespace, old: &Interface, new: &Interface) -> Result<()> {
    let (had, has) = (routed::addresses6(old), routed::addresses6(new));
    if had == has {
        return Ok(());
    }
    let index = namespace.links.index(&new.guest)?;
    let mut steps = Vec::new();
    if !has.is_empty() {
        namespace.within(|| settle6(&new.guest))?;
        steps.push(step::neighbour(index, GATEWAY6, GATEWAY_MAC));
    }
    steps.extend(has.iter().filter(|a| !had.contains(a)).map(|a| step::address(index, *a)));
    steps.extend(had.iter().filter(|a| !has.contains(a)).map(|a| step::drop_address(index, *a)));
    namespace.links.run(steps, &[Errno::EADDRNOTAVAIL])?;
    let index = host.index(&new.host)?;
    let (routes, neighbours) = (routed::host_routes6(new), routed::host_neighbours6(new));
    let mut steps: Vec<Step> = host_steps6(new, index)?.collect();
    let routes = routed::host_routes6(old).into_iter().filter(|r| !routes.contains(r));
    steps.extend(routes.map(|r| step::drop_route(index, &r)));
    let neighbours = routed::host_neighbours6(old).into_iter().filter(|n| !neighbours.contains(n));
    steps.extend(neighbours.map(|(addr, _)| policy::drop_neighbour(index, addr)));
    host.run(steps, &[Errno::ESRCH, Errno::ENOENT])
}

/// The host's end of a routed container's IPv6, which is turned on there.
fn host_steps6(interface: &Interface, index: u32) -> Result<impl Iterator<Item = Step>> {
    let routes = routed::host_routes6(interface);
    if !routes.is_empty() {
        settle6(&interface.host)?;
    }
    let neighbours = routed::host_neighbours6(interface).into_iter();
    let neighbours = neighbours.map(move |(addr, mac)| step::neighbour(index, addr, mac));
    Ok(neighbours.chain(routes.into_iter().map(move |r| step::route(index, &r))))
}

/// IPv6 on an interface that has addresses of ours: nobody is asked whether they are taken, and whoever claims to be a
/// router is not listened to.
pub fn settle6(name: &str) -> Result<()> {
    for (key, value) in SETTINGS6 {
        sysctl::write(&format!("ipv6/conf/{name}/{key}"), value)?;
    }
    Ok(())
}

/// See [`settle6`].
pub const SETTINGS6: [(&str, &str); 3] = [("accept_dad", "0"), ("accept_ra", "0"), ("disable_ipv6", "0")];

fn host_mac(interface: &Interface) -> crate::link::Mac {
    match interface.bridge {
        None => GATEWAY_MAC,
        Some(_) => {
            let [_, _, a, b, c, d] = interface.mac;
            [0x02, 0x43, a, b, c, d]
        }
    }
}

/// The host's routes to a routed container.
pub fn host_routes(interface: &Interface) -> Vec<crate::link::Route> {
    let to = |c: Cidr| crate::link::Route { to: c, via: None, src: None };
    routed::addresses(interface).into_iter().map(to).collect()
}

/// Settings of an interface of ours on the host: loopback traffic may be translated to it, and hairpins
/// are no reason for redirects.
pub fn ours(name: &str) -> Result<()> {
    for (key, value) in SETTINGS {
        sysctl::write(&format!("ipv4/conf/{name}/{key}"), value)?;
    }
    Ok(())
}

/// See [`ours`].
pub const SETTINGS: [(&str, &str); 3] =
    [("route_localnet", "1"), ("rp_filter", "0"), ("send_redirects", "0")];

/// Makes a bridge with its address where it is missing, and gives it back. One of the user's is looked up, and no more
/// than its settings are ours.
pub fn make_bridge(host: &mut Links, network: &Bridge) -> Result<Link> {
    let name = &network.interface;
    if network.foreign {
        let found = host.find(name)?.ok_or_else(|| Error::Io {
            operation: "look up bridge",
            subject: name.clone(),
            source: Errno::ENODEV.into(),
        })?;
        ours(name)?;
        return Ok(found);
    }
    let mac = match (&network.v6, network.subnet) {
        (Some(v6), None) => bridge::mac_of6(v6.gateway),
        _ => bridge::mac_of(network.gateway),
    };
    let made = step::bridge(name, mac, network.mtu);
    host.run(vec![made], &[Errno::EEXIST])?;
    let link = host.find(name)?.ok_or_else(|| Error::Io {
        operation: "find the new bridge",
        subject: name.clone(),
        source: Errno::ENODEV.into(),
    })?;
    let mut steps: Vec<_> = network.hosted().into_iter().map(|a| step::address(link.index, a)).collect();
    if network.v6.is_some() {
        settle6(name)?;
        steps.extend(network.hosted6().into_iter().map(|a| step::address(link.index, a)));
    }
    steps.push(step::set(link.index, None, None));
    host.run(steps, &[])?;
    ours(name)?;
    answer_for_others(network)?;
    Ok(link)
}

/// Settings of a bridge whose host answers for its containers: when one looks for another, and at once.
fn answering(network: &Bridge) -> Vec<(String, &'static str)> {
    let name = &network.interface;
    let all = [("conf", "proxy_arp_pvlan", "1"), ("neigh", "proxy_delay", "0")];
    let all = all.into_iter().filter(|_| network.answers_for_others());
    all.map(|(kind, key, value)| (format!("ipv4/{kind}/{name}/{key}"), value)).collect()
}

fn answer_for_others(network: &Bridge) -> Result<()> {
    answering(network).iter().try_for_each(|(key, value)| sysctl::write(key, value))
}

/// Whether those settings are as they should be.
pub fn answers_for_others(network: &Bridge) -> bool {
    answering(network).iter().all(|(key, value)| sysctl::read(key).as_deref() == Some(*value))
}
