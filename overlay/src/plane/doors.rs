//! On which addresses of this host the swarm's ports are open: held there, and followed where a port is open on an
//! interface, whose addresses come and go. A container's own ports follow with them.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::Arc;

use futures::StreamExt as _;
use rtnetlink::MulticastGroup;

use super::{INGRESS, Inner, blocking};
use crate::cidr::Cidr;
use crate::desired::Door;
use crate::error::{Error, Result};
use crate::link::Links;
use crate::sysctl;

impl Inner {
    /// Takes the ports of the swarm's last word where they are to be open, and keeps in the state what rules go by.
    pub(super) fn open_ports(&self) -> Result<()> {
        let desired = self.state().swarm.as_ref().map(|s| s.desired.clone()).unwrap_or_default();
        let doors = self.state().doors();
        let interfaces = addresses(&doors)?;
        let before = self.state().interfaces.clone();
        for (interface, now) in interfaces.iter().filter(|(name, now)| before.get(*name) != Some(*now)) {
            if now.is_empty() {
                tracing::warn!(
                    interface,
                    "this host has no such interface with an address: ports that are open on it are not served here"
                );
            } else {
                tracing::info!(interface, addresses = ?now, "ports are open on an interface");
            }
        }
        self.change(|state| {
            if state.interfaces != interfaces {
                state.interfaces.clone_from(&interfaces);
                state.swarm_generation += 1;
            }
        });
        let containers = self.follow_containers(&interfaces);
        let six = desired.has_ports6() && sysctl::has_ipv6();
        let everywhere = [IpAddr::V4(Ipv4Addr::UNSPECIFIED), IpAddr::V6(Ipv6Addr::UNSPECIFIED)];
        let wanted: Vec<_> = {
            let state = self.state();
            let places = |door: &Door| state.open_at(door).unwrap_or_else(|| everywhere.into());
            let all = desired.ports.iter().flat_map(|p| places(&p.host).into_iter().map(move |at| (p, at)));
            all.filter(|(_, at)| six || at.is_ipv4())
                .map(|(p, at)| (p.protocol.clone(), at, p.published))
                .collect()
        };
        let refused = self.ports().set(INGRESS, &wanted);
        for (protocol, port) in &refused {
            tracing::warn!(protocol, port, "another program has this port: the swarm does not serve it here");
        }
        self.change(|state| {
            if state.refused_ports != refused {
                state.refused_ports = refused;
                state.swarm_generation += 1;
            }
        });
        containers
    }

    /// Follows this host's addresses, and with them those of interfaces that ports are open on, until the daemon ends. What
    /// is missed is found within half a minute.
    pub(super) async fn follow_addresses(self: Arc<Self>) {
        let groups = [MulticastGroup::Ipv4Ifaddr, MulticastGroup::Ipv6Ifaddr];
        let mut messages = match rtnetlink::new_multicast_connection(&groups) {
            Ok((connection, _, messages)) => {
                tokio::spawn(connection);
                messages
            }
            Err(error) => {
                tracing::warn!(%error, "changes of this host's addresses are not told: they are found every half minute");
                return;
            }
        };
        while let Some(Some(_)) = self.stop.run_until_cancelled(messages.next()).await {
            let _one = self.changing.lock().await;
            self.follow_own().await;
            if let Err(error) = self.follow_doors().await {
                tracing::warn!(%error, "ports do not follow their interface yet; trying again in 30 s");
            }
        }
    }

    /// Opens ports where the interfaces that they are on have addresses now. The caller holds `changing`.
    pub(super) async fn follow_doors(self: &Arc<Self>) -> Result<()> {
        if self.state().doors().is_empty() {
            return Ok(());
        }
        let inner = self.clone();
        let opened = blocking("following the addresses of interfaces", move || inner.open_ports()).await;
        let (_, generation) = self.change(|_| ());
        let rules = self.commit(generation).await;
        self.heard.tell();
        Error::gather([opened, rules].into_iter().filter_map(Result::err).collect())
    }
}

/// The addresses of the interfaces that ports are open on; none of one that is not here.
pub(super) fn addresses(doors: &BTreeSet<String>) -> Result<BTreeMap<String, BTreeSet<IpAddr>>> {
    if doors.is_empty() {
        return Ok(BTreeMap::new());
    }
    let mut host = Links::open()?;
    let links = host.list()?;
    let four = host.addresses()?.into_iter().map(|(at, c): (u32, Cidr)| (at, IpAddr::V4(c.addr)));
    let mut all: Vec<(u32, IpAddr)> = four.collect();
    if sysctl::knows_ipv6() {
        let six = host.addresses()?.into_iter();
        // One of a link alone is no address without the name of the link.
        let six = six.filter(|(_, c): &(u32, Cidr<Ipv6Addr>)| !c.addr.is_unicast_link_local());
        all.extend(six.map(|(at, c)| (at, IpAddr::V6(c.addr))));
    }
    let of = |name: &str| {
        let index = links.get(name).map(|l| l.index);
        let own = all.iter().filter(|(at, _)| Some(*at) == index).map(|(_, addr)| *addr);
        (name.to_owned(), own.collect())
    };
    Ok(doors.iter().map(|name| of(name)).collect())
}
