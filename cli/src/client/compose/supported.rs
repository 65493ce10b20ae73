//! What one host cannot do of what a Compose file may ask: refused where the service would not be what was meant, else
//! ignored with a warning that names the place.

use anyhow::Result;

use crate::compose::{Error, Node, Problem};

/// Keys that are refused, by their paths in a service, and why.
const REFUSED: &[(&[&str], &str)] = &[
    (&["provider"], "providers are programs of Docker's"),
    (&["models"], "there is no model runner"),
    (&["use_api_socket"], "mount the socket as a volume"),
    (&["credential_spec"], "it is of Windows"),
    (&["cpu_count"], "it is of Windows: use cpus"),
    (&["cpu_percent"], "it is of Windows: use cpus"),
];

/// Keys that are refused where they are `true`.
const REFUSED_IF_SET: &[(&[&str], &str)] = &[
    (&["build", "provenance"], "builds write no attestations"),
    (&["build", "sbom"], "builds write no attestations"),
];

/// Keys that have no effect here, by their paths.
const IGNORED: &[&[&str]] = &[
    // In other forms than the one that is so anyway.
    &["build", "cache_to"],
    &["deploy", "endpoint_mode"],
    &["deploy", "labels"],
    &["deploy", "placement"],
    &["deploy", "rollback_config"],
    &["deploy", "update_config"],
    &["deploy", "resources", "reservations", "cpus"],
    &["deploy", "resources", "reservations", "generic_resources"],
    &["deploy", "restart_policy", "delay"],
    &["deploy", "restart_policy", "window"],
];

/// The place of the key at the end of a path.
fn place<'a>(service: &'a Node, path: &[&str]) -> Option<&'a crate::compose::At> {
    let (last, above) = path.split_last()?;
    let entries = service.path(above)?.entries();
    entries.iter().find(|(k, v)| k.text == *last && !v.is_null()).map(|(k, _)| &k.at)
}

/// Whether it asks of a build what all images have.
fn is_inline_cache(service: &Node, path: &[&str]) -> bool {
    let all = service.path(path).map(Node::items).unwrap_or_default();
    path == ["build", "cache_to"] && all.iter().all(|to| to.text() == Some("type=inline"))
}

/// Refuses and warns.
pub fn check(root: &Node) -> Result<()> {
    let mut problems = Vec::new();
    if let Some((key, _)) = root.entries().iter().find(|(k, _)| k.text == "version") {
        eprintln!("{}: the attribute `version` is obsolete, it will be ignored, please remove it", key.at);
    }
    if let Some((key, _)) = root.entries().iter().find(|(k, v)| k.text == "models" && !v.is_null()) {
        problems.push(Problem::new(&key.at, "models is not supported: there is no model runner"));
    }
    for (key, service) in root.get("services").map(Node::entries).unwrap_or_default() {
        let name = &key.text;
        let set = |path: &[&str]| {
            service.path(path).and_then(Node::text).is_some_and(|t| !matches!(t, "false" | "" | "mode=none"))
        };
        let refused = REFUSED.iter().chain(REFUSED_IF_SET.iter().filter(|(path, _)| set(path)));
        for (path, why) in refused {
            if let Some(at) = place(service, path) {
                let what = format!("services.{name}.{} is not supported: {why}", path.join("."));
                problems.push(Problem::new(at, what));
            }
        }
        for path in [&["isolation"][..], &["build", "isolation"]] {
            if let Some(node) = service.path(path).filter(|n| n.text() != Some("default")) {
                let what = format!("services.{name}.{} is not supported: it is of Windows", path.join("."));
                problems.push(Problem::new(&node.at, what));
            }
        }
        for path in IGNORED {
            if let Some(at) = place(service, path).filter(|_| !is_inline_cache(service, path)) {
                eprintln!("{at}: services.{name}.{} has no effect outside a swarm", path.join("."));
            }
        }
        let mode = service.path(&["deploy", "mode"]);
        if let Some(mode) = mode.filter(|m| !matches!(m.text(), Some("replicated"))) {
            let what = "has no effect outside a swarm: the service has the containers that replicas says";
            eprintln!("{}: services.{name}.deploy.mode {what}", mode.at);
        }
        references(root, name, service, &mut problems);
    }
    if problems.is_empty() { Ok(()) } else { Err(Error::Invalid(problems).into()) }
}

/// Secrets and configs, of which there are no external ones outside a swarm.
fn references(root: &Node, name: &str, service: &Node, problems: &mut Vec<Problem>) {
    for section in ["secrets", "configs"] {
        for item in service.get(section).map(Node::items).unwrap_or_default() {
            let source = item.text_of("source").unwrap_or_default();
            let Some(declared) = root.path(&[section, source]) else { continue };
            let kind = section.trim_end_matches('s');
            if declared.is_set("external") {
                let what = format!("services.{name}.{section}: unsupported external {kind} {source}");
                problems.push(Problem::new(&item.at, what));
                continue;
            }
            for key in ["driver", "template_driver"] {
                if let Some(node) = declared.get(key) {
                    let what = format!("{section}.{source}.{key} is not supported outside a swarm");
                    problems.push(Problem::new(&node.at, what));
                }
            }
            let given: Vec<&str> = ["file", "content", "environment"]
                .into_iter()
                .filter(|k| declared.get(k).is_some())
                .collect();
            if given.len() != 1 {
                let what = format!("{section}.{source}: want one of file, content or environment");
                problems.push(Problem::new(&declared.at, what));
            }
            if declared.get("file").is_some() {
                for key in ["uid", "gid", "mode"] {
                    if let Some(at) = place(item, &[key]) {
                        eprintln!(
                            "{at}: services.{name}.{section}: {key} has no effect outside a swarm: the file is mounted as it is"
                        );
                    }
                }
            }
        }
    }
}
