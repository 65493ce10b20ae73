//! Names of everything global, all made from the instance, so that daemons on one machine never meet.

use crate::link::Mac;

/// The names of one daemon.
#[derive(Clone, Debug)]
pub struct Names {
    instance: String,
}

/// Hardware address of the host's end of every routed veth: the containers' neighbour 169.254.1.1.
pub const GATEWAY_MAC: Mac = [0xee; 6];

impl Names {
    /// Names of this instance.
    pub fn new(instance: &str) -> Self {
        Self { instance: instance.into() }
    }

    /// The nftables table.
    pub fn table(&self) -> String {
        format!("skep_{}", self.instance)
    }

    /// The WireGuard interface.
    pub fn wireguard(&self) -> String {
        format!("wg-{}", self.instance)
    }

    /// The interface of the ingress mesh.
    pub fn mesh(&self) -> String {
        format!("vx-{}", self.instance)
    }

    /// What marks of the ingress mesh on packets and connections begin with.
    pub fn mark(&self) -> u32 {
        (0x40 | self.number()) << 24
    }

    /// The first of three priorities of its routing rules.
    pub fn priority(&self) -> u32 {
        4000 + 3 * self.number()
    }

    /// All three.
    pub fn priorities(&self) -> std::ops::Range<u32> {
        self.priority()..self.priority() + 3
    }

    /// A number below 64 that daemons on one machine seldom share.
    fn number(&self) -> u32 {
        let digest = crate::nft::digest(self.instance.as_bytes());
        (digest ^ (digest >> 29)) as u32 & 0x3f
    }

    /// What the names of all our links begin with, bridges and veths.
    pub fn links(&self) -> String {
        format!("sk{}", self.instance)
    }

    /// What the names of all bridges begin with.
    pub fn bridges(&self) -> String {
        format!("sk{}b", self.instance)
    }

    /// What the names of all routed veths begin with.
    pub fn routed(&self) -> String {
        format!("sk{}o", self.instance)
    }

    /// The bridge of a network.
    pub fn bridge(&self, network_id: &str) -> String {
        format!("{}{}", self.bridges(), short(network_id))
    }

    /// The host's end of a routed veth. From the endpoint, not the container: a container that comes
    /// back must not meet the veth it left, whose removal takes its time.
    pub fn routed_veth(&self, endpoint_id: &str) -> String {
        format!("{}{}", self.routed(), short(endpoint_id))
    }

    /// What an interface is known by that has no end on the host.
    pub fn direct(&self, endpoint_id: &str) -> String {
        format!("{}d{}", self.links(), short(endpoint_id))
    }

    /// The host's end of a veth in a bridge.
    pub fn bridge_veth(&self, endpoint_id: &str) -> String {
        format!("{}v{}", self.links(), short(endpoint_id))
    }
}

/// Six base32 characters of a digest: what an interface name has room for.
fn short(text: &str) -> String {
    const ALPHABET: &[u8; 32] = b"abcdefghijklmnopqrstuvwxyz234567";
    let digest = crate::nft::digest(text.as_bytes());
    // The high half of the product mixes all input bits into the characters taken.
    let mixed = (digest ^ (digest >> 29)).wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 34;
    (0..6).map(|i| char::from(ALPHABET[(mixed >> (5 * i)) as usize & 31])).collect()
}

/// `aa:bb:cc:dd:ee:ff`.
pub fn mac_text(mac: &Mac) -> String {
    mac.map(|b| format!("{b:02x}")).join(":")
}
