//! Work on services in the order of their needs, side by side where they do not wait for each other.

use std::collections::BTreeMap;

use anyhow::{Result, bail};
use tokio::sync::watch;

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

/// The same of containers, by what they were made with.
pub fn of_containers(containers: &[super::found::Found]) -> Edges {
    containers.iter().map(|c| (c.service.clone(), c.needs())).collect()
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
    use super::*;

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
