//! Virtual addresses and published ports as maps: a random slot of a service leads to a backend, so
//! that one rule serves all services and a change of backends touches only elements.

use std::net::Ipv4Addr;

use crate::desired::{Backend, Desired, PublishedPort};
use crate::model::Bound;
use crate::nft::{Field, Set, digest};

/// Slots of a service of few backends: at most one in four more for one backend than for another.
pub const FEW: u32 = 64;
/// Slots of a service of many.
pub const MANY: u32 = 1024;
/// Up to this many backends are few.
const FEW_BACKENDS: usize = 16;

/// Address maps for services of few and of many backends.
pub fn service_maps(desired: &Desired) -> (Set, Set) {
    let empty = || Set::map(&[Field::Addr, Field::Slot], &[Field::Addr]);
    let (mut few, mut many) = (empty(), empty());
    for service in desired.networks.values().flat_map(|n| &n.services) {
        let Some(vip) = service.vip else { continue };
        let backends = choose(&desired.node_id, &service.backends);
        let (map, slots) = size(&mut few, &mut many, &backends);
        for (slot, addr) in spread(&backends, slots) {
            map.set(key(&[&vip.octets(), &slot.to_ne_bytes()]), addr.octets().to_vec());
        }
    }
    (few, many)
}

/// Port maps of the swarm's published ports, without those in `refused`.
pub fn ingress_maps(desired: &Desired, refused: &[(String, u16)]) -> (Set, Set) {
    let empty = || {
        let fields = [Field::Protocol, Field::Port, Field::Slot];
        Set::map(&fields, &[Field::Addr, Field::Port])
    };
    let (mut few, mut many) = (empty(), empty());
    let refused = |port: &PublishedPort| {
        refused.iter().any(|(protocol, number)| port.protocol == *protocol && port.published == *number)
    };
    for port in desired.ports.iter().filter(|p| !refused(p)) {
        let Some(protocol) = protocol_number(&port.protocol) else { continue };
        let backends = choose(&desired.node_id, &port.backends);
        let (map, slots) = size(&mut few, &mut many, &backends);
        for (slot, addr) in spread(&backends, slots) {
            let from = key(&[&[protocol], &port.published.to_be_bytes(), &slot.to_ne_bytes()]);
            map.set(from, key(&[&addr.octets(), &port.target.to_be_bytes()]));
        }
    }
    (few, many)
}

/// Maps of ports published by containers: on all addresses, and on one.
pub fn host_maps<'a>(ports: impl Iterator<Item = (Ipv4Addr, &'a Bound)>) -> (Set, Set) {
    let mut any = Set::map(&[Field::Protocol, Field::Port], &[Field::Addr, Field::Port]);
    let mut one = Set::map(&[Field::Protocol, Field::Addr, Field::Port], &[Field::Addr, Field::Port]);
    for (target, bound) in ports {
        let Some(protocol) = protocol_number(&bound.protocol) else { continue };
        let to = key(&[&target.octets(), &bound.container_port.to_be_bytes()]);
        let port = bound.host_port.to_be_bytes();
        if bound.host_ip.is_unspecified() {
            any.set(key(&[&[protocol], &port]), to);
        } else {
            one.set(key(&[&[protocol], &bound.host_ip.octets(), &port]), to);
        }
    }
    (any, one)
}

fn protocol_number(name: &str) -> Option<u8> {
    [("tcp", 6), ("udp", 17), ("sctp", 132)].iter().find(|(n, _)| *n == name).map(|(_, p)| *p)
}

/// Fields of a key one after another, each filled up to four bytes.
pub fn key(fields: &[&[u8]]) -> Vec<u8> {
    let mut bytes = Vec::new();
    for field in fields {
        bytes.extend_from_slice(field);
        bytes.resize(bytes.len().next_multiple_of(4), 0);
    }
    bytes
}

fn size<'a>(few: &'a mut Set, many: &'a mut Set, backends: &[Ipv4Addr]) -> (&'a mut Set, u32) {
    if backends.len() <= FEW_BACKENDS { (few, FEW) } else { (many, MANY) }
}

/// Addresses in a stable order; where there are more than slots, each node takes its own part of them.
fn choose(node: &str, backends: &[Backend]) -> Vec<Ipv4Addr> {
    let mut addrs: Vec<_> = backends.iter().map(|b| b.addr).collect();
    addrs.sort_unstable();
    addrs.dedup();
    if addrs.len() > MANY as usize {
        addrs.sort_by_cached_key(|a| digest(format!("{node}{a}").as_bytes()));
        addrs.truncate(MANY as usize);
    }
    addrs
}

fn spread(backends: &[Ipv4Addr], slots: u32) -> impl Iterator<Item = (u32, Ipv4Addr)> + '_ {
    (0..slots).zip(backends.iter().copied().cycle())
}
