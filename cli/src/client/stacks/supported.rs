//! What a swarm cannot do of what a Compose file may ask: ignored with a warning, as by Docker's client, or refused
//! where a service would not be what was meant.

use anyhow::Result;

use crate::compose::{Key, Node, Problem};

/// Keys of a service that are ignored, with a warning that names them.
const IGNORED: &[&str] = &[
    "attach",
    "build",
    "cgroupns_mode",
    "cpu_count",
    "cpu_percent",
    "cpu_rt_period",
    "cpu_rt_runtime",
    "develop",
    "external_links",
    "links",
    "mac_address",
    "models",
    "network_mode",
    "platform",
    "post_start",
    "pre_stop",
    "provider",
    "pull_policy",
    "restart",
    "use_api_socket",
    "volumes_from",
];

/// Keys of a service that are of no use any more, and why.
const DEPRECATED: &[(&str, &str)] = &[
    ("container_name", "Setting the container name is not supported."),
    (
        "expose",
        "Exposing ports is unnecessary - services on the same network can access each other's containers on any port.",
    ),
];

/// Keys of a service's networks that are ignored like the above.
const IGNORED_OF_NETWORKS: &[&str] = &[
    "gw_priority",
    "interface_name",
    "ipv4_address",
    "ipv6_address",
    "link_local_ips",
    "mac_address",
    "priority",
];

fn services(root: &Node) -> impl Iterator<Item = (&str, &Node)> {
    root.get("services").map(Node::entries).unwrap_or_default().iter().map(|(k, s)| (k.text.as_str(), s))
}

/// Tells of what is ignored, in Docker's words.
pub fn warn(root: &Node) {
    let mut ignored = Vec::new();
    for (_, service) in services(root) {
        ignored.extend(IGNORED.iter().filter(|k| service.get(k).is_some()).map(|k| (*k).to_owned()));
        let restart = |(_, d): &(Key, Node)| d.get("restart").is_some();
        if service.get("depends_on").map(Node::entries).unwrap_or_default().iter().any(restart) {
            ignored.push("depends_on.restart".to_owned());
        }
        for (_, network) in service.get("networks").map(Node::entries).unwrap_or_default() {
            let of = IGNORED_OF_NETWORKS.iter().filter(|k| network.get(k).is_some());
            ignored.extend(of.map(|k| format!("networks.{k}")));
        }
    }
    ignored.sort_unstable();
    ignored.dedup();
    if !ignored.is_empty() {
        eprintln!("Ignoring unsupported options: {}\n", ignored.join(", "));
    }
    let used = |key: &str| services(root).any(|(_, s)| s.get(key).is_some());
    let deprecated: Vec<String> =
        DEPRECATED.iter().filter(|(k, _)| used(k)).map(|(k, why)| format!("{k}: {why}")).collect();
    if !deprecated.is_empty() {
        eprintln!("Ignoring deprecated options:\n\n{}\n", deprecated.join("\n\n"));
    }
}

/// Refuses what would make something else of a service than was meant.
pub fn refuse(root: &Node) -> Result<()> {
    let mut problems = Vec::new();
    for (name, service) in services(root) {
        for (key, why) in [
            ("isolation", "it is of Windows nodes, of which a swarm of skep has none"),
            ("credential_spec", "it is of Windows nodes, of which a swarm of skep has none"),
        ] {
            if let Some(node) = service.get(key).filter(|n| n.text() != Some("default")) {
                problems
                    .push(Problem::new(&node.at, format!("services.{name}.{key} is not supported: {why}")));
            }
        }
        if service.text_of("image").is_none_or(str::is_empty) {
            let hint =
                if service.get("build").is_some() { ": build it first, and name it with image" } else { "" };
            problems.push(Problem::new(&service.at, format!("services.{name}: no image is specified{hint}")));
        }
    }
    if problems.is_empty() { Ok(()) } else { Err(crate::compose::Error::Invalid(problems).into()) }
}
