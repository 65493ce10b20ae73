//! Published ports of the swarm: one service each, automatic ones from 30000-32767.

use std::collections::{HashMap, HashSet};

use skep_proto::{defaults, v1};
use v1::{PortConfig, PublishMode};

use crate::store::StoreView;

type Port = (i32, u32);

/// Ports other services hold, and who.
pub(super) struct PortTable<'a> {
    ingress: HashMap<Port, &'a v1::Service>,
    host: HashMap<Port, &'a v1::Service>,
}

impl<'a> PortTable<'a> {
    /// The ports of all services but `except`.
    pub fn of(view: &'a StoreView, except: &str) -> Self {
        let mut table = PortTable { ingress: HashMap::new(), host: HashMap::new() };
        // A removed service's ports are free at once, as its name is: nothing is sent to its tasks any more.
        for service in view.services().filter(|s| s.id != except && !s.removing) {
            let decided = service.endpoint.iter().flat_map(|e| &e.ports);
            let asked = spec_ports(service).iter();
            for p in decided.chain(asked).filter(|p| p.published_port != 0) {
                let map = match p.mode() {
                    PublishMode::Ingress => &mut table.ingress,
                    PublishMode::Host => &mut table.host,
                };
                map.entry((p.protocol, p.published_port)).or_insert(service);
            }
        }
        table
    }

    fn conflict(&self, port: &PortConfig) -> Option<String> {
        let key = (port.protocol, port.published_port);
        let (holder, how) = match (port.mode(), self.ingress.get(&key), self.host.get(&key)) {
            (_, Some(s), _) => (s, "through the ingress mesh"),
            // Host-mode ports only exclude each other on one node; the scheduler sees to that.
            (PublishMode::Ingress, None, Some(s)) => (s, "in host mode"),
            _ => return None,
        };
        Some(format!(
            "port {}/{} is already published by service {} ({}) {how}: choose another port, or 0 for any",
            port.published_port,
            protocol(port),
            crate::store::service_name(holder),
            holder.id,
        ))
    }
}

fn spec_ports(service: &v1::Service) -> &[PortConfig] {
    service.spec.as_ref().and_then(|s| s.endpoint.as_ref()).map_or(&[], |e| &e.ports)
}

/// tcp, udp or sctp.
pub fn protocol(port: &PortConfig) -> &'static str {
    match port.protocol() {
        v1::PortProtocol::Tcp => "tcp",
        v1::PortProtocol::Udp => "udp",
        v1::PortProtocol::Sctp => "sctp",
    }
}

/// Why the service (which may be new: any id) cannot publish these ports; `None` if it can.
pub fn conflict(view: &StoreView, service_id: &str, ports: &[PortConfig]) -> Option<String> {
    let table = PortTable::of(view, service_id);
    let mut own = HashSet::new();
    ports.iter().filter(|p| p.published_port != 0).find_map(|p| {
        if !own.insert((p.protocol, p.published_port)) {
            return Some(format!("port {}/{} is published twice", p.published_port, protocol(p)));
        }
        table.conflict(p)
    })
}

/// Decides every published port of the service: those asked for, those it has, new ones for the rest.
pub(super) fn decide(
    view: &StoreView,
    service: &v1::Service,
    ports: &[PortConfig],
) -> Result<Vec<PortConfig>, String> {
    if let Some(conflict) = conflict(view, &service.id, ports) {
        return Err(conflict);
    }
    let table = PortTable::of(view, &service.id);
    let mut had: Vec<&PortConfig> = service.endpoint.iter().flat_map(|e| &e.ports).collect();
    let mut taken: HashSet<Port> =
        ports.iter().filter(|p| p.published_port != 0).map(|p| (p.protocol, p.published_port)).collect();
    let mut decided = Vec::with_capacity(ports.len());
    for port in ports {
        let mut port = port.clone();
        // In host mode the node's own engine picks a free one.
        if port.published_port == 0 && port.mode() == PublishMode::Ingress {
            let free = |n: &u32, taken: &HashSet<Port>| {
                let key = (port.protocol, *n);
                !taken.contains(&key) && !table.ingress.contains_key(&key) && !table.host.contains_key(&key)
            };
            let before = had.iter().position(|h| {
                h.protocol == port.protocol
                    && h.target_port == port.target_port
                    && h.mode == port.mode
                    && h.name == port.name
                    && defaults::PUBLISHED_PORTS.contains(&h.published_port)
                    && free(&h.published_port, &taken)
            });
            let chosen = match before {
                Some(i) => Some(had.swap_remove(i).published_port),
                None => defaults::PUBLISHED_PORTS.into_iter().find(|n| free(n, &taken)),
            };
            port.published_port = chosen.ok_or_else(|| {
                format!(
                    "every port from {} to {} is published already: remove a service or name a port",
                    defaults::PUBLISHED_PORTS.start(),
                    defaults::PUBLISHED_PORTS.end()
                )
            })?;
            taken.insert((port.protocol, port.published_port));
        }
        decided.push(port);
    }
    Ok(decided)
}
