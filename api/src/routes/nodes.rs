//! `/nodes`.

use axum::Router;
use axum::extract::{Query, Request, State};
use axum::http::StatusCode;
use axum::response::IntoResponse;
use axum::routing::{get, post};
use serde::Deserialize;
use serde_json::Value;
use skep_proto::v1::{ListNodesRequest, Node, RemoveNodeRequest, UpdateNodeRequest};

use super::body;
use crate::convert::node;
use crate::error::ApiResult;
use crate::filters::Filters;
use crate::path::Path;
use crate::state::ApiState;

pub(super) fn routes() -> Router<ApiState> {
    Router::new()
        .route("/nodes", get(list))
        .route("/nodes/{id}", get(inspect).delete(remove))
        .route("/nodes/{id}/update", post(update))
}

#[derive(Deserialize)]
struct List {
    filters: Option<String>,
}

async fn list(State(s): State<ApiState>, Query(q): Query<List>) -> ApiResult {
    let filters = Filters::parse(q.filters.as_deref(), node::FILTERS)?;
    node::check(&filters)?;
    let request = tonic::Request::new(ListNodesRequest::default());
    let response = s.control()?.list_nodes(request).await?.into_inner();
    let shown: Vec<Value> =
        response.nodes.iter().filter(|n| node::matches(&filters, n)).map(node::node).collect();
    Ok(body::swarm(&shown.into(), response.stale))
}

/// The one node of this name, ID or unique beginning of an ID.
pub(super) async fn find(s: &ApiState, name: &str) -> ApiResult<(Node, bool)> {
    let request = tonic::Request::new(ListNodesRequest { ids_or_names: vec![name.to_owned()] });
    let response = s.control()?.list_nodes(request).await?.into_inner();
    let stale = response.stale;
    let id = |n: &Node| n.id.clone();
    let node = body::one("node", name, response.nodes, id, |n| {
        n.description.as_ref().is_some_and(|d| d.hostname == name)
    })?;
    Ok((node, stale))
}

async fn inspect(State(s): State<ApiState>, Path(name): Path<String>) -> ApiResult {
    let (found, stale) = find(&s, &name).await?;
    Ok(body::swarm(&node::node(&found), stale))
}

#[derive(Deserialize)]
struct Update {
    version: Option<String>,
}

async fn update(
    State(s): State<ApiState>,
    Path(name): Path<String>,
    Query(q): Query<Update>,
    request: Request,
) -> ApiResult {
    let control = s.control()?;
    let version = body::version(q.version.as_deref(), "node")?;
    let spec = node::read_spec(&body::read(request).await?)?;
    let id = find(&s, &name).await?.0.id;
    let request = UpdateNodeRequest { id, version, spec: Some(spec) };
    control.update_node(tonic::Request::new(request)).await?;
    Ok(StatusCode::OK.into_response())
}

#[derive(Deserialize)]
struct Remove {
    force: Option<String>,
}

async fn remove(State(s): State<ApiState>, Path(name): Path<String>, Query(q): Query<Remove>) -> ApiResult {
    let control = s.control()?;
    let id = find(&s, &name).await?.0.id;
    let request = RemoveNodeRequest { id, force: body::flag(q.force.as_deref()) };
    control.remove_node(tonic::Request::new(request)).await?;
    Ok(StatusCode::OK.into_response())
}
