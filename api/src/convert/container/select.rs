//! The filters of `docker ps`.

use skep_engine::{Container, ContainerState, MountConfig, MountKind, NetworkMode};

use crate::error::{ApiError, ApiResult};
use crate::filters::{Filters, Patterns};

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
pub(crate) const TASK_LABEL: &str = "com.docker.swarm.task.id";

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
    publish: Vec<Ports>,
    expose: Vec<Ports>,
    names: Patterns,
}

/// The value of `publish` or `expose`: `80`, `53/udp` or `8000-8010/tcp`.
#[derive(Debug)]
struct Ports {
    first: u16,
    last: u16,
    protocol: String,
}

impl Ports {
    fn read(key: &str, text: &str) -> ApiResult<Self> {
        let bad =
            |why: &str| Err(ApiError::bad_request(format!("error while looking up for {key} {text}: {why}")));
        if text.contains(':') {
            return Err(ApiError::bad_request(format!("filter for '{key}' should not contain ':': {text}")));
        }
        let (range, protocol) = text.split_once('/').unwrap_or((text, "tcp"));
        let (first, last) = range.split_once('-').unwrap_or((range, range));
        let (Ok(first), Ok(last)) = (first.parse(), last.parse()) else {
            return bad("want a port or a range, as in 80, 53/udp or 8000-8010/tcp");
        };
        if first > last {
            return bad("invalid range specified for port");
        }
        Ok(Self { first, last, protocol: protocol.to_ascii_lowercase() })
    }

    fn has(&self, port: u16, protocol: &str) -> bool {
        (self.first..=self.last).contains(&port) && self.protocol == protocol
    }
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
        if let Some(bad) = filters.values("exited").find(|v| v.parse::<i32>().is_err()) {
            return Err(ApiError::bad_request(format!("invalid filter 'exited={bad}'")));
        }
        let ports = |key: &str| filters.values(key).map(|v| Ports::read(key, v)).collect::<ApiResult<_>>();
        let time = |key: &str| filters.values(key).next().map(&find).transpose();
        Ok(Self {
            task: filters.flag("is-task")?,
            names: filters.patterns("name"),
            created_before_ns: time("before")?,
            created_since_ns: time("since")?,
            ancestors: filters.values("ancestor").filter_map(image).collect(),
            publish: ports("publish")?,
            expose: ports("expose")?,
            all: all || filters.has("status") || filters.has("exited"),
            filters,
        })
    }

    /// Whether the listing shows it; `linked` are the further names that links give it.
    pub fn matches(&self, c: &Container, linked: &[String]) -> bool {
        let f = &self.filters;
        let running = !matches!(
            c.state,
            ContainerState::Created
                | ContainerState::Exited
                | ContainerState::Dead
                | ContainerState::Removing
        );
        (self.all || running)
            && f.any("id", |v| c.id.as_str().starts_with(v))
            && linked
                .iter()
                .chain([&c.name])
                .any(|n| self.names.match_any(n) || self.names.match_any(&format!("/{n}")))
            && f.any("status", |v| v == c.state.word())
            && f.any("exited", |v| {
                c.state == ContainerState::Exited && v.parse() == Ok(c.exit_code.unwrap_or(0))
            })
            && f.any("health", |v| v == c.health.as_ref().map_or("none", |h| h.status.as_str()))
            && f.labels("label", |k| c.config.labels.get(k).map(String::as_str))
            && f.any("network", |v| is_in(c, v))
            && f.any("volume", |v| {
                let is = |m: &MountConfig| match &m.kind {
                    MountKind::Bind { source, .. } => source.as_os_str() == v,
                    MountKind::Volume { name, .. } | MountKind::Image { name, .. } => name == v,
                    MountKind::Tmpfs { .. } => false,
                };
                c.config.mounts.iter().any(|m| m.target.as_os_str() == v || is(m))
            })
            && self.ports_match(c)
            && f.any("isolation", |v| v == "default")
            && (!f.has("ancestor") || self.ancestors.contains(&c.image_id))
            && self.created_before_ns.is_none_or(|t| c.created_at_ns < t)
            && self.created_since_ns.is_none_or(|t| c.created_at_ns > t)
            && self.task.is_none_or(|want| c.config.labels.contains_key(TASK_LABEL) == want)
    }
}

impl Select {
    /// Of `publish` and `expose`, either is enough.
    fn ports_match(&self, c: &Container) -> bool {
        if self.publish.is_empty() && self.expose.is_empty() {
            return true;
        }
        let asked = c.config.api_request.as_ref().and_then(|r| r["ExposedPorts"].as_object());
        let exposed = asked.into_iter().flatten().filter_map(|(key, _)| {
            let (port, protocol) = key.split_once('/').unwrap_or((key, "tcp"));
            Some((port.parse().ok()?, protocol.to_owned()))
        });
        c.ports.iter().any(|p| {
            self.publish.iter().any(|r| r.has(p.host_port, &p.protocol))
                || self.expose.iter().any(|r| r.has(p.container_port, &p.protocol))
        }) || exposed.into_iter().any(|(port, protocol)| self.expose.iter().any(|r| r.has(port, &protocol)))
    }
}

/// Whether a container is in a network, or will be when it runs; by name or, while it runs, by ID.
fn is_in(c: &Container, network: &str) -> bool {
    let will = match &c.config.network {
        NetworkMode::None => network == "none",
        NetworkMode::Host => network == "host",
        NetworkMode::Container(_) => false,
        NetworkMode::Networks(joins) => joins.iter().any(|j| j.network == network),
    };
    will || c.endpoints.iter().any(|e| e.network == network || e.network_id.starts_with(network))
}
