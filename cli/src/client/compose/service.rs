//! Questions to a service of a loaded project.

use std::collections::BTreeSet;

use super::project::Project;
use crate::compose::{Key, Kind, Node};

/// The parts of a file whose things have names on the host.
const SECTIONS: [&str; 4] = ["networks", "volumes", "secrets", "configs"];

/// Gives what a project leaves unsaid: the default network, and the name on the host of each thing. Networks, volumes,
/// secrets and configs that no service uses are left out, unless `all` are wanted.
pub fn complete(root: &mut Node, project: &str, all: bool) {
    say_networks(root);
    leave_out_unused(root, all);
    say_names(root, project);
    done(root, project);
}

/// The same, but nothing is said that the files leave unsaid.
pub fn complete_sparsely(root: &mut Node, project: &str, all: bool) {
    leave_out_unused(root, all);
    done(root, project);
}

/// Puts services without networks in the default one.
fn say_networks(root: &mut Node) {
    for (_, service) in root.get_mut("services").map(Node::entries_mut).unwrap_or_default() {
        let alone = service.get("network_mode").is_some() || service.get("networks").is_some();
        if !alone {
            let mut networks = Node::map(&service.at);
            networks.set("default", Node::null(&service.at));
            service.set("networks", networks);
        }
    }
    if used(root).contains(&("networks", "default".into())) && root.path(&["networks", "default"]).is_none() {
        let at = root.at.clone();
        if root.get("networks").is_none() {
            root.set("networks", Node::map(&at));
        }
        if let Some(networks) = root.get_mut("networks") {
            networks.set("default", Node::map(&at));
        }
    }
}

/// What services use, by section and name.
fn used(root: &Node) -> BTreeSet<(&'static str, String)> {
    let mut used = BTreeSet::new();
    for (_, service) in root.get("services").map(Node::entries).unwrap_or_default() {
        if service.get("network_mode").is_none() {
            let networks = service.get("networks").map(Node::entries).unwrap_or_default();
            used.extend(networks.iter().map(|(k, _)| ("networks", k.text.clone())));
        }
        for volume in service.get("volumes").map(Node::items).unwrap_or_default() {
            if volume.text_of("type") == Some("volume") {
                used.extend(volume.text_of("source").map(|s| ("volumes", s.to_owned())));
            }
        }
        for section in ["secrets", "configs"] {
            let items = service.get(section).map(Node::items).unwrap_or_default().iter();
            used.extend(items.filter_map(|i| Some((section, i.text_of("source")?.to_owned()))));
        }
        let secrets = service.path(&["build", "secrets"]).map(Node::items).unwrap_or_default().iter();
        used.extend(secrets.filter_map(|i| Some(("secrets", i.text_of("source")?.to_owned()))));
    }
    used
}

fn leave_out_unused(root: &mut Node, all: bool) {
    let used = used(root);
    for section in SECTIONS {
        let Some(Node { kind: Kind::Map(entries), .. }) = root.get_mut(section) else { continue };
        entries.retain(|(k, _): &(Key, Node)| all || used.contains(&(section, k.text.clone())));
        if entries.is_empty() {
            root.remove(section);
        }
    }
}

fn say_names(root: &mut Node, project: &str) {
    for section in SECTIONS {
        for (key, node) in root.get_mut(section).map(Node::entries_mut).unwrap_or_default() {
            if node.text_of("name").is_none() {
                let name = match node.is_set("external") {
                    true => key.text.clone(),
                    false => format!("{project}_{}", key.text),
                };
                let at = node.at.clone();
                node.set("name", Node::string(&at, name));
            }
        }
    }
}

fn done(root: &mut Node, project: &str) {
    let at = root.at.clone();
    root.set("name", Node::string(&at, project));
    // Said by the file's name now.
    root.remove("version");
    crate::compose::sort(root);
}

/// The image a service runs.
pub fn image(project: &Project, name: &str, service: &Node) -> String {
    let own = || format!("{}{}{name}", project.name, project.separator);
    service.text_of("image").map_or_else(own, str::to_owned)
}

/// How many containers it has.
pub fn replicas(service: &Node) -> usize {
    let said = service.path(&["deploy", "replicas"]).or(service.get("scale")).and_then(Node::text);
    said.and_then(|t| t.parse().ok()).unwrap_or(1)
}

/// The name of one of its containers.
pub fn container_name(project: &Project, name: &str, service: &Node, number: u32) -> String {
    let own = || format!("{}{sep}{name}{sep}{number}", project.name, sep = project.separator);
    service.text_of("container_name").map_or_else(own, str::to_owned)
}

/// A name on the host of what the file calls `key` in a section.
pub fn name_of(root: &Node, section: &str, key: &str) -> String {
    root.path(&[section, key]).and_then(|n| n.text_of("name")).unwrap_or(key).to_owned()
}
