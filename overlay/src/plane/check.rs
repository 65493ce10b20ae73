//! The comparison of the kernel with the state, told and not mended; and digests of what the managers said, by which
//! hosts can be compared with each other.

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, Ipv6Addr};

use super::{DataPlane, blocking};
use crate::cidr::Cidr;
use crate::desired::{Backend, Desired, Network};
use crate::error::Result;
use crate::link::Links;
use crate::names::{GATEWAY_MAC, Names};
use crate::netns::Namespace;
use crate::nft::{self, digest};
use crate::reconcile;
use crate::routed::{self, GATEWAY, GATEWAY6};
use crate::state::{Record, State};
use crate::sysctl;

/// What a check found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Report {
    /// What differs between the state and the kernel, each in words; empty = nothing.
    pub differences: Vec<String>,
    /// Containers that are connected.
    pub containers: usize,
    /// The swarm's networks here: name, and digest of what the managers said last of their services and address
    /// blocks. Two hosts that know the same have the same.
    pub networks: BTreeMap<String, String>,
    /// The same of the ports published on every node.
    pub ports: String,
}

impl DataPlane {
    /// What differs between the state and the kernel; empty = nothing. It waits for changes that are on their way, since until
    /// one has reached the kernel the state is ahead of it, and holds up those that come meanwhile.
    pub async fn check(&self) -> Result<Vec<String>> {
        let inner = self.inner.clone();
        let _unchanging = self.inner.changing.lock().await;
        // No container's coming or going changes that, nor waits for a tunnel's process that does not answer.
        let mut differences = self.check_tunnel().await?;
        let _unmoving = self.inner.moving.write().await;
        let mut rules = inner.rules.clone().lock_owned().await;
        let found = blocking("comparing with the kernel", move || {
            let state = inner.state().clone();
            let repairs = reconcile::plan(&state, &inner.names, &inner.pins, &inner.reaper.leaving())?;
            let table = inner.names.table();
            let held = rules.held(&inner.names)?;
            let wanted = rules.wanted(&state, &inner.names);
            let pairs = held.iter().zip(&wanted);
            let changes: Vec<_> = pairs.flat_map(|(h, w)| nft::changes(h.as_ref(), w.as_ref())).collect();
            let admitted = rules.admitted(&state, &inner.names)?;
            let shut = (!admitted).then(|| "iptables' FORWARD or INPUT chain drops our traffic".to_owned());
            let rules = changes.iter().map(|c| format!("nftables table {table}: {c}")).chain(shut);
            let mut found: Vec<_> = repairs.iter().map(ToString::to_string).chain(rules).collect();
            found.extend(tunnel(&state, &inner.names)?);
            for record in state.containers.values() {
                let inside = Namespace::open(&inner.pins.join(&record.container_id));
                match inside.and_then(|mut namespace| container(record, &mut namespace)) {
                    Ok(missing) => found.extend(missing),
                    Err(error) => found.push(format!("container {}: {error}", record.container_id)),
                }
            }
            Ok(found)
        })
        .await?;
        differences.extend(found);
        Ok(differences)
    }

    /// A check, with what hosts can be compared by.
    pub async fn report(&self) -> Result<Report> {
        let differences = self.check().await?;
        let state = self.inner.state();
        let mut report = Report { differences, containers: state.containers.len(), ..Report::default() };
        if let Some(swarm) = &state.swarm {
            let Desired { networks, ports, .. } = &swarm.desired;
            report.networks = networks.values().map(|n| (n.name.clone(), network(n))).collect();
            let mut ports: Vec<String> = ports
                .iter()
                .map(|p| format!("{}/{}:{}={}", p.protocol, p.published, p.target, backends(&p.backends)))
                .collect();
            ports.sort_unstable();
            report.ports = short(&ports.join(";"));
        }
        Ok(report)
    }
}

/// The tunnel's own interface.
fn tunnel(state: &State, names: &Names) -> Result<Option<String>> {
    let (Some(mtu), Some(swarm)) = (state.tunnel_mtu, &state.swarm) else { return Ok(None) };
    let name = names.wireguard();
    let mut host = Links::open()?;
    let Some(link) = host.find(&name)? else { return Ok(Some(format!("interface {name} is missing"))) };
    let addresses = host.addresses()?;
    let addressed =
        swarm.desired.overlay_addr.is_none_or(|a| addresses.contains(&(link.index, Cidr::host(a))));
    let addresses6 = host.addresses()?;
    let wanted6 = swarm.desired.overlay_addr6.filter(|_| sysctl::knows_ipv6());
    let addressed6 = wanted6.is_none_or(|a| addresses6.contains(&(link.index, Cidr::host(a))));
    let fine = link.up && link.mtu == u32::from(mtu) && addressed && addressed6;
    Ok((!fine).then(|| format!("interface {name} is down, or without its address or size")))
}

/// What is missing inside a container. What it has besides is its own affair.
fn container(record: &Record, namespace: &mut Namespace) -> Result<Vec<String>> {
    let mut missing = Vec::new();
    let mut lacks = |what: String| missing.push(format!("container {} lacks {what}", record.container_id));
    let links = namespace.links.list()?;
    let addresses = namespace.links.addresses()?;
    let routes = namespace.links.routes()?;
    let (addresses6, held6) = (namespace.links.addresses()?, namespace.links.routes()?);
    let wanted = routed::routes(record).into_iter().zip(routed::routes6(record));
    for (interface, (wanted, wanted6)) in record.interfaces.iter().zip(wanted) {
        let Some(link) = links.get(&interface.guest).filter(|l| l.up) else {
            lacks(format!("interface {}, up", interface.guest));
            continue;
        };
        for addr in
            routed::addresses(interface).into_iter().filter(|a| !addresses.contains(&(link.index, *a)))
        {
            lacks(format!("address {addr}"));
        }
        for route in wanted.into_iter().filter(|r| !routes.contains(&(link.index, r.clone()))) {
            lacks(format!("the route to {}", route.to));
        }
        let six = routed::addresses6(interface);
        for addr in six.iter().filter(|a| !addresses6.contains(&(link.index, **a))) {
            lacks(format!("address {addr}"));
        }
        for route in wanted6.into_iter().filter(|r| !held6.contains(&(link.index, r.clone()))) {
            lacks(format!("the route to {}", route.to));
        }
        if interface.is_routed()
            && !six.is_empty()
            && namespace.links.neighbours::<Ipv6Addr>(link.index)?.get(&GATEWAY6) != Some(&GATEWAY_MAC)
        {
            lacks(format!("neighbour {GATEWAY6}"));
        }
        if interface.is_routed()
            && namespace.links.neighbours::<Ipv4Addr>(link.index)?.get(&GATEWAY) != Some(&GATEWAY_MAC)
        {
            lacks(format!("neighbour {GATEWAY}"));
        }
    }
    Ok(missing)
}

fn network(network: &Network) -> String {
    let mut services: Vec<String> = network
        .services
        .iter()
        .map(|s| {
            let vips = (s.vip, s.vip6, s.idle);
            format!("{} {} {:?} {vips:?} {}", s.id, s.name, s.aliases, backends(&s.backends))
        })
        .collect();
    let attached = network.attached.iter();
    let attached = attached.map(|a| format!("{} {} {:?} {}", a.container_id, a.addr, a.addr6, a.node_id));
    services.extend(attached);
    services.sort_unstable();
    let ranges = (network.subnet, &network.blocks, network.subnet6, &network.blocks6);
    short(&format!("{ranges:?} {}", services.join(";")))
}

fn backends(backends: &[Backend]) -> String {
    let mut all: Vec<_> =
        backends.iter().map(|b| format!("{} {} {:?} {}", b.task_id, b.addr, b.addr6, b.node_id)).collect();
    all.sort_unstable();
    all.join(",")
}

fn short(text: &str) -> String {
    format!("{:016x}", digest(text.as_bytes()))
}
