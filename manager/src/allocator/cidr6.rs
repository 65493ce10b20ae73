//! IPv6 networks in CIDR notation.

use std::fmt;
use std::net::Ipv6Addr;
use std::str::FromStr;

/// An IPv6 network.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Cidr6 {
    base: u128,
    len: u8,
}

/// A text that is not an IPv6 network.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not an IPv6 network such as fd00:1::/64")]
pub struct Cidr6Error(pub String);

impl Cidr6 {
    /// The network of `len` bits that `addr` lies in.
    pub fn of(addr: Ipv6Addr, len: u8) -> Self {
        let len = len.min(128);
        Self { base: u128::from(addr) & mask(len), len }
    }
    /// Its first address.
    pub fn base(self) -> u128 {
        self.base
    }
    /// Length of the prefix.
    pub fn prefix_len(self) -> u8 {
        self.len
    }
    /// The address that is so many behind the first.
    pub fn at(self, offset: u128) -> Ipv6Addr {
        self.base.wrapping_add(offset).into()
    }
    /// How many addresses behind the first this one is; none where it lies outside.
    pub fn offset(self, addr: Ipv6Addr) -> Option<u128> {
        self.contains(addr).then(|| u128::from(addr) - self.base)
    }
    /// Whether the address lies in it.
    pub fn contains(self, addr: Ipv6Addr) -> bool {
        u128::from(addr) & mask(self.len) == self.base
    }
    /// Whether the two share an address.
    pub fn overlaps(self, other: Cidr6) -> bool {
        self.contains(other.base.into()) || other.contains(self.base.into())
    }
}

fn mask(len: u8) -> u128 {
    u128::MAX.checked_shl(128 - u32::from(len)).unwrap_or(0)
}

impl FromStr for Cidr6 {
    type Err = Cidr6Error;
    fn from_str(s: &str) -> Result<Self, Cidr6Error> {
        let bad = || Cidr6Error(s.to_owned());
        let (addr, len) = s.split_once('/').ok_or_else(bad)?;
        let addr: Ipv6Addr = addr.parse().map_err(|_| bad())?;
        let len: u8 = len.parse().ok().filter(|l| *l <= 128).ok_or_else(bad)?;
        Ok(Cidr6::of(addr, len))
    }
}

impl fmt::Display for Cidr6 {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", Ipv6Addr::from(self.base), self.len)
    }
}
