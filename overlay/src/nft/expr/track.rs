//! What the ingress mesh needs of rules: marks on packets and connections, and its own packets.

use super::{Builder, CT_STATE, META_L4PROTO, R0, Rule};
use crate::cidr::Address;
use crate::netlink::Attrs;

const UDP: u8 = 17;
const META_MARK: u32 = 3;
const CT_DIRECTION: u32 = 1;
const CT_MARK: u32 = 3;
const STATE_NEW: u32 = 8;
const LINK_LAYER: u32 = 0;
const TRANSPORT: u32 = 2;

/// Which way along a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Direction {
    /// As the first packet went.
    Original = 0,
    /// Back.
    Reply = 1,
}

impl Builder {
    /// The first packet of a connection.
    pub fn starts(self) -> Self {
        self.tracked(CT_STATE).any_bit(STATE_NEW)
    }

    /// `ct direction`.
    pub fn goes(self, direction: Direction) -> Self {
        self.tracked(CT_DIRECTION).cmp(R0, true, &[direction as u8])
    }

    /// The connection's mark has these bits.
    pub fn tracked_by(self, (mark, mask): (u32, u32)) -> Self {
        self.tracked(CT_MARK).masked(&mask.to_ne_bytes()).cmp(R0, true, &mark.to_ne_bytes())
    }

    /// VXLAN of this network, to this UDP port.
    pub fn vxlan(self, port: u16, vni: u32) -> Self {
        const NETWORK: u32 = 12;
        self.udp_to(port).payload(TRANSPORT, NETWORK, 3, R0).cmp(R0, true, &vni.to_be_bytes()[1..])
    }

    /// `udp dport`.
    pub fn udp_to(self, port: u16) -> Self {
        self.udp().payload(TRANSPORT, 2, 2, R0).cmp(R0, true, &port.to_be_bytes())
    }

    fn udp(self) -> Self {
        self.meta(META_L4PROTO, R0).cmp(R0, true, &[UDP])
    }

    /// `ct mark set ether saddr map @map`.
    pub fn track_by_sender(self, map: &str) -> Rule {
        let known = self.payload(LINK_LAYER, 6, 6, R0).lookup(map, Some(R0), false);
        known.expr("ct", Attrs::default().be32(2, CT_MARK).be32(4, R0)).done()
    }

    /// `meta mark set ct mark`.
    pub fn mark_as_tracked(self) -> Rule {
        self.tracked(CT_MARK).set_mark()
    }

    /// `meta mark set 0`.
    pub fn unmark(self) -> Rule {
        self.load(&0u32.to_ne_bytes()).set_mark()
    }

    fn set_mark(self) -> Rule {
        self.expr("meta", Attrs::default().be32(2, META_MARK).be32(3, R0)).done()
    }

    /// No connection is kept of it.
    pub fn untracked(self) -> Rule {
        self.expr("notrack", Attrs::default()).done()
    }

    /// `snat to` this address.
    pub fn snat<A: Address>(self, addr: A) -> Rule {
        const SNAT: u32 = 0;
        self.load(&addr.bytes()).nat(SNAT, false)
    }

    /// `dnat to ip daddr map @map` for UDP.
    pub fn dnat_udp_by_addr(self, map: &str) -> Rule {
        self.udp().destination(R0).lookup(map, Some(R0), false).dnat(false)
    }
}
