//! Where this manager is reached, told to the others once it is not where they look for it. Every other one is told, for
//! as long as the log does not say it: those that do not lead send their messages to the new address at once, and so
//! help to elect who writes it down. Managers that have all moved at once find each other once somebody names one.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use futures::future::join_all;
use skep_proto::v1;
use skep_proto::v1::raft_client::RaftClient;
use tokio::sync::watch;

use crate::context::Context;
use crate::replica::Replica;

/// Longest that another manager may take.
const PATIENCE: Duration = Duration::from_secs(2);
/// Between two rounds: what the others do not know, nobody knows.
const PAUSE: Duration = Duration::from_millis(500);

/// What is to be told, and to whom.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Whereabouts {
    /// Where this manager is reached (host:port).
    pub addr: String,
    /// Where managers may be besides those that the log tells of.
    pub others: BTreeSet<String>,
}

/// Runs until nobody can change the address any more.
pub(crate) async fn announce(ctx: Arc<Context>, replica: Replica, mut wanted: watch::Receiver<Whereabouts>) {
    let mut status = replica.status();
    let mut named = BTreeSet::new();
    loop {
        let now = wanted.borrow_and_update().clone();
        status.borrow_and_update();
        let members = ctx.consensus.members().into_iter().map(|m| (m.peer.node_id, m.peer.addr));
        let members: BTreeMap<String, String> = members.collect();
        let known = members.get(&ctx.node_id).is_none_or(|addr| *addr == now.addr);
        let lost = !now.others.is_empty() && ctx.leader().is_none();
        if known && !lost {
            named.clear();
            tokio::select! {
                changed = wanted.changed() => if changed.is_err() { return },
                changed = status.changed() => if changed.is_err() { return },
            }
            continue;
        }
        if ctx.is_leader() {
            if let Err(error) = replica.readdress(&ctx.node_id, &now.addr).await {
                tracing::warn!(%error, addr = now.addr, "this manager's new address is not written down yet");
            }
        } else {
            let others = members.into_iter().filter(|(node, _)| *node != ctx.node_id).map(|(_, addr)| addr);
            let all: BTreeSet<String> = others.chain(now.others).chain(named.iter().cloned()).collect();
            let told = join_all(all.into_iter().map(|to| tell(&ctx, &replica, to, now.addr.clone()))).await;
            named.extend(told.into_iter().flatten());
        }
        tokio::time::sleep(PAUSE).await;
        if wanted.has_changed().is_err() {
            return;
        }
    }
}

/// Tells another manager, and remembers where that was reached; who leads, where it says that it does not.
async fn tell(ctx: &Context, replica: &Replica, to: String, addr: String) -> Option<String> {
    let mut client = RaftClient::new(ctx.channel(&to));
    let told = client.readdress(v1::RaftReaddressRequest { addr });
    match tokio::time::timeout(PATIENCE, told).await {
        Ok(Ok(response)) => {
            let response = response.into_inner();
            replica.reached(&response.node_id, &to);
            Some(response.leader_addr).filter(|leader| !leader.is_empty())
        }
        Ok(Err(status)) => {
            tracing::debug!(%to, %status, "a manager did not take this one's address in");
            None
        }
        Err(_) => None,
    }
}
