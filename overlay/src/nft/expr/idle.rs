//! What timeouts of connections need of rules.

use super::{Builder, META_L4PROTO, R0, Rule, SYN, SYN_RST, TCP};
use crate::netlink::Attrs;

impl Builder {
    /// A packet of TCP that is not the first of a connection.
    pub fn opens_midway(self) -> Self {
        const ACK: u8 = 0x10;
        self.meta(META_L4PROTO, R0).cmp(R0, true, &[TCP]).payload(2, 13, 1, R0).masked(&[SYN_RST | ACK]).cmp(
            R0,
            false,
            &[SYN],
        )
    }

    /// Loads `meta l4proto . ip daddr`.
    fn protocol_and_destination(self) -> Self {
        self.meta(META_L4PROTO, R0).destination(R0 + 1)
    }

    /// `meta l4proto . ip daddr` is in the set.
    pub fn keyed_in(self, set: &str) -> Self {
        self.protocol_and_destination().lookup(set, None, false)
    }

    /// `ct timeout set meta l4proto . ip daddr map @map`.
    pub fn times_out_by(self, map: &str) -> Rule {
        let body = Attrs::default().be32(3, R0).text(4, map);
        self.protocol_and_destination().expr("objref", body).done()
    }

    /// `reject with tcp reset`.
    pub fn reset(self) -> Rule {
        const TCP_RST: u32 = 1;
        self.expr("reject", Attrs::default().be32(1, TCP_RST)).done()
    }
}
