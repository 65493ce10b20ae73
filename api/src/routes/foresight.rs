//! Skep's own: why tasks are where they are (`/services/{id}/explain`, `/tasks/{id}/explain`), and what would come of
//! requests that are not made (`/plan`).

use axum::Router;
use axum::extract::{Request, State};
use axum::http::{HeaderMap, HeaderValue};
use axum::routing::{get, post};
use serde_json::{Value, json};
use skep_proto::v1::planned_write::Write;
use skep_proto::v1::{
    CreateDependencyRequest, CreateNetworkRequest, CreateServiceRequest, DependencyKind, ExplainRequest,
    NodeVerdict, PlanRequest, PlanStep, PlannedWrite, RemoveRequest, TaskExplanation, UpdateNodeRequest,
};

use super::{body, nodes, services, tasks};
use crate::convert::names::Named;
use crate::convert::{dependency, network, node};
use crate::error::{ApiError, ApiResult};
use crate::fields::Fields;
use crate::path::Path;
use crate::state::ApiState;

pub(super) fn routes() -> Router<ApiState> {
    Router::new()
        .route("/services/{id}/explain", get(explain_service))
        .route("/tasks/{id}/explain", get(explain_task))
        .route("/plan", post(plan))
}

async fn explain_service(State(s): State<ApiState>, Path(name): Path<String>) -> ApiResult {
    let service = services::find(&s, &name).await?.0.service.map(|s| s.id).unwrap_or_default();
    explain(&s, ExplainRequest { service, task: String::new() }).await
}

async fn explain_task(State(s): State<ApiState>, Path(id): Path<String>) -> ApiResult {
    let task = tasks::find(&s, &id).await?.0.task.map(|t| t.id).unwrap_or_default();
    explain(&s, ExplainRequest { service: String::new(), task }).await
}

async fn explain(s: &ApiState, request: ExplainRequest) -> ApiResult {
    let response = s.control()?.explain(tonic::Request::new(request)).await?.into_inner();
    let tasks: Vec<Value> = response.tasks.iter().map(explanation).collect();
    Ok(body::swarm(&json!({ "Tasks": tasks, "Notes": response.notes }), response.stale))
}

fn explanation(e: &TaskExplanation) -> Value {
    let t = e.task.clone().unwrap_or_default();
    let place = if t.slot == 0 { t.node_id.clone() } else { t.slot.to_string() };
    let state = t.status.as_ref().map_or(0, |s| s.state);
    let mut out = json!({
        "ID": t.id, "Name": format!("{}.{place}", e.service_name), "NodeID": t.node_id,
        "State": skep_proto::v1::TaskState::word(state),
        "DesiredState": skep_proto::v1::TaskState::word(t.desired_state),
        "Standing": e.standing,
    });
    if e.judged {
        let nodes: Vec<Value> = e.nodes.iter().map(verdict).collect();
        out["Placement"] = json!({ "GoesTo": e.goes_to, "Why": e.why, "Nodes": nodes });
    }
    out
}

fn verdict(v: &NodeVerdict) -> Value {
    json!({
        "ID": v.node_id, "Hostname": v.hostname, "Fits": v.refusal.is_empty(), "Refusal": v.refusal,
        "Failures": v.failures, "ServiceTasks": v.service_tasks, "Tasks": v.tasks,
    })
}

/// `{"Requests": [{"Method", "Path", "Body", "ID", "Auth"}]}`: each as it would be sent, but for the ID that what it
/// creates is to be known by in the requests after it.
async fn plan(State(s): State<ApiState>, request: Request) -> ApiResult {
    let control = s.control()?;
    let mut f = Fields::parse(&body::read(request).await?)?;
    let mut writes = Vec::new();
    for planned in f.objects("Requests")? {
        writes.push(read(&s, planned).await?);
    }
    f.refuse_rest(&[])?;
    let response = control.plan(tonic::Request::new(PlanRequest { writes })).await?.into_inner();
    let steps: Vec<Value> = response.steps.iter().map(step).collect();
    Ok(body::swarm(&json!({ "Steps": steps, "Complete": response.complete }), response.stale))
}

fn step(s: &PlanStep) -> Value {
    json!({
        "After": s.after_ms.saturating_mul(1_000_000), "Act": s.act, "Service": s.service, "Slot": s.slot,
        "Node": s.node, "Why": s.why,
    })
}

async fn read(s: &ApiState, mut f: Fields) -> ApiResult<PlannedWrite> {
    let (id, method, path, auth) =
        (f.string("ID")?, f.string("Method")?, f.string("Path")?, f.string("Auth")?);
    let content = serde_json::to_vec(&f.take("Body").unwrap_or_else(|| json!({}))).unwrap_or_default();
    f.refuse_rest(&[])?;
    let mut headers = HeaderMap::new();
    if let Ok(value) = HeaderValue::from_str(&auth)
        && !auth.is_empty()
    {
        headers.insert("X-Registry-Auth", value);
    }
    let (path, query) = path.split_once('?').unwrap_or((&path, ""));
    let parts: Vec<&str> = path.trim_start_matches('/').split('/').collect();
    let unknown = || ApiError::bad_request(format!("{method} {path} cannot be planned"));
    let write = match (method.as_str(), parts.as_slice()) {
        ("DELETE", ["services", name]) => {
            let id = services::find(s, name).await?.0.service.map(|s| s.id).unwrap_or_default();
            Write::RemoveService(RemoveRequest { id })
        }
        ("POST", ["services", "create"]) => Write::CreateService(CreateServiceRequest {
            spec: Some(services::spec(&headers, Fields::parse(&content)?)?),
        }),
        ("POST", ["services", name, "update"]) => Write::UpdateService(
            services::update_request(s, name, query, &headers, Fields::parse(&content)?).await?,
        ),
        ("POST", ["services", name, "rebalance"]) => {
            Write::UpdateService(services::rebalance_request(s, name).await?)
        }
        ("POST", ["nodes", name, "update"]) => {
            let version = body::version(argument(query, "version"), "node")?;
            let spec = Some(node::read_spec(&content)?);
            let id = nodes::find(s, name).await?.0.id;
            Write::UpdateNode(UpdateNodeRequest { id, version, spec })
        }
        ("POST", ["networks", "create"]) => match network::read(Fields::parse(&content)?)? {
            network::Create::Overlay(spec) => {
                Write::CreateNetwork(CreateNetworkRequest { spec: Some(*spec) })
            }
            network::Create::Local(_) | network::Create::Config(_) => return Err(unknown()),
        },
        ("POST", [kind @ ("secrets" | "configs"), "create"]) => {
            let kind = if *kind == "secrets" { DependencyKind::Secret } else { DependencyKind::Config };
            let spec = Some(dependency::read_spec(Fields::parse(&content)?)?);
            Write::CreateDependency(CreateDependencyRequest { kind: kind.into(), spec })
        }
        _ => return Err(unknown()),
    };
    Ok(PlannedWrite { id, write: Some(write) })
}

fn argument<'a>(query: &'a str, name: &str) -> Option<&'a str> {
    query.split('&').find_map(|pair| pair.strip_prefix(name)?.strip_prefix('='))
}
