//! The allocator: subnets for networks, overlay addresses for nodes, virtual addresses and published ports
//! for services, and (at assignment, by the scheduler) addresses for tasks. Nothing is kept beside
//! the replicated objects, so nothing can leak.

pub mod cidr;
pub mod cidr6;
pub mod layout;
pub mod pool;
pub mod ports;
pub mod subnets;
pub mod v6;

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::net::Ipv4Addr;

use skep_proto::v1;

pub use cidr::Cidr;
pub use cidr6::Cidr6;
use layout::Layout;
pub use pool::{Pools, blocks};

use crate::store::{StoreView, change::put};

/// What a pass decided.
#[derive(Clone, Debug, Default)]
pub struct Allocation {
    /// Changes to make.
    pub changes: Vec<v1::Change>,
    /// Services whose tasks have to wait, and why.
    pub refusals: BTreeMap<String, String>,
}

/// Allocates everything that is wanting. Run it again once its changes are applied: a service waits for its
/// networks' subnets.
pub fn allocate(view: &StoreView) -> Allocation {
    let mut changes = Vec::new();
    let mut networks = Vec::new();
    subnets::networks(view, &mut changes, &mut networks);
    subnets::nodes(view, &mut changes);
    let unusable: HashMap<String, String> = networks.into_iter().collect();
    let mut vips = Vips::default();
    let mut refusals = BTreeMap::new();
    for service in view.services().filter(|s| !s.removing) {
        match endpoint(view, service, &unusable, &mut vips) {
            Ok(Some(endpoint)) => {
                let mut service = v1::Service::clone(service);
                service.endpoint = Some(endpoint);
                changes.push(put(service));
                // Its ports have to be seen by the next one: one service a pass.
                if changes.len() > 1000 || has_ports(&changes) {
                    break;
                }
            }
            Ok(None) => {}
            Err(why) => {
                refusals.insert(service.id.clone(), why);
            }
        }
    }
    Allocation { changes, refusals }
}

fn has_ports(changes: &[v1::Change]) -> bool {
    changes.last().is_some_and(|c| match &c.op {
        Some(v1::change::Op::Put(v1::Object { kind: Some(v1::object::Kind::Service(s)) })) => {
            s.endpoint.as_ref().is_some_and(|e| !e.ports.is_empty())
        }
        _ => false,
    })
}

/// The networks a task of this spec joins: those it names, and the ingress network if the service
/// publishes ports through it.
pub fn networks_of<'a>(view: &'a StoreView, service: &v1::Service, spec: &'a v1::TaskSpec) -> Vec<&'a str> {
    let mut ids: Vec<&str> = Vec::new();
    for attachment in &spec.networks {
        if !ids.contains(&attachment.network.as_str()) {
            ids.push(&attachment.network);
        }
    }
    if uses_ingress(service)
        && let Some(ingress) = view.ingress_network()
        && !ids.contains(&ingress.id.as_str())
    {
        ids.push(&ingress.id);
    }
    ids
}

fn uses_ingress(service: &v1::Service) -> bool {
    let endpoint = service.spec.as_ref().and_then(|s| s.endpoint.as_ref());
    endpoint.is_some_and(|e| e.ports.iter().any(|p| p.mode() == v1::PublishMode::Ingress))
}

/// The endpoint the service should have, if it is not what it has.
fn endpoint(
    view: &StoreView,
    service: &v1::Service,
    unusable: &HashMap<String, String>,
    vips: &mut Vips,
) -> Result<Option<v1::Endpoint>, String> {
    let spec = service.spec.as_ref().and_then(|s| s.endpoint.clone()).unwrap_or_default();
    let had = service.endpoint.clone().unwrap_or_default();
    let mut wanted: BTreeSet<&str> = BTreeSet::new();
    let mut needed: BTreeSet<&str> = BTreeSet::new();
    for revision in view.revisions_of(&service.id) {
        let Some(spec) = &revision.spec else { continue };
        let networks = networks_of(view, service, spec);
        if revision.number == service.revision {
            needed.extend(&networks);
        }
        wanted.extend(networks);
    }
    if uses_ingress(service) && view.ingress_network().is_none() {
        return Err("ports are published but the swarm has no ingress network: create one \
                    (network create --ingress), or publish in host mode"
            .to_owned());
    }
    let mut virtual_ips = Vec::new();
    for id in wanted {
        let network = view.network(id).filter(|n| !n.subnet.is_empty());
        if network.is_none() && needed.contains(id) {
            return Err(match (unusable.get(id), view.network(id)) {
                (Some(why), _) => format!("network {id} has no subnet: {why}"),
                (None, Some(_)) => format!("network {id} has no subnet yet"),
                (None, None) => format!("network {id} does not exist any more"),
            });
        }
        let Some(network) = network.filter(|_| spec.mode() == v1::EndpointMode::Vip) else { continue };
        let vip = match had.virtual_ips.iter().find(|v| v.network_id == id) {
            Some(vip) => vip.clone(),
            None => {
                let addr = vips.take(view, network)?;
                let addr6 = v6::beside(network, addr);
                v1::VirtualIp { network_id: id.to_owned(), addr: addr.to_string(), addr6 }
            }
        };
        virtual_ips.push(vip);
    }
    let settled = had.spec.as_ref() == Some(&spec) && had.virtual_ips == virtual_ips;
    let ports = if had.spec.as_ref() == Some(&spec) && had.ports.len() == spec.ports.len() {
        had.ports
    } else {
        ports::decide(view, service, &spec.ports)?
    };
    Ok((!settled).then_some(v1::Endpoint { spec: Some(spec), ports, virtual_ips }))
}

/// Virtual addresses in use, collected per network when first asked for.
#[derive(Default)]
struct Vips(HashMap<String, HashSet<u32>>);

impl Vips {
    fn take(&mut self, view: &StoreView, network: &v1::Network) -> Result<Ipv4Addr, String> {
        let subnet: Cidr = network.subnet.parse().map_err(|e: cidr::CidrError| e.to_string())?;
        let taken = self.0.entry(network.id.clone()).or_insert_with(|| {
            let vips = view.services().flat_map(|s| s.endpoint.iter()).flat_map(|e| &e.virtual_ips);
            vips.filter(|v| v.network_id == network.id)
                .filter_map(|v| v.addr.parse::<Ipv4Addr>().ok())
                .map(u32::from)
                .collect()
        });
        let mut candidates = Layout::of(subnet).vips().map(|o| subnet.base() + o);
        let free = candidates.find(|a| !taken.contains(a)).ok_or_else(|| {
            format!(
                "network {} has no virtual address left in {subnet}: use a larger subnet or --endpoint-mode dnsrr",
                crate::store::network_name(network)
            )
        })?;
        taken.insert(free);
        Ok(free.into())
    }
}
