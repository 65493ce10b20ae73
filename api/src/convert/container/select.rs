//! The filters of `docker ps`.

use skep_engine::{Container, ContainerState, MountConfig, MountKind};

use super::networking::check_port_key;
use crate::error::{ApiError, ApiResult};
use crate::filters::Filters;

/// The names `ps --filter` knows.
pub const FILTERS: &[&str] = &[
    "ancestor",
    "before",
    "exited",
    "expose",
    "health",
    "id",
    "is-task",
    "isolation",
    "label",
    "name",
    "network",
    "publish",
    "since",
    "status",
    "volume",
];

/// Label the agent puts on the containers of tasks.
const TASK_LABEL: &str = "com.docker.swarm.task.id";

/// Which containers a listing shows.
#[derive(Debug)]
pub struct Select {
    filters: Filters,
    task: Option<bool>,
    /// Show containers that do not run, too.
    all: bool,
    created_before_ns: Option<i64>,
    created_since_ns: Option<i64>,
    /// Image IDs that `ancestor` resolves to.
    ancestors: Vec<String>,
}

impl Select {
    /// From the query. `find` resolves a container named by `before` or `since` to its creation
    /// time, `image` a reference to an image ID.
    pub fn new(
        filters: Filters,
        all: bool,
        find: impl Fn(&str) -> ApiResult<i64>,
        image: impl Fn(&str) -> Option<String>,
    ) -> ApiResult<Self> {
        filters
            .check("status", &["created", "restarting", "running", "removing", "paused", "exited", "dead"])?;
        filters.check("health", &["none", "starting", "healthy", "unhealthy"])?;
        for key in ["publish", "expose"] {
            for port in filters.values(key) {
                check_port_key(key, port)?;
            }
        }
        if let Some(bad) = filters.values("exited").find(|v| v.parse::<i32>().is_err()) {
            return Err(ApiError::bad_request(format!("invalid filter 'exited={bad}'")));
        }
        let time = |key: &str| filters.values(key).next().map(&find).transpose();
        Ok(Self {
            task: filters.flag("is-task")?,
            created_before_ns: time("before")?,
            created_since_ns: time("since")?,
            ancestors: filters.values("ancestor").filter_map(image).collect(),
            all: all || filters.has("status") || filters.has("exited"),
            filters,
        })
    }

    /// Whether the listing shows it.
    pub fn matches(&self, c: &Container) -> bool {
        let f = &self.filters;
        let running = !matches!(
            c.state,
            ContainerState::Created
                | ContainerState::Exited
                | ContainerState::Dead
                | ContainerState::Removing
        );
        let key = |port: u16, protocol: &str| format!("{port}/{protocol}");
        let full = |v: &str| if v.contains('/') { v.to_owned() } else { format!("{v}/tcp") };
        (self.all || running)
            && f.any("id", |v| c.id.as_str().starts_with(v))
            && f.any("name", |v| name_matches(&c.name, v))
            && f.any("status", |v| v == c.state.word())
            && f.any("exited", |v| {
                c.state == ContainerState::Exited && v.parse() == Ok(c.exit_code.unwrap_or(0))
            })
            && f.any("health", |v| v == c.health.as_ref().map_or("none", |h| h.status.as_str()))
            && f.labels("label", |k| c.config.labels.get(k).map(String::as_str))
            && f.any("network", |v| c.endpoints.iter().any(|e| e.network == v || e.network_id.starts_with(v)))
            && f.any("volume", |v| {
                let is = |m: &MountConfig| match &m.kind {
                    MountKind::Bind { source, .. } => source.as_os_str() == v,
                    MountKind::Volume { name, .. } => name == v,
                    MountKind::Tmpfs { .. } => false,
                };
                c.config.mounts.iter().any(|m| m.target.as_os_str() == v || is(m))
            })
            && f.any("publish", |v| c.ports.iter().any(|p| key(p.host_port, &p.protocol) == full(v)))
            && f.any("expose", |v| {
                let asked = c.config.api_request.as_ref().and_then(|r| r["ExposedPorts"].as_object());
                asked.is_some_and(|ports| ports.contains_key(&full(v)))
                    || c.ports.iter().any(|p| key(p.container_port, &p.protocol) == full(v))
            })
            && f.any("isolation", |v| v == "default")
            && (!f.has("ancestor") || self.ancestors.contains(&c.image_id))
            && self.created_before_ns.is_none_or(|t| c.created_at_ns < t)
            && self.created_since_ns.is_none_or(|t| c.created_at_ns > t)
            && self.task.is_none_or(|want| c.config.labels.contains_key(TASK_LABEL) == want)
    }
}

/// Docker matches names by regular expression; what people use of it is a part of the name, with
/// `^` and `$` as anchors and an optional leading slash.
fn name_matches(name: &str, pattern: &str) -> bool {
    let (start, rest) = match pattern.strip_prefix('^') {
        Some(rest) => (true, rest),
        None => (false, pattern),
    };
    let (end, rest) = match rest.strip_suffix('$') {
        Some(rest) => (true, rest),
        None => (false, rest),
    };
    let rest = rest.strip_prefix('/').unwrap_or(rest);
    match (start, end) {
        (true, true) => name == rest,
        (true, false) => name.starts_with(rest),
        (false, true) => name.ends_with(rest),
        (false, false) => name.contains(rest),
    }
}
