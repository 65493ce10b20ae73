//! Reads `HostConfig`: each field honoured, or refused by its path.

use serde_json::json;
use skep_engine::{ContainerConfig, LogConfig, ResourceLimits, RestartPolicy, Seccomp, UlimitConfig};

use super::networking::{read_links, read_ports};
use crate::convert::mounts::{read_bind, read_mount, read_tmpfs};
use crate::error::{ApiError, ApiResult};
use crate::fields::Fields;

const REMEDIES: &[(&str, &str)] = &[
    ("PidMode", "every container has its own processes; leave it out"),
    ("UTSMode", "every container has its own host name; leave it out"),
    ("Devices", "device access comes in a later version; use --privileged if you must"),
    ("CpusetCpus", "limit with --cpus instead"),
    ("MemoryReservation", "limit with --memory instead"),
    ("CgroupParent", "containers live below the daemon's own cgroup; leave it out"),
    ("StorageOpt", "leave it out; the root file system has no quota"),
    ("OomKillDisable", "use --oom-score-adj to protect the container"),
];

/// Fills the configuration; answers the network mode and the driver of volumes nobody named one for.
pub(super) fn read_host_config(mut f: Fields, config: &mut ContainerConfig) -> ApiResult<(String, String)> {
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
    config.ports = read_ports(&f.path("PortBindings"), f.entries("PortBindings")?)?;
    config.publish_all = f.bool("PublishAllPorts")?;
    config.links = read_links(&f.path("Links"), &f.strings("Links")?)?;
    let mut log = f.object("LogConfig")?;
    let driver = log.string("Type")?;
    let options: Vec<(String, String)> = log.string_map("Config")?;
    log.refuse_rest(&[])?;
    let options = options.iter().map(|(k, v)| (k.as_str(), v.as_str()));
    config.log = log_config("HostConfig.LogConfig.Type", &driver, options)?;
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
                "HostConfig.OomScoreAdj = {n} must be between -1000 and 1000"
            )));
        }
    };
    config.privileged = f.bool("Privileged")?;
    config.read_only = f.bool("ReadonlyRootfs")?;
    for option in f.strings("SecurityOpt")? {
        read_security(&option, config)?;
    }
    config.shm_size = f.opt_u64("ShmSize")?.filter(|n| *n != 0);
    config.sysctls = f.string_map("Sysctls")?;
    config.init = f.bool("Init")?;
    config.resources = read_resources(&mut f)?;
    for mut ulimit in f.objects("Ulimits")? {
        config.ulimits.push(UlimitConfig {
            name: ulimit.string("Name")?,
            soft: ulimit.i64("Soft")?,
            hard: ulimit.i64("Hard")?,
        });
        ulimit.refuse_rest(&[])?;
    }
    for key in ["MaskedPaths", "ReadonlyPaths"] {
        // Even an empty list asks for something: that nothing is masked.
        if f.take(key).is_some() {
            return Err(ApiError::bad_request(format!(
                "HostConfig.{key} is not supported by this version of Skep: the default paths are masked; use --privileged to unmask all"
            )));
        }
    }
    f.only("CgroupnsMode", &[json!("private")], "every container has its own cgroup namespace")?;
    f.only("IpcMode", &[json!("private")], "every container has its own IPC namespace")?;
    f.only("UsernsMode", &[json!("host")], "user namespaces come in a later version")?;
    f.only("Isolation", &[json!("default")], "isolation is a Windows setting")?;
    f.only("MemorySwappiness", &[json!(-1)], "leave it out")?;
    // The client's own file, and the size a terminal gets by `resize` once it runs.
    f.drop_all(&["ContainerIDFile", "ConsoleSize"]);
    f.refuse_rest(REMEDIES)?;
    Ok((mode, volume_driver))
}

fn read_resources(f: &mut Fields) -> ApiResult<ResourceLimits> {
    let (quota, period) = (f.i64("CpuQuota")?, f.u64("CpuPeriod")?);
    let mut nano_cpus = f.opt_u64("NanoCpus")?.filter(|n| *n != 0);
    if quota > 0 {
        if nano_cpus.is_some() {
            return Err(ApiError::bad_request(
                "Conflicting options: Nano CPUs and CPU Period/Quota cannot both be set",
            ));
        }
        let period = if period == 0 { 100_000 } else { period };
        let nanos = quota.unsigned_abs().saturating_mul(1_000_000_000);
        nano_cpus = Some(nanos / period);
    }
    let swap = f.i64("MemorySwap")?;
    let limits = ResourceLimits {
        memory: f.opt_u64("Memory")?.filter(|n| *n != 0),
        memory_swap: Some(swap).filter(|n| *n != 0),
        nano_cpus,
        cpu_shares: f.opt_u64("CpuShares")?.filter(|n| *n != 0),
        pids: f.opt_i64("PidsLimit")?.filter(|n| *n > 0),
    };
    match limits.memory {
        Some(n) if n < 6 << 20 => Err(ApiError::bad_request("Minimum memory limit allowed is 6MB")),
        None if swap > 0 => Err(ApiError::bad_request(
            "You should always set the Memory limit when using Memoryswap limit, see usage",
        )),
        Some(n) if swap > 0 && swap.unsigned_abs() < n => Err(ApiError::bad_request(
            "Minimum memoryswap limit should be larger than memory limit, see usage",
        )),
        _ => Ok(limits),
    }
}

fn read_restart(mut f: Fields) -> ApiResult<RestartPolicy> {
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

fn read_security(option: &str, config: &mut ContainerConfig) -> ApiResult<()> {
    let (name, value) = option.split_once(['=', ':']).unwrap_or((option, ""));
    match (name, value) {
        ("no-new-privileges", "" | "true") => config.no_new_privileges = true,
        ("no-new-privileges", "false") => config.no_new_privileges = false,
        ("seccomp", "unconfined") => config.seccomp = Seccomp::Unconfined,
        ("seccomp", "builtin") => config.seccomp = Seccomp::Default,
        ("seccomp", profile) if profile.starts_with('{') => {
            config.seccomp = Seccomp::Profile(profile.to_owned());
        }
        // What Skep does anyhow.
        ("apparmor", "unconfined") | ("label", "disable") => {}
        _ => {
            return Err(ApiError::bad_request(format!(
                "invalid --security-opt {option:?}: use no-new-privileges, seccomp=unconfined or seccomp=FILE"
            )));
        }
    }
    Ok(())
}

/// Reads a log driver and its options; `path` names the driver's field in errors.
pub fn log_config<'a>(
    path: &str,
    driver: &str,
    options: impl Iterator<Item = (&'a str, &'a str)>,
) -> ApiResult<LogConfig> {
    let driver = match driver {
        "" => "json-file",
        "json-file" | "none" => driver,
        other => {
            return Err(ApiError::bad_request(format!(
                "{path} = {other:?} is not supported: use json-file or none"
            )));
        }
    };
    LogConfig::from_options(driver, options).map_err(ApiError::bad_request)
}
