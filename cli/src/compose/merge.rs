//! Several files as one, by the merge rules of the Compose Specification.

use super::node::{Kind, Node, Tag};

/// Merges a later document into an earlier one: mappings key by key, lists appended, all else replaced.
pub fn merge(base: &mut Node, over: Node) {
    into(base, over, &mut Vec::new());
}

/// Merges a service into the one it extends.
pub fn service(base: &mut Node, over: Node) {
    into(base, over, &mut vec!["services".into(), String::new()]);
}

fn into(base: &mut Node, over: Node, path: &mut Vec<String>) {
    if over.tag != Tag::None || replaces(path) {
        if over.tag != Tag::None || !over.is_null() {
            *base = over;
        }
        return;
    }
    match (&mut base.kind, over.kind) {
        (Kind::Map(_), Kind::Map(entries)) => {
            if path.get(2).is_some_and(|k| k == "logging") && path.len() == 3 {
                let driver = entries.iter().find(|(k, _)| k.text == "driver").and_then(|(_, v)| v.text());
                if let (Some(held), Some(driver)) = (base.text_of("driver"), driver)
                    && held != driver
                {
                    base.remove("options");
                }
            }
            for (key, value) in entries {
                match base.get_mut(&key.text) {
                    Some(held) => {
                        path.push(key.text);
                        into(held, value, path);
                        path.pop();
                    }
                    None => {
                        if let Kind::Map(held) = &mut base.kind {
                            held.push((key, value));
                        }
                    }
                }
            }
        }
        (Kind::List(held), Kind::List(items)) => append(held, items, path),
        // Nothing said takes nothing away, where there is a structure.
        (Kind::Map(_) | Kind::List(_), Kind::Scalar(super::node::Type::Null, _)) => {}
        (_, kind) => *base = Node { kind, at: over.at, tag: Tag::None },
    }
}

/// Whether a later value takes the place of an earlier one whatever both are.
fn replaces(path: &[String]) -> bool {
    let path: Vec<&str> = path.iter().map(String::as_str).collect();
    matches!(
        path[..],
        ["services", _, "command" | "entrypoint"]
            | ["services", _, "healthcheck", "test"]
            | ["services", _, "ulimits", _]
            | ["services", _, "deploy", "placement", "preferences"]
            | [_, _, "ipam", "config"]
    )
}

/// Appends what is not there yet; what is for the same place takes the place of what was.
fn append(held: &mut Vec<Node>, items: Vec<Node>, path: &[String]) {
    let section = (path.len() == 3 && path[0] == "services").then(|| path[2].as_str());
    let place = |node: &Node| -> Vec<String> {
        let text = |name: &str| node.text_of(name).unwrap_or_default().to_owned();
        match section {
            Some("volumes") => vec![text("target")],
            Some("ports") => {
                let protocol = node.text_of("protocol").unwrap_or("tcp").to_owned();
                vec![text("target"), text("published"), text("host_ip"), protocol]
            }
            Some("secrets" | "configs") => {
                vec![node.text_of("target").map_or_else(|| text("source"), str::to_owned)]
            }
            Some("env_file") => vec![text("path")],
            _ => node.text().map(str::to_owned).into_iter().collect(),
        }
    };
    for item in items {
        let at = place(&item);
        let same = (!at.is_empty()).then(|| held.iter().position(|h| place(h) == at)).flatten();
        match same {
            Some(i) => held[i] = item,
            None => held.push(item),
        }
    }
}

/// Lists of services in which something stands once, as in what several files come to.
const UNITED: [&str; 14] = [
    "cap_add",
    "cap_drop",
    "configs",
    "devices",
    "dns",
    "dns_opt",
    "dns_search",
    "env_file",
    "expose",
    "links",
    "ports",
    "secrets",
    "tmpfs",
    "volumes",
];

/// Leaves of what a list says twice the last one.
pub fn unite(root: &mut Node) {
    for (_, service) in root.get_mut("services").map(Node::entries_mut).unwrap_or_default() {
        for name in UNITED {
            let Some(Node { kind: Kind::List(list), .. }) = service.get_mut(name) else { continue };
            let path = ["services", "", name].map(str::to_owned);
            let items = std::mem::take(list);
            append(list, items, &path);
        }
    }
}

/// Takes out what `!reset` took away, once all files are merged.
pub fn drop_reset(node: &mut Node) {
    match &mut node.kind {
        Kind::Map(entries) => {
            entries.retain(|(_, v)| v.tag != Tag::Reset);
            entries.iter_mut().for_each(|(_, v)| drop_reset(v));
        }
        Kind::List(items) => {
            items.retain(|i| i.tag != Tag::Reset);
            items.iter_mut().for_each(drop_reset);
        }
        Kind::Scalar(..) => {}
    }
}
