//! How the addresses of an overlay network are divided: the first for the gateway field, the lower three
//! quarters for tasks in blocks that nodes hold, the top quarter for the services' virtual addresses.

use super::cidr::Cidr;

/// The division of one subnet. Offsets count from its first address.
#[derive(Clone, Copy, Debug)]
pub struct Layout {
    /// The subnet.
    pub subnet: Cidr,
    /// Addresses of a block, as a power of two: large networks have larger blocks, so that neither the
    /// number of routes nor the waste in a small network grows.
    pub block_bits: u8,
}

impl Layout {
    /// The division of `subnet`.
    pub fn of(subnet: Cidr) -> Self {
        let host_bits = 32 - subnet.prefix_len();
        Self { subnet, block_bits: (host_bits / 2).saturating_sub(2).min(8) }
    }
    /// Address of the gateway field.
    pub fn gateway(self) -> u32 {
        self.subnet.base().saturating_add(1)
    }
    /// Offsets that tasks get.
    pub fn tasks(self) -> std::ops::Range<u32> {
        2..self.first_vip()
    }
    /// Offsets that services get; the last address is the broadcast address.
    pub fn vips(self) -> std::ops::Range<u32> {
        self.first_vip()..(self.subnet.size() - 1) as u32
    }
    fn first_vip(self) -> u32 {
        (self.subnet.size() / 4 * 3) as u32
    }
    /// The block an offset lies in, as a network.
    pub fn block(self, block: u32) -> Cidr {
        Cidr::of(self.subnet.base() + (block << self.block_bits), 32 - self.block_bits)
    }
}
