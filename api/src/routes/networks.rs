//! `/networks`: the bridges of this host, the networks of the swarm, and the two that are none.

use axum::Router;
use axum::extract::{Path, Query, Request, State};
use axum::http::StatusCode;
use axum::response::IntoResponse;
use axum::routing::{get, post};
use serde::Deserialize;
use serde_json::{Map, Value, json};
use skep_proto::v1::{CreateNetworkRequest, ListNetworksRequest, RemoveRequest};

use super::body;
use crate::convert::network::{self, Create};
use crate::error::{ApiError, ApiResult};
use crate::filters::Filters;
use crate::state::ApiState;

pub(super) fn routes() -> Router<ApiState> {
    Router::new()
        .route("/networks", get(list))
        .route("/networks/create", post(create))
        .route("/networks/{id}", get(inspect).delete(remove))
}

#[derive(Deserialize)]
struct List {
    filters: Option<String>,
}

/// All networks this node knows of, as they are shown, and whether the swarm's part is stale.
async fn all(s: &ApiState) -> ApiResult<(Vec<Value>, bool)> {
    let bridges = s.dataplane().list_bridges();
    let mut shown: Vec<Value> = bridges.iter().map(network::bridge).collect();
    shown.extend(network::FIXED.map(network::fixed));
    let mut stale = false;
    if let Some(control) = s.swarm().control() {
        let request = tonic::Request::new(ListNetworksRequest::default());
        let response = control.list_networks(request).await?.into_inner();
        stale = response.stale;
        shown.extend(response.networks.iter().map(network::swarm));
    }
    let containers = s.engine().list();
    for network in &mut shown {
        let mut members = Map::new();
        for c in &containers {
            for e in c.endpoints.iter().filter(|e| network["Id"] == e.network_id) {
                let member = json!({
                    "Name": c.name,
                    "EndpointID": e.endpoint_id,
                    "MacAddress": e.mac,
                    "IPv4Address": format!("{}/{}", e.addr, e.prefix_len),
                    "IPv6Address": "",
                });
                members.insert(c.id.as_str().to_owned(), member);
            }
        }
        if !members.is_empty() {
            network["Containers"] = members.into();
        }
    }
    Ok((shown, stale))
}

async fn list(State(s): State<ApiState>, Query(q): Query<List>) -> ApiResult {
    let filters = Filters::parse(q.filters.as_deref(), network::FILTERS)?;
    network::check(&filters)?;
    let (mut shown, stale) = all(&s).await?;
    shown.retain(|n| network::matches(&filters, n));
    for network in &mut shown {
        // Only inspect tells who is in it.
        network["Containers"] = json!({});
    }
    Ok(body::swarm(&shown.into(), stale))
}

#[derive(Deserialize)]
struct Inspect {
    scope: Option<String>,
}

/// The one network of this name, ID or unique beginning of an ID.
async fn find(s: &ApiState, wanted: &str, scope: &str) -> ApiResult<(Value, bool)> {
    let (mut shown, stale) = all(s).await?;
    shown.retain(|n| {
        let text = |key: &str| n[key].as_str().unwrap_or_default();
        (text("Name") == wanted || text("Id").starts_with(wanted))
            && (scope.is_empty() || text("Scope") == scope)
    });
    let id = |n: &Value| n["Id"].as_str().unwrap_or_default().to_owned();
    Ok((body::one("network", wanted, shown, id, |n| n["Name"] == wanted)?, stale))
}

async fn inspect(State(s): State<ApiState>, Path(name): Path<String>, Query(q): Query<Inspect>) -> ApiResult {
    let (shown, stale) = find(&s, &name, q.scope.as_deref().unwrap_or_default()).await?;
    Ok(body::swarm(&shown, stale))
}

async fn create(State(s): State<ApiState>, request: Request) -> ApiResult {
    let id = match network::read(&body::read(request).await?)? {
        Create::Overlay(spec) => {
            let request = tonic::Request::new(CreateNetworkRequest { spec: Some(*spec) });
            let response = s.control()?.create_network(request).await?.into_inner();
            response.network.map(|n| n.id).unwrap_or_default()
        }
        Create::Bridge(spec) => s.dataplane().create_bridge(spec).await?.id,
    };
    Ok(body::json(StatusCode::CREATED, &json!({ "Id": id, "Warning": "" })))
}

async fn remove(State(s): State<ApiState>, Path(name): Path<String>) -> ApiResult {
    let (shown, _) = find(&s, &name, "").await?;
    let text = |key: &str| shown[key].as_str().unwrap_or_default().to_owned();
    let (id, name) = (text("Id"), text("Name"));
    if network::FIXED.contains(&name.as_str()) || name == "bridge" {
        return Err(ApiError::new(
            StatusCode::FORBIDDEN,
            format!("{name} is a pre-defined network and cannot be removed"),
        ));
    }
    if text("Scope") == "swarm" {
        s.control()?.remove_network(tonic::Request::new(RemoveRequest { id })).await?;
    } else {
        s.dataplane().remove_bridge(&id).await?;
    }
    Ok(StatusCode::NO_CONTENT.into_response())
}
