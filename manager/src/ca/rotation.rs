//! Carries a rotation of the root through, on the leader: asks nodes for new certificates, not all at once, and once
//! every node has one and trusts the new root, lets the old root go. All of it is read off the store, so that the
//! next leader goes on with it.

use std::sync::Arc;
use std::time::Duration;

use skep_proto::v1;
use tokio::time::Instant;
use tonic::Status;

use super::roots::{internal, is_current, wanted};
use crate::context::Context;
use crate::store::change::put;
use crate::store::{Event, StoreView, Update, Watch};

/// How often nodes are asked, and pause after a write that failed.
const PERIOD: Duration = Duration::from_secs(1);
/// How many are asked at a time: each makes a key, and registers anew (Swarm: 30 in 3 s).
const BATCH: usize = 30;

/// Runs until the store is gone.
pub(crate) async fn reconcile(ctx: Arc<Context>) {
    let mut leadership = ctx.consensus.leader();
    let (_, mut updates) = ctx.store().subscribe();
    // Nothing is asked before.
    let mut due = Instant::now();
    loop {
        if !ctx.is_leader() {
            if leadership.changed().await.is_err() {
                return;
            }
            continue;
        }
        let more = step(&ctx, &mut due).await.unwrap_or_else(|error| {
            tracing::warn!(%error, "the rotation of the root does not get on");
            due = Instant::now() + PERIOD;
            true
        });
        tokio::select! {
            known = changed(&mut updates) => if !known { return },
            known = leadership.changed() => if known.is_err() { return },
            () = tokio::time::sleep_until(due), if more => {}
        }
        while updates.try_next().is_some() {}
    }
}

/// Waits for a change of what a step goes by; false once the store is gone. Cancel safe.
async fn changed(updates: &mut Watch) -> bool {
    while let Some(update) = updates.next().await {
        let concerned = match update {
            Update::Commit(commit) => {
                commit.events.iter().any(|e| matches!(e, Event::Cluster(_) | Event::Node(_)))
            }
            Update::Resync(_) => true,
        };
        if concerned {
            return true;
        }
    }
    false
}

/// True if there is more to do at the time that is `due` then, also if nothing changes.
async fn step(ctx: &Context, due: &mut Instant) -> Result<bool, Status> {
    let view = ctx.view();
    let Some(cluster) = view.cluster() else { return Ok(false) };
    let wanted = wanted(cluster)?;
    if behind(&view, cluster, &wanted).next().is_none() {
        if cluster.root_rotation.is_none() || finish(ctx).await? {
            return Ok(false);
        }
        // Somebody may be behind in a write that is under way, and may yet fail.
        *due = Instant::now() + PERIOD;
        return Ok(true);
    }
    if to_ask(&view, cluster, &wanted).next().is_none() {
        return Ok(false);
    }
    if Instant::now() < *due {
        return Ok(true);
    }
    ctx.write(|view| {
        let Some(cluster) = view.cluster() else { return Ok(Vec::new()) };
        let asked = to_ask(view, cluster, &wanted).take(BATCH).map(|node| {
            let mut node = v1::Node::clone(node);
            node.renew_epoch = cluster.trust_epoch;
            put(node)
        });
        Ok(asked.collect())
    })
    .await?;
    *due = Instant::now() + PERIOD;
    Ok(true)
}

fn behind<'a>(
    view: &'a StoreView,
    cluster: &'a v1::Cluster,
    wanted: &'a v1::TlsInfo,
) -> impl Iterator<Item = &'a Arc<v1::Node>> {
    view.nodes().filter(move |n| !is_current(n, cluster, wanted))
}

fn to_ask<'a>(
    view: &'a StoreView,
    cluster: &'a v1::Cluster,
    wanted: &'a v1::TlsInfo,
) -> impl Iterator<Item = &'a Arc<v1::Node>> {
    behind(view, cluster, wanted).filter(|n| n.renew_epoch != cluster.trust_epoch)
}

/// The new root takes the old one's place, if nobody needs that any more; true if it has.
async fn finish(ctx: &Context) -> Result<bool, Status> {
    let view = ctx
        .write(|view| {
            let Some(cluster) = view.cluster() else { return Ok(Vec::new()) };
            let Some(next) = &cluster.root_rotation else { return Ok(Vec::new()) };
            if behind(view, cluster, &wanted(cluster)?).next().is_some() {
                return Ok(Vec::new());
            }
            let token = || ctx.with_rng(|rng| skep_identity::join_token(&next.ca_pem, rng)).map_err(internal);
            Ok(vec![put(v1::Cluster {
                worker_token: token()?.to_string(),
                manager_token: token()?.to_string(),
                root_ca_pem: next.ca_pem.clone(),
                root_key_pem: next.key_pem.clone(),
                root_rotation: None,
                trust_epoch: cluster.trust_epoch + 1,
                ..v1::Cluster::clone(cluster)
            })])
        })
        .await?;
    let done = view.cluster().is_some_and(|c| c.root_rotation.is_none());
    if done {
        tracing::info!("the swarm has a new root: every node has a certificate of it, the old one is gone");
    }
    Ok(done)
}
