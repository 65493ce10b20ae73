//! Rules as lists of nftables expressions, encoded as the kernel's virtual machine wants them.
//!
//! A rule carries a comment with a digest of its expressions, so that a rule read back from the kernel
//! can be compared with the one wanted without decoding it.

mod idle;
mod track;

pub use track::Direction;

use super::Family;
use crate::cidr::{Address, Cidr};
use crate::netlink::Attrs;

const LIST_ELEM: u16 = 1;
const VALUE: u16 = 1;
const VERDICT: u16 = 2;
const REG_VERDICT: u32 = 0;
/// First of the sixteen registers of four bytes.
const R0: u32 = 8;

const META_IIFNAME: u32 = 6;
const META_OIFNAME: u32 = 7;
const META_L4PROTO: u32 = 16;
const CT_STATE: u32 = 0;
const CT_STATUS: u32 = 2;
const STATUS_DNAT: u32 = 1 << 5;
const STATE_ESTABLISHED_RELATED: u32 = 2 | 4;
const NF_DROP: u32 = 0;
const NF_ACCEPT: u32 = 1;
const NFT_GOTO: u32 = -4i32 as u32;
const TCP: u8 = 6;
/// TCP's flags.
const SYN: u8 = 2;
const SYN_RST: u8 = 6;

/// One field of a key or a value, with the type number `nft` knows it by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Field {
    /// IPv4 address.
    Addr,
    /// IPv6 address.
    Addr6,
    /// Transport protocol.
    Protocol,
    /// Port.
    Port,
    /// Interface name.
    Interface,
    /// A number of the machine's order: a slot of a map, a mark.
    Slot,
    /// Hardware address.
    Ether,
}

impl Field {
    /// Bytes it has.
    pub fn size(self) -> u32 {
        match self {
            Self::Addr | Self::Slot => 4,
            Self::Protocol => 1,
            Self::Port => 2,
            Self::Ether => 6,
            Self::Interface | Self::Addr6 => 16,
        }
    }

    /// Bytes it takes within a key of several fields.
    pub fn padded(self) -> u32 {
        self.size().next_multiple_of(4)
    }

    /// Type number of `nft`.
    pub fn kind(self) -> u32 {
        match self {
            Self::Addr => 7,
            Self::Addr6 => 8,
            Self::Protocol => 12,
            Self::Port => 13,
            Self::Interface => 41,
            Self::Slot => 19,
            Self::Ether => 9,
        }
    }

    /// The field of this type number.
    pub fn of_kind(kind: u32) -> Option<Self> {
        [Self::Addr, Self::Addr6, Self::Protocol, Self::Port, Self::Interface, Self::Slot, Self::Ether]
            .into_iter()
            .find(|f| f.kind() == kind)
    }
}

/// A rule: expressions in order, and what it is for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rule {
    /// What `nft list` shows: purpose and digest.
    pub comment: String,
    /// Encoded expressions; empty on a rule read from the kernel.
    pub expressions: Vec<u8>,
    /// Number of expressions.
    pub count: usize,
}

/// A rule under construction.
pub struct Builder {
    family: Family,
    purpose: &'static str,
    list: Attrs,
    count: usize,
}

impl Rule {
    /// Starts a rule about IPv4.
    pub fn to(purpose: &'static str) -> Builder {
        Self::about(Family::V4, purpose)
    }

    /// Starts a rule about IPv6.
    pub fn to6(purpose: &'static str) -> Builder {
        Self::about(Family::V6, purpose)
    }

    /// Starts a rule.
    pub fn about(family: Family, purpose: &'static str) -> Builder {
        Builder { family, purpose, list: Attrs::default(), count: 0 }
    }
}

fn data(value: &[u8]) -> Attrs {
    Attrs::default().put(VALUE, value)
}

impl Builder {
    fn expr(mut self, name: &str, body: Attrs) -> Self {
        let one = Attrs::default().text(1, name).nest(2, body);
        self.list = self.list.nest(LIST_ELEM, one);
        self.count += 1;
        self
    }

    fn meta(self, key: u32, register: u32) -> Self {
        self.expr("meta", Attrs::default().be32(1, register).be32(2, key))
    }

    fn payload(self, base: u32, offset: u32, len: u32, register: u32) -> Self {
        let body = Attrs::default().be32(1, register).be32(2, base).be32(3, offset).be32(4, len);
        self.expr("payload", body)
    }

    fn cmp(self, register: u32, equal: bool, value: &[u8]) -> Self {
        let body = Attrs::default().be32(1, register).be32(2, u32::from(!equal));
        self.expr("cmp", body.nest(3, data(value)))
    }

    /// Loads a value.
    fn load(self, value: &[u8]) -> Self {
        self.expr("immediate", Attrs::default().be32(1, R0).nest(2, data(value)))
    }

    /// Loads what is known of the connection.
    fn tracked(self, key: u32) -> Self {
        self.expr("ct", Attrs::default().be32(1, R0).be32(2, key))
    }

    /// Keeps these bits of what was loaded.
    fn masked(self, mask: &[u8]) -> Self {
        let none = vec![0; mask.len()];
        let body = Attrs::default().be32(1, R0).be32(2, R0).be32(3, mask.len() as u32);
        self.expr("bitwise", body.nest(4, data(mask)).nest(5, data(&none)))
    }

    fn any_bit(self, bits: u32) -> Self {
        self.masked(&bits.to_ne_bytes()).cmp(R0, false, &0u32.to_ne_bytes())
    }

    fn name_is(self, key: u32, name: &str, equal: bool) -> Self {
        let mut bytes = name.as_bytes().to_vec();
        match bytes.pop_if(|b| *b == b'*') {
            Some(_) => {}
            None => bytes.resize(16, 0),
        }
        self.meta(key, R0).cmp(R0, equal, &bytes)
    }

    /// Arrived on this interface; a trailing `*` stands for any ending.
    pub fn iif(self, name: &str) -> Self {
        self.name_is(META_IIFNAME, name, true)
    }

    /// Arrived on another interface than this.
    pub fn iif_not(self, name: &str) -> Self {
        self.name_is(META_IIFNAME, name, false)
    }

    /// Leaves by this interface.
    pub fn oif(self, name: &str) -> Self {
        self.name_is(META_OIFNAME, name, true)
    }

    /// Leaves by another interface than this.
    pub fn oif_not(self, name: &str) -> Self {
        self.name_is(META_OIFNAME, name, false)
    }

    /// Loads the source address.
    fn source(self, register: u32) -> Self {
        let (family, len) = (self.family, self.family.bytes());
        self.payload(1, if family == Family::V4 { 12 } else { 8 }, len, register)
    }

    /// Loads the destination address.
    fn destination(self, register: u32) -> Self {
        let (family, len) = (self.family, self.family.bytes());
        self.payload(1, if family == Family::V4 { 16 } else { 24 }, len, register)
    }

    /// The register after an address in `register`.
    fn after(&self, register: u32) -> u32 {
        register + self.family.bytes() / 4
    }

    fn within<A: Address>(self, range: Cidr<A>) -> Self {
        self.masked(&range.mask()).cmp(R0, true, &range.first().bytes())
    }

    /// Source within a network.
    pub fn from<A: Address>(self, range: Cidr<A>) -> Self {
        self.source(R0).within(range)
    }

    /// Source outside a network.
    pub fn not_from<A: Address>(self, range: Cidr<A>) -> Self {
        self.source(R0).masked(&range.mask()).cmp(R0, false, &range.first().bytes())
    }

    /// Destination within a network.
    pub fn bound_for<A: Address>(self, range: Cidr<A>) -> Self {
        self.destination(R0).within(range)
    }

    /// Part of a connection the kernel knows.
    pub fn established(self) -> Self {
        self.tracked(CT_STATE).any_bit(STATE_ESTABLISHED_RELATED)
    }

    /// Its destination was translated.
    pub fn translated(self) -> Self {
        self.tracked(CT_STATUS).any_bit(STATUS_DNAT)
    }

    /// Destination is an address of this host.
    pub fn for_this_host(self) -> Self {
        const RESULT_ADDRTYPE: u32 = 3;
        const FLAG_DADDR: u32 = 2;
        const RTN_LOCAL: u32 = 2;
        let body = Attrs::default().be32(1, R0).be32(2, RESULT_ADDRTYPE).be32(3, FLAG_DADDR);
        self.expr("fib", body).cmp(R0, true, &RTN_LOCAL.to_ne_bytes())
    }

    fn lookup(self, set: &str, into: Option<u32>, inverted: bool) -> Self {
        let mut body = Attrs::default().text(1, set).be32(2, R0);
        if let Some(register) = into {
            body = body.be32(3, register);
        }
        if inverted {
            body = body.be32(5, 1);
        }
        self.expr("lookup", body)
    }

    /// `ip saddr . ip daddr` is in the set.
    pub fn pair_in(self, set: &str) -> Self {
        let second = self.after(R0);
        self.source(R0).destination(second).lookup(set, None, false)
    }

    /// `meta l4proto . ip saddr . ip daddr . th dport` is in the set.
    pub fn link_in(self, set: &str) -> Self {
        let second = self.after(R0 + 1);
        let port = self.after(second);
        let rule = self.meta(META_L4PROTO, R0).source(R0 + 1).destination(second);
        rule.payload(2, 2, 2, port).lookup(set, None, false)
    }

    /// `meta l4proto . ip daddr . th dport` is in the set.
    pub fn port_in(self, set: &str) -> Self {
        let port = self.after(R0 + 1);
        self.meta(META_L4PROTO, R0).destination(R0 + 1).payload(2, 2, 2, port).lookup(set, None, false)
    }

    /// `ip saddr` is in the set.
    pub fn source_in(self, set: &str) -> Self {
        self.source(R0).lookup(set, None, false)
    }

    /// `iifname . ip saddr` is not in the set.
    pub fn spoofed(self, set: &str) -> Self {
        self.meta(META_IIFNAME, R0).source(R0 + 4).lookup(set, None, true)
    }

    fn random(self, slots: u32, register: u32) -> Self {
        const RANDOM: u32 = 1;
        self.expr("numgen", Attrs::default().be32(1, register).be32(2, slots).be32(3, RANDOM))
    }

    fn dnat(self, port: bool) -> Rule {
        const DNAT: u32 = 1;
        self.nat(DNAT, port)
    }

    /// Translates to the address in the first registers, and the port after it.
    fn nat(self, kind: u32, port: bool) -> Rule {
        let mut body = Attrs::default().be32(1, kind).be32(2, self.family.number().into()).be32(3, R0);
        if port {
            body = body.be32(5, self.after(R0));
        }
        self.expr("nat", body).done()
    }

    /// `dnat to ip daddr . numgen random mod slots map @map`.
    pub fn dnat_addr_by_slot(self, map: &str, slots: u32) -> Rule {
        let slot = self.after(R0);
        self.destination(R0).random(slots, slot).lookup(map, Some(R0), false).dnat(false)
    }

    /// `dnat to meta l4proto . th dport . numgen random mod slots map @map`, address and port.
    pub fn dnat_port_by_slot(self, map: &str, slots: u32) -> Rule {
        self.meta(META_L4PROTO, R0)
            .payload(2, 2, 2, R0 + 1)
            .random(slots, R0 + 2)
            .lookup(map, Some(R0), false)
            .dnat(true)
    }

    /// `dnat to meta l4proto . ip daddr . th dport . numgen random mod slots map @map`, address and port.
    pub fn dnat_addr_port_by_slot(self, map: &str, slots: u32) -> Rule {
        let port = self.after(R0 + 1);
        self.meta(META_L4PROTO, R0)
            .destination(R0 + 1)
            .payload(2, 2, 2, port)
            .random(slots, port + 1)
            .lookup(map, Some(R0), false)
            .dnat(true)
    }

    /// `dnat to meta l4proto . th dport map @map`, address and port.
    pub fn dnat_port(self, map: &str) -> Rule {
        self.meta(META_L4PROTO, R0).payload(2, 2, 2, R0 + 1).lookup(map, Some(R0), false).dnat(true)
    }

    /// `dnat to meta l4proto . ip daddr . th dport map @map`, address and port.
    pub fn dnat_addr_port(self, map: &str) -> Rule {
        let port = self.after(R0 + 1);
        self.meta(META_L4PROTO, R0)
            .destination(R0 + 1)
            .payload(2, 2, 2, port)
            .lookup(map, Some(R0), false)
            .dnat(true)
    }

    /// Rewrites the source to the address of the interface it leaves by.
    pub fn masquerade(self) -> Rule {
        self.expr("masq", Attrs::default()).done()
    }

    /// Writes an IPv6 address in the first registers into the packet, and mends the checksum within.
    fn write6(self, offset: u32) -> Rule {
        const NETWORK: u32 = 1;
        const PSEUDO_HEADER: u32 = 1;
        let body = Attrs::default().be32(5, R0).be32(2, NETWORK).be32(3, offset).be32(4, 16);
        self.expr("payload", body.be32(6, 0).be32(7, 0).be32(8, PSEUDO_HEADER)).done()
    }

    /// `ip6 saddr set meta l4proto . th dport map @map`.
    pub fn source_by_port(self, map: &str) -> Rule {
        self.meta(META_L4PROTO, R0).payload(2, 2, 2, R0 + 1).lookup(map, Some(R0), false).write6(8)
    }

    /// `ip6 daddr set` to this.
    pub fn set_destination(self, addr: std::net::Ipv6Addr) -> Rule {
        self.load(&addr.octets()).write6(24)
    }

    /// On a TCP SYN, lowers the segment size to what the route carries.
    pub fn clamp_mss(self) -> Rule {
        const RT_TCPMSS: u32 = 3;
        const OPTION_MAXSEG: u8 = 2;
        const OP_TCPOPT: u32 = 1;
        const HTON: u32 = 1;
        let order = Attrs::default().be32(1, R0).be32(2, R0).be32(3, HTON).be32(4, 2).be32(5, 2);
        let write = Attrs::default().be32(7, R0).put(2, &[OPTION_MAXSEG]).be32(3, 2).be32(4, 2);
        self.meta(META_L4PROTO, R0)
            .cmp(R0, true, &[TCP])
            .payload(2, 13, 1, R0)
            .masked(&[SYN_RST])
            .cmp(R0, true, &[SYN])
            .expr("rt", Attrs::default().be32(1, R0).be32(2, RT_TCPMSS))
            .expr("byteorder", order)
            .expr("exthdr", write.be32(6, OP_TCPOPT))
            .done()
    }

    fn verdict(self, code: u32, chain: Option<&str>) -> Rule {
        let mut verdict = Attrs::default().be32(1, code);
        if let Some(chain) = chain {
            verdict = verdict.text(2, chain);
        }
        let body = Attrs::default().be32(1, REG_VERDICT);
        self.expr("immediate", body.nest(2, Attrs::default().nest(VERDICT, verdict))).done()
    }

    /// Lets it pass this chain's hook.
    pub fn accept(self) -> Rule {
        self.verdict(NF_ACCEPT, None)
    }

    /// Discards it.
    pub fn drop(self) -> Rule {
        self.verdict(NF_DROP, None)
    }

    /// Goes on in another chain, for good.
    pub fn goto(self, chain: &str) -> Rule {
        self.verdict(NFT_GOTO, Some(chain))
    }

    fn done(self) -> Rule {
        let digest = digest(self.list.bytes());
        Rule {
            comment: format!("{} {digest:016x}", self.purpose),
            expressions: self.list.bytes().to_vec(),
            count: self.count,
        }
    }
}

/// FNV-1a: stable between builds, unlike the standard library's hasher.
pub fn digest(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0xcbf2_9ce4_8422_2325, |h, b| (h ^ u64::from(*b)).wrapping_mul(0x0100_0000_01b3))
}
