//! `_ping`, `version`, `info`; `system/check`, which is Skep's own.

use axum::Router;
use axum::extract::State;
use axum::http::{HeaderMap, HeaderValue, Method, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use serde_json::{Value, json};
use skep_engine::OWN;
use skep_proto::v1::{GetClusterRequest, ListNodesRequest};
use tonic::Request;

use super::body;
use crate::convert::{cluster, generic, time};
use crate::error::{ApiError, ApiResult};
use crate::state::ApiState;
use crate::swarm::LocalState;
use crate::version::{API, MINIMUM};

pub(super) fn routes() -> Router<ApiState> {
    Router::new()
        .route("/_ping", get(ping))
        .route("/version", get(version))
        .route("/info", get(info))
        .route("/system/check", get(check))
}

/// Skep's own: whether the kernel's network is what it should be.
async fn check(State(s): State<ApiState>) -> ApiResult<Response> {
    let report = s.dataplane().report().await.map_err(|e| ApiError::internal(e.to_string()))?;
    Ok(body::ok(&json!({
        "Differences": report.differences,
        "Containers": report.containers,
        "Networks": report.networks,
        "Ports": report.ports,
    })))
}

async fn ping(State(s): State<ApiState>, method: Method) -> Response {
    let local = s.swarm().local();
    let swarm = match (local.state, local.control_available) {
        (LocalState::Active, true) => "active/manager",
        (LocalState::Active, false) => "active/worker",
        (state, _) => state.as_str(),
    };
    let mut headers = HeaderMap::new();
    for (name, value) in [
        // 1 is the builder without BuildKit.
        ("Builder-Version", "1"),
        ("Docker-Experimental", if s.info().experimental { "true" } else { "false" }),
        ("Cache-Control", "no-cache, no-store, must-revalidate"),
        ("Pragma", "no-cache"),
        ("Swarm", swarm),
    ] {
        headers.insert(name, HeaderValue::from_static(value));
    }
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8"));
    let text = if method == Method::HEAD { "" } else { "OK" };
    (headers, text).into_response()
}

async fn version(State(s): State<ApiState>) -> Response {
    let (info, host) = (s.info(), s.engine().info());
    let arch = if host.arch == "x86_64" { "amd64" } else { &host.arch };
    let (api, minimum) = (API.to_string(), MINIMUM.to_string());
    body::ok(&json!({
        "Platform": { "Name": "Skep" },
        "Components": [{
            "Name": "Engine",
            "Version": info.version,
            "Details": {
                "ApiVersion": api, "MinAPIVersion": minimum, "Arch": arch, "Os": "linux",
                "KernelVersion": host.kernel, "BuildTime": info.build_time,
                "GitCommit": info.git_commit, "GoVersion": "none (Rust)", "Experimental": info.experimental.to_string(),
            },
        }],
        "Version": info.version,
        "ApiVersion": api,
        "MinAPIVersion": minimum,
        "GitCommit": info.git_commit,
        "GoVersion": "none (Rust)",
        "Os": "linux",
        "Arch": arch,
        "KernelVersion": host.kernel,
        "BuildTime": info.build_time,
    }))
}

async fn info(State(s): State<ApiState>) -> Response {
    let (info, host) = (s.info(), s.engine().info());
    let (swarm, mut warnings) = swarm_info(&s).await;
    let seccomp = format!("name=seccomp,profile={}", info.seccomp_profile);
    let mut security: Vec<&str> =
        skep_engine::lsm::apparmor::is_enabled().then_some("name=apparmor").into_iter().collect();
    security.push(&seccomp);
    security.extend(skep_engine::lsm::selinux::is_enabled().then_some("name=selinux"));
    let trouble = tokio::task::spawn_blocking(skep_engine::lsm::apparmor::trouble).await.ok().flatten();
    warnings.extend(trouble.map(|t| format!("WARNING: containers run unconfined by AppArmor: {t}")));
    security.extend(s.engine().userns().map(|_| "name=userns"));
    security.push("name=cgroupns");
    security.extend(s.engine().defaults().no_new_privileges.then_some("name=no-new-privileges"));
    // Both read files, and the one above may run a program.
    let engine = s.engine().clone();
    let devices = tokio::task::spawn_blocking(move || engine.cdi_devices()).await.unwrap_or_default();
    warnings.extend(devices.errors.iter().map(|e| format!("CDI: {e}")));
    let now = time::from_ns(time::now_ns());
    let proxies = s.engine().images().registries().options().proxies.or_environment().shown();
    let mut out = json!({
        "ID": info.id,
        "Containers": host.containers,
        "ContainersRunning": host.running,
        "ContainersPaused": host.paused,
        "ContainersStopped": host.stopped,
        "Images": host.images,
        "Driver": host.storage_driver,
        "DriverStatus": [],
        "Plugins": { "Volume": ["local"], "Network": ["bridge", "host", "ipvlan", "macvlan", "null", "overlay"], "Authorization": null, "Log": skep_engine::LOG_DRIVERS },
        "MemoryLimit": true,
        "SwapLimit": true,
        "CpuCfsPeriod": true,
        "CpuCfsQuota": true,
        "CPUShares": true,
        "CPUSet": true,
        "PidsLimit": true,
        "IPv4Forwarding": true,
        "Debug": info.debug,
        "NFd": 0,
        "OomKillDisable": host.cgroup_version == 1,
        "NGoroutines": 0,
        "SystemTime": now,
        "LoggingDriver": s.engine().default_log().clone().with_default(&Default::default()).driver,
        "CgroupDriver": host.cgroup_driver,
        "CgroupVersion": host.cgroup_version.to_string(),
        "NEventsListener": 0,
    });
    let more = json!({
        "KernelVersion": host.kernel,
        "OperatingSystem": host.os,
        "OSVersion": "",
        "OSType": "linux",
        "Architecture": host.arch,
        "IndexServerAddress": "https://index.docker.io/v1/",
        "RegistryConfig": registry_config(s.engine().images().registries().options()),
        "NCPU": host.ncpu,
        "MemTotal": host.mem_total,
        "GenericResources": if info.generic.is_empty() { Value::Null } else { generic::write(&info.generic) },
        "DockerRootDir": info.data_root,
        "HttpProxy": proxies.http,
        "HttpsProxy": proxies.https,
        "NoProxy": proxies.none,
        "Name": host.hostname,
        "Labels": info.labels,
        "ExperimentalBuild": info.experimental,
        "ServerVersion": info.version,
        "Runtimes": runtimes(&s.engine().runtimes()),
        "DefaultRuntime": s.engine().runtimes().default,
        "Swarm": swarm,
        "LiveRestoreEnabled": info.live_restore,
        "Isolation": "",
        "InitBinary": s.engine().defaults().init_path.as_deref().unwrap_or("skep".as_ref()),
        "SecurityOptions": security,
        "CDISpecDirs": s.engine().cdi_spec_dirs(),
        "DiscoveredDevices": devices.names().map(|n| json!({ "Source": "cdi", "ID": n })).collect::<Vec<_>>(),
        "Warnings": if warnings.is_empty() { Value::Null } else { json!(warnings) },
    });
    if let (Some(out), Value::Object(more)) = (out.as_object_mut(), more) {
        out.extend(more);
    }
    body::ok(&out)
}

/// How registries are asked, in Docker's form.
fn registry_config(o: &skep_registry::Options) -> Value {
    let (networks, names): (Vec<_>, Vec<_>) = o.insecure.iter().partition(|i| i.contains('/'));
    let mirrors: Vec<String> = o.mirrors.iter().map(|m| format!("{}/", m.trim_end_matches('/'))).collect();
    let mut networks: Vec<&str> = networks.into_iter().map(String::as_str).collect();
    networks.extend(["::1/128", "127.0.0.0/8"]);
    let hub = json!({ "Name": "docker.io", "Mirrors": mirrors, "Secure": true, "Official": true });
    let mut indexes = serde_json::Map::from_iter([("docker.io".to_owned(), hub)]);
    for name in names {
        let index = json!({ "Name": name, "Mirrors": [], "Secure": false, "Official": false });
        indexes.insert(name.clone(), index);
    }
    json!({ "InsecureRegistryCIDRs": networks, "IndexConfigs": indexes, "Mirrors": mirrors })
}

/// What containers can be made by, in Docker's form.
fn runtimes(all: &skep_engine::Runtimes) -> Value {
    let mut out = serde_json::Map::from_iter([(OWN.to_owned(), json!({ "path": OWN }))]);
    for (name, runtime) in &all.external {
        let mut shown = json!({ "path": runtime.path });
        if !runtime.args.is_empty() {
            shown["runtimeArgs"] = json!(runtime.args);
        }
        out.insert(name.clone(), shown);
    }
    out.into()
}

/// `info`'s `Swarm`, and what a user should be warned of. Answers what is known locally when the
/// managers do not.
async fn swarm_info(s: &ApiState) -> (Value, Vec<String>) {
    let local = s.swarm().local();
    let managers: Vec<Value> =
        local.managers.iter().map(|(id, addr)| json!({ "NodeID": id, "Addr": addr })).collect();
    let mut out = json!({
        "NodeID": local.node_id,
        "NodeAddr": local.node_addr,
        "LocalNodeState": local.state.as_str(),
        "ControlAvailable": local.control_available,
        "Error": local.error,
        "RemoteManagers": if managers.is_empty() { Value::Null } else { json!(managers) },
    });
    let Some(control) = s.swarm().control() else { return (out, Vec::new()) };
    let mut stale = false;
    let mut warnings = Vec::new();
    match control.get_cluster(Request::new(GetClusterRequest {})).await {
        Ok(response) => {
            let response = response.into_inner();
            stale |= response.stale;
            if let Some(c) = &response.cluster {
                out["Cluster"] = cluster::cluster_info(c);
            }
        }
        Err(e) => warnings.push(format!("the swarm does not answer: {}", e.message())),
    }
    match control.list_nodes(Request::new(ListNodesRequest::default())).await {
        Ok(response) => {
            let response = response.into_inner();
            stale |= response.stale;
            out["Nodes"] = response.nodes.len().into();
            out["Managers"] = response.nodes.iter().filter(|n| n.manager.is_some()).count().into();
        }
        Err(e) => warnings.push(format!("the swarm does not answer: {}", e.message())),
    }
    if stale {
        warnings.push("the swarm has no leader: what is shown of it may be out of date".into());
    }
    warnings.dedup();
    if let (false, true) = (warnings.is_empty(), out["Error"] == "") {
        out["Error"] = warnings[0].clone().into();
    }
    (out, warnings)
}
