//! What the leader makes of reports: descriptions and states of nodes, statuses of their tasks.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use skep_proto::defaults::HOST_ADDRESSES;
use skep_proto::v1::{self, NodeState};
use tonic::Status;

use super::liveness::Liveness;
use super::usage::Usage;
use crate::context::Context;
use crate::store::StoreView;
use crate::store::change::put;

/// What the leader hears and does not replicate.
#[derive(Clone)]
pub(super) struct Heard {
    pub liveness: Arc<Liveness>,
    pub usage: Arc<Usage>,
}

/// Takes a batch of reports; returns once what they change is committed.
pub(super) async fn apply(
    ctx: &Context,
    heard: &Heard,
    request: &v1::ReportRequest,
) -> Result<v1::ReportResponse, Status> {
    // Most batches are heartbeats that change nothing: those need no turn at the writer.
    let mut view = ctx.view();
    for node in &request.nodes {
        heard.liveness.beat(&node.node_id);
        heard.usage.take(&view, &node.node_id, &node.usage);
    }
    let mut wanted = outcome(&view, request);
    // Whether a node has registered since is for the latest state to say.
    if !wanted.changes.is_empty() || request.nodes.iter().any(|n| n.description.is_some()) {
        let started = started(&view, &wanted.changes);
        let late = Mutex::new(Vec::new());
        let seen = || late.lock().unwrap_or_else(PoisonError::into_inner);
        view = ctx
            .write(|view| {
                let found = outcome(view, request);
                *seen() = found.late;
                Ok(found.changes)
            })
            .await?;
        wanted.late = std::mem::take(&mut *seen());
        let now = ctx.now_ms();
        for created in started {
            ctx.metrics.scheduling_delay.observe(Duration::from_millis(now.abs_diff(created)).as_secs_f64());
        }
    }
    if request.nodes.iter().any(|n| view.node(&n.node_id).is_none()) {
        // A node ends its tasks when it is told that it was removed: a leader that has not applied all its
        // predecessors wrote must not say so.
        let stale;
        (view, stale) = ctx.read().await;
        if stale {
            return Err(Status::unavailable("no quorum confirms that the reporting nodes are unknown"));
        }
    }
    let unknown = request.nodes.iter().filter(|n| view.node(&n.node_id).is_none());
    Ok(v1::ReportResponse { unknown_nodes: unknown.map(|n| n.node_id.clone()).collect(), late: wanted.late })
}

/// When the tasks were made that, by these changes, begin to run.
fn started(view: &StoreView, changes: &[v1::Change]) -> Vec<i64> {
    let runs = |t: &v1::Task| t.status.as_ref().is_some_and(|s| s.state() == v1::TaskState::Running);
    let tasks = changes.iter().filter_map(crate::store::change::as_task);
    let begun = tasks.filter(|t| runs(t) && view.task(&t.id).is_some_and(|before| !runs(before)));
    begun.filter_map(|t| t.meta.as_ref()).map(|m| m.created_at_ms).collect()
}

/// What comes of a batch of reports.
struct Outcome {
    changes: Vec<v1::Change>,
    late: Vec<v1::LateReport>,
}

fn outcome(view: &StoreView, request: &v1::ReportRequest) -> Outcome {
    let mut nodes = BTreeMap::new();
    let mut tasks = BTreeMap::new();
    let mut late = Vec::new();
    for (index, report) in (0..).zip(&request.nodes) {
        let Some(stored) = view.node(&report.node_id) else { continue };
        let node = nodes.entry(&report.node_id).or_insert_with(|| v1::Node::clone(stored));
        if let Some(description) = &report.description {
            // The node's earlier managers may have kept it for long, and it may have said something else since.
            if report.registration.is_some_and(|known| known != node.registration) {
                late.push(v1::LateReport { index, registration: node.registration });
                continue;
            }
            // Also where nothing else changes: something else may still be on its way.
            node.registration += 1;
            node.description = Some(sound(description.clone()));
            node.addr.clone_from(&report.addr);
            node.data_path_addr.clone_from(&report.data_path_addr);
        }
        node.state = NodeState::Ready.into();
        node.message.clear();
        for update in &report.updates {
            take_status(view, &report.node_id, update, &mut tasks);
        }
    }
    nodes.retain(|id, node| view.node(id).is_none_or(|stored| **stored != *node));
    let nodes = nodes.into_values().map(put);
    Outcome { changes: nodes.chain(tasks.into_values().map(put)).collect(), late }
}

/// A description as managers keep it: all nodes read what it says of addresses, and keep rules about them.
fn sound(mut description: v1::NodeDescription) -> v1::NodeDescription {
    description.addresses.retain(|addr| addr.parse::<IpAddr>().is_ok());
    description.addresses.truncate(HOST_ADDRESSES);
    description
}

/// A task's observed state only moves forward, and only its own node may say so.
fn take_status<'a>(
    view: &StoreView,
    node_id: &str,
    update: &'a v1::TaskStatusUpdate,
    tasks: &mut BTreeMap<&'a str, v1::Task>,
) {
    let (Some(stored), Some(status)) = (view.task(&update.task_id), &update.status) else { return };
    let current = tasks.get(update.task_id.as_str()).unwrap_or(stored);
    let behind = current.status.as_ref().is_some_and(|s| status.state < s.state);
    let finished = current.status.as_ref().is_some_and(|s| s.state > v1::TaskState::Running.into());
    let known = v1::TaskState::try_from(status.state).is_ok();
    // A daemon that is back says again what its tasks are: they have been so since they became so.
    let same = current
        .status
        .as_ref()
        .is_some_and(|s| v1::TaskStatus { timestamp_ms: s.timestamp_ms, ..status.clone() } == *s);
    if stored.node_id != node_id
        || behind
        || same
        || !known
        || (finished && current.status.as_ref().is_some_and(|s| s.state != status.state))
    {
        return;
    }
    let mut task = current.clone();
    task.status = Some(status.clone());
    tasks.insert(&update.task_id, task);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_that_nodes_tell_are_addresses_and_not_too_many() {
        let many = (0..400u32).map(|n| std::net::Ipv4Addr::from(n + 0x0a00_0000).to_string());
        let addresses: Vec<String> =
            ["here".to_owned(), "fd00::1".to_owned()].into_iter().chain(many).collect();
        let kept = sound(v1::NodeDescription { addresses, ..Default::default() }).addresses;
        assert_eq!((kept.len(), kept[0].as_str(), kept[1].as_str()), (HOST_ADDRESSES, "fd00::1", "10.0.0.0"));
    }
}
