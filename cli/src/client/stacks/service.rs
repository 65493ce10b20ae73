//! A service of a Compose file as the API's service spec, field by field as Docker's client makes it.

use anyhow::Result;
use serde_json::{Map, Value, json};

use super::objects::{self, Files};
use super::{IMAGE, extras, mounts, prerequisites, scope, stack_labels};
use crate::client::create_body::without_empty;
use crate::compose::{Node, Problem, units};

/// Strings of a list.
pub fn strings(node: Option<&Node>) -> Vec<&str> {
    node.map(Node::items).unwrap_or_default().iter().filter_map(Node::text).collect()
}

/// A mapping of strings; nothing is the empty one.
pub fn pairs(node: Option<&Node>) -> Map<String, Value> {
    let entries = node.map(Node::entries).unwrap_or_default();
    entries.iter().map(|(k, v)| (k.text.clone(), v.text().unwrap_or_default().into())).collect()
}

fn number(node: &Node, name: &str) -> Option<i64> {
    node.text_of(name).and_then(|t| t.parse().ok())
}

fn nanoseconds(node: &Node, name: &str) -> Option<i64> {
    node.text_of(name).and_then(units::duration)
}

/// The spec of a service whose secrets and configs are known by `files`.
pub fn spec(stack: &str, root: &Node, name: &str, service: &Node, files: &Files) -> Result<Value> {
    let empty = Node::map(&service.at);
    let deploy = service.get("deploy").unwrap_or(&empty);
    let image = service.text_of("image").unwrap_or_default();
    let mut labels = stack_labels(stack, deploy.get("labels"));
    labels.insert(IMAGE.into(), image.into());
    let mut env: Vec<String> = service
        .get("environment")
        .map(Node::entries)
        .unwrap_or_default()
        .iter()
        .map(|(k, v)| v.text().map_or_else(|| k.text.clone(), |v| format!("{}={v}", k.text)))
        .collect();
    env.sort();
    let (add, drop) = capabilities(service);
    let mut container = json!({
        "Image": image,
        "Command": strings(service.get("entrypoint")),
        "Args": strings(service.get("command")),
        "Hostname": service.text_of("hostname"),
        "Hosts": hosts(service)?,
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
        "Resources": resources(deploy)?,
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
    task["ContainerSpec"] = container;
    spec["TaskTemplate"] = task;
    spec["Mode"] = mode(name, deploy)?;
    Ok(spec)
}

fn mode(name: &str, deploy: &Node) -> Result<Value> {
    let replicas = deploy.get("replicas");
    let count = number(deploy, "replicas");
    if let Some(node) = replicas.filter(|_| count.is_some_and(|n| n < 0)) {
        let what = format!("services.{name}.deploy.replicas: want a whole number from zero");
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
                    "services.{name}.deploy: replicas can only be used with replicated or replicated-job mode"
                );
                Err(Problem::new(&node.at, what).into())
            }
            None if global == "global" => Ok(json!({ "Global": {} })),
            None => Ok(json!({ "GlobalJob": {} })),
        },
    }
}

fn hosts(service: &Node) -> Result<Vec<String>> {
    let read = |host: &Node| {
        let text = host.text().unwrap_or_default();
        let pair = text
            .split_once('=')
            .or_else(|| text.split_once(':'))
            .map(|(name, ip)| (name, ip.trim_matches(['[', ']'])));
        // What the host's address is, only the task's node knows.
        let is_addr = |ip: &str| ip == "host-gateway" || ip.parse::<std::net::IpAddr>().is_ok();
        let good = pair.filter(|(name, ip)| !name.is_empty() && is_addr(ip));
        match good {
            Some((name, ip)) => Ok(format!("{ip} {name}")),
            None => Err(Problem::new(&host.at, format!("extra_hosts: {text:?}: want host:ip")).into()),
        }
    };
    service.get("extra_hosts").map(Node::items).unwrap_or_default().iter().map(read).collect()
}

fn capabilities(service: &Node) -> (Vec<String>, Vec<String>) {
    let named = |key: &str| {
        let name = |c: &str| {
            let upper = c.to_uppercase();
            if upper == "ALL" || upper.starts_with("CAP_") { upper } else { format!("CAP_{upper}") }
        };
        let mut all: Vec<String> = strings(service.get(key)).into_iter().map(name).collect();
        all.sort();
        all.dedup();
        all
    };
    let (add, mut drop) = (named("cap_add"), named("cap_drop"));
    // As with Docker, what is added is not dropped.
    drop.retain(|c| !add.contains(c));
    (add, drop)
}

fn healthcheck(service: &Node) -> Result<Value> {
    let Some(check) = service.get("healthcheck") else { return Ok(Value::Null) };
    if check.is_set("disable") {
        return match check.get("test") {
            Some(test) if strings(Some(test)) != ["NONE"] => {
                Err(Problem::new(&test.at, "healthcheck: test and disable can't be set at the same time")
                    .into())
            }
            _ => Ok(json!({ "Test": ["NONE"] })),
        };
    }
    let time = |name| nanoseconds(check, name).unwrap_or(0);
    let mut out = json!({ "Test": strings(check.get("test")) });
    for (field, key) in [
        ("Interval", "interval"),
        ("Timeout", "timeout"),
        ("StartPeriod", "start_period"),
        ("StartInterval", "start_interval"),
    ] {
        if time(key) != 0 {
            out[field] = time(key).into();
        }
    }
    if let Some(retries) = number(check, "retries") {
        out["Retries"] = retries.into();
    }
    Ok(out)
}

fn ulimits(service: &Node) -> Vec<Value> {
    let one = |(name, limit): &(_, Node)| {
        let name: &crate::compose::Key = name;
        let (soft, hard) = match limit.text() {
            Some(both) => (both.parse().ok(), both.parse().ok()),
            None => (number(limit, "soft"), number(limit, "hard")),
        };
        json!({ "Name": name.text, "Soft": soft.unwrap_or(0), "Hard": hard.or(soft).unwrap_or(0) })
    };
    service.get("ulimits").map(Node::entries).unwrap_or_default().iter().map(one).collect()
}

fn resources(deploy: &Node) -> Result<Value> {
    let part = |name: &str| -> Result<Value> {
        let Some(node) = deploy.path(&["resources", name]) else { return Ok(Value::Null) };
        let mut out = json!({});
        if let Some(cpus) = node.get("cpus") {
            let read = cpus.text().and_then(|t| t.parse::<f64>().ok()).filter(|n| (0.0..1e6).contains(n));
            let Some(read) = read else {
                let what = format!("deploy.resources.{name}.cpus: want a number of CPUs like 0.5");
                return Err(Problem::new(&cpus.at, what).into());
            };
            out["NanoCPUs"] = ((read * 1e9).round() as i64).into();
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
    Ok(json!({ "Limits": part("limits")?, "Reservations": part("reservations")? }))
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
        if let Some(ip) = port.get("host_ip") {
            return Err(
                bad(ip, "an address is not supported: a service's port is open on every address").into()
            );
        }
        let read = |key: &str, least: u16| -> Result<u16> {
            let Some(node) = port.get(key) else { return Ok(0) };
            let number = node.text().and_then(|t| t.parse::<u16>().ok()).filter(|n| *n >= least);
            Ok(number.ok_or_else(|| bad(node, &format!("{key}: want a port from {least} to 65535")))?)
        };
        let (target, published) = (read("target", 1)?, read("published", 0)?);
        if target == 0 {
            return Err(bad(port, "target is missing").into());
        }
        out.push(json!({
            "Protocol": port.text_of("protocol").unwrap_or("tcp"), "TargetPort": target, "PublishedPort": published,
            "PublishMode": port.text_of("mode").unwrap_or("ingress"),
        }));
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
