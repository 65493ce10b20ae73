//! `inspect --pretty` of services, nodes, secrets and configs.

use anyhow::Result;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::Value;

use super::dependencies::Kind;
use super::output::{say, text};
use super::{human, output};

/// Prints lines of a label and a value; those without a value are left out.
fn fields(indent: &str, list: &[(&str, String)]) -> Result<()> {
    for (label, value) in list.iter().filter(|(_, v)| !v.is_empty()) {
        say!("{indent}{:<20}{value}", format!("{label}:"))?;
    }
    Ok(())
}

fn labels(map: &Value) -> Result<()> {
    let Some(map) = map.as_object().filter(|m| !m.is_empty()) else { return Ok(()) };
    say!("Labels:")?;
    for (name, value) in map {
        say!(" {name}={}", value.as_str().unwrap_or_default())?;
    }
    Ok(())
}

fn words(list: &Value) -> String {
    list.as_array().into_iter().flatten().filter_map(Value::as_str).collect::<Vec<_>>().join(" ")
}

fn number(value: &Value) -> String {
    if value.is_null() { String::new() } else { value.to_string() }
}

fn span(nanoseconds: &Value) -> String {
    nanoseconds.as_u64().map_or_else(String::new, |n| format!("{}s", n as f64 / 1e9))
}

/// A node.
pub fn node(n: &Value) -> Result<()> {
    fields("", &[("ID", text(n, "ID")), ("Name", text(&n["Spec"], "Name"))])?;
    labels(&n["Spec"]["Labels"])?;
    fields(
        "",
        &[
            ("Hostname", text(&n["Description"], "Hostname")),
            ("Joined at", human::time(&text(n, "CreatedAt"))),
        ],
    )?;
    say!("Status:")?;
    let status = &n["Status"];
    fields(
        " ",
        &[
            ("State", human::capital(&text(status, "State"))),
            ("Message", text(status, "Message")),
            ("Availability", human::capital(&text(&n["Spec"], "Availability"))),
            ("Address", text(status, "Addr")),
        ],
    )?;
    let manager = &n["ManagerStatus"];
    if !manager.is_null() {
        say!("Manager Status:")?;
        let leader = if manager["Leader"] == Value::Bool(true) { "Yes" } else { "No" };
        fields(
            " ",
            &[
                ("Address", text(manager, "Addr")),
                ("Raft Status", human::capital(&text(manager, "Reachability"))),
                ("Leader", leader.into()),
            ],
        )?;
    }
    let description = &n["Description"];
    say!("Platform:")?;
    let platform = &description["Platform"];
    fields(
        " ",
        &[("Operating System", text(platform, "OS")), ("Architecture", text(platform, "Architecture"))],
    )?;
    say!("Resources:")?;
    let resources = &description["Resources"];
    let cpus = resources["NanoCPUs"].as_i64().unwrap_or(0) / 1_000_000_000;
    let memory = human::binary_size(resources["MemoryBytes"].as_i64().unwrap_or(0));
    fields(" ", &[("CPUs", cpus.to_string()), ("Memory", memory)])?;
    fields("", &[("Engine Version", text(&description["Engine"], "EngineVersion"))])?;
    labels(&description["Engine"]["Labels"])?;
    say!()
}

/// A service.
pub fn service(s: &Value) -> Result<()> {
    let spec = &s["Spec"];
    fields("", &[("ID", text(s, "ID")), ("Name", text(spec, "Name"))])?;
    labels(&spec["Labels"])?;
    let mode = spec["Mode"].as_object().and_then(|m| m.keys().next().cloned()).unwrap_or_default();
    fields("", &[("Service Mode", mode)])?;
    let job = &spec["Mode"]["ReplicatedJob"];
    fields(
        " ",
        &[
            ("Replicas", number(&spec["Mode"]["Replicated"]["Replicas"])),
            ("Max Concurrent", number(&job["MaxConcurrent"])),
            ("Total Completions", number(&job["TotalCompletions"])),
        ],
    )?;
    let status = &s["UpdateStatus"];
    if !text(status, "State").is_empty() {
        say!("UpdateStatus:")?;
        let ago = |name: &str| match text(status, name) {
            when if when.is_empty() => when,
            when => format!("{} ago", human::duration(human::since(&when))),
        };
        fields(
            " ",
            &[
                ("State", text(status, "State")),
                ("Started", ago("StartedAt")),
                ("Completed", ago("CompletedAt")),
                ("Message", text(status, "Message")),
            ],
        )?;
    }
    let task = &spec["TaskTemplate"];
    let placement = &task["Placement"];
    if !words(&placement["Constraints"]).is_empty()
        || placement["MaxReplicas"].as_u64().is_some_and(|n| n > 0)
    {
        say!("Placement:")?;
        fields(
            " ",
            &[
                ("Constraints", words(&placement["Constraints"])),
                ("Max Replicas Per Node", number(&placement["MaxReplicas"])),
            ],
        )?;
    }
    for (heading, name) in [("UpdateConfig", "UpdateConfig"), ("RollbackConfig", "RollbackConfig")] {
        let config = &spec[name];
        if config.is_null() {
            continue;
        }
        say!("{heading}:")?;
        fields(
            " ",
            &[
                ("Parallelism", number(&config["Parallelism"])),
                ("Delay", span(&config["Delay"])),
                ("On failure", text(config, "FailureAction")),
                ("Monitoring Period", span(&config["Monitor"])),
                ("Max failure ratio", number(&config["MaxFailureRatio"])),
                ("Update order", text(config, "Order")),
            ],
        )?;
    }
    let container = &task["ContainerSpec"];
    say!("ContainerSpec:")?;
    let switch =
        |name: &str| if container[name] == Value::Bool(true) { "true".into() } else { String::new() };
    fields(
        " ",
        &[
            ("Image", text(container, "Image")),
            ("Command", words(&container["Command"])),
            ("Args", words(&container["Args"])),
            ("Env", words(&container["Env"])),
            ("Dir", text(container, "Dir")),
            ("User", text(container, "User")),
            ("Init", switch("Init")),
            ("Read-only", switch("ReadOnly")),
        ],
    )?;
    for mount in container["Mounts"].as_array().into_iter().flatten() {
        say!(" Mount:")?;
        fields(
            "  ",
            &[
                ("Target", text(mount, "Target")),
                ("Source", text(mount, "Source")),
                ("Type", text(mount, "Type")),
            ],
        )?;
    }
    resources(&task["Resources"])?;
    let networks = task["Networks"].as_array().into_iter().flatten().map(|n| text(n, "Target"));
    let idle = [("tcp", "TCP"), ("udp", "UDP")];
    let idle = idle.map(|(word, field)| (word, span(&spec["IdleTimeout"][field])));
    let idle = idle.iter().filter(|(_, time)| !time.is_empty());
    let idle: Vec<String> = idle.map(|(word, time)| format!("{word}={time}")).collect();
    fields(
        "",
        &[
            ("Networks", networks.collect::<Vec<_>>().join(" ")),
            ("Endpoint Mode", text(&s["Endpoint"]["Spec"], "Mode")),
            ("Idle Timeout", idle.join(" ")),
        ],
    )?;
    for port in s["Endpoint"]["Ports"].as_array().into_iter().flatten() {
        say!(
            " PublishedPort = {}\n  Protocol = {}\n  TargetPort = {}\n  PublishMode = {}",
            port["PublishedPort"],
            text(port, "Protocol"),
            port["TargetPort"],
            text(port, "PublishMode")
        )?;
        if let Some(ip) = port["HostIP"].as_str() {
            say!("  HostIP = {ip}")?;
        }
    }
    say!()
}

/// A secret or config.
pub fn dependency(d: &Value, kind: Kind) -> Result<()> {
    let spec = &d["Spec"];
    fields("", &[("ID", text(d, "ID")), ("Name", text(spec, "Name"))])?;
    labels(&spec["Labels"])?;
    let at = |name: &str| human::time(&text(d, name));
    if kind == Kind::Secret {
        fields("", &[("Driver", text(&spec["Driver"], "Name"))])?;
    }
    fields("", &[("Created at", at("CreatedAt")), ("Updated at", at("UpdatedAt"))])?;
    if kind == Kind::Secret {
        return Ok(());
    }
    say!("Data:")?;
    let data = STANDARD.decode(text(spec, "Data")).unwrap_or_default();
    output::bytes(&mut std::io::stdout(), &data)?;
    say!()
}

fn resources(resources: &Value) -> Result<()> {
    for (heading, name) in [("Reservations", "Reservations"), ("Limits", "Limits")] {
        let part = &resources[name];
        let cpus = part["NanoCPUs"]
            .as_u64()
            .filter(|n| *n > 0)
            .map_or_else(String::new, |n| (n as f64 / 1e9).to_string());
        let memory =
            part["MemoryBytes"].as_i64().filter(|n| *n > 0).map_or_else(String::new, human::binary_size);
        if !cpus.is_empty() || !memory.is_empty() {
            say!("Resources:\n {heading}:")?;
            fields("  ", &[("CPU", cpus), ("Memory", memory)])?;
        }
    }
    Ok(())
}
