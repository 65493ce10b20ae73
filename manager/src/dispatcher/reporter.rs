//! Carries what agents say to the leader, many reports in one call.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use futures::future::BoxFuture;
use skep_proto::v1;
use skep_proto::v1::dispatcher_client::DispatcherClient;
use tokio::sync::{mpsc, oneshot};
use tokio_util::sync::CancellationToken;
use tonic::{Response, Status};

use super::report;
use super::sessions::Sessions;
use crate::context::{Context, forward};

/// How long reports gather.
const GATHER: Duration = Duration::from_millis(5);
/// Reports in one call.
const BATCH: usize = 4096;

struct Entry {
    report: v1::NodeReport,
    done: Option<oneshot::Sender<Result<(), Status>>>,
}

#[derive(Clone)]
pub(super) struct Reporter {
    queue: mpsc::Sender<Entry>,
}

impl Reporter {
    pub fn start(
        ctx: Arc<Context>,
        heard: report::Heard,
        sessions: Arc<Sessions>,
        stop: CancellationToken,
    ) -> Self {
        let (queue, rx) = mpsc::channel(BATCH);
        tokio::spawn(async move { stop.run_until_cancelled(carry(ctx, heard, sessions, rx)).await });
        Self { queue }
    }

    /// Reports and waits until the leader has it committed.
    pub async fn deliver(&self, report: v1::NodeReport) -> Result<(), Status> {
        let (tx, rx) = oneshot::channel();
        let stopping = || Status::unavailable("this manager is stopping");
        self.queue.send(Entry { report, done: Some(tx) }).await.map_err(|_| stopping())?;
        rx.await.map_err(|_| stopping())?
    }

    /// Passes a heartbeat on, with what the node's tasks use. With the queue full the leader is far behind, and the next one will do.
    pub fn beat(&self, node_id: &str, usage: Vec<v1::TaskUsage>) {
        let report = v1::NodeReport { node_id: node_id.to_owned(), usage, ..Default::default() };
        let _ = self.queue.try_send(Entry { report, done: None });
    }
}

async fn carry(
    ctx: Arc<Context>,
    heard: report::Heard,
    sessions: Arc<Sessions>,
    mut queue: mpsc::Receiver<Entry>,
) {
    let mut entries = Vec::new();
    while queue.recv_many(&mut entries, BATCH).await > 0 {
        tokio::time::sleep(GATHER).await;
        while entries.len() < BATCH
            && let Ok(entry) = queue.try_recv()
        {
            entries.push(entry);
        }
        let (nodes, done): (Vec<_>, Vec<_>) = entries
            .drain(..)
            .map(|e| (e.report.node_id.clone(), (e.report, e.done)))
            .map(|(id, (r, d))| (r, (id, d)))
            .unzip();
        let request = v1::ReportRequest { nodes };
        let request = Arc::new(request);
        let (own, again) = (ctx.clone(), request.clone());
        let heard = heard.clone();
        let local = move || -> BoxFuture<'static, _> {
            let (ctx, heard, request) = (own.clone(), heard.clone(), request.clone());
            Box::pin(async move { report::apply(&ctx, &heard, &request).await })
        };
        let remote = move |channel| -> BoxFuture<'static, _> {
            let (mut client, request) =
                (DispatcherClient::new(channel), forward(v1::ReportRequest::clone(&again)));
            Box::pin(async move { client.report(request).await.map(Response::into_inner) })
        };
        let outcome = ctx.on_leader(false, local, remote).await;
        if let Err(error) = &outcome {
            tracing::debug!(%error, "reports of agents did not reach the leader");
        }
        let unknown = outcome.as_ref().map_or(&[][..], |o| &o.unknown_nodes);
        unknown.iter().for_each(|node| sessions.close(node));
        let late = outcome.as_ref().map_or(&[][..], |o| &o.late);
        let late: BTreeMap<_, _> = late.iter().map(|l| (l.index, l.registration)).collect();
        for (index, (node, done)) in (0..).zip(done) {
            let result = match &outcome {
                Ok(_) if unknown.contains(&node) => Err(crate::authority::surely_removed(&node)),
                Ok(_) => late.get(&index).map_or(Ok(()), |registration| Err(too_late(&node, *registration))),
                Err(status) => Err(status.clone()),
            };
            // Nobody waits any more when the agent's call was cut.
            if let Some(done) = done {
                let _ = done.send(result);
            }
        }
    }
}

fn too_late(node: &str, registration: u64) -> Status {
    let why = format!(
        "node {node} has registered {registration} times, not as often as it knew when it said what it is: register anew"
    );
    skep_identity::late(why, registration)
}
