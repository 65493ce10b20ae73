//! Runs tasks as containers of the local engine.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use skep_engine::{
    BindOptions, ContainerConfig, ContainerState, Engine, FileContent, HealthConfig, HealthStatus, HostInfo,
    LogConfig, MemoryFile, MetricSource, MountConfig, MountKind, NetworkJoin, NetworkMode, PortBinding,
    Propagation, PullRequest, Reference, ResourceLimits, UlimitConfig, VolumeOptions, WaitCondition,
};
use skep_proto::host_ip::HostIp;
use skep_proto::privileges::Privilege;
use skep_proto::{defaults, v1};
use skep_registry::Credentials;

use crate::dependencies::{described, files};
use crate::exchange::{Exchange, FetchError};
use crate::generic;
use crate::run_options;
use crate::task::{Observed, Remnant, TaskError, TaskExit, TaskRuntime, TaskUse};
use crate::template::{Payload, Values};

/// Label that names the task a container belongs to (Docker's own).
pub const TASK_LABEL: &str = "com.docker.swarm.task.id";

/// Label that names the node whose task it is (Docker's own).
const NODE_LABEL: &str = "com.docker.swarm.node.id";

/// The engine as a task runtime.
pub struct EngineRuntime {
    engine: Engine,
    /// Images of other nodes.
    exchange: Option<Exchange>,
    /// What services may have here beyond Docker's.
    allowed: Vec<Privilege>,
    /// What templates of a service's settings are told of this host.
    host: HostInfo,
}

impl EngineRuntime {
    /// Runs tasks on `engine`, with no more than what is `allowed` here, and with images that other nodes have, too,
    /// where there is an exchange of them.
    pub fn new(engine: Engine, exchange: Option<Exchange>, allowed: Vec<Privilege>) -> Self {
        let host = engine.info();
        Self { engine, exchange, allowed, host }
    }
}

/// Name of a task, and so of its container.
pub fn task_name(a: &v1::TaskAssignment) -> String {
    a.task.as_ref().map(|t| t.name(&a.service_name)).unwrap_or_default()
}

fn failed(e: impl std::fmt::Display) -> TaskError {
    TaskError::Failed(e.to_string())
}

#[async_trait::async_trait]
impl TaskRuntime for EngineRuntime {
    async fn observe(&self, a: &v1::TaskAssignment) -> Observed {
        let Ok(c) = self.engine.inspect(&task_name(a)) else { return Observed::Absent };
        let status = v1::ContainerStatus {
            container_id: c.id.to_string(),
            pid: c.pid.map_or(0, i64::from),
            exit_code: c.exit_code.unwrap_or(0),
        };
        match c.state {
            ContainerState::Created if c.error.is_empty() => Observed::Prepared,
            ContainerState::Running | ContainerState::Paused | ContainerState::Restarting => {
                match c.health.as_ref().map(|h| h.status) {
                    Some(HealthStatus::Starting) => Observed::Starting(status),
                    _ => Observed::Running(status),
                }
            }
            _ => Observed::Exited(status, exit_of(&c)),
        }
    }

    async fn usage(&self, a: &v1::TaskAssignment, metric: Option<&v1::MetricTarget>) -> Option<TaskUse> {
        let name = task_name(a);
        let stats = self.engine.stats(&name).await.ok().filter(|s| s.read_ns > 0)?;
        // Of v1 and v2.
        let idle = ["total_inactive_file", "inactive_file"];
        let memory = &stats.usage.memory;
        let idle = idle.iter().find_map(|n| memory.stat.get(*n)).copied().unwrap_or(0);
        let metric = match metric {
            None => None,
            Some(m) => {
                let source = MetricSource {
                    name: m.name.clone(),
                    port: u16::try_from(m.port).ok()?,
                    path: m.path.clone(),
                };
                self.engine.scrape(&name, source).await.ok().flatten()
            }
        };
        let memory_bytes = memory.usage.saturating_sub(idle);
        Some(TaskUse { cpu_ns: stats.usage.cpu.total_ns, memory_bytes, metric })
    }

    async fn fetch(&self, a: &v1::TaskAssignment) -> Result<(), TaskError> {
        let container = a.spec.as_ref().and_then(|s| s.container.as_ref());
        let Some(c) = container.filter(|_| self.engine.inspect(&task_name(a)).is_err()) else {
            return Ok(());
        };
        let images = self.engine.images();
        if !matches!(images.resolve(&c.image), Err(skep_engine::Error::NoSuchImage { .. })) {
            return Ok(());
        }
        let rejected =
            |why: String| TaskError::Rejected(format!("No such image: {}: {why}", shown(&c.image)));
        let reference = Reference::parse(&c.image).map_err(|e| rejected(e.to_string()))?.or_latest();
        let credentials = Credentials::from_header(&c.registry_auth).map_err(|e| rejected(e.to_string()))?;
        let pinned = reference.digest.clone();
        // What a digest stands for is the same wherever it comes from; a tag is its registry's to say.
        let mut peers = None;
        if let Some(digest) = &pinned {
            if images.resolve(digest).is_ok() {
                // It is here, under another name or none.
                let name = Reference { tag: None, ..reference };
                return images.also_called(digest, &name).await.map_err(|e| rejected(e.to_string()));
            }
            peers = self.pull_from_peers(&c.image).await;
            if matches!(peers, Some(Ok(()))) {
                return Ok(());
            }
        }
        let request = PullRequest { reference, platform: None, credentials };
        let pulled = match images.pull(request, &|_| {}).await {
            Ok(_) => return Ok(()),
            Err(e) => e.to_string(),
        };
        if pinned.is_none() {
            peers = self.pull_from_peers(&c.image).await;
        }
        match peers {
            Some(Ok(())) => Ok(()),
            Some(Err(e)) => Err(rejected(format!("{pulled}; {e}"))),
            None => Err(rejected(pulled)),
        }
    }

    async fn prepare(&self, a: &v1::TaskAssignment) -> Result<(), TaskError> {
        let name = task_name(a);
        if self.engine.inspect(&name).is_ok() {
            return Ok(());
        }
        if let Some(c) = a.spec.as_ref().and_then(|s| s.container.as_ref()) {
            let own = self.engine.runtimes().default_is_own();
            run_options::check(c, own, &self.allowed).map_err(TaskError::Rejected)?;
        }
        let config = container_config(a, &self.host).map_err(TaskError::Rejected)?;
        let created = self.engine.create(Some(name), config).await;
        created.map(drop).map_err(|e| TaskError::Rejected(e.to_string()))
    }

    async fn start(
        &self,
        a: &v1::TaskAssignment,
        held: &[Arc<v1::Dependency>],
    ) -> Result<v1::ContainerStatus, TaskError> {
        let name = task_name(a);
        let contents = contents(a, held, &self.host).map_err(TaskError::Rejected)?;
        match self.engine.start_with_files(&name, contents).await {
            Ok(()) | Err(skep_engine::Error::AlreadyStarted { .. }) => {}
            Err(e) => return Err(failed(e)),
        }
        let c = self.engine.inspect(&name).map_err(failed)?;
        Ok(v1::ContainerStatus {
            container_id: c.id.to_string(),
            pid: c.pid.map_or(0, i64::from),
            exit_code: 0,
        })
    }

    async fn healthy(&self, a: &v1::TaskAssignment) -> Result<(), TaskError> {
        let name = task_name(a);
        let known = self.engine.wait_for_health(&name, |s| s != HealthStatus::Starting).map_err(failed)?;
        match known.await {
            Some(HealthStatus::Unhealthy) => Err(self.unhealthy(a).await?),
            Some(_) => Ok(()),
            // Not checked, or it has ended meanwhile.
            None => match self.engine.inspect(&name).map_err(failed)? {
                c if c.state == ContainerState::Exited && c.exit_code.unwrap_or(0) != 0 => {
                    let code = c.exit_code.unwrap_or(0);
                    Err(TaskError::Failed(format!("task: non-zero exit ({code})")))
                }
                _ => Ok(()),
            },
        }
    }

    async fn wait(&self, a: &v1::TaskAssignment) -> Result<TaskExit, TaskError> {
        let name = task_name(a);
        let wait = self.engine.wait(&name, WaitCondition::NotRunning).map_err(failed)?;
        let ill = self.engine.wait_for_health(&name, |s| s == HealthStatus::Unhealthy).map_err(failed)?;
        let ill = async move {
            if ill.await.is_none() {
                // Not checked, or its end is about to be told.
                std::future::pending::<()>().await;
            }
        };
        tokio::select! {
            ended = wait => drop(ended.map_err(failed)?),
            () = ill => return Err(self.unhealthy(a).await?),
        }
        let c = self.engine.inspect(&name).map_err(failed)?;
        Ok(exit_of(&c))
    }

    async fn shutdown(&self, a: &v1::TaskAssignment) -> Result<(), TaskError> {
        let grace = a.spec.as_ref().and_then(|s| s.container.as_ref()).map_or(0, |c| c.stop_grace_period_ns);
        let grace = if grace > 0 { Duration::from_nanos(grace as u64) } else { defaults::STOP_GRACE };
        match self.engine.stop(&task_name(a), Some(grace)).await {
            Ok(())
            | Err(skep_engine::Error::NoSuchContainer { .. } | skep_engine::Error::NotRunning { .. }) => {
                Ok(())
            }
            Err(e) => Err(failed(e)),
        }
    }

    async fn containers(&self, node_id: &str) -> Vec<Remnant> {
        let remnant = |c: &skep_engine::Container| {
            let labels = &c.config.labels;
            // A container of another node's is what is left of an earlier membership, and the user's, as with Docker.
            let own = labels.get(NODE_LABEL).is_some_and(|node| node == node_id);
            let task_id = labels.get(TASK_LABEL).filter(|_| own)?.clone();
            Some(Remnant { task_id, container_id: c.id.to_string() })
        };
        self.engine.list().iter().filter_map(|c| remnant(c)).collect()
    }

    async fn discard(&self, of: &Remnant) -> Result<(), TaskError> {
        use skep_engine::Error::{NoSuchContainer, NotRunning};
        match self.engine.stop(&of.container_id, None).await {
            Ok(()) | Err(NoSuchContainer { .. } | NotRunning { .. }) => {}
            Err(e) => return Err(failed(e)),
        }
        match self.engine.remove_with(&of.container_id, true, true).await {
            Ok(()) | Err(NoSuchContainer { .. }) => Ok(()),
            Err(e) => Err(failed(e)),
        }
    }

    async fn remove(&self, a: &v1::TaskAssignment) -> Result<(), TaskError> {
        match self.engine.remove_with(&task_name(a), true, true).await {
            Ok(()) | Err(skep_engine::Error::NoSuchContainer { .. }) => Ok(()),
            Err(e) => Err(failed(e)),
        }
    }
}

impl EngineRuntime {
    /// Brings an image from other nodes; none = this node takes none from there.
    async fn pull_from_peers(&self, image: &str) -> Option<Result<(), FetchError>> {
        let exchange = self.exchange.as_ref().filter(|e| e.is_linked())?;
        Some(exchange.fetch(image).await)
    }

    /// Stops a task that is ill; what it has failed with.
    async fn unhealthy(&self, a: &v1::TaskAssignment) -> Result<TaskError, TaskError> {
        self.shutdown(a).await?;
        let c = self.engine.inspect(&task_name(a)).map_err(failed)?;
        Ok(TaskError::Failed(match c.exit_code.unwrap_or(0) {
            0 => "task: unhealthy container".into(),
            code => format!("task: non-zero exit ({code}): unhealthy container"),
        }))
    }
}

/// How health is checked, as the engine reads it.
fn health(h: &v1::HealthConfig) -> HealthConfig {
    let span = |ns: i64| Duration::from_nanos(u64::try_from(ns).unwrap_or(0));
    HealthConfig {
        test: h.test.clone(),
        interval: span(h.interval_ns),
        timeout: span(h.timeout_ns),
        start_period: span(h.start_period_ns),
        start_interval: span(h.start_interval_ns),
        retries: u32::try_from(h.retries).unwrap_or(0),
    }
}

/// An image as the user wrote it: a digest that a client pinned is left out.
fn shown(image: &str) -> &str {
    match image.split_once('@') {
        Some((name, _)) if name.rsplit('/').next().is_some_and(|last| last.contains(':')) => name,
        _ => image,
    }
}

fn exit_of(c: &skep_engine::Container) -> TaskExit {
    let cause = if c.oom_killed {
        "the kernel killed it for want of memory; raise its memory limit".to_owned()
    } else {
        c.error.clone()
    };
    TaskExit { code: c.exit_code.unwrap_or(0), cause }
}

/// A task as a container. What a task cannot ask of this engine is refused by name.
fn container_config(a: &v1::TaskAssignment, host: &HostInfo) -> Result<ContainerConfig, String> {
    let task = a.task.as_ref().ok_or("the manager sent an assignment without its task")?;
    let spec = a.spec.as_ref().ok_or("the manager sent an assignment without its spec")?;
    let c = spec.container.as_ref().ok_or("the service names no container to run")?;
    let name = task_name(a);
    let own: BTreeMap<String, String> = [
        (NODE_LABEL, task.node_id.as_str()),
        ("com.docker.swarm.service.id", task.service_id.as_str()),
        ("com.docker.swarm.service.name", a.service_name.as_str()),
        ("com.docker.swarm.task", ""),
        (TASK_LABEL, task.id.as_str()),
        ("com.docker.swarm.task.name", name.as_str()),
    ]
    .map(|(k, v)| (k.to_owned(), v.to_owned()))
    .into();
    let values = Values { assignment: a, task_name: &name, hostname: &host.hostname, arch: &host.arch };
    let limits = spec.limits.unwrap_or_default();
    let positive = |n: i64| u64::try_from(n).ok().filter(|n| *n > 0);
    let parse_ip = |s: &String| s.parse().map_err(|_| format!("DNS server {s:?} is not an IP address"));
    let mut config = ContainerConfig {
        image: c.image.clone(),
        // Of its own, also where others are in the host's (cgroups v1).
        host_cgroupns: Some(false),
        entrypoint: (!c.command.is_empty()).then(|| c.command.clone()),
        cmd: (!c.args.is_empty()).then(|| c.args.clone()),
        env: c
            .env
            .iter()
            .map(|e| values.expand(e))
            .chain(generic::variables(&task.generic).map(Ok))
            .collect::<Result<_, _>>()?,
        working_dir: text(&c.dir),
        user: text(&c.user),
        groups: c.groups.clone(),
        hostname: text(&values.expand(&c.hostname)?),
        labels: c.labels.clone().into_iter().chain(own).collect(),
        tty: c.tty,
        stop_signal: text(&c.stop_signal),
        stop_timeout: positive(c.stop_grace_period_ns).map(Duration::from_nanos),
        network: network(a, task, spec)?,
        ports: host_ports(task)?,
        mounts: c.mounts.iter().map(|m| mount(m, &values)).collect::<Result<_, _>>()?,
        files: c.files.iter().map(file).collect(),
        cap_add: c.cap_add.clone(),
        cap_drop: c.cap_drop.clone(),
        read_only: c.read_only,
        resources: ResourceLimits {
            memory: positive(limits.memory_bytes),
            nano_cpus: positive(limits.nano_cpus),
            pids: (limits.pids > 0).then_some(limits.pids),
            ..Default::default()
        },
        ulimits: c
            .ulimits
            .iter()
            .map(|u| UlimitConfig { name: u.name.clone(), soft: u.soft, hard: u.hard })
            .collect(),
        sysctls: c.sysctls.clone(),
        oom_score_adj: (c.oom_score_adj != 0).then_some(c.oom_score_adj as i32),
        init: c.init,
        health: c.health.as_ref().map(health),
        log: log(spec)?,
        extra_hosts: c.hosts.iter().map(|h| extra_host(h)).collect(),
        dns: c.dns_servers.iter().map(parse_ip).collect::<Result<_, _>>()?,
        dns_search: c.dns_search.clone(),
        dns_options: c.dns_options.clone(),
        ..Default::default()
    };
    if let Some(run) = &c.run {
        run_options::apply(run, &task.generic, &mut config)?;
    }
    Ok(config)
}

/// Where a secret or config is in the container.
fn file(f: &v1::FileReference) -> MemoryFile {
    let base = match f.kind() {
        v1::DependencyKind::Secret => "/run/secrets",
        v1::DependencyKind::Config => "/",
    };
    // An absolute target takes the place of the base.
    let target = Path::new(base).join(&f.target);
    MemoryFile { what: described(f), target, uid: f.uid, gid: f.gid, mode: f.mode }
}

/// What the files of a task hold, with the placeholders of those that are templates filled in.
fn contents(
    a: &v1::TaskAssignment,
    held: &[Arc<v1::Dependency>],
    host: &HostInfo,
) -> Result<Vec<FileContent>, String> {
    let name = task_name(a);
    let values = Values { assignment: a, task_name: &name, hostname: &host.hostname, arch: &host.arch };
    let payload = Payload { values: &values, held };
    files(a)
        .iter()
        .zip(held)
        .map(|(file, dependency)| {
            payload
                .content(dependency)
                .map(FileContent::from)
                .map_err(|e| format!("{}: {e}", described(file)))
        })
        .collect()
}

fn text(s: &str) -> Option<String> {
    (!s.is_empty()).then(|| s.to_owned())
}

/// `IP name` (the API's form) as `name:IP` (the engine's).
fn extra_host(line: &str) -> String {
    let mut words = line.split_whitespace();
    match (words.next(), words.next()) {
        (Some(ip), Some(name)) => format!("{name}:{ip}"),
        _ => line.to_owned(),
    }
}

fn network(a: &v1::TaskAssignment, task: &v1::Task, spec: &v1::TaskSpec) -> Result<NetworkMode, String> {
    if let [only] = spec.networks.as_slice() {
        match only.network.as_str() {
            "host" => return Ok(NetworkMode::Host),
            "none" => return Ok(NetworkMode::None),
            _ => {}
        }
    }
    if task.addresses.is_empty() {
        // As in Swarm, a task on no overlay network still reaches out through the default bridge.
        return Ok(NetworkMode::Networks(vec![NetworkJoin {
            network: "bridge".into(),
            ..Default::default()
        }]));
    }
    let mut joins = Vec::with_capacity(task.addresses.len());
    for at in &task.addresses {
        let bad = |addr: &str| format!("the manager sent address {addr:?} for network {}", at.network_id);
        let addr = at.addr.parse().map_err(|_| bad(&at.addr))?;
        let addr6 = Some(&at.addr6).filter(|a| !a.is_empty()).map(|a| a.parse().map_err(|_| bad(a)));
        let aliases = spec.networks.iter().find(|n| n.network == at.network_id);
        let mut aliases = aliases.map(|n| n.aliases.clone()).unwrap_or_default();
        aliases.push(task_name(a));
        joins.push(NetworkJoin {
            network: at.network_id.clone(),
            addr: Some(addr),
            addr6: addr6.transpose()?,
            aliases,
            ..Default::default()
        });
    }
    Ok(NetworkMode::Networks(joins))
}

fn host_ports(task: &v1::Task) -> Result<Vec<PortBinding>, String> {
    let host = task.ports.iter().filter(|p| p.mode() == v1::PublishMode::Host);
    host.map(|p| {
        let narrow = |n: u32| u16::try_from(n).map_err(|_| format!("port {n} is beyond 65535"));
        let (host_ip, interface) = host_ip(&p.host_ip)?;
        Ok(PortBinding {
            protocol: crate::plane::protocol(p.protocol()).into(),
            container_port: narrow(p.target_port)?,
            host_ip,
            interface,
            host_port: narrow(p.published_port)?,
            host_port_end: 0,
        })
    })
    .collect()
}

/// The address a port is open on, or the interface; neither: all addresses.
fn host_ip(text: &str) -> Result<(Option<std::net::IpAddr>, Option<String>), String> {
    match HostIp::read(text) {
        _ if text.is_empty() || text == "0.0.0.0" => Ok((None, None)),
        Some(HostIp::Address(addr)) => Ok((Some(addr), None)),
        Some(HostIp::Interface(name)) => Ok((None, Some(name.to_owned()))),
        None => Err(format!("host IP {text:?} of a port is neither an address nor the name of an interface")),
    }
}

fn mount(m: &v1::Mount, values: &Values<'_>) -> Result<MountConfig, String> {
    let source = values.expand(&m.source)?;
    let expanded = |map: &BTreeMap<String, String>| {
        map.iter().map(|(k, v)| Ok((k.clone(), values.expand(v)?))).collect::<Result<_, String>>()
    };
    let kind = match m.r#type.as_str() {
        "bind" => {
            let b = m.bind.clone().unwrap_or_default();
            let propagation = match b.propagation.as_str() {
                "" => Propagation::default(),
                word => {
                    Propagation::parse(word).ok_or_else(|| format!("invalid propagation mode: {word}"))?
                }
            };
            let options = BindOptions {
                propagation,
                create: b.create_mountpoint,
                non_recursive: b.non_recursive,
                read_only_non_recursive: b.read_only_non_recursive,
                ..BindOptions::default()
            };
            MountKind::Bind { source: source.into(), options }
        }
        "volume" => {
            let v = m.volume.clone().unwrap_or_default();
            let options = VolumeOptions {
                driver: v.driver,
                driver_options: expanded(&v.driver_options)?,
                labels: expanded(&v.labels)?,
                no_copy: v.no_copy,
                subpath: text(&v.subpath).map(PathBuf::from),
                anonymous: source.is_empty(),
            };
            MountKind::Volume { name: source, options }
        }
        "tmpfs" => MountKind::tmpfs(
            u64::try_from(m.tmpfs_size_bytes).ok().filter(|s| *s > 0),
            Some(m.tmpfs_mode).filter(|m| *m != 0),
        ),
        other => {
            return Err(format!(
                "mounts of type {other:?} at {} are not known: use bind, volume or tmpfs",
                m.target
            ));
        }
    };
    Ok(MountConfig::new(kind, values.expand(&m.target)?, m.read_only))
}

fn log(spec: &v1::TaskSpec) -> Result<LogConfig, String> {
    let Some(driver) = spec.log_driver.as_ref() else {
        return Ok(LogConfig::default());
    };
    LogConfig::from_options(&driver.name, driver.options.iter().map(|(k, v)| (k.as_str(), v.as_str())))
}
