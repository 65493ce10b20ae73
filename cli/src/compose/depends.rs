//! What a service needs of others before it runs: `depends_on`, and what shares something of another service.

use std::collections::BTreeMap;

use super::node::{At, Key, Node, Problem};

/// A need.
#[derive(Clone, Debug)]
pub struct Need {
    /// The service that is needed.
    pub service: String,
    pub condition: Condition,
    /// Once the other is made anew or restarted by the user, this one is too.
    pub restart: bool,
    /// Without it this one does not run.
    pub required: bool,
    pub at: At,
}

/// What must be of the other.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Condition {
    Started,
    Healthy,
    Completed,
}

impl Condition {
    /// As files have it.
    pub fn word(self) -> &'static str {
        match self {
            Self::Started => "service_started",
            Self::Healthy => "service_healthy",
            Self::Completed => "service_completed_successfully",
        }
    }
}

/// What `depends_on` says.
pub fn declared(service: &Node) -> Vec<Need> {
    let mut out = Vec::new();
    for (key, node) in service.get("depends_on").map(Node::entries).unwrap_or_default() {
        let condition = match node.text_of("condition") {
            Some("service_healthy") => Condition::Healthy,
            Some("service_completed_successfully") => Condition::Completed,
            _ => Condition::Started,
        };
        let required = node.text_of("required") != Some("false");
        let (service, restart) = (key.text.clone(), node.is_set("restart"));
        out.push(Need { service, condition, restart, required, at: key.at.clone() });
    }
    out
}

/// All needs of a service; each other service once.
pub fn of(service: &Node) -> Vec<Need> {
    let mut out = declared(service);
    let mut implied = |service: &str, at: &At, restart: bool| {
        if !out.iter().any(|n| n.service == service) {
            let (service, condition) = (service.to_owned(), Condition::Started);
            out.push(Need { service, condition, restart, required: true, at: at.clone() });
        }
    };
    for name in ["network_mode", "ipc", "pid"] {
        if let Some(node) = service.get(name)
            && let Some(other) = node.text().and_then(|t| t.strip_prefix("service:"))
        {
            implied(other, &node.at, true);
        }
    }
    for (name, restart) in [("volumes_from", false), ("links", false)] {
        for node in service.get(name).map(Node::items).unwrap_or_default() {
            let text = node.text().unwrap_or_default();
            if !(name == "volumes_from" && text.starts_with("container:")) {
                implied(text.split(':').next().unwrap_or_default(), &node.at, restart);
            }
        }
    }
    out
}

/// The services in an order in which each comes after those that it needs. Refuses those that wait for each other in a
/// circle.
pub fn in_order(services: &[(Key, Node)], of: fn(&Node) -> Vec<Need>) -> Result<Vec<&(Key, Node)>, Problem> {
    let mut ordered = Vec::new();
    // Whether one is done; until then it is on the way.
    let mut seen = BTreeMap::<&str, bool>::new();
    for (start, _) in services {
        // By hand, not by recursion: a chain may be as long as a file.
        let mut way: Vec<(&(Key, Node), Vec<Need>)> = Vec::new();
        let enter = |name: &str| {
            let found = services.iter().find(|(k, _)| k.text == name);
            found.map(|entry| (entry, of(&entry.1)))
        };
        if seen.contains_key(start.text.as_str()) {
            continue;
        }
        way.extend(enter(&start.text));
        seen.insert(&start.text, false);
        while let Some((entry, needs)) = way.last_mut() {
            let Some(need) = needs.pop() else {
                let done = *entry;
                seen.insert(&done.0.text, true);
                ordered.push(done);
                way.pop();
                continue;
            };
            let Some((next, needs)) = enter(&need.service) else { continue };
            let name = next.0.text.as_str();
            match seen.get(name) {
                Some(false) => {
                    let names = || way.iter().map(|(entry, _)| entry.0.text.as_str());
                    let from = names().position(|n| n == name).unwrap_or(0);
                    let round: Vec<&str> = names().skip(from).chain([name]).collect();
                    let what = format!("dependency cycle detected: {}", round.join(" -> "));
                    return Err(Problem::new(&need.at, what));
                }
                Some(true) => {}
                None => {
                    seen.insert(name, false);
                    way.push((next, needs));
                }
            }
        }
    }
    Ok(ordered)
}
