//! `/containers`: all but what streams.

use std::time::Duration;

use axum::Router;
use axum::extract::{Query, Request, State};
use axum::http::StatusCode;
use axum::response::IntoResponse;
use axum::routing::{delete, get, post};
use serde::Deserialize;
use serde_json::{Value, json};
use skep_engine::{Container, ContainerState, Error, NetworkMode, WaitCondition};
use skep_registry::Platform;

use super::{body, networks, transfer};
use crate::convert::{container, time};
use crate::error::{ApiError, ApiResult};
use crate::filters::Filters;
use crate::path::Path;
use crate::state::ApiState;

/// Time from the stop signal to SIGKILL when nobody said.
const GRACE: Duration = Duration::from_secs(10);

pub(super) fn routes() -> Router<ApiState> {
    Router::new()
        .route("/containers/json", get(list))
        .route("/containers/create", post(create))
        .route("/containers/{id}/json", get(inspect))
        .route("/containers/{id}/start", post(start))
        .route("/containers/{id}/stop", post(stop))
        .route("/containers/{id}/restart", post(restart))
        .route("/containers/{id}/kill", post(kill))
        .route("/containers/{id}/resize", post(resize))
        .route("/containers/{id}/rename", post(rename))
        .route("/containers/{id}", delete(remove))
}

#[derive(Deserialize)]
struct List {
    all: Option<String>,
    limit: Option<String>,
    size: Option<String>,
    filters: Option<String>,
}

async fn list(State(s): State<ApiState>, Query(q): Query<List>) -> ApiResult {
    let filters = Filters::parse(q.filters.as_deref(), container::FILTERS)?;
    let limit: i64 = match q.limit.as_deref() {
        None | Some("") => 0,
        Some(n) => {
            n.parse().map_err(|_| ApiError::bad_request(format!("limit = {n:?} must be a whole number")))?
        }
    };
    let size = body::flag(q.size.as_deref());
    let engine = s.engine();
    let find = |name: &str| Ok(engine.inspect(name)?.created_at_ns);
    let image = |name: &str| engine.images().resolve(name).ok().map(|i| i.id);
    let select = container::Select::new(filters, body::flag(q.all.as_deref()) || limit > 0, find, image)?;
    let mut containers = engine.list();
    containers.sort_by_key(|c| std::cmp::Reverse(c.created_at_ns));
    let linked = engine.link_names();
    let further = |c: &Container| linked.get(c.id.as_str()).map_or(&[][..], Vec::as_slice);
    containers.retain(|c| select.matches(c, further(c)));
    containers.truncate(if limit > 0 { limit as usize } else { usize::MAX });
    let mut shown: Vec<Value> = Vec::with_capacity(containers.len());
    for c in &containers {
        shown.push(row(&s, c, further(c), size).await);
    }
    Ok(body::ok(&shown.into()))
}

/// A row of a listing.
pub(super) async fn row(s: &ApiState, c: &Container, linked: &[String], size: bool) -> Value {
    let mut row = container::summary(c, image_name(s, c), linked, time::now_ns(), mountpoints(s));
    if size {
        add_size(s, c, &mut row).await;
    }
    row
}

/// What a container's own changes take, and all its files.
async fn add_size(s: &ApiState, c: &Container, shown: &mut Value) {
    // One that is being removed has none.
    let own = s.engine().changed_size(c.id.as_str()).await.unwrap_or(0);
    let image = s.engine().images().resolve(&c.image_id).map_or(0, |i| i.size);
    // Zero is left out, as Go leaves it out.
    if own > 0 {
        shown["SizeRw"] = json!(own);
    }
    shown["SizeRootFs"] = json!(own + image);
}

/// Where volumes lie on the host; nowhere, if it is gone.
fn mountpoints(s: &ApiState) -> impl Fn(&str) -> std::path::PathBuf {
    |name: &str| s.engine().volumes().get(name).map(|v| v.mountpoint).unwrap_or_default()
}

/// The name a container's image was given by, unless that name now means another image.
fn image_name<'a>(s: &ApiState, c: &'a Container) -> &'a str {
    match s.engine().images().resolve(&c.config.image) {
        Ok(image) if image.id == c.image_id => &c.config.image,
        _ => &c.image_id,
    }
}

#[derive(Deserialize)]
struct Create {
    name: Option<String>,
    platform: Option<String>,
}

async fn create(State(s): State<ApiState>, Query(q): Query<Create>, request: Request) -> ApiResult {
    let platform = transfer::platform(q.platform.as_deref().unwrap_or_default())?;
    let mut create = container::read(&body::read(request).await?)?;
    create.warnings.extend(platform_fits(&s, &create.config.image, platform)?);
    if let NetworkMode::Networks(joins) = &create.config.network {
        for join in joins {
            networks::check_place(&s, join).map_err(|e| {
                ApiError::bad_request(format!("invalid config for network {}: {e}", join.network))
            })?;
        }
    }
    for (other, _) in &create.config.links {
        s.engine()
            .inspect(other)
            .map_err(|e| ApiError::bad_request(format!("could not get container for {other}: {e}")))?;
    }
    if create.config.host_uts && create.config.domainname.as_ref().is_some_and(|d| !d.is_empty()) {
        return Err(ApiError::bad_request("conflicting options: domainname and the UTS mode"));
    }
    let name = q.name.map(|n| n.trim_start_matches('/').to_owned()).filter(|n| !n.is_empty());
    let id = s.engine().create(name, create.config).await.map_err(|e| match e {
        // Not 404, which the client takes for a missing image.
        e @ Error::NoSuchPlugin { .. } => ApiError::bad_request(e.to_string()),
        e => e.into(),
    })?;
    Ok(body::json(StatusCode::CREATED, &json!({ "Id": id, "Warnings": create.warnings })))
}

/// Looks whether an image is for the platform that was asked for; without one, warns of an image that this host runs by
/// an emulator at best. In the words of Docker's daemon, whose client pulls the other image after an error of this kind.
fn platform_fits(s: &ApiState, name: &str, wanted: Option<Platform>) -> ApiResult<Option<String>> {
    // One that is not there is told of further on.
    let Ok(image) = s.engine().images().resolve(name) else { return Ok(None) };
    let (held, host) = (image.platform(), Platform::host());
    match wanted {
        Some(wanted) if wanted.served_by(&held).is_none() => Err(ApiError::not_found(format!(
            "image with reference {name} was found but its platform ({held}) does not match the specified platform ({wanted})"
        ))),
        None if host.served_by(&held).is_none() => Ok(Some(format!(
            "The requested image's platform ({held}) does not match the detected host platform ({host}) and no specific platform was requested"
        ))),
        _ => Ok(None),
    }
}

#[derive(Deserialize)]
struct Inspect {
    size: Option<String>,
}

async fn inspect(State(s): State<ApiState>, Path(id): Path<String>, Query(q): Query<Inspect>) -> ApiResult {
    let container = s.engine().inspect(&id)?;
    let execs = s.engine().exec_ids(container.id.as_str());
    let (links, files) = (s.engine().links_of(&container), s.engine().host_files(&container));
    let mut shown = container::inspect(&container, mountpoints(&s), &execs, &links, &files);
    if body::flag(q.size.as_deref()) {
        shown["SizeRw"] = json!(0);
        add_size(&s, &container, &mut shown).await;
    }
    Ok(body::ok(&shown))
}

#[derive(Deserialize)]
struct Start {
    checkpoint: Option<String>,
}

async fn start(
    State(s): State<ApiState>,
    Path(id): Path<String>,
    Query(q): Query<Start>,
    request: Request,
) -> ApiResult {
    if q.checkpoint.is_some_and(|c| !c.is_empty()) {
        return Err(ApiError::bad_request(
            "checkpoint is not supported by this version of Skep: leave it out",
        ));
    }
    // Docker once took the host configuration here; a client that still sends it must be told.
    let sent = body::read_any(request).await?;
    if !matches!(sent.trim_ascii(), b"" | b"{}" | b"null") {
        return Err(ApiError::bad_request(
            "starting container with non-empty request body was deprecated since API v1.22 and removed in v1.24",
        ));
    }
    match s.engine().start(&id).await {
        Ok(()) => Ok(StatusCode::NO_CONTENT.into_response()),
        Err(Error::AlreadyStarted { .. }) => Ok(StatusCode::NOT_MODIFIED.into_response()),
        Err(e) => Err(e.into()),
    }
}

#[derive(Deserialize)]
struct Stop {
    t: Option<String>,
    signal: Option<String>,
}

impl Stop {
    /// Seconds to wait; negative waits for ever.
    fn timeout(&self) -> ApiResult<Option<Duration>> {
        match self.t.as_deref() {
            None | Some("") => Ok(None),
            Some(t) => match t.parse::<i64>() {
                Ok(n) if n < 0 => Ok(Some(skep_engine::PATIENT)),
                Ok(n) => Ok(Some(Duration::from_secs(n.unsigned_abs()))),
                Err(_) => Err(ApiError::bad_request(format!("t = {t:?} must be a number of seconds"))),
            },
        }
    }
}

async fn stop(State(s): State<ApiState>, Path(id): Path<String>, Query(q): Query<Stop>) -> ApiResult {
    let container = s.engine().inspect(&id)?;
    if !runs(&container) {
        return Ok(StatusCode::NOT_MODIFIED.into_response());
    }
    end(&s, &container, &q).await?;
    Ok(StatusCode::NO_CONTENT.into_response())
}

fn runs(c: &Container) -> bool {
    matches!(c.state, ContainerState::Running | ContainerState::Paused | ContainerState::Restarting)
}

/// Stops it; that it has stopped by itself meanwhile is as good.
async fn end(s: &ApiState, c: &Container, q: &Stop) -> ApiResult<()> {
    let (engine, id, timeout) = (s.engine(), c.id.as_str(), q.timeout()?);
    let ended = match q.signal.as_deref().filter(|s| !s.is_empty()) {
        None => engine.stop(id, timeout).await,
        Some(signal) => {
            let exited = engine.wait(id, WaitCondition::NotRunning)?;
            let grace = timeout.or(c.config.stop_timeout).unwrap_or(GRACE);
            match engine.kill(id, signal).await {
                Ok(()) => match tokio::time::timeout(grace, exited).await {
                    Ok(_) => Ok(()),
                    // Stops what its restart policy would start again, too.
                    Err(_) => engine.stop(id, Some(Duration::ZERO)).await,
                },
                Err(e) => Err(e),
            }
        }
    };
    match ended {
        Ok(()) | Err(Error::NotRunning { .. }) => Ok(()),
        Err(e) => Err(e.into()),
    }
}

async fn restart(State(s): State<ApiState>, Path(id): Path<String>, Query(q): Query<Stop>) -> ApiResult {
    let container = s.engine().inspect(&id)?;
    let restarting = s.engine().restarting(container.id.as_str()).await?;
    if runs(&container) {
        end(&s, &container, &q).await?;
    }
    match s.engine().start(container.id.as_str()).await {
        // Its restart policy was faster.
        Ok(()) | Err(Error::AlreadyStarted { .. }) => {
            restarting.done();
            Ok(StatusCode::NO_CONTENT.into_response())
        }
        Err(e) => Err(e.into()),
    }
}

#[derive(Deserialize)]
struct Kill {
    signal: Option<String>,
}

async fn kill(State(s): State<ApiState>, Path(id): Path<String>, Query(q): Query<Kill>) -> ApiResult {
    let signal = q.signal.filter(|s| !s.is_empty()).unwrap_or_else(|| "KILL".into());
    s.engine().kill(&id, &signal).await.map_err(|e| {
        let e = ApiError::from(e);
        ApiError::new(e.status, format!("cannot kill container: {id}: {}", e.message))
    })?;
    Ok(StatusCode::NO_CONTENT.into_response())
}

#[derive(Deserialize)]
pub(super) struct Resize {
    h: Option<String>,
    w: Option<String>,
}

impl Resize {
    /// Rows and columns.
    pub(super) fn read(&self) -> ApiResult<(u16, u16)> {
        let size = |name: &str, text: &Option<String>| {
            text.as_deref().unwrap_or_default().parse::<u16>().map_err(|_| {
                ApiError::bad_request(format!(
                    "invalid resize {name}: give a number of rows (h) and columns (w)"
                ))
            })
        };
        Ok((size("height", &self.h)?, size("width", &self.w)?))
    }
}

async fn resize(State(s): State<ApiState>, Path(id): Path<String>, Query(q): Query<Resize>) -> ApiResult {
    let (rows, columns) = q.read()?;
    s.engine().resize(&id, rows, columns).await?;
    Ok(StatusCode::OK.into_response())
}

#[derive(Deserialize)]
struct Rename {
    name: Option<String>,
}

async fn rename(State(s): State<ApiState>, Path(id): Path<String>, Query(q): Query<Rename>) -> ApiResult {
    let name = q.name.unwrap_or_default();
    let name = name.trim_start_matches('/');
    if name.is_empty() {
        return Err(ApiError::bad_request("Neither old nor new names may be empty"));
    }
    s.engine().rename(&id, name).await?;
    Ok(StatusCode::NO_CONTENT.into_response())
}

#[derive(Deserialize)]
struct Remove {
    force: Option<String>,
    link: Option<String>,
    /// Its anonymous volumes go too.
    v: Option<String>,
}

async fn remove(State(s): State<ApiState>, Path(id): Path<String>, Query(q): Query<Remove>) -> ApiResult {
    if body::flag(q.link.as_deref()) {
        s.engine().remove_link(&id).await?;
        return Ok(StatusCode::NO_CONTENT.into_response());
    }
    let (force, volumes) = (body::flag(q.force.as_deref()), body::flag(q.v.as_deref()));
    s.engine().remove_with(&id, force, volumes).await?;
    Ok(StatusCode::NO_CONTENT.into_response())
}
