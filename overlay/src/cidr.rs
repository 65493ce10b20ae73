//! Ranges of addresses, of either family.

use std::fmt::{Debug, Display};
use std::hash::Hash;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// An address of one family, as a number.
pub trait Address:
    Copy + Ord + Hash + Debug + Display + FromStr + Into<IpAddr> + Send + Sync + 'static
{
    /// Bits it has.
    const BITS: u8;
    /// Number of the family (`AF_INET`, `AF_INET6`).
    const FAMILY: u8;
    /// An example of a range, for messages.
    const EXAMPLE: &'static str;
    /// No address.
    const UNSPECIFIED: Self;
    /// As a number.
    fn number(self) -> u128;
    /// From a number, of which the low bits count.
    fn from_number(number: u128) -> Self;
    /// In network order.
    fn bytes(self) -> Vec<u8>;
}

impl Address for Ipv4Addr {
    const BITS: u8 = 32;
    const FAMILY: u8 = 2;
    const EXAMPLE: &'static str = "an IPv4 network like 10.0.0.0/24";
    const UNSPECIFIED: Self = Self::UNSPECIFIED;

    fn number(self) -> u128 {
        u32::from(self).into()
    }

    fn from_number(number: u128) -> Self {
        Self::from(number as u32)
    }

    fn bytes(self) -> Vec<u8> {
        self.octets().into()
    }
}

impl Address for Ipv6Addr {
    const BITS: u8 = 128;
    const FAMILY: u8 = 10;
    const EXAMPLE: &'static str = "an IPv6 network like fd00:1::/64";
    const UNSPECIFIED: Self = Self::UNSPECIFIED;

    fn number(self) -> u128 {
        self.into()
    }

    fn from_number(number: u128) -> Self {
        Self::from(number)
    }

    fn bytes(self) -> Vec<u8> {
        self.octets().into()
    }
}

/// An address of the family in network order, where there are as many bytes.
pub fn address_of<A: Address>(bytes: &[u8]) -> Option<A> {
    (bytes.len() * 8 == usize::from(A::BITS))
        .then(|| A::from_number(bytes.iter().fold(0, |n, b| n << 8 | u128::from(*b))))
}

/// `address/len`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Cidr<A = Ipv4Addr> {
    /// An address in it.
    pub addr: A,
    /// Prefix length.
    pub len: u8,
}

/// A range of IPv6 addresses.
pub type Cidr6 = Cidr<Ipv6Addr>;

impl<A: Address> Cidr<A> {
    /// The bits that addresses of the range may differ in.
    fn rest(&self) -> u128 {
        let all = u128::MAX >> (128 - u32::from(A::BITS));
        all.checked_shr(self.len.min(A::BITS).into()).unwrap_or(0)
    }

    /// First address of the range.
    pub fn first(&self) -> A {
        A::from_number(self.addr.number() & !self.rest())
    }

    /// Last address of the range.
    pub fn last(&self) -> A {
        A::from_number(self.addr.number() | self.rest())
    }

    /// The network mask, in network order.
    pub fn mask(&self) -> Vec<u8> {
        A::from_number(!self.rest()).bytes()
    }

    /// The same range written with its first address.
    pub fn network(&self) -> Self {
        Self { addr: self.first(), len: self.len }
    }

    /// Whether the address is within the range.
    pub fn contains(&self, addr: A) -> bool {
        (self.first()..=self.last()).contains(&addr)
    }

    /// Whether it is a pair of IPv4 addresses, or one: those have neither a network's nor a broadcast address (RFC 3021).
    pub fn is_pair(&self) -> bool {
        A::BITS == 32 && self.len >= 31
    }

    /// Whether a host may have the address in this network: of IPv4 neither the first nor the last of more than a pair, of
    /// IPv6 not the first (RFC 4291, 2.6.1).
    pub fn hosts(&self, addr: A) -> bool {
        let broadcast = A::BITS == 32 && addr == self.last();
        self.contains(addr) && (self.is_pair() || !(addr == self.first() || broadcast))
    }

    /// What stands for no address of this network: one that no host may have.
    pub fn nobody(&self) -> A {
        if self.is_pair() { A::UNSPECIFIED } else { self.first() }
    }

    /// Whether the two ranges share an address.
    pub fn overlaps(&self, other: &Self) -> bool {
        self.first() <= other.last() && other.first() <= self.last()
    }

    /// The range of one address.
    pub fn host(addr: A) -> Self {
        Self { addr, len: A::BITS }
    }

    /// The range of all addresses.
    pub fn all() -> Self {
        Self { addr: A::UNSPECIFIED, len: 0 }
    }
}

/// All addresses but those of these ranges: the first and the last of each run.
pub fn besides<A: Address>(taken: impl IntoIterator<Item = Cidr<A>>) -> Vec<(A, A)> {
    let mut taken: Vec<_> = taken.into_iter().map(|c| (c.first().number(), c.last().number())).collect();
    taken.sort_unstable();
    let last = Cidr::<A>::all().last().number();
    let (mut free, mut next) = (Vec::new(), Some(0));
    for (from, to) in taken {
        let Some(at) = next else { break };
        if from > at {
            free.push((A::from_number(at), A::from_number(from - 1)));
        }
        next = to.checked_add(1).filter(|n| *n <= last).map(|n| n.max(at));
    }
    free.extend(next.map(|at| (A::from_number(at), A::from_number(last))));
    free
}

impl<A: Address> FromStr for Cidr<A> {
    type Err = String;
    fn from_str(s: &str) -> Result<Self, String> {
        let bad = || format!("{s:?} is not {}", A::EXAMPLE);
        let (addr, len) = s.split_once('/').ok_or_else(bad)?;
        let (addr, len) = (addr.parse().map_err(|_| bad())?, len.parse().map_err(|_| bad())?);
        if len > A::BITS {
            return Err(bad());
        }
        Ok(Self { addr, len })
    }
}

impl<A: Address> Display for Cidr<A> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}/{}", self.addr, self.len)
    }
}

impl<A: Address> Serialize for Cidr<A> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de, A: Address> Deserialize<'de> for Cidr<A> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = std::borrow::Cow::<str>::deserialize(deserializer)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_of_both_families_have_their_ends() {
        let four: Cidr = "10.1.2.3/8".parse().expect("valid");
        assert_eq!(
            (four.first().to_string(), four.last().to_string()),
            ("10.0.0.0".into(), "10.255.255.255".into())
        );
        assert_eq!(four.mask(), [255, 0, 0, 0]);
        let six: Cidr6 = "fd00:1::5/64".parse().expect("valid");
        assert_eq!(six.network().to_string(), "fd00:1::/64");
        assert_eq!(six.last().to_string(), "fd00:1::ffff:ffff:ffff:ffff");
        assert_eq!(Cidr::<Ipv4Addr>::all().last(), Ipv4Addr::BROADCAST);
        assert_eq!(Cidr6::all().mask(), [0; 16]);
        assert_eq!(Cidr::host(Ipv6Addr::LOCALHOST).mask(), [255; 16]);
        assert!("10.0.0.0/33".parse::<Cidr>().is_err() && "fd00::/64".parse::<Cidr>().is_err());
    }

    #[test]
    fn a_pair_has_two_hosts_and_other_ranges_have_two_less() {
        let hosts = |range: &str| -> Vec<String> {
            let range: Cidr = range.parse().expect("valid");
            let all = u32::from(range.first())..=u32::from(range.last());
            let all = all.map(Ipv4Addr::from).filter(|a| range.hosts(*a) && *a != range.nobody());
            all.map(|a| a.to_string()).collect()
        };
        assert_eq!(hosts("10.0.0.4/31"), ["10.0.0.4", "10.0.0.5"]);
        assert_eq!(hosts("10.0.0.4/30"), ["10.0.0.5", "10.0.0.6"]);
        let six: Cidr6 = "fd00::/126".parse().expect("valid");
        assert!(!six.hosts(six.first()) && six.hosts(six.last()));
    }

    #[test]
    fn what_ranges_leave_of_all_addresses_is_found() {
        let of = |texts: &[&str]| {
            let ranges = texts.iter().map(|t| t.parse::<Cidr>().expect("valid"));
            besides(ranges).iter().map(|(a, b)| format!("{a}-{b}")).collect::<Vec<_>>()
        };
        assert_eq!(of(&[]), ["0.0.0.0-255.255.255.255"]);
        assert_eq!(of(&["0.0.0.0/0", "10.0.0.0/8"]), [""; 0]);
        assert_eq!(
            of(&["10.1.0.0/16", "10.0.0.0/16", "10.1.2.0/24", "192.168.0.1/32"]),
            ["0.0.0.0-9.255.255.255", "10.2.0.0-192.168.0.0", "192.168.0.2-255.255.255.255"]
        );
        assert_eq!(of(&["0.0.0.0/1", "255.255.255.255/32"]), ["128.0.0.0-255.255.255.254"]);
        assert_eq!(besides(["8000::/1".parse::<Cidr6>().expect("valid")]).len(), 1);
    }
}
