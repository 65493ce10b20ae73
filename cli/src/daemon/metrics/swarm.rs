//! The swarm in figures: this node, and what its manager, where it has one, knows of the cluster and of raft. Names and
//! help texts are Docker's where it has them.

use std::collections::BTreeMap;

use prometheus::proto::MetricFamily;
use skep_api::swarm::{LocalState, Swarm};
use skep_manager::raft::{RaftStatus, Role};
use skep_manager::store::StoreView;
use skep_proto::v1::{NodeState, TaskState};

use super::Snapshot;
use crate::daemon::node::Node;

const NODE_STATES: [NodeState; 4] =
    [NodeState::Unknown, NodeState::Down, NodeState::Ready, NodeState::Disconnected];
const TASK_STATES: [TaskState; 14] = [
    TaskState::New,
    TaskState::Pending,
    TaskState::Assigned,
    TaskState::Accepted,
    TaskState::Preparing,
    TaskState::Ready,
    TaskState::Starting,
    TaskState::Running,
    TaskState::Complete,
    TaskState::Shutdown,
    TaskState::Failed,
    TaskState::Rejected,
    TaskState::Remove,
    TaskState::Orphaned,
];

pub(super) async fn read(node: &Node) -> Result<Vec<MetricFamily>, prometheus::Error> {
    let local = node.local();
    let manager = node.manager();
    let s = Snapshot::default();
    s.info(
        "swarm_node_info",
        "Information related to the swarm",
        &[("swarm_id", &local.cluster_id), ("node_id", &local.node_id)],
    )?;
    s.gauge(
        "swarm_node_manager",
        "Whether this node is a manager or not",
        f64::from(u8::from(manager.is_some())),
    )?;
    let session = local.state == LocalState::Active && local.error.is_empty();
    s.gauge(
        "skep_node_session",
        "Whether this node is in touch with a manager of its swarm",
        f64::from(u8::from(session)),
    )?;
    let mut families = s.families();
    if let Some(manager) = manager {
        let (status, view) = (manager.raft_status().borrow().clone(), manager.store().view());
        families.extend(manager.metrics().registry().gather());
        families.extend(raft(&status)?);
        // A million tasks take some milliseconds.
        let counted = tokio::task::spawn_blocking(move || cluster(&view)).await;
        families.extend(counted.map_err(|e| prometheus::Error::Msg(e.to_string()))??);
    }
    Ok(families)
}

fn cluster(view: &StoreView) -> Result<Vec<MetricFamily>, prometheus::Error> {
    let s = Snapshot::default();
    let word = |name: &str| name.rsplit('_').next().unwrap_or_default().to_lowercase();
    let mut nodes: BTreeMap<String, f64> =
        NODE_STATES.iter().map(|state| (word(state.as_str_name()), 0.0)).collect();
    for node in view.nodes() {
        *nodes.entry(word(node.state().as_str_name())).or_default() += 1.0;
    }
    let mut tasks: BTreeMap<TaskState, f64> = TASK_STATES.into_iter().map(|state| (state, 0.0)).collect();
    for task in view.tasks_in_any_order() {
        let state = task.status.as_ref().map_or(TaskState::New, |s| s.state());
        *tasks.entry(state).or_default() += 1.0;
    }
    let tasks: Vec<(String, f64)> =
        tasks.into_iter().map(|(state, count)| (word(state.as_str_name()), count)).collect();
    let counts = |of: &'static str| {
        (format!("swarm_manager_{of}_total"), format!("The number of {of} in the cluster object store"))
    };
    s.gauges(
        ("swarm_manager_nodes", "The number of nodes", "state"),
        nodes.iter().map(|(state, count)| (state.as_str(), *count)),
    )?;
    let (name, help) = counts("tasks");
    s.gauges((&name, &help, "state"), tasks.iter().map(|(state, count)| (state.as_str(), *count)))?;
    for (of, count) in [("services", view.services().len()), ("networks", view.networks().len())] {
        let (name, help) = counts(of);
        s.gauge(&name, &help, count as f64)?;
    }
    Ok(s.families())
}

fn raft(status: &RaftStatus) -> Result<Vec<MetricFamily>, prometheus::Error> {
    let s = Snapshot::default();
    let leads = status.role == Role::Leader;
    let flag = |set: bool| f64::from(u8::from(set));
    s.gauge("swarm_manager_leader", "Indicates if this manager node is a leader", flag(leads))?;
    for (name, help, value) in [
        ("term", "The present term", status.term),
        ("last_index", "The last entry of this manager's log", status.last_index),
        ("commit_index", "The last entry known to be on a majority's disks", status.commit),
        ("applied_index", "The last entry applied to this manager's store", status.applied),
        ("snapshot_index", "The entry of this manager's last snapshot", status.snapshot_index),
    ] {
        s.gauge(&format!("skep_raft_{name}"), help, value as f64)?;
    }
    s.gauge("skep_raft_has_leader", "Whether this manager knows a leader", flag(status.leader != 0))?;
    s.gauge(
        "skep_raft_disk_full",
        "Whether the disk under the log is full: no write is acknowledged",
        flag(status.disk_full),
    )?;
    let voters = status.members.iter().filter(|m| m.voter).count();
    s.gauges(
        ("skep_raft_members", "The number of managers by their part", "part"),
        [("voter", voters as f64), ("learner", (status.members.len() - voters) as f64)],
    )?;
    // Only a leader hears from all of them.
    let members = || status.members.iter().filter(|m| leads && m.peer.raft_id != status.raft_id);
    s.gauges(
        ("skep_raft_member_lag_entries", "Entries of the log that a manager does not have yet", "node_id"),
        members().map(|m| (m.peer.node_id.as_str(), status.last_index.saturating_sub(m.matched) as f64)),
    )?;
    s.gauges(
        ("skep_raft_member_reachable", "Whether the leader has heard from a manager lately", "node_id"),
        members().map(|m| (m.peer.node_id.as_str(), flag(m.reachable))),
    )?;
    Ok(s.families())
}
