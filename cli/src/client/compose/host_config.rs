//! What of a service is the host's business: limits, namespaces, devices, mounts.

use anyhow::Result;
use serde_json::{Value, json};

use super::super::compose_parts::{self, capabilities, hosts, number, pairs, strings, ulimits};
use super::super::{create_body, devices};
use super::container::Made;
use super::project::Project;
use super::{endpoints, mounts};
use crate::compose::{Node, Problem, units};

/// `HostConfig`, without ports.
pub fn of(project: &Project, name: &str, service: &Node, made: &Made) -> Result<Value> {
    let (add, drop) = capabilities(service);
    let bad = |node: &Node, what: String| Problem::new(&node.at, format!("services.{name}.{what}"));
    let size = |key: &str| -> Result<Option<i64>> {
        let Some(node) = service.get(key) else { return Ok(None) };
        let read = node.text().and_then(|t| if t == "-1" { Some(-1) } else { units::size(t) });
        Ok(Some(read.ok_or_else(|| bad(node, format!("{key}: want a size like 64m")))?))
    };
    let whole = |key: &str| -> Result<Option<i64>> {
        let Some(node) = service.get(key) else { return Ok(None) };
        let read = node.text().and_then(|t| t.parse::<i64>().ok());
        Ok(Some(read.ok_or_else(|| bad(node, format!("{key}: want a whole number")))?))
    };
    // Periods are in microseconds, or durations.
    let micros = |key: &str| -> Result<Option<i64>> {
        let Some(node) = service.get(key) else { return Ok(None) };
        let text = node.text().unwrap_or_default();
        let read = text.parse::<i64>().ok().or_else(|| units::duration(text).map(|n| n / 1000));
        Ok(Some(read.ok_or_else(|| bad(node, format!("{key}: want microseconds, or a duration like 50ms")))?))
    };
    let limits = service.path(&["deploy", "resources", "limits"]);
    let reserved = service.path(&["deploy", "resources", "reservations"]);
    let cpus = match service.get("cpus").or(limits.and_then(|l| l.get("cpus"))) {
        None => None,
        Some(node) => {
            let read = node.text().and_then(|t| t.parse::<f64>().ok()).filter(|n| (0.0..1e6).contains(n));
            Some(read.ok_or_else(|| bad(node, "cpus: want a number of CPUs like 0.5".into()))?)
        }
    };
    let shared = |key: &str| service.text_of(key).map(|mode| endpoints::shared(mode, made));
    let from = strings(service.get("volumes_from")).into_iter().map(|text| {
        let (other, mode) = text.split_once(':').filter(|(o, _)| *o != "container").unwrap_or((text, ""));
        let other = match other.strip_prefix("container:") {
            Some(container) => container.to_owned(),
            None => made.others.get(other).cloned().unwrap_or_else(|| other.to_owned()),
        };
        if mode.is_empty() { other } else { format!("{other}:{mode}") }
    });
    let (mapped, named) = devices::asked(&compose_parts::devices(name, service)?, &[])?;
    let mut host = json!({
        "NetworkMode": endpoints::mode(project, service, made),
        "RestartPolicy": restart(name, service)?,
        "CapAdd": add, "CapDrop": drop, "Privileged": service.is_set("privileged"),
        "ReadonlyRootfs": service.is_set("read_only"),
        "Dns": strings(service.get("dns")), "DnsOptions": strings(service.get("dns_opt")),
        "DnsSearch": strings(service.get("dns_search")),
        "ExtraHosts": hosts(service)?.iter().map(|(name, ip)| format!("{name}:{ip}")).collect::<Vec<_>>(),
        "GroupAdd": strings(service.get("group_add")), "Sysctls": pairs(service.get("sysctls")),
        "Annotations": pairs(service.get("annotations")), "StorageOpt": pairs(service.get("storage_opt")),
        "Ulimits": ulimits(service), "VolumesFrom": from.collect::<Vec<_>>(),
        "CgroupParent": service.text_of("cgroup_parent"), "CgroupnsMode": service.text_of("cgroup"),
        "IpcMode": shared("ipc"), "PidMode": shared("pid"), "UTSMode": service.text_of("uts"),
        "UsernsMode": service.text_of("userns_mode"), "Runtime": service.text_of("runtime"),
        "Memory": size("mem_limit")?.or(limits.and_then(|l| number(l, "memory"))),
        "MemoryReservation": size("mem_reservation")?.or(reserved.and_then(|l| number(l, "memory"))),
        "MemorySwap": size("memswap_limit")?, "MemorySwappiness": whole("mem_swappiness")?,
        "ShmSize": size("shm_size")?, "NanoCpus": cpus.map(|n| (n * 1e9).round() as i64),
        "CpuShares": whole("cpu_shares")?, "CpuPeriod": micros("cpu_period")?, "CpuQuota": micros("cpu_quota")?,
        "CpusetCpus": service.text_of("cpuset"), "OomScoreAdj": number(service, "oom_score_adj"),
        "PidsLimit": number(service, "pids_limit").or(limits.and_then(|l| number(l, "pids"))),
        "DeviceCgroupRules": strings(service.get("device_cgroup_rules")),
        "Devices": mapped, "DeviceRequests": requests(service, named)?,
        "Mounts": mounts::of(project, name, service)?, "Tmpfs": mounts::tmpfs(service),
    });
    host["CpuRealtimePeriod"] = json!(micros("cpu_rt_period")?);
    host["CpuRealtimeRuntime"] = json!(micros("cpu_rt_runtime")?);
    if let Some(init) = service.get("init") {
        host["Init"] = (init.text() == Some("true")).into();
    }
    if service.is_set("oom_kill_disable") {
        host["OomKillDisable"] = true.into();
    }
    if let Some(logging) = service.get("logging") {
        host["LogConfig"] = json!({ "Type": logging.text_of("driver").unwrap_or_default(), "Config": pairs(logging.get("options")) });
    }
    block_io(service, &mut host)?;
    Ok(host)
}

/// Adds `security_opt`, with the profiles that it names read: the daemon may be elsewhere.
pub fn security(project: &Project, name: &str, service: &Node, host: &mut Value) -> Result<()> {
    let Some(node) = service.get("security_opt") else { return Ok(()) };
    let whole = |text: &str| match text.strip_prefix("seccomp=").or_else(|| text.strip_prefix("seccomp:")) {
        Some(file) if !["unconfined", "builtin"].contains(&file) => {
            format!("seccomp={}", project.dir.join(file).display())
        }
        _ => text.to_owned(),
    };
    let options: Vec<String> = strings(Some(node)).into_iter().map(whole).collect();
    let found = create_body::security(&options)
        .map_err(|e| Problem::new(&node.at, format!("services.{name}.security_opt: {e:#}")))?;
    host["SecurityOpt"] = json!(found.options);
    if found.unconfined_paths {
        host["MaskedPaths"] = json!([]);
        host["ReadonlyPaths"] = json!([]);
    }
    Ok(())
}

/// `restart`, else `deploy.restart_policy`.
fn restart(name: &str, service: &Node) -> Result<Value> {
    if let Some(node) = service.get("restart") {
        let text = node.text().unwrap_or_default();
        let (policy, tries) = text.split_once(':').unwrap_or((text, "0"));
        let known = ["", "no", "always", "on-failure", "unless-stopped"].contains(&policy);
        let Some(tries) = tries.parse::<u32>().ok().filter(|_| known) else {
            let what = format!(
                "services.{name}.restart: want no, always, unless-stopped or on-failure[:TIMES], not {text:?}"
            );
            return Err(Problem::new(&node.at, what).into());
        };
        return Ok(json!({ "Name": policy, "MaximumRetryCount": tries }));
    }
    let Some(policy) = service.path(&["deploy", "restart_policy"]) else { return Ok(Value::Null) };
    let condition = match policy.text_of("condition") {
        Some("none") => "no",
        Some("on-failure") => "on-failure",
        _ => "always",
    };
    let tries = number(policy, "max_attempts").filter(|_| condition == "on-failure").unwrap_or(0);
    Ok(json!({ "Name": condition, "MaximumRetryCount": tries }))
}

/// `gpus` and `deploy.resources.reservations.devices`, beside the requests that `devices` makes.
fn requests(service: &Node, mut out: Vec<Value>) -> Result<Vec<Value>> {
    let gpus = service.get("gpus");
    if let Some(text) = gpus.and_then(Node::text) {
        anyhow::ensure!(text == "all", "gpus: want all, or a list of requests, not {text:?}");
        out.push(json!({ "Count": -1, "Capabilities": [["gpu"]] }));
    }
    let lists = [gpus, service.path(&["deploy", "resources", "reservations", "devices"])];
    for (is_gpu, list) in [true, false].into_iter().zip(lists) {
        for item in list.map(Node::items).unwrap_or_default() {
            let ids = strings(item.get("device_ids"));
            let count = match item.text_of("count") {
                Some("all") => Some(-1),
                Some(text) => match text.parse::<i64>() {
                    Ok(n) => Some(n),
                    Err(_) => return Err(Problem::new(&item.at, "count: want a number or all").into()),
                },
                None => ids.is_empty().then_some(-1),
            };
            let mut capabilities = strings(item.get("capabilities"));
            if is_gpu && !capabilities.contains(&"gpu") {
                capabilities.push("gpu");
            }
            out.push(json!({
                "Driver": item.text_of("driver").unwrap_or_default(), "Count": count.unwrap_or(0), "DeviceIDs": ids,
                "Capabilities": [capabilities], "Options": pairs(item.get("options")),
            }));
        }
    }
    Ok(out)
}

fn block_io(service: &Node, host: &mut Value) -> Result<()> {
    let Some(config) = service.get("blkio_config") else { return Ok(()) };
    host["BlkioWeight"] = number(config, "weight").into();
    for (field, key, inner, name) in [
        ("BlkioWeightDevice", "weight_device", "weight", "Weight"),
        ("BlkioDeviceReadBps", "device_read_bps", "rate", "Rate"),
        ("BlkioDeviceReadIOps", "device_read_iops", "rate", "Rate"),
        ("BlkioDeviceWriteBps", "device_write_bps", "rate", "Rate"),
        ("BlkioDeviceWriteIOps", "device_write_iops", "rate", "Rate"),
    ] {
        let mut list = Vec::new();
        for item in config.get(key).map(Node::items).unwrap_or_default() {
            let Some(value) = item.text_of(inner).and_then(units::size) else {
                return Err(Problem::new(
                    &item.at,
                    format!("blkio_config.{key}: {inner} is missing or no number"),
                )
                .into());
            };
            let mut one = json!({ "Path": item.text_of("path").unwrap_or_default() });
            one[name] = value.into();
            list.push(one);
        }
        if !list.is_empty() {
            host[field] = list.into();
        }
    }
    Ok(())
}
