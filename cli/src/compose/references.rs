//! What services refer to must be in the file.

use super::depends;
use super::load::{Dialect, Error};
use super::node::{At, Key, Node, Problem};

/// Checks every service. Of a project's services, `inactive` are those that are not wanted.
pub fn check(root: &Node, dialect: Dialect, inactive: &[String]) -> Result<(), Error> {
    let mut problems = Vec::new();
    let services = root.get("services").map(Node::entries).unwrap_or_default();
    if dialect == Dialect::Project {
        for (key, service) in services {
            for need in depends::of(service) {
                let name = &need.service;
                if services.iter().any(|(k, _)| k.text == *name) || !need.required {
                    continue;
                }
                let why = match inactive.contains(name) {
                    true => ", whose profiles are not active",
                    false => "",
                };
                let what = format!("service {:?} depends on undefined service {name:?}{why}", key.text);
                problems.push(Problem::new(&need.at, what));
            }
            if service.get("image").is_none() && service.get("build").is_none() {
                let what =
                    format!("service {:?} has neither an image nor a build context specified", key.text);
                problems.push(Problem::new(&key.at, what));
            }
        }
        for (key, service) in services {
            possible(key, service, &mut problems);
        }
        depends::in_order(services, depends::of)?;
    }
    for (key, service) in services {
        one_value(key, service, &mut problems);
        let mut want = |section: &str, kind: &str, name: &str, at: &At| {
            let entries = root.get(section).map(Node::entries).unwrap_or_default();
            if !entries.iter().any(|(k, _)| k.text == name) {
                let what = format!("service {:?} refers to undefined {kind} {name:?}", key.text);
                problems.push(Problem::new(at, what));
            }
        };
        for (Key { text, at }, _) in service.get("networks").map(Node::entries).unwrap_or_default() {
            if text != "default" {
                want("networks", "network", text, at);
            }
        }
        for volume in service.get("volumes").map(Node::items).unwrap_or_default() {
            if let (Some("volume" | "cluster"), Some(source)) = (volume.text_of("type"), volume.get("source"))
            {
                want("volumes", "volume", source.text().unwrap_or_default(), &source.at);
            }
        }
        for (section, kind) in [("secrets", "secret"), ("configs", "config")] {
            for item in service.get(section).map(Node::items).unwrap_or_default() {
                // Without a source it is short, with a variable that has not been put in.
                if let Some(source) = item.get("source") {
                    want(section, kind, source.text().unwrap_or_default(), &source.at);
                }
            }
        }
    }
    if problems.is_empty() { Ok(()) } else { Err(Error::Invalid(problems)) }
}

/// What can be said in two ways cannot be said with two values.
fn one_value(key: &Key, service: &Node, problems: &mut Vec<Problem>) {
    let whole = |text: &str| text.parse::<i64>().ok().map(|n| n as f64);
    let bytes = |text: &str| skep_engine::parse_size(text).map(|n| n as f64);
    let ways: [(_, &[&str], &dyn Fn(&str) -> Option<f64>); 5] = [
        ("scale", &["deploy", "replicas"], &whole),
        ("cpus", &["deploy", "resources", "limits", "cpus"], &|text| text.parse().ok()),
        ("mem_limit", &["deploy", "resources", "limits", "memory"], &bytes),
        ("mem_reservation", &["deploy", "resources", "reservations", "memory"], &bytes),
        ("pids_limit", &["deploy", "resources", "limits", "pids"], &whole),
    ];
    for (short, long, read) in ways {
        let (Some(one), Some(other)) = (service.get(short), service.path(long)) else { continue };
        let value = |node: &Node| node.text().and_then(read);
        if let (Some(a), Some(b)) = (value(one), value(other))
            && a != b
        {
            let what = format!(
                "services.{}: can't set distinct values on '{short}' and '{}'",
                key.text,
                long.join(".")
            );
            problems.push(Problem::new(&one.at, what));
        }
    }
}

/// What a service of a project cannot be called, nor ask for.
fn possible(key: &Key, service: &Node, problems: &mut Vec<Problem>) {
    let name = &key.text;
    if name.is_empty() || !name.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-')) {
        let what = format!("services: {name:?} is no name: want letters, digits, '.', '_' and '-'");
        problems.push(Problem::new(&key.at, what));
    }
    if let (Some(mode), Some(_)) = (service.get("network_mode"), service.get("networks")) {
        let what = format!("services.{name} declares mutually exclusive network_mode and networks");
        problems.push(Problem::new(&mode.at, what));
    }
    for path in [&["scale"][..], &["deploy", "replicas"]] {
        let Some(count) = service.path(path) else { continue };
        if count.text().is_some_and(|t| t.starts_with('-')) {
            let what = format!("services.{name}.{}: must be greater than or equal to 0", path.join("."));
            problems.push(Problem::new(&count.at, what));
        }
    }
}
