//! Limits of a container, in `HostConfig` of `create` and in the body of `update`.

use serde_json::Value;
use skep_engine::{DeviceRate, DeviceWeight, IoRate, ResourceLimits, RestartPolicy, UlimitConfig};

use super::host_config::read_restart;
use crate::error::{ApiError, ApiResult};
use crate::fields::Fields;

/// Reads the body of `update`.
pub fn read_update(mut f: Fields) -> ApiResult<(ResourceLimits, Option<RestartPolicy>)> {
    let restart = f.opt_object("RestartPolicy")?;
    // An empty name is no change, and so is what Docker's client sends without --restart.
    let restart = match restart {
        Some(mut r) => match r.take("Name").filter(|n| n.as_str().is_some_and(|n| !n.is_empty())) {
            Some(name) => {
                let tries = r.take("MaximumRetryCount").unwrap_or(Value::Null);
                let whole = serde_json::json!({ "Name": name, "MaximumRetryCount": tries });
                Some(read_restart(Fields::of(whole, "RestartPolicy")?)?)
            }
            None => None,
        },
        None => None,
    };
    let mut limits = read_resources(&mut f)?;
    // Docker's client sends 0 for "not said", and -1 for no limit.
    limits.pids = limits.pids.filter(|p| *p != 0);
    f.refuse_rest(&[])?;
    Ok((limits, restart))
}

/// Takes the fields that limit something.
pub(super) fn read_resources(f: &mut Fields) -> ApiResult<ResourceLimits> {
    let (quota, period) = (f.opt_i64("CpuQuota")?.filter(|n| *n != 0), some(f.opt_u64("CpuPeriod")?));
    let nano_cpus = some(f.opt_u64("NanoCpus")?);
    let swap = f.i64("MemorySwap")?;
    let swappiness = f.opt_i64("MemorySwappiness")?.filter(|n| *n != -1);
    if swappiness.is_some_and(|n| !(0..=100).contains(&n)) {
        return Err(ApiError::bad_request(format!(
            "Invalid value: {}, valid memory swappiness range is 0-100",
            swappiness.unwrap_or_default()
        )));
    }
    Ok(ResourceLimits {
        memory: some(f.opt_u64("Memory")?),
        memory_swap: Some(swap).filter(|n| *n != 0),
        nano_cpus,
        cpu_shares: some(f.opt_u64("CpuShares")?),
        pids: f.opt_i64("PidsLimit")?,
        memory_reservation: some(f.opt_u64("MemoryReservation")?),
        memory_swappiness: swappiness.map(i64::unsigned_abs),
        oom_kill_disable: f.bool("OomKillDisable")?,
        cpu_quota: quota,
        cpu_period: period,
        cpu_rt_runtime: f.opt_i64("CpuRealtimeRuntime")?.filter(|n| *n != 0),
        cpu_rt_period: f.opt_i64("CpuRealtimePeriod")?.filter(|n| *n != 0),
        cpuset_cpus: f.opt_string("CpusetCpus")?,
        cpuset_mems: f.opt_string("CpusetMems")?,
        blkio_weight: weight(f.u64("BlkioWeight")?)?,
        blkio_weight_devices: weights(f)?,
        blkio_rates: rates(f)?,
    })
}

/// `Ulimits`.
pub fn read_ulimits(list: Vec<Fields>) -> ApiResult<Vec<UlimitConfig>> {
    let one = |mut f: Fields| -> ApiResult<UlimitConfig> {
        let ulimit = UlimitConfig { name: f.string("Name")?, soft: f.i64("Soft")?, hard: f.i64("Hard")? };
        f.refuse_rest(&[])?;
        Ok(ulimit)
    };
    list.into_iter().map(one).collect()
}

fn some(n: Option<u64>) -> Option<u64> {
    n.filter(|n| *n != 0)
}

fn weight(value: u64) -> ApiResult<Option<u16>> {
    match u16::try_from(value) {
        Ok(0) => Ok(None),
        Ok(n @ 10..=1000) => Ok(Some(n)),
        _ => Err(ApiError::bad_request("Range of blkio weight is from 10 to 1000")),
    }
}

fn weights(f: &mut Fields) -> ApiResult<Vec<DeviceWeight>> {
    let mut found = Vec::new();
    for mut d in f.objects("BlkioWeightDevice")? {
        let (path, value) = (d.string("Path")?.into(), d.u64("Weight")?);
        d.refuse_rest(&[])?;
        if let Some(weight) = weight(value)? {
            found.push(DeviceWeight { path, weight });
        }
    }
    Ok(found)
}

fn rates(f: &mut Fields) -> ApiResult<Vec<DeviceRate>> {
    let mut found = Vec::new();
    for (key, limit) in [
        ("BlkioDeviceReadBps", IoRate::ReadBytes),
        ("BlkioDeviceWriteBps", IoRate::WriteBytes),
        ("BlkioDeviceReadIOps", IoRate::ReadOperations),
        ("BlkioDeviceWriteIOps", IoRate::WriteOperations),
    ] {
        for mut d in f.objects(key)? {
            found.push(DeviceRate { path: d.string("Path")?.into(), limit, rate: d.u64("Rate")? });
            d.refuse_rest(&[])?;
        }
    }
    Ok(found)
}
