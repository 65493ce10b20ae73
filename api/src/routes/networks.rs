//! `/networks`: the bridges of this host, the networks of the swarm, and the two that are none.

use std::net::IpAddr;

use axum::extract::{Query, Request, State};
use axum::http::StatusCode;
use axum::response::IntoResponse;
use axum::routing::{get, post};
use axum::{Extension, Router};
use serde::Deserialize;
use serde_json::{Map, Value, json};
use skep_engine::{NetworkJoin, NetworkRef};
use skep_proto::v1::{
    CreateNetworkRequest, DescribeNetworkRequest, DescribeNetworkResponse, ListNetworksRequest, RemoveRequest,
};

use super::body;
use super::to_end::Client;
use crate::convert::network::{self, Create};
use crate::convert::{container, time};
use crate::error::{ApiError, ApiResult, listed};
use crate::fields::{Fields, Unknown};
use crate::filters::Filters;
use crate::path::Path;
use crate::state::ApiState;
use crate::swarm::LocalState;

pub(super) fn routes() -> Router<ApiState> {
    Router::new()
        .route("/networks", get(list))
        .route("/networks/create", post(create))
        .route("/networks/prune", post(prune))
        .route("/networks/{id}/connect", post(connect))
        .route("/networks/{id}/disconnect", post(disconnect))
        .route("/networks/{id}", get(inspect).delete(remove))
}

#[derive(Deserialize)]
struct List {
    filters: Option<String>,
}

/// All networks this node knows of, as they are shown, and whether the swarm's part is stale.
async fn all(s: &ApiState) -> ApiResult<(Vec<Value>, bool)> {
    let bridges = s.dataplane().list_bridges();
    let mut shown: Vec<Value> = bridges.iter().map(network::local).collect();
    shown.extend(s.dataplane().list_configs().iter().map(network::config));
    shown.extend(network::FIXED.map(network::fixed));
    let mut stale = false;
    if let Some(control) = s.swarm().control() {
        let request = tonic::Request::new(ListNetworksRequest::default());
        let response = control.list_networks(request).await?.into_inner();
        stale = response.stale;
        shown.extend(response.networks.iter().map(network::swarm));
    } else {
        // A worker knows the networks that it has containers in.
        shown.extend(s.dataplane().list_overlays().iter().map(network::joined));
    }
    let containers = s.engine().list();
    for network in &mut shown {
        let mut members = Map::new();
        for c in &containers {
            for e in c.endpoints.iter().filter(|e| network["Id"] == e.network_id) {
                let v6 = e.v6.as_ref().map(|v6| format!("{}/{}", v6.addr, v6.prefix_len));
                let v4 = e.addr.map(|addr| format!("{addr}/{}", e.prefix_len));
                let member = json!({
                    "Name": c.name,
                    "EndpointID": e.endpoint_id,
                    "MacAddress": e.mac,
                    "IPv4Address": v4.unwrap_or_default(),
                    "IPv6Address": v6.unwrap_or_default(),
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
    let names = filters.patterns("name");
    shown.retain(|n| network::matches(&filters, &names, n));
    for network in &mut shown {
        // Only inspect tells who is in it.
        network["Containers"] = json!({});
    }
    Ok(body::swarm(&shown.into(), stale))
}

#[derive(Deserialize)]
struct Inspect {
    scope: Option<String>,
    verbose: Option<String>,
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
    let (mut shown, stale) = find(&s, &name, q.scope.as_deref().unwrap_or_default()).await?;
    if shown["Scope"] == "swarm"
        && let Some(members) = members(&s, shown["Id"].as_str().unwrap_or_default()).await?
    {
        network::members::insert(&mut shown, &members, body::flag(q.verbose.as_deref()));
    }
    Ok(body::swarm(&shown, stale))
}

/// Who is in a network of the swarm, as far as this node knows.
async fn members(s: &ApiState, id: &str) -> ApiResult<Option<DescribeNetworkResponse>> {
    let Some(control) = s.swarm().control() else {
        let overlays = s.dataplane().list_overlays();
        let found = overlays.iter().find(|n| n.id == id);
        return Ok(found.map(|n| network::members::known_here(n, &s.swarm().local())));
    };
    let request = tonic::Request::new(DescribeNetworkRequest { id: id.to_owned() });
    Ok(Some(control.describe_network(request).await?.into_inner()))
}

async fn create(State(s): State<ApiState>, request: Request) -> ApiResult {
    let unknown = Unknown::default();
    let fields = Fields::parse_telling(&body::read(request).await?, &unknown)?;
    let mut warnings = Vec::new();
    let id = match network::read(fields)? {
        Create::Overlay(spec) => {
            let request = tonic::Request::new(CreateNetworkRequest { spec: Some(*spec) });
            let response = s.control()?.create_network(request).await?.into_inner();
            response.network.map(|n| n.id).unwrap_or_default()
        }
        Create::Config(spec) => {
            let made = s.dataplane().create_config(spec).await?;
            tell_local(&s, "create", (&made.id, &made.spec.name, "null"));
            made.id
        }
        Create::Local(mut spec) => {
            if !spec.config_from.is_empty() {
                let all = s.dataplane().list_configs();
                let found = all.iter().find(|c| c.spec.name == spec.config_from || c.id == spec.config_from);
                let from = found.ok_or_else(|| {
                    ApiError::not_found(format!(
                        "configuration network {:?} does not exist",
                        spec.config_from
                    ))
                })?;
                spec.config_from.clone_from(&from.spec.name);
                spec = network::with_settings(spec, &from.spec);
            }
            if spec.config_from.is_empty() {
                let usual = s.info().network_options.get(spec.driver.as_str()).cloned().unwrap_or_default();
                spec.options = usual.into_iter().chain(std::mem::take(&mut spec.options)).collect();
            }
            let strange = skep_overlay::unknown_options(&spec);
            let made = s.dataplane().create_bridge(spec).await?;
            tell_local(&s, "create", (&made.id, &made.name, made.driver.as_str()));
            let driver = made.driver.as_str();
            let say = |o: String| {
                format!("option {o} means nothing to driver {driver}: it is kept and shown, and does nothing")
            };
            warnings.extend(strange.into_iter().map(say));
            made.id
        }
    };
    warnings.extend(unknown.warnings());
    Ok(body::json(StatusCode::CREATED, &json!({ "Id": id, "Warning": warnings.join("\n") })))
}

/// The swarm tells of its own networks.
fn tell_local(s: &ApiState, action: &str, (id, name, driver): (&str, &str, &str)) {
    let attributes = [("name", name), ("type", driver)].map(|(k, v)| (k.to_owned(), v.to_owned()));
    s.engine().tell("network", action, id, attributes.into());
}

/// The network as the engine is told of it. A worker does not know all networks of its swarm: whether this one is
/// there shows when a container joins it.
async fn reference(s: &ApiState, wanted: &str) -> ApiResult<NetworkRef> {
    match find(s, wanted, "").await {
        Ok((shown, _)) => {
            let text = |key: &str| shown[key].as_str().unwrap_or_default().to_owned();
            Ok(NetworkRef { id: text("Id"), name: text("Name") })
        }
        Err(e) if e.status == StatusCode::NOT_FOUND => {
            let swarm = s.swarm();
            let worker = swarm.local().state == LocalState::Active && swarm.control().is_none();
            let unknown = NetworkRef { id: wanted.to_owned(), name: wanted.to_owned() };
            worker.then_some(unknown).ok_or(e)
        }
        Err(e) => Err(e),
    }
}

async fn connect(State(s): State<ApiState>, Path(name): Path<String>, request: Request) -> ApiResult {
    let mut f = Fields::parse(&body::read(request).await?)?;
    let container = f.string("Container")?;
    let settings = f.object("EndpointConfig")?;
    f.refuse_rest(&[])?;
    let network = reference(&s, &name).await?;
    if network.name == "host" {
        return Err(ApiError::bad_request(
            "container cannot be disconnected from host network or connected to host network",
        ));
    }
    if network.name == "none" {
        return Err(ApiError::bad_request(
            "container cannot be connected to multiple networks with one of the networks in private (none) mode",
        ));
    }
    let join = container::read_join(&network.name, settings)?;
    container::check_join(&join)?;
    check_place(&s, &join)?;
    s.engine().connect(&container, &network, join).await?;
    Ok(StatusCode::OK.into_response())
}

/// Checks the addresses that a container is to have in a network of this host, where there is one of that name.
pub(super) fn check_place(s: &ApiState, join: &NetworkJoin) -> ApiResult<()> {
    let Ok(bridge) = s.dataplane().inspect_bridge(&join.network) else { return Ok(()) };
    let mut wrong = Vec::new();
    let mut tell = |addr: IpAddr, within: Option<bool>, chosen: bool| match within {
        Some(_) if !chosen => wrong.push(skep_overlay::Error::UnchosenSubnet.to_string()),
        Some(true) => {}
        _ => wrong.push(format!("no configured subnet contains IP address {addr}")),
    };
    if let Some(IpAddr::V4(addr)) = join.addr {
        tell(addr.into(), bridge.subnet.map(|s| s.contains(addr)), bridge.chosen);
    }
    if let Some(addr) = join.addr6 {
        let range = bridge.v6.as_ref();
        tell(addr.into(), range.map(|r| r.subnet.contains(addr)), range.is_some_and(|r| r.chosen));
    }
    match wrong.is_empty() {
        true => Ok(()),
        false => Err(ApiError::bad_request(format!("invalid endpoint settings:\n{}", listed(&wrong)))),
    }
}

async fn disconnect(State(s): State<ApiState>, Path(name): Path<String>, request: Request) -> ApiResult {
    let mut f = Fields::parse(&body::read(request).await?)?;
    let (container, force) = (f.string("Container")?, f.bool("Force")?);
    f.refuse_rest(&[])?;
    let network = reference(&s, &name).await?;
    match s.engine().disconnect(&container, &network).await {
        // By force, one that is gone already is as good as disconnected.
        Err(skep_engine::Error::NoSuchContainer { .. }) if force => {}
        outcome => outcome?,
    }
    Ok(StatusCode::OK.into_response())
}

#[derive(Deserialize)]
struct Prune {
    filters: Option<String>,
}

/// Removes the networks that no container and no service uses; tells their names.
async fn prune(
    State(s): State<ApiState>,
    Extension(client): Extension<Client>,
    Query(q): Query<Prune>,
) -> ApiResult {
    let filters = Filters::parse(q.filters.as_deref(), network::PRUNE_FILTERS)?;
    let until = filters.values("until").map(time::until).collect::<ApiResult<Vec<_>>>()?;
    let until = until.into_iter().min();
    let mut deleted = Vec::new();
    for shown in all(&s).await?.0 {
        let text = |key: &str| shown[key].as_str().unwrap_or_default().to_owned();
        let created = time::parse("Created", &text("Created")).ok().flatten().unwrap_or(0);
        if client.has_left() || !network::prunable(&filters, until, created, &shown) {
            continue;
        }
        let swarm = text("Scope") == "swarm";
        let removed = match (swarm, s.swarm().control()) {
            (true, Some(control)) => {
                let request = tonic::Request::new(RemoveRequest { id: text("Id") });
                control.remove_network(request).await.map(drop).map_err(ApiError::from)
            }
            (true, None) => continue,
            (false, _) => s.dataplane().remove_bridge(&text("Id")).await.map_err(ApiError::from),
        };
        if removed.is_ok() && !swarm {
            tell_local(&s, "destroy", (&text("Id"), &text("Name"), &text("Driver")));
        }
        match removed {
            Ok(()) => deleted.push(text("Name")),
            // In use, or gone meanwhile.
            Err(e) => tracing::debug!(network = text("Name"), error = %e, "not pruned"),
        }
    }
    // They take no space.
    s.engine().tell("network", "prune", "", [("reclaimed".to_owned(), "0".to_owned())].into());
    Ok(body::ok(&json!({ "NetworksDeleted": if deleted.is_empty() { Value::Null } else { json!(deleted) } })))
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
    if shown["ConfigOnly"] == true {
        s.dataplane().remove_config(&id).await?;
        tell_local(&s, "destroy", (&id, &name, "null"));
    } else if text("Scope") == "swarm" {
        s.control()?.remove_network(tonic::Request::new(RemoveRequest { id })).await?;
    } else {
        s.dataplane().remove_bridge(&id).await?;
        tell_local(&s, "destroy", (&id, &name, &text("Driver")));
    }
    Ok(StatusCode::NO_CONTENT.into_response())
}
