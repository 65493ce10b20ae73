//! A service of a Compose file as the API's service spec, field by field as Docker's client makes it.

use anyhow::Result;
use serde_json::{Value, json};
use skep_proto::host_ip::HostIp;

use super::objects::{self, Files};
use super::{IMAGE, extras, mounts, prerequisites, run, scope, stack_labels};
use crate::client::compose_parts::{
    capabilities, environment, healthcheck, hosts, nanoseconds, number, pairs, strings, ulimits,
};
use crate::client::create_body::without_empty;
use crate::compose::{Node, Problem};

/// The spec of a service whose secrets and configs are known by `files`.
pub fn spec(stack: &str, root: &Node, name: &str, service: &Node, files: &Files) -> Result<Value> {
    let empty = Node::map(&service.at);
    let deploy = service.get("deploy").unwrap_or(&empty);
    let image = service.text_of("image").unwrap_or_default();
    let mut labels = stack_labels(stack, deploy.get("labels"));
    labels.insert(IMAGE.into(), image.into());
    let env = environment(service);
    let (add, drop) = capabilities(service);
    let mut container = json!({
        "Image": image,
        "Command": strings(service.get("entrypoint")),
        "Args": strings(service.get("command")),
        "Hostname": service.text_of("hostname"),
        "Hosts": hosts(service)?.iter().map(|(name, ip)| format!("{ip} {name}")).collect::<Vec<_>>(),
        "DNSConfig": {
            "Nameservers": strings(service.get("dns")), "Search": strings(service.get("dns_search")),
            "Options": strings(service.get("dns_opt")),
        },
        "Healthcheck": healthcheck(service)?,
        "Env": env,
        "Labels": stack_labels(stack, service.get("labels")),
        "Dir": service.text_of("working_dir"),
        "User": service.text_of("user"),
        "Groups": strings(service.get("group_add")),
        "Mounts": mounts::of_service(stack, root, service)?,
        "StopSignal": service.text_of("stop_signal"),
        "TTY": service.is_set("tty"), "OpenStdin": service.is_set("stdin_open"), "ReadOnly": service.is_set("read_only"),
        "Secrets": objects::references(files, service, "secrets", "Secret"),
        "Configs": objects::references(files, service, "configs", "Config"),
        "Sysctls": pairs(service.get("sysctls")),
        "CapabilityAdd": add, "CapabilityDrop": drop,
        "Ulimits": ulimits(service),
    });
    let mut task = json!({
        "Resources": resources(name, service, deploy)?,
        "RestartPolicy": restart(deploy),
        "Placement": {
            "Constraints": strings(deploy.path(&["placement", "constraints"])),
            "Preferences": deploy.path(&["placement", "preferences"]).map(Node::items).unwrap_or_default().iter()
                .filter_map(|p| p.text_of("spread"))
                .map(|over| json!({ "Spread": { "SpreadDescriptor": over } })).collect::<Vec<_>>(),
        },
        "Networks": networks(stack, root, name, service),
    });
    if let Some(logging) = service.get("logging") {
        task["LogDriver"] =
            json!({ "Name": logging.text_of("driver"), "Options": pairs(logging.get("options")) });
    }
    let mut spec = json!({
        "Name": scope(stack, name), "Labels": labels,
        "UpdateConfig": update(deploy.get("update_config")),
        "RollbackConfig": update(deploy.get("rollback_config")),
        "EndpointSpec": { "Mode": deploy.text_of("endpoint_mode"), "Ports": ports(name, service)? },
    });
    without_empty(&mut container);
    without_empty(&mut task);
    without_empty(&mut spec);
    // What is given stays, though it is empty: nothing is not the same as not given.
    for (field, key) in
        [("Init", "init"), ("OomScoreAdj", "oom_score_adj"), ("StopGracePeriod", "stop_grace_period")]
    {
        let Some(value) = service.get(key) else { continue };
        container[field] = match field {
            "Init" => (value.text() == Some("true")).into(),
            "StopGracePeriod" => nanoseconds(service, key).into(),
            _ => number(service, key).into(),
        };
    }
    if let Some(most) = deploy.get("placement").and_then(|p| number(p, "max_replicas_per_node")) {
        task["Placement"]["MaxReplicas"] = most.into();
    }
    extras::add(name, service, &mut spec)?;
    prerequisites::add(stack, service, &mut spec);
    container["RunOptions"] = run::options(name, service)?;
    task["ContainerSpec"] = container;
    spec["TaskTemplate"] = task;
    spec["Mode"] = mode(name, service, deploy)?;
    Ok(spec)
}

fn mode(name: &str, service: &Node, deploy: &Node) -> Result<Value> {
    // `scale` is the short way to say it.
    let (at, key) = match deploy.get("replicas") {
        Some(_) => (deploy, "replicas"),
        None => (service, "scale"),
    };
    let (replicas, count) = (at.get(key), number(at, key));
    let within = if key == "scale" { "" } else { "deploy." };
    if let Some(node) = replicas.filter(|_| count.is_some_and(|n| n < 0)) {
        let what = format!("services.{name}.{within}{key}: want a whole number from zero");
        return Err(Problem::new(&node.at, what).into());
    }
    match deploy.text_of("mode").unwrap_or("replicated") {
        "replicated" => Ok(json!({ "Replicated": { "Replicas": count.unwrap_or(1) } })),
        "replicated-job" => {
            let count = count.unwrap_or(1);
            Ok(json!({ "ReplicatedJob": { "MaxConcurrent": count, "TotalCompletions": count } }))
        }
        global => match replicas {
            Some(node) => {
                let what = format!(
                    "services.{name}.{within}{key}: replicas can only be used with replicated or replicated-job mode"
                );
                Err(Problem::new(&node.at, what).into())
            }
            None if global == "global" => Ok(json!({ "Global": {} })),
            None => Ok(json!({ "GlobalJob": {} })),
        },
    }
}

/// What `deploy.resources` says, and of limits what the short keys of a container say.
fn resources(name: &str, service: &Node, deploy: &Node) -> Result<Value> {
    let wrong = |node: &Node, key: &str, want: &str| -> anyhow::Error {
        Problem::new(&node.at, format!("services.{name}.{key}: want {want}")).into()
    };
    let nano_cpus = |node: &Node, key: &str| -> Result<i64> {
        let read = node.text().and_then(|t| t.parse::<f64>().ok()).filter(|n| (0.0..1e6).contains(n));
        let read = read.ok_or_else(|| wrong(node, key, "a number of CPUs like 0.5"))?;
        Ok((read * 1e9).round() as i64)
    };
    let part = |part: &str| -> Result<Value> {
        let Some(node) = deploy.path(&["resources", part]) else { return Ok(Value::Null) };
        let mut out = json!({});
        if let Some(cpus) = node.get("cpus") {
            out["NanoCPUs"] = nano_cpus(cpus, &format!("deploy.resources.{part}.cpus"))?.into();
        }
        if let Some(memory) = number(node, "memory") {
            out["MemoryBytes"] = memory.into();
        }
        if let Some(pids) = number(node, "pids") {
            out["Pids"] = pids.into();
        }
        let generic = node.get("generic_resources").map(Node::items).unwrap_or_default().iter();
        let generic: Vec<Value> = generic
            .filter_map(|g| g.get("discrete_resource_spec"))
            .map(|s| json!({ "DiscreteResourceSpec": { "Kind": s.text_of("kind"), "Value": number(s, "value") } }))
            .collect();
        if !generic.is_empty() {
            out["GenericResources"] = generic.into();
        }
        Ok(out)
    };
    let mut limits = part("limits")?;
    if let Some(cpus) = service.get("cpus") {
        limits["NanoCPUs"] = nano_cpus(cpus, "cpus")?.into();
    }
    if let Some(node) = service.get("mem_limit") {
        let bytes = node.text().and_then(skep_engine::parse_size);
        limits["MemoryBytes"] = bytes.ok_or_else(|| wrong(node, "mem_limit", "a size like 64m"))?.into();
    }
    if let Some(pids) = number(service, "pids_limit") {
        // No limit, as without one.
        limits["Pids"] = pids.max(0).into();
    }
    Ok(json!({ "Limits": limits, "Reservations": part("reservations")? }))
}

fn restart(deploy: &Node) -> Value {
    let Some(policy) = deploy.get("restart_policy") else { return Value::Null };
    let mut out = json!({ "Condition": policy.text_of("condition").unwrap_or("any") });
    for (field, value) in [
        ("Delay", nanoseconds(policy, "delay")),
        ("MaxAttempts", number(policy, "max_attempts")),
        ("Window", nanoseconds(policy, "window")),
    ] {
        if let Some(value) = value {
            out[field] = value.into();
        }
    }
    out
}

fn update(config: Option<&Node>) -> Value {
    let Some(config) = config else { return Value::Null };
    let ratio = config.text_of("max_failure_ratio").and_then(|t| t.parse::<f64>().ok());
    let mut out = json!({ "Parallelism": number(config, "parallelism").unwrap_or(1) });
    for (field, value) in [
        ("Delay", nanoseconds(config, "delay").map(Value::from)),
        ("FailureAction", config.text_of("failure_action").map(Value::from)),
        ("Monitor", nanoseconds(config, "monitor").map(Value::from)),
        ("MaxFailureRatio", ratio.map(Value::from)),
        ("Order", config.text_of("order").map(Value::from)),
    ] {
        if let Some(value) = value {
            out[field] = value;
        }
    }
    out
}

fn ports(name: &str, service: &Node) -> Result<Vec<Value>> {
    let mut out = Vec::new();
    for port in service.get("ports").map(Node::items).unwrap_or_default() {
        let bad = |at: &Node, what: &str| Problem::new(&at.at, format!("services.{name}.ports: {what}"));
        let read = |key: &str, least: u16| -> Result<u16> {
            let Some(node) = port.get(key) else { return Ok(0) };
            let number = node.text().and_then(|t| t.parse::<u16>().ok()).filter(|n| *n >= least);
            Ok(number.ok_or_else(|| bad(node, &format!("{key}: want a port from {least} to 65535")))?)
        };
        let (target, published) = (read("target", 1)?, read("published", 0)?);
        if target == 0 {
            return Err(bad(port, "target is missing").into());
        }
        let mut one = json!({
            "Protocol": port.text_of("protocol").unwrap_or("tcp"), "TargetPort": target, "PublishedPort": published,
            "PublishMode": port.text_of("mode").unwrap_or("ingress"),
        });
        if let Some(ip) = port.get("host_ip") {
            let text = ip.text().unwrap_or_default();
            if HostIp::read(text).is_none() {
                let want = "host_ip: want an IP address that the nodes have, or the name of an interface";
                return Err(bad(ip, want).into());
            }
            one["HostIP"] = text.into();
        }
        out.push(one);
    }
    out.sort_by_key(|p| p["PublishedPort"].as_u64());
    Ok(out)
}

/// The networks of a service by the names they have in the file; without any, the stack's default one.
pub fn network_names(service: &Node) -> Vec<&str> {
    match service.get("networks").map(Node::entries).unwrap_or_default() {
        [] => vec!["default"],
        entries => entries.iter().map(|(k, _)| k.text.as_str()).collect(),
    }
}

fn networks(stack: &str, root: &Node, name: &str, service: &Node) -> Vec<Value> {
    let one = |key: &str| {
        let target = objects::network_name(stack, root, key);
        let given = service.path(&["networks", key]);
        let mut aliases = strings(given.and_then(|n| n.get("aliases")));
        if !matches!(target.as_str(), "host" | "none" | "bridge" | "default") {
            aliases.push(name);
        }
        json!({ "Target": target, "Aliases": aliases, "DriverOpts": pairs(given.and_then(|n| n.get("driver_opts"))) })
    };
    let mut out: Vec<Value> = network_names(service).into_iter().map(one).collect();
    out.sort_by_key(|n| n["Target"].as_str().map(str::to_owned));
    out
}
