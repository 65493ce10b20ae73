//! `/services`.

use axum::Router;
use axum::extract::{Query, Request, State};
use axum::http::uri::InvalidUri;
use axum::http::{HeaderMap, StatusCode, Uri};
use axum::response::IntoResponse;
use axum::routing::{get, post};
use serde::Deserialize;
use serde_json::{Value, json};
use skep_proto::v1::service_spec::Mode;
use skep_proto::v1::{
    CreateServiceRequest, ListServicesRequest, RemoveRequest, ServiceSpec, ServiceWithStatus,
    UpdateServiceRequest,
};

use super::{body, transfer};
use crate::convert::service;
use crate::error::{ApiError, ApiResult};
use crate::fields::{Fields, Unknown};
use crate::filters::Filters;
use crate::path::Path;
use crate::state::ApiState;

/// The names `service ls --filter` knows.
const FILTERS: &[&str] = &["id", "label", "mode", "name", "runtime"];

pub(super) fn routes() -> Router<ApiState> {
    Router::new()
        .route("/services", get(list))
        .route("/services/create", post(create))
        .route("/services/{id}", get(inspect).delete(remove))
        .route("/services/{id}/update", post(update))
        .route("/services/{id}/rebalance", post(rebalance))
}

#[derive(Deserialize)]
struct List {
    filters: Option<String>,
    status: Option<String>,
}

async fn list(State(s): State<ApiState>, Query(q): Query<List>) -> ApiResult {
    let filters = Filters::parse(q.filters.as_deref(), FILTERS)?;
    filters.check("mode", &["replicated", "global", "replicated-job", "global-job"])?;
    filters.check("runtime", &["container"])?;
    let request = tonic::Request::new(ListServicesRequest::default());
    let response = s.control()?.list_services(request).await?.into_inner();
    let with_status = body::flag(q.status.as_deref());
    let shown: Vec<Value> = response
        .services
        .iter()
        .filter(|s| matches(&filters, s))
        .map(|s| {
            let mut out = service::service(&s.service.clone().unwrap_or_default());
            if with_status {
                out["ServiceStatus"] = service::status(s);
            }
            out
        })
        .collect();
    Ok(body::swarm(&shown.into(), response.stale))
}

fn name(s: &ServiceWithStatus) -> &str {
    let spec = s.service.as_ref().and_then(|s| s.spec.as_ref());
    spec.and_then(|s| s.annotations.as_ref()).map_or("", |a| &a.name)
}

fn matches(filters: &Filters, s: &ServiceWithStatus) -> bool {
    let spec = s.service.as_ref().and_then(|s| s.spec.as_ref());
    let labels = spec.and_then(|s| s.annotations.as_ref()).map(|a| &a.labels);
    let mode = match spec.and_then(|s| s.mode.as_ref()) {
        Some(Mode::Global(_)) => "global",
        Some(Mode::ReplicatedJob(_)) => "replicated-job",
        Some(Mode::GlobalJob(_)) => "global-job",
        _ => "replicated",
    };
    filters.any("id", |v| s.service.as_ref().is_some_and(|s| s.id.starts_with(v)))
        && filters.any("name", |v| name(s).starts_with(v))
        && filters.any("mode", |v| v == mode)
        && filters.labels("label", |k| labels.and_then(|l| l.get(k)).map(String::as_str))
}

/// The one service of this name, ID or unique beginning of an ID.
pub(super) async fn find(s: &ApiState, wanted: &str) -> ApiResult<(ServiceWithStatus, bool)> {
    let request = tonic::Request::new(ListServicesRequest { ids_or_names: vec![wanted.to_owned()] });
    let response = s.control()?.list_services(request).await?.into_inner();
    let id = |s: &ServiceWithStatus| s.service.as_ref().map(|s| s.id.clone()).unwrap_or_default();
    let found = body::one("service", wanted, response.services, id, |s| name(s) == wanted)?;
    Ok((found, response.stale))
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Inspect {
    insert_defaults: Option<String>,
}

async fn inspect(State(s): State<ApiState>, Path(name): Path<String>, Query(q): Query<Inspect>) -> ApiResult {
    let (found, stale) = find(&s, &name).await?;
    let mut shown = service::service(&found.service.unwrap_or_default());
    if let Some(homes) = found.homes.filter(|h| !h.slots.is_empty()) {
        shown["DataNodes"] = service::data_nodes(&homes);
    }
    if body::flag(q.insert_defaults.as_deref()) {
        service::insert_defaults(&mut shown);
    }
    Ok(body::swarm(&shown, stale))
}

async fn create(State(s): State<ApiState>, request: Request) -> ApiResult {
    let control = s.control()?;
    let headers = request.headers().clone();
    let unknown = Unknown::default();
    let fields = Fields::parse_telling(&body::read(request).await?, &unknown)?;
    let spec = spec(&headers, fields)?;
    let request = tonic::Request::new(CreateServiceRequest { spec: Some(spec) });
    let response = control.create_service(request).await?.into_inner();
    let id = response.service.map(|s| s.id).unwrap_or_default();
    let warnings = [response.warnings, unknown.warnings()].concat();
    Ok(body::json(StatusCode::CREATED, &body::with_warnings(json!({ "ID": id }), warnings)))
}

/// The specification of a request, with the credentials of its headers.
pub(super) fn spec(headers: &HeaderMap, fields: Fields) -> ApiResult<ServiceSpec> {
    let mut spec = service::read(fields)?;
    set_auth(&mut spec, registry_auth(headers));
    Ok(spec)
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Update {
    version: Option<String>,
    rollback: Option<String>,
    registry_auth_from: Option<String>,
}

async fn update(State(s): State<ApiState>, Path(name): Path<String>, request: Request) -> ApiResult {
    let control = s.control()?;
    let (headers, query) = (request.headers().clone(), request.uri().query().unwrap_or_default().to_owned());
    let unknown = Unknown::default();
    let fields = Fields::parse_telling(&body::read(request).await?, &unknown)?;
    let request = update_request(&s, &name, &query, &headers, fields).await?;
    let response = control.update_service(tonic::Request::new(request)).await?.into_inner();
    let warnings = [response.warnings, unknown.warnings()].concat();
    Ok(body::ok(&body::with_warnings(json!({ "Warnings": null }), warnings)))
}

/// What a request asks to update a service to.
pub(super) async fn update_request(
    s: &ApiState,
    name: &str,
    query: &str,
    headers: &HeaderMap,
    fields: Fields,
) -> ApiResult<UpdateServiceRequest> {
    let wrong = |e: String| ApiError::bad_request(format!("the query {query:?} cannot be read: {e}"));
    let uri: Uri = format!("/?{query}").parse().map_err(|e: InvalidUri| wrong(e.to_string()))?;
    let Query(q) = Query::<Update>::try_from_uri(&uri).map_err(|e| wrong(e.body_text()))?;
    let version = body::version(q.version.as_deref(), "service")?;
    let rollback = match q.rollback.as_deref() {
        None | Some("") => false,
        Some("previous") => true,
        Some(other) => {
            return Err(ApiError::bad_request(format!("unrecognized rollback option {other}: use previous")));
        }
    };
    let mut auth = registry_auth(headers);
    let mut spec = service::read(fields)?;
    let held = find(s, name).await?.0.service.unwrap_or_default();
    if auth.is_empty() {
        // What agents have been pulling with is not lost by an update that does not name it.
        auth = match q.registry_auth_from.as_deref() {
            None | Some("" | "spec") => auth_of(held.spec.as_ref()),
            Some("previous-spec") if held.previous_spec.is_none() => {
                return Err(ApiError::bad_request("service does not have a previous spec"));
            }
            Some("previous-spec") => auth_of(held.previous_spec.as_ref()),
            Some(from) => {
                return Err(ApiError::bad_request(format!(
                    "registryAuthFrom = {from:?} is not valid: use spec or previous-spec"
                )));
            }
        };
    }
    set_auth(&mut spec, auth);
    Ok(UpdateServiceRequest { id: held.id, version, spec: Some(spec), rollback, rebalance: false })
}

/// Skep's own: has the tasks moved until they are spread evenly.
async fn rebalance(State(s): State<ApiState>, Path(name): Path<String>) -> ApiResult {
    let request = rebalance_request(&s, &name).await?;
    let response = s.control()?.update_service(tonic::Request::new(request)).await?.into_inner();
    Ok(body::ok(&body::with_warnings(json!({ "Warnings": null }), response.warnings)))
}

/// The same, to be planned.
pub(super) async fn rebalance_request(s: &ApiState, name: &str) -> ApiResult<UpdateServiceRequest> {
    let id = find(s, name).await?.0.service.map(|s| s.id).unwrap_or_default();
    Ok(UpdateServiceRequest { id, rebalance: true, ..UpdateServiceRequest::default() })
}

/// The header that agents will pull with.
fn registry_auth(headers: &HeaderMap) -> String {
    let credentials = transfer::credentials(headers);
    if credentials.is_empty() { String::new() } else { credentials.to_header() }
}

fn auth_of(spec: Option<&ServiceSpec>) -> String {
    let container = spec.and_then(|s| s.task.as_ref()).and_then(|t| t.container.as_ref());
    container.map(|c| c.registry_auth.clone()).unwrap_or_default()
}

fn set_auth(spec: &mut ServiceSpec, auth: String) {
    if let Some(container) = spec.task.as_mut().and_then(|t| t.container.as_mut()) {
        container.registry_auth = auth;
    }
}

async fn remove(State(s): State<ApiState>, Path(name): Path<String>) -> ApiResult {
    let control = s.control()?;
    let id = find(&s, &name).await?.0.service.map(|s| s.id).unwrap_or_default();
    control.remove_service(tonic::Request::new(RemoveRequest { id })).await?;
    Ok(StatusCode::OK.into_response())
}
