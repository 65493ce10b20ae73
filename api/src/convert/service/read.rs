//! Reads the `ServiceSpec` of a request; what Skep cannot do is refused by the field's path.

use serde_json::json;
use skep_proto::v1::{
    Annotations, EndpointMode, EndpointSpec, Global, GlobalJob, LogDriver, NetworkAttachment, Placement,
    Platform, PortConfig, PortProtocol, PublishMode, Replicated, ReplicatedJob, Resources, RestartCondition,
    RestartPolicy, ServiceSpec, SpreadOver, TaskSpec, UpdateConfig, UpdateFailureAction, UpdateOrder,
    service_spec::Mode,
};

use super::read_container::read_container;
use crate::convert::generic;
use crate::convert::names::Named;
use crate::error::{ApiError, ApiResult};
use crate::fields::Fields;

/// Reads a service's specification.
pub fn read(mut f: Fields) -> ApiResult<ServiceSpec> {
    let name = Some(f.string("Name")?).filter(|n| !n.is_empty()).unwrap_or_else(skep_engine::made_up_name);
    let annotations = Some(Annotations { name, labels: f.string_map("Labels")? });
    let mut task = read_task(f.object("TaskTemplate")?)?;
    let mode = read_mode(f.object("Mode")?)?;
    let update = f.opt_object("UpdateConfig")?.map(read_update).transpose()?;
    let rollback = f.opt_object("RollbackConfig")?.map(read_update).transpose()?;
    let endpoint = f.opt_object("EndpointSpec")?.map(read_endpoint).transpose()?;
    // Clients before API 1.25 put the networks beside the task template.
    let networks = read_networks(f.objects("Networks")?)?;
    if task.networks.is_empty() {
        task.networks = networks;
    }
    let (task, mode) = (Some(task), Some(mode));
    let mut spec = ServiceSpec { annotations, task, mode, update, rollback, endpoint, ..Default::default() };
    super::extras::read(&mut f, &mut spec)?;
    f.refuse_rest(&[])?;
    Ok(spec)
}

fn read_mode(mut f: Fields) -> ApiResult<Mode> {
    let replicated = f.opt_object("Replicated")?;
    let global = f.opt_object("Global")?;
    let replicated_job = f.opt_object("ReplicatedJob")?;
    let global_job = f.opt_object("GlobalJob")?;
    f.refuse_rest(&[])?;
    match (replicated, global, replicated_job, global_job) {
        (None, None, None, None) => Ok(Mode::Replicated(Replicated { replicas: 1 })),
        (Some(mut replicated), None, None, None) => {
            let replicas = replicated.opt_u64("Replicas")?.unwrap_or(1);
            replicated.refuse_rest(&[])?;
            Ok(Mode::Replicated(Replicated { replicas }))
        }
        (None, Some(global), None, None) => global.refuse_rest(&[]).map(|()| Mode::Global(Global {})),
        (None, None, Some(mut job), None) => {
            let max_concurrent = job.opt_u64("MaxConcurrent")?.unwrap_or(1);
            let total_completions = job.opt_u64("TotalCompletions")?.unwrap_or(max_concurrent);
            job.refuse_rest(&[])?;
            Ok(Mode::ReplicatedJob(ReplicatedJob { max_concurrent, total_completions }))
        }
        (None, None, None, Some(job)) => job.refuse_rest(&[]).map(|()| Mode::GlobalJob(GlobalJob {})),
        _ => Err(ApiError::bad_request("must specify only one service mode")),
    }
}

fn read_task(mut f: Fields) -> ApiResult<TaskSpec> {
    f.only("Runtime", &[json!("container")], "only containers are run")?;
    let container = f
        .opt_object("ContainerSpec")?
        .ok_or_else(|| ApiError::bad_request("TaskTemplate.ContainerSpec is missing: name an image"))?;
    let container = Some(read_container(container)?);
    let mut resources = f.object("Resources")?;
    let limits = read_resources(resources.object("Limits")?)?;
    let mut reserved = resources.object("Reservations")?;
    let generic = generic::read(reserved.objects("GenericResources")?)?;
    let reservations = read_resources(reserved)?;
    resources.refuse_rest(&[])?;
    let restart = f.opt_object("RestartPolicy")?.map(read_restart).transpose()?;
    let placement = f.opt_object("Placement")?.map(read_placement).transpose()?;
    let networks = read_networks(f.objects("Networks")?)?;
    let log_driver = f.opt_object("LogDriver")?.map(read_log_driver).transpose()?.flatten();
    let force_update = f.u64("ForceUpdate")?;
    f.refuse_rest(&[
        ("PluginSpec", "plugins are not run"),
        ("NetworkAttachmentSpec", "use docker run --network"),
    ])?;
    Ok(TaskSpec {
        container,
        reservations,
        limits,
        restart,
        placement: placement.filter(|p| *p != Placement::default()),
        networks,
        log_driver,
        force_update,
        generic,
    })
}

fn read_resources(mut f: Fields) -> ApiResult<Option<Resources>> {
    let mut amount = |key: &str| {
        let path = f.path(key);
        match f.i64(key)? {
            n if n < 0 => Err(ApiError::bad_request(format!("{path} = {n} cannot be negative"))),
            n => Ok(n),
        }
    };
    let resources = Resources {
        nano_cpus: amount("NanoCPUs")?,
        memory_bytes: amount("MemoryBytes")?,
        pids: amount("Pids")?,
    };
    f.refuse_rest(&[("GenericResources", "they are reserved, and have no limits")])?;
    Ok(Some(resources).filter(|r| *r != Resources::default()))
}

fn read_restart(mut f: Fields) -> ApiResult<RestartPolicy> {
    let condition = RestartCondition::read(&f.path("Condition"), &f.string("Condition")?)? as i32;
    let policy = RestartPolicy {
        condition,
        delay_ns: duration(&mut f, "Delay")?,
        max_attempts: f.u64("MaxAttempts")?,
        window_ns: duration(&mut f, "Window")?.unwrap_or(0),
    };
    f.refuse_rest(&[])?;
    Ok(policy)
}

/// Nanoseconds, not negative; absent is none.
pub(super) fn duration(f: &mut Fields, key: &str) -> ApiResult<Option<i64>> {
    let path = f.path(key);
    match f.opt_i64(key)? {
        Some(n) if n < 0 => Err(ApiError::bad_request(format!("{path} = {n} cannot be negative"))),
        n => Ok(n),
    }
}

fn read_placement(mut f: Fields) -> ApiResult<Placement> {
    let constraints = f.strings("Constraints")?;
    let mut preferences = Vec::new();
    for mut preference in f.objects("Preferences")? {
        let mut spread = preference.object("Spread")?;
        let descriptor = spread.string("SpreadDescriptor")?;
        if descriptor.is_empty() {
            let path = spread.path("SpreadDescriptor");
            return Err(ApiError::bad_request(format!(
                "{path} is missing: name a label, as in node.labels.zone"
            )));
        }
        spread.refuse_rest(&[])?;
        preference.refuse_rest(&[])?;
        preferences.push(SpreadOver { descriptor });
    }
    let mut platforms = Vec::new();
    for mut platform in f.objects("Platforms")? {
        platforms
            .push(Platform { os: platform.string("OS")?, architecture: platform.string("Architecture")? });
        platform.refuse_rest(&[])?;
    }
    let max_replicas = f.u64("MaxReplicas")?;
    f.refuse_rest(&[])?;
    Ok(Placement { constraints, preferences, platforms, max_replicas })
}

fn read_networks(list: Vec<Fields>) -> ApiResult<Vec<NetworkAttachment>> {
    list.into_iter()
        .map(|mut f| {
            let attachment =
                NetworkAttachment { network: f.string("Target")?, aliases: f.strings("Aliases")? };
            if attachment.network.is_empty() {
                return Err(ApiError::bad_request(format!(
                    "{} is missing: name a network",
                    f.path("Target")
                )));
            }
            f.refuse_rest(&[])?;
            Ok(attachment)
        })
        .collect()
}

fn read_log_driver(mut f: Fields) -> ApiResult<Option<LogDriver>> {
    let driver = LogDriver { name: f.string("Name")?, options: f.string_map("Options")? };
    f.refuse_rest(&[])?;
    let options = driver.options.iter().map(|(k, v)| (k.as_str(), v.as_str()));
    crate::convert::container::log_config(&driver.name, options)?;
    Ok(Some(driver).filter(|d| !d.name.is_empty() || !d.options.is_empty()))
}

fn read_update(mut f: Fields) -> ApiResult<UpdateConfig> {
    let action = f.string("FailureAction")?;
    let order = f.string("Order")?;
    let ratio = f.f64("MaxFailureRatio")?;
    if !(0.0..=1.0).contains(&ratio) {
        let path = f.path("MaxFailureRatio");
        return Err(ApiError::bad_request(format!("{path} = {ratio} must be between 0 and 1")));
    }
    let config = UpdateConfig {
        parallelism: f.u64("Parallelism")?,
        delay_ns: duration(&mut f, "Delay")?.unwrap_or(0),
        failure_action: UpdateFailureAction::read(&f.path("FailureAction"), &action)? as i32,
        monitor_ns: duration(&mut f, "Monitor")?.unwrap_or(0),
        max_failure_ratio: ratio as f32,
        order: UpdateOrder::read(&f.path("Order"), &order)? as i32,
    };
    f.refuse_rest(&[])?;
    Ok(config)
}

fn read_endpoint(mut f: Fields) -> ApiResult<EndpointSpec> {
    let mode = EndpointMode::read(&f.path("Mode"), &f.string("Mode")?)? as i32;
    let mut ports = Vec::new();
    for mut port in f.objects("Ports")? {
        let (protocol, publish) = (port.string("Protocol")?, port.string("PublishMode")?);
        ports.push(PortConfig {
            name: port.string("Name")?,
            protocol: PortProtocol::read(&port.path("Protocol"), &protocol)? as i32,
            target_port: port.port("TargetPort")?.into(),
            published_port: port.port("PublishedPort")?.into(),
            mode: PublishMode::read(&port.path("PublishMode"), &publish)? as i32,
            host_ip: port.string("HostIP")?,
        });
        if ports.last().is_some_and(|p| p.target_port == 0) {
            let path = port.path("TargetPort");
            return Err(ApiError::bad_request(format!(
                "{path} is missing: give the port inside the container"
            )));
        }
        port.refuse_rest(&[])?;
    }
    f.refuse_rest(&[])?;
    Ok(EndpointSpec { mode, ports })
}
