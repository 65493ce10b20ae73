//! What containers do and use, and what they may: `top`, `stats`, `update`, `pause`, `unpause`.

use std::io;
use std::time::Duration;

use axum::Router;
use axum::extract::{Query, Request, State};
use axum::http::StatusCode;
use axum::response::IntoResponse;
use axum::routing::{get, post};
use bytes::Bytes;
use futures::stream;
use serde::Deserialize;
use serde_json::json;
use skep_engine::{Engine, Stats};

use super::body;
use crate::convert::container;
use crate::error::{ApiError, ApiResult};
use crate::fields::{Fields, Unknown};
use crate::path::Path;
use crate::state::ApiState;

/// Between two looks of a stream.
const INTERVAL: Duration = Duration::from_secs(1);

pub(super) fn routes() -> Router<ApiState> {
    Router::new()
        .route("/containers/{id}/top", get(top))
        .route("/containers/{id}/stats", get(stats))
        .route("/containers/{id}/update", post(update))
        .route("/containers/{id}/pause", post(pause))
        .route("/containers/{id}/unpause", post(unpause))
}

#[derive(Deserialize)]
struct Top {
    ps_args: Option<String>,
}

async fn top(State(s): State<ApiState>, Path(id): Path<String>, Query(q): Query<Top>) -> ApiResult {
    let top = s.engine().top(&id, q.ps_args.as_deref().unwrap_or_default()).await?;
    Ok(body::ok(&json!({ "Titles": top.titles, "Processes": top.processes })))
}

#[derive(Deserialize)]
struct StatsQuery {
    stream: Option<String>,
    #[serde(rename = "one-shot")]
    one_shot: Option<String>,
}

/// Each look beside the one before it, so that the client can tell a rate.
async fn stats(State(s): State<ApiState>, Path(id): Path<String>, Query(q): Query<StatsQuery>) -> ApiResult {
    let streams = q.stream.as_deref().is_none_or(|text| body::flag(Some(text)));
    let one_shot = body::flag(q.one_shot.as_deref());
    if streams && one_shot {
        return Err(ApiError::bad_request("cannot have stream=true and one-shot=true"));
    }
    let engine = s.engine().clone();
    let first = engine.stats(&id).await?;
    let id = first.id.clone();
    let none = Stats::default();
    if !streams {
        if one_shot || first.read_ns == 0 {
            return Ok(body::ok(&container::stats(&first, &none)));
        }
        tokio::time::sleep(INTERVAL).await;
        let second = engine.stats(&id).await?;
        return Ok(body::ok(&container::stats(&second, &first)));
    }
    let looks = stream::unfold((none, Some(first)), move |(before, next)| {
        let (engine, id) = (engine.clone(), id.clone());
        async move {
            let now = match next {
                Some(first) => first,
                None => later(&engine, &id).await?,
            };
            let line = body::line(&container::stats(&now, &before));
            Some((Ok::<Bytes, io::Error>(line), (now, None)))
        }
    });
    Ok(body::stream("application/json", looks))
}

/// None once the container is gone.
async fn later(engine: &Engine, id: &str) -> Option<Stats> {
    tokio::time::sleep(INTERVAL).await;
    engine.stats(id).await.ok()
}

async fn update(State(s): State<ApiState>, Path(id): Path<String>, request: Request) -> ApiResult {
    let unknown = Unknown::default();
    let fields = Fields::parse_telling(&body::read(request).await?, &unknown)?;
    let (limits, restart) = container::read_update(fields)?;
    s.engine().update(&id, limits, restart).await?;
    Ok(body::ok(&body::with_warnings(json!({ "Warnings": null }), unknown.warnings())))
}

async fn pause(State(s): State<ApiState>, Path(id): Path<String>) -> ApiResult {
    s.engine().pause(&id).await?;
    Ok(StatusCode::NO_CONTENT.into_response())
}

async fn unpause(State(s): State<ApiState>, Path(id): Path<String>) -> ApiResult {
    s.engine().unpause(&id).await?;
    Ok(StatusCode::NO_CONTENT.into_response())
}
