//! What stands in for the tunnel where the swarm has this node only: an interface without a cryptographic
//! engine behind it and without a socket, for the overlay's routes and the host's own address to be on. It
//! is a bridge without members, which every kernel that runs us has.

use std::net::{Ipv4Addr, Ipv6Addr};

use nix::errno::Errno;

use super::{DataPlane, blocking};
use crate::bridge::mac_of;
use crate::desired::Cidr;
use crate::error::Result;
use crate::link::{Links, step};
use crate::reconcile::settle6;

/// No packet leaves by it, so nothing is added to any.
const MTU: u16 = 1500;

impl DataPlane {
    /// Makes the interface where it is missing, with the host's overlay address once that is known.
    pub(super) async fn raise_anchor(&self, addr: Option<Ipv4Addr>, addr6: Option<Ipv6Addr>) -> Result<()> {
        let name = self.inner.names.wireguard();
        blocking("making the overlay's interface", move || {
            let mut host = Links::open()?;
            let mac = mac_of(addr.unwrap_or(Ipv4Addr::UNSPECIFIED));
            host.run(vec![step::bridge(&name, mac, MTU.into())], &[Errno::EEXIST])?;
            let index = host.index(&name)?;
            if addr6.is_some() {
                settle6(&name)?;
            }
            let others = host.addresses::<Ipv6Addr>()?.into_iter().filter(|(at, held)| {
                *at == index && Some(held.addr) != addr6 && !held.addr.is_unicast_link_local()
            });
            let others = others.map(|(_, held)| step::drop_address(index, held)).collect();
            host.run(others, &[Errno::EADDRNOTAVAIL])?;
            let addr = addr.map(|addr| step::address(index, Cidr::host(addr)));
            let addr6 = addr6.map(|addr| step::address(index, Cidr::host(addr)));
            host.run(addr.into_iter().chain(addr6).chain([step::set(index, None, None)]).collect(), &[])
        })
        .await?;
        self.inner.change(|state| state.tunnel_mtu = Some(MTU));
        Ok(())
    }

    /// Removes it.
    pub(super) async fn lower_anchor(&self) -> Result<()> {
        let name = self.inner.names.wireguard();
        blocking("removing the overlay's interface", move || {
            let mut host = Links::open()?;
            if host.find(&name)?.is_some() { host.delete(&name) } else { Ok(()) }
        })
        .await
    }
}
