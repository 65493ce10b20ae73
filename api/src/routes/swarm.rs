//! `/swarm`: init, join, leave, inspect, update, unlock; `swarm/readdress`, which is Skep's own.

use axum::Router;
use axum::extract::{Query, Request, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use serde::Deserialize;
use serde_json::json;
use skep_proto::v1::{GetClusterRequest, UpdateClusterRequest};

use super::body;
use crate::convert::cluster;
use crate::error::{ApiError, ApiResult};
use crate::fields::Fields;
use crate::state::ApiState;
use crate::swarm::{LocalState, SwarmError};

pub(super) fn routes() -> Router<ApiState> {
    Router::new()
        .route("/swarm", get(inspect))
        .route("/swarm/init", post(init))
        .route("/swarm/join", post(join))
        .route("/swarm/leave", post(leave))
        .route("/swarm/readdress", post(readdress))
        .route("/swarm/update", post(update))
        .route("/swarm/unlockkey", get(unlock_key))
        .route("/swarm/unlock", post(unlock))
}

async fn inspect(State(s): State<ApiState>) -> ApiResult {
    let request = tonic::Request::new(GetClusterRequest {});
    let response = s.control()?.get_cluster(request).await?.into_inner();
    let cluster = response.cluster.ok_or_else(|| ApiError::unavailable("the cluster is not known yet"))?;
    Ok(body::swarm(&cluster::cluster(&cluster), response.stale))
}

async fn init(State(s): State<ApiState>, request: Request) -> ApiResult {
    let request = cluster::read_init(&body::read(request).await?)?;
    if s.swarm().local().state != LocalState::Inactive && !request.force_new_cluster {
        return Err(SwarmError::AlreadyMember.into());
    }
    let id = s.swarm().init(request).await?;
    Ok(body::ok(&json!(id)))
}

async fn join(State(s): State<ApiState>, request: Request) -> ApiResult {
    let request = cluster::read_join(&body::read(request).await?)?;
    if s.swarm().local().state != LocalState::Inactive {
        return Err(SwarmError::AlreadyMember.into());
    }
    s.swarm().join(request).await?;
    Ok(StatusCode::OK.into_response())
}

async fn readdress(State(s): State<ApiState>, request: Request) -> ApiResult {
    let request = cluster::read_readdress(&body::read(request).await?)?;
    s.swarm().readdress(request).await?;
    Ok(StatusCode::OK.into_response())
}

#[derive(Deserialize)]
struct Leave {
    force: Option<String>,
}

async fn leave(State(s): State<ApiState>, Query(q): Query<Leave>) -> ApiResult<Response> {
    s.swarm().leave(body::flag(q.force.as_deref())).await?;
    Ok(StatusCode::OK.into_response())
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Update {
    version: Option<String>,
    rotate_worker_token: Option<String>,
    rotate_manager_token: Option<String>,
    rotate_manager_unlock_key: Option<String>,
}

async fn update(State(s): State<ApiState>, Query(q): Query<Update>, request: Request) -> ApiResult {
    let control = s.control()?;
    let version = body::version(q.version.as_deref(), "swarm")?;
    let (spec, root) = cluster::read_update(Fields::parse(&body::read(request).await?)?)?;
    let request = UpdateClusterRequest {
        version,
        spec: Some(spec),
        rotate_worker_token: body::flag(q.rotate_worker_token.as_deref()),
        rotate_manager_token: body::flag(q.rotate_manager_token.as_deref()),
        rotate_unlock_key: body::flag(q.rotate_manager_unlock_key.as_deref()),
        signing_ca_pem: root.cert,
        signing_key_pem: root.key,
    };
    control.update_cluster(tonic::Request::new(request)).await?;
    Ok(StatusCode::OK.into_response())
}

/// Empty while the swarm is not locked, as Docker's.
async fn unlock_key(State(s): State<ApiState>) -> ApiResult {
    let request = tonic::Request::new(GetClusterRequest {});
    let response = s.control()?.get_cluster(request).await?.into_inner();
    let cluster = response.cluster.ok_or_else(|| ApiError::unavailable("the cluster is not known yet"))?;
    Ok(body::ok(&json!({ "UnlockKey": cluster.unlock_key })))
}

async fn unlock(State(s): State<ApiState>, request: Request) -> ApiResult<Response> {
    let key = cluster::read_unlock(&body::read(request).await?)?;
    let local = s.swarm().local();
    if local.state != LocalState::Locked && !local.control_available {
        return Err(s.not_a_manager());
    }
    s.swarm().unlock(&key).await?;
    Ok(StatusCode::OK.into_response())
}
