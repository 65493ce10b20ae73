//! What a service of a Compose file asks as `run` does, as `RunOptions` of its spec.

use anyhow::Result;
use serde_json::{Map, Value, json};

use crate::client::compose_parts::{self, pairs, strings};
use crate::client::{create_body, devices};
use crate::compose::{Node, Problem};

/// Keys with a word for a value, and their names in `RunOptions`.
const WORDS: [(&str, &str); 9] = [
    ("cgroup", "CgroupnsMode"),
    ("cgroup_parent", "CgroupParent"),
    ("cpuset", "CpusetCpus"),
    ("domainname", "Domainname"),
    ("ipc", "IpcMode"),
    ("pid", "PidMode"),
    ("runtime", "Runtime"),
    ("userns_mode", "UsernsMode"),
    ("uts", "UTSMode"),
];

/// Keys with a number.
const NUMBERS: [(&str, &str); 4] = [
    ("cpu_period", "CpuPeriod"),
    ("cpu_quota", "CpuQuota"),
    ("cpu_shares", "CpuShares"),
    ("mem_swappiness", "MemorySwappiness"),
];

/// Keys with a size.
const SIZES: [(&str, &str); 3] =
    [("mem_reservation", "MemoryReservation"), ("memswap_limit", "MemorySwap"), ("shm_size", "ShmSize")];

/// The options of the service called `name`. Nothing is also told: that there are none any more.
pub fn options(name: &str, service: &Node) -> Result<Value> {
    let wrong = |node: &Node, key: &str, want: &str| -> anyhow::Error {
        Problem::new(&node.at, format!("services.{name}.{key}: want {want}")).into()
    };
    let mut run = Map::new();
    for (key, field) in [("privileged", "Privileged"), ("oom_kill_disable", "OomKillDisable")] {
        if service.is_set(key) {
            run.insert(field.into(), true.into());
        }
    }
    for (key, field) in WORDS {
        if let Some(word) = service.text_of(key).filter(|w| !w.is_empty()) {
            run.insert(field.into(), word.into());
        }
    }
    for (key, field) in NUMBERS {
        let Some(node) = service.get(key) else { continue };
        let number = node.text().and_then(|t| t.parse::<i64>().ok());
        run.insert(field.into(), number.ok_or_else(|| wrong(node, key, "a whole number"))?.into());
    }
    for (key, field) in SIZES {
        let Some(node) = service.get(key) else { continue };
        let size = match node.text() {
            Some("-1") => Some(json!(-1)),
            text => text.and_then(skep_engine::parse_size).map(Value::from),
        };
        run.insert(field.into(), size.ok_or_else(|| wrong(node, key, "a size like 64m"))?);
    }
    for (key, field) in [("annotations", "Annotations"), ("storage_opt", "StorageOpt")] {
        let options = pairs(service.get(key));
        if !options.is_empty() {
            run.insert(field.into(), options.into());
        }
    }
    if let Some(rules) = service.get("device_cgroup_rules") {
        run.insert("DeviceCgroupRules".into(), json!(strings(Some(rules))));
    }
    if let Some(node) = service.get("security_opt") {
        let options: Vec<String> = strings(Some(node)).into_iter().map(str::to_owned).collect();
        let found = create_body::security(&options)
            .map_err(|e| Problem::new(&node.at, format!("services.{name}.security_opt: {e:#}")))?;
        run.insert("SecurityOpt".into(), json!(found.options));
        if found.unconfined_paths {
            run.insert("MaskedPaths".into(), json!([]));
            run.insert("ReadonlyPaths".into(), json!([]));
        }
    }
    devices_of(name, service, &mut run)?;
    if let Some(blkio) = service.get("blkio_config") {
        limits(name, blkio, &mut run)?;
    }
    Ok(run.into())
}

fn devices_of(name: &str, service: &Node, run: &mut Map<String, Value>) -> Result<()> {
    let written = compose_parts::devices(name, service)?;
    let mut requests = Vec::new();
    if let Some(gpus) = service.get("gpus") {
        match gpus.text() {
            Some(text) => requests.push(request(name, gpus, Some(text))?),
            None => {
                for node in gpus.items() {
                    requests.push(request(name, node, None)?);
                }
            }
        }
    }
    let reserved = service.path(&["deploy", "resources", "reservations", "devices"]);
    for node in reserved.map(Node::items).unwrap_or_default() {
        requests.push(request(name, node, None)?);
    }
    let (mapped, named) = devices::asked(&written, &[])?;
    requests.extend(named);
    if !mapped.is_empty() {
        run.insert("Devices".into(), mapped.into());
    }
    if !requests.is_empty() {
        run.insert("DeviceRequests".into(), requests.into());
    }
    Ok(())
}

/// One request for GPUs, or for devices of another capability.
fn request(name: &str, node: &Node, count: Option<&str>) -> Result<Value> {
    let ids = strings(node.get("device_ids"));
    let count = count.or_else(|| node.text_of("count"));
    let count = match (count, ids.is_empty()) {
        (Some("all"), true) => -1,
        (Some(text), true) => text.parse::<i64>().ok().filter(|n| *n >= 0).ok_or_else(|| {
            Problem::new(&node.at, format!("services.{name}: want a number of devices, not {text:?}"))
        })?,
        (None, true) => 1,
        (None, false) => 0,
        (Some(_), false) => {
            let what =
                format!("services.{name}: count and device_ids of a device cannot be set at the same time");
            return Err(Problem::new(&node.at, what).into());
        }
    };
    let mut capabilities = strings(node.get("capabilities"));
    if capabilities.is_empty() {
        capabilities.push("gpu");
    }
    let options = pairs(node.get("options"));
    let mut out = json!({ "Count": count, "Capabilities": [capabilities] });
    if let Some(driver) = node.text_of("driver") {
        out["Driver"] = driver.into();
    }
    if !ids.is_empty() {
        out["DeviceIDs"] = json!(ids);
    }
    if !options.is_empty() {
        out["Options"] = options.into();
    }
    Ok(out)
}

fn limits(name: &str, blkio: &Node, run: &mut Map<String, Value>) -> Result<()> {
    let wrong = |node: &Node, key: &str| -> anyhow::Error {
        Problem::new(&node.at, format!("services.{name}.blkio_config.{key}: want a path and a number")).into()
    };
    let size = |node: &Node, key: &str| node.text_of(key).and_then(skep_engine::parse_size);
    if let Some(node) = blkio.get("weight") {
        let weight = size(blkio, "weight").ok_or_else(|| wrong(node, "weight"))?;
        run.insert("BlkioWeight".into(), weight.into());
    }
    for (key, field, from, to) in [
        ("weight_device", "BlkioWeightDevice", "weight", "Weight"),
        ("device_read_bps", "BlkioDeviceReadBps", "rate", "Rate"),
        ("device_write_bps", "BlkioDeviceWriteBps", "rate", "Rate"),
        ("device_read_iops", "BlkioDeviceReadIOps", "rate", "Rate"),
        ("device_write_iops", "BlkioDeviceWriteIOps", "rate", "Rate"),
    ] {
        let Some(list) = blkio.get(key) else { continue };
        let one = |node: &Node| match (node.text_of("path"), size(node, from)) {
            (Some(path), Some(value)) => Ok(json!({ "Path": path, to: value })),
            _ => Err(wrong(node, key)),
        };
        let all = list.items().iter().map(one).collect::<Result<Vec<_>>>()?;
        run.insert(field.into(), all.into());
    }
    Ok(())
}
