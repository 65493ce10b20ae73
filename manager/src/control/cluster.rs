//! The cluster object: settings, roots, join tokens and the unlock key.

use skep_identity::UnlockKey;
use skep_proto::v1;
use tonic::Status;

use super::{check_version, validate};
use crate::ca;
use crate::context::Context;
use crate::store::StoreView;
use crate::store::change::put;

pub(super) async fn update(
    ctx: &Context,
    request: v1::UpdateClusterRequest,
) -> Result<v1::ClusterResponse, Status> {
    if let Some(spec) = &request.spec {
        validate::cluster(spec)?;
    }
    let token = |cluster: &v1::Cluster| {
        let token = ctx.with_rng(|rng| skep_identity::join_token(&cluster.root_ca_pem, rng));
        token.map(|t| t.to_string()).map_err(|e| Status::internal(e.to_string()))
    };
    let asked = ca::Asked { cert: &request.signing_ca_pem, key: &request.signing_key_pem };
    if let Some(cluster) = ctx.read().await.0.cluster() {
        let spec = request.spec.clone().map(with_defaults).or_else(|| cluster.spec.clone());
        ca::check(ctx, &v1::Cluster { spec, ..v1::Cluster::clone(cluster) }, &asked).await?;
    }
    let view = ctx
        .write(|view| {
            let cluster =
                view.cluster().ok_or_else(|| Status::unavailable("the cluster object is not there yet"))?;
            check_version("the swarm", cluster.meta.as_ref(), request.version)?;
            let mut cluster = v1::Cluster::clone(cluster);
            if request.rotate_worker_token {
                cluster.worker_token = token(&cluster)?;
            }
            if request.rotate_manager_token {
                cluster.manager_token = token(&cluster)?;
            }
            if let Some(spec) = &request.spec {
                cluster.spec = Some(with_defaults(spec.clone()));
            }
            ca::apply(ctx.host(), &mut cluster, &asked)?;
            if !cluster.spec.as_ref().is_some_and(|s| s.autolock) {
                cluster.unlock_key.clear();
            } else if cluster.unlock_key.is_empty() || request.rotate_unlock_key {
                cluster.unlock_key = ctx.with_rng(UnlockKey::generate).to_string();
            }
            Ok(vec![put(cluster)])
        })
        .await?;
    Ok(v1::ClusterResponse { cluster: read(&view)?, stale: false })
}

/// The cluster with what is filled in when it is read.
pub(super) fn read(view: &StoreView) -> Result<Option<v1::Cluster>, Status> {
    let filled = |c: &std::sync::Arc<v1::Cluster>| {
        Ok(v1::Cluster { tls: Some(ca::wanted(c)?), ..v1::Cluster::clone(c) })
    };
    view.cluster().map(filled).transpose()
}

/// Zero stands for the default in every setting where it means nothing else.
pub(crate) fn with_defaults(mut spec: v1::ClusterSpec) -> v1::ClusterSpec {
    use skep_proto::defaults;
    // A history of 0 is a limit like any other, but for a spec that nobody has filled in.
    if spec.annotations.is_none() && spec.task_history_limit == 0 {
        spec.task_history_limit = defaults::TASK_HISTORY;
    }
    let annotations = spec.annotations.get_or_insert_default();
    if annotations.name.is_empty() {
        annotations.name = "default".to_owned();
    }
    if spec.heartbeat_ms == 0 {
        spec.heartbeat_ms = u64::try_from(defaults::HEARTBEAT.as_millis()).unwrap_or(u64::MAX);
    }
    if spec.cert_expiry_s == 0 {
        spec.cert_expiry_s = defaults::CERT_EXPIRY.as_secs();
    }
    if spec.snapshot_interval == 0 {
        spec.snapshot_interval = defaults::SNAPSHOT_INTERVAL;
    }
    spec
}
