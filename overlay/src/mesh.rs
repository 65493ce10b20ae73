//! The ingress mesh: how a connection to a published port reaches a task of another node with its client's address
//! on it. WireGuard takes nothing from a peer but from that peer's own ranges, so the packet travels inside VXLAN
//! within the tunnel, from node to node. The task's node notes on the connection which node it came by (a conntrack
//! mark), and policy routing sends the answers back there, where the translation of the port is undone.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr};

use crate::cidr::Cidr;
use crate::desired::Desired;
use crate::link::{Action, Forward, Mac, Policy, Route, VxLan};
use crate::names::Names;

/// Bytes that VXLAN adds to a packet: its own 8, UDP 8, IP 20, Ethernet 14.
pub const OVERHEAD: u32 = 50;
/// Where a node of the swarm takes these packets, inside the tunnel.
pub const PORT: u16 = 4792;
/// Which bits of a mark say whose it is; the others name a node.
pub const MARK_MASK: u32 = 0xff00_0000;

/// What this node's part of the mesh comes to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mesh {
    /// This node's address in the overlay.
    pub local: Ipv4Addr,
    /// The ingress network.
    pub subnet: Cidr,
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

/// Another node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Peer {
    /// Its address in the overlay.
    pub addr: Ipv4Addr,
    /// Where its tunnel ends: an address that is its own.
    pub underlay: Option<Ipv4Addr>,
    /// What its tasks are given addresses of.
    pub blocks: Vec<Cidr>,
}

impl Mesh {
    /// The mesh of this state; none where this node knows no other that is in it.
    pub fn of(desired: &Desired, names: &Names) -> Option<Self> {
        let network = desired.networks.values().find(|n| n.ingress)?;
        let mut blocks: BTreeMap<&str, Vec<Cidr>> = BTreeMap::new();
        for (block, node) in &network.blocks {
            blocks.entry(node).or_default().push(block.network());
        }
        let members = network.peers.iter().filter(|p| p.keeps_client_address);
        let peers: Vec<Peer> = members
            .map(|peer| Peer {
                addr: peer.overlay_addr,
                underlay: match peer.endpoint.ip() {
                    IpAddr::V4(addr) => Some(addr),
                    IpAddr::V6(_) => None,
                },
                blocks: blocks.remove(peer.node_id.as_str()).unwrap_or_default(),
            })
            .collect();
        if peers.is_empty() {
            return None;
        }
        Some(Self {
            local: desired.overlay_addr?,
            subnet: network.subnet.network(),
            vni: (crate::nft::digest(network.id.as_bytes()) & 0xff_ffff) as u32,
            port: PORT,
            mark: names.mark(),
            priority: names.priority(),
            peers,
        })
    }

    /// The mark of connections that came by the node with this overlay address; also the number of its routing table.
    pub fn mark_of(&self, node: Ipv4Addr) -> u32 {
        self.mark | (u32::from(node) & !MARK_MASK)
    }

    /// The interface.
    pub fn link(&self) -> VxLan {
        VxLan { vni: self.vni, local: self.local, port: self.port, mac: mac_of(self.local) }
    }

    /// Hardware addresses of the others' interfaces, by overlay address.
    pub fn neighbours(&self) -> BTreeMap<Ipv4Addr, Mac> {
        self.peers.iter().map(|p| (p.addr, mac_of(p.addr))).collect()
    }

    /// Which node a hardware address leads to.
    pub fn forwards(&self) -> Vec<Forward> {
        self.peers.iter().map(|p| Forward { mac: mac_of(p.addr), to: p.addr }).collect()
    }

    /// Routes by the interface, with their tables: to the others' tasks, and for each node the way back through it.
    pub fn routes(&self) -> Vec<(Option<u32>, Route)> {
        let tasks = self.peers.iter().flat_map(|peer| {
            let to = move |to: &Cidr| Route { to: *to, via: Some(peer.addr), src: Some(self.local) };
            peer.blocks.iter().map(move |b| (None, to(b)))
        });
        let back = self.peers.iter().map(|peer| {
            let route = Route { to: Cidr::all(), via: Some(peer.addr), src: None };
            (Some(self.mark_of(peer.addr)), route)
        });
        tasks.chain(back).collect()
    }

    /// What sends marked packets to those tables. Packets that are none of ours meet one rule only, however many nodes
    /// there are; those to tasks, which are marked for the check of their source, go on in the main table.
    pub fn policies(&self) -> Vec<Policy> {
        let [first, second, last] = [0, 1, 2].map(|n| self.priority + n);
        let policy = |priority, action| Policy { priority, action, mark: None, unless: false, to: None };
        let mark = Some((self.mark, MARK_MASK));
        let ends = [
            policy(last, Action::Nothing),
            Policy { mark, unless: true, ..policy(first, Action::Goto(last)) },
            Policy { to: Some(self.subnet), ..policy(first, Action::Goto(last)) },
        ];
        let nodes = self.peers.iter().map(|peer| {
            let mark = self.mark_of(peer.addr);
            Policy { mark: Some((mark, u32::MAX)), ..policy(second, Action::Table(mark)) }
        });
        ends.into_iter().chain(nodes).collect()
    }
}

/// Locally administered, and made from the node's overlay address.
pub fn mac_of(addr: Ipv4Addr) -> Mac {
    let [a, b, c, d] = addr.octets();
    [0x02, 0xd0, a, b, c, d]
}
