//! Limits in the form of the OCI runtime specification (config-linux.md, "Control groups"), for other runtimes.

use serde_json::{Map, Value, json};

use super::{MOUNT, PERIOD, io, quota, version};
use crate::config::{DeviceRate, IoRate, ResourceLimits};
use crate::runtime::error::Error;

/// What is limited; what is not is left out.
pub fn resources(limits: &ResourceLimits) -> Result<Value, Error> {
    let mut out = Map::new();
    for (name, part) in [
        ("memory", memory(limits)),
        ("cpu", cpu(limits)),
        ("pids", pids(limits)),
        ("blockIO", block_io(limits)?),
    ] {
        if !part.is_empty() {
            out.insert(name.into(), part.into());
        }
    }
    Ok(out.into())
}

fn memory(limits: &ResourceLimits) -> Map<String, Value> {
    let mut out = Map::new();
    if let Some(memory) = limits.memory.filter(|m| *m > 0) {
        out.insert("limit".into(), memory.into());
        let accounted =
            version() == 2 || std::path::Path::new(MOUNT).join("memory/memory.memsw.limit_in_bytes").exists();
        if let Some(total) = limits.memory_and_swap().filter(|_| accounted) {
            out.insert("swap".into(), total.into());
        }
    }
    if let Some(soft) = limits.memory_reservation {
        out.insert("reservation".into(), soft.into());
    }
    if let Some(swappiness) = limits.memory_swappiness {
        out.insert("swappiness".into(), swappiness.into());
    }
    if limits.oom_kill_disable {
        out.insert("disableOOMKiller".into(), true.into());
    }
    out
}

fn cpu(limits: &ResourceLimits) -> Map<String, Value> {
    let mut out = Map::new();
    if let Some(nano) = limits.nano_cpus.filter(|n| *n > 0) {
        out.insert("period".into(), PERIOD.into());
        out.insert("quota".into(), quota(nano).into());
    }
    if let Some(period) = limits.cpu_period {
        out.insert("period".into(), period.into());
    }
    if let Some(quota) = limits.cpu_quota {
        out.insert("quota".into(), quota.into());
    }
    if let Some(shares) = limits.cpu_shares.filter(|s| *s > 0) {
        out.insert("shares".into(), shares.into());
    }
    for (name, time) in [("realtimePeriod", limits.cpu_rt_period), ("realtimeRuntime", limits.cpu_rt_runtime)]
    {
        if let Some(time) = time {
            out.insert(name.into(), time.into());
        }
    }
    for (name, set) in [("cpus", &limits.cpuset_cpus), ("mems", &limits.cpuset_mems)] {
        if let Some(set) = set.as_ref().filter(|s| !s.is_empty()) {
            out.insert(name.into(), set.as_str().into());
        }
    }
    out
}

fn pids(limits: &ResourceLimits) -> Map<String, Value> {
    let limit = limits.pids.map(|n| if n > 0 { n } else { -1 });
    limit.map(|n| ("limit".to_owned(), n.into())).into_iter().collect()
}

fn block_io(limits: &ResourceLimits) -> Result<Map<String, Value>, Error> {
    let mut out = Map::new();
    if let Some(weight) = limits.blkio_weight {
        out.insert("weight".into(), weight.into());
    }
    let mut push = |list: &str, item: Value| match out.get_mut(list).and_then(Value::as_array_mut) {
        Some(items) => items.push(item),
        None => drop(out.insert(list.into(), json!([item]))),
    };
    for d in &limits.blkio_weight_devices {
        let (major, minor) = io::device_number(&d.path)?;
        push("weightDevice", json!({ "major": major, "minor": minor, "weight": d.weight }));
    }
    for DeviceRate { path, limit, rate } in &limits.blkio_rates {
        let (major, minor) = io::device_number(path)?;
        let list = match limit {
            IoRate::ReadBytes => "throttleReadBpsDevice",
            IoRate::WriteBytes => "throttleWriteBpsDevice",
            IoRate::ReadOperations => "throttleReadIOPSDevice",
            IoRate::WriteOperations => "throttleWriteIOPSDevice",
        };
        push(list, json!({ "major": major, "minor": minor, "rate": rate }));
    }
    Ok(out)
}
