//! The swarm's part: its whole desired state, put into force; the latest wins.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{Ipv4Addr, Ipv6Addr};

use super::{DataPlane, INGRESS, blocking};
use crate::conntrack::forget_datagrams;
use crate::desired::{Address, Cidr, Desired, Peer};
use crate::error::{Error, Result};
use crate::model::Applied;
use crate::state::Swarm;
use crate::sysctl;
use crate::wireguard::{Device, DeviceOptions, PeerConfig};

impl DataPlane {
    /// Puts the swarm's state into force and says which versions are. `listen_port` is WireGuard's.
    pub async fn apply(&self, desired: Desired, listen_port: u16) -> Result<Applied> {
        let _one = self.inner.changing.lock().await;
        let swarm = Swarm { desired, listen_port };
        let inner = self.inner.clone();
        let saved = swarm.clone();
        blocking("saving the swarm's network state", move || inner.store.save_swarm(Some(&saved))).await?;
        let (now, now6) = datagrams(&swarm.desired);
        let ((gone, gone6), _) = self.inner.change(|state| {
            let (four, six) = state.swarm.as_ref().map(|s| datagrams(&s.desired)).unwrap_or_default();
            state.swarm = Some(swarm);
            state.swarm_generation += 1;
            (ended(&four, &now), ended(&six, &now6))
        });
        let applied = self.enforce().await;
        if !gone.is_empty() || !gone6.is_empty() {
            let forgotten = blocking("forgetting flows", move || {
                let four = forget_datagrams(&gone);
                let six = if gone6.is_empty() { Ok(0) } else { forget_datagrams(&gone6) };
                Error::gather([four, six].into_iter().filter_map(Result::err).collect())
            });
            let forgotten = forgotten.await;
            if let Err(error) = forgotten {
                tracing::warn!(%error, "UDP clients of tasks that are gone may go on being led to them");
            }
        }
        applied
    }

    /// Leaves the swarm: tunnel, routes, virtual addresses and published ports go.
    pub async fn leave_swarm(&self) -> Result<()> {
        let _one = self.inner.changing.lock().await;
        let (_, generation) = self.inner.change(|state| {
            state.swarm = None;
            state.swarm_generation += 1;
            state.tunnel_mtu = None;
            state.refused_ports.clear();
        });
        let inner = self.inner.clone();
        let forgotten = blocking("forgetting the swarm", move || {
            inner.ports().release(INGRESS);
            inner.store.save_swarm(None)
        })
        .await;
        let rules = self.inner.commit(generation).await;
        self.inner.heard.tell();
        let inner = self.inner.clone();
        let mesh = blocking("leaving the ingress mesh", move || inner.repair_tunnel()).await;
        let device = self.inner.tunnel.lock().await.take();
        let removed = match device {
            Some(device) => device.remove().await.map_err(|e| self.tunnel_error(&e)),
            None if self.inner.options.solo => self.lower_anchor().await,
            None => Ok(()),
        };
        Error::gather([forgotten, rules, mesh, removed].into_iter().filter_map(Result::err).collect())
    }

    /// After a restart: the last state known is in force again, whether or not a manager is in reach.
    pub(super) async fn resume_swarm(&self) {
        let _one = self.inner.changing.lock().await;
        if let Err(error) = self.enforce().await {
            tracing::warn!(%error, "the overlay is not in order; trying again in 30 s");
        }
    }

    /// The tunnel, its peers and the ports once more.
    pub(super) async fn refresh_swarm(&self) -> Result<()> {
        let _one = self.inner.changing.lock().await;
        self.enforce().await.map(drop)
    }

    /// Brings tunnel, ports, rules and routes in line with the state. The caller holds `changing`.
    async fn enforce(&self) -> Result<Applied> {
        let swarm = self.inner.state().swarm.clone();
        let Some(swarm) = swarm else {
            self.inner.follow_doors().await?;
            return Ok(Applied::default());
        };
        let desired = &swarm.desired;
        let tunnel = self.raise_tunnel(&swarm).await;
        let inner = self.inner.clone();
        let doors = blocking("reading the addresses of interfaces", move || inner.open_ports()).await;
        let (_, generation) = self.inner.change(|_| ());
        self.inner.refresh_zones(None);
        let rules = self.inner.commit(generation).await;
        self.inner.heard.tell();
        let inner = self.inner.clone();
        let routes = blocking("setting routes into the tunnel", move || inner.repair_tunnel()).await;
        Error::gather([tunnel, doors, rules, routes].into_iter().filter_map(Result::err).collect())?;
        Ok(Applied {
            networks: desired.networks.iter().map(|(id, n)| (id.clone(), n.version)).collect(),
            ingress: desired.ingress_version,
        })
    }

    async fn raise_tunnel(&self, swarm: &Swarm) -> Result<()> {
        let options = &self.inner.options;
        let mut slot = self.inner.tunnel.lock().await;
        if swarm.desired.networks.is_empty() && slot.is_none() {
            return Ok(());
        }
        let addr6 = swarm.desired.overlay_addr6.filter(|_| sysctl::knows_ipv6());
        if options.solo {
            return self.raise_anchor(swarm.desired.overlay_addr, addr6).await;
        }
        let device = Device::ensure(DeviceOptions {
            name: self.inner.names.wireguard(),
            private_key_path: self.inner.store.key(),
            listen_port: swarm.listen_port,
            helper_exe: options.helper_exe.clone(),
            exec_root: options.exec_root.clone(),
            addr: swarm.desired.overlay_addr,
            addr6,
            underlay: None,
            mtu: None,
        })
        .await
        .map_err(|e| self.tunnel_error(&e))?;
        let mtu = device.mtu();
        let peers = device.set_peers(&peers(&swarm.desired)).await;
        *slot = Some(device);
        self.inner.change(|state| state.tunnel_mtu = Some(mtu));
        peers.map_err(|e| self.tunnel_error(&e))
    }

    pub(super) fn tunnel_error(&self, error: &crate::wireguard::Error) -> Error {
        Error::WireGuard { interface: self.inner.names.wireguard(), reason: error.to_string() }
    }

    /// Differences between the tunnel's peers and the swarm's state.
    pub(super) async fn check_tunnel(&self) -> Result<Vec<String>> {
        let swarm = self.inner.state().swarm.clone();
        let Some(swarm) = swarm else { return Ok(Vec::new()) };
        if self.inner.options.solo {
            return Ok(Vec::new());
        }
        let slot = self.inner.tunnel.lock().await;
        let Some(device) = slot.as_ref() else {
            let missing = !swarm.desired.networks.is_empty();
            return Ok(missing.then(|| "the tunnel is not up".to_owned()).into_iter().collect());
        };
        let held = device.peers().await.map_err(|e| self.tunnel_error(&e))?;
        let wanted = peers(&swarm.desired);
        let mut differences = Vec::new();
        for peer in &wanted {
            let ranges = (&peer.allowed_ips, &peer.allowed_ips6);
            match held.iter().find(|h| h.public_key == peer.public_key) {
                None => differences.push(format!("peer {} is missing", peer.public_key)),
                Some(held) if (&held.allowed_ips, &held.allowed_ips6) != ranges => {
                    differences.push(format!("peer {} has other ranges", peer.public_key));
                }
                Some(held) if held.endpoint.is_none() => {
                    differences.push(format!("peer {} is nowhere", peer.public_key));
                }
                Some(_) => {}
            }
        }
        let stray = held.iter().filter(|h| !wanted.iter().any(|w| w.public_key == h.public_key));
        differences.extend(stray.map(|h| format!("peer {} is not wanted", h.public_key)));
        Ok(differences)
    }
}

/// Addresses that datagrams to published ports may be answered from, each with whether these carry their client's address there.
type Answering<A> = BTreeSet<(A, bool)>;

fn datagrams(desired: &Desired) -> (Answering<Ipv4Addr>, Answering<Ipv6Addr>) {
    let ingress = desired.networks.values().find(|n| n.ingress);
    let nodes = |keeps: fn(&Peer) -> bool| {
        let members = ingress.into_iter().flat_map(|n| &n.peers).filter(move |p| keeps(p));
        members.map(|p| p.node_id.as_str()).collect::<BTreeSet<_>>()
    };
    let (keep, keep6) =
        (nodes(|p| p.keeps_client_address), nodes(|p| p.keeps_client_address && p.keeps_client_address6));
    let (mut four, mut six) = (BTreeSet::new(), BTreeSet::new());
    for port in desired.ports.iter().filter(|p| p.protocol == "udp") {
        for b in &port.backends {
            four.insert((b.addr, keep.contains(b.node_id.as_str())));
            six.extend(b.addr6.map(|addr| (addr, keep6.contains(b.node_id.as_str()))));
        }
        // Of those that leave only the address is told.
        let by_mesh = |a| ingress.is_some_and(|n| is_in(&n.blocks, &keep, a));
        four.extend(port.leaving.iter().map(|a| (*a, by_mesh(*a))));
        let by_mesh = |a| ingress.is_some_and(|n| is_in(&n.blocks6, &keep6, a));
        six.extend(port.leaving6.iter().map(|a| (*a, by_mesh(*a))));
    }
    (four, six)
}

/// Whether an address is in a block of one of these nodes.
fn is_in<A: Address>(blocks: &BTreeMap<Cidr<A>, String>, nodes: &BTreeSet<&str>, addr: A) -> bool {
    blocks.iter().any(|(block, node)| block.contains(addr) && nodes.contains(node.as_str()))
}

/// Those that flows are not led to any more, or no longer by the same way: the translation of a flow is that of its first
/// datagram, and another way would not take it.
fn ended<A: Address>(before: &Answering<A>, now: &Answering<A>) -> BTreeSet<A> {
    before.difference(now).map(|(addr, _)| *addr).collect()
}

/// Peers by key: each with its own address and all blocks it holds, in whatever network.
fn peers(desired: &Desired) -> Vec<PeerConfig> {
    let mut all = BTreeMap::new();
    for network in desired.networks.values() {
        for peer in &network.peers {
            let config = all.entry(peer.public_key.clone()).or_insert_with(|| PeerConfig {
                public_key: peer.public_key.clone(),
                endpoint: peer.endpoint,
                allowed_ips: vec![Cidr::host(peer.overlay_addr)],
                allowed_ips6: Vec::new(),
            });
            let blocks = network.blocks.iter().filter(|(_, node)| **node == peer.node_id);
            config.allowed_ips.extend(blocks.map(|(block, _)| block.network()));
            let blocks6 = network.blocks6.iter().filter(|(_, node)| **node == peer.node_id);
            config.allowed_ips6.extend(blocks6.map(|(block, _)| block.network()));
            config.allowed_ips6.extend(peer.overlay_addr6.map(Cidr::host));
        }
    }
    for config in all.values_mut() {
        config.allowed_ips.sort_unstable();
        config.allowed_ips.dedup();
        config.allowed_ips6.sort_unstable();
        config.allowed_ips6.dedup();
    }
    all.into_values().collect()
}
