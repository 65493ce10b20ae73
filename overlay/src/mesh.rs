//! The ingress mesh: how a connection to a published port reaches a task of another node with its client's address
//! on it. WireGuard takes nothing from a peer but from that peer's own ranges, so the packet travels inside VXLAN
//! within the tunnel, from node to node. The task's node notes on the connection which node it came by (a conntrack
//! mark), and policy routing sends the answers back there, where the translation of the port is undone.
//!
//! One interface carries both families, between the nodes' IPv4 addresses in the overlay.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use crate::cidr::{Address, Cidr, Cidr6};
use crate::desired::{self, Desired};
use crate::link::{Action, Forward, Mac, Policy, Route, VxLan};
use crate::names::Names;

/// Bytes that VXLAN adds to a packet: its own 8, UDP 8, IP 20, Ethernet 14.
pub const OVERHEAD: u32 = 50;
/// Where a node of the swarm takes these packets, inside the tunnel.
pub const PORT: u16 = 4792;
/// Which bits of a mark say whose it is; the others name a node.
pub const MARK_MASK: u32 = 0xff00_0000;
/// What every link has to carry whole that carries IPv6 (RFC 8200, section 5). Where the tunnel is too small for that,
/// the packets around the packets are sent in two.
const LEAST_MTU6: u32 = 1280;

/// What this node's part of the mesh comes to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mesh {
    /// This node's address in the overlay.
    pub local: Ipv4Addr,
    /// The ingress network.
    pub subnet: Cidr,
    /// The same of IPv6, where that network has it, and another node takes it.
    pub six: Option<Six>,
    /// VXLAN network, the same on all nodes.
    pub vni: u32,
    /// UDP port of it.
    pub port: u16,
    /// What marks of ours begin with.
    pub mark: u32,
    /// The other nodes.
    pub peers: Vec<Peer>,
    priority: u32,
}

/// What IPv6 adds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Six {
    /// This node's address in the overlay.
    pub local: Ipv6Addr,
    /// The ingress network.
    pub subnet: Cidr6,
}

/// Another node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Peer {
    /// Its address in the overlay.
    pub addr: Ipv4Addr,
    /// Addresses that are its own.
    pub own: BTreeSet<IpAddr>,
    /// What its tasks are given addresses of.
    pub blocks: Vec<Cidr>,
    /// The same of IPv6; none where it takes none of that.
    pub blocks6: Option<Vec<Cidr6>>,
}

/// What a family has of it in the kernel.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ways<A> {
    /// Hardware addresses of the others' interfaces, by next hop.
    pub neighbours: BTreeMap<A, Mac>,
    /// Routes by the interface, with their tables: to the others' tasks, and for each node the way back through it.
    pub routes: BTreeSet<(Option<u32>, Route<A>)>,
    /// What sends marked packets to those tables.
    pub policies: BTreeSet<Policy<A>>,
}

impl<A> Default for Ways<A> {
    fn default() -> Self {
        Self { neighbours: BTreeMap::new(), routes: BTreeSet::new(), policies: BTreeSet::new() }
    }
}

impl Mesh {
    /// The mesh of this state; none where this node knows no other that is in it. Without IPv6 where this host has none.
    pub fn of(desired: &Desired, names: &Names, has_ipv6: bool) -> Option<Self> {
        let network = desired.networks.values().find(|n| n.ingress)?;
        let mut blocks = by_node(&network.blocks);
        let mut blocks6 = by_node(&network.blocks6);
        let six = network.subnet6.zip(desired.overlay_addr6).filter(|_| has_ipv6);
        let members = network.peers.iter().filter(|p| p.keeps_client_address);
        let peers: Vec<Peer> = members
            .map(|peer| {
                let blocks6 = blocks6.remove(peer.node_id.as_str()).unwrap_or_default();
                Peer {
                    addr: peer.overlay_addr,
                    own: own_addresses(peer),
                    blocks: blocks.remove(peer.node_id.as_str()).unwrap_or_default(),
                    blocks6: (six.is_some() && peer.keeps_client_address6).then_some(blocks6),
                }
            })
            .collect();
        if peers.is_empty() {
            return None;
        }
        let six = six.filter(|_| peers.iter().any(|p| p.blocks6.is_some()));
        Some(Self {
            local: desired.overlay_addr?,
            subnet: network.subnet.network(),
            six: six.map(|(subnet, local)| Six { local, subnet: subnet.network() }),
            vni: (crate::nft::digest(network.id.as_bytes()) & 0xff_ffff) as u32,
            port: PORT,
            mark: names.mark(),
            priority: names.priority(),
            peers,
        })
    }

    /// The mark of connections that came by the node with this overlay address; also the number of its routing tables.
    pub fn mark_of(&self, node: Ipv4Addr) -> u32 {
        self.mark | (u32::from(node) & !MARK_MASK)
    }

    /// The interface.
    pub fn link(&self) -> VxLan {
        VxLan { vni: self.vni, local: self.local, port: self.port, mac: mac_of(self.local) }
    }

    /// The interface's MTU within a tunnel of this one.
    pub fn mtu(&self, tunnel: u16) -> u32 {
        let room = u32::from(tunnel).saturating_sub(OVERHEAD);
        if self.six.is_some() { room.max(LEAST_MTU6) } else { room }
    }

    /// Which node a hardware address leads to.
    pub fn forwards(&self) -> Vec<Forward> {
        self.peers.iter().map(|p| Forward { mac: mac_of(p.addr), to: p.addr }).collect()
    }

    /// What IPv4 has of it.
    pub fn four(&self) -> Ways<Ipv4Addr> {
        let peers = self.peers.iter().map(|p| (p, p.addr, p.blocks.as_slice()));
        self.ways(self.local, self.subnet, peers)
    }

    /// What IPv6 has of it.
    pub fn six(&self) -> Ways<Ipv6Addr> {
        let Some(six) = self.six else { return Ways::default() };
        let peers = self.peers.iter().filter_map(|p| Some((p, hop6(p.addr), p.blocks6.as_deref()?)));
        self.ways(six.local, six.subnet, peers)
    }

    /// Packets that are none of ours meet one rule only, however many nodes there are; those to tasks, which are marked
    /// for the check of their source, go on in the main table.
    fn ways<'a, A: Address>(
        &self,
        local: A,
        subnet: Cidr<A>,
        peers: impl Iterator<Item = (&'a Peer, A, &'a [Cidr<A>])>,
    ) -> Ways<A> {
        let [first, second, last] = [0, 1, 2].map(|n| self.priority + n);
        let policy = |priority, action| Policy { priority, action, mark: None, unless: false, to: None };
        let mark = Some((self.mark, MARK_MASK));
        let ends = [
            policy(last, Action::Nothing),
            Policy { mark, unless: true, ..policy(first, Action::Goto(last)) },
            Policy { to: Some(subnet), ..policy(first, Action::Goto(last)) },
        ];
        let mut ways = Ways { policies: ends.into(), ..Ways::default() };
        for (peer, hop, blocks) in peers {
            let (mark, via) = (self.mark_of(peer.addr), Some(hop));
            ways.neighbours.insert(hop, mac_of(peer.addr));
            ways.routes.extend(blocks.iter().map(|to| (None, Route { to: *to, via, src: Some(local) })));
            ways.routes.insert((Some(mark), Route { to: Cidr::all(), via, src: None }));
            let mark = Some((mark, u32::MAX));
            ways.policies.insert(Policy { mark, ..policy(second, Action::Table(self.mark_of(peer.addr))) });
        }
        ways
    }
}

fn by_node<A: Address>(blocks: &BTreeMap<Cidr<A>, String>) -> BTreeMap<&str, Vec<Cidr<A>>> {
    let mut all: BTreeMap<&str, Vec<Cidr<A>>> = BTreeMap::new();
    for (block, node) in blocks {
        all.entry(node).or_default().push(block.network());
    }
    all
}

/// Those it tells, and where its tunnel ends.
fn own_addresses(peer: &desired::Peer) -> BTreeSet<IpAddr> {
    peer.addresses.iter().copied().chain([peer.endpoint.ip()]).collect()
}

/// Locally administered, and made from the node's overlay address.
pub fn mac_of(addr: Ipv4Addr) -> Mac {
    let [a, b, c, d] = addr.octets();
    [0x02, 0xd0, a, b, c, d]
}

/// The node as a next hop of IPv6. Its address in the overlay is none: the kernel asks where that leads, which is into the
/// tunnel, and refuses it for another interface.
fn hop6(addr: Ipv4Addr) -> Ipv6Addr {
    let [a, b, c, d] = addr.octets().map(u16::from);
    Ipv6Addr::new(0xfe80, 0, 0, 0, 0x02d0, 0, a << 8 | b, c << 8 | d)
}
