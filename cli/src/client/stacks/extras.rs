//! What a service of a Compose file asks that is Skep's own: keys `x-...` of the service, which Docker's client
//! passes over. (Not within `deploy`, where it takes nothing unknown.)

use anyhow::Result;
use serde_json::{Value, json};

use crate::client::autoscale;
use crate::compose::{Node, Problem, units};

/// Adds it to the spec of the service called `name`.
pub fn add(name: &str, service: &Node, spec: &mut Value) -> Result<()> {
    let wrong = |node: &Node, key: &str, want: &str| {
        Problem::new(&node.at, format!("services.{name}.{key}: want {want}"))
    };
    if let Some(node) = service.get("x-drain-time") {
        let drain = node.text().and_then(units::duration);
        spec["DrainTime"] = drain.ok_or_else(|| wrong(node, "x-drain-time", "a duration like 1m30s"))?.into();
    }
    if let Some(node) = service.get("x-data-placement") {
        let word = node.text().filter(|w| ["stay", "prefer", "ignore"].contains(w));
        let word = word.ok_or_else(|| wrong(node, "x-data-placement", "stay, prefer or ignore"))?;
        spec["DataPlacement"] = word.into();
    }
    if let Some(node) = service.get("x-schedule") {
        spec["Schedule"] = schedule(node).map_err(|(at, want)| wrong(at, "x-schedule", want))?;
    }
    if let Some(node) = service.get("x-autoscale") {
        spec["Autoscale"] = autoscaled(node).ok_or_else(|| {
            wrong(
                node,
                "x-autoscale",
                "a mapping of min, max, cpu, memory, metric (a mapping of name, port, path and target), cooldown and window",
            )
        })?;
    }
    if let Some(node) = service.get("x-idle-timeout") {
        spec["IdleTimeout"] = idle_timeout(node).ok_or_else(|| {
            wrong(node, "x-idle-timeout", "a duration like 2h, or a mapping of tcp and udp to durations")
        })?;
    }
    if let Some(node) = service.get("x-rebalance") {
        spec["Rebalance"] = rebalance(node).ok_or_else(|| {
            wrong(
                node,
                "x-rebalance",
                "true or false, or a mapping of parallelism (a number) and delay (like 30s)",
            )
        })?;
    }
    Ok(())
}

fn autoscaled(node: &Node) -> Option<Value> {
    let mut out = json!({});
    for (key, value) in node.entries() {
        if key.text == "metric" {
            for (key, value) in value.entries() {
                let name =
                    if key.text == "name" { "metric".to_owned() } else { format!("metric-{}", key.text) };
                autoscale::set(&mut out, &name, value.text()?)?;
            }
        } else {
            autoscale::set(&mut out, &key.text, value.text()?)?;
        }
    }
    (out["Max"].is_u64()).then_some(out)
}

/// For both protocols, or for those that are named.
fn idle_timeout(node: &Node) -> Option<Value> {
    if let Some(time) = node.text().map(units::duration) {
        return time.map(|time| json!({ "TCP": time, "UDP": time }));
    }
    if node.entries().is_empty() {
        return None;
    }
    let mut out = json!({});
    for (key, value) in node.entries() {
        let name = ["TCP", "UDP"].into_iter().find(|n| n.eq_ignore_ascii_case(&key.text))?;
        out[name] = value.text().and_then(units::duration)?.into();
    }
    Some(out)
}

/// Whether, or how.
fn rebalance(node: &Node) -> Option<Value> {
    if let Some(word) = node.text() {
        return Some(json!({ "Enabled": word.parse::<bool>().ok()? }));
    }
    if node.entries().is_empty() {
        return None;
    }
    let mut out = json!({ "Enabled": true });
    for (key, value) in node.entries() {
        match key.text.as_str() {
            "parallelism" => out["Parallelism"] = value.text()?.parse::<u64>().ok()?.into(),
            "delay" => out["Delay"] = value.text().and_then(units::duration)?.into(),
            _ => return None,
        }
    }
    Some(out)
}

/// An expression, or a mapping with one.
fn schedule(node: &Node) -> Result<Value, (&Node, &'static str)> {
    if let Some(cron) = node.text() {
        return Ok(json!({ "Cron": cron }));
    }
    const WANT: &str = "an expression such as \"0 3 * * *\", or a mapping of cron, time_zone, concurrency, \
                        starting_deadline, history and suspend";
    let mut out = json!({});
    for (key, value) in node.entries() {
        let text = value.text().ok_or((value, WANT))?;
        let (field, read): (_, Option<Value>) = match key.text.as_str() {
            "cron" => ("Cron", Some(text.into())),
            "time_zone" => ("TimeZone", Some(text.into())),
            "concurrency" => ("Concurrency", Some(text.into())),
            "starting_deadline" => ("StartingDeadline", units::duration(text).map(Into::into)),
            "history" => ("History", text.parse::<u32>().ok().map(Into::into)),
            "suspend" => ("Suspend", text.parse::<bool>().ok().map(Into::into)),
            _ => return Err((value, WANT)),
        };
        out[field] = read.ok_or((value, WANT))?;
    }
    if out["Cron"].is_string() { Ok(out) } else { Err((node, WANT)) }
}
