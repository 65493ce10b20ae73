//! Keeps the data plane at the state the managers sent, tells tasks when their networks are there, and
//! acknowledges what the kernel holds so that a drain elsewhere can go on.

use std::collections::BTreeMap;
use std::net::Ipv6Addr;
use std::time::Duration;

use skep_overlay::desired::{self, Cidr, Cidr6, Desired};
use skep_proto::v1;
use tokio::sync::watch;

use crate::assignments::Assignments;
use crate::task::NetworksReady;

/// First and longest pause between attempts to apply a state the kernel refused.
const RETRY: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(5));

/// Versions the kernel holds.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Applied {
    /// Version by network ID.
    pub networks: BTreeMap<String, u64>,
    /// Version of the published ports.
    pub ingress: u64,
}

/// The data plane as the agent drives it.
#[async_trait::async_trait]
pub trait NetworkPlane: Send + Sync + 'static {
    /// Makes the kernel hold this state, whole. The text of an error is shown to operators.
    async fn apply(&self, desired: Desired, listen_port: u16) -> Result<Applied, String>;
}

#[async_trait::async_trait]
impl NetworkPlane for skep_overlay::DataPlane {
    async fn apply(&self, desired: Desired, listen_port: u16) -> Result<Applied, String> {
        let applied =
            skep_overlay::DataPlane::apply(self, desired, listen_port).await.map_err(|e| e.to_string())?;
        Ok(Applied { networks: applied.networks, ingress: applied.ingress })
    }
}

/// Follows `wanted` for as long as its sender lives.
pub async fn follow(
    plane: std::sync::Arc<dyn NetworkPlane>,
    mut wanted: watch::Receiver<(Desired, u16)>,
    applied: watch::Sender<Applied>,
) {
    let mut pause = RETRY.0;
    loop {
        let (desired, port) = wanted.borrow_and_update().clone();
        if desired.overlay_addr.is_some() {
            match plane.apply(desired, port).await {
                Ok(now) => {
                    pause = RETRY.0;
                    applied.send_if_modified(|have| std::mem::replace(have, now.clone()) != now);
                }
                Err(e) => {
                    tracing::error!(error = %e, "the data plane could not be brought to the swarm's state, trying again");
                    tokio::select! {
                        () = tokio::time::sleep(pause) => {}
                        r = wanted.changed() => if r.is_err() { return },
                    }
                    pause = (pause * 2).min(RETRY.1);
                    continue;
                }
            }
        }
        if wanted.changed().await.is_err() {
            return;
        }
    }
}

/// Tells tasks that their networks are there, from what has been applied.
pub struct AppliedNetworks(pub watch::Receiver<Applied>);

#[async_trait::async_trait]
impl NetworksReady for AppliedNetworks {
    async fn ready(&self, network_ids: &[String]) {
        let mut applied = self.0.clone();
        let there = |a: &Applied| network_ids.iter().all(|id| a.networks.contains_key(id));
        if applied.wait_for(there).await.is_err() {
            std::future::pending().await
        }
    }
}

/// The data plane's state for these assignments. `keep` are networks whose view the managers took back
/// while a container here is still leaving them.
pub fn desired(node_id: &str, set: &Assignments, keep: &BTreeMap<String, v1::NetworkView>) -> Desired {
    let views = keep.iter().chain(set.networks.iter());
    let networks = views.filter_map(|(id, view)| match network(view) {
        Ok(network) => Some((id.clone(), network)),
        Err(e) => {
            tracing::error!(network = %view.name, error = %e, "a manager sent a network this node cannot read, leaving it out");
            None
        }
    });
    let networks: BTreeMap<_, _> = networks.collect();
    let six = networks.values().any(|n| n.subnet6.is_some());
    Desired {
        node_id: node_id.to_owned(),
        overlay_addr: set.overlay_addr.parse().ok(),
        overlay_addr6: set.overlay_addr6.parse().ok().filter(|_| six),
        networks,
        ingress_version: set.ingress.version,
        ports: set.ingress.ports.iter().filter_map(port).collect(),
    }
}

fn network(view: &v1::NetworkView) -> Result<desired::Network, String> {
    let text = |e: std::net::AddrParseError, what: &str| format!("{what}: {e}");
    let six = |what: &str| match what {
        "" => Ok(None),
        addr => addr.parse::<Ipv6Addr>().map(Some).map_err(|e| text(e, addr)),
    };
    let mut peers = Vec::with_capacity(view.peers.len());
    for p in &view.peers {
        // A node that has not reported its key or address yet is joined by a later view.
        if p.wireguard_public_key.is_empty() || p.overlay_addr.is_empty() {
            continue;
        }
        peers.push(desired::Peer {
            node_id: p.node_id.clone(),
            endpoint: p.endpoint.parse().map_err(|e| text(e, &p.endpoint))?,
            public_key: p.wireguard_public_key.clone(),
            keeps_client_address: p.keeps_client_address,
            keeps_client_address6: p.keeps_client_address6,
            addresses: p
                .addresses
                .iter()
                .map(|a| a.parse().map_err(|e| text(e, a)))
                .collect::<Result<_, _>>()?,
            overlay_addr: p.overlay_addr.parse().map_err(|e| text(e, &p.overlay_addr))?,
            overlay_addr6: six(&p.overlay_addr6)?,
        });
    }
    let mut blocks = BTreeMap::new();
    for b in &view.blocks {
        blocks.insert(b.cidr.parse::<Cidr>()?, b.node_id.clone());
    }
    let mut blocks6 = BTreeMap::new();
    for b in &view.blocks6 {
        blocks6.insert(b.cidr.parse::<Cidr6>()?, b.node_id.clone());
    }
    let mut services = Vec::with_capacity(view.services.len());
    for s in &view.services {
        let vip = if s.vip.is_empty() { None } else { Some(s.vip.parse().map_err(|e| text(e, &s.vip))?) };
        services.push(desired::Service {
            id: s.service_id.clone(),
            name: s.name.clone(),
            aliases: s.aliases.clone(),
            vip,
            vip6: six(&s.vip6)?,
            backends: s.backends.iter().filter_map(backend).collect(),
            idle: idle(s.idle_timeout),
        });
    }
    Ok(desired::Network {
        id: view.network_id.clone(),
        name: view.name.clone(),
        version: view.version,
        subnet: view.subnet.parse()?,
        subnet6: if view.subnet6.is_empty() { None } else { Some(view.subnet6.parse()?) },
        internal: view.internal,
        ingress: view.ingress,
        peers,
        blocks,
        blocks6,
        services,
        attached: view.attached.iter().filter_map(attached).collect(),
        attachable: view.attachable,
    })
}

fn attached(a: &v1::Attached) -> Option<desired::Attached> {
    Some(desired::Attached {
        container_id: a.container_id.clone(),
        name: a.name.clone(),
        aliases: a.aliases.clone(),
        addr: a.addr.parse().ok()?,
        addr6: a.addr6.parse().ok(),
        node_id: a.node_id.clone(),
    })
}

fn backend(b: &v1::Backend) -> Option<desired::Backend> {
    Some(desired::Backend {
        task_id: b.task_id.clone(),
        task_name: b.task_name.clone(),
        addr: b.addr.parse().ok()?,
        addr6: b.addr6.parse().ok(),
        node_id: b.node_id.clone(),
    })
}

fn port(p: &v1::PublishedPort) -> Option<desired::PublishedPort> {
    Some(desired::PublishedPort {
        protocol: protocol(p.protocol()).to_owned(),
        published: u16::try_from(p.published_port).ok()?,
        target: u16::try_from(p.target_port).ok()?,
        host: p.host_ip.clone().into(),
        leaving: p.leaving.iter().filter_map(|a| a.parse().ok()).collect(),
        leaving6: p.leaving6.iter().filter_map(|a| a.parse().ok()).collect(),
        backends: p.backends.iter().filter_map(backend).collect(),
        idle: idle(p.idle_timeout),
    })
}

fn idle(timeout: Option<v1::IdleTimeout>) -> desired::IdleTimeout {
    let timeout = timeout.unwrap_or_default();
    let seconds = |ns: i64| u32::try_from(ns / 1_000_000_000).ok().filter(|s| *s > 0);
    desired::IdleTimeout { tcp: seconds(timeout.tcp_ns), udp: seconds(timeout.udp_ns) }
}

/// Name of a protocol as the engine and the data plane write it.
pub fn protocol(p: v1::PortProtocol) -> &'static str {
    match p {
        v1::PortProtocol::Tcp => "tcp",
        v1::PortProtocol::Udp => "udp",
        v1::PortProtocol::Sctp => "sctp",
    }
}
