//! `system df`, and the prune of containers.

use axum::extract::{Query, State};
use axum::routing::{get, post};
use axum::{Extension, Router};
use serde::Deserialize;
use serde_json::{Value, json};
use skep_engine::Container;

use super::to_end::Client;
use super::{body, build, containers};
use crate::convert::{image, time, volume};
use crate::error::{ApiError, ApiResult};
use crate::filters::Filters;
use crate::state::ApiState;

pub(super) fn routes() -> Router<ApiState> {
    Router::new().route("/system/df", get(usage)).route("/containers/prune", post(prune_containers))
}

async fn usage(State(s): State<ApiState>, Query(q): Query<Vec<(String, String)>>) -> ApiResult {
    let types: Vec<&str> = q.iter().filter(|(k, _)| k == "type").map(|(_, v)| v.as_str()).collect();
    let known = ["container", "image", "volume", "build-cache"];
    if let Some(bad) = types.iter().find(|t| !known.contains(t)) {
        return Err(ApiError::bad_request(format!("unknown object type: {bad}")));
    }
    let wants = |kind: &str| types.is_empty() || types.contains(&kind);
    let mut out = json!({ "BuilderSize": 0 });
    if wants("image") {
        let usage = s.engine().images().usage();
        let images = s.engine().images().list();
        let one = |i: &skep_engine::Image| {
            let containers = usage.containers.get(&i.id).copied().unwrap_or(0);
            let mut shown = image::summary(i, i64::try_from(containers).unwrap_or(i64::MAX));
            shown["SharedSize"] = json!(usage.shared.get(&i.id).copied().unwrap_or(0));
            shown
        };
        out["LayersSize"] = json!(usage.layers);
        out["Images"] = images.iter().map(one).collect();
    }
    if wants("container") {
        let mut shown = Vec::new();
        let linked = s.engine().link_names();
        for c in s.engine().list() {
            let linked = linked.get(c.id.as_str()).map_or(&[][..], Vec::as_slice);
            shown.push(containers::row(&s, &c, linked, true).await);
        }
        out["Containers"] = shown.into();
    }
    if wants("volume") {
        let mut shown = Vec::new();
        for v in s.engine().volumes().list() {
            let mut one = volume::shown(&v);
            let size = s.engine().volumes().size(&v).await;
            one["UsageData"] = json!({ "RefCount": v.users, "Size": size });
            shown.push(one);
        }
        out["Volumes"] = shown.into();
    }
    if wants("build-cache") {
        out["BuildCache"] = build::usage(&s).await?.into();
    }
    Ok(body::ok(&out))
}

#[derive(Deserialize)]
struct Prune {
    filters: Option<String>,
}

async fn prune_containers(
    State(s): State<ApiState>,
    Extension(client): Extension<Client>,
    Query(q): Query<Prune>,
) -> ApiResult {
    let filters = Filters::parse(q.filters.as_deref(), &["label", "label!", "until"])?;
    let until = filters.values("until").map(time::until).collect::<ApiResult<Vec<_>>>()?;
    if until.len() > 1 {
        return Err(ApiError::bad_request("more than one until filter specified"));
    }
    let chosen = |c: &Container| {
        !client.has_left()
            && until.first().is_none_or(|t| c.created_at_ns < *t)
            && filters.prunes(|k| c.config.labels.get(k).map(String::as_str))
    };
    let pruned = s.engine().prune(chosen).await?;
    let removed = if pruned.removed.is_empty() { Value::Null } else { json!(pruned.removed) };
    Ok(body::ok(&json!({ "ContainersDeleted": removed, "SpaceReclaimed": pruned.freed })))
}
