//! What names a container can resolve, and its /etc/resolv.conf.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use crate::desired::Service;
use crate::dns::Zone;
use crate::state::{DEFAULT_BRIDGE, Record, State};

/// What container `record` can resolve: the names of its networks, but for the default bridge's (as in
/// Docker) and the ingress network's.
pub fn zone(state: &State, record: &Record) -> Zone {
    let mut zone = Zone::new();
    zone.set_search(record.dns.search.iter().cloned());
    zone.set_upstreams(record.dns.servers.iter().map(|ip| SocketAddr::new(*ip, 53)).collect());
    zone.set_forward(record.members().any(|m| !m.internal));
    for member in record.members().filter(|m| !m.links.is_empty()) {
        for (target, alias) in &member.links {
            let named = state.containers.values().find(|r| r.name == *target);
            let by_id = || state.containers.values().find(|r| r.container_id.starts_with(target.as_str()));
            let other = named.or_else(by_id);
            let mut places = other.into_iter().flat_map(Record::members);
            if let Some(place) = places.find(|m| m.endpoint.network_id == member.endpoint.network_id) {
                zone.add_addresses(alias, place.endpoint.addresses());
            }
        }
    }
    let named = |m: &&crate::state::Membership| !m.ingress && m.endpoint.network != DEFAULT_BRIDGE;
    for network in record.members().filter(named).map(|m| &m.endpoint.network_id) {
        let overlay = state.swarm.as_ref().and_then(|s| s.desired.networks.get(network));
        for (service, name) in overlay.iter().flat_map(|n| n.services.iter().map(|s| (s, &n.name))) {
            add_service(&mut zone, service, name);
        }
        for other in state.containers.values() {
            let place = other.members().find(|m| m.endpoint.network_id == *network);
            let Some(endpoint) = place.map(|m| &m.endpoint) else { continue };
            let names = [&other.container_id, &other.name].into_iter().chain(&endpoint.aliases);
            let addrs: Vec<IpAddr> = endpoint.addresses().collect();
            add_container(&mut zone, names, &addrs, &endpoint.network);
        }
        for (other, network) in overlay.iter().flat_map(|n| n.attached.iter().map(|a| (a, &n.name))) {
            let names = [&other.container_id, &other.name].into_iter().chain(&other.aliases);
            let addrs: Vec<IpAddr> = both(other.addr, other.addr6).collect();
            add_container(&mut zone, names, &addrs, network);
        }
    }
    zone
}

fn both(addr: Ipv4Addr, addr6: Option<Ipv6Addr>) -> impl Iterator<Item = IpAddr> {
    std::iter::once(IpAddr::V4(addr)).chain(addr6.map(IpAddr::V6))
}

/// Its ID, of which the first twelve characters are a name, its name, its aliases.
fn add_container<'a>(
    zone: &mut Zone,
    mut names: impl Iterator<Item = &'a String>,
    addrs: &[IpAddr],
    network: &str,
) {
    if let Some(id) = names.next() {
        zone.add_addresses(id.get(..12).unwrap_or(id), addrs.iter().copied());
    }
    for (i, name) in names.enumerate() {
        zone.add_addresses(name, addrs.iter().copied());
        if i == 0 {
            addrs.iter().for_each(|addr| zone.add_pointer(*addr, &format!("{name}.{network}")));
        }
    }
}

fn add_service(zone: &mut Zone, service: &Service, network: &str) {
    let backends = || service.backends.iter().flat_map(|b| both(b.addr, b.addr6));
    for name in std::iter::once(&service.name).chain(&service.aliases) {
        match service.vip {
            Some(vip) => both(vip, service.vip6).for_each(|vip| zone.add_vip(name, vip)),
            None => zone.add_addresses(name, backends()),
        }
        zone.add_addresses(&format!("tasks.{name}"), backends());
    }
    for backend in &service.backends {
        for addr in both(backend.addr, backend.addr6) {
            zone.add_addresses(&backend.task_name, [addr]);
            zone.add_pointer(addr, &format!("{}.{network}", backend.task_name));
        }
    }
}

/// Used where the host names no server that a container could reach.
const FALLBACK: [&str; 2] = ["8.8.8.8", "8.8.4.4"];

/// The words after a keyword, from all its lines.
fn values(text: &str, key: &str) -> Vec<String> {
    let words = text.lines().map(|line| line.split_whitespace().collect::<Vec<_>>());
    words
        .filter(|words| words.first() == Some(&key))
        .flat_map(|words| words[1..].iter().map(|w| (*w).to_owned()).collect::<Vec<_>>())
        .collect()
}

/// Whole content of the container's /etc/resolv.conf, given the host's.
pub fn resolv_conf(record: &Record, host: &str) -> String {
    let dns = &record.dns;
    let v6 = record.members().any(|m| m.endpoint.v6.is_some());
    let values = |key: &str| values(host, key);
    let mut text = String::new();
    if record.has_dns() {
        text.push_str("nameserver 127.0.0.11\n");
    } else {
        let mut servers: Vec<String> = dns.servers.iter().map(ToString::to_string).collect();
        if servers.is_empty() {
            servers = values("nameserver")
                .into_iter()
                .filter(|s| s.parse::<IpAddr>().is_ok_and(|a| !a.is_loopback() && (v6 || a.is_ipv4())))
                .collect();
        }
        if servers.is_empty() {
            servers = FALLBACK.map(str::to_owned).into();
        }
        servers.iter().for_each(|s| text.push_str(&format!("nameserver {s}\n")));
    }
    let search: Vec<String> = match dns.search.as_slice() {
        [] => values("search"),
        // Docker's way to say none.
        [dot] if dot == "." => Vec::new(),
        given => given.to_vec(),
    };
    if !search.is_empty() {
        text.push_str(&format!("search {}\n", search.join(" ")));
    }
    let mut options: Vec<String> = match dns.options.as_slice() {
        [] => values("options"),
        given => given.to_vec(),
    };
    if record.has_dns() && !options.iter().any(|o| o.starts_with("ndots:")) {
        options.push("ndots:0".into());
    }
    if !options.is_empty() {
        text.push_str(&format!("options {}\n", options.join(" ")));
    }
    text
}
