//! The networks of a service's container, and the names it has there.

use serde_json::{Map, Value, json};

use super::super::compose_parts::{number, pairs, strings};
use super::super::create_body::without_empty;
use super::container::Made;
use super::project::Project;
use super::service;
use crate::compose::Node;

/// A mode that may name another service.
pub fn shared(mode: &str, made: &Made) -> String {
    match mode.strip_prefix("service:") {
        Some(other) => {
            format!("container:{}", made.others.get(other).map_or(other, String::as_str))
        }
        None => mode.to_owned(),
    }
}

/// Networks by the names that the file has for them, the first to be joined first.
fn keys(service: &Node) -> Vec<&str> {
    let mut all: Vec<(&str, f64)> = service
        .get("networks")
        .map(Node::entries)
        .unwrap_or_default()
        .iter()
        .map(|(k, n)| (k.text.as_str(), n.text_of("priority").and_then(|p| p.parse().ok()).unwrap_or(0.0)))
        .collect();
    all.sort_by(|a, b| b.1.total_cmp(&a.1).then(a.0.cmp(b.0)));
    all.into_iter().map(|(k, _)| k).collect()
}

/// `NetworkMode`.
pub fn mode(project: &Project, service: &Node, made: &Made) -> String {
    match service.text_of("network_mode") {
        Some(mode) => shared(mode, made),
        None => keys(service)
            .first()
            .map_or_else(|| "none".into(), |k| service::name_of(&project.root, "networks", k)),
    }
}

/// Networks by their names on the host.
pub fn networks(project: &Project, service: &Node) -> Vec<String> {
    match service.get("network_mode") {
        Some(_) => Vec::new(),
        None => keys(service).into_iter().map(|k| service::name_of(&project.root, "networks", k)).collect(),
    }
}

/// `EndpointsConfig`.
pub fn of(project: &Project, name: &str, service: &Node, made: &Made) -> Map<String, Value> {
    let mut out = Map::new();
    if service.get("network_mode").is_some() {
        return out;
    }
    for (i, key) in keys(service).into_iter().enumerate() {
        let empty = Node::map(&service.at);
        let given = service.path(&["networks", key]).unwrap_or(&empty);
        let mut aliases: Vec<&str> =
            Some(made.named.as_str()).filter(|n| !n.is_empty()).into_iter().collect();
        if made.one_off.is_none() {
            aliases.push(name);
            aliases.extend(strings(given.get("aliases")));
        }
        let links = strings(service.get("links")).into_iter().map(|text| {
            let (other, alias) = text.split_once(':').unwrap_or((text, text));
            let container = made.others.get(other).map_or(other, String::as_str);
            format!("{container}:{alias}")
        });
        let links = links.chain(strings(service.get("external_links")).into_iter().map(str::to_owned));
        let mut options = pairs(given.get("driver_opts"));
        if let Some(interface) = given.text_of("interface_name") {
            options.insert("com.docker.network.endpoint.ifname".into(), interface.into());
        }
        let own_mac = service.text_of("mac_address").filter(|_| i == 0);
        let mut endpoint = json!({
            "Aliases": aliases, "Links": links.collect::<Vec<_>>(), "DriverOpts": options,
            "IPAMConfig": {
                "IPv4Address": given.text_of("ipv4_address"), "IPv6Address": given.text_of("ipv6_address"),
                "LinkLocalIPs": strings(given.get("link_local_ips")),
            },
            "MacAddress": given.text_of("mac_address").or(own_mac), "GwPriority": number(given, "gw_priority"),
        });
        without_empty(&mut endpoint);
        out.insert(service::name_of(&project.root, "networks", key), endpoint);
    }
    out
}
