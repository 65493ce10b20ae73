//! The leader's knowledge of who is alive: when each node was last heard of. It is not replicated; a new
//! leader gives everyone a fresh grace period.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use skep_proto::defaults::HEARTBEAT_GRACE;
use skep_proto::v1::{self, NodeState};
use tokio::time::Instant;

use super::heartbeat_period;
use crate::context::Context;
use crate::store::change::put;

#[derive(Default)]
pub(super) struct Liveness {
    heard: Mutex<HashMap<String, Instant>>,
}

impl Liveness {
    pub fn beat(&self, node_id: &str) {
        let mut heard = self.heard.lock().unwrap_or_else(PoisonError::into_inner);
        match heard.get_mut(node_id) {
            Some(at) => *at = Instant::now(),
            None => drop(heard.insert(node_id.to_owned(), Instant::now())),
        }
    }

    /// Begins anew: nobody has missed anything yet, and agents may first have to find a manager.
    fn reset(&self) {
        self.heard.lock().unwrap_or_else(PoisonError::into_inner).clear();
    }

    /// For how long a node has been silent; a node not heard of yet is counted from now on.
    fn silence(&self, node_id: &str, grace: Duration) -> Duration {
        let mut heard = self.heard.lock().unwrap_or_else(PoisonError::into_inner);
        let at = *heard.entry(node_id.to_owned()).or_insert_with(|| Instant::now() + grace);
        Instant::now().saturating_duration_since(at)
    }
}

/// While this manager leads: marks nodes down that have missed their heartbeats.
pub(super) async fn watch(ctx: Arc<Context>, liveness: Arc<Liveness>) {
    let mut leadership = ctx.consensus.leader();
    let mut led = false;
    loop {
        let period = heartbeat_period(&ctx);
        let leads = ctx.is_leader();
        if leads && !led {
            liveness.reset();
        }
        led = leads;
        if leads {
            mark_silent(&ctx, &liveness, period).await;
        }
        tokio::select! {
            () = tokio::time::sleep(period / 8) => {}
            changed = leadership.changed() => if changed.is_err() { return },
        }
    }
}

async fn mark_silent(ctx: &Context, liveness: &Liveness, period: Duration) {
    let limit = period * HEARTBEAT_GRACE;
    let silent =
        |node: &v1::Node| node.state() != NodeState::Down && liveness.silence(&node.id, period) > limit;
    let ids: Vec<_> = ctx.view().nodes().filter(|n| silent(n)).map(|n| n.id.clone()).collect();
    if ids.is_empty() {
        return;
    }
    let result = ctx
        .write(|view| {
            let down = ids.iter().filter_map(|id| view.node(id)).filter(|n| silent(n)).map(|node| {
                let mut node = v1::Node::clone(node);
                node.state = NodeState::Down.into();
                node.message = format!(
                    "heartbeat failure: nothing heard for {} s; check that the host is up and reaches a manager",
                    limit.as_secs_f32()
                );
                put(node)
            });
            Ok(down.collect())
        })
        .await;
    match result {
        Ok(_) => tracing::warn!(nodes = ?ids, "nodes are down"),
        Err(error) => tracing::warn!(nodes = ?ids, %error, "cannot mark nodes as down yet"),
    }
}
