//! What the ingress mesh needs of rules: marks on packets and connections, and its own packets.

use std::net::Ipv4Addr;

use super::{Builder, CT_STATE, META_L4PROTO, R0, Rule, data};
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
    fn track(self, key: u32) -> Self {
        self.expr("ct", Attrs::default().be32(1, R0).be32(2, key))
    }

    /// The first packet of a connection.
    pub fn starts(self) -> Self {
        self.track(CT_STATE).any_bit(STATE_NEW)
    }

    /// `ct direction`.
    pub fn goes(self, direction: Direction) -> Self {
        self.track(CT_DIRECTION).cmp(R0, true, &[direction as u8])
    }

    /// The connection's mark has these bits.
    pub fn tracked_by(self, (mark, mask): (u32, u32)) -> Self {
        let body = Attrs::default().be32(1, R0).be32(2, R0).be32(3, 4);
        let body = body.nest(4, data(&mask.to_ne_bytes())).nest(5, data(&0u32.to_ne_bytes()));
        self.track(CT_MARK).expr("bitwise", body).cmp(R0, true, &mark.to_ne_bytes())
    }

    /// VXLAN of this network, to this UDP port.
    pub fn vxlan(self, port: u16, vni: u32) -> Self {
        const NETWORK: u32 = 12;
        self.udp_to(port).payload(TRANSPORT, NETWORK, 3, R0).cmp(R0, true, &vni.to_be_bytes()[1..])
    }

    /// `udp dport`.
    pub fn udp_to(self, port: u16) -> Self {
        let udp = self.meta(META_L4PROTO, R0).cmp(R0, true, &[UDP]);
        udp.payload(TRANSPORT, 2, 2, R0).cmp(R0, true, &port.to_be_bytes())
    }

    /// `ct mark set ether saddr map @map`.
    pub fn track_by_sender(self, map: &str) -> Rule {
        let known = self.payload(LINK_LAYER, 6, 6, R0).lookup(map, Some(R0), false);
        known.expr("ct", Attrs::default().be32(2, CT_MARK).be32(4, R0)).done()
    }

    /// `meta mark set ct mark`.
    pub fn mark_as_tracked(self) -> Rule {
        self.track(CT_MARK).set_mark()
    }

    /// `meta mark set 0`.
    pub fn unmark(self) -> Rule {
        let none = Attrs::default().be32(1, R0).nest(2, data(&0u32.to_ne_bytes()));
        self.expr("immediate", none).set_mark()
    }

    fn set_mark(self) -> Rule {
        self.expr("meta", Attrs::default().be32(2, META_MARK).be32(3, R0)).done()
    }

    /// No connection is kept of it.
    pub fn untracked(self) -> Rule {
        self.expr("notrack", Attrs::default()).done()
    }

    /// `snat to` this address.
    pub fn snat(self, addr: Ipv4Addr) -> Rule {
        const SNAT: u32 = 0;
        let family = self.family.number().into();
        let nat = Attrs::default().be32(1, SNAT).be32(2, family).be32(3, R0);
        let to = Attrs::default().be32(1, R0).nest(2, data(&addr.octets()));
        self.expr("immediate", to).expr("nat", nat).done()
    }

    /// `dnat to ip daddr map @map` for UDP.
    pub fn dnat_udp_by_addr(self, map: &str) -> Rule {
        let udp = self.meta(META_L4PROTO, R0).cmp(R0, true, &[UDP]);
        udp.destination(R0).lookup(map, Some(R0), false).dnat(false)
    }
}
