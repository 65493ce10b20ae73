//! `env_file` and `label_file`: what they say is put into the service, beneath what it says itself.
//!
//! Those of a stack, and those of `format: raw`, are read as `docker run --env-file` reads them: a line is `NAME=VALUE` as
//! it stands, without quotes or variables, or the `NAME` of a variable of the client's environment. Those of a project are
//! read as `.env` is (`dotenv`).

use super::dotenv;
use super::interpolate::Variables;
use super::load::Dialect;
use super::node::{Node, Problem};

/// Puts them into every service, and looks names without values up.
pub fn fold(root: &mut Node, vars: &Variables, dialect: Dialect) -> Result<(), Problem> {
    for (_, service) in root.get_mut("services").map(Node::entries_mut).unwrap_or_default() {
        let files = service.remove("env_file");
        let mut env = Node::map(&service.at);
        for file in files.iter().flat_map(Node::items) {
            let required = file.text_of("required") != Some("false");
            if let Some(path) = file.get("path") {
                let raw = dialect == Dialect::Stack || file.text_of("format") == Some("raw");
                read(path, required, raw, vars, &mut env)?;
            }
        }
        for (key, value) in service.get("environment").map(Node::entries).unwrap_or_default() {
            let held = value.is_null().then(|| vars.get(&key.text)).flatten();
            // A name without a value is that of the environment, which a project's container gets nothing of
            // where there is none.
            env.set(&key.text, held.map_or_else(|| value.clone(), |v| Node::string(&value.at, v)));
        }
        if !env.entries().is_empty() {
            service.set("environment", env);
        }
        let files = service.remove("label_file");
        let mut labels = Node::map(&service.at);
        for path in files.iter().flat_map(Node::items) {
            read(path, true, true, vars, &mut labels)?;
        }
        for (key, value) in service.get("labels").map(Node::entries).unwrap_or_default() {
            labels.set(&key.text, value.clone());
        }
        if !labels.entries().is_empty() {
            service.set("labels", labels);
        }
    }
    Ok(())
}

fn read(path: &Node, required: bool, raw: bool, vars: &Variables, into: &mut Node) -> Result<(), Problem> {
    let name = path.text().unwrap_or_default();
    let text = match std::fs::read_to_string(name) {
        Ok(text) => text,
        Err(e) if e.kind() == std::io::ErrorKind::NotFound && !required => return Ok(()),
        Err(e) => return Err(Problem::new(&path.at, format!("open {name}: {e}"))),
    };
    if !raw {
        for (key, at, value) in dotenv::parse(name, &text, vars)? {
            if let Some(value) = value.or_else(|| vars.get(&key).cloned()) {
                into.set(&key, Node::string(&at, value));
            }
        }
        return Ok(());
    }
    for (i, line) in text.trim_start_matches('\u{feff}').lines().enumerate() {
        let line = line.trim_start();
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        let at = super::node::At { file: name.into(), line: i + 1, column: 1 };
        let (key, value) = match line.split_once('=') {
            Some((key, value)) => (key, Some(value)),
            None => (line.trim_end(), vars.get(line.trim_end()).map(String::as_str)),
        };
        if key.is_empty() || key.contains(char::is_whitespace) {
            let what =
                format!("poorly formatted environment: variable {key:?} is empty or contains whitespaces");
            return Err(Problem::new(&at, what));
        }
        if let Some(value) = value {
            into.set(key, Node::string(&at, value));
        }
    }
    Ok(())
}
