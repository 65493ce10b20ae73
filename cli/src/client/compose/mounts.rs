//! Volumes, binds, tmpfs, and the secrets and configs that are files of this host.

use std::collections::BTreeMap;

use anyhow::Result;
use serde_json::{Map, Value, json};

use super::super::compose_parts::pairs;
use super::super::create_body::without_empty;
use super::project::Project;
use super::service;
use crate::compose::{Node, Problem};

/// `Mounts`.
pub fn of(project: &Project, name: &str, service: &Node) -> Result<Vec<Value>> {
    let mut out = Vec::new();
    for volume in service.get("volumes").map(Node::items).unwrap_or_default() {
        out.push(mount(project, name, volume)?);
    }
    for section in ["secrets", "configs"] {
        for item in service.get(section).map(Node::items).unwrap_or_default() {
            let source = item.text_of("source").unwrap_or_default();
            let Some(file) = project.root.path(&[section, source, "file"]).and_then(Node::text) else {
                continue;
            };
            out.push(json!({
                "Type": "bind", "Source": file, "Target": target(section, item), "ReadOnly": true,
            }));
        }
    }
    Ok(out)
}

/// Where a secret or config is seen.
pub fn target(section: &str, item: &Node) -> String {
    let source = item.text_of("source").unwrap_or_default();
    match (section, item.text_of("target")) {
        ("secrets", Some(target)) if !target.starts_with('/') => format!("/run/secrets/{target}"),
        (_, Some(target)) => target.to_owned(),
        ("secrets", None) => format!("/run/secrets/{source}"),
        (_, None) => format!("/{source}"),
    }
}

fn mount(project: &Project, name: &str, volume: &Node) -> Result<Value> {
    let kind = volume.text_of("type").unwrap_or("volume");
    let bad = |at: &Node, what: &str| Problem::new(&at.at, format!("services.{name}.volumes: {what}"));
    let Some(target) = volume.text_of("target") else { return Err(bad(volume, "target is missing").into()) };
    let source = volume.text_of("source");
    let mut mount = json!({ "Type": kind, "Target": target, "ReadOnly": volume.is_set("read_only") });
    match (kind, source) {
        ("volume", source) => {
            let options = volume.get("volume");
            mount["Source"] = source.map(|s| service::name_of(&project.root, "volumes", s)).into();
            mount["VolumeOptions"] = json!({
                "NoCopy": options.is_some_and(|o| o.is_set("nocopy")),
                "Subpath": options.and_then(|o| o.text_of("subpath")),
                "Labels": pairs(options.and_then(|o| o.get("labels"))),
            });
        }
        ("bind", Some(source)) => {
            mount["Source"] = source.into();
            let create = volume.path(&["bind", "create_host_path"]).and_then(Node::text) != Some("false");
            mount["BindOptions"] = json!({
                "Propagation": volume.path(&["bind", "propagation"]).and_then(Node::text), "CreateMountpoint": create,
            });
            match volume.path(&["bind", "recursive"]).and_then(|n| Some((n, n.text()?))) {
                None | Some((_, "enabled")) => {}
                Some((_, "disabled")) => mount["BindOptions"]["NonRecursive"] = true.into(),
                Some((_, "writable")) => mount["BindOptions"]["ReadOnlyNonRecursive"] = true.into(),
                Some((_, "readonly")) => mount["BindOptions"]["ReadOnlyForceRecursive"] = true.into(),
                Some((node, _)) => {
                    let what = "bind.recursive: want enabled, disabled, writable or readonly";
                    return Err(bad(node, what).into());
                }
            }
        }
        ("bind" | "image", None) => return Err(bad(volume, "source is missing").into()),
        ("image", Some(source)) => {
            mount["Source"] = source.into();
            mount["ImageOptions"] =
                json!({ "Subpath": volume.path(&["image", "subpath"]).and_then(Node::text) });
        }
        ("tmpfs", None) => {
            let number =
                |key| volume.path(&["tmpfs", key]).and_then(Node::text).and_then(|t| t.parse::<i64>().ok());
            mount["TmpfsOptions"] = json!({ "SizeBytes": number("size"), "Mode": number("mode") });
        }
        ("tmpfs", Some(_)) => return Err(bad(volume, "a tmpfs has no source").into()),
        (other, _) => {
            return Err(bad(volume, &format!("type {other} is not supported on one Linux host")).into());
        }
    }
    without_empty(&mut mount);
    Ok(mount)
}

/// The short `tmpfs`.
pub fn tmpfs(service: &Node) -> Map<String, Value> {
    let items = service.get("tmpfs").map(Node::items).unwrap_or_default().iter().filter_map(Node::text);
    items.map(|t| t.split_once(':').unwrap_or((t, ""))).map(|(k, v)| (k.to_owned(), v.into())).collect()
}

/// Lets volumes without a name be those that the container before had.
pub fn inherit(body: &mut Value, inherited: &BTreeMap<String, String>) {
    if inherited.is_empty() {
        return;
    }
    let host = &mut body["HostConfig"];
    if !host["Mounts"].is_array() {
        host["Mounts"] = json!([]);
    }
    let Some(mounts) = host["Mounts"].as_array_mut() else { return };
    for (target, volume) in inherited {
        match mounts.iter_mut().find(|m| m["Target"] == target.as_str()) {
            Some(held) if held["Type"] == "volume" && held["Source"].is_null() => {
                held["Source"] = volume.as_str().into();
            }
            // The file says what is there now.
            Some(_) => {}
            None => mounts.push(json!({ "Type": "volume", "Source": volume, "Target": target })),
        }
    }
}

/// Volumes without names of a container, by where they are mounted. `found` is as `inspect` shows it.
pub fn anonymous(found: &Value) -> BTreeMap<String, String> {
    let unnamed = |m: &&Value| {
        let name = m["Name"].as_str().unwrap_or_default();
        m["Type"] == "volume" && name.len() == 64 && name.bytes().all(|b| b.is_ascii_hexdigit())
    };
    let text = |m: &Value, key: &str| m[key].as_str().unwrap_or_default().to_owned();
    let mounts = found["Mounts"].as_array().into_iter().flatten().filter(unnamed);
    mounts.map(|m| (text(m, "Destination"), text(m, "Name"))).collect()
}
