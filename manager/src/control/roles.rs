//! Turns promotions and demotions into fact, on the leader. A promoted node gets the manager role at its
//! next certificate and then joins raft by itself; a demoted one leaves raft first, so that no worker ever
//! has a vote, and is a worker by its certificate before it becomes a manager again, even if it is promoted the moment it
//! has left: what it holds of the log it left goes with that. Also keeps in each node object what raft knows of its manager.

use std::sync::Arc;
use std::time::Duration;

use skep_proto::v1::{self, NodeRole};
use tonic::Status;

use crate::consensus::Member;
use crate::context::Context;
use crate::store::StoreView;
use crate::store::change::put;

/// How often membership is compared even when nothing in the store changes.
const PERIOD: Duration = Duration::from_secs(1);

/// Runs until the store is gone.
pub(crate) async fn reconcile(ctx: Arc<Context>) {
    let mut leadership = ctx.consensus.leader();
    let (_, mut updates) = ctx.store().subscribe();
    loop {
        if ctx.is_leader() {
            if let Err(error) = step(&ctx).await {
                tracing::warn!(%error, "cannot adjust the roles of nodes yet");
            }
            tokio::select! {
                update = updates.next() => if update.is_none() { return },
                known = leadership.changed() => if known.is_err() { return },
                () = tokio::time::sleep(PERIOD) => {}
            }
            while updates.try_next().is_some() {}
        } else if leadership.changed().await.is_err() {
            return;
        }
    }
}

async fn step(ctx: &Context) -> Result<(), Status> {
    let members = ctx.consensus.members();
    let view = ctx.view();
    for node in view.nodes().filter(|n| wanted(n) == NodeRole::Worker) {
        if !members.iter().any(|m| m.peer.node_id == node.id) {
            continue;
        }
        let result = if node.id == ctx.node_id {
            // The next leader takes this one out.
            ctx.consensus.transfer_leadership().await
        } else {
            ctx.consensus.remove_member(&node.id).await
        };
        return result.map_err(|e| Status::unavailable(e.to_string()));
    }
    if changes(&view, &members).is_empty() {
        return Ok(());
    }
    // Asked again: who is in the state as a member must not be held for one that has left.
    ctx.write(|view| Ok(changes(view, &ctx.consensus.members()))).await.map(drop)
}

fn wanted(node: &v1::Node) -> NodeRole {
    node.spec.as_ref().map_or(NodeRole::Worker, v1::NodeSpec::role)
}

/// A node that was demoted has not taken its worker's certificate yet, as far as it has told.
fn still_a_manager(node: &v1::Node) -> bool {
    node.description.as_ref().is_some_and(|d| d.certified_role() == NodeRole::Manager)
}

/// What the node objects should say, given who is a member.
fn changes(view: &StoreView, members: &[Member]) -> Vec<v1::Change> {
    let mut changes = Vec::new();
    for stored in view.nodes() {
        let mut node = v1::Node::clone(stored);
        let member = members.iter().find(|m| m.peer.node_id == node.id);
        node.manager = member.map(|m| v1::ManagerStatus {
            raft_id: m.peer.raft_id,
            addr: m.peer.addr.clone(),
            ..Default::default()
        });
        let may = match wanted(&node) {
            NodeRole::Manager => node.role() == NodeRole::Manager || !still_a_manager(&node),
            NodeRole::Worker => member.is_none(),
        };
        if may {
            node.set_role(wanted(&node));
        }
        // Promoted again before it was known as a worker: its manager serves nobody, and only a new one can join.
        if stored.manager.is_some() && member.is_none() {
            node.set_role(NodeRole::Worker);
        }
        if **stored != node {
            changes.push(put(node));
        }
    }
    changes
}
