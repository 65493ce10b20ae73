//! `/secrets` and `/configs`.

use axum::Router;
use axum::extract::{Query, Request, State};
use axum::http::StatusCode;
use axum::response::IntoResponse;
use axum::routing::{get, post};
use serde::Deserialize;
use serde_json::{Value, json};
use skep_proto::v1::{
    CreateDependencyRequest, Dependency, DependencyKind, ListDependenciesRequest, RemoveDependencyRequest,
    UpdateDependencyRequest,
};

use super::body;
use crate::convert::dependency;
use crate::error::ApiResult;
use crate::fields::Fields;
use crate::filters::Filters;
use crate::path::Path;
use crate::state::ApiState;

pub(super) fn routes() -> Router<ApiState> {
    of(DependencyKind::Secret, "/secrets").merge(of(DependencyKind::Config, "/configs"))
}

fn of(kind: DependencyKind, at: &str) -> Router<ApiState> {
    let list = move |s, q| list(kind, s, q);
    let create = move |s, request| create(kind, s, request);
    let inspect = move |s, name| inspect(kind, s, name);
    let remove = move |s, name| remove(kind, s, name);
    let update = move |s, name, q, request| update(kind, s, name, q, request);
    Router::new()
        .route(at, get(list))
        .route(&format!("{at}/create"), post(create))
        .route(&format!("{at}/{{id}}"), get(inspect).delete(remove))
        .route(&format!("{at}/{{id}}/update"), post(update))
}

#[derive(Deserialize)]
struct List {
    filters: Option<String>,
}

async fn list(kind: DependencyKind, State(s): State<ApiState>, Query(q): Query<List>) -> ApiResult {
    let filters = Filters::parse(q.filters.as_deref(), dependency::FILTERS)?;
    let request = ListDependenciesRequest { kind: kind.into(), ids_or_names: Vec::new() };
    let response = s.control()?.list_dependencies(tonic::Request::new(request)).await?.into_inner();
    let matching = response.dependencies.iter().filter(|d| dependency::matches(&filters, d));
    let shown: Vec<Value> = matching.map(dependency::dependency).collect();
    Ok(body::swarm(&shown.into(), response.stale))
}

async fn create(kind: DependencyKind, State(s): State<ApiState>, request: Request) -> ApiResult {
    let control = s.control()?;
    let spec = dependency::read_spec(Fields::parse(&body::read(request).await?)?)?;
    let request = CreateDependencyRequest { kind: kind.into(), spec: Some(spec) };
    let response = control.create_dependency(tonic::Request::new(request)).await?.into_inner();
    let id = response.dependency.map(|d| d.id).unwrap_or_default();
    Ok(body::json(StatusCode::CREATED, &json!({ "ID": id })))
}

/// The one of this name, ID or unique beginning of an ID.
async fn find(kind: DependencyKind, s: &ApiState, wanted: &str) -> ApiResult<(Dependency, bool)> {
    let request = ListDependenciesRequest { kind: kind.into(), ids_or_names: vec![wanted.to_owned()] };
    let response = s.control()?.list_dependencies(tonic::Request::new(request)).await?.into_inner();
    let id = |d: &Dependency| d.id.clone();
    let named = |d: &Dependency| dependency::name(d) == wanted;
    let found = body::one(dependency::word(kind), wanted, response.dependencies, id, named)?;
    Ok((found, response.stale))
}

async fn inspect(kind: DependencyKind, State(s): State<ApiState>, Path(name): Path<String>) -> ApiResult {
    let (found, stale) = find(kind, &s, &name).await?;
    Ok(body::swarm(&dependency::dependency(&found), stale))
}

async fn remove(kind: DependencyKind, State(s): State<ApiState>, Path(name): Path<String>) -> ApiResult {
    let control = s.control()?;
    let id = find(kind, &s, &name).await?.0.id;
    let request = RemoveDependencyRequest { kind: kind.into(), id };
    control.remove_dependency(tonic::Request::new(request)).await?;
    Ok(StatusCode::NO_CONTENT.into_response())
}

#[derive(Deserialize)]
struct Update {
    version: Option<String>,
}

async fn update(
    kind: DependencyKind,
    State(s): State<ApiState>,
    Path(name): Path<String>,
    Query(q): Query<Update>,
    request: Request,
) -> ApiResult {
    let control = s.control()?;
    let version = body::version(q.version.as_deref(), dependency::word(kind))?;
    let spec = dependency::read_spec(Fields::parse(&body::read(request).await?)?)?;
    let id = find(kind, &s, &name).await?.0.id;
    let request = UpdateDependencyRequest { kind: kind.into(), id, version, spec: Some(spec) };
    control.update_dependency(tonic::Request::new(request)).await?;
    Ok(StatusCode::OK.into_response())
}
