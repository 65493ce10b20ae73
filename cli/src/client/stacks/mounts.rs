//! `volumes` and `tmpfs` of a service as the API's mounts.

use anyhow::Result;
use serde_json::{Value, json};

use super::{scope, stack_labels};
use crate::client::compose_parts::pairs;
use crate::client::create_body::without_empty;
use crate::compose::{Node, Problem};

/// All of a service.
pub fn of_service(stack: &str, root: &Node, service: &Node) -> Result<Vec<Value>> {
    let volumes = service.get("volumes").map(Node::items).unwrap_or_default();
    let mut out = volumes.iter().map(|v| mount(stack, root, v)).collect::<Result<Vec<_>>>()?;
    for tmpfs in service.get("tmpfs").map(Node::items).unwrap_or_default() {
        out.push(short_tmpfs(tmpfs)?);
    }
    Ok(out)
}

fn mount(stack: &str, root: &Node, volume: &Node) -> Result<Value> {
    let kind = volume.text_of("type").unwrap_or("volume");
    let bad = |at: &Node, what: String| Problem::new(&at.at, format!("volumes: {what}"));
    let Some(target) = volume.text_of("target") else {
        return Err(bad(volume, "target is missing".into()).into());
    };
    for (section, of) in [
        ("bind", "bind"),
        ("volume", "volume"),
        ("tmpfs", "tmpfs"),
        ("image", "image"),
        ("cluster", "cluster"),
    ] {
        if let Some(node) = volume.get(section).filter(|_| kind != of) {
            return Err(bad(node, format!("{section} options are incompatible with type {kind}")).into());
        }
    }
    let source = volume.text_of("source");
    let mut mount = json!({
        "Type": kind, "Target": target, "ReadOnly": volume.is_set("read_only"), "Consistency": volume.text_of("consistency"),
    });
    match (kind, source) {
        ("volume", _) => named(stack, root, volume, &mut mount),
        ("bind", None) => {
            return Err(bad(volume, "invalid bind source, source cannot be empty".into()).into());
        }
        ("bind", Some(source)) => {
            mount["Source"] = source.into();
            mount["BindOptions"] = json!({
                "Propagation": volume.path(&["bind", "propagation"]).and_then(Node::text),
                "CreateMountpoint": volume.get("bind").is_some_and(|b| b.is_set("create_host_path")),
            });
            if let Some(node) = volume.path(&["bind", "recursive"]).or(volume.path(&["bind", "selinux"])) {
                return Err(bad(node, "bind: recursive and selinux are not supported".into()).into());
            }
        }
        ("tmpfs", None) => {
            let number =
                |name| volume.path(&["tmpfs", name]).and_then(Node::text).and_then(|t| t.parse::<i64>().ok());
            mount["TmpfsOptions"] = json!({ "SizeBytes": number("size"), "Mode": number("mode") });
        }
        ("tmpfs", Some(_)) => {
            return Err(bad(volume, "invalid tmpfs source, source must be empty".into()).into());
        }
        (other, _) => return Err(bad(volume, format!("type {other} is not supported in a stack")).into()),
    }
    without_empty(&mut mount);
    Ok(mount)
}

/// A volume of the stack, or one without a name.
fn named(stack: &str, root: &Node, volume: &Node, mount: &mut Value) {
    let options = volume.get("volume");
    mount["VolumeOptions"] = json!({
        "NoCopy": options.is_some_and(|o| o.is_set("nocopy")),
        "Subpath": options.and_then(|o| o.text_of("subpath")),
        "Labels": pairs(options.and_then(|o| o.get("labels"))),
    });
    let Some(source) = volume.text_of("source") else { return };
    let empty = Node::map(&volume.at);
    let declared = root.path(&["volumes", source]).unwrap_or(&empty);
    if declared.is_set("external") {
        mount["Source"] = declared.text_of("name").unwrap_or(source).into();
        return;
    }
    mount["Source"] = declared.text_of("name").map_or_else(|| scope(stack, source), str::to_owned).into();
    let mut labels = stack_labels(stack, declared.get("labels"));
    labels.extend(pairs(options.and_then(|o| o.get("labels"))));
    mount["VolumeOptions"]["Labels"] = labels.into();
    if declared.get("driver").is_some() || declared.get("driver_opts").is_some() {
        mount["VolumeOptions"]["DriverConfig"] =
            json!({ "Name": declared.text_of("driver"), "Options": pairs(declared.get("driver_opts")) });
    }
}

/// `/path[:size=64m,mode=1777]`.
fn short_tmpfs(node: &Node) -> Result<Value> {
    let text = node.text().unwrap_or_default();
    let (target, options) = text.split_once(':').unwrap_or((text, ""));
    let mut mount = json!({ "Type": "tmpfs", "Target": target });
    for option in options.split(',').filter(|o| !o.is_empty()) {
        let value = match option.split_once('=') {
            Some(("size", size)) => crate::compose::units::size(size).map(|n| ("SizeBytes", n)),
            Some(("mode", mode)) => i64::from_str_radix(mode, 8).ok().map(|n| ("Mode", n)),
            _ if option == "ro" => {
                mount["ReadOnly"] = true.into();
                continue;
            }
            _ => None,
        };
        let Some((name, value)) = value else {
            let what = format!("tmpfs: {text:?}: option {option:?}: want size=SIZE, mode=MODE or ro");
            return Err(Problem::new(&node.at, what).into());
        };
        mount["TmpfsOptions"][name] = value.into();
    }
    Ok(mount)
}
