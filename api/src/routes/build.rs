//! `POST /build` and what is kept of builds. What is wrong before the first step is an HTTP error; what fails later ends
//! the stream with a line that says so.

use std::collections::BTreeMap;
use std::io;
use std::sync::Arc;

use axum::Router;
use axum::extract::{Query, Request, State};
use axum::http::HeaderMap;
use axum::routing::post;
use futures::StreamExt;
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use skep_engine::{
    BuildEvent, BuildRequest, CacheLimits, ContainerConfig, Error, PruneBuilds, Reference, ResourceLimits,
    extra_host,
};
use skep_registry::Credentials;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::task::AbortOnDropHandle;

use super::{body, transfer};
use crate::convert::{cache_from, container, time};
use crate::error::{ApiError, ApiResult};
use crate::fields::Fields;
use crate::filters::Filters;
use crate::hijack;
use crate::state::ApiState;

/// Events of a build that wait to be written before the build has to wait.
const PENDING: usize = 64;

/// What bare bytes are of.
const RAW: &str = "application/vnd.docker.raw-stream";

/// Header with credentials for several registries.
const CONFIG: &str = "x-registry-config";
/// Header of `skep build` with secrets: JSON, their contents in base64.
const SECRETS: &str = "x-skep-build-secrets";

pub(super) fn routes() -> Router<ApiState> {
    Router::new()
        .route("/build", post(build))
        .route("/build/prune", post(prune))
        .route("/build/agent", post(agent))
}

/// The query of a request; each parameter is taken or refused by its name.
struct Asked(Vec<(String, String)>);

impl Asked {
    /// The value of a parameter, which is not looked at again.
    fn take(&mut self, key: &str) -> String {
        let found = self.0.iter().rev().find(|(k, _)| k == key).map(|(_, v)| v.clone());
        self.0.retain(|(k, _)| k != key);
        found.unwrap_or_default()
    }

    fn all(&mut self, key: &str) -> Vec<String> {
        let found =
            self.0.iter().filter(|(k, v)| k == key && !v.is_empty()).map(|(_, v)| v.clone()).collect();
        self.0.retain(|(k, _)| k != key);
        found
    }

    fn flag(&mut self, key: &str) -> bool {
        body::flag(Some(&self.take(key)))
    }

    fn number<T: std::str::FromStr>(&mut self, key: &str) -> ApiResult<Option<T>> {
        let value = self.take(key);
        if value.is_empty() || value == "0" {
            return Ok(None);
        }
        let bad = || ApiError::bad_request(format!("{key} = {value:?} is not a number"));
        value.parse().map(Some).map_err(|_| bad())
    }

    fn json<T: DeserializeOwned + Default>(&mut self, key: &str) -> ApiResult<T> {
        let value = self.take(key);
        if value.is_empty() {
            return Ok(T::default());
        }
        let read: Option<T> = serde_json::from_str(&value)
            .map_err(|e| ApiError::bad_request(format!("{key} cannot be read: {e}")))?;
        Ok(read.unwrap_or_default())
    }

    /// Whatever has a value and was not taken.
    fn refuse_rest(self) -> ApiResult<()> {
        let rest = self.0.into_iter().find(|(_, v)| !matches!(v.as_str(), "" | "0" | "null" | "{}" | "[]"));
        match rest {
            None => Ok(()),
            Some((k, v)) => Err(ApiError::bad_request(format!(
                "{k} = {v:?} of a build is not supported by this version of Skep; leave it out"
            ))),
        }
    }
}

async fn build(
    State(s): State<ApiState>,
    Query(q): Query<Vec<(String, String)>>,
    request: Request,
) -> ApiResult {
    let (wanted, quiet) = read(q, request.headers())?;
    let context = body::reader(request);
    let (send, mut said) = mpsc::channel(PENDING);
    let engine = s.engine().clone();
    let work = AbortOnDropHandle::new(tokio::spawn(async move { engine.build(wanted, context, send).await }));
    if quiet {
        while said.recv().await.is_some() {}
        let id = work.await.map_err(|e| ApiError::internal(e.to_string()))??;
        let line = body::line(&json!({ "stream": format!("{id}\n") }));
        return Ok(body::stream("application/json", futures::stream::iter([Ok::<_, io::Error>(line)])));
    }
    let Some(first) = said.recv().await else {
        return match work.await {
            Ok(Ok(_)) => Ok(body::stream("application/json", futures::stream::empty())),
            Ok(Err(e)) => Err(e.into()),
            Err(e) => Err(ApiError::internal(e.to_string())),
        };
    };
    let said = futures::stream::iter([first]).chain(ReceiverStream::new(said)).map(|e| line(&e));
    let end = futures::stream::once(work).filter_map(|ended| {
        let line = match ended {
            Ok(Ok(_)) => None,
            Ok(Err(e)) => Some(failure(e)),
            Err(e) => Some(json!({ "errorDetail": { "message": e.to_string() }, "error": e.to_string() })),
        };
        futures::future::ready(line)
    });
    let lines = said.chain(end).map(|value| Ok::<_, io::Error>(body::line(&value)));
    Ok(body::stream("application/json", lines))
}

fn line(event: &BuildEvent) -> Value {
    match event {
        BuildEvent::Text(text) => json!({ "stream": text }),
        BuildEvent::Pull(progress) => transfer::line(progress),
        BuildEvent::Aux(value) => json!({ "aux": value }),
    }
}

fn failure(e: Error) -> Value {
    let code = if let Error::BuildFailed { code, .. } = e { Some(code) } else { None };
    let message = ApiError::from(e).message;
    let mut line = json!({ "errorDetail": { "message": message }, "error": message });
    if let Some(code) = code {
        line["errorDetail"]["code"] = code.into();
    }
    line
}

/// What is asked for, and whether it is to be done quietly.
fn read(q: Vec<(String, String)>, headers: &HeaderMap) -> ApiResult<(BuildRequest, bool)> {
    let mut a = Asked(q);
    if a.take("version") == "2" {
        return Err(ApiError::bad_request(
            "BuildKit's protocol is not served: Skep builds with its own builder. Set DOCKER_BUILDKIT=0, or use `skep build`",
        ));
    }
    let remote = a.take("remote");
    let mut tags = Vec::new();
    for tag in a.all("t") {
        let tag = Reference::parse(&tag)?.or_latest();
        if tag.digest.is_some() {
            return Err(ApiError::bad_request("refusing to create a tag with a digest reference"));
        }
        tags.push(tag);
    }
    let dockerfile = match a.take("dockerfile") {
        name if name.is_empty() => "Dockerfile".to_owned(),
        name => name,
    };
    let (rm, forced) = (a.take("rm"), a.flag("forcerm"));
    // They go unless it is said that they stay; that of one that failed is left to be looked at.
    let keep_all = !rm.is_empty() && !body::flag(Some(&rm)) && !forced;
    let keep_failed = !forced;
    let quiet = a.flag("q");
    // Of `skep build`: nobody else would come to look.
    let debug = a.take("skep-debug");
    if quiet && !debug.is_empty() {
        return Err(ApiError::bad_request(
            "skep-debug and q do not go together: a quiet build tells of no shell",
        ));
    }
    let ulimits = json!({ "ulimits": a.json::<Value>("ulimits")? });
    let ulimits = container::read_ulimits(Fields::of(ulimits, "")?.objects("ulimits")?)?;
    let cpuset = |text: String| Some(text).filter(|t| !t.is_empty());
    let resources = ResourceLimits {
        memory: a.number("memory")?,
        memory_swap: a.number("memswap")?,
        cpu_shares: a.number("cpushares")?,
        cpu_period: a.number("cpuperiod")?,
        cpu_quota: a.number("cpuquota")?,
        cpuset_cpus: cpuset(a.take("cpusetcpus")),
        cpuset_mems: cpuset(a.take("cpusetmems")),
        ..ResourceLimits::default()
    };
    let mut extra_hosts = Vec::new();
    for host in a.all("extrahosts").iter().flat_map(|list| list.split(',')).filter(|h| !h.is_empty()) {
        extra_host(host)?;
        extra_hosts.push(host.to_owned());
    }
    let security_options = a.all("securityopt");
    for option in &security_options {
        ContainerConfig::default().secure(option).map_err(ApiError::bad_request)?;
    }
    let network = container::read_network(&a.take("networkmode"), Fields::of(Value::Null, "")?)?;
    let built = BuildRequest {
        remote: Some(remote).filter(|r| !r.is_empty()),
        contexts: contexts(a.json("skep-contexts")?),
        dockerfile,
        // Of `skep build`: Docker's classic client knows no other than `.dockerignore`.
        dockerignore: Some(a.take("skep-dockerignore")).filter(|name| !name.is_empty()),
        tags,
        target: Some(a.take("target")).filter(|t| !t.is_empty()),
        args: a.json::<BTreeMap<String, Option<String>>>("buildargs")?,
        labels: a.json("labels")?,
        no_cache: a.flag("nocache"),
        cache_from: cache_from::read(&a.json::<Vec<String>>("cachefrom")?)?,
        pull: a.flag("pull"),
        platform: transfer::platform(&a.take("platform"))?,
        network,
        extra_hosts,
        resources,
        ulimits,
        shm_size: a.number("shmsize")?,
        cgroup_parent: Some(a.take("cgroupparent")).filter(|c| !c.is_empty()),
        security_options,
        secrets: secrets(headers)?,
        allow_insecure: a.flag("insecure"),
        allow_host_network: a.flag("host-network"),
        keep_all,
        keep_failed,
        squash: a.flag("squash"),
        agents: a.take("skep-ssh").split(',').filter(|id| !id.is_empty()).map(str::to_owned).collect(),
        debug: !matches!(debug.as_str(), "" | "0"),
        debug_tty: debug == "tty",
        credentials: credentials(headers)?,
    };
    // The default; the platform Docker's Windows containers have.
    let isolation = a.take("isolation");
    if !matches!(isolation.as_str(), "" | "default") {
        return Err(ApiError::bad_request(format!("isolation = {isolation:?} is a Windows setting")));
    }
    a.refuse_rest()?;
    Ok((built, quiet))
}

/// Names are told apart without case, as those of stages are.
fn contexts(given: BTreeMap<String, String>) -> BTreeMap<String, String> {
    given.into_iter().map(|(name, value)| (name.to_ascii_lowercase(), value)).collect()
}

#[derive(Deserialize)]
struct AgentQuery {
    #[serde(default)]
    connection: String,
}

/// The connection of the client that forwards an agent, joined with that of a command.
async fn agent(State(s): State<ApiState>, Query(q): Query<AgentQuery>, request: Request) -> ApiResult {
    let upgrades = hijack::wants_upgrade(request.headers());
    let (from, to) = s.engine().agent_connection(&q.connection)?.into_split();
    let output = tokio_util::io::ReaderStream::new(from);
    let output =
        output.take_while(|piece| futures::future::ready(piece.is_ok())).filter_map(|p| async { p.ok() });
    Ok(hijack::response(upgrades, RAW, output.boxed(), Some(Box::pin(to)), None, || {}))
}

/// Who base images are pulled as.
fn credentials(headers: &HeaderMap) -> ApiResult<skep_engine::CredentialsOf> {
    let text = headers.get(CONFIG).and_then(|v| v.to_str().ok()).unwrap_or_default();
    let known = Credentials::several_from_header(text).map_err(|e| ApiError::bad_request(e.to_string()))?;
    Ok(Arc::new(move |registry: &str| known.get(registry).cloned().unwrap_or_default()))
}

fn secrets(headers: &HeaderMap) -> ApiResult<BTreeMap<String, Vec<u8>>> {
    use base64::Engine;
    let Some(text) = headers.get(SECRETS).and_then(|v| v.to_str().ok()) else { return Ok(BTreeMap::new()) };
    let bad = |e: String| ApiError::bad_request(format!("the secrets of the build cannot be read: {e}"));
    let engine = base64::engine::general_purpose::STANDARD;
    let json = engine.decode(text).map_err(|e| bad(e.to_string()))?;
    let map: BTreeMap<String, String> = serde_json::from_slice(&json).map_err(|e| bad(e.to_string()))?;
    map.into_iter().map(|(k, v)| Ok((k, engine.decode(v).map_err(|e| bad(e.to_string()))?))).collect()
}

/// What is kept of builds, as `system df` shows it.
pub(super) async fn usage(s: &ApiState) -> ApiResult<Vec<Value>> {
    let one = |u: skep_engine::CacheUsage| {
        json!({
            "ID": u.id, "Type": u.kind, "Description": u.description, "InUse": u.in_use, "Shared": u.shared,
            "Size": u.size, "CreatedAt": time::from_ns(u.created_at_ns), "LastUsedAt": time::from_ns(u.used_at_ns),
            "UsageCount": u.uses, "Parents": null,
        })
    };
    Ok(s.engine().build_cache_usage().await?.into_iter().map(one).collect())
}

async fn prune(State(s): State<ApiState>, Query(q): Query<Vec<(String, String)>>) -> ApiResult {
    let mut a = Asked(q);
    let filters = Filters::parse(
        Some(&a.take("filters")).filter(|f| !f.is_empty()).map(String::as_str),
        &[
            "until",
            "unused-for",
            "label",
            "label!",
            "id",
            "type",
            "description",
            "shared",
            "private",
            "inuse",
        ],
    )?;
    let until = filters.values("until").chain(filters.values("unused-for")).map(time::until);
    let until = until.collect::<ApiResult<Vec<_>>>()?.into_iter().min();
    // `all` takes what BuildKit keeps for itself besides, of which there is nothing here.
    let _ = a.flag("all");
    let (kept, reserved) = (a.number("keep-storage")?, a.number("reserved-space")?);
    let limits = CacheLimits {
        // The name of API versions before 1.48.
        reserved: reserved.or(kept),
        max_used: a.number("max-used-space")?,
        min_free: a.number("min-free-space")?,
    };
    a.refuse_rest()?;
    // `system prune` asks with its own filters; nothing of a build's has labels.
    if filters.has("label") {
        return Ok(body::ok(&json!({ "CachesDeleted": null, "SpaceReclaimed": 0 })));
    }
    let list = |name: &str| filters.values(name).map(str::to_owned).collect::<Vec<_>>();
    let said = |name: &str| filters.values(name).next().map(|v| body::flag(Some(v)));
    let which = PruneBuilds {
        ids: list("id"),
        kinds: list("type"),
        descriptions: list("description"),
        shared: said("shared").or_else(|| said("private").map(|p| !p)),
        in_use: said("inuse"),
        until_ns: until,
        limits,
    };
    let (gone, bytes) = s.engine().prune_builds(which).await?;
    let gone = if gone.is_empty() { Value::Null } else { json!(gone) };
    Ok(body::ok(&json!({ "CachesDeleted": gone, "SpaceReclaimed": bytes })))
}
