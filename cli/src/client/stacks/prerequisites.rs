//! `depends_on` of a stack's services: what each waits for, in which order they are made, and what cannot be.

use anyhow::Result;
use serde_json::{Value, json};

use super::scope;
use crate::compose::depends::{self, Condition, Need};
use crate::compose::{Error, Key, Node, Problem};

/// Adds what a service waits for to its spec.
pub fn add(stack: &str, service: &Node, spec: &mut Value) {
    if service.get("depends_on").is_none() {
        return;
    }
    let one = |need: Need| {
        let condition = match need.condition {
            Condition::Started => "started",
            Condition::Healthy => "healthy",
            Condition::Completed => "completed",
        };
        json!({ "Service": scope(stack, &need.service), "Condition": condition, "Optional": !need.required })
    };
    spec["DependsOn"] = depends::declared(service).into_iter().map(one).collect();
}

/// The services in an order in which each comes after those it depends on. Refuses those that wait for each other, and
/// those that wait for what is not in the files.
pub fn in_order(services: &[(Key, Node)]) -> Result<Vec<&(Key, Node)>> {
    let known = |name: &str| services.iter().any(|(k, _)| k.text == name);
    let mut problems = Vec::new();
    for (key, service) in services {
        for need in depends::declared(service) {
            if need.required && !known(&need.service) {
                let what = format!("service {:?} depends on undefined service {:?}", key.text, need.service);
                problems.push(Problem::new(&need.at, what));
            }
        }
    }
    if !problems.is_empty() {
        return Err(Error::Invalid(problems).into());
    }
    Ok(depends::in_order(services, depends::declared)?)
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
            env_files: true,
            whole_paths: true,
            consistent: true,
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
        let at = |name: &str| names.iter().position(|n| *n == name);
        assert!(at("db") < at("api") && at("api") < at("web") && at("db").is_some(), "{names:?}");
        assert_eq!(names.len(), all.len(), "{names:?}");
    }

    #[test]
    fn circles_and_strangers_are_refused_with_their_line() {
        let wrong = |of: &[(&str, &str)]| in_order(&services(of)).expect_err("refused").to_string();
        let said = wrong(&[("s", "a"), ("a", "b"), ("b", "c"), ("c", "b")]);
        assert!(said.contains("c.yml:3:") || said.contains("c.yml:5:"), "{said}");
        assert!(said.contains("dependency cycle detected: ") && said.contains("c -> b"), "{said}");
        let said = wrong(&[("a", "a")]);
        assert!(said.contains("c.yml:2:") && said.contains("dependency cycle detected: a -> a"), "{said}");
        let said = wrong(&[("a", "gone")]);
        assert!(said.contains("service \"a\" depends on undefined service \"gone\""), "{said}");
    }
}
