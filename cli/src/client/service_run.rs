//! Flags of `service create` and `service update` that `run` has and Docker's services have not. They travel in the
//! field `RunOptions` of the container's spec, under the names of `HostConfig`, and Docker's clients pass over them.
//! A list that is given replaces the one there was; an empty value takes it away.

use anyhow::Result;
use clap::Args;
use serde_json::{Map, Value, json};

use super::create_body;
use super::create_flags::CreateFlags;
use super::create_values as values;
use super::devices;

/// See above.
#[derive(Args, Default)]
pub struct RunFlags {
    /// Add an annotation to the containers, for their runtime and hooks (Skep's own)
    #[arg(long, value_name = "list")]
    annotation: Vec<String>,
    /// Block IO weight, 10 to 1000 (0: not set) (Skep's own)
    #[arg(long, value_name = "uint16")]
    blkio_weight: Option<u16>,
    /// Block IO weight of a device (DEVICE:WEIGHT) (Skep's own)
    #[arg(long, value_name = "list", value_parser = or_none(values::device))]
    blkio_weight_device: Vec<String>,
    /// Parent cgroup of the containers (Skep's own)
    #[arg(long, value_name = "string")]
    cgroup_parent: Option<String>,
    /// Cgroup namespace: host or private (Skep's own)
    #[arg(long, value_name = "string")]
    cgroupns: Option<String>,
    /// CPU CFS period in microseconds (Skep's own)
    #[arg(long, value_name = "int")]
    cpu_period: Option<i64>,
    /// CPU CFS quota in microseconds (Skep's own)
    #[arg(long, value_name = "int", allow_hyphen_values = true)]
    cpu_quota: Option<i64>,
    /// CPU shares (relative weight) (Skep's own)
    #[arg(long, value_name = "int")]
    cpu_shares: Option<i64>,
    /// CPUs to run on (0-3, 0,1) (Skep's own)
    #[arg(long, value_name = "string")]
    cpuset_cpus: Option<String>,
    /// Memory nodes to run on (0-3, 0,1) (Skep's own)
    #[arg(long, value_name = "string")]
    cpuset_mems: Option<String>,
    /// Add a device of the node to the containers (Skep's own)
    #[arg(long, value_name = "list")]
    device: Vec<String>,
    /// Add a rule to the cgroup allowed devices list (Skep's own)
    #[arg(long, value_name = "list", value_parser = or_none(values::device_rule))]
    device_cgroup_rule: Vec<String>,
    /// Limit read rate (bytes per second) from a device (DEVICE:RATE) (Skep's own)
    #[arg(long, value_name = "list", value_parser = or_none(values::device))]
    device_read_bps: Vec<String>,
    /// Limit read rate (IO per second) from a device (DEVICE:RATE) (Skep's own)
    #[arg(long, value_name = "list", value_parser = or_none(values::device))]
    device_read_iops: Vec<String>,
    /// Limit write rate (bytes per second) to a device (DEVICE:RATE) (Skep's own)
    #[arg(long, value_name = "list", value_parser = or_none(values::device))]
    device_write_bps: Vec<String>,
    /// Limit write rate (IO per second) to a device (DEVICE:RATE) (Skep's own)
    #[arg(long, value_name = "list", value_parser = or_none(values::device))]
    device_write_iops: Vec<String>,
    /// NIS domain name of the containers (Skep's own)
    #[arg(long, value_name = "string")]
    domainname: Option<String>,
    /// GPUs of a task, of which no other task on its node has any (Skep's own)
    #[arg(long, value_name = "gpu-request")]
    gpus: Vec<String>,
    /// IPC mode to use: private, none, shareable or host (Skep's own)
    #[arg(long, value_name = "string")]
    ipc: Option<String>,
    /// Memory soft limit (Skep's own)
    #[arg(long, value_name = "bytes", value_parser = values::size)]
    memory_reservation: Option<String>,
    /// Limit of memory and swap together; -1: no limit of swap (Skep's own)
    #[arg(long, value_name = "bytes", allow_hyphen_values = true, value_parser = values::swap)]
    memory_swap: Option<String>,
    /// How readily the containers are swapped out, 0 to 100 (Skep's own)
    #[arg(long, value_name = "int", allow_hyphen_values = true)]
    memory_swappiness: Option<i64>,
    /// Disable the OOM killer (Skep's own)
    #[arg(long, num_args = 0..=1, require_equals = true, default_missing_value = "true", value_name = "bool")]
    oom_kill_disable: Option<bool>,
    /// PID namespace to use: host (Skep's own)
    #[arg(long, value_name = "string")]
    pid: Option<String>,
    /// Give extended privileges to the containers, on nodes that allow it (Skep's own)
    #[arg(long, num_args = 0..=1, require_equals = true, default_missing_value = "true", value_name = "bool")]
    privileged: Option<bool>,
    /// Runtime to use for the containers (Skep's own)
    #[arg(long, value_name = "string")]
    runtime: Option<String>,
    /// Security Options (Skep's own)
    #[arg(long, value_name = "list")]
    security_opt: Vec<String>,
    /// Size of /dev/shm (Skep's own)
    #[arg(long, value_name = "bytes", value_parser = values::size)]
    shm_size: Option<String>,
    /// Storage driver options of the containers: size=BYTES (Skep's own)
    #[arg(long, value_name = "list")]
    storage_opt: Vec<String>,
    /// User namespace to use: host (Skep's own)
    #[arg(long, value_name = "string")]
    userns: Option<String>,
    /// UTS namespace to use: host (Skep's own)
    #[arg(long, value_name = "string")]
    uts: Option<String>,
}

type Check = fn(&str) -> Result<String, String>;

/// Checks what is not empty.
fn or_none(check: Check) -> impl Fn(&str) -> Result<String, String> + Clone + Send + Sync {
    move |text| if text.is_empty() { Ok(String::new()) } else { check(text) }
}

/// What a list flag sets, if it was given.
fn given(list: &[String]) -> Option<Vec<String>> {
    (!list.is_empty()).then(|| list.iter().filter(|t| !t.is_empty()).cloned().collect())
}

impl RunFlags {
    /// Sets what is given in the `RunOptions` there are, and in the generic resources reserved.
    pub fn apply(&self, spec: &mut Value) -> Result<()> {
        let set = self.set()?;
        if !set.is_empty() {
            let run = &mut spec["TaskTemplate"]["ContainerSpec"]["RunOptions"];
            let mut merged = run.as_object().cloned().unwrap_or_default();
            merged.extend(set);
            merged.retain(|k, v| k.ends_with("Paths") || !says_nothing(v));
            *run = merged.into();
        }
        let none = given(&self.gpus).is_some_and(|g| g.iter().all(|g| g == "0"));
        if let Some(list) =
            spec["TaskTemplate"]["Resources"]["Reservations"]["GenericResources"].as_array_mut()
            && none
        {
            list.retain(|r| r["DiscreteResourceSpec"]["Kind"] != "gpu");
        }
        self.requests(spec)
    }

    /// All but the requests for devices, of which each flag replaces its own part.
    fn set(&self) -> Result<Map<String, Value>> {
        let some = |list: &[String]| given(list).unwrap_or_default();
        let security = given(&self.security_opt);
        let flags = CreateFlags {
            blkio_weight: self.blkio_weight,
            blkio_weight_device: some(&self.blkio_weight_device),
            cgroup_parent: self.cgroup_parent.clone(),
            cgroupns: self.cgroupns.clone(),
            cpu_period: self.cpu_period,
            cpu_quota: self.cpu_quota,
            cpu_shares: self.cpu_shares,
            cpuset_cpus: self.cpuset_cpus.clone(),
            cpuset_mems: self.cpuset_mems.clone(),
            device_read_bps: some(&self.device_read_bps),
            device_read_iops: some(&self.device_read_iops),
            device_write_bps: some(&self.device_write_bps),
            device_write_iops: some(&self.device_write_iops),
            ipc: self.ipc.clone(),
            memory_reservation: self.memory_reservation.clone(),
            memory_swap: self.memory_swap.clone(),
            memory_swappiness: self.memory_swappiness,
            pid: self.pid.clone(),
            runtime: self.runtime.clone(),
            security_opt: security.clone().unwrap_or_default(),
            shm_size: self.shm_size.clone(),
            storage_opt: some(&self.storage_opt),
            userns: self.userns.clone(),
            uts: self.uts.clone(),
            ..CreateFlags::default()
        };
        flags.check()?;
        let mut host = json!({});
        flags.resources(&mut host)?;
        create_body::set(&mut host["Privileged"], self.privileged);
        create_body::set(&mut host["OomKillDisable"], self.oom_kill_disable);
        if let Some(options) = security {
            let found = create_body::security(&options)?;
            host["SecurityOpt"] = json!(found.options);
            if found.unconfined_paths {
                host["MaskedPaths"] = json!([]);
                host["ReadonlyPaths"] = json!([]);
            }
        }
        host["DeviceCgroupRules"] = json!(some(&self.device_cgroup_rule));
        create_body::set(&mut host["Domainname"], self.domainname.clone());
        host["Annotations"] = create_body::pairs(&some(&self.annotation)).into();
        host["StorageOpt"] = create_body::pairs(&some(&self.storage_opt)).into();
        let lists = [
            ("BlkioWeightDevice", &self.blkio_weight_device),
            ("BlkioDeviceReadBps", &self.device_read_bps),
            ("BlkioDeviceWriteBps", &self.device_write_bps),
            ("BlkioDeviceReadIOps", &self.device_read_iops),
            ("BlkioDeviceWriteIOps", &self.device_write_iops),
            ("DeviceCgroupRules", &self.device_cgroup_rule),
            ("Annotations", &self.annotation),
            ("StorageOpt", &self.storage_opt),
        ];
        let mut set = Map::new();
        for (key, value) in host.as_object().cloned().unwrap_or_default() {
            let absent = lists.iter().any(|(k, list)| *k == key && list.is_empty());
            if !value.is_null() && !absent {
                set.insert(key, value);
            }
        }
        Ok(set)
    }

    fn requests(&self, spec: &mut Value) -> Result<()> {
        if self.device.is_empty() && self.gpus.is_empty() {
            return Ok(());
        }
        let run = &mut spec["TaskTemplate"]["ContainerSpec"]["RunOptions"];
        let (devices, gpus) = (given(&self.device), given(&self.gpus));
        let gpus_asked: Vec<String> = gpus.iter().flatten().filter(|g| *g != "0").cloned().collect();
        let (mapped, requests) = devices::asked(devices.as_deref().unwrap_or_default(), &gpus_asked)?;
        let mut all = run["DeviceRequests"].as_array().cloned().unwrap_or_default();
        all.retain(|r| if r["Driver"] == "cdi" { devices.is_none() } else { gpus.is_none() });
        all.extend(requests);
        run["DeviceRequests"] = all.into();
        if devices.is_some() {
            run["Devices"] = mapped.into();
        }
        if let Some(map) = run.as_object_mut() {
            map.retain(|k, v| k.ends_with("Paths") || !says_nothing(v));
        }
        Ok(())
    }
}

/// What stands for nothing in `HostConfig`.
fn says_nothing(value: &Value) -> bool {
    match value {
        Value::Null => true,
        Value::Bool(b) => !b,
        Value::String(s) => s.is_empty(),
        Value::Array(a) => a.is_empty(),
        Value::Object(o) => o.is_empty(),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;

    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        flags: RunFlags,
    }

    fn applied(mut spec: Value, words: &[&str]) -> Value {
        let line = Line::try_parse_from([&["update"], words].concat()).expect("flags");
        line.flags.apply(&mut spec).expect("valid");
        spec["TaskTemplate"]["ContainerSpec"]["RunOptions"].take()
    }

    #[test]
    fn flags_set_replace_and_take_away() {
        let run = applied(
            json!({}),
            &[
                "--privileged",
                "--shm-size",
                "1m",
                "--device",
                "/dev/null:/dev/x:r",
                "--gpus",
                "2",
                "--pid",
                "host",
                "--domainname",
                "corp.example",
                "--annotation",
                "a=b",
                "--storage-opt",
                "size=1g",
            ],
        );
        assert_eq!(
            run,
            json!({
                "Privileged": true, "ShmSize": 1 << 20, "PidMode": "host",
                "Devices": [{ "PathOnHost": "/dev/null", "PathInContainer": "/dev/x", "CgroupPermissions": "r" }],
                "DeviceRequests": [{ "Count": 2, "Capabilities": [["gpu"]] }],
                "Domainname": "corp.example", "Annotations": { "a": "b" }, "StorageOpt": { "size": "1g" },
            })
        );
        let spec = json!({ "TaskTemplate": { "ContainerSpec": { "RunOptions": run } } });
        let kept = applied(spec.clone(), &[]);
        assert_eq!(kept["ShmSize"], 1 << 20);
        let less = applied(
            spec.clone(),
            &[
                "--privileged=false",
                "--device",
                "",
                "--pid",
                "",
                "--gpus",
                "0",
                "--domainname",
                "",
                "--annotation",
                "",
                "--storage-opt",
                "",
            ],
        );
        assert_eq!(less, json!({ "ShmSize": 1 << 20 }));
        let named = applied(spec, &["--device", "v.com/c=a"]);
        assert_eq!(named["DeviceRequests"].as_array().map(Vec::len), Some(2));
        assert_eq!(named["Devices"], Value::Null);
    }
}
