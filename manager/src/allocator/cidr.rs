//! IPv4 networks in CIDR notation.

use std::fmt;
use std::net::Ipv4Addr;
use std::str::FromStr;

/// An IPv4 network.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Cidr {
    base: u32,
    len: u8,
}

/// A text that is not an IPv4 network.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not an IPv4 network such as 10.1.0.0/20")]
pub struct CidrError(pub String);

impl Cidr {
    /// The network of `len` bits that `addr` lies in.
    pub fn of(addr: u32, len: u8) -> Self {
        let len = len.min(32);
        Self { base: addr & mask(len), len }
    }
    /// Its first address.
    pub fn base(self) -> u32 {
        self.base
    }
    /// Length of the prefix.
    pub fn prefix_len(self) -> u8 {
        self.len
    }
    /// Number of addresses.
    pub fn size(self) -> u64 {
        1u64 << (32 - self.len)
    }
    /// Its last address.
    pub fn last(self) -> u32 {
        self.base | !mask(self.len)
    }
    /// Whether the address lies in it.
    pub fn contains(self, addr: u32) -> bool {
        addr & mask(self.len) == self.base
    }
    /// Whether the two share an address.
    pub fn overlaps(self, other: Cidr) -> bool {
        self.contains(other.base) || other.contains(self.base)
    }
}

fn mask(len: u8) -> u32 {
    u32::MAX.checked_shl(32 - u32::from(len)).unwrap_or(0)
}

impl FromStr for Cidr {
    type Err = CidrError;
    fn from_str(s: &str) -> Result<Self, CidrError> {
        let bad = || CidrError(s.to_owned());
        let (addr, len) = s.split_once('/').ok_or_else(bad)?;
        let addr: Ipv4Addr = addr.parse().map_err(|_| bad())?;
        let len: u8 = len.parse().ok().filter(|l| *l <= 32).ok_or_else(bad)?;
        Ok(Cidr::of(addr.into(), len))
    }
}

impl fmt::Display for Cidr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", Ipv4Addr::from(self.base), self.len)
    }
}
