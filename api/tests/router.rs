//! The API over a real unix socket with a real engine and data plane, on a host in no swarm: what a
//! client sees of negotiation, errors, filters, images and networks.
//!
//! The engine and the data plane live in a network namespace of this test's own thread.

#[path = "router/leaving.rs"]
mod leaving;
#[path = "router/queries.rs"]
mod queries;
#[path = "router/targets.rs"]
mod targets;

use std::path::Path;
use std::sync::Arc;

use async_trait::async_trait;
use axum::body::Body;
use hyper::{Method, Request, Response};
use hyper_util::rt::TokioIo;
use serde_json::{Value, json};
use skep_api::swarm::{
    ControlHandle, InitRequest, JoinRequest, LocalSwarm, LogsHandle, ReaddressRequest, Swarm, SwarmError,
    TunnelsHandle,
};
use skep_api::{ApiState, DaemonInfo, Listener};
use skep_engine::{Engine, EngineOptions, NoNetworks};
use skep_overlay::{DataPlane, DataPlaneOptions};
use tokio_util::sync::CancellationToken;

/// A host that is in no swarm.
struct Alone;

#[async_trait]
impl Swarm for Alone {
    async fn init(&self, _: InitRequest) -> Result<String, SwarmError> {
        Err(SwarmError::Failed("this host stays alone".into()))
    }
    async fn join(&self, _: JoinRequest) -> Result<(), SwarmError> {
        Err(SwarmError::Failed("this host stays alone".into()))
    }
    async fn unlock(&self, _: &str) -> Result<(), SwarmError> {
        Err(SwarmError::NotLocked)
    }
    async fn readdress(&self, _: ReaddressRequest) -> Result<(), SwarmError> {
        Err(SwarmError::NotMember)
    }
    async fn leave(&self, _: bool) -> Result<(), SwarmError> {
        Err(SwarmError::NotMember)
    }
    fn local(&self) -> LocalSwarm {
        LocalSwarm::default()
    }
    fn control(&self) -> Option<ControlHandle> {
        None
    }
    fn logs(&self) -> Option<LogsHandle> {
        None
    }
    fn tunnels(&self) -> Option<TunnelsHandle> {
        None
    }
}

/// Runs a test against a daemon of its own.
fn with_daemon<F, Fut>(name: &str, test: F)
where
    F: FnOnce(Client) -> Fut,
    Fut: Future<Output = ()>,
{
    nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWNET).expect("a namespace, as root");
    let dir = tempfile::tempdir().expect("temporary directory");
    let root = dir.path().to_owned();
    let instance = format!("{name}{}", std::process::id() % 100);
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().expect("a runtime");
    runtime.block_on(async move {
        let helper_exe = std::env::current_exe().expect("own path");
        let dataplane = DataPlane::start(DataPlaneOptions {
            data_root: root.join("data"),
            exec_root: root.join("exec"),
            instance: instance.clone(),
            helper_exe: helper_exe.clone(),
            solo: false,
            default_bridge: Default::default(),
            pools: Default::default(),
            without_relays: false,
        })
        .await
        .expect("a data plane");
        let engine = Engine::open(EngineOptions {
            data_root: root.join("data"),
            exec_root: root.join("exec"),
            instance,
            cgroup_parent: None,
            helper_exe,
            default_log: Default::default(),
            runtimes: Default::default(),
            cdi_spec_dirs: Vec::new(),
            defaults: Default::default(),
            real_time: (0, 0),
            userns: None,
            networking: Arc::new(NoNetworks),
        })
        .await
        .expect("an engine");
        let info = DaemonInfo { version: "1.2.3".into(), ..DaemonInfo::default() };
        let state = ApiState::new(engine.clone(), dataplane.clone(), Arc::new(Alone), info);
        let socket = root.join("api.sock");
        let listener = Listener::unix(&socket, None).await.expect("a socket");
        let stop = CancellationToken::new();
        let served = tokio::spawn(skep_api::serve(vec![listener], state, stop.clone().cancelled_owned()));
        test(Client(socket.clone())).await;
        stop.cancel();
        served.await.expect("no panic").expect("served");
        assert!(!socket.exists(), "the socket is removed");
        engine.shutdown().await;
        dataplane.shutdown().await;
    });
}

struct Client(std::path::PathBuf);

impl Client {
    async fn send(&self, request: Request<Body>) -> (Response<()>, Vec<u8>) {
        let stream = tokio::net::UnixStream::connect(&self.0).await.expect("connected");
        let (mut sender, connection) =
            hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.expect("HTTP");
        tokio::spawn(connection);
        let response = sender.send_request(request).await.expect("an answer");
        let (parts, body) = response.into_parts();
        let body = axum::body::to_bytes(Body::new(body), usize::MAX).await.expect("a body");
        (Response::from_parts(parts, ()), body.to_vec())
    }

    async fn ask(&self, method: Method, path: &str, body: impl Into<Body>) -> (u16, Value) {
        let request = Request::builder()
            .method(method)
            .uri(path)
            .header("Host", "skep")
            .body(body.into())
            .expect("a request");
        self.asked(request).await
    }

    async fn get(&self, path: &str) -> (u16, Value) {
        self.ask(Method::GET, path, Body::empty()).await
    }

    async fn post(&self, path: &str, body: Value) -> (u16, Value) {
        self.post_as(Some("application/json"), path, body.to_string()).await
    }

    async fn post_as(&self, kind: Option<&str>, path: &str, body: impl Into<Body>) -> (u16, Value) {
        let request = Request::builder().method(Method::POST).uri(path).header("Host", "skep");
        let request = kind.into_iter().fold(request, |r, kind| r.header("Content-Type", kind));
        self.asked(request.body(body.into()).expect("a request")).await
    }

    async fn asked(&self, request: Request<Body>) -> (u16, Value) {
        let (response, body) = self.send(request).await;
        let text = String::from_utf8_lossy(&body).into_owned();
        (response.status().as_u16(), serde_json::from_str(&text).unwrap_or(Value::String(text)))
    }
}

/// A tar with one file, which is an image when imported.
fn root_file_system() -> Vec<u8> {
    let mut tar = tar::Builder::new(Vec::new());
    let mut header = tar::Header::new_gnu();
    header.set_size(2);
    header.set_mode(0o644);
    header.set_uid(0);
    header.set_gid(0);
    header.set_mtime(0);
    tar.append_data(&mut header, Path::new("etc/hello"), &b"hi"[..]).expect("in memory");
    tar.into_inner().expect("in memory")
}

#[test]
fn every_answer_says_what_the_daemon_is() {
    with_daemon("ra", |client| async move {
        for path in ["/_ping", "/v1.24/_ping", "/v1.50/_ping"] {
            let request =
                Request::builder().uri(path).header("Host", "x").body(Body::empty()).expect("valid");
            let (response, body) = client.send(request).await;
            assert_eq!((response.status().as_u16(), body.as_slice()), (200, &b"OK"[..]));
            let header = |name: &str| response.headers()[name].to_str().expect("text").to_owned();
            assert_eq!(header("Api-Version"), "1.50");
            assert_eq!(header("Ostype"), "linux");
            assert_eq!(header("Server"), "Skep/1.2.3 (linux)");
            assert_eq!(header("Swarm"), "inactive");
        }
        let message = |v: Value| v["message"].as_str().expect("an error").to_owned();
        for (path, status, text) in [
            ("/v1.51/info", 400, "client version 1.51 is too new"),
            ("/v1.12/info", 400, "client version 1.12 is too old"),
            ("/nowhere", 404, "page not found"),
            ("/v1.41/nowhere", 404, "page not found"),
            ("/swarm/unlockkey", 503, "This node is not a swarm manager."),
            ("/secrets", 503, "This node is not a swarm manager."),
            ("/configs", 503, "This node is not a swarm manager."),
            ("/containers/nosuch/json", 404, "No such container: nosuch"),
            ("/images/nosuch/json", 404, "No such image: nosuch:latest"),
            ("/networks/nosuch", 404, "network nosuch not found"),
            ("/volumes/nosuch", 404, "get nosuch: no such volume"),
            ("/distribution/127.0.0.1:1/a/b/json", 500, "dial tcp 127.0.0.1:1: connect: "),
            ("/containers/json?filters=%7B%22x%22%3A%5B%22y%22%5D%7D", 400, "invalid filter 'x'"),
            ("/nodes", 503, "This node is not a swarm manager."),
            ("/services", 503, "This node is not a swarm manager."),
            ("/tasks", 503, "This node is not a swarm manager."),
            ("/swarm", 503, "This node is not a swarm manager."),
        ] {
            let (got, body) = client.get(path).await;
            assert_eq!(got, status, "{path}: {body}");
            assert!(
                message(body.clone()).starts_with(text) || message(body.clone()).contains(text),
                "{path}: {body}"
            );
        }
        let (status, body) = client.ask(Method::PUT, "/info", Body::empty()).await;
        assert_eq!((status, message(body).as_str()), (404, "page not found"));
        let (status, body) = client.post("/swarm/leave", json!(null)).await;
        assert_eq!((status, message(body).as_str()), (503, "This node is not part of a swarm"));
        assert_eq!(client.get("/volumes").await.1["Volumes"], json!([]));
        assert_eq!(client.get("/plugins").await, (200, json!([])));
        let (_, info) = client.get("/info").await;
        assert_eq!(info["Swarm"]["LocalNodeState"], "inactive");
        // What a client of another make reads of it.
        serde_json::from_value::<bollard_stubs::models::SystemInfo>(info).expect("bollard reads it");
        let (_, version) = client.get("/version").await;
        assert_eq!(version["Components"][0]["Name"], "Engine");
    });
}

#[test]
fn images_are_imported_listed_tagged_and_removed() {
    with_daemon("rb", |client| async move {
        let path = "/images/create?fromSrc=-&repo=hello&tag=1&changes=CMD%20true&changes=ENV%20A%3D1";
        let (status, answer) = client.ask(Method::POST, path, root_file_system()).await;
        assert_eq!(status, 200, "{answer}");
        let id = answer["status"].as_str().expect("an ID").to_owned();
        assert!(id.starts_with("sha256:"), "{id}");
        let (_, images) = client.get("/images/json").await;
        assert_eq!(images[0]["Id"], json!(id));
        assert_eq!(images[0]["RepoTags"], json!(["hello:1"]));
        let (status, _) = client.post("/images/hello:1/tag?repo=a/b/c&tag=x", json!(null)).await;
        assert_eq!(status, 201);
        let (_, image) = client.get("/images/a/b/c:x/json").await;
        assert_eq!(image["Id"], json!(id));
        assert_eq!(image["Config"]["Env"].as_array().map(|e| e.contains(&json!("A=1"))), Some(true));
        serde_json::from_value::<bollard_stubs::models::ImageInspect>(image).expect("bollard reads it");
        assert_eq!(client.get("/images/hello:1/attestations?statement=1").await, (200, json!([])));
        for (query, status) in [
            ("nosuch/attestations", 404),
            ("hello:1/attestations?platform={%22os%22:%22plan9%22,%22architecture%22:%22mips%22}", 404),
            ("hello:1/attestations?platform={}&platform={}", 400),
        ] {
            assert_eq!(client.get(&format!("/images/{query}")).await.0, status, "{query}");
        }
        let (status, archive) = client.get("/images/hello:1/get").await;
        assert_eq!(status, 200);
        assert!(archive.as_str().is_some_and(|a| a.contains("manifest.json")));
        let (status, removed) = client.ask(Method::DELETE, "/images/a/b/c:x", Body::empty()).await;
        assert_eq!((status, &removed), (200, &json!([{ "Untagged": "a/b/c:x" }])));
        let (status, error) =
            client.post("/images/create?fromImage=127.0.0.1:1/hello&tag=2", json!(null)).await;
        assert_eq!(status, 500);
        assert!(
            error["message"].as_str().is_some_and(|m| m.contains("dial tcp 127.0.0.1:1: connect: ")),
            "{error}"
        );
        let (status, error) = client.ask(Method::POST, "/images/load", "no archive").await;
        assert_eq!(status, 400, "{error}");
    });
}

#[test]
fn containers_are_created_listed_renamed_and_removed() {
    with_daemon("rc", |client| async move {
        let import = "/images/create?fromSrc=-&repo=hello";
        assert_eq!(client.ask(Method::POST, import, root_file_system()).await.0, 200);
        let (status, error) = client.post("/containers/create", json!({ "Image": "none" })).await;
        assert_eq!((status, &error["message"]), (404, &json!("No such image: none:latest")));
        let config = json!({
            "Image": "hello", "Cmd": ["/bin/true"], "Labels": {"a": "b"},
            "HostConfig": {"NetworkMode": "none", "Memory": 64 << 20},
        });
        let (status, created) = client.post("/containers/create?name=one", config.clone()).await;
        assert_eq!(status, 201, "{created}");
        let (status, error) = client.post("/containers/create?name=one", config).await;
        assert_eq!(status, 409);
        assert!(error["message"].as_str().is_some_and(|m| m.contains("is already in use")), "{error}");
        assert_eq!(client.get("/containers/json").await.1, json!([]));
        let filter = "/containers/json?all=1&filters=%7B%22label%22%3A%7B%22a%3Db%22%3Atrue%7D%7D";
        let (_, list) = client.get(filter).await;
        assert_eq!(list[0]["Names"], json!(["/one"]));
        assert_eq!((&list[0]["State"], &list[0]["Status"]), (&json!("created"), &json!("Created")));
        serde_json::from_value::<Vec<bollard_stubs::models::ContainerSummary>>(list)
            .expect("bollard reads it");
        assert_eq!(client.post("/containers/one/rename?name=two", json!(null)).await.0, 204);
        let (_, shown) = client.get("/containers/two/json").await;
        assert_eq!(shown["Id"], created["Id"]);
        assert_eq!(shown["HostConfig"]["Memory"], json!(64 << 20));
        serde_json::from_value::<bollard_stubs::models::ContainerInspectResponse>(shown)
            .expect("bollard reads it");
        assert_eq!(client.post("/containers/two/stop", json!(null)).await.0, 304);
        assert_eq!(client.post("/containers/two/kill", json!(null)).await.0, 409);
        let (status, _) = client.get("/containers/two/logs").await;
        assert_eq!(status, 400, "neither stdout nor stderr");
        assert_eq!(client.ask(Method::DELETE, "/containers/two", Body::empty()).await.0, 204);
        assert_eq!(client.get("/containers/two/json").await.0, 404);
        let (_, events) = client.get("/events?since=1&until=2&filters=%7B%7D").await;
        assert_eq!(events, json!(""));
    });
}

#[test]
fn bridges_are_made_and_removed() {
    with_daemon("rd", |client| async move {
        let request =
            json!({ "Name": "back", "Driver": "bridge", "IPAM": {"Config": [{"Subnet": "10.213.7.0/24"}]} });
        let (status, made) = client.post("/networks/create", request.clone()).await;
        assert_eq!(status, 201, "{made}");
        assert_eq!(client.post("/networks/create", request).await.0, 409);
        let (_, shown) = client.get("/networks/back").await;
        assert_eq!(shown["IPAM"]["Config"][0]["Subnet"], "10.213.7.0/24");
        let (_, list) = client.get("/networks").await;
        let names: Vec<_> = list.as_array().expect("a list").iter().map(|n| n["Name"].clone()).collect();
        for name in ["bridge", "host", "none", "back"] {
            assert!(names.contains(&json!(name)), "{name} in {names:?}");
        }
        let overlay = json!({ "Name": "o", "Driver": "overlay" });
        assert_eq!(client.post("/networks/create", overlay).await.0, 503);
        assert_eq!(client.ask(Method::DELETE, "/networks/back", Body::empty()).await.0, 204);
        assert_eq!(client.ask(Method::DELETE, "/networks/bridge", Body::empty()).await.0, 403);
    });
}

#[test]
fn a_body_must_say_that_it_is_json() {
    with_daemon("re", |client| async move {
        let body = json!({ "Image": "none" }).to_string();
        for (kind, status, said) in [
            (
                Some("text/plain"),
                400,
                "unsupported Content-Type header (text/plain): must be 'application/json'",
            ),
            (None, 400, "malformed Content-Type header (): mime: no media type"),
            (Some("Application/JSON; charset=utf-8"), 404, "No such image: none:latest"),
        ] {
            let (got, error) = client.post_as(kind, "/containers/create", body.clone()).await;
            assert_eq!((got, &error["message"]), (status, &json!(said)), "{kind:?}");
        }
        let (status, error) = client.post_as(None, "/volumes/create", "").await;
        assert_eq!(status, 400);
        assert!(error["message"].as_str().is_some_and(|m| m.contains("got EOF")), "{error}");
    });
}

#[test]
fn a_field_that_nobody_knows_is_told_or_refused() {
    with_daemon("rf", |client| async move {
        let import = "/images/create?fromSrc=-&repo=hello";
        assert_eq!(client.ask(Method::POST, import, root_file_system()).await.0, 200);
        let config = json!({
            "Image": "hello", "Cmd": ["/bin/true"],
            "HostConfig": {"NetworkMode": "none", "KernelMemory": 4 << 20, "KernelMemoryTCP": 0},
        });
        let (status, created) = client.post("/containers/create?name=one", config).await;
        let said = "HostConfig.KernelMemory is not known to this version of Skep, and was discarded.";
        assert_eq!((status, &created["Warnings"]), (201, &json!([said])));
        let (_, shown) = client.get("/containers/one/json").await;
        assert_eq!(shown["HostConfig"]["KernelMemory"], Value::Null);
        let (_, made) = client.post("/networks/create", json!({ "Name": "back", "Nope": {"A": 1} })).await;
        let said = "Nope is not known to this version of Skep, and was discarded.";
        assert_eq!(made["Warning"], json!(said));
        let (status, error) = client.post("/volumes/create", json!({ "Name": "v", "Nope": 1 })).await;
        assert_eq!(status, 400, "no place to tell of it");
        assert!(error["message"].as_str().is_some_and(|m| m.starts_with("Nope is not")), "{error}");
    });
}
