//! Writes to nodes: labels, availability, promotion, demotion, removal.

use skep_proto::v1::{self, NodeRole};
use tonic::Status;

use super::{check_between, lookup, read, validate};
use crate::context::Context;
use crate::store::StoreView;
use crate::store::change::{put, remove_node};

pub(super) async fn update(
    ctx: &Context,
    request: v1::UpdateNodeRequest,
) -> Result<v1::NodeResponse, Status> {
    let view = ctx.write(|view| changes(ctx, view, &request)).await?;
    let node = view.find_node(&request.id).map_err(lookup)?;
    Ok(v1::NodeResponse { node: Some(read::node(ctx, node)) })
}

/// What an update of a node changes.
pub(super) fn changes(
    ctx: &Context,
    view: &StoreView,
    request: &v1::UpdateNodeRequest,
) -> Result<Vec<v1::Change>, Status> {
    let spec = request
        .spec
        .clone()
        .ok_or_else(|| Status::invalid_argument("a node update needs a specification"))?;
    validate::node(&spec)?;
    let node = view.find_node(&request.id).map_err(lookup)?;
    // A node says much of itself, and more than ever as its role changes: only another specification is in the way.
    let versions = node.spec_version..=node.meta.as_ref().map_or(0, |m| m.version);
    check_between(&format!("node {}", node.id), versions, request.version)?;
    let before = node.spec.as_ref().map_or(NodeRole::Worker, v1::NodeSpec::role);
    if before == NodeRole::Manager && spec.role() == NodeRole::Worker {
        demotable(ctx, view, node)?;
    }
    let mut node = v1::Node::clone(node);
    node.spec = Some(spec);
    Ok(vec![put(node)])
}

/// Taking this manager away must leave a quorum of those that are left.
fn demotable(ctx: &Context, view: &StoreView, node: &v1::Node) -> Result<(), Status> {
    let managers = view.nodes().filter(|n| n.spec.as_ref().is_some_and(|s| s.role() == NodeRole::Manager));
    if managers.count() <= 1 {
        return Err(Status::failed_precondition(
            "attempting to demote the last manager of the swarm: promote another node first",
        ));
    }
    let members = ctx.consensus.members();
    if !members.iter().any(|m| m.peer.node_id == node.id) {
        return Ok(());
    }
    let left: Vec<_> = members.iter().filter(|m| m.voter && m.peer.node_id != node.id).collect();
    let reachable = left.iter().filter(|m| m.reachable).count();
    if reachable * 2 <= left.len() {
        return Err(Status::failed_precondition(format!(
            "can't remove member from the raft: this would result in a loss of quorum: of the {} managers left without \
             {} only {reachable} can be reached; bring one back first",
            left.len(),
            node.id
        )));
    }
    Ok(())
}

pub(super) async fn remove(ctx: &Context, request: v1::RemoveNodeRequest) -> Result<v1::Empty, Status> {
    ctx.write(|view| {
        let node = view.find_node(&request.id).map_err(lookup)?;
        let id = &node.id;
        // One that left, or was given up, is no member any more, whatever role it was to have.
        if ctx.consensus.members().iter().any(|m| m.peer.node_id == *id) {
            return Err(Status::failed_precondition(format!(
                "node {id} is a cluster manager and is a member of the raft cluster. It must be demoted to worker before removal"
            )));
        }
        if !request.force && node.state() == v1::NodeState::Ready {
            return Err(Status::failed_precondition(format!(
                "node {id} is not down and can't be removed: let it leave (docker swarm leave), or use --force"
            )));
        }
        Ok(vec![remove_node(id)])
    })
    .await?;
    Ok(v1::Empty {})
}
