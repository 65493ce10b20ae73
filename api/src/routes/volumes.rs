//! `/volumes`.

use axum::extract::{Query, Request, State};
use axum::http::StatusCode;
use axum::response::IntoResponse;
use axum::routing::{get, post};
use axum::{Extension, Router};
use serde::Deserialize;
use serde_json::{Value, json};
use skep_engine::Error;

use super::body;
use super::to_end::Client;
use crate::convert::volume;
use crate::error::{ApiError, ApiResult};
use crate::filters::Filters;
use crate::path::Path;
use crate::state::ApiState;

pub(super) fn routes() -> Router<ApiState> {
    Router::new()
        .route("/volumes", get(list))
        .route("/volumes/create", post(create))
        .route("/volumes/prune", post(prune))
        .route("/volumes/{name}", get(inspect).delete(remove).put(update))
}

#[derive(Deserialize)]
struct Filtered {
    filters: Option<String>,
}

async fn list(State(s): State<ApiState>, Query(q): Query<Filtered>) -> ApiResult {
    let filters = Filters::parse(q.filters.as_deref(), volume::FILTERS)?;
    let names = filters.patterns("name");
    let mut shown: Vec<Value> = Vec::new();
    for v in s.engine().volumes().list() {
        if volume::matches(&filters, &names, &v)? {
            shown.push(volume::shown(&v));
        }
    }
    Ok(body::ok(&json!({ "Volumes": shown, "Warnings": null })))
}

async fn create(State(s): State<ApiState>, request: Request) -> ApiResult {
    let new = volume::read(&body::read(request).await?)?;
    let made = s.engine().volumes().create(new).await?;
    Ok(body::json(StatusCode::CREATED, &volume::shown(&made)))
}

async fn inspect(State(s): State<ApiState>, Path(name): Path<String>) -> ApiResult {
    Ok(body::ok(&volume::shown(&s.engine().volumes().get(&name)?)))
}

async fn update(Path(name): Path<String>) -> ApiError {
    ApiError::bad_request(format!(
        "volume {name} cannot be updated: only cluster volumes (CSI) are, and there are none"
    ))
}

#[derive(Deserialize)]
struct Remove {
    force: Option<String>,
}

async fn remove(State(s): State<ApiState>, Path(name): Path<String>, Query(q): Query<Remove>) -> ApiResult {
    match s.engine().volumes().remove(&name).await {
        Err(Error::NoSuchVolume { .. }) if body::flag(q.force.as_deref()) => {}
        other => other?,
    }
    Ok(StatusCode::NO_CONTENT.into_response())
}

async fn prune(
    State(s): State<ApiState>,
    Extension(client): Extension<Client>,
    Query(q): Query<Filtered>,
) -> ApiResult {
    let filters = Filters::parse(q.filters.as_deref(), volume::PRUNE_FILTERS)?;
    let prunable = volume::prunable(&filters)?;
    let pruned = s.engine().volumes().prune(|v| !client.has_left() && prunable(v)).await?;
    Ok(body::ok(&json!({ "VolumesDeleted": pruned.removed, "SpaceReclaimed": pruned.freed })))
}
