//! Who is in a network of the swarm, as `inspect` shows it: `Peers`, and with `verbose` `Services` (Engine API,
//! NetworkInspect). The docker client reads a task's `EndpointID`; Skep's endpoints are told apart by their task or container.

use serde_json::{Map, Value, json};
use skep_overlay::desired;
use skep_proto::v1::{DescribeNetworkResponse, NetworkPeer, NetworkService, NetworkTask};

use crate::swarm::LocalSwarm;

/// Longest part of a node's ID that is shown.
const SHORT: usize = 12;
/// What Docker writes where there is no address.
const NO_ADDRESS: &str = "<nil>";

/// Adds it to a network's JSON; what is empty is left out, as by Docker.
pub fn insert(shown: &mut Value, members: &DescribeNetworkResponse, verbose: bool) {
    if !members.peers.is_empty() {
        let peer = |p: &NetworkPeer| json!({ "Name": short(&p.node_id), "IP": p.addr });
        shown["Peers"] = members.peers.iter().map(peer).collect();
    }
    if verbose && !members.services.is_empty() {
        let services = members.services.iter().map(|s| (s.name.clone(), service(s)));
        shown["Services"] = Value::Object(services.collect());
    }
}

fn short(id: &str) -> &str {
    id.get(..SHORT).unwrap_or(id)
}

fn service(s: &NetworkService) -> Value {
    let ports = s.ports.iter().map(|p| format!("Target: {}, Publish: {}", p.target_port, p.published_port));
    let vip = if s.vip.is_empty() { NO_ADDRESS } else { &s.vip };
    let mut out = json!({
        "VIP": vip,
        "Ports": ports.collect::<Vec<_>>(),
        // IPVS has no part in it.
        "LocalLBIndex": 0,
        "Tasks": s.tasks.iter().map(task).collect::<Vec<_>>(),
    });
    // Skep's own.
    if !s.vip6.is_empty() {
        out["VIP6"] = json!(s.vip6);
    }
    out
}

fn task(t: &NetworkTask) -> Value {
    let mut out = Map::new();
    out.insert("Name".into(), json!(t.name));
    out.insert("EndpointID".into(), json!(t.id));
    out.insert("EndpointIP".into(), json!(t.addr));
    out.insert("Info".into(), json!({ "Host IP": t.node_addr }));
    if !t.addr6.is_empty() {
        out.insert("EndpointIP6".into(), json!(t.addr6));
    }
    out.into()
}

/// What a worker knows of a network that it has containers in.
pub fn known_here(n: &desired::Network, local: &LocalSwarm) -> DescribeNetworkResponse {
    let own = NetworkPeer { node_id: local.node_id.clone(), addr: local.node_addr.clone() };
    let peer =
        |p: &desired::Peer| NetworkPeer { node_id: p.node_id.clone(), addr: p.endpoint.ip().to_string() };
    let mut peers: Vec<NetworkPeer> = n.peers.iter().map(peer).chain([own]).collect();
    peers.sort_by(|a, b| a.node_id.cmp(&b.node_id));
    let at =
        |node: &str| peers.iter().find(|p| p.node_id == node).map(|p| p.addr.clone()).unwrap_or_default();
    let text = |addr: Option<std::net::Ipv6Addr>| addr.map(|a| a.to_string()).unwrap_or_default();
    let backend = |b: &desired::Backend| NetworkTask {
        name: b.task_name.clone(),
        id: b.task_id.clone(),
        addr: b.addr.to_string(),
        addr6: text(b.addr6),
        node_addr: at(&b.node_id),
    };
    let service = |s: &desired::Service| NetworkService {
        name: s.name.clone(),
        vip: s.vip.map(|a| a.to_string()).unwrap_or_default(),
        vip6: text(s.vip6),
        ports: Vec::new(),
        tasks: s.backends.iter().map(backend).collect(),
    };
    let outside = |a: &desired::Attached| NetworkTask {
        name: a.name.clone(),
        id: a.container_id.clone(),
        addr: a.addr.to_string(),
        addr6: text(a.addr6),
        node_addr: at(&a.node_id),
    };
    let mut services: Vec<NetworkService> = n.services.iter().map(service).collect();
    if !n.attached.is_empty() {
        let tasks = n.attached.iter().map(outside).collect();
        services.push(NetworkService { tasks, ..NetworkService::default() });
    }
    DescribeNetworkResponse { peers, services, stale: false }
}
