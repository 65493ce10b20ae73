//! What a service asks for as `run` does, in the engine's terms.

use std::collections::BTreeMap;
use std::path::PathBuf;

use skep_engine::{
    ContainerConfig, DeviceConfig, DeviceRate, DeviceRequest, DeviceWeight, IoRate, PidMode, ipc_mode,
    parse_size,
};
use skep_proto::gpus::{GPU, are_counted};
use skep_proto::privileges::{Privilege, needed};
use skep_proto::v1::{self, GenericResource};

/// Refuses what this node does not allow. Managers place no such task here; one of an older version may, or one that does
/// not know yet what containers without a runtime have here since a moment ago: Skep's `own` one or another.
pub(crate) fn check(c: &v1::ContainerSpec, own: bool, allowed: &[Privilege]) -> Result<(), String> {
    match needed(c, own).into_iter().find(|(p, _)| !allowed.contains(p)) {
        None => Ok(()),
        Some((p, what)) => Err(format!(
            "this node does not allow {what} in services: start its daemon with --allow-in-services {}",
            p.word()
        )),
    }
}

/// Adds it to a container. `held` is what the task has of the node's resources.
pub(crate) fn apply(
    run: &v1::RunOptions,
    held: &[GenericResource],
    config: &mut ContainerConfig,
) -> Result<(), String> {
    let wrong = |what: &str, value: &str| format!("invalid {what} mode: {value}");
    config.privileged = run.privileged;
    config.devices = run.devices.iter().map(device).collect();
    config.device_requests =
        run.device_requests.iter().map(|r| request(r, held)).collect::<Result<_, _>>()?;
    config.device_rules.clone_from(&run.device_cgroup_rules);
    for option in &run.security_opt {
        config.secure(option)?;
    }
    config.shm_size = u64::try_from(run.shm_size).ok().filter(|n| *n > 0);
    config.pid_mode = PidMode::parse(&run.pid_mode).ok_or_else(|| wrong("PID", &run.pid_mode))?;
    config.ipc_mode = ipc_mode(&run.ipc_mode)?;
    config.host_uts = run.uts_mode == "host";
    // Of their own, also where others are in the host's (cgroups v1).
    config.host_cgroupns = Some(run.cgroupns_mode == "host");
    config.host_userns = run.userns_mode == "host";
    config.masked_paths = run.masked_paths.as_ref().map(|p| p.paths.clone());
    config.readonly_paths = run.readonly_paths.as_ref().map(|p| p.paths.clone());
    config.cgroup_parent = Some(run.cgroup_parent.clone()).filter(|p| !p.is_empty());
    config.runtime = Some(run.runtime.clone()).filter(|r| !r.is_empty());
    config.domainname = Some(run.domainname.clone()).filter(|d| !d.is_empty());
    config.annotations.clone_from(&run.annotations);
    config.storage_size = storage_size(&run.storage_opt)?;
    limits(run, config)
}

/// The one option there is; none = no limit.
fn storage_size(options: &BTreeMap<String, String>) -> Result<Option<u64>, String> {
    let size = options.iter().find(|(name, _)| name.eq_ignore_ascii_case("size")).map(|(_, size)| size);
    let bytes = size.map(|s| parse_size(s).ok_or_else(|| format!("invalid size: '{s}'"))).transpose()?;
    Ok(bytes.filter(|n| *n > 0))
}

fn device(d: &v1::DeviceMapping) -> DeviceConfig {
    let or = |text: &str, other: &str| if text.is_empty() { other.to_owned() } else { text.to_owned() };
    DeviceConfig {
        host: d.path_on_host.clone().into(),
        inside: or(&d.path_in_container, &d.path_on_host).into(),
        access: or(&d.cgroup_permissions, "rwm"),
    }
}

/// GPUs by their number are those that the task was given.
fn request(r: &v1::DeviceRequest, held: &[GenericResource]) -> Result<DeviceRequest, String> {
    let capabilities: Vec<Vec<String>> = r.capabilities.iter().map(|w| w.words.clone()).collect();
    if !are_counted(r) {
        return Ok(DeviceRequest {
            driver: r.driver.clone(),
            count: r.count,
            ids: r.device_ids.clone(),
            capabilities,
            options: r.options.clone(),
        });
    }
    let names: Vec<String> =
        held.iter().filter(|g| g.kind == GPU && !g.name.is_empty()).map(|g| g.name.clone()).collect();
    if names.is_empty() {
        return Err(
            "this node's GPUs have no names, so the task cannot be given any of its own: leave them to CDI, or name \
             them (skep daemon --node-generic-resource gpu=NAME)"
                .into(),
        );
    }
    let qualified = names.iter().all(|n| n.contains('='));
    Ok(DeviceRequest {
        driver: if qualified { "cdi".into() } else { r.driver.clone() },
        count: 0,
        ids: names,
        capabilities: if qualified { Vec::new() } else { capabilities },
        options: if qualified { Default::default() } else { r.options.clone() },
    })
}

fn limits(run: &v1::RunOptions, config: &mut ContainerConfig) -> Result<(), String> {
    let positive = |n: u64| Some(n).filter(|n| *n > 0);
    let limits = &mut config.resources;
    limits.memory_swap = Some(run.memory_swap).filter(|n| *n != 0);
    limits.memory_reservation = positive(run.memory_reservation);
    limits.memory_swappiness = run.memory_swappiness.and_then(|n| u64::try_from(n).ok());
    limits.oom_kill_disable = run.oom_kill_disable;
    limits.cpu_shares = positive(run.cpu_shares);
    limits.cpu_quota = Some(run.cpu_quota).filter(|n| *n != 0);
    limits.cpu_period = positive(run.cpu_period);
    limits.cpuset_cpus = Some(run.cpuset_cpus.clone()).filter(|s| !s.is_empty());
    limits.cpuset_mems = Some(run.cpuset_mems.clone()).filter(|s| !s.is_empty());
    let weight = |n: u64| u16::try_from(n).map_err(|_| format!("block I/O weight {n} is beyond 1000"));
    limits.blkio_weight = Some(weight(run.blkio_weight.into())?).filter(|n| *n > 0);
    for d in run.blkio_weight_device.iter().filter(|d| d.value > 0) {
        let path = PathBuf::from(&d.path);
        limits.blkio_weight_devices.push(DeviceWeight { path, weight: weight(d.value)? });
    }
    for (list, limit) in [
        (&run.blkio_device_read_bps, IoRate::ReadBytes),
        (&run.blkio_device_write_bps, IoRate::WriteBytes),
        (&run.blkio_device_read_iops, IoRate::ReadOperations),
        (&run.blkio_device_write_iops, IoRate::WriteOperations),
    ] {
        let rates = list.iter().map(|d| DeviceRate { path: (&d.path).into(), limit, rate: d.value });
        limits.blkio_rates.extend(rates);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_task_gets_the_gpus_it_was_given() {
        let asked = v1::DeviceRequest {
            count: 2,
            capabilities: vec![v1::Words { words: vec!["gpu".into()] }],
            ..Default::default()
        };
        let held = |names: &[&str]| -> Vec<GenericResource> {
            let one = |n: &&str| GenericResource { kind: "gpu".into(), name: (*n).into(), amount: 0 };
            names.iter().map(one).collect()
        };
        let given = request(&asked, &held(&["v.com/gpu=0", "v.com/gpu=3"])).expect("named");
        assert_eq!(
            (given.driver.as_str(), given.count, given.ids),
            ("cdi", 0, vec!["v.com/gpu=0".to_owned(), "v.com/gpu=3".into()])
        );
        let own = request(&asked, &held(&["GPU-1"])).expect("named");
        assert_eq!((own.driver.as_str(), own.ids, own.capabilities.len()), ("", vec!["GPU-1".to_owned()], 1));
        assert!(request(&asked, &[]).expect_err("without names").contains("no names"));
    }
}
