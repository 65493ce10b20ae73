//! The networks, secrets and configs of a stack.
//!
//! A secret or config with a file of its own and without a `name` is called after its content, so that a changed file
//! is another secret, which rolls the services that use it; Docker's client fails to update such a one.

use std::collections::BTreeMap;

use anyhow::Result;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use super::{scope, stack_labels};
use crate::client::compose_parts::{self, pairs};
use crate::client::create_body::without_empty;
use crate::client::human::hex;
use crate::compose::{Node, Problem};

/// The label of secrets and configs that are called after their content: what the file calls them.
pub const CONTENT: &str = "skep.stack.content";

/// Names and IDs of secrets and configs by section (`secrets`, `configs`) and the name the file has for them.
pub type Files = BTreeMap<(&'static str, String), (String, String)>;

/// What the swarm calls a network of the file.
pub fn network_name(stack: &str, root: &Node, key: &str) -> String {
    let declared = root.path(&["networks", key]);
    match declared {
        Some(network) if network.is_set("external") => network.text_of("name").unwrap_or(key).to_owned(),
        Some(network) => network.text_of("name").map_or_else(|| scope(stack, key), str::to_owned),
        None => scope(stack, key),
    }
}

/// The body that makes a network.
pub fn network(stack: &str, root: &Node, key: &str) -> Value {
    let empty = Node::map(&root.at);
    let network = root.path(&["networks", key]).unwrap_or(&empty);
    let driver = network.text_of("driver").unwrap_or("overlay");
    let mut body = compose_parts::network(&network_name(stack, root, key), Some(driver), network);
    body["Labels"] = stack_labels(stack, network.get("labels")).into();
    body
}

/// A secret or config that is to be there.
pub struct File {
    /// What the file calls it.
    pub key: String,
    /// What the swarm calls it.
    pub name: String,
    /// The body that makes it; none of what is external.
    pub body: Option<Value>,
}

/// Those of a section (`secrets` or `configs`) that services use or the file declares with content.
pub fn files(stack: &str, root: &Node, section: &str) -> Result<Vec<File>> {
    let declared = root.get(section).map(Node::entries).unwrap_or_default();
    declared.iter().map(|(key, node)| file(stack, section, &key.text, node)).collect()
}

fn file(stack: &str, section: &str, key: &str, node: &Node) -> Result<File> {
    if node.is_set("external") {
        let name = node.text_of("name").unwrap_or(key).to_owned();
        return Ok(File { key: key.into(), name, body: None });
    }
    let data = data(section, key, node)?;
    let mut labels = stack_labels(stack, node.get("labels"));
    let templating = node.text_of("template_driver");
    let name = match (node.text_of("name"), &data) {
        (Some(name), _) => name.to_owned(),
        (None, None) => scope(stack, key),
        (None, Some(data)) => {
            labels.insert(CONTENT.into(), key.into());
            let mut hash = Sha256::new();
            hash.update(templating.unwrap_or_default());
            hash.update([0]);
            hash.update(data);
            format!("{}_{}", scope(stack, key), &hex(&hash.finalize())[..12])
        }
    };
    let mut body = json!({
        "Name": name, "Labels": labels, "Data": data.map(|d| STANDARD.encode(d)),
        "Templating": { "Name": templating },
        "Driver": { "Name": node.text_of("driver"), "Options": pairs(node.get("driver_opts")) },
    });
    without_empty(&mut body);
    Ok(File { key: key.into(), name, body: Some(body) })
}

/// What is in it; none if a driver has it.
fn data(section: &str, key: &str, node: &Node) -> Result<Option<Vec<u8>>> {
    let given: Vec<&str> =
        ["file", "content", "environment", "driver"].into_iter().filter(|k| node.get(k).is_some()).collect();
    let [source] = given[..] else {
        let what = match given.len() {
            0 => "want one of file, content, environment or external: true".to_owned(),
            _ => format!("{} exclude each other", given.join(" and ")),
        };
        return Err(Problem::new(&node.at, format!("{section}.{key}: {what}")).into());
    };
    let text = node.text_of(source).unwrap_or_default();
    let at = node.get(source).map_or(&node.at, |n| &n.at);
    match source {
        "file" => match std::fs::read(text) {
            Ok(data) => Ok(Some(data)),
            Err(e) => Err(Problem::new(at, format!("{section}.{key}: open {text}: {e}")).into()),
        },
        "environment" => match std::env::var(text) {
            Ok(value) => Ok(Some(value.into_bytes())),
            Err(_) => {
                let what = format!("{section}.{key}: environment variable {text:?} is not set");
                Err(Problem::new(at, what).into())
            }
        },
        "content" => Ok(Some(text.as_bytes().to_vec())),
        _ => Ok(None),
    }
}

/// What a service has of a section, in the API's form; `kind` is `Secret` or `Config`.
pub fn references(files: &Files, service: &Node, section: &'static str, kind: &str) -> Vec<Value> {
    let items = service.get(section).map(Node::items).unwrap_or_default();
    let mut out: Vec<Value> = items
        .iter()
        .filter_map(|item| {
            let source = item.text_of("source")?;
            let (name, id) = files.get(&(section, source.to_owned()))?;
            // A config's place is a path; that of a secret may be a name.
            let default = if kind == "Config" { format!("/{source}") } else { source.to_owned() };
            let mode = item.text_of("mode").and_then(|m| m.parse::<u32>().ok()).unwrap_or(0o444);
            let mut reference = json!({
                "File": {
                    "Name": item.text_of("target").map_or(default, str::to_owned),
                    "UID": item.text_of("uid").unwrap_or("0"), "GID": item.text_of("gid").unwrap_or("0"), "Mode": mode,
                },
            });
            reference[format!("{kind}ID")] = id.as_str().into();
            reference[format!("{kind}Name")] = name.as_str().into();
            Some(reference)
        })
        .collect();
    out.sort_by_key(|r| r[format!("{kind}Name")].as_str().map(str::to_owned));
    out
}
