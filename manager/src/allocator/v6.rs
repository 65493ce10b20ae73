//! IPv6 beside IPv4. Whoever has an address in a network with IPv6 has there the place (so many addresses behind the
//! first) that it has in the IPv4 subnet. So who holds which address, and which node which block, is said once for
//! both, and can neither leak nor differ. Behind the places of IPv4 is room for addresses that users choose.

use std::net::{Ipv4Addr, Ipv6Addr};

use skep_proto::{defaults, v1};

use super::cidr::Cidr;
use super::cidr6::Cidr6;
use super::pool;
use crate::store::StoreView;

/// Prefix length of what is cut for a network.
const NETWORK: u8 = 64;
/// Prefix length of what a swarm has of its own (RFC 4193).
const SWARM: u8 = 48;
/// The networks' number, within that, of the nodes' own addresses; those of networks are below.
const NODES: u128 = 0xffff;

/// Both ranges of a network that has IPv6.
#[derive(Clone, Copy, Debug)]
pub struct Both {
    four: Cidr,
    six: Cidr6,
}

impl Both {
    /// Those of the network; none where it has no IPv6, or nothing yet.
    pub fn of(network: &v1::Network) -> Option<Self> {
        Some(Self { four: network.subnet.parse().ok()?, six: network.subnet6.parse().ok()? })
    }

    /// The address beside an IPv4 address of the network.
    pub fn beside(self, addr: u32) -> Ipv6Addr {
        self.six.at(addr.wrapping_sub(self.four.base()).into())
    }

    /// The block beside a block.
    pub fn block(self, block: Cidr) -> Cidr6 {
        Cidr6::of(self.beside(block.base()), 128 - (32 - block.prefix_len()))
    }

    /// The IPv4 address that this one is beside of; none where it lies behind all of those.
    pub fn four(self, addr: Ipv6Addr) -> Result<Option<u32>, String> {
        let six = self.six;
        let offset = six.offset(addr).ok_or_else(|| format!("address {addr} is not in subnet {six}"))?;
        Ok((offset < self.four.size().into()).then(|| self.four.base() + offset as u32))
    }
}

/// Addresses for one more task of `node` in a network: those it wants, or an IPv4 address of the node's blocks and the
/// one beside it. The error says why there are none.
pub fn take(
    view: &StoreView,
    network_id: &str,
    node: &str,
    (wanted, wanted6): (Option<Ipv4Addr>, Option<Ipv6Addr>),
) -> Result<v1::TaskAddress, String> {
    let network = view.network(network_id);
    let both = network.and_then(|n| Both::of(n));
    let name = network.map_or(network_id, |n| crate::store::network_name(n));
    let given = |addr: Ipv4Addr, addr6: String| v1::TaskAddress {
        network_id: network_id.to_owned(),
        addr: addr.to_string(),
        addr6,
    };
    let Some(six) = wanted6 else {
        let addr = pool::take_one(view, network_id, node, wanted)?;
        return Ok(given(addr, network.map(|n| beside(n, addr)).unwrap_or_default()));
    };
    let both = both.ok_or_else(|| {
        format!("address {six} is IPv6, which network {name} is without: make it with --ipv6")
    })?;
    let Some(four) = both.four(six)?.map(Ipv4Addr::from) else {
        if pool::held(view, network_id).any(|(a, _)| a.addr6.parse() == Ok(six)) {
            return Err(format!("address {six} is already in use in network {name}"));
        }
        return Ok(given(pool::take_one(view, network_id, node, wanted)?, six.to_string()));
    };
    let behind = both.six.at(both.four.size().into());
    let otherwise = format!("or choose an IPv6 address from {behind} on");
    if let Some(wanted) = wanted.filter(|w| *w != four) {
        return Err(format!(
            "address {six} goes with {four} in network {name}, not with {wanted}: ask for those two, {otherwise}"
        ));
    }
    let addr = pool::take_one(view, network_id, node, Some(four));
    Ok(given(
        addr.map_err(|why| format!("address {six} goes with {four}: {why}, {otherwise}"))?,
        six.to_string(),
    ))
}

/// Routes of a network by IPv6: what is beside its `blocks`, and the addresses that users chose behind all those.
pub fn blocks(view: &StoreView, network_id: &str, blocks: &[(Cidr, String)]) -> Vec<(Cidr6, String)> {
    let Some(both) = view.network(network_id).and_then(|n| Both::of(n)) else { return Vec::new() };
    let beside = blocks.iter().map(|(block, node)| (both.block(*block), node.clone()));
    let chosen = pool::held(view, network_id).filter_map(|(addr, node)| {
        let six = addr.addr6.parse().ok()?;
        matches!(both.four(six), Ok(None)).then(|| (Cidr6::of(six, 128), node.to_owned()))
    });
    let mut chosen: Vec<_> = chosen.collect();
    chosen.sort();
    beside.chain(chosen).collect()
}

/// The address beside an IPv4 address of the network, as it is written; empty where the network has no IPv6.
pub fn beside(network: &v1::Network, addr: Ipv4Addr) -> String {
    Both::of(network).map(|both| both.beside(addr.into()).to_string()).unwrap_or_default()
}

/// A node's own address, beside its `overlay_addr`; empty where that is not decided.
pub fn of_node(cluster_id: &str, overlay_addr: &str) -> String {
    let Ok(addr) = overlay_addr.parse::<Ipv4Addr>() else { return String::new() };
    nodes(cluster_id).at(u32::from(addr).into()).to_string()
}

/// What the swarm has of its own: of unique local addresses, the part that its ID stands for.
fn of_swarm(cluster_id: &str) -> Cidr6 {
    let digest = ring::digest::digest(&ring::digest::SHA256, cluster_id.as_bytes());
    let global = digest.as_ref().iter().take(5).fold(0xfd, |n: u128, byte| n << 8 | u128::from(*byte));
    Cidr6::of((global << (128 - SWARM)).into(), SWARM)
}

fn nth(cluster_id: &str, number: u128) -> Cidr6 {
    Cidr6::of(of_swarm(cluster_id).at(number << (128 - NETWORK)), NETWORK)
}

fn nodes(cluster_id: &str) -> Cidr6 {
    nth(cluster_id, NODES)
}

fn cluster_id(view: &StoreView) -> &str {
    view.cluster().map_or("", |c| &c.id)
}

/// The ranges of the networks that have IPv6, or are to have one that was given.
fn taken<'a>(view: &'a StoreView, except: &str) -> impl Iterator<Item = (&'a v1::Network, Cidr6)> {
    let others = view.networks().map(AsRef::as_ref).filter(move |n: &&v1::Network| n.id != except);
    others.filter_map(|n| {
        let asked = || n.spec.as_ref().map_or("", |s| &s.subnet6).parse();
        Some((n, n.subnet6.parse().or_else(|_| asked()).ok()?))
    })
}

/// The nodes' own addresses outside the overlay.
fn hosts(view: &StoreView) -> impl Iterator<Item = (&v1::Node, Ipv6Addr)> {
    view.nodes().flat_map(|node| {
        let known = [node.addr.as_str(), node.data_path_addr.as_str()];
        let addrs = known.into_iter().filter_map(|a| a.parse::<Ipv6Addr>().ok());
        addrs.filter(|a| !a.is_loopback()).map(|a| (&**node, a)).collect::<Vec<_>>()
    })
}

/// A range for a network: the first of the swarm's own that nothing has, `also` included.
pub(super) fn cut(view: &StoreView, also: &[Cidr6]) -> Option<Cidr6> {
    let held: Vec<Cidr6> = taken(view, "").map(|(_, range)| range).chain(also.iter().copied()).collect();
    let free = |range: &Cidr6| {
        !held.iter().any(|h| h.overlaps(*range)) && !hosts(view).any(|(_, addr)| range.contains(addr))
    };
    (0..NODES).map(|number| nth(cluster_id(view), number)).find(free)
}

/// What is wrong with what a new network asks of IPv6, for a person.
pub fn check(view: &StoreView, spec: &v1::NetworkSpec) -> Result<(), String> {
    if spec.subnet6.is_empty() {
        return Ok(());
    }
    let six: Cidr6 = spec.subnet6.parse().map_err(|e: super::cidr6::Cidr6Error| format!("subnet: {e}"))?;
    if !spec.ipv6 {
        return Err(format!(
            "subnet {six} is IPv6, which the network is made without: turn it on with --ipv6"
        ));
    }
    let first = Ipv6Addr::from(six.base());
    let special = first.is_loopback() || first.is_multicast() || first.is_unicast_link_local();
    if special || first.to_ipv4_mapped().is_some() || six.prefix_len() < 8 {
        return Err(format!("subnet {six} must be a unicast range of a prefix length of 8 or more"));
    }
    let size = view.cluster().map_or(0, |c| c.subnet_size);
    let cut = if size == 0 { defaults::SUBNET_SIZE } else { size }.min(30) as u8;
    let four = spec.subnet.parse::<Cidr>().map_or(cut, Cidr::prefix_len);
    if six.prefix_len() > 96 + four {
        return Err(format!(
            "subnet {six} is smaller than the network's IPv4 subnet (/{four}), beside whose addresses its own are: give a prefix length of at most {}",
            96 + four
        ));
    }
    overlap(view, six).map_or(Ok(()), |why| Err(format!("{why}: choose another one")))
}

fn overlap(view: &StoreView, subnet: Cidr6) -> Option<String> {
    let own = nodes(cluster_id(view));
    if own.overlaps(subnet) {
        return Some(format!("subnet {subnet} overlaps with {own}, the range of the nodes' own addresses"));
    }
    if let Some((node, addr)) = hosts(view).find(|(_, addr)| subnet.contains(*addr)) {
        let host = node.description.as_ref().map_or(node.id.as_str(), |d| &d.hostname);
        return Some(format!(
            "subnet {subnet} holds {addr}, the address of node {host} itself, which would be cut off"
        ));
    }
    let (other, range) = taken(view, "").find(|(_, range)| range.overlaps(subnet))?;
    let name = crate::store::network_name(other);
    Some(format!("subnet {subnet} overlaps with {range} of network {name} ({})", other.id))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn both(four: &str, six: &str) -> Both {
        let network = v1::Network { subnet: four.into(), subnet6: six.into(), ..Default::default() };
        Both::of(&network).expect("both ranges")
    }

    #[test]
    fn a_place_is_the_same_in_both_ranges() {
        for (four, six, addr, beside) in [
            ("10.1.0.0/24", "fd00:1::/64", "10.1.0.5", "fd00:1::5"),
            ("10.1.16.0/20", "fd00:1::/64", "10.1.31.254", "fd00:1::ffe"),
            ("10.1.2.0/24", "fd00:1::ab00/120", "10.1.2.9", "fd00:1::ab09"),
            ("10.0.0.0/8", "fd00::/16", "10.1.0.0", "fd00::1:0"),
        ] {
            let (both, addr): (_, Ipv4Addr) = (both(four, six), addr.parse().expect("address"));
            assert_eq!(both.beside(addr.into()).to_string(), beside, "{four} {six}");
            let six = beside.parse().expect("address");
            assert_eq!(both.four(six), Ok(Some(addr.into())), "{four} {six}");
        }
        let both = both("10.1.0.0/24", "fd00:1::/64");
        assert_eq!(both.four("fd00:1::100".parse().expect("address")), Ok(None));
        assert!(both.four("fd00:2::5".parse().expect("address")).is_err());
        let block = both.block("10.1.0.64/28".parse().expect("network"));
        assert_eq!(block.to_string(), "fd00:1::40/124");
        assert_eq!(both.block("10.1.0.3/32".parse().expect("network")).to_string(), "fd00:1::3/128");
    }

    #[test]
    fn a_swarm_has_a_prefix_of_its_own() {
        let (one, two) = (of_swarm("one"), of_swarm("two"));
        assert_eq!((one, one.prefix_len()), (of_swarm("one"), 48));
        assert!(one != two && one.to_string().starts_with("fd"), "{one} {two}");
        let node: Ipv6Addr = of_node("one", "100.64.0.3").parse().expect("address");
        assert!(one.contains(node) && nodes("one").contains(node), "{node}");
        assert_eq!(of_node("one", ""), "");
    }
}
