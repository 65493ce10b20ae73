//! Which version of each network view every node has applied. Each manager tells the others what its
//! agents acknowledged, so that whoever holds a draining node's stream can know that no node sends new
//! connections to its tasks. Losing a message here costs delay, never correctness: waits are bounded.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use skep_proto::v1;
use skep_proto::v1::dispatcher_client::DispatcherClient;
use tokio::sync::{mpsc, watch};
use tokio_util::sync::CancellationToken;

use crate::context::{Context, forward};

/// Longest time another manager may take to accept acknowledgements.
const SHARE_TIMEOUT: Duration = Duration::from_secs(2);

pub(super) struct Acks {
    /// By node, then network ("" is the ingress view).
    applied: Mutex<HashMap<String, HashMap<String, u64>>>,
    changed: watch::Sender<u64>,
    share: mpsc::Sender<v1::NodeAcks>,
}

impl Acks {
    pub fn start(ctx: Arc<Context>, stop: CancellationToken) -> Arc<Self> {
        let (share, rx) = mpsc::channel(1024);
        tokio::spawn(async move { stop.run_until_cancelled(sharing(ctx, rx)).await });
        Arc::new(Self { applied: Mutex::default(), changed: watch::Sender::new(0), share })
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<String, HashMap<String, u64>>> {
        self.applied.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// From an agent of this manager.
    pub fn take(&self, node_id: &str, acks: Vec<v1::ViewAck>) {
        let node = v1::NodeAcks { node_id: node_id.to_owned(), acks };
        // Full: the others are told at the next change, or wait for their bound.
        let _ = self.share.try_send(node.clone());
        self.merge(v1::ShareAcksRequest { nodes: vec![node] });
    }

    /// From another manager.
    pub fn merge(&self, request: v1::ShareAcksRequest) {
        let mut applied = self.lock();
        for node in request.nodes {
            applied.insert(node.node_id, node.acks.into_iter().map(|a| (a.network_id, a.version)).collect());
        }
        drop(applied);
        self.changed.send_modify(|n| *n += 1);
    }

    /// Whether `node` has applied `version` of `network` or a later one.
    pub fn reached(&self, node: &str, network: &str, version: u64) -> bool {
        self.lock().get(node).and_then(|n| n.get(network)).is_some_and(|v| *v >= version)
    }

    /// Wakes at every acknowledgement.
    pub fn changes(&self) -> watch::Receiver<u64> {
        self.changed.subscribe()
    }
}

async fn sharing(ctx: Arc<Context>, mut queue: mpsc::Receiver<v1::NodeAcks>) {
    let mut nodes = Vec::new();
    while queue.recv_many(&mut nodes, 1024).await > 0 {
        let request = v1::ShareAcksRequest { nodes: std::mem::take(&mut nodes) };
        let others = ctx.other_managers();
        let calls = others.iter().map(|peer| {
            let mut client = DispatcherClient::new(ctx.channel(&peer.addr));
            let request = forward(request.clone());
            async move { tokio::time::timeout(SHARE_TIMEOUT, client.share_acks(request)).await }
        });
        for (peer, result) in others.iter().zip(futures::future::join_all(calls).await) {
            if !matches!(result, Ok(Ok(_))) {
                tracing::debug!(manager = %peer.node_id, "could not share acknowledgements");
            }
        }
    }
}
