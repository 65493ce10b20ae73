//! Reads `HostConfig`: each field honoured, or refused by its path.

use serde_json::json;
use skep_engine::{
    ContainerConfig, DeviceConfig, DeviceRequest, LogConfig, PidMode, RestartPolicy, cgroup_namespace,
    ipc_mode, parse_size,
};

use super::networking::{read_links, read_ports};
use super::resources::{read_resources, read_ulimits};
use crate::convert::mounts::{read_bind, read_mount, read_tmpfs};
use crate::error::{ApiError, ApiResult};
use crate::fields::Fields;

/// Fills the configuration; answers the network mode and the driver of volumes nobody named one for.
pub fn read_host_config(mut f: Fields, config: &mut ContainerConfig) -> ApiResult<(String, String)> {
    let mode = f.string("NetworkMode")?;
    let volume_driver = f.string("VolumeDriver")?;
    config.volumes_from = f.strings("VolumesFrom")?;
    for bind in f.strings("Binds")? {
        config.mounts.push(read_bind(&bind, &volume_driver)?);
    }
    for mount in f.objects("Mounts")? {
        config.mounts.push(read_mount(mount)?);
    }
    let tmpfs: Vec<(String, String)> = f.string_map("Tmpfs")?;
    for (target, options) in tmpfs {
        config.mounts.push(read_tmpfs(&target, &options)?);
    }
    config.ports = read_ports(&mut f)?;
    config.publish_all = f.bool("PublishAllPorts")?;
    config.links = read_links(&f.path("Links"), &f.strings("Links")?)?;
    let mut log = f.object("LogConfig")?;
    let driver = log.string("Type")?;
    let options: Vec<(String, String)> = log.string_map("Config")?;
    log.refuse_rest(&[])?;
    let options = options.iter().map(|(k, v)| (k.as_str(), v.as_str()));
    config.log = log_config(&driver, options)?;
    config.restart = read_restart(f.object("RestartPolicy")?)?;
    config.auto_remove = f.bool("AutoRemove")?;
    if config.auto_remove && config.restart != RestartPolicy::No {
        return Err(ApiError::bad_request("can't create 'AutoRemove' container with restart policy"));
    }
    config.cap_add = f.strings("CapAdd")?;
    config.cap_drop = f.strings("CapDrop")?;
    config.groups = f.strings("GroupAdd")?;
    for (i, server) in f.strings("Dns")?.iter().enumerate() {
        config.dns.push(server.parse().map_err(|_| {
            ApiError::bad_request(format!("HostConfig.Dns[{i}] = {server:?} is not an IP address"))
        })?);
    }
    config.dns_options = f.strings("DnsOptions")?;
    config.dns_search = f.strings("DnsSearch")?;
    config.extra_hosts = f.strings("ExtraHosts")?;
    config.oom_score_adj = match f.i64("OomScoreAdj")? {
        0 => None,
        n @ -1000..=1000 => Some(n as i32),
        n => {
            return Err(ApiError::bad_request(format!(
                "Invalid value {n}, range for oom score adj is [-1000, 1000]"
            )));
        }
    };
    config.privileged = f.bool("Privileged")?;
    config.read_only = f.bool("ReadonlyRootfs")?;
    for option in f.strings("SecurityOpt")? {
        config.secure(&option).map_err(ApiError::bad_request)?;
    }
    config.shm_size = match f.i64("ShmSize")? {
        0 => None,
        n => Some(u64::try_from(n).map_err(|_| ApiError::bad_request("SHM size can not be less than 0"))?),
    };
    config.sysctls = f.string_map("Sysctls")?;
    config.init = f.opt_bool("Init")?;
    config.runtime = f.opt_string("Runtime")?;
    config.resources = read_resources(&mut f)?;
    // Here neither 0 nor -1 is a limit.
    config.resources.pids = config.resources.pids.filter(|n| *n > 0);
    config.ulimits = read_ulimits(f.objects("Ulimits")?)?;
    // An empty list, too, asks for something: that nothing is masked.
    config.masked_paths = f.opt_strings("MaskedPaths")?;
    config.readonly_paths = f.opt_strings("ReadonlyPaths")?;
    read_namespaces(&mut f, config)?;
    read_devices(&mut f, config)?;
    config.cgroup_parent = f.opt_string("CgroupParent")?;
    config.host_userns = match f.string("UsernsMode")?.as_str() {
        "host" => true,
        "" => false,
        mode => return Err(ApiError::bad_request(format!("invalid userns mode: {mode}"))),
    };
    f.only("Isolation", &[json!("default")], "isolation is a Windows setting")?;
    config.annotations = f.string_map("Annotations")?;
    // The client's own file, and the size a terminal gets by `resize` once it runs.
    f.drop_all(&["ContainerIDFile", "ConsoleSize"]);
    config.storage_size = read_storage(f.string_map("StorageOpt")?)?;
    f.refuse_rest(&[])?;
    Ok((mode, volume_driver))
}

/// The one option there is, in Docker's words where there is another.
fn read_storage(options: Vec<(String, String)>) -> ApiResult<Option<u64>> {
    let mut size = None;
    for (name, value) in options {
        if !name.eq_ignore_ascii_case("size") {
            return Err(ApiError::internal(format!("Unknown option {}", name.to_lowercase())));
        }
        let bytes =
            parse_size(&value).ok_or_else(|| ApiError::internal(format!("invalid size: '{value}'")))?;
        size = Some(bytes).filter(|n| *n != 0);
    }
    Ok(size)
}

fn read_namespaces(f: &mut Fields, config: &mut ContainerConfig) -> ApiResult<()> {
    let wrong = |key: &str, value: &str| ApiError::bad_request(format!("invalid {key} mode: {value}"));
    let (pid, ipc) = (f.string("PidMode")?, f.string("IpcMode")?);
    config.pid_mode = PidMode::parse(&pid).ok_or_else(|| wrong("PID", &pid))?;
    config.ipc_mode = ipc_mode(&ipc).map_err(ApiError::bad_request)?;
    config.host_uts = match f.string("UTSMode")?.as_str() {
        "host" => true,
        "" => false,
        mode => return Err(wrong("UTS", mode)),
    };
    config.host_cgroupns = cgroup_namespace(&f.string("CgroupnsMode")?).map_err(ApiError::bad_request)?;
    Ok(())
}

fn read_devices(f: &mut Fields, config: &mut ContainerConfig) -> ApiResult<()> {
    for mut d in f.objects("Devices")? {
        let (host, inside) = (d.string("PathOnHost")?, d.string("PathInContainer")?);
        let access = d.string("CgroupPermissions")?;
        d.refuse_rest(&[])?;
        config.devices.push(DeviceConfig {
            inside: if inside.is_empty() { host.clone().into() } else { inside.into() },
            host: host.into(),
            access: if access.is_empty() { "rwm".into() } else { access },
        });
    }
    for mut d in f.objects("DeviceRequests")? {
        config.device_requests.push(DeviceRequest {
            driver: d.string("Driver")?,
            count: d.i64("Count")?,
            ids: d.strings("DeviceIDs")?,
            capabilities: d.string_lists("Capabilities")?,
            options: d.string_map("Options")?,
        });
        d.refuse_rest(&[])?;
    }
    config.device_rules = f.strings("DeviceCgroupRules")?;
    Ok(())
}

pub(super) fn read_restart(mut f: Fields) -> ApiResult<RestartPolicy> {
    let name = f.string("Name")?;
    let tries = f.i64("MaximumRetryCount")?;
    f.refuse_rest(&[])?;
    let policy = match name.as_str() {
        "" | "no" => RestartPolicy::No,
        "always" => RestartPolicy::Always,
        "unless-stopped" => RestartPolicy::UnlessStopped,
        "on-failure" => {
            let count = u32::try_from(tries).map_err(|_| {
                ApiError::bad_request("invalid restart policy: maximum retry count cannot be negative")
            })?;
            return Ok(RestartPolicy::OnFailure(count));
        }
        other => {
            return Err(ApiError::bad_request(format!(
                "invalid restart policy: unknown policy '{other}'; use one of 'no', 'always', 'on-failure', or 'unless-stopped'"
            )));
        }
    };
    if tries != 0 {
        return Err(ApiError::bad_request(
            "invalid restart policy: maximum retry count can only be used with 'on-failure'",
        ));
    }
    Ok(policy)
}

/// Reads a log driver and its options.
pub fn log_config<'a>(
    driver: &str,
    options: impl Iterator<Item = (&'a str, &'a str)>,
) -> ApiResult<LogConfig> {
    LogConfig::from_options(driver, options).map_err(ApiError::bad_request)
}
