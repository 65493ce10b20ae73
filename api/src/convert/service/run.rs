//! `ContainerSpec.RunOptions`: what `run` has and Docker's services have not, under the names that `HostConfig` has
//! for it. Skep's own field: Docker's clients pass over it.

use serde_json::{Map, Value, json};
use skep_engine::ContainerConfig;
use skep_proto::gpus::are_counted;
use skep_proto::v1::{DeviceMapping, DeviceRequest, Paths, RunOptions, ThrottleDevice, Words};

use super::write::put;
use crate::convert::container::read_host_config;
use crate::error::{ApiError, ApiResult};
use crate::fields::Fields;

/// Reads it. What a value may be is judged by what judges `run`.
pub(super) fn read(mut f: Fields) -> ApiResult<RunOptions> {
    let run = take(&mut f)?;
    f.refuse_rest(&[])?;
    let mut judged = ContainerConfig::default();
    let mut host = write(&run);
    // Of a container it is not in `HostConfig`, and may be anything.
    host.remove("Domainname");
    read_host_config(Fields::of(Value::Object(host), "TaskTemplate.ContainerSpec.RunOptions")?, &mut judged)?;
    for (name, mode) in [("PidMode", &run.pid_mode), ("IpcMode", &run.ipc_mode)] {
        if mode.starts_with("container:") {
            return Err(ApiError::bad_request(format!(
                "RunOptions.{name} = {mode:?} is not supported: another container may be on another node"
            )));
        }
    }
    for request in run.device_requests.iter().filter(|r| are_counted(r)) {
        if request.count < 0 {
            return Err(ApiError::bad_request(
                "all GPUs of a node cannot be asked for by a service, whose tasks may share one: give a number",
            ));
        }
    }
    Ok(run)
}

fn take(f: &mut Fields) -> ApiResult<RunOptions> {
    Ok(RunOptions {
        privileged: f.bool("Privileged")?,
        devices: f
            .objects("Devices")?
            .into_iter()
            .map(|mut d| {
                let device = DeviceMapping {
                    path_on_host: d.string("PathOnHost")?,
                    path_in_container: d.string("PathInContainer")?,
                    cgroup_permissions: d.string("CgroupPermissions")?,
                };
                d.refuse_rest(&[]).map(|()| device)
            })
            .collect::<ApiResult<_>>()?,
        device_requests: f
            .objects("DeviceRequests")?
            .into_iter()
            .map(|mut d| {
                let request = DeviceRequest {
                    driver: d.string("Driver")?,
                    count: d.i64("Count")?,
                    device_ids: d.strings("DeviceIDs")?,
                    capabilities: d
                        .string_lists("Capabilities")?
                        .into_iter()
                        .map(|words| Words { words })
                        .collect(),
                    options: d.string_map("Options")?,
                };
                d.refuse_rest(&[]).map(|()| request)
            })
            .collect::<ApiResult<_>>()?,
        device_cgroup_rules: f.strings("DeviceCgroupRules")?,
        security_opt: f.strings("SecurityOpt")?,
        shm_size: f.i64("ShmSize")?,
        pid_mode: f.string("PidMode")?,
        ipc_mode: f.string("IpcMode")?,
        uts_mode: f.string("UTSMode")?,
        cgroupns_mode: f.string("CgroupnsMode")?,
        userns_mode: f.string("UsernsMode")?,
        masked_paths: f.opt_strings("MaskedPaths")?.map(|paths| Paths { paths }),
        readonly_paths: f.opt_strings("ReadonlyPaths")?.map(|paths| Paths { paths }),
        blkio_weight: u32::try_from(f.u64("BlkioWeight")?)
            .map_err(|_| ApiError::bad_request("Range of blkio weight is from 10 to 1000"))?,
        blkio_weight_device: throttles(f, "BlkioWeightDevice", "Weight")?,
        blkio_device_read_bps: throttles(f, "BlkioDeviceReadBps", "Rate")?,
        blkio_device_write_bps: throttles(f, "BlkioDeviceWriteBps", "Rate")?,
        blkio_device_read_iops: throttles(f, "BlkioDeviceReadIOps", "Rate")?,
        blkio_device_write_iops: throttles(f, "BlkioDeviceWriteIOps", "Rate")?,
        cpu_shares: f.u64("CpuShares")?,
        cpu_quota: f.i64("CpuQuota")?,
        cpu_period: f.u64("CpuPeriod")?,
        cpuset_cpus: f.string("CpusetCpus")?,
        cpuset_mems: f.string("CpusetMems")?,
        memory_swap: f.i64("MemorySwap")?,
        memory_reservation: f.u64("MemoryReservation")?,
        memory_swappiness: f.opt_i64("MemorySwappiness")?,
        oom_kill_disable: f.bool("OomKillDisable")?,
        cgroup_parent: f.string("CgroupParent")?,
        runtime: f.string("Runtime")?,
        domainname: f.string("Domainname")?,
        annotations: f.string_map("Annotations")?,
        storage_opt: f.string_map("StorageOpt")?,
    })
}

fn throttles(f: &mut Fields, key: &str, value: &str) -> ApiResult<Vec<ThrottleDevice>> {
    let one = |mut d: Fields| {
        let throttle = ThrottleDevice { path: d.string("Path")?, value: d.u64(value)? };
        d.refuse_rest(&[]).map(|()| throttle)
    };
    f.objects(key)?.into_iter().map(one).collect()
}

/// Writes it.
pub(super) fn write(run: &RunOptions) -> Map<String, Value> {
    let mut map = Map::new();
    put(&mut map, "Privileged", json!(run.privileged));
    let device = |d: &DeviceMapping| {
        json!({ "PathOnHost": d.path_on_host, "PathInContainer": d.path_in_container,
                "CgroupPermissions": d.cgroup_permissions })
    };
    put(&mut map, "Devices", run.devices.iter().map(device).collect());
    let request = |r: &DeviceRequest| {
        let capabilities: Vec<&Vec<String>> = r.capabilities.iter().map(|w| &w.words).collect();
        json!({ "Driver": r.driver, "Count": r.count, "DeviceIDs": r.device_ids, "Capabilities": capabilities,
                "Options": r.options })
    };
    put(&mut map, "DeviceRequests", run.device_requests.iter().map(request).collect());
    put(&mut map, "DeviceCgroupRules", json!(run.device_cgroup_rules));
    put(&mut map, "SecurityOpt", json!(run.security_opt));
    put(&mut map, "ShmSize", json!(run.shm_size));
    for (key, text) in [
        ("PidMode", &run.pid_mode),
        ("IpcMode", &run.ipc_mode),
        ("UTSMode", &run.uts_mode),
        ("CgroupnsMode", &run.cgroupns_mode),
        ("UsernsMode", &run.userns_mode),
        ("CpusetCpus", &run.cpuset_cpus),
        ("CpusetMems", &run.cpuset_mems),
        ("CgroupParent", &run.cgroup_parent),
        ("Runtime", &run.runtime),
        ("Domainname", &run.domainname),
    ] {
        put(&mut map, key, json!(text));
    }
    // An empty list, too, asks for something: that nothing is masked.
    for (key, paths) in [("MaskedPaths", &run.masked_paths), ("ReadonlyPaths", &run.readonly_paths)] {
        if let Some(paths) = paths {
            map.insert(key.into(), json!(paths.paths));
        }
    }
    put(&mut map, "BlkioWeight", json!(run.blkio_weight));
    for (key, value, list) in [
        ("BlkioWeightDevice", "Weight", &run.blkio_weight_device),
        ("BlkioDeviceReadBps", "Rate", &run.blkio_device_read_bps),
        ("BlkioDeviceWriteBps", "Rate", &run.blkio_device_write_bps),
        ("BlkioDeviceReadIOps", "Rate", &run.blkio_device_read_iops),
        ("BlkioDeviceWriteIOps", "Rate", &run.blkio_device_write_iops),
    ] {
        let one = |t: &ThrottleDevice| json!({ "Path": t.path, value: t.value });
        put(&mut map, key, list.iter().map(one).collect());
    }
    put(&mut map, "CpuShares", json!(run.cpu_shares));
    put(&mut map, "CpuQuota", json!(run.cpu_quota));
    put(&mut map, "CpuPeriod", json!(run.cpu_period));
    put(&mut map, "MemorySwap", json!(run.memory_swap));
    put(&mut map, "MemoryReservation", json!(run.memory_reservation));
    if let Some(n) = run.memory_swappiness {
        map.insert("MemorySwappiness".into(), n.into());
    }
    put(&mut map, "OomKillDisable", json!(run.oom_kill_disable));
    put(&mut map, "Annotations", json!(run.annotations));
    put(&mut map, "StorageOpt", json!(run.storage_opt));
    map
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(value: Value) -> ApiResult<RunOptions> {
        read(Fields::of(value, "RunOptions")?)
    }

    #[test]
    fn what_is_written_reads_back_and_what_is_wrong_is_refused_as_for_run() {
        let all = json!({
            "Privileged": true, "ShmSize": 1_048_576, "PidMode": "host", "IpcMode": "none", "UTSMode": "host",
            "CgroupnsMode": "private", "UsernsMode": "host", "SecurityOpt": ["seccomp=unconfined"],
            "Devices": [{ "PathOnHost": "/dev/null", "PathInContainer": "/dev/x", "CgroupPermissions": "r" }],
            "DeviceCgroupRules": ["c 42:* rwm"], "MaskedPaths": [], "MemorySwappiness": 0, "BlkioWeight": 10,
            "BlkioDeviceReadBps": [{ "Path": "/dev/sda", "Rate": 5 }], "CpuShares": 512, "MemorySwap": -1,
            "Domainname": "corp.example", "Annotations": { "a": "b" }, "StorageOpt": { "size": "1G" },
        });
        let read = of(all.clone()).expect("valid");
        let written = Value::Object(write(&read));
        assert_eq!(written, all);
        assert_eq!(of(written), Ok(read));
        assert_eq!(of(json!({})), Ok(RunOptions::default()));
        for (bad, said) in [
            (json!({ "PidMode": "x" }), "invalid PID mode: x"),
            (json!({ "PidMode": "container:a" }), "another node"),
            (json!({ "Binds": ["/a:/b"] }), "Binds"),
            (json!({ "StorageOpt": { "size": "big" } }), "invalid size: 'big'"),
            (json!({ "BlkioWeight": 5 }), "from 10 to 1000"),
            (json!({ "SecurityOpt": ["colour=red"] }), "colour=red"),
            (json!({ "DeviceRequests": [{ "Count": -1, "Capabilities": [["gpu"]] }] }), "give a number"),
            (json!({ "DeviceRequests": [{ "Count": -1, "Capabilities": [["nvidia"]] }] }), "give a number"),
        ] {
            let e = of(bad.clone()).expect_err("refused");
            assert!(e.message.contains(said), "{bad}: {e}");
        }
    }
}
