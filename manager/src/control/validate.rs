//! What a specification may say. Each refusal names the field and what is allowed.

use skep_proto::v1::{self, service_spec::Mode};
use tonic::Status;

use crate::allocator::cidr::{Cidr, CidrError};
use crate::scheduler::constraint::Constraint;

/// Most replicas one service may ask for.
pub const MAX_REPLICAS: u64 = 1_000_000;
/// Log drivers that every node has; empty = the node's own.
const LOG_DRIVERS: [&str; 7] = ["", "fluentd", "journald", "json-file", "local", "none", "syslog"];
/// Longest name of a service or network.
const MAX_NAME: usize = 63;
/// Least memory a container can live in (as Docker has it).
const MIN_MEMORY: i64 = 4 << 20;

/// Least time of a health check's settings (as Docker has it).
const MIN_HEALTH_NS: i64 = 1_000_000;

type Checked = Result<(), Status>;

fn refuse(message: impl Into<String>) -> Checked {
    Err(Status::invalid_argument(message.into()))
}

/// `[a-zA-Z0-9][a-zA-Z0-9_.-]*`, at most 63 characters.
pub(super) fn name(what: &str, name: &str) -> Checked {
    if name.is_empty() {
        return refuse(format!("{what} needs a name"));
    }
    if name.len() > MAX_NAME {
        return refuse(format!(
            "{what} name must be {MAX_NAME} characters or fewer, \"{name}\" has {}",
            name.len()
        ));
    }
    let first = name.starts_with(|c: char| c.is_ascii_alphanumeric());
    if !first || !name.bytes().all(|b| b.is_ascii_alphanumeric() || b"_.-".contains(&b)) {
        return refuse(format!(
            "{what} name \"{name}\" is not valid: it begins with a letter or digit and goes on with letters, digits, \"_\", \".\" and \"-\""
        ));
    }
    Ok(())
}

/// A service specification, except for what depends on other objects.
pub(super) fn service(spec: &v1::ServiceSpec) -> Checked {
    let annotations = spec.annotations.as_ref();
    name("service", annotations.map_or("", |a| &a.name))?;
    let count = match &spec.mode {
        Some(Mode::Replicated(r)) => r.replicas,
        Some(Mode::ReplicatedJob(job)) => job.total_completions.max(job.max_concurrent),
        Some(Mode::Global(_) | Mode::GlobalJob(_)) => 0,
        None => {
            return refuse("service needs a mode: replicated, global, replicated-job or global-job");
        }
    };
    if count > MAX_REPLICAS {
        return refuse(format!("{count} replicas are too many: at most {MAX_REPLICAS} for one service"));
    }
    if is_job(spec) {
        for (what, config) in [("an update", &spec.update), ("a rollback", &spec.rollback)] {
            if config.is_some() {
                return refuse(format!("Jobs may not have {what} config"));
            }
        }
    }
    let Some(task) = &spec.task else { return refuse("service needs a task specification") };
    task_spec(task)?;
    for (what, config) in [("update", &spec.update), ("rollback", &spec.rollback)] {
        if let Some(config) = config {
            update_config(what, config)?;
        }
    }
    super::extras::check(spec)?;
    endpoint(spec.endpoint.as_ref())
}

/// Whether the tasks of the service are to come to an end.
pub(super) fn is_job(spec: &v1::ServiceSpec) -> bool {
    matches!(spec.mode, Some(Mode::ReplicatedJob(_) | Mode::GlobalJob(_)))
}

fn task_spec(task: &v1::TaskSpec) -> Checked {
    let Some(container) = &task.container else { return refuse("service needs a container specification") };
    container_spec(container)?;
    resources(task)?;
    generic(&task.generic)?;
    if let Some(restart) = &task.restart {
        if v1::RestartCondition::try_from(restart.condition).is_err() {
            return refuse(format!("restart condition {} is not known", restart.condition));
        }
        if restart.delay_ns.is_some_and(|d| d < 0) || restart.window_ns < 0 {
            return refuse("restart delay and window must not be negative");
        }
    }
    if let Some(placement) = &task.placement {
        for constraint in &placement.constraints {
            Constraint::parse(constraint).map_err(|e| Status::invalid_argument(e.to_string()))?;
        }
        for preference in &placement.preferences {
            let d = &preference.descriptor;
            if !(d.starts_with("node.labels.") || d.starts_with("engine.labels.")) {
                return refuse(format!(
                    "placement preference \"{d}\" is not valid: spread over node.labels.NAME or engine.labels.NAME"
                ));
            }
        }
    }
    let mut seen = std::collections::BTreeSet::new();
    for network in &task.networks {
        if network.network.is_empty() {
            return refuse("a network attachment needs the name or ID of a network");
        }
        if !seen.insert(&network.network) {
            return refuse(format!("network {} is attached twice", network.network));
        }
    }
    if let Some(driver) = &task.log_driver
        && !LOG_DRIVERS.contains(&driver.name.as_str())
    {
        return refuse(format!("logger: no log driver named '{}' is registered", driver.name));
    }
    Ok(())
}

fn container_spec(container: &v1::ContainerSpec) -> Checked {
    let image = &container.image;
    if image.is_empty() {
        return refuse("service needs an image");
    }
    if image.len() > 1024 || image.chars().any(|c| c.is_whitespace() || c.is_control()) {
        return refuse(format!("image reference {image:?} is not valid"));
    }
    if container.stop_grace_period_ns < 0 {
        return refuse("stop grace period must not be negative");
    }
    if let Some(bad) = container.env.iter().find(|e| e.is_empty() || e.starts_with('=') || e.contains('\0')) {
        return refuse(format!("environment entry {bad:?} is not of the form NAME=VALUE"));
    }
    let mut targets = std::collections::BTreeSet::new();
    for mount in &container.mounts {
        match mount.r#type.as_str() {
            "bind" if !mount.source.starts_with('/') => {
                return refuse(format!("bind mount source \"{}\" must be an absolute path", mount.source));
            }
            "tmpfs" if !mount.source.is_empty() => {
                return refuse(format!("tmpfs mount at {} takes no source", mount.target));
            }
            "bind" | "volume" | "tmpfs" => {}
            other => {
                return refuse(format!("mount type \"{other}\" is not supported: bind, volume or tmpfs"));
            }
        }
        if !mount.target.starts_with('/') || mount.target == "/" {
            return refuse(format!("mount target \"{}\" must be an absolute path below /", mount.target));
        }
        if !targets.insert(mount.target.trim_end_matches('/')) {
            return refuse(format!("two mounts have the target {}", mount.target));
        }
    }
    super::dependencies::check_files(&container.files)?;
    container.health.as_ref().map_or(Ok(()), health)?;
    for ulimit in &container.ulimits {
        if ulimit.hard >= 0 && ulimit.soft > ulimit.hard {
            return refuse(format!("ulimit {}: soft limit is above the hard limit", ulimit.name));
        }
    }
    if !(-1000..=1000).contains(&container.oom_score_adj) {
        return refuse(format!("oom score {} is not between -1000 and 1000", container.oom_score_adj));
    }
    Ok(())
}

/// As the engine would refuse it of each task, in Swarm's words.
fn health(health: &v1::HealthConfig) -> Checked {
    for (name, ns) in [
        ("Interval", health.interval_ns),
        ("Timeout", health.timeout_ns),
        ("StartPeriod", health.start_period_ns),
        ("StartInterval", health.start_interval_ns),
    ] {
        if ns != 0 && ns < MIN_HEALTH_NS {
            return refuse(format!("ContainerSpec: {name} in HealthConfig cannot be less than 1ms"));
        }
    }
    if health.retries < 0 {
        return refuse("ContainerSpec: Retries in HealthConfig cannot be negative");
    }
    Ok(())
}

fn resources(task: &v1::TaskSpec) -> Checked {
    for (what, r) in [("reservation", &task.reservations), ("limit", &task.limits)] {
        let Some(r) = r else { continue };
        if r.nano_cpus != 0 && r.nano_cpus < 1_000_000 {
            return refuse(format!(
                "cpu {what} of {} nano CPUs is too small: at least 0.001 CPU",
                r.nano_cpus
            ));
        }
        if r.memory_bytes != 0 && r.memory_bytes < MIN_MEMORY {
            return refuse(format!("memory {what} of {} bytes is too small: at least 4 MiB", r.memory_bytes));
        }
        if r.pids < 0 {
            return refuse(format!("pids {what} must not be negative"));
        }
    }
    if let (Some(want), Some(limit)) = (&task.reservations, &task.limits) {
        if limit.memory_bytes != 0 && want.memory_bytes > limit.memory_bytes {
            return refuse("memory reservation is above the memory limit");
        }
        if limit.nano_cpus != 0 && want.nano_cpus > limit.nano_cpus {
            return refuse("cpu reservation is above the cpu limit");
        }
    }
    Ok(())
}

fn generic(resources: &[v1::GenericResource]) -> Checked {
    let mut kinds = std::collections::BTreeSet::new();
    for r in resources {
        if r.kind.is_empty() || r.amount < 0 {
            return refuse("a generic resource needs a kind, and an amount that is not negative");
        }
        if !r.name.is_empty() {
            return refuse(format!(
                "invalid generic-resource request `{}={}`, Named Generic Resources is not supported for service create \
                 or update: ask for an amount",
                r.kind, r.name
            ));
        }
        if !kinds.insert(&r.kind) {
            return refuse(format!("duplicate generic-resource `{}` for service task", r.kind));
        }
    }
    Ok(())
}

fn update_config(what: &str, config: &v1::UpdateConfig) -> Checked {
    if config.delay_ns < 0 || config.monitor_ns < 0 {
        return refuse(format!("{what} delay and monitor must not be negative"));
    }
    if !(0.0..=1.0).contains(&config.max_failure_ratio) {
        return refuse(format!("{what} failure ratio {} is not between 0 and 1", config.max_failure_ratio));
    }
    let action = v1::UpdateFailureAction::try_from(config.failure_action);
    if what == "rollback" && action == Ok(v1::UpdateFailureAction::Rollback) {
        return refuse("rollback failure action cannot be rollback: use pause or continue");
    }
    if action.is_err() || v1::UpdateOrder::try_from(config.order).is_err() {
        return refuse(format!("{what} failure action or order is not known"));
    }
    Ok(())
}

fn endpoint(endpoint: Option<&v1::EndpointSpec>) -> Checked {
    let Some(endpoint) = endpoint else { return Ok(()) };
    let Ok(mode) = v1::EndpointMode::try_from(endpoint.mode) else {
        return refuse(format!("endpoint mode {} is not known", endpoint.mode));
    };
    let mut published = std::collections::BTreeSet::new();
    for port in &endpoint.ports {
        let (Ok(protocol), Ok(publish)) =
            (v1::PortProtocol::try_from(port.protocol), v1::PublishMode::try_from(port.mode))
        else {
            return refuse("a published port has an unknown protocol or mode");
        };
        if protocol == v1::PortProtocol::Sctp {
            return refuse("publishing SCTP ports is not supported: use tcp or udp");
        }
        if !(1..=65535).contains(&port.target_port) {
            return refuse(format!("target port {} is not between 1 and 65535", port.target_port));
        }
        if port.published_port > 65535 {
            return refuse(format!("published port {} is not between 1 and 65535", port.published_port));
        }
        super::host_ip::check(port)?;
        if publish == v1::PublishMode::Ingress && mode == v1::EndpointMode::Dnsrr {
            return refuse("endpoint mode dnsrr cannot publish ports in ingress mode: use vip, or mode=host");
        }
        if port.published_port != 0 && !published.insert((protocol, port.published_port)) {
            return refuse(format!("published port {} appears twice", port.published_port));
        }
    }
    Ok(())
}

/// A network specification, except for what depends on other objects.
pub(super) fn network(spec: &v1::NetworkSpec) -> Checked {
    name("network", spec.annotations.as_ref().map_or("", |a| &a.name))?;
    if !["", "overlay"].contains(&spec.driver.as_str()) {
        return refuse(format!("driver \"{}\" is not for swarm networks: use overlay", spec.driver));
    }
    for option in spec.driver_options.keys() {
        if option != "encrypted" {
            return refuse(format!("network option \"{option}\" is not supported"));
        }
    }
    if !spec.subnet.is_empty() {
        let cidr: Cidr =
            spec.subnet.parse().map_err(|e: CidrError| Status::invalid_argument(format!("subnet: {e}")))?;
        if !(1 << 4..=1 << 24).contains(&cidr.size()) {
            return refuse(format!("subnet {} must have a prefix length from 8 to 28", spec.subnet));
        }
    }
    Ok(())
}

/// Settings of the cluster.
pub(crate) fn cluster(spec: &v1::ClusterSpec) -> Checked {
    if spec.heartbeat_ms != 0 && !(100..=300_000).contains(&spec.heartbeat_ms) {
        return refuse(format!("heartbeat period {} ms is not between 100 ms and 5 min", spec.heartbeat_ms));
    }
    if spec.cert_expiry_s != 0 && spec.cert_expiry_s < 3600 {
        return refuse("certificate expiry must be at least 1 hour");
    }
    spec.external_cas.iter().try_for_each(crate::ca::check_external_ca)
}

/// A node's settings.
pub(super) fn node(spec: &v1::NodeSpec) -> Checked {
    if v1::NodeRole::try_from(spec.role).is_err() {
        return refuse(format!("role {} is not known: worker or manager", spec.role));
    }
    if v1::NodeAvailability::try_from(spec.availability).is_err() {
        return refuse(format!("availability {} is not known: active, pause or drain", spec.availability));
    }
    Ok(())
}

#[cfg(test)]
#[path = "validate_tests.rs"]
mod tests;
