//! Places of containers outside services in attachable networks. Each is a task pinned to the node that asked,
//! so its address is held and routed as those of services' tasks are.

use std::net::{Ipv4Addr, Ipv6Addr};
use std::str::FromStr;

use skep_proto::v1::{self, TaskState};
use tonic::Status;

use crate::allocator::{self, v6};
use crate::context::Context;
use crate::orchestrator::task;
use crate::store::change::{put, remove_task};
use crate::store::{LookupError, StoreView, network_name};

/// Gives the container a place, or tells the one it has. On the leader.
pub(super) async fn attach(ctx: &Context, request: v1::AttachRequest) -> Result<v1::AttachResponse, Status> {
    let attachment = request.attachment.clone().filter(|a| !a.container_id.is_empty());
    let attachment =
        attachment.ok_or_else(|| Status::invalid_argument("an attachment needs the ID of its container"))?;
    let wanted = (wanted(&request.addr, "IPv4")?, wanted(&request.addr6, "IPv6")?);
    let place = Place { id: ctx.new_id(), now_ms: ctx.now_ms(), request, attachment, wanted };
    let view = ctx.write(|view| place.take(view)).await?;
    let network = attachable(&view, &place.request.network)?;
    let held = held(&view, &place.request.node_id, &place.attachment.container_id);
    let mut there = held.filter(|t| t.addresses.iter().any(|a| a.network_id == network.id));
    let task = there.next().cloned();
    task.map(|task| v1::AttachResponse { task: Some(task) })
        .ok_or_else(|| Status::aborted("the attachment was taken back meanwhile: try again"))
}

/// The address of a family that is asked for; empty = any.
fn wanted<A: FromStr>(addr: &str, family: &str) -> Result<Option<A>, Status> {
    let bad = |_| Status::invalid_argument(format!("{addr:?} is not an {family} address"));
    (!addr.is_empty()).then(|| addr.parse().map_err(bad)).transpose()
}

/// Takes places back. On the leader.
pub(super) async fn detach(ctx: &Context, request: v1::DetachRequest) -> Result<v1::Empty, Status> {
    ctx.write(|view| {
        let all = held(view, &request.node_id, &request.container_id);
        let concerned = all.filter(|t| {
            request.network_id.is_empty() || t.addresses.iter().any(|a| a.network_id == request.network_id)
        });
        Ok::<_, Status>(concerned.map(|t| remove_task(&t.id)).collect())
    })
    .await?;
    Ok(v1::Empty {})
}

/// A container's places, one task a network.
fn held<'a>(view: &'a StoreView, node: &'a str, container: &'a str) -> impl Iterator<Item = &'a v1::Task> {
    view.tasks_of_node(node)
        .map(AsRef::as_ref)
        .filter(move |t| t.attachment.as_ref().is_some_and(|a| a.container_id == container))
        .filter(|t| !task::finished(t))
}

fn attachable<'a>(view: &'a StoreView, reference: &str) -> Result<&'a v1::Network, Status> {
    let network = view.find_network(reference).map_err(|e| match e {
        LookupError::NotFound { .. } => Status::not_found(e.to_string()),
        LookupError::Ambiguous { .. } => Status::invalid_argument(e.to_string()),
    })?;
    if !network.spec.as_ref().is_some_and(|s| s.attachable) {
        return Err(Status::permission_denied(format!(
            "network {} not manually attachable",
            network_name(network)
        )));
    }
    Ok(network)
}

struct Place {
    id: String,
    now_ms: i64,
    request: v1::AttachRequest,
    attachment: v1::Attachment,
    wanted: (Option<Ipv4Addr>, Option<Ipv6Addr>),
}

impl Place {
    fn take(&self, view: &StoreView) -> Result<Vec<v1::Change>, Status> {
        let node = &self.request.node_id;
        let network = attachable(view, &self.request.network)?;
        if let Some(held) = held(view, node, &self.attachment.container_id)
            .find(|t| t.addresses.iter().any(|a| a.network_id == network.id))
        {
            let same = held.attachment.as_deref() == Some(&self.attachment);
            let renamed = v1::Task { attachment: Some(self.attachment.clone().into()), ..held.clone() };
            return Ok(if same { Vec::new() } else { vec![put(renamed)] });
        }
        // A network just made may have no subnet yet: it is decided here as the leader's next pass would.
        let mut changes = Vec::new();
        let mut ahead = view.clone();
        if network.subnet.is_empty() {
            changes = allocator::allocate(view).changes;
            ahead.foresee(changes.clone(), self.now_ms);
        }
        let addr = v6::take(&ahead, &network.id, node, self.wanted).map_err(Status::resource_exhausted)?;
        changes.push(put(self.task(addr)));
        Ok(changes)
    }

    fn task(&self, address: v1::TaskAddress) -> v1::Task {
        v1::Task {
            id: self.id.clone(),
            node_id: self.request.node_id.clone(),
            desired_state: TaskState::Running.into(),
            status: Some(v1::TaskStatus {
                state: TaskState::Running.into(),
                timestamp_ms: self.now_ms,
                message: "attached".to_owned(),
                ..Default::default()
            }),
            addresses: vec![address],
            attachment: Some(self.attachment.clone().into()),
            ..Default::default()
        }
    }
}
