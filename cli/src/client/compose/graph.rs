//! Work on services in the order of their needs, side by side where they do not wait for each other.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::{Result, bail};
use tokio::sync::watch;

use super::found::Found;
use crate::compose::Node;
use crate::compose::depends;

/// Which services come before which.
pub type Edges = BTreeMap<String, Vec<String>>;

/// What each service of a project waits for.
pub fn of_files<'a>(services: impl Iterator<Item = (&'a str, &'a Node)>) -> Edges {
    services
        .map(|(name, service)| {
            (name.to_owned(), depends::of(service).into_iter().map(|n| n.service).collect())
        })
        .collect()
}

/// The same of containers, by what they were made with. Labels may say anything: what would close a circle, in which
/// each waits for the other without end, is left out.
pub fn of_containers(containers: &[Found]) -> Edges {
    let mut out = Edges::new();
    for container in containers {
        out.entry(container.service.clone()).or_default();
        for need in container.needs() {
            join(&mut out, &container.service, &need);
        }
    }
    out
}

/// Has one wait for another, unless that would close a circle; whether it does wait.
pub fn join(edges: &mut Edges, name: &str, need: &str) -> bool {
    if reaches(edges, need, name) {
        return false;
    }
    let needs = edges.entry(name.to_owned()).or_default();
    if !needs.iter().any(|n| n == need) {
        needs.push(need.to_owned());
    }
    true
}

/// Whether one waits for another, perhaps by way of others.
fn reaches(edges: &Edges, from: &str, to: &str) -> bool {
    let (mut todo, mut seen) = (vec![from], BTreeSet::new());
    while let Some(name) = todo.pop() {
        if name == to {
            return true;
        }
        if seen.insert(name) {
            todo.extend(edges.get(name).into_iter().flatten().map(String::as_str));
        }
    }
    false
}

/// What waits for what, turned round.
pub fn reversed(edges: &Edges) -> Edges {
    let mut out: Edges = edges.keys().map(|k| (k.clone(), Vec::new())).collect();
    for (name, needs) in edges {
        for need in needs {
            out.entry(need.clone()).or_default().push(name.clone());
        }
    }
    out
}

/// Acts on each service once those before it are done. With `on` it goes on past failures and tells all of them at the
/// end; without, the first ends it.
pub async fn walk<F>(services: &[String], edges: &Edges, on: bool, act: impl Fn(String) -> F) -> Result<()>
where
    F: Future<Output = Result<()>>,
{
    let mut senders = BTreeMap::new();
    let mut receivers = BTreeMap::new();
    for name in services {
        let (send, receive) = watch::channel(false);
        senders.insert(name, send);
        receivers.insert(name, receive);
    }
    let mut work = Vec::new();
    for name in services {
        let Some(done) = senders.remove(name) else { continue };
        let before = edges.get(name).into_iter().flatten().filter(|n| *n != name);
        let before: Vec<_> = before.filter_map(|n| receivers.get(n).cloned()).collect();
        let act = &act;
        work.push(async move {
            for mut other in before {
                // Its sender goes without a word only if the work was given up.
                if other.wait_for(|done| *done).await.is_err() {
                    bail!("{name} waits for a service that was given up");
                }
            }
            let outcome = act(name.clone()).await;
            if outcome.is_ok() || on {
                let _ = done.send(true);
            }
            outcome
        });
    }
    if !on {
        return futures::future::try_join_all(work).await.map(drop);
    }
    super::output::gathered(futures::future::join_all(work).await)
}

#[cfg(test)]
mod tests {
    use super::super::found::NEEDS;
    use super::*;

    #[test]
    fn labels_that_go_round_make_no_circle() {
        let found = |service: &str, needs: &str| Found {
            id: String::new(),
            name: String::new(),
            service: service.to_owned(),
            number: 1,
            one_off: false,
            state: String::new(),
            raw: serde_json::json!({ "Labels": { (NEEDS): needs } }),
        };
        let all =
            [found("a", "b:service_started:false"), found("b", "c:service_started:false"), found("c", "a,c")];
        let edges = of_containers(&all);
        assert_eq!((&edges["a"][..], &edges["b"][..]), (&["b".to_owned()][..], &["c".to_owned()][..]));
        assert!(edges["c"].is_empty(), "{edges:?}");
    }

    #[tokio::test]
    async fn services_come_after_what_they_need_and_before_it_when_turned_round() {
        let edges: Edges =
            [("web", vec!["db", "cache"]), ("db", vec!["disk"]), ("cache", vec![]), ("disk", vec![])]
                .into_iter()
                .map(|(k, v)| (k.to_owned(), v.into_iter().map(str::to_owned).collect()))
                .collect();
        let names: Vec<String> = edges.keys().cloned().collect();
        for (edges, first, last) in [(edges.clone(), "disk", "web"), (reversed(&edges), "web", "disk")] {
            let seen = std::cell::RefCell::new(Vec::new());
            walk(&names, &edges, false, async |name| {
                tokio::task::yield_now().await;
                seen.borrow_mut().push(name);
                Ok(())
            })
            .await
            .expect("all done");
            let seen = seen.into_inner();
            let at = |n: &str| seen.iter().position(|s| s == n).expect("acted on");
            assert!(at(first) < at("db") && at("db") < at(last) && seen.len() == 4, "{seen:?}");
        }
        let failing = |on| {
            walk(&names, &edges, on, async |name| match name.as_str() {
                "disk" | "cache" => bail!("no {name}"),
                _ => Ok(()),
            })
        };
        let all = failing(true).await.expect_err("fails").to_string();
        assert!(all.contains("no disk") && all.contains("no cache"), "{all}");
        assert!(failing(false).await.is_err());
    }
}
