//! The addresses that are this host's own, as they come and go. Other nodes have to know them: a connection that comes from
//! one of them, and is led back to a task here, would be answered here at once if it kept its source.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv6Addr};
use std::sync::Arc;

use tokio::sync::watch;

use super::{DataPlane, Inner, blocking};
use crate::cidr::Cidr;
use crate::error::Result;
use crate::link::Links;
use crate::state::{Bridge, State};

/// So many are told of at most, and no more are taken (`skep_proto::defaults::HOST_ADDRESSES`): all nodes keep rules about them.
const MOST: usize = 256;

impl DataPlane {
    /// The addresses of this host by which it reaches others, without those of its own networks of containers.
    pub fn addresses(&self) -> watch::Receiver<BTreeSet<IpAddr>> {
        self.inner.addresses.subscribe()
    }
}

impl Inner {
    /// Looks at them anew; what fails is tried again in half a minute. The caller holds `changing`: a bridge that is being made
    /// has its address before it is known.
    pub(super) async fn follow_own(self: &Arc<Self>) {
        let inner = self.clone();
        let noted = blocking("looking at this host's addresses", move || inner.note_addresses()).await;
        if let Err(error) = noted {
            tracing::warn!(%error, "other nodes are not told of this host's addresses as they are now");
        }
    }

    /// Looks at them.
    pub(super) fn note_addresses(&self) -> Result<()> {
        let mut found = of_host(self.state().has_ipv6)?;
        found.retain(|addr| !is_of_containers(&self.state(), addr));
        let (all, last) = (found.len(), found.iter().nth(MOST).copied());
        if let Some(last) = last {
            found.split_off(&last);
        }
        let changed = self.addresses.send_if_modified(|have| std::mem::replace(have, found.clone()) != found);
        if changed && all > MOST {
            tracing::warn!(
                addresses = all,
                "other nodes are told of the first {MOST} of this host's addresses: from the others it may not reach its own \
                 tasks by ports of other nodes"
            );
        }
        Ok(())
    }
}

/// Those that mean this host to others.
fn of_host(has_ipv6: bool) -> Result<BTreeSet<IpAddr>> {
    let mut host = Links::open()?;
    let four = host.addresses()?.into_iter().map(|(_, c): (u32, Cidr)| c.addr);
    let four = four.filter(|a| !a.is_loopback() && !a.is_link_local());
    let mut all: BTreeSet<IpAddr> = four.map(IpAddr::V4).collect();
    if has_ipv6 {
        let six = host.addresses()?.into_iter().map(|(_, c): (u32, Cidr<Ipv6Addr>)| c.addr);
        all.extend(six.filter(|a| !a.is_loopback() && !a.is_unicast_link_local()).map(IpAddr::V6));
    }
    Ok(all)
}

/// Whether it is this host's in one of its own networks. A bridge of the user's may lead to others, who know the host by it.
fn is_of_containers(state: &State, addr: &IpAddr) -> bool {
    let overlay = state.swarm.as_ref().map(|s| &s.desired);
    let own = state.bridges.values().filter(|b| !b.foreign);
    match addr {
        IpAddr::V4(addr) => {
            let mut bridges = own.filter_map(Bridge::hosted);
            bridges.any(|b| b.addr == *addr) || overlay.and_then(|d| d.overlay_addr) == Some(*addr)
        }
        IpAddr::V6(addr) => {
            let mut bridges = own.filter_map(Bridge::hosted6);
            bridges.any(|b| b.addr == *addr) || overlay.and_then(|d| d.overlay_addr6) == Some(*addr)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn on(foreign: bool) -> State {
        let bridge = serde_json::json!({
            "id": "1", "name": "bridge", "interface": "br0", "subnet": "192.168.7.0/24", "gateway": "192.168.7.2",
            "internal": false, "mtu": 1500, "foreign": foreign, "labels": {}, "options": {}, "created_at_ns": 0,
            "isolated": true,
        });
        let bridge: Bridge = serde_json::from_value(bridge).expect("a bridge");
        State { bridges: [(bridge.name.clone(), bridge)].into(), ..State::default() }
    }

    #[test]
    fn the_hosts_address_on_a_bridge_of_the_users_is_its_own() {
        let addr = IpAddr::from([192, 168, 7, 2]);
        assert!(is_of_containers(&on(false), &addr));
        assert!(!is_of_containers(&on(true), &addr));
    }

    #[test]
    fn the_host_answers_for_others_on_bridges_of_its_own_only() {
        assert!(on(false).bridges["bridge"].answers_for_others());
        assert!(!on(true).bridges["bridge"].answers_for_others());
    }
}
