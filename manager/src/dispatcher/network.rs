//! What the data plane needs to know of one network, as a pure function of the store.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use skep_proto::v1::{self, NodeState};

use super::world::is_backend;
use crate::allocator::v6;
use crate::control::service_name;
use crate::orchestrator::task::wanted;
use crate::store::StoreView;

/// One network with all its nodes; a stream leaves its own node out of the peers.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct NetworkState {
    pub view: v1::NetworkView,
    /// The nodes that have a part in it.
    pub nodes: BTreeSet<String>,
}

type Tasks = BTreeMap<String, Arc<v1::Task>>;

/// `tasks` are the live tasks with an address in the network; `everyone` makes every node a part of it.
pub(super) fn compute(
    view: &StoreView,
    network: &v1::Network,
    tasks: &Tasks,
    everyone: bool,
) -> NetworkState {
    let spec = network.spec.clone().unwrap_or_default();
    let mut nodes: BTreeSet<String> = tasks.values().map(|t| t.node_id.clone()).collect();
    if everyone {
        nodes.extend(view.nodes().map(|n| n.id.clone()));
    }
    let port = view.cluster().map_or(0, |c| c.data_path_port);
    let peers = nodes.iter().filter_map(|id| view.node(id)).filter_map(|n| peer(n, port));
    let cluster_id = view.cluster().map_or("", |c| &c.id);
    let peers = peers.map(|mut peer| {
        if !network.subnet6.is_empty() {
            peer.overlay_addr6 = v6::of_node(cluster_id, &peer.overlay_addr);
        }
        if !spec.ingress {
            peer.addresses.clear();
        }
        peer
    });
    let peers = peers.collect();
    let blocks = crate::allocator::blocks(view, &network.id);
    let blocks6 = v6::blocks(view, &network.id, &blocks).into_iter();
    let blocks6 = blocks6.map(|(cidr, node_id)| v1::Block { cidr: cidr.to_string(), node_id }).collect();
    let blocks = blocks.into_iter();
    let blocks = blocks.map(|(cidr, node_id)| v1::Block { cidr: cidr.to_string(), node_id }).collect();
    let view = v1::NetworkView {
        network_id: network.id.clone(),
        name: spec.annotations.map(|a| a.name).unwrap_or_default(),
        version: 0,
        subnet: network.subnet.clone(),
        internal: spec.internal,
        ingress: spec.ingress,
        peers,
        blocks,
        services: if spec.ingress { Vec::new() } else { services(view, &network.id, tasks) },
        attached: tasks.values().filter_map(|t| attached(&network.id, t)).collect(),
        attachable: spec.attachable,
        subnet6: network.subnet6.clone(),
        blocks6,
    };
    NetworkState { view, nodes }
}

/// A node as a WireGuard peer, once it has told its key and its address. Its data path may have an address
/// of its own.
pub(super) fn peer(node: &v1::Node, port: u32) -> Option<v1::OverlayPeer> {
    let description = node.description.as_ref()?;
    let key = &description.wireguard_public_key;
    let addr = if node.data_path_addr.is_empty() { &node.addr } else { &node.data_path_addr };
    if key.is_empty() || addr.is_empty() {
        return None;
    }
    let port = if port == 0 { skep_proto::defaults::DATA_PATH_PORT.into() } else { port };
    let host = if addr.contains(':') { format!("[{addr}]") } else { addr.clone() };
    Some(v1::OverlayPeer {
        node_id: node.id.clone(),
        endpoint: format!("{host}:{port}"),
        wireguard_public_key: key.clone(),
        overlay_addr: node.overlay_addr.clone(),
        overlay_addr6: String::new(),
        keeps_client_address: description.keeps_client_address,
        keeps_client_address6: description.keeps_client_address6,
        addresses: description.addresses.clone(),
    })
}

fn address<'a>(task: &'a v1::Task, network_id: &str) -> Option<&'a v1::TaskAddress> {
    task.addresses.iter().find(|a| a.network_id == network_id)
}

fn attached(network_id: &str, task: &v1::Task) -> Option<v1::Attached> {
    let container = task.attachment.as_deref()?;
    let address = address(task, network_id)?;
    Some(v1::Attached {
        container_id: container.container_id.clone(),
        name: container.container_name.clone(),
        aliases: container.aliases.clone(),
        addr: address.addr.clone(),
        addr6: address.addr6.clone(),
        node_id: task.node_id.clone(),
    })
}

fn backend(view: &StoreView, network_id: &str, task: &v1::Task) -> Option<v1::Backend> {
    if !is_backend(task) || view.node(&task.node_id).is_none_or(|n| n.state() == NodeState::Down) {
        return None;
    }
    let service = view.service(&task.service_id)?;
    let address = address(task, network_id)?;
    Some(v1::Backend {
        task_id: task.id.clone(),
        task_name: task.name(service_name(service)),
        addr: address.addr.clone(),
        node_id: task.node_id.clone(),
        addr6: address.addr6.clone(),
    })
}

fn services(view: &StoreView, network_id: &str, tasks: &Tasks) -> Vec<v1::ServiceEntry> {
    let mut backends: BTreeMap<&str, Vec<v1::Backend>> = BTreeMap::new();
    for task in tasks.values() {
        backends.entry(&task.service_id).or_default().extend(backend(view, network_id, task));
    }
    let mut entries = Vec::new();
    for service in view.services().filter(|s| !s.removing) {
        let attached = service.spec.as_ref().and_then(|s| s.task.as_ref());
        let attachment = attached.and_then(|t| t.networks.iter().find(|n| n.network == network_id));
        let endpoint = service.endpoint.as_ref();
        let vip = endpoint.and_then(|e| e.virtual_ips.iter().find(|v| v.network_id == network_id));
        let backends = backends.remove(service.id.as_str());
        if attachment.is_none() && vip.is_none() && backends.is_none() {
            continue;
        }
        entries.push(v1::ServiceEntry {
            service_id: service.id.clone(),
            name: service_name(service).to_owned(),
            aliases: attachment.map(|a| a.aliases.clone()).unwrap_or_default(),
            vip: vip.map(|v| v.addr.clone()).unwrap_or_default(),
            backends: backends.unwrap_or_default(),
            vip6: vip.map(|v| v.addr6.clone()).unwrap_or_default(),
            idle_timeout: service.spec.as_ref().and_then(|s| s.idle_timeout),
        });
    }
    entries
}

/// The ports every node listens on, with their backends in the ingress network.
pub(super) fn published(view: &StoreView, ingress_id: &str, tasks: &Tasks) -> Vec<v1::PublishedPort> {
    let mut backends: BTreeMap<&str, Vec<v1::Backend>> = BTreeMap::new();
    for task in tasks.values() {
        backends.entry(&task.service_id).or_default().extend(backend(view, ingress_id, task));
    }
    let mut leaving: BTreeMap<&str, Vec<&v1::TaskAddress>> = BTreeMap::new();
    for task in tasks.values().filter(|t| !wanted(t)) {
        leaving.entry(&task.service_id).or_default().extend(address(task, ingress_id));
    }
    let mut ports = Vec::new();
    for service in view.services().filter(|s| !s.removing) {
        for port in service.endpoint.iter().flat_map(|e| &e.ports) {
            if port.mode() != v1::PublishMode::Ingress || port.published_port == 0 {
                continue;
            }
            // Of connections each says itself when it is over.
            let udp = port.protocol() == v1::PortProtocol::Udp;
            let leaving = || leaving.get(service.id.as_str()).filter(|_| udp).into_iter().flatten();
            ports.push(v1::PublishedPort {
                protocol: port.protocol,
                published_port: port.published_port,
                target_port: port.target_port,
                host_ip: port.host_ip.clone(),
                service_id: service.id.clone(),
                backends: backends.get(service.id.as_str()).cloned().unwrap_or_default(),
                leaving: leaving().map(|a| a.addr.clone()).collect(),
                leaving6: leaving().map(|a| a.addr6.clone()).filter(|a| !a.is_empty()).collect(),
                idle_timeout: service.spec.as_ref().and_then(|s| s.idle_timeout),
            });
        }
    }
    ports.sort_by_key(|p| (p.published_port, p.protocol));
    ports
}
