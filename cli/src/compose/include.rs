//! `include`: other projects' files as parts of this one, each with paths and variables of its own.
//! <https://github.com/compose-spec/compose-spec/blob/main/14-include.md>

use std::path::{Path, PathBuf};

use super::load::{Dialect, Error, Loader};
use super::node::{Kind, Node, Problem};
use super::{canonical, dotenv};

/// Files that include each other, at most.
const MOST: usize = 64;

/// What may be imported.
const SECTIONS: &[&str] = &["services", "networks", "volumes", "secrets", "configs"];

/// Takes `include` out of a document; what it names, loaded.
pub fn take(
    loader: &mut Loader<'_>,
    document: &mut Node,
    file: &str,
    dir: &Path,
    within: &mut Vec<String>,
) -> Result<Vec<Node>, Error> {
    let Some(include) = document.remove("include") else { return Ok(Vec::new()) };
    let here = std::path::absolute(file).map_or_else(|_| file.to_owned(), |p| p.display().to_string());
    if within.contains(&here) || within.len() == MOST {
        let round: Vec<&str> = within.iter().map(String::as_str).chain([here.as_str()]).collect();
        let what = match within.contains(&here) {
            true => format!("include: goes round in a circle: {}", round.join(" -> ")),
            false => format!("include: more than {MOST} files include each other"),
        };
        return Err(Problem::new(&include.at, what).into());
    }
    within.push(here);
    let mut out = Vec::new();
    for item in include.items() {
        out.push(one(loader, item, dir, within)?);
    }
    within.pop();
    Ok(out)
}

fn one(loader: &mut Loader<'_>, item: &Node, dir: &Path, within: &mut Vec<String>) -> Result<Node, Error> {
    let whole = |node: &Node| canonical::clean(dir, node.text().unwrap_or_default());
    let list = |node: Option<&Node>| -> Vec<(PathBuf, Node)> {
        let Some(node) = node else { return Vec::new() };
        match node.text() {
            Some(_) => vec![(whole(node), node.clone())],
            None => node.items().iter().map(|n| (whole(n), n.clone())).collect(),
        }
    };
    let paths = if item.text().is_some() { list(Some(item)) } else { list(item.get("path")) };
    let Some((first, _)) = paths.first() else {
        return Err(Problem::new(&item.at, "include: path is missing").into());
    };
    let beside = match item.get("project_directory") {
        Some(named) => whole(named),
        None => first.parent().unwrap_or(dir).to_owned(),
    };
    let mut variables = super::Variables::new();
    let env_files = list(item.get("env_file"));
    let default = beside.join(".env");
    if env_files.is_empty() && loader.dialect() == Dialect::Project && default.is_file() && beside != dir {
        variables.extend(dotenv::file(&default, &item.at, &loader.variables)?);
    }
    for (path, node) in &env_files {
        let outer = variables.clone().into_iter().chain(loader.variables.clone()).collect();
        variables.extend(dotenv::file(path, &node.at, &outer)?);
    }
    // What the including project knows wins.
    variables.extend(loader.variables.clone());
    let before = std::mem::replace(&mut loader.variables, variables);
    let files: Vec<String> = paths.iter().map(|(p, _)| p.display().to_string()).collect();
    let merged = loader.merged(&files, &beside, within);
    loader.variables = before;
    match merged {
        Err(Error::Read { file, source }) => {
            let at =
                paths.iter().find(|(p, _)| p.display().to_string() == file).map_or(&item.at, |p| &p.1.at);
            Err(Problem::new(at, format!("include: open {file}: {source}")).into())
        }
        other => other,
    }
}

/// Puts what was included into a document; what both have must be the same.
pub fn import(document: &mut Node, included: Node) -> Result<(), Error> {
    for section in SECTIONS {
        for (key, value) in included.get(section).map(Node::entries).unwrap_or_default() {
            if document.get(section).is_none() {
                document.set(section, Node::map(&value.at));
            }
            let Some(held) = document.get_mut(section) else { continue };
            match held.get(&key.text) {
                Some(own) if !same(own, value) => {
                    let kind = section.trim_end_matches('s');
                    let what = format!("{kind} {:?} is also in {}, which is included", key.text, key.at);
                    let at =
                        held.entries().iter().find(|(k, _)| k.text == key.text).map_or(&own.at, |e| &e.0.at);
                    return Err(Problem::new(at, what).into());
                }
                Some(_) => {}
                None => {
                    if let Kind::Map(entries) = &mut held.kind {
                        entries.push((key.clone(), value.clone()));
                    }
                }
            }
        }
    }
    Ok(())
}

/// Whether two values are the same, wherever they were written.
fn same(a: &Node, b: &Node) -> bool {
    match (&a.kind, &b.kind) {
        (Kind::Scalar(x, text), Kind::Scalar(y, other)) => x == y && text == other,
        (Kind::List(x), Kind::List(y)) => x.len() == y.len() && x.iter().zip(y).all(|(x, y)| same(x, y)),
        (Kind::Map(x), Kind::Map(y)) => {
            let held = |k: &str| y.iter().find(|(other, _)| other.text == k).map(|(_, v)| v);
            x.len() == y.len() && x.iter().all(|(k, v)| held(&k.text).is_some_and(|other| same(v, other)))
        }
        _ => false,
    }
}
