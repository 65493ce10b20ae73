//! `/tasks`.

use axum::Router;
use axum::extract::{Query, State};
use axum::routing::get;
use serde::Deserialize;
use serde_json::Value;
use skep_proto::v1::{ListTasksRequest, TaskWithSpec};

use super::body;
use crate::convert::task;
use crate::error::ApiResult;
use crate::filters::Filters;
use crate::path::Path;
use crate::state::ApiState;

pub(super) fn routes() -> Router<ApiState> {
    Router::new().route("/tasks", get(list)).route("/tasks/{id}", get(inspect))
}

#[derive(Deserialize)]
struct List {
    filters: Option<String>,
}

async fn list(State(s): State<ApiState>, Query(q): Query<List>) -> ApiResult {
    let filters = Filters::parse(q.filters.as_deref(), task::FILTERS)?;
    let request = tonic::Request::new(task::request(&filters)?);
    let response = s.control()?.list_tasks(request).await?.into_inner();
    let shown: Vec<Value> =
        response.tasks.iter().filter(|t| task::matches(&filters, t)).map(task::task).collect();
    Ok(body::swarm(&shown.into(), response.stale))
}

/// The one task of this ID or unique beginning of one.
pub(super) async fn find(s: &ApiState, wanted: &str) -> ApiResult<(TaskWithSpec, bool)> {
    let request = ListTasksRequest { ids: vec![wanted.to_owned()], ..ListTasksRequest::default() };
    let response = s.control()?.list_tasks(tonic::Request::new(request)).await?.into_inner();
    let id = |t: &TaskWithSpec| t.task.as_ref().map(|t| t.id.clone()).unwrap_or_default();
    Ok((body::one("task", wanted, response.tasks, id, |_| false)?, response.stale))
}

async fn inspect(State(s): State<ApiState>, Path(id): Path<String>) -> ApiResult {
    let (found, stale) = find(&s, &id).await?;
    Ok(body::swarm(&task::task(&found), stale))
}
