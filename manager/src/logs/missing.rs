//! What a subscriber is told of logs that are out of reach.
//!
//! One that follows gets a line of standard error beside those of the tasks: an error of the stream would end it. One
//! that does not is told by a warning, which the API keeps until all that there is has been sent.

use std::collections::BTreeMap;
use std::sync::Arc;

use skep_proto::v1;

use super::{can_be_told, tasks_of};
use crate::store::StoreView;

/// Standard error, as `LogEntry` numbers it.
const STDERR: u32 = 2;

#[derive(Clone)]
pub(super) struct Missing {
    /// Of a subscriber that follows: on whose behalf to speak, by node. A line names a task, which clients look up.
    speakers: Option<Arc<BTreeMap<String, Arc<v1::Task>>>>,
    now_ms: i64,
}

impl Missing {
    pub fn new(view: &StoreView, selector: &v1::LogSelector, options: v1::LogOptions, now_ms: i64) -> Self {
        let speakers = options.follow.then(|| {
            let tasks = tasks_of(view, selector).filter(|t| !t.node_id.is_empty());
            let told = tasks.filter(|t| can_be_told(view, &t.id, true));
            Arc::new(told.map(|t| (t.node_id.clone(), t.clone())).collect())
        });
        Self { speakers, now_ms }
    }

    /// Why the logs of a node's tasks are missing; none where they are not.
    pub fn of_node(&self, view: &StoreView, node_id: &str) -> Option<v1::SubscribeLogsMessage> {
        let why = match view.node(node_id) {
            None => format!("node {node_id} has left the swarm: its logs are missing"),
            Some(n) if n.state() != v1::NodeState::Ready => {
                format!("node {node_id} is not reachable: its logs are missing")
            }
            Some(_) => return None,
        };
        Some(self.message(Some(node_id), why))
    }

    /// The message that says so, on behalf of a task of the node where one is named.
    pub fn message(&self, node_id: Option<&str>, why: String) -> v1::SubscribeLogsMessage {
        let speakers = self.speakers.as_deref();
        let of_node = node_id.and_then(|n| speakers?.get(n));
        let Some(task) = of_node.or_else(|| speakers?.values().next()) else {
            return v1::SubscribeLogsMessage { warning: why, ..Default::default() };
        };
        let entry = v1::LogEntry {
            service_id: task.service_id.clone(),
            task_id: task.id.clone(),
            node_id: task.node_id.clone(),
            timestamp_ns: self.now_ms.saturating_mul(1_000_000),
            stream: STDERR,
            data: format!("warning: {why}\n").into_bytes(),
        };
        v1::SubscribeLogsMessage { entries: vec![entry], ..Default::default() }
    }
}
