//! Who is in a network of the swarm: the nodes with a part in it, and its services with their tasks, as `network inspect`
//! tells them from any manager.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use skep_proto::v1;
use tonic::Status;

use super::{lookup, read};
use crate::orchestrator::task;
use crate::store::StoreView;

/// Tells it of one network.
pub(super) fn describe(view: &StoreView, id: &str) -> Result<v1::DescribeNetworkResponse, Status> {
    let network = view.find_network(id).map_err(lookup)?;
    let ingress = network.spec.as_ref().is_some_and(|s| s.ingress);
    let here: Vec<Here<'_>> = view.tasks().filter_map(|t| Here::of(t, &network.id)).collect();
    let mut nodes: BTreeSet<&str> = here.iter().map(|h| h.task.node_id.as_str()).collect();
    if ingress {
        // Each opens the published ports.
        nodes.extend(view.nodes().map(|n| n.id.as_str()));
    }
    let peers = nodes.iter().filter_map(|id| view.node(id));
    let peers = peers.map(|n| v1::NetworkPeer { node_id: n.id.clone(), addr: tunnel_addr(n).to_owned() });
    let mut tasks: BTreeMap<&str, Vec<v1::NetworkTask>> = BTreeMap::new();
    for h in here.iter().filter(|h| h.runs()) {
        tasks.entry(&h.task.service_id).or_default().push(h.told(view));
    }
    let outside = tasks.remove("").map(|tasks| v1::NetworkService { tasks, ..Default::default() });
    let services = view.services().filter(|s| !s.removing).filter_map(|service| {
        let endpoint = service.endpoint.as_ref();
        let vip = endpoint.and_then(|e| e.virtual_ips.iter().find(|v| v.network_id == network.id));
        let spec = service.spec.as_ref().and_then(|s| s.task.as_ref());
        let attached = spec.is_some_and(|t| t.networks.iter().any(|n| n.network == network.id));
        let tasks = tasks.remove(service.id.as_str());
        let ports = endpoint.filter(|_| ingress).map_or(&[][..], |e| &e.ports);
        let through = |p: &&v1::PortConfig| p.mode() == v1::PublishMode::Ingress;
        (attached || vip.is_some() || tasks.is_some()).then(|| v1::NetworkService {
            name: read::service_name(service).to_owned(),
            vip: vip.map(|v| v.addr.clone()).unwrap_or_default(),
            vip6: vip.map(|v| v.addr6.clone()).unwrap_or_default(),
            ports: ports.iter().filter(through).cloned().collect(),
            tasks: tasks.unwrap_or_default(),
        })
    });
    Ok(v1::DescribeNetworkResponse {
        peers: peers.collect(),
        services: services.chain(outside).collect(),
        stale: false,
    })
}

/// A task with an address in the network, which its node may be running.
struct Here<'a> {
    task: &'a Arc<v1::Task>,
    address: &'a v1::TaskAddress,
}

impl<'a> Here<'a> {
    fn of(t: &'a Arc<v1::Task>, network_id: &str) -> Option<Self> {
        let held = !t.node_id.is_empty() && task::state(t) >= v1::TaskState::Assigned && !task::finished(t);
        let address = t.addresses.iter().find(|a| a.network_id == network_id).filter(|_| held)?;
        Some(Self { task: t, address })
    }

    fn runs(&self) -> bool {
        self.task.attachment.is_some() || task::state(self.task) == v1::TaskState::Running
    }

    fn told(&self, view: &StoreView) -> v1::NetworkTask {
        let t = self.task;
        let (name, id) = match t.attachment.as_deref() {
            Some(a) => (a.container_name.clone(), a.container_id.clone()),
            None => {
                let service = view.service(&t.service_id).map_or("", |s| read::service_name(s));
                (t.name(service), t.id.clone())
            }
        };
        v1::NetworkTask {
            name,
            id,
            addr: self.address.addr.clone(),
            addr6: self.address.addr6.clone(),
            node_addr: view.node(&t.node_id).map_or("", |n| tunnel_addr(n)).to_owned(),
        }
    }
}

/// Where the tunnel of a node ends.
fn tunnel_addr(node: &v1::Node) -> &str {
    if node.data_path_addr.is_empty() { &node.addr } else { &node.data_path_addr }
}
