//! Which range a new bridge network gets and which address a new container.

use std::collections::BTreeSet;
use std::net::Ipv4Addr;

use crate::desired::Cidr;

/// A private range that touches none of those in use: Docker's pools, in Docker's order.
pub fn free_subnet(used: &[Cidr]) -> Option<Cidr> {
    let large = (17..32).map(|b| Cidr { addr: Ipv4Addr::new(172, b, 0, 0), len: 16 });
    let small = (0..16).map(|c| Cidr { addr: Ipv4Addr::new(192, 168, c * 16, 0), len: 20 });
    let free = |range: &Cidr| !used.iter().any(|u| u.len > 0 && u.overlaps(range));
    large.chain(small).find(free)
}

/// The first address of the range (the whole subnet, or a part of it) after `last` that nobody has, starting
/// over at the end: an address just given back rests as long as there are others.
pub fn free_address(
    subnet: Cidr,
    range: Cidr,
    gateway: Ipv4Addr,
    used: &BTreeSet<Ipv4Addr>,
    last: Option<Ipv4Addr>,
) -> Option<Ipv4Addr> {
    let first = u32::from(range.first()).max(u32::from(subnet.first()) + 1);
    let end = (u32::from(range.last()) + 1).min(u32::from(subnet.last()));
    if first >= end {
        return None;
    }
    let start = last.map_or(first, |l| u32::from(l).saturating_add(1)).clamp(first, end);
    (start..end).chain(first..start).map(Ipv4Addr::from).find(|addr| *addr != gateway && !used.contains(addr))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cidr(text: &str) -> Cidr {
        text.parse().expect("a literal network")
    }

    #[test]
    fn subnets_avoid_what_is_routed() {
        assert_eq!(free_subnet(&[]), Some(cidr("172.17.0.0/16")));
        assert_eq!(free_subnet(&[cidr("172.17.3.0/24")]), Some(cidr("172.18.0.0/16")));
        assert_eq!(free_subnet(&[cidr("172.16.0.0/12")]), Some(cidr("192.168.0.0/20")));
        assert_eq!(free_subnet(&[cidr("0.0.0.0/0")]), Some(cidr("172.17.0.0/16")));
        assert_eq!(free_subnet(&[cidr("172.16.0.0/12"), cidr("192.168.0.0/16")]), None);
    }

    #[test]
    fn addresses_go_round_and_run_out() {
        let subnet = cidr("10.1.0.0/29");
        let gateway = Ipv4Addr::new(10, 1, 0, 1);
        let mut used = BTreeSet::new();
        let mut last = None;
        for host in 2..=6 {
            last = free_address(subnet, subnet, gateway, &used, last);
            assert_eq!(last, Some(Ipv4Addr::new(10, 1, 0, host)));
            used.extend(last);
        }
        assert_eq!(free_address(subnet, subnet, gateway, &used, last), None);
        let part = cidr("10.1.0.4/31");
        assert_eq!(free_address(subnet, part, gateway, &used, None), None);
        used.remove(&Ipv4Addr::new(10, 1, 0, 5));
        assert_eq!(free_address(subnet, part, gateway, &used, last), Some(Ipv4Addr::new(10, 1, 0, 5)));
        used.insert(Ipv4Addr::new(10, 1, 0, 5));
        used.remove(&Ipv4Addr::new(10, 1, 0, 4));
        assert_eq!(free_address(subnet, subnet, gateway, &used, last), Some(Ipv4Addr::new(10, 1, 0, 4)));
    }
}
