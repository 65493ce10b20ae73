//! Virtual addresses and published ports as maps: a random slot of a service leads to a backend, so
//! that one rule serves all services and a change of backends touches only elements.

mod idle;

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::Arc;

use crate::cidr::{Address, Cidr};
use crate::desired::{Backend, Desired, PublishedPort, Service};
use crate::mesh::{self, Mesh};
use crate::model::Bound;
use crate::nft::{Field, Set, Timeout, digest};
use crate::state::State;

/// Slots of a service of few backends: at most one in four more for one backend than for another.
pub const FEW: u32 = 64;
/// Slots of a service of many.
pub const MANY: u32 = 1024;
/// Up to this many backends are few.
const FEW_BACKENDS: usize = 16;

/// The maps that follow from the swarm's state alone, kept between changes of it.
#[derive(Clone, Debug)]
pub struct SwarmMaps {
    /// Change of the swarm's state they were made for.
    pub generation: u64,
    /// Name and map.
    pub maps: [(&'static str, Arc<Set>); 10],
    /// The same of the table of IPv6.
    pub maps6: [(&'static str, Arc<Set>); 10],
    /// How long connections may be idle: what `idle` in both of them names.
    pub timeouts: [BTreeMap<String, Timeout>; 2],
    /// What the maps called after it are of.
    pub mesh: Option<Mesh>,
}

impl SwarmMaps {
    /// Makes them.
    pub fn new(state: &State, mesh: Option<Mesh>) -> Self {
        let (generation, nothing) = (state.swarm_generation, Desired::default());
        let desired = state.swarm.as_ref().map_or(&nothing, |s| &s.desired);
        let (idle, timeouts) = idle::map(desired, Field::Addr, |b| Some(b.addr));
        let (idle6, timeouts6) = idle::map(desired, Field::Addr6, |b| b.addr6);
        let (vip_few, vip_many) = service_maps(desired, Field::Addr, |s| s.vip, |b| Some(b.addr));
        let (vip6_few, vip6_many) = service_maps(desired, Field::Addr6, |s| s.vip6, |b| b.addr6);
        let four = |b: &Backend| Some(b.addr);
        let six = |b: &Backend| b.addr6;
        let of_four = |addr: &IpAddr| match addr {
            IpAddr::V4(addr) => Some(*addr),
            IpAddr::V6(_) => None,
        };
        let of_six = |addr: &IpAddr| match addr {
            IpAddr::V4(_) => None,
            IpAddr::V6(addr) => Some(*addr),
        };
        let [ingress_few, ingress_many, ingress_one_few, ingress_one_many] =
            ingress_maps(state, desired, Field::Addr, four, of_four);
        let [ingress6_few, ingress6_many, ingress6_one_few, ingress6_one_many] =
            ingress_maps(state, desired, Field::Addr6, six, of_six);
        let peers = mesh.iter().flat_map(|m| m.peers.iter().map(|p| (p, p.blocks.as_slice())));
        let [mesh_nodes, mesh_home, mesh_tasks] =
            mesh_sets(mesh.as_ref().map(|m| (m, m.subnet)), Field::Addr, peers, of_four);
        let peers = mesh.iter().flat_map(|m| &m.peers).filter_map(|p| Some((p, p.blocks6.as_deref()?)));
        let subnet6 = mesh.as_ref().and_then(|m| Some((m, m.six?.subnet)));
        let [mesh6_nodes, mesh6_home, mesh6_tasks] = mesh_sets(subnet6, Field::Addr6, peers, of_six);
        let maps = [
            ("vip_few", vip_few.into()),
            ("vip_many", vip_many.into()),
            ("ingress_few", ingress_few.into()),
            ("ingress_many", ingress_many.into()),
            ("ingress_one_few", ingress_one_few.into()),
            ("ingress_one_many", ingress_one_many.into()),
            ("idle", idle.into()),
            ("mesh_nodes", mesh_nodes.into()),
            ("mesh_home", mesh_home.into()),
            ("mesh_tasks", mesh_tasks.into()),
        ];
        let maps6 = [
            ("vip_few", vip6_few.into()),
            ("vip_many", vip6_many.into()),
            ("ingress_few", ingress6_few.into()),
            ("ingress_many", ingress6_many.into()),
            ("ingress_one_few", ingress6_one_few.into()),
            ("ingress_one_many", ingress6_one_many.into()),
            ("idle", idle6.into()),
            ("mesh_nodes", mesh6_nodes.into()),
            ("mesh_home", mesh6_home.into()),
            ("mesh_tasks", mesh6_tasks.into()),
        ];
        Self { generation, maps, maps6, timeouts: [timeouts, timeouts6], mesh }
    }

    /// Leaves timeouts to the kernel, which has only its own.
    pub fn without_timeouts(&mut self) {
        self.timeouts = Default::default();
        let names = self.maps.iter_mut().chain(&mut self.maps6);
        for (_, map) in names.filter(|(name, _)| *name == "idle") {
            Arc::make_mut(map).elements.clear();
        }
    }
}

/// Of the ingress mesh, in a family: which mark a node's connections get; nodes with their own tasks, to which they may not
/// come from outside under their own address, for they would answer themselves at once; and all tasks. Peers come with
/// their blocks of the family.
fn mesh_sets<'a, A: Address>(
    mesh: Option<(&Mesh, Cidr<A>)>,
    field: Field,
    peers: impl Iterator<Item = (&'a mesh::Peer, &'a [Cidr<A>])>,
    own: impl Fn(&IpAddr) -> Option<A>,
) -> [Set; 3] {
    let mut nodes = Set::map(&[Field::Ether], &[Field::Slot]);
    let mut home = Set::ranges(&[field, field]);
    let mut tasks = Set::ranges(&[field, field]);
    let Some((mesh, subnet)) = mesh else { return [nodes, home, tasks] };
    for (peer, blocks) in peers {
        let mark = mesh.mark_of(peer.addr).to_ne_bytes();
        nodes.set(mesh::mac_of(peer.addr).to_vec(), mark.to_vec());
        let own = || peer.own.iter().filter_map(&own).map(|addr| addr.bytes());
        for (addr, block) in own().flat_map(|a| blocks.iter().map(move |b| (a.clone(), b))) {
            let (first, last) = (block.first().bytes(), block.last().bytes());
            home.add_range(key(&[&addr, &first]), key(&[&addr, &last]));
        }
    }
    let all = Cidr::<A>::all();
    let first = key(&[&all.first().bytes(), &subnet.first().bytes()]);
    tasks.add_range(first, key(&[&all.last().bytes(), &subnet.last().bytes()]));
    [nodes, home, tasks]
}

/// Address maps of a family for services of few and of many backends.
fn service_maps<A: Address>(
    desired: &Desired,
    field: Field,
    vip: impl Fn(&Service) -> Option<A>,
    addr: impl Fn(&Backend) -> Option<A>,
) -> (Set, Set) {
    let empty = || Set::map(&[field, Field::Slot], &[field]);
    let (mut few, mut many) = (empty(), empty());
    for service in desired.networks.values().flat_map(|n| &n.services) {
        let Some(vip) = vip(service) else { continue };
        let backends = choose(&desired.node_id, service.backends.iter().filter_map(&addr));
        let (map, slots) = size(&mut few, &mut many, &backends);
        for (slot, addr) in spread(&backends, slots) {
            map.set(key(&[&vip.bytes(), &slot.to_ne_bytes()]), addr.bytes());
        }
    }
    (few, many)
}

/// Port maps of the swarm's published ports, without those that another program has: of those open everywhere, for few
/// and for many backends, and the same of those open on some addresses, which are then in the key. Backends by their
/// addresses of one family, the host's addresses of the same.
fn ingress_maps<A: Address>(
    state: &State,
    desired: &Desired,
    field: Field,
    addr: impl Fn(&Backend) -> Option<A>,
    host: impl Fn(&IpAddr) -> Option<A>,
) -> [Set; 4] {
    let all = || Set::map(&[Field::Protocol, Field::Port, Field::Slot], &[field, Field::Port]);
    let one = || Set::map(&[Field::Protocol, field, Field::Port, Field::Slot], &[field, Field::Port]);
    let (mut few, mut many, mut one_few, mut one_many) = (all(), all(), one(), one());
    let refused = |port: &PublishedPort| {
        state.refused_ports.iter().any(|(p, number)| port.protocol == *p && port.published == *number)
    };
    for port in desired.ports.iter().filter(|p| !refused(p)) {
        let Some(protocol) = protocol_number(&port.protocol) else { continue };
        let backends = choose(&desired.node_id, port.backends.iter().filter_map(&addr));
        let number = port.published.to_be_bytes();
        let open_at = state.open_at(&port.host);
        let (map, slots) = match open_at {
            None => size(&mut few, &mut many, &backends),
            Some(_) => size(&mut one_few, &mut one_many, &backends),
        };
        for (slot, addr) in spread(&backends, slots) {
            let (slot, to) = (slot.to_ne_bytes(), key(&[&addr.bytes(), &port.target.to_be_bytes()]));
            match &open_at {
                None => map.set(key(&[&[protocol], &number, &slot]), to),
                Some(addresses) => {
                    for at in addresses.iter().filter_map(&host) {
                        map.set(key(&[&[protocol], &at.bytes(), &number, &slot]), to.clone());
                    }
                }
            }
        }
    }
    [few, many, one_few, one_many]
}

/// Maps of ports published by containers: on all addresses, and on one.
pub fn host_maps<'a>(ports: impl Iterator<Item = (Ipv4Addr, &'a Bound)>) -> (Set, Set) {
    let own = ports.filter_map(|(target, bound)| match bound.host_ip {
        IpAddr::V4(host) => Some((target.octets(), host.octets(), bound)),
        IpAddr::V6(_) => None,
    });
    maps(Field::Addr, own)
}

/// The same for IPv6.
pub fn host_maps6<'a>(ports: impl Iterator<Item = (Ipv6Addr, &'a Bound)>) -> (Set, Set) {
    let own = ports.filter_map(|(target, bound)| match bound.host_ip {
        IpAddr::V6(host) => Some((target.octets(), host.octets(), bound)),
        IpAddr::V4(_) => None,
    });
    maps(Field::Addr6, own)
}

fn maps<'a, const N: usize>(
    addr: Field,
    ports: impl Iterator<Item = ([u8; N], [u8; N], &'a Bound)>,
) -> (Set, Set) {
    let mut any = Set::map(&[Field::Protocol, Field::Port], &[addr, Field::Port]);
    let mut one = Set::map(&[Field::Protocol, addr, Field::Port], &[addr, Field::Port]);
    for (target, host, bound) in ports.filter(|(_, _, bound)| bound.host_port != 0) {
        let Some(protocol) = protocol_number(&bound.protocol) else { continue };
        let to = key(&[&target, &bound.container_port.to_be_bytes()]);
        let port = bound.host_port.to_be_bytes();
        if bound.host_ip.is_unspecified() {
            any.set(key(&[&[protocol], &port]), to);
        } else {
            one.set(key(&[&[protocol], &host, &port]), to);
        }
    }
    (any, one)
}

/// `IPPROTO_*` of a name.
pub fn protocol_number(name: &str) -> Option<u8> {
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

fn size<'a, A>(few: &'a mut Set, many: &'a mut Set, backends: &[A]) -> (&'a mut Set, u32) {
    if backends.len() <= FEW_BACKENDS { (few, FEW) } else { (many, MANY) }
}

/// Addresses in a stable order; where there are more than slots, each node takes its own part of them.
fn choose<A: Address>(node: &str, backends: impl Iterator<Item = A>) -> Vec<A> {
    let mut addrs: Vec<_> = backends.collect();
    addrs.sort_unstable();
    addrs.dedup();
    if addrs.len() > MANY as usize {
        addrs.sort_by_cached_key(|a| digest(format!("{node}{a}").as_bytes()));
        addrs.truncate(MANY as usize);
    }
    addrs
}

fn spread<A: Address>(backends: &[A], slots: u32) -> impl Iterator<Item = (u32, A)> + '_ {
    (0..slots).zip(backends.iter().copied().cycle())
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    fn backends(count: u16) -> impl Iterator<Item = Ipv4Addr> {
        (0..count).map(|n| Ipv4Addr::from(0x0a28_0000 + u32::from(n)))
    }

    #[test]
    fn every_backend_gets_its_share_of_slots() {
        for (count, slots) in [(1, FEW), (3, FEW), (16, FEW), (17, MANY), (100, MANY), (1024, MANY)] {
            let chosen = choose("node", backends(count));
            let (mut few, mut many) = (Set::default(), Set::default());
            assert_eq!(size(&mut few, &mut many, &chosen).1, slots);
            let mut shares = BTreeMap::new();
            spread(&chosen, slots).for_each(|(_, addr)| *shares.entry(addr).or_insert(0) += 1);
            let (least, most) = (shares.values().min(), shares.values().max());
            assert_eq!(shares.len(), usize::from(count));
            assert!(most <= least.map(|l| l + 1).as_ref(), "{count}: {least:?} to {most:?}");
        }
    }

    #[test]
    fn no_backend_is_no_slot_and_too_many_are_shared_out() {
        assert_eq!(spread(&choose("node", backends(0)), FEW).count(), 0);
        let (a, b) = (choose("a", backends(3000)), choose("b", backends(3000)));
        assert_eq!((a.len(), b.len()), (1024, 1024));
        assert_ne!(a, b);
    }
}
