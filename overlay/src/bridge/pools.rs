//! The ranges that networks are cut from which ask for none: Docker's, or those that the daemon was told
//! (`default-address-pools`).

use std::net::{Ipv4Addr, Ipv6Addr};

use crate::cidr::{Address, Cidr};
use crate::error::{Error, Result};

/// A range, and how long the prefixes of networks in it are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pool<A = Ipv4Addr> {
    base: Cidr<A>,
    size: u8,
}

impl<A: Address> Pool<A> {
    /// A pool of networks of this size.
    ///
    /// # Errors
    /// The size is none of a network in the range.
    pub fn new(base: Cidr<A>, size: u8) -> Result<Self> {
        let most = A::BITS - 2;
        if size < base.len || size > most || size == 0 {
            return Err(Error::Invalid {
                what: "size of an address pool",
                value: size.to_string(),
                reason: format!("networks in {base} have prefixes of {} to {most} bits", base.len.max(1)),
            });
        }
        Ok(Self { base: base.network(), size })
    }

    /// The first network that touches none of those in use.
    fn free(&self, used: &[Cidr<A>]) -> Option<Cidr<A>> {
        let step = 1u128.checked_shl(u32::from(A::BITS - self.size))?;
        let mut at = self.base.first().number();
        while at <= self.base.last().number() {
            let network = Cidr { addr: A::from_number(at), len: self.size };
            // A default route is in nobody's way.
            let taken = used.iter().filter(|u| u.len > 0 && u.overlaps(&network));
            let Some(last) = taken.map(|u| u.last().number()).max() else { return Some(network) };
            at = (last.max(at) / step).checked_add(1)?.checked_mul(step)?;
        }
        None
    }

    fn has(&self, network: Cidr<A>) -> bool {
        network.len == self.size && self.base.contains(network.first())
    }
}

/// The pools of both families.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pools {
    v4: Vec<Pool>,
    v6: Vec<Pool<Ipv6Addr>>,
}

impl Default for Pools {
    /// Docker's of IPv4, in Docker's order. Of IPv6 there is the prefix of unique local addresses that a host has.
    fn default() -> Self {
        let at = |addr: [u8; 4], len, size| Pool { base: Cidr { addr: addr.into(), len }, size };
        let large = (17..32).map(|b| at([172, b, 0, 0], 16, 16));
        Self { v4: large.chain([at([192, 168, 0, 0], 16, 20)]).collect(), v6: Vec::new() }
    }
}

impl Pools {
    /// These, and for a family that has none those by default.
    pub fn new(v4: Vec<Pool>, v6: Vec<Pool<Ipv6Addr>>) -> Self {
        Self { v4: if v4.is_empty() { Self::default().v4 } else { v4 }, v6 }
    }

    /// A range that touches none of those in use.
    pub(super) fn free(&self, used: &[Cidr]) -> Option<Cidr> {
        self.v4.iter().find_map(|pool| pool.free(used))
    }

    /// The same of IPv6; without pools a /64 of the /48 of unique local addresses (RFC 4193) that `host` stands for.
    pub(super) fn free6(&self, host: u64, used: &[Cidr<Ipv6Addr>]) -> Option<Cidr<Ipv6Addr>> {
        match self.v6.as_slice() {
            [] => own(host).free(used),
            pools => pools.iter().find_map(|pool| pool.free(used)),
        }
    }

    /// Whether a network may have been cut from them.
    pub(super) fn have(&self, network: Cidr) -> bool {
        self.v4.iter().any(|pool| pool.has(network))
    }

    /// The same of IPv6.
    pub(super) fn have6(&self, host: u64, network: Cidr<Ipv6Addr>) -> bool {
        match self.v6.as_slice() {
            [] => own(host).has(network),
            pools => pools.iter().any(|pool| pool.has(network)),
        }
    }
}

fn own(host: u64) -> Pool<Ipv6Addr> {
    let global = u128::from(host) & 0xff_ffff_ffff;
    Pool { base: Cidr { addr: Ipv6Addr::from(0xfd << 120 | global << 80), len: 48 }, size: 64 }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cidr::Cidr6;

    fn cidr(text: &str) -> Cidr {
        text.parse().expect("a literal network")
    }

    fn six(text: &str) -> Cidr6 {
        text.parse().expect("a literal network")
    }

    #[test]
    fn networks_avoid_what_is_routed() {
        let free = |used: &[&str]| {
            let used: Vec<_> = used.iter().map(|u| cidr(u)).collect();
            Pools::default().free(&used).map(|n| n.to_string())
        };
        for (used, given) in [
            (&[] as &[&str], Some("172.17.0.0/16")),
            (&["172.17.3.0/24"], Some("172.18.0.0/16")),
            (&["172.16.0.0/12"], Some("192.168.0.0/20")),
            (&["172.16.0.0/12", "192.168.1.0/24", "192.168.16.0/21"], Some("192.168.32.0/20")),
            (&["0.0.0.0/0"], Some("172.17.0.0/16")),
            (&["172.16.0.0/12", "192.168.0.0/16"], None),
        ] {
            assert_eq!(free(used).as_deref(), given, "{used:?}");
        }
    }

    #[test]
    fn pools_are_of_the_users_choice() {
        let pool = |base: &str, size| Pool::new(cidr(base), size);
        let of = vec![pool("10.9.0.0/30", 30).expect("one"), pool("10.8.3.9/22", 24).expect("four")];
        let pools = Pools::new(of, vec![Pool::new(six("fd77::/120"), 124).expect("sixteen")]);
        let mut used = Vec::new();
        while let Some(network) = pools.free(&used) {
            assert!(pools.have(network));
            used.push(network);
        }
        let all: Vec<_> = used.iter().map(ToString::to_string).collect();
        assert_eq!(all, ["10.9.0.0/30", "10.8.0.0/24", "10.8.1.0/24", "10.8.2.0/24", "10.8.3.0/24"]);
        assert!(!pools.have(cidr("10.8.0.0/25")) && !pools.have(cidr("172.17.0.0/16")));
        assert_eq!(pools.free6(7, &[six("fd77::/123")]), Some(six("fd77::20/124")));
        assert_eq!(pools.free6(7, &[six("fd77::/64")]), None);
        assert_eq!(Pools::new(Vec::new(), Vec::new()), Pools::default());
        for (base, size) in [("10.0.0.0/8", 7), ("10.0.0.0/8", 31), ("0.0.0.0/0", 0)] {
            assert!(pool(base, size).is_err(), "{base} {size}");
        }
        let end = Pools::new(Vec::new(), vec![Pool::new(six("ffff::/16"), 16).expect("the last")]);
        assert_eq!(end.free6(7, &[six("ffff::1/128")]), None, "there is nothing behind it");
    }

    #[test]
    fn ipv6_ranges_are_of_one_prefix_of_the_hosts_own() {
        let host = 0xabcd_ef01_2345_6789;
        let pools = Pools::default();
        assert_eq!(pools.free6(host, &[]), Some(six("fd01:2345:6789::/64")));
        let used = [six("fd01:2345:6789::/63"), six("::/0")];
        assert_eq!(pools.free6(host, &used), Some(six("fd01:2345:6789:2::/64")));
        assert!(pools.have6(host, six("fd01:2345:6789:9::/64")) && !pools.have6(host, six("fd02::/64")));
    }
}
