//! A container as `docker ps` lists it.

use serde_json::{Value, json};
use skep_engine::{Container, ContainerState, HealthStatus};

use super::inspect::{mounts, network_mode, networks};

/// One row. `image` is the image as it should be shown: its name, or its ID once it has none; `linked` are the further
/// names that links give it.
pub fn summary(
    c: &Container,
    image: &str,
    linked: &[String],
    now_ns: i64,
    mountpoint: impl Fn(&str) -> std::path::PathBuf,
) -> Value {
    let mut ports: Vec<Value> = c
        .ports
        .iter()
        .map(|p| {
            let ip = p.host_ip.to_string();
            let mut shown = json!({ "IP": ip, "PrivatePort": p.container_port, "Type": p.protocol });
            // None where the port is open at the container's own address.
            if p.host_port != 0 {
                shown["PublicPort"] = p.host_port.into();
            }
            shown
        })
        .collect();
    let bound = |port: u16, protocol: &str| {
        c.ports.iter().any(|b| b.container_port == port && b.protocol == protocol)
    };
    let exposed = c.config.exposed.iter().filter(|_| !c.endpoints.is_empty());
    for (port, protocol) in exposed.filter_map(|p| p.split_once('/')) {
        if let Some(port) = port.parse().ok().filter(|port| !bound(*port, protocol)) {
            ports.push(json!({ "PrivatePort": port, "Type": protocol }));
        }
    }
    let mut names: Vec<String> = linked.iter().chain([&c.name]).map(|n| format!("/{n}")).collect();
    names.sort();
    json!({
        "Id": c.id,
        "Names": names,
        "Image": image,
        "ImageID": c.image_id,
        "Command": command(&c.argv),
        "Created": c.created_at_ns / 1_000_000_000,
        "Ports": ports,
        "Labels": c.config.labels,
        "State": c.state.word(),
        "Status": status(c, now_ns),
        "HostConfig": { "NetworkMode": network_mode(c) },
        "NetworkSettings": { "Networks": networks(c) },
        "Mounts": mounts(c, mountpoint),
    })
}

/// The COMMAND column: what has a blank in it is quoted, but for the program itself.
fn command(argv: &[String]) -> String {
    let mut out = String::new();
    for (n, word) in argv.iter().enumerate() {
        out.push_str(if n == 0 { "" } else { " " });
        match n > 0 && word.contains(' ') {
            true => out.extend(["'", word, "'"]),
            false => out.push_str(word),
        }
    }
    out
}

/// The STATUS column.
fn status(c: &Container, now_ns: i64) -> String {
    let since = |then: i64| human_duration(now_ns.saturating_sub(then).max(0) / 1_000_000_000);
    let code = c.exit_code.unwrap_or(0);
    match c.state {
        ContainerState::Created => "Created".into(),
        ContainerState::Running => match c.health.as_ref().map(|h| h.status) {
            None => format!("Up {}", since(c.started_at_ns)),
            Some(HealthStatus::Starting) => format!("Up {} (health: starting)", since(c.started_at_ns)),
            Some(status) => format!("Up {} ({})", since(c.started_at_ns), status.as_str()),
        },
        ContainerState::Paused => format!("Up {} (Paused)", since(c.started_at_ns)),
        ContainerState::Restarting => {
            format!("Restarting ({code}) {} ago", since(c.finished_at_ns))
        }
        ContainerState::Removing => "Removal In Progress".into(),
        ContainerState::Dead => "Dead".into(),
        // A container whose start failed has an exit code but never ran.
        ContainerState::Exited if c.finished_at_ns == 0 => "Created".into(),
        ContainerState::Exited => format!("Exited ({code}) {} ago", since(c.finished_at_ns)),
    }
}

/// A time span in the words Docker's tables use.
pub fn human_duration(seconds: i64) -> String {
    let minutes = seconds / 60;
    let hours = (seconds + 1800) / 3600;
    match (seconds, minutes, hours) {
        (..1, ..) => "Less than a second".into(),
        (1, ..) => "1 second".into(),
        (..60, ..) => format!("{seconds} seconds"),
        (_, 1, _) => "About a minute".into(),
        (_, ..60, _) => format!("{minutes} minutes"),
        (_, _, ..=1) => "About an hour".into(),
        (_, _, ..48) => format!("{hours} hours"),
        (_, _, ..336) => format!("{} days", hours / 24),
        (_, _, ..1440) => format!("{} weeks", hours / 24 / 7),
        (_, _, ..17520) => format!("{} months", hours / 24 / 30),
        _ => format!("{} years", hours / 24 / 365),
    }
}
