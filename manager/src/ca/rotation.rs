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
use crate::store::StoreView;
use crate::store::change::put;

/// How often nodes are asked.
const PERIOD: Duration = Duration::from_secs(1);
/// How many are asked at a time: each makes a key, and registers anew (Swarm: 30 in 3 s).
const BATCH: usize = 30;

/// Runs until the store is gone.
pub(crate) async fn reconcile(ctx: Arc<Context>) {
    let mut leadership = ctx.consensus.leader();
    let (_, mut updates) = ctx.store().subscribe();
    let mut asked: Option<Instant> = None;
    loop {
        if !ctx.is_leader() {
            if leadership.changed().await.is_err() {
                return;
            }
            continue;
        }
        match step(&ctx, asked.is_none_or(|at| at.elapsed() >= PERIOD)).await {
            Ok(true) => asked = Some(Instant::now()),
            Ok(false) => {}
            Err(error) => tracing::warn!(%error, "the rotation of the root does not get on"),
        }
        tokio::select! {
            update = updates.next() => if update.is_none() { return },
            _ = leadership.changed() => {}
            () = tokio::time::sleep(PERIOD) => {}
        }
        while updates.try_next().is_some() {}
    }
}

/// True if nodes were asked.
async fn step(ctx: &Context, may_ask: bool) -> Result<bool, Status> {
    let view = ctx.view();
    let Some(cluster) = view.cluster() else { return Ok(false) };
    let wanted = wanted(cluster)?;
    if behind(&view, cluster, &wanted).next().is_none() {
        if cluster.root_rotation.is_some() {
            finish(ctx).await?;
        }
        return Ok(false);
    }
    if !may_ask || to_ask(&view, cluster, &wanted).next().is_none() {
        return Ok(false);
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

/// The new root takes the old one's place, if nobody needs that any more.
async fn finish(ctx: &Context) -> Result<(), Status> {
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
    if view.cluster().is_some_and(|c| c.root_rotation.is_none()) {
        tracing::info!("the swarm has a new root: every node has a certificate of it, the old one is gone");
    }
    Ok(())
}
