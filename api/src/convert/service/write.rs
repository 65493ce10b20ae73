//! Writes a service as Docker's JSON. What is written reads back to the same specification, since
//! `service update` sends back what it was given with one thing changed.

use serde_json::{Map, Value, json};
use skep_proto::v1::{
    ContainerSpec, DependencyKind, EndpointMode, EndpointSpec, PortConfig, PortProtocol, PublishMode,
    Resources, RestartCondition, Service, ServiceSpec, ServiceWithStatus, TaskSpec, UpdateConfig,
    UpdateFailureAction, UpdateOrder, UpdateState, service_spec::Mode,
};

use crate::convert::names::Named;
use crate::convert::{created, dependency, generic, number, time, updated, version};

/// Inserts unless the value asks for nothing.
pub(super) fn put(map: &mut Map<String, Value>, key: &str, value: Value) {
    if !crate::fields::is_zero(&value) {
        map.insert(key.into(), value);
    }
}

/// A service as `inspect` and `ls` show it.
pub fn service(s: &Service) -> Value {
    let endpoint = s.endpoint.clone().unwrap_or_default();
    let mut out = json!({
        "ID": s.id,
        "Version": version(s.meta.as_ref()),
        "CreatedAt": created(s.meta.as_ref()),
        "UpdatedAt": updated(s.meta.as_ref()),
        "Spec": spec(&s.spec.clone().unwrap_or_default()),
    });
    if let Some(previous) = &s.previous_spec {
        out["PreviousSpec"] = spec(previous);
    }
    out["Endpoint"] = json!({ "Spec": endpoint.spec.as_ref().map_or_else(|| json!({}), endpoint_spec) });
    if !endpoint.ports.is_empty() {
        out["Endpoint"]["Ports"] = endpoint.ports.iter().map(port).collect();
    }
    if !endpoint.virtual_ips.is_empty() {
        let ips = &endpoint.virtual_ips;
        let all = ips.iter().flat_map(|v| [&v.addr, &v.addr6].map(|addr| (&v.network_id, addr)));
        let given = all.filter(|(_, addr)| !addr.is_empty());
        out["Endpoint"]["VirtualIPs"] =
            given.map(|(id, addr)| json!({ "NetworkID": id, "Addr": with_prefix(addr) })).collect();
    }
    if let Some(u) = s.update_status.as_ref().filter(|u| u.state != UpdateState::None as i32) {
        let mut status = json!({ "State": UpdateState::word(u.state), "Message": u.message });
        if u.started_at_ms != 0 {
            status["StartedAt"] = time::from_ms(u.started_at_ms).into();
        }
        if u.completed_at_ms != 0 {
            status["CompletedAt"] = time::from_ms(u.completed_at_ms).into();
        }
        out["UpdateStatus"] = status;
    }
    if let Some(job) = &s.job_status {
        out["JobStatus"] = json!({
            "JobIteration": number(job.iteration), "LastExecution": time::from_ms(job.last_execution_ms),
        });
    }
    if let Some(status) = &s.schedule_status {
        out["ScheduleStatus"] = super::extras::schedule_status(status);
    }
    if let Some(status) = &s.autoscale_status {
        out["AutoscaleStatus"] = super::extras::autoscale_status(status);
    }
    if let Some(status) = &s.rebalance_status {
        out["RebalanceStatus"] = super::extras::rebalance_status(status);
    }
    out
}

/// Docker writes a virtual IP with a prefix length.
fn with_prefix(addr: &str) -> String {
    match (addr.contains('/'), addr.contains(':')) {
        (true, _) => addr.to_owned(),
        (false, true) => format!("{addr}/128"),
        (false, false) => format!("{addr}/32"),
    }
}

/// `ServiceStatus`, as `service ls` shows it.
pub fn status(s: &ServiceWithStatus) -> Value {
    json!({ "RunningTasks": s.running, "DesiredTasks": s.desired, "CompletedTasks": s.completed })
}

/// A service's specification.
pub fn spec(s: &ServiceSpec) -> Value {
    let annotations = s.annotations.clone().unwrap_or_default();
    let mode = match &s.mode {
        Some(Mode::Global(_)) => json!({ "Global": {} }),
        Some(Mode::Replicated(r)) => json!({ "Replicated": { "Replicas": r.replicas } }),
        Some(Mode::ReplicatedJob(job)) => json!({ "ReplicatedJob": {
            "MaxConcurrent": job.max_concurrent, "TotalCompletions": job.total_completions,
        } }),
        Some(Mode::GlobalJob(_)) => json!({ "GlobalJob": {} }),
        None => json!({ "Replicated": { "Replicas": 1 } }),
    };
    let mut out = json!({
        "Name": annotations.name,
        "Labels": annotations.labels,
        "TaskTemplate": task_template(&s.task.clone().unwrap_or_default()),
        "Mode": mode,
    });
    super::extras::write(s, &mut out);
    if let Some(u) = &s.update {
        out["UpdateConfig"] = update_config(u);
    }
    if let Some(u) = &s.rollback {
        out["RollbackConfig"] = update_config(u);
    }
    if let Some(e) = &s.endpoint {
        out["EndpointSpec"] = endpoint_spec(e);
    }
    out
}

/// What a task runs.
pub fn task_template(t: &TaskSpec) -> Value {
    let mut resources = Map::new();
    if let Some(r) = &t.limits {
        resources.insert("Limits".into(), amounts(r));
    }
    if t.reservations.is_some() || !t.generic.is_empty() {
        let mut reserved = amounts(&t.reservations.unwrap_or_default());
        if !t.generic.is_empty() {
            reserved["GenericResources"] = generic::write(&t.generic);
        }
        resources.insert("Reservations".into(), reserved);
    }
    let mut out = json!({
        "ContainerSpec": container_spec(&t.container.clone().unwrap_or_default()),
        "Resources": resources,
        "ForceUpdate": t.force_update,
        "Runtime": "container",
    });
    if let Some(r) = &t.restart {
        let mut policy =
            json!({ "Condition": RestartCondition::word(r.condition), "MaxAttempts": r.max_attempts });
        if let Some(delay) = r.delay_ns {
            policy["Delay"] = delay.into();
        }
        if r.window_ns != 0 {
            policy["Window"] = r.window_ns.into();
        }
        out["RestartPolicy"] = policy;
    }
    let mut placement = Map::new();
    if let Some(p) = &t.placement {
        put(&mut placement, "Constraints", json!(p.constraints));
        let spread = |d: &str| json!({ "Spread": { "SpreadDescriptor": d } });
        put(&mut placement, "Preferences", p.preferences.iter().map(|p| spread(&p.descriptor)).collect());
        put(&mut placement, "MaxReplicas", json!(p.max_replicas));
        let platform = |p: &skep_proto::v1::Platform| json!({ "Architecture": p.architecture, "OS": p.os });
        put(&mut placement, "Platforms", p.platforms.iter().map(platform).collect());
    }
    out["Placement"] = placement.into();
    if !t.networks.is_empty() {
        let attachment = |n: &skep_proto::v1::NetworkAttachment| {
            let mut a = json!({ "Target": n.network });
            if !n.aliases.is_empty() {
                a["Aliases"] = json!(n.aliases);
            }
            a
        };
        out["Networks"] = t.networks.iter().map(attachment).collect();
    }
    if let Some(l) = &t.log_driver {
        out["LogDriver"] = json!({ "Name": l.name, "Options": l.options });
    }
    out
}

fn amounts(r: &Resources) -> Value {
    let mut map = Map::new();
    put(&mut map, "NanoCPUs", json!(r.nano_cpus));
    put(&mut map, "MemoryBytes", json!(r.memory_bytes));
    put(&mut map, "Pids", json!(r.pids));
    map.into()
}

fn container_spec(c: &ContainerSpec) -> Value {
    let mut map = Map::new();
    map.insert("Image".into(), json!(c.image));
    put(&mut map, "Labels", json!(c.labels));
    put(&mut map, "Command", json!(c.command));
    put(&mut map, "Args", json!(c.args));
    put(&mut map, "Hostname", json!(c.hostname));
    put(&mut map, "Env", json!(c.env));
    put(&mut map, "Dir", json!(c.dir));
    put(&mut map, "User", json!(c.user));
    put(&mut map, "Groups", json!(c.groups));
    put(&mut map, "TTY", json!(c.tty));
    put(&mut map, "ReadOnly", json!(c.read_only));
    put(&mut map, "StopSignal", json!(c.stop_signal));
    if c.stop_grace_period_ns != 0 {
        map.insert("StopGracePeriod".into(), json!(c.stop_grace_period_ns));
    }
    put(&mut map, "Mounts", c.mounts.iter().map(mount).collect());
    put(&mut map, "CapabilityAdd", json!(c.cap_add));
    put(&mut map, "CapabilityDrop", json!(c.cap_drop));
    put(&mut map, "Sysctls", json!(c.sysctls));
    let ulimit = |u: &skep_proto::v1::Ulimit| json!({ "Name": u.name, "Soft": u.soft, "Hard": u.hard });
    put(&mut map, "Ulimits", c.ulimits.iter().map(ulimit).collect());
    if let Some(init) = c.init {
        map.insert("Init".into(), init.into());
    }
    if let Some(h) = &c.health {
        let mut health = Map::new();
        put(&mut health, "Test", json!(h.test));
        put(&mut health, "Interval", json!(h.interval_ns));
        put(&mut health, "Timeout", json!(h.timeout_ns));
        put(&mut health, "StartPeriod", json!(h.start_period_ns));
        put(&mut health, "StartInterval", json!(h.start_interval_ns));
        put(&mut health, "Retries", json!(h.retries));
        map.insert("Healthcheck".into(), health.into());
    }
    put(&mut map, "Hosts", json!(c.hosts));
    let mut dns = Map::new();
    put(&mut dns, "Nameservers", json!(c.dns_servers));
    put(&mut dns, "Search", json!(c.dns_search));
    put(&mut dns, "Options", json!(c.dns_options));
    map.insert("DNSConfig".into(), dns.into());
    put(&mut map, "Secrets", dependency::files(DependencyKind::Secret, &c.files));
    put(&mut map, "Configs", dependency::files(DependencyKind::Config, &c.files));
    put(&mut map, "OomScoreAdj", json!(c.oom_score_adj));
    // Skep's own, as well.
    if let Some(run) = &c.run {
        map.insert("RunOptions".into(), super::run::write(run).into());
    }
    map.insert("Isolation".into(), "default".into());
    map.into()
}

fn mount(m: &skep_proto::v1::Mount) -> Value {
    let mut map = Map::new();
    map.insert("Type".into(), json!(m.r#type));
    put(&mut map, "Source", json!(m.source));
    map.insert("Target".into(), json!(m.target));
    put(&mut map, "ReadOnly", json!(m.read_only));
    let mut tmpfs = Map::new();
    put(&mut tmpfs, "SizeBytes", json!(m.tmpfs_size_bytes));
    put(&mut tmpfs, "Mode", json!(m.tmpfs_mode));
    put(&mut map, "TmpfsOptions", tmpfs.into());
    if let Some(b) = &m.bind {
        let mut bind = Map::new();
        put(&mut bind, "Propagation", json!(b.propagation));
        put(&mut bind, "NonRecursive", json!(b.non_recursive));
        put(&mut bind, "ReadOnlyNonRecursive", json!(b.read_only_non_recursive));
        put(&mut bind, "CreateMountpoint", json!(b.create_mountpoint));
        put(&mut map, "BindOptions", bind.into());
    }
    if let Some(v) = &m.volume {
        let (mut volume, mut driver) = (Map::new(), Map::new());
        put(&mut volume, "NoCopy", json!(v.no_copy));
        put(&mut volume, "Labels", json!(v.labels));
        put(&mut volume, "Subpath", json!(v.subpath));
        put(&mut driver, "Name", json!(v.driver));
        put(&mut driver, "Options", json!(v.driver_options));
        put(&mut volume, "DriverConfig", driver.into());
        put(&mut map, "VolumeOptions", volume.into());
    }
    map.into()
}

fn update_config(u: &UpdateConfig) -> Value {
    let mut out = json!({
        "Parallelism": u.parallelism,
        "FailureAction": UpdateFailureAction::word(u.failure_action),
        "MaxFailureRatio": u.max_failure_ratio,
        "Order": UpdateOrder::word(u.order),
    });
    if u.delay_ns != 0 {
        out["Delay"] = u.delay_ns.into();
    }
    if u.monitor_ns != 0 {
        out["Monitor"] = u.monitor_ns.into();
    }
    out
}

fn endpoint_spec(e: &EndpointSpec) -> Value {
    let mut out = json!({ "Mode": EndpointMode::word(e.mode) });
    if !e.ports.is_empty() {
        out["Ports"] = e.ports.iter().map(port).collect();
    }
    out
}

fn port(p: &PortConfig) -> Value {
    let mut map = Map::new();
    put(&mut map, "Name", json!(p.name));
    map.insert("Protocol".into(), PortProtocol::word(p.protocol).into());
    map.insert("TargetPort".into(), json!(p.target_port));
    put(&mut map, "PublishedPort", json!(p.published_port));
    map.insert("PublishMode".into(), PublishMode::word(p.mode).into());
    // Skep's own.
    put(&mut map, "HostIP", json!(p.host_ip));
    map.into()
}
