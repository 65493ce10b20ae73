//! Writes to the cluster object: settings, join tokens and the unlock key.

use skep_identity::{JoinToken, RootCa, UnlockKey};
use skep_proto::v1;
use tonic::Status;

use super::{check_version, validate};
use crate::context::Context;
use crate::store::change::put;

pub(super) async fn update(
    ctx: &Context,
    request: v1::UpdateClusterRequest,
) -> Result<v1::ClusterResponse, Status> {
    if let Some(spec) = &request.spec {
        validate::cluster(spec)?;
    }
    let token = |ca: &RootCa| ctx.with_rng(|rng| JoinToken::generate(ca.digest(), rng)).to_string();
    let view = ctx
        .write(|view| {
            let cluster =
                view.cluster().ok_or_else(|| Status::unavailable("the cluster object is not there yet"))?;
            check_version("the swarm", cluster.meta.as_ref(), request.version)?;
            let mut cluster = v1::Cluster::clone(cluster);
            let ca = RootCa::from_pem(ctx.host(), &cluster.root_ca_pem, &cluster.root_key_pem)
                .map_err(|e| Status::internal(e.to_string()))?;
            if request.rotate_worker_token {
                cluster.worker_token = token(&ca);
            }
            if request.rotate_manager_token {
                cluster.manager_token = token(&ca);
            }
            if let Some(spec) = &request.spec {
                cluster.spec = Some(with_defaults(spec.clone()));
            }
            if !cluster.spec.as_ref().is_some_and(|s| s.autolock) {
                cluster.unlock_key.clear();
            } else if cluster.unlock_key.is_empty() || request.rotate_unlock_key {
                cluster.unlock_key = ctx.with_rng(UnlockKey::generate).to_string();
            }
            Ok(vec![put(cluster)])
        })
        .await?;
    Ok(v1::ClusterResponse { cluster: view.cluster().map(|c| v1::Cluster::clone(c)), stale: false })
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
