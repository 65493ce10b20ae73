//! Which address a new container gets.

use crate::cidr::{Address, Cidr};
use std::collections::BTreeSet;

/// The lowest address of the range (the whole subnet, or a part of it) that nobody has, as Docker gives them.
pub fn free_address<A: Address>(
    subnet: Cidr<A>,
    range: Cidr<A>,
    gateway: A,
    used: &BTreeSet<A>,
) -> Option<A> {
    let edge = u128::from(!subnet.is_pair());
    let first = range.first().number().max(subnet.first().number() + edge);
    let last = range.last().number().min(subnet.last().number() - edge);
    (first..=last).map(A::from_number).find(|addr| *addr != gateway && !used.contains(addr))
}

#[cfg(test)]
mod tests {
    use std::net::{Ipv4Addr, Ipv6Addr};

    use super::*;
    use crate::cidr::Cidr6;

    fn cidr(text: &str) -> Cidr {
        text.parse().expect("a literal network")
    }

    #[test]
    fn a_pair_is_the_host_and_one_container() {
        for (gateway, given) in [(0, Some(1)), (1, Some(0))] {
            let addr = |n| Ipv4Addr::new(10, 1, 0, n);
            let (pair, mut used) = (cidr("10.1.0.0/31"), BTreeSet::new());
            assert_eq!(free_address(pair, pair, addr(gateway), &used), given.map(addr));
            used.extend(given.map(addr));
            assert_eq!(free_address(pair, pair, addr(gateway), &used), None);
        }
    }

    #[test]
    fn addresses_are_the_lowest_and_run_out() {
        let six: Cidr6 = "fd01::/64".parse().expect("a literal network");
        let given = free_address(six, six, Ipv6Addr::from(0xfd01 << 112 | 1), &BTreeSet::new());
        assert_eq!(given.map(|a| a.to_string()).as_deref(), Some("fd01::2"));
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
