//! What a subscriber is told of logs that are out of reach.
//!
//! One that follows gets a line of standard error beside those of the tasks: an error of the stream would end it. A line
//! names a task, which clients look up; while there is none of the service, none of its logs is missing either, and the
//! line comes with the first. One that does not follow is told by a warning, which the API keeps until all that there is
//! has been sent.

use std::sync::Arc;

use skep_proto::v1;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;
use tonic::Status;

use super::tasks_of;
use crate::context::Context;
use crate::store::StoreView;

/// Standard error, as `LogEntry` numbers it.
const STDERR: u32 = 2;

/// Where a subscriber's messages go.
type Subscriber = mpsc::Sender<Result<v1::SubscribeLogsMessage, Status>>;

#[derive(Clone)]
pub(super) struct Missing {
    ctx: Arc<Context>,
    selector: v1::LogSelector,
    follow: bool,
    to: Subscriber,
    stop: CancellationToken,
}

impl Missing {
    pub fn new(
        ctx: Arc<Context>,
        selector: v1::LogSelector,
        follow: bool,
        to: Subscriber,
        stop: CancellationToken,
    ) -> Self {
        Self { ctx, selector, follow, to, stop }
    }

    /// Tells why the logs of a node's tasks are missing, if they are.
    pub async fn tell_of_node(&self, view: &StoreView, node_id: &str) {
        let why = match view.node(node_id) {
            None => format!("node {node_id} has left the swarm: its logs are missing"),
            Some(n) if n.state() != v1::NodeState::Ready => {
                format!("node {node_id} is not reachable: its logs are missing")
            }
            Some(_) => return,
        };
        self.tell(Some(node_id), why).await;
    }

    /// Tells why logs are missing: of a node's tasks where one is named.
    pub async fn tell(&self, node_id: Option<&str>, why: String) {
        let warning = |why| v1::SubscribeLogsMessage { warning: why, ..Default::default() };
        let message = if self.follow {
            tokio::select! {
                task = self.speaker(node_id) => self.line(&task, &why),
                () = self.to.closed() => return,
                // Its stream ends, and with it the wait for a task.
                () = self.stop.cancelled() => warning(why),
            }
        } else {
            warning(why)
        };
        // The subscriber may have left.
        let _ = self.to.send(Ok(message)).await;
    }

    /// A task on whose behalf to speak, as soon as there is one: of the node, or else one that has a node.
    async fn speaker(&self, node_id: Option<&str>) -> Arc<v1::Task> {
        let (mut view, mut updates) = self.ctx.store().subscribe();
        loop {
            let rank = |t: &&Arc<v1::Task>| (node_id == Some(t.node_id.as_str()), !t.node_id.is_empty());
            if let Some(task) = tasks_of(&view, &self.selector).max_by_key(rank) {
                return task.clone();
            }
            match updates.next().await {
                Some(update) => view = update.view().clone(),
                None => std::future::pending().await,
            }
        }
    }

    fn line(&self, task: &v1::Task, why: &str) -> v1::SubscribeLogsMessage {
        let entry = v1::LogEntry {
            service_id: task.service_id.clone(),
            task_id: task.id.clone(),
            node_id: task.node_id.clone(),
            timestamp_ns: self.ctx.now_ms().saturating_mul(1_000_000),
            stream: STDERR,
            data: format!("warning: {why}\n").into_bytes(),
        };
        v1::SubscribeLogsMessage { entries: vec![entry], ..Default::default() }
    }
}
