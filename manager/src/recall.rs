//! Nodes called by the leader at their own addresses, and told where managers are: all of them when its own address has
//! changed, for it may be the only manager, and then those that are not in touch. No node can find that out by itself. One
//! that is gone costs an attempt now and then.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt as _;
use skep_proto::v1::whereabouts_client::WhereaboutsClient;
use skep_proto::v1::{ManagersAtRequest, NodeState};
use tokio::time::{Instant, timeout};

use crate::context::Context;
use crate::images;

/// Between two looks at who is not in touch.
const LOOK: Duration = Duration::from_secs(1);
/// First and longest pause between two calls to a node.
const PAUSE: (Duration, Duration) = (Duration::from_secs(2), Duration::from_secs(60));
/// Longest wait for a node's answer.
const ANSWER: Duration = Duration::from_secs(5);
/// Nodes called at once.
const AT_ONCE: usize = 32;

/// When each node that is not in touch is called next, and how long after that.
#[derive(Default)]
struct Turns(BTreeMap<String, (Instant, Duration)>);

impl Turns {
    /// Whose turn it is, of those that are `lost` now.
    fn due(&mut self, lost: &BTreeSet<String>, now: Instant) -> BTreeSet<String> {
        self.0.retain(|id, _| lost.contains(id));
        let mut called = BTreeSet::new();
        for id in lost {
            let (due, pause) = self.0.entry(id.clone()).or_insert((now + PAUSE.0, PAUSE.0));
            if *due <= now {
                (*due, *pause) = (now + *pause, (*pause * 2).min(PAUSE.1));
                called.insert(id.clone());
            }
        }
        called
    }
}

/// Runs until it is aborted.
pub(crate) async fn recall(ctx: Arc<Context>) {
    let mut turns = Turns::default();
    let (mut own, mut moved) = (None, false);
    loop {
        let members = ctx.consensus.members().into_iter().map(|m| (m.peer.node_id, m.peer.addr));
        let members: BTreeMap<String, String> = members.collect();
        if let Some(now) = members.get(&ctx.node_id) {
            moved |= own.replace(now.clone()).is_some_and(|before| before != *now);
        }
        if ctx.is_leader() {
            call_nodes(&ctx, members, &mut turns, std::mem::take(&mut moved)).await;
        } else {
            turns = Turns::default();
        }
        tokio::time::sleep(LOOK).await;
    }
}

/// Calls the nodes whose turn it is, or all.
async fn call_nodes(ctx: &Context, managers: BTreeMap<String, String>, turns: &mut Turns, all: bool) {
    let view = ctx.view();
    let others = || view.nodes().filter(|n| n.id != ctx.node_id);
    let lost = others().filter(|n| n.state() != NodeState::Ready).map(|n| n.id.clone()).collect();
    let due = turns.due(&lost, Instant::now());
    let managers: Vec<String> = managers.into_values().collect();
    let called = others().filter(|n| all || due.contains(&n.id));
    let calls = called.filter_map(|n| {
        let addr = images::address_of(n)?;
        Some(call(ctx, n.id.clone(), addr, managers.clone()))
    });
    let calls: Vec<_> = calls.collect();
    futures::stream::iter(calls).buffer_unordered(AT_ONCE).for_each(|()| async {}).await;
}

/// Tells one node, which has to be that node.
async fn call(ctx: &Context, node_id: String, addr: String, addrs: Vec<String>) {
    let id = node_id.as_str().into();
    let channel = skep_identity::channel_to_node(&ctx.identity, &ctx.network, &addr, &id);
    match timeout(ANSWER, WhereaboutsClient::new(channel).managers(ManagersAtRequest { addrs })).await {
        Ok(Ok(_)) => tracing::info!(node = node_id, addr, "a node was told where managers are"),
        Ok(Err(status)) => {
            let error = skep_identity::explain(&addr, &status);
            tracing::debug!(node = node_id, %error, "a node does not take in where managers are");
        }
        Err(_) => {
            tracing::debug!(node = node_id, addr, "a node that was to be told where managers are is silent")
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_node_that_stays_away_is_called_less_and_less_often() {
        let lost = |ids: &[&str]| ids.iter().map(ToString::to_string).collect::<BTreeSet<String>>();
        let began = Instant::now();
        let mut turns = Turns::default();
        let mut calls = Vec::new();
        for second in 0..300 {
            let now = began + Duration::from_secs(second);
            if !turns.due(&lost(&["a"]), now).is_empty() {
                calls.push(second);
            }
        }
        assert_eq!(calls, [2, 4, 8, 16, 32, 64, 124, 184, 244]);
        // One that was in touch meanwhile begins anew.
        let later = began + Duration::from_secs(300);
        assert_eq!(turns.due(&lost(&["b"]), later), lost(&[]));
        assert_eq!(turns.due(&lost(&["a", "b"]), later + PAUSE.0), lost(&["b"]));
    }
}
