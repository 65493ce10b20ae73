//! Parts of a Compose file that one host and a swarm have in the same form.

use anyhow::Result;
use serde_json::{Map, Value, json};

use super::create_body::without_empty;
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

/// A network of a file as the body that makes it, without labels.
pub fn network(name: &str, driver: Option<&str>, node: &Node) -> Value {
    let mut body = json!({
        "Name": name, "Driver": driver, "Options": pairs(node.get("driver_opts")),
        "Internal": node.is_set("internal"), "Attachable": node.is_set("attachable"),
    });
    for (field, key) in [("EnableIPv4", "enable_ipv4"), ("EnableIPv6", "enable_ipv6")] {
        if node.get(key).is_some() {
            body[field] = node.is_set(key).into();
        }
    }
    if let Some(ipam) = node.get("ipam") {
        let config = ipam.get("config").map(Node::items).unwrap_or_default().iter().map(|c| {
            json!({
                "Subnet": c.text_of("subnet"), "Gateway": c.text_of("gateway"), "IPRange": c.text_of("ip_range"),
                "AuxiliaryAddresses": pairs(c.get("aux_addresses")),
            })
        });
        let mut config: Vec<Value> = config.collect();
        config.iter_mut().for_each(without_empty);
        body["IPAM"] = json!({
            "Driver": ipam.text_of("driver"), "Config": config, "Options": pairs(ipam.get("options")),
        });
    }
    without_empty(&mut body);
    body
}

/// A whole number under a name.
pub fn number(node: &Node, name: &str) -> Option<i64> {
    node.text_of(name).and_then(|t| t.parse().ok())
}

/// A duration under a name.
pub fn nanoseconds(node: &Node, name: &str) -> Option<i64> {
    node.text_of(name).and_then(units::duration)
}

/// `environment`, sorted; a name that has no value stands alone.
pub fn environment(service: &Node) -> Vec<String> {
    let entries = service.get("environment").map(Node::entries).unwrap_or_default().iter();
    let line = |(k, v): &(crate::compose::Key, Node)| {
        v.text().map_or_else(|| k.text.clone(), |v| format!("{}={v}", k.text))
    };
    let mut env: Vec<String> = entries.map(line).collect();
    env.sort();
    env
}

/// `extra_hosts` as names with addresses.
pub fn hosts(service: &Node) -> Result<Vec<(String, String)>> {
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
            Some((name, ip)) => Ok((name.to_owned(), ip.to_owned())),
            None => Err(Problem::new(&host.at, format!("extra_hosts: {text:?}: want host:ip")).into()),
        }
    };
    service.get("extra_hosts").map(Node::items).unwrap_or_default().iter().map(read).collect()
}

/// What is added and what is dropped, as the API has them.
pub fn capabilities(service: &Node) -> (Vec<String>, Vec<String>) {
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

/// `healthcheck`; null without one.
pub fn healthcheck(service: &Node) -> Result<Value> {
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

/// `devices` as `--device` has them.
pub fn devices(name: &str, service: &Node) -> Result<Vec<String>> {
    let read = |device: &Node| -> Result<String> {
        let whole = match device.text() {
            Some(text) => Some(text.to_owned()),
            None => device.text_of("source").filter(|s| !s.is_empty()).map(|source| {
                let target = device.text_of("target").unwrap_or(source);
                format!("{source}:{target}:{}", device.text_of("permissions").unwrap_or("rwm"))
            }),
        };
        let missing = || Problem::new(&device.at, format!("services.{name}.devices: source is missing"));
        Ok(whole.filter(|d| !d.is_empty()).ok_or_else(missing)?)
    };
    service.get("devices").map(Node::items).unwrap_or_default().iter().map(read).collect()
}

/// `ulimits`.
pub fn ulimits(service: &Node) -> Vec<Value> {
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
