//! Writes to networks.

use std::sync::Arc;
use std::time::Duration;

use skep_proto::v1;
use tonic::Status;

use super::{features, lookup, read, validate};
use crate::allocator::{Cidr, v6};
use crate::context::Context;
use crate::orchestrator::task::wanted;
use crate::store::StoreView;
use crate::store::change::{put, remove_network};

/// Longest that a removal waits for tasks that are shutting down.
const SHUTDOWN: Duration = Duration::from_secs(30);

pub(super) async fn create(
    ctx: &Context,
    request: v1::CreateNetworkRequest,
) -> Result<v1::NetworkResponse, Status> {
    let id = ctx.new_id();
    let view = ctx.write(|view| creation(view, &request, &id)).await?;
    Ok(v1::NetworkResponse { network: view.network(&id).map(|n| v1::Network::clone(n)) })
}

/// What creating a network changes.
pub(super) fn creation(
    view: &StoreView,
    request: &v1::CreateNetworkRequest,
    id: &str,
) -> Result<Vec<v1::Change>, Status> {
    let spec = request.spec.clone();
    let mut spec = spec.ok_or_else(|| Status::invalid_argument("a network needs a specification"))?;
    validate::network(&spec)?;
    spec.driver = "overlay".to_owned();
    let name = spec.annotations.as_ref().map_or("", |a| &a.name);
    if view.network_by_name(name).is_some() {
        return Err(Status::already_exists(format!("network with name {name} already exists")));
    }
    if spec.ingress
        && let Some(other) = view.ingress_network()
    {
        return Err(Status::already_exists(format!(
            "ingress network ({}) already present: remove it first",
            other.id
        )));
    }
    free_subnet(view, &spec.subnet)?;
    v6::check(view, &spec).map_err(Status::invalid_argument)?;
    features::possible_of_network(view, Some(&spec))?;
    Ok(vec![put(v1::Network { id: id.to_owned(), spec: Some(spec), ..Default::default() })])
}

fn free_subnet(view: &StoreView, subnet: &str) -> Result<(), Status> {
    let Ok(wanted) = subnet.parse::<Cidr>() else { return Ok(()) };
    let taken = crate::allocator::subnets::overlap(view, wanted, "");
    taken.map_or(Ok(()), |why| Err(Status::invalid_argument(format!("{why}: choose another one"))))
}

pub(super) async fn remove(ctx: &Context, request: v1::RemoveRequest) -> Result<v1::Empty, Status> {
    ctx.write(|view| {
        let network = view.find_network(&request.id).map_err(lookup)?;
        in_use(view, network)?;
        Ok(vec![remove_network(&network.id)])
    })
    .await?;
    Ok(v1::Empty {})
}

/// Tasks that hold an address of the network.
fn live<'a>(view: &'a StoreView, network: &'a str) -> impl Iterator<Item = &'a Arc<v1::Task>> {
    view.tasks().filter(move |t| {
        t.status.as_ref().is_none_or(|s| s.state <= v1::TaskState::Running.into())
            && t.addresses.iter().any(|a| a.network_id == network)
    })
}

/// Waits until tasks that are shutting down have left a network. Clients remove networks right after the services that
/// are in them (`stack rm`), and a network whose subnet is given to another one too soon would have both on some host.
pub(super) async fn left(ctx: &Context, reference: &str) {
    // What the client has written before is in the view.
    ctx.read().await;
    let (mut view, mut updates) = ctx.store().subscribe();
    let gone = async {
        while leaving(&view, reference) {
            match updates.next().await {
                Some(update) => view = update.view().clone(),
                None => return,
            }
        }
    };
    // Who is asked next says what is still there.
    let _ = tokio::time::timeout(SHUTDOWN, gone).await;
}

/// Whether all that is still in a network is shutting down, or is about to with its service.
fn leaving(view: &StoreView, reference: &str) -> bool {
    let Ok(network) = view.find_network(reference) else { return false };
    let ends = |t: &Arc<v1::Task>| {
        !wanted(t) || t.attachment.is_none() && view.service(&t.service_id).is_none_or(|s| s.removing)
    };
    let mut tasks = live(view, &network.id).peekable();
    tasks.peek().is_some() && tasks.all(ends)
}

fn in_use(view: &StoreView, network: &v1::Network) -> Result<(), Status> {
    let refuse = |what: String| {
        let name = read::network_name(network);
        Err(Status::failed_precondition(format!("network {name} is in use by {what}: remove that first")))
    };
    let ingress = network.spec.as_ref().is_some_and(|s| s.ingress);
    for service in view.services().filter(|s| !s.removing) {
        let spec = service.spec.as_ref();
        let attached = spec
            .and_then(|s| s.task.as_ref())
            .is_some_and(|t| t.networks.iter().any(|n| n.network == network.id));
        let publishes = ingress
            && spec
                .and_then(|s| s.endpoint.as_ref())
                .is_some_and(|e| e.ports.iter().any(|p| p.mode == i32::from(v1::PublishMode::Ingress)));
        if attached || publishes {
            return refuse(format!("service {}", read::service_name(service)));
        }
    }
    let live = live(view, &network.id).next();
    live.map_or(Ok(()), |t| match &t.attachment {
        None => refuse(format!("task {}, which is shutting down", t.id)),
        Some(a) => {
            let description = view.node(&t.node_id).and_then(|n| n.description.as_ref());
            let host = description.map_or(t.node_id.as_str(), |d| &d.hostname);
            refuse(format!("task {} (container {} on node {host})", t.id, a.container_name))
        }
    })
}
