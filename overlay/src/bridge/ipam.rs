//! Which range a new bridge network gets and which address a new container.

use std::collections::BTreeSet;
use std::net::{Ipv4Addr, Ipv6Addr};

use crate::cidr::{Address, Cidr, Cidr6};

/// A private range that touches none of those in use: Docker's pools, in Docker's order.
pub fn free_subnet(used: &[Cidr]) -> Option<Cidr> {
    let large = (17..32).map(|b| Cidr { addr: Ipv4Addr::new(172, b, 0, 0), len: 16 });
    let small = (0..16).map(|c| Cidr { addr: Ipv4Addr::new(192, 168, c * 16, 0), len: 20 });
    let free = |range: &Cidr| !used.iter().any(|u| u.len > 0 && u.overlaps(range));
    large.chain(small).find(free)
}

/// A /64 that touches none of those in use, of the /48 of unique local addresses (RFC 4193) that `host` stands for.
pub fn free_subnet6(host: u64, used: &[Cidr6]) -> Option<Cidr6> {
    let global = u128::from(host) & 0xff_ffff_ffff;
    let subnet = |n: u128| Cidr { addr: Ipv6Addr::from(0xfd << 120 | global << 80 | n << 64), len: 64 };
    (0..1 << 16).map(subnet).find(|range| !used.iter().any(|u| u.len > 0 && u.overlaps(range)))
}

/// The lowest address of the range (the whole subnet, or a part of it) that nobody has, as Docker gives them.
pub fn free_address<A: Address>(
    subnet: Cidr<A>,
    range: Cidr<A>,
    gateway: A,
    used: &BTreeSet<A>,
) -> Option<A> {
    let first = range.first().number().max(subnet.first().number() + 1);
    let end = (range.last().number() + 1).min(subnet.last().number());
    (first..end).map(A::from_number).find(|addr| *addr != gateway && !used.contains(addr))
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
    fn ipv6_ranges_are_of_one_prefix_of_the_hosts_own() {
        let six = |text: &str| -> Cidr6 { text.parse().expect("a literal network") };
        let host = 0xabcd_ef01_2345_6789;
        assert_eq!(free_subnet6(host, &[]), Some(six("fd01:2345:6789::/64")));
        let used = [six("fd01:2345:6789::/63"), six("::/0")];
        assert_eq!(free_subnet6(host, &used), Some(six("fd01:2345:6789:2::/64")));
        let subnet = six("fd01::/64");
        let (gateway, none) = ("fd01::1".parse().expect("address"), BTreeSet::new());
        let given = free_address(subnet, subnet, gateway, &none).map(|a| a.to_string());
        assert_eq!(given.as_deref(), Some("fd01::2"));
    }

    #[test]
    fn addresses_are_the_lowest_and_run_out() {
        let subnet = cidr("10.1.0.0/29");
        let gateway = Ipv4Addr::new(10, 1, 0, 1);
        let mut used = BTreeSet::new();
        for host in 2..=6 {
            let given = free_address(subnet, subnet, gateway, &used);
            assert_eq!(given, Some(Ipv4Addr::new(10, 1, 0, host)));
            used.extend(given);
        }
        assert_eq!(free_address(subnet, subnet, gateway, &used), None);
        used.remove(&Ipv4Addr::new(10, 1, 0, 3));
        used.remove(&Ipv4Addr::new(10, 1, 0, 5));
        assert_eq!(free_address(subnet, subnet, gateway, &used), Some(Ipv4Addr::new(10, 1, 0, 3)));
        let part = cidr("10.1.0.4/31");
        assert_eq!(free_address(subnet, part, gateway, &used), Some(Ipv4Addr::new(10, 1, 0, 5)));
        used.insert(Ipv4Addr::new(10, 1, 0, 5));
        assert_eq!(free_address(subnet, part, gateway, &used), None);
    }
}
