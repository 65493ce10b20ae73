//! Short forms made long: after this each key has one form, whichever way it was written.

use super::node::{At, Kind, Node, Problem, Type};
use super::units;

/// What the short forms of a file are read by.
pub struct Context<'a> {
    /// Where its relative paths begin.
    pub dir: &'a std::path::Path,
    /// Variables have not been put in: what has one stays short.
    pub variables_stay: bool,
    /// Paths are made whole.
    pub whole_paths: bool,
    /// Build contexts and watched paths are looked for here.
    pub builds: bool,
}

/// A whole file, checked before.
pub fn file(root: &mut Node, context: &Context<'_>) -> Result<(), Problem> {
    for section in ["networks", "volumes", "secrets", "configs"] {
        for (key, node) in root.get_mut(section).map(Node::entries_mut).unwrap_or_default() {
            if node.is_null() {
                *node = Node::map(&node.at);
            }
            pairs(node, "labels");
            external(node, &key.text)?;
            let file = node.get_mut("file").filter(|n| !n.is_null());
            if let Some(file) = file {
                absolute(file, context);
            }
        }
    }
    for (key, node) in root.get_mut("services").map(Node::entries_mut).unwrap_or_default() {
        if node.is_null() {
            *node = Node::map(&node.at);
        }
        service(node, &format!("services.{}", key.text), context)?;
    }
    Ok(())
}

fn service(node: &mut Node, path: &str, context: &Context<'_>) -> Result<(), Problem> {
    for name in ["annotations", "environment", "labels", "sysctls"] {
        pairs(node, name);
    }
    for name in ["dns", "dns_opt", "dns_search", "tmpfs", "label_file"] {
        if let Some(value) = node.get_mut(name).filter(|v| v.text().is_some()) {
            *value = Node { tag: value.tag, ..Node::list(&value.at.clone(), vec![value.clone()]) };
        }
    }
    for name in ["command", "entrypoint"] {
        words(node, name, path)?;
    }
    for name in ["post_start", "pre_stop"] {
        for hook in node.get_mut(name).map(list_mut).unwrap_or_default() {
            words(hook, "command", &format!("{path}.{name}"))?;
            pairs(hook, "environment");
        }
    }
    for rule in node.get_mut("develop").and_then(|d| d.get_mut("watch")).map(list_mut).unwrap_or_default() {
        if let Some(hook) = rule.get_mut("exec") {
            words(hook, "command", &format!("{path}.develop.watch.exec"))?;
            pairs(hook, "environment");
        }
        if let Some(at) = rule.get_mut("path").filter(|_| context.builds) {
            absolute(at, context);
        }
    }
    if let Some(deploy) = node.get_mut("deploy") {
        pairs(deploy, "labels");
    }
    if let Some(test) = node.get_mut("healthcheck").and_then(|h| h.get_mut("test"))
        && test.text().is_some()
    {
        let at = test.at.clone();
        *test = Node { tag: test.tag, ..Node::list(&at, vec![Node::string(&at, "CMD-SHELL"), test.clone()]) };
    }
    if let Some(build) = node.get_mut("build") {
        if build.text().is_some() {
            let mut long = Node::map(&build.at);
            long.set("context", build.clone());
            *build = long;
        }
        pairs(build, "args");
        pairs(build, "labels");
        pairs(build, "additional_contexts");
        pairs(build, "ssh");
        if context.builds {
            self::build(build, context);
        }
    }
    if let Some(hosts) = node.get_mut("extra_hosts") {
        host_lines(hosts);
    }
    named(node, "networks", Node::null);
    named(node, "depends_on", |at| {
        let mut long = Node::map(at);
        long.set("condition", Node::string(at, "service_started"));
        long
    });
    items(node, "secrets", context, |item| Ok(vec![under("source", item)]))?;
    items(node, "configs", context, |item| Ok(vec![under("source", item)]))?;
    if let Some(extends) = node.get_mut("extends").filter(|e| e.text().is_some()) {
        *extends = under("service", extends);
    }
    env_files(node, context);
    for file in node.get_mut("label_file").map(list_mut).unwrap_or_default() {
        absolute(file, context);
    }
    items(node, "ports", context, |item| super::short::ports(item, path))?;
    items(node, "volumes", context, |item| super::short::volume(item, path).map(|v| vec![v]))?;
    for volume in node.get_mut("volumes").map(list_mut).unwrap_or_default() {
        pairs_in(volume, &["volume", "labels"]);
        let bind = volume.text_of("type") == Some("bind");
        if bind && let Some(source) = volume.get_mut("source") {
            absolute(source, context);
        }
    }
    Ok(())
}

/// A command as its words.
fn words(node: &mut Node, name: &str, path: &str) -> Result<(), Problem> {
    if let Some(value) = node.get_mut(name)
        && let Some(text) = value.text()
    {
        let Some(words) = units::words(text) else {
            return Err(Problem::new(&value.at, format!("{path}.{name}: a quote is not closed")));
        };
        let at = value.at.clone();
        let words = words.into_iter().map(|w| Node::string(&at, w)).collect();
        *value = Node { tag: value.tag, ..Node::list(&at, words) };
    }
    Ok(())
}

/// A build of a project: its context is a path of this host, or an address.
fn build(node: &mut Node, context: &Context<'_>) {
    let remote =
        |text: &str| text.contains("://") || text.starts_with("git@") || text.starts_with("github.com/");
    if node.get("context").is_none() {
        let at = node.at.clone();
        node.set("context", Node::string(&at, "."));
    }
    if let Some(path) = node.get_mut("context").filter(|c| !c.text().is_some_and(remote)) {
        absolute(path, context);
    }
    if let Some(Kind::Map(others)) = node.get_mut("additional_contexts").map(|n| &mut n.kind) {
        let of_service = |text: &str| text.starts_with("service:");
        for (_, path) in others {
            if path.text().is_some_and(|t| !remote(t) && !of_service(t)) {
                absolute(path, context);
            }
        }
    }
    let known = node.get("dockerfile").is_some() || node.get("dockerfile_inline").is_some();
    if !known {
        let at = node.at.clone();
        node.set("dockerfile", Node::string(&at, "Dockerfile"));
    }
    items(node, "secrets", context, |item| Ok(vec![under("source", item)])).ok();
    if let Some(hosts) = node.get_mut("extra_hosts") {
        host_lines(hosts);
    }
}

/// `{name: ip}` as `[name:ip]`.
fn host_lines(hosts: &mut Node) {
    if let Kind::Map(entries) = &hosts.kind {
        let line = |(k, v): &(super::node::Key, Node)| {
            Node::string(&k.at, format!("{}:{}", k.text, v.text().unwrap_or_default()))
        };
        hosts.kind = Kind::List(entries.iter().map(line).collect());
    }
}

fn list_mut(node: &mut Node) -> &mut [Node] {
    match &mut node.kind {
        Kind::List(items) => items,
        _ => &mut [],
    }
}

/// `text` as `{name: text}`.
fn under(name: &str, text: &Node) -> Node {
    let mut long = Node::map(&text.at);
    long.set(name, Node { tag: super::node::Tag::None, ..text.clone() });
    long.tag = text.tag;
    long
}

/// Makes the short items of a list long.
fn items(
    node: &mut Node,
    name: &str,
    context: &Context<'_>,
    long: impl Fn(&Node) -> Result<Vec<Node>, Problem>,
) -> Result<(), Problem> {
    let Some(Node { kind: Kind::List(items), .. }) = node.get_mut(name) else { return Ok(()) };
    let mut out = Vec::new();
    for item in items.drain(..) {
        match item.text() {
            Some(text) if context.variables_stay && text.contains('$') => out.push(item),
            Some(_) => out.extend(long(&item)?),
            None => out.push(item),
        }
    }
    *items = out;
    Ok(())
}

/// `[a, b]` as `{a: VALUE, b: VALUE}`.
fn named(node: &mut Node, name: &str, value: impl Fn(&At) -> Node) {
    let Some(list) = node.get_mut(name) else { return };
    let Kind::List(items) = &list.kind else { return };
    let mut long = Node { tag: list.tag, ..Node::map(&list.at) };
    for item in items {
        long.set(item.text().unwrap_or_default(), value(&item.at));
    }
    *list = long;
}

/// `[A=1, B]` as `{A: 1, B: null}`.
fn pairs(node: &mut Node, name: &str) {
    let Some(list) = node.get_mut(name) else { return };
    let Kind::List(items) = &list.kind else { return };
    let mut long = Node { tag: list.tag, ..Node::map(&list.at) };
    for item in items {
        let text = item.text().unwrap_or_default();
        match text.split_once('=') {
            Some((key, value)) => long.set(key, Node::string(&item.at, value)),
            None => long.set(text, Node::null(&item.at)),
        }
    }
    *list = long;
}

fn pairs_in(node: &mut Node, path: &[&str; 2]) {
    if let Some(inner) = node.get_mut(path[0]) {
        pairs(inner, path[1]);
    }
}

/// `external: {name: x}` as `external: true` and `name: x`; an external thing has no other keys.
fn external(node: &mut Node, key: &str) -> Result<(), Problem> {
    let Some(external) = node.get("external").cloned() else { return Ok(()) };
    if let Some(name) = external.get("name").cloned() {
        node.set("name", name);
        node.set("external", Node::bool(&external.at, true));
    } else if !node.is_set("external") {
        return Ok(());
    }
    let other = node.entries().iter().find(|(k, v)| {
        !matches!(k.text.as_str(), "external" | "name") && !k.text.starts_with("x-") && !v.is_null()
    });
    match other {
        Some((k, _)) => {
            Err(Problem::new(&k.at, format!("{key}: what is external has no other keys: {:?}", k.text)))
        }
        None => Ok(()),
    }
}

fn env_files(node: &mut Node, context: &Context<'_>) {
    let Some(files) = node.get_mut("env_file") else { return };
    if files.text().is_some() {
        *files = Node { tag: files.tag, ..Node::list(&files.at.clone(), vec![files.clone()]) };
    }
    for file in list_mut(files) {
        if file.text().is_some() {
            *file = under("path", file);
        }
        if let Some(path) = file.get_mut("path") {
            absolute(path, context);
        }
    }
}

/// A path as seen from anywhere: `~` is the home directory, what is relative begins where its file lies.
fn absolute(node: &mut Node, context: &Context<'_>) {
    let Kind::Scalar(Type::Str, text) = &mut node.kind else { return };
    if !context.whole_paths {
        return;
    }
    *text = clean(context.dir, text).to_string_lossy().into_owned();
}

/// A path as seen from anywhere, one that is relative beginning in a directory.
pub fn clean(dir: &std::path::Path, text: &str) -> std::path::PathBuf {
    let home = || std::env::var("HOME").unwrap_or_else(|_| "/".into());
    let path = match text.strip_prefix("~/") {
        Some(rest) => std::path::Path::new(&home()).join(rest),
        None => dir.join(text),
    };
    let mut clean = std::path::PathBuf::new();
    for part in path.components() {
        match part {
            std::path::Component::CurDir => {}
            std::path::Component::ParentDir => {
                clean.pop();
            }
            part => clean.push(part),
        }
    }
    clean
}
