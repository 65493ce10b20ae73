//! Subnets of overlay networks, cut from the cluster's pools, and the nodes' own overlay addresses.

use std::collections::HashSet;
use std::net::Ipv4Addr;

use skep_proto::{defaults, v1};

use super::cidr::Cidr;
use super::layout::Layout;
use super::v6;
use crate::store::{StoreView, change::put};

/// Prefix length of what is spared around a node's own address where a network's subnet is chosen for it.
const NEIGHBOURS: u8 = 16;

/// What overlaps with `subnet`, for a person; `None` if nothing does. `except` is a network's id.
pub fn overlap(view: &StoreView, subnet: Cidr, except: &str) -> Option<String> {
    if let Some(pool) = node_pool(view).filter(|p| p.overlaps(subnet)) {
        return Some(format!("subnet {subnet} overlaps with {pool}, the pool of the nodes' own addresses"));
    }
    if let Some((node, addr)) = hosts(view).find(|(_, addr)| Cidr::of(u32::from(*addr), 32).overlaps(subnet))
    {
        let host = node.description.as_ref().map_or(node.id.as_str(), |d| &d.hostname);
        return Some(format!(
            "subnet {subnet} holds {addr}, the address of node {host} itself, which would be cut off"
        ));
    }
    view.networks().filter(|n| n.id != except).find_map(|n| {
        let other: Cidr =
            n.subnet.parse().or_else(|_| n.spec.as_ref().map_or("", |s| &s.subnet).parse()).ok()?;
        other.overlaps(subnet).then(|| {
            format!(
                "subnet {subnet} overlaps with {other} of network {} ({})",
                crate::store::network_name(n),
                n.id
            )
        })
    })
}

/// The nodes' own addresses outside the overlay.
fn hosts(view: &StoreView) -> impl Iterator<Item = (&v1::Node, Ipv4Addr)> {
    view.nodes().flat_map(|node| {
        let manager = node.manager.as_ref().and_then(|m| m.addr.rsplit_once(':')).map(|(host, _)| host);
        let known = [Some(node.addr.as_str()), Some(node.data_path_addr.as_str()), manager];
        let addrs = known.into_iter().flatten().filter_map(|a| a.parse::<Ipv4Addr>().ok());
        addrs.filter(|a| !a.is_loopback()).map(|a| (&**node, a)).collect::<Vec<_>>()
    })
}

fn node_pool(view: &StoreView) -> Option<Cidr> {
    let pool = view.cluster().map_or("", |c| &c.node_pool);
    if pool.is_empty() { defaults::NODE_POOL } else { pool }.parse().ok()
}

/// Gives every network without a subnet one. What cannot be given is explained.
pub(super) fn networks(
    view: &StoreView,
    changes: &mut Vec<v1::Change>,
    refusals: &mut Vec<(String, String)>,
) {
    let mut taken: Vec<Cidr> = view.networks().filter_map(|n| n.subnet.parse().ok()).collect();
    taken.extend(node_pool(view));
    // What lies around a node's address is likely its neighbours'; with a small pool, only the address is spared.
    let around = |len| hosts(view).map(move |(_, addr)| Cidr::of(u32::from(addr), len)).collect::<Vec<_>>();
    let (neighbours, own) = (around(NEIGHBOURS), around(32));
    let mut taken6 = Vec::new();
    for network in view.networks().filter(|n| n.subnet.is_empty()) {
        let six = match range6(view, network.spec.as_ref(), &mut taken6) {
            Ok(six) => six,
            Err(why) => {
                refusals.push((network.id.clone(), why));
                continue;
            }
        };
        let asked = network.spec.as_ref().map_or("", |s| &s.subnet);
        let subnet = if asked.is_empty() {
            let sparing = |spared: &[Cidr]| cut(view, &[&taken[..], spared].concat());
            sparing(&neighbours)
                .or_else(|| sparing(&own))
                .ok_or_else(|| "the address pools have no free subnet left".to_owned())
        } else {
            asked.parse::<Cidr>().map_err(|e| e.to_string())
        };
        match subnet {
            Ok(subnet) => {
                taken.push(subnet);
                let mut network = v1::Network::clone(network);
                network.subnet = subnet.to_string();
                network.gateway = Ipv4Addr::from(Layout::of(subnet).gateway()).to_string();
                network.subnet6 = six;
                changes.push(put(network));
            }
            Err(why) => refusals.push((network.id.clone(), why)),
        }
    }
}

/// The range of IPv6 that goes with a network's subnet; empty where it is to have none. `taken` are those given in
/// this pass.
fn range6(
    view: &StoreView,
    spec: Option<&v1::NetworkSpec>,
    taken: &mut Vec<super::cidr6::Cidr6>,
) -> Result<String, String> {
    let Some(spec) = spec.filter(|s| s.ipv6) else { return Ok(String::new()) };
    let range = match spec.subnet6.as_str() {
        "" => v6::cut(view, taken).ok_or("the swarm's own IPv6 prefix has no free range left")?,
        asked => asked.parse().map_err(|e: super::cidr6::Cidr6Error| e.to_string())?,
    };
    taken.push(range);
    Ok(range.to_string())
}

fn cut(view: &StoreView, taken: &[Cidr]) -> Option<Cidr> {
    let cluster = view.cluster();
    let pools = cluster.map_or(&[][..], |c| &c.address_pools);
    let size = cluster.map_or(0, |c| c.subnet_size);
    let len = if size == 0 { defaults::SUBNET_SIZE } else { size }.min(30) as u8;
    let default = [defaults::ADDRESS_POOL.to_owned()];
    let pools = if pools.is_empty() { &default[..] } else { pools };
    pools.iter().filter_map(|p| p.parse::<Cidr>().ok()).find_map(|pool| {
        let mut next = u64::from(pool.base());
        while next + (1u64 << (32 - len)) <= u64::from(pool.last()) + 1 {
            let candidate = Cidr::of(next as u32, len);
            match taken.iter().filter(|t| t.overlaps(candidate)).map(|t| u64::from(t.last())).max() {
                None => return Some(candidate),
                // Go on behind what is in the way.
                Some(last) => next = (last + 1).next_multiple_of(1 << (32 - len)),
            }
        }
        None
    })
}

/// Gives every node without an overlay address one.
pub(super) fn nodes(view: &StoreView, changes: &mut Vec<v1::Change>) {
    if view.nodes().all(|n| !n.overlay_addr.is_empty()) {
        return;
    }
    let Some(pool) = node_pool(view) else { return };
    let taken: HashSet<u32> =
        view.nodes().filter_map(|n| n.overlay_addr.parse::<Ipv4Addr>().ok()).map(u32::from).collect();
    let mut free = (pool.base().saturating_add(1)..pool.last()).filter(|a| !taken.contains(a));
    for node in view.nodes().filter(|n| n.overlay_addr.is_empty()) {
        let Some(addr) = free.next() else {
            tracing::warn!(node = %node.id, %pool, "no overlay address left for the node: its pool is used up");
            return;
        };
        let mut node = v1::Node::clone(node);
        node.overlay_addr = Ipv4Addr::from(addr).to_string();
        changes.push(put(node));
    }
}
