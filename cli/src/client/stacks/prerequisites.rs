//! `depends_on` of a stack's services: what each waits for, in which order they are made, and what cannot be.

use anyhow::Result;
use serde_json::{Value, json};

use super::scope;
use crate::compose::{Error, Key, Node, Problem};

/// Adds what a service waits for to its spec.
pub fn add(stack: &str, service: &Node, spec: &mut Value) {
    let Some(node) = service.get("depends_on") else { return };
    let one = |(key, node): &(Key, Node)| {
        let condition = match node.text_of("condition") {
            Some("service_healthy") => "healthy",
            Some("service_completed_successfully") => "completed",
            _ => "started",
        };
        let optional = node.text_of("required") == Some("false");
        json!({ "Service": scope(stack, &key.text), "Condition": condition, "Optional": optional })
    };
    spec["DependsOn"] = node.entries().iter().map(one).collect();
}

/// The services in an order in which each comes after those it depends on. Refuses those that wait for each other, and
/// those that wait for what is not in the files.
pub fn in_order(services: &[(Key, Node)]) -> Result<Vec<&(Key, Node)>> {
    let mut ordered: Vec<&(Key, Node)> = Vec::new();
    let mut left: Vec<&(Key, Node)> = services.iter().collect();
    let known = |name: &str| services.iter().any(|(k, _)| k.text == name);
    let mut problems = Vec::new();
    for (key, needed, node) in services.iter().flat_map(|(k, s)| needs(s).map(move |(n, v)| (k, n, v))) {
        if !known(&needed.text) && node.text_of("required") != Some("false") {
            let what = format!("service {:?} depends on undefined service {:?}", key.text, needed.text);
            problems.push(Problem::new(&needed.at, what));
        }
    }
    while problems.is_empty() && !left.is_empty() {
        let waits = |s: &Node, left: &[&(Key, Node)]| {
            needs(s).any(|(n, _)| left.iter().any(|(k, _)| k.text == n.text))
        };
        let (ready, not): (Vec<_>, Vec<_>) = left.iter().partition(|(_, s)| !waits(s, &left));
        if ready.is_empty() {
            problems.push(circle(&not));
        }
        ordered.extend(ready);
        left = not;
    }
    if problems.is_empty() { Ok(ordered) } else { Err(Error::Invalid(problems).into()) }
}

fn needs(service: &Node) -> impl Iterator<Item = (&Key, &Node)> {
    service.get("depends_on").map(Node::entries).unwrap_or_default().iter().map(|(k, n)| (k, n))
}

/// The way round among services each of which waits for another of them.
fn circle(left: &[&(Key, Node)]) -> Problem {
    let mut way: Vec<&str> = Vec::new();
    let mut at = left.first().copied();
    while let Some((key, service)) = at {
        way.push(&key.text);
        let Some((next, _)) = needs(service).find(|(n, _)| left.iter().any(|(k, _)| k.text == n.text)) else {
            break;
        };
        if let Some(from) = way.iter().position(|name| *name == next.text) {
            let round = [&way[from..], &[&next.text]].concat().join(" -> ");
            return Problem::new(&next.at, format!("services wait for each other: {round}"));
        }
        at = left.iter().copied().find(|(k, _)| k.text == next.text);
    }
    Problem::new(&left[0].0.at, "services wait for each other")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::compose;

    /// The services of a file: each a line, from the second on.
    fn services(of: &[(&str, &str)]) -> Vec<(Key, Node)> {
        let dir = tempfile::tempdir().expect("a directory");
        let file = dir.path().join("c.yml");
        let line = |(name, after): &(&str, &str)| format!("  {name}: {{image: a, depends_on: [{after}]}}\n");
        let lines: String = of.iter().map(line).collect();
        std::fs::write(&file, format!("services:\n{lines}")).expect("written");
        let files = vec![file.to_string_lossy().into_owned()];
        let options = compose::Options {
            files: &files,
            variables: compose::Variables::default(),
            profiles: Vec::new(),
            services: Vec::new(),
            interpolate: true,
            dialect: compose::Dialect::Stack,
            directory: None,
        };
        let project = compose::load(&options).expect("a file");
        project.root.get("services").map(Node::entries).unwrap_or_default().to_vec()
    }

    #[test]
    fn each_comes_after_what_it_depends_on() {
        let all = services(&[("web", "api, db"), ("api", "db"), ("db", ""), ("log", "")]);
        let order = in_order(&all).expect("an order");
        let names: Vec<&str> = order.iter().map(|(k, _)| k.text.as_str()).collect();
        assert!(names.ends_with(&["api", "web"]) && names[..2].contains(&"db"), "{names:?}");
    }

    #[test]
    fn circles_and_strangers_are_refused_with_their_line() {
        let wrong = |of: &[(&str, &str)]| in_order(&services(of)).expect_err("refused").to_string();
        let said = wrong(&[("s", "a"), ("a", "b"), ("b", "c"), ("c", "b")]);
        assert!(said.contains("c.yml:3:") || said.contains("c.yml:5:"), "{said}");
        assert!(said.contains("services wait for each other: ") && said.contains("c -> b"), "{said}");
        let said = wrong(&[("a", "a")]);
        assert!(said.contains("c.yml:2:") && said.contains("services wait for each other: a -> a"), "{said}");
        let said = wrong(&[("a", "gone")]);
        assert!(said.contains("service \"a\" depends on undefined service \"gone\""), "{said}");
    }
}
