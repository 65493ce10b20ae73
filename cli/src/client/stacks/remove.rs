//! `stack rm`.

use anyhow::{Result, bail};
use hyper::StatusCode;

use super::all;
use crate::client::api::{Api, Query, Refused};
use crate::client::is_not_found;
use crate::client::output::{say, text};

/// What a stack is made of, in the order it is removed in.
const PARTS: [(&str, &str); 4] =
    [("service", "services"), ("secret", "secrets"), ("config", "configs"), ("network", "networks")];

/// Removes stacks, goes on past failures and fails at the end if there were any.
pub async fn run(api: &Api, stacks: &[String], detach: bool) -> Result<()> {
    let mut errors = Vec::new();
    for stack in stacks {
        let (mut found, mut failed) = (false, false);
        // All of them are looked up first: what is removed of one kind hides what is left of another.
        let mut parts = Vec::new();
        for (kind, section) in PARTS {
            let mut held: Vec<(String, String)> = Vec::new();
            for one in all(api, &format!("/{section}"), stack).await? {
                match kind {
                    "network" => held.push((text(&one, "Name"), text(&one, "Id"))),
                    _ => held.push((text(&one["Spec"], "Name"), text(&one, "ID"))),
                }
            }
            held.sort();
            parts.push((kind, section, held));
        }
        for (kind, section, held) in parts {
            if kind == "network" && !held.is_empty() {
                // A network stays in use until the last task on it has ended.
                gone(api, stack).await?;
            }
            for (name, id) in held {
                found = true;
                if let Err(e) = one(api, kind, section, &name, &id).await {
                    eprintln!("Failed to remove {kind} {id}: {e:#}");
                    failed = true;
                }
            }
        }
        if !found {
            eprintln!("Nothing found in stack: {stack}");
        }
        if failed {
            errors.push(format!("failed to remove some resources from stack: {stack}"));
        } else if !detach {
            gone(api, stack).await?;
        }
    }
    if errors.is_empty() { Ok(()) } else { bail!(errors.join("\n")) }
}

/// Removes one thing, and says so. What has gone meanwhile is removed.
pub async fn one(api: &Api, kind: &str, section: &str, name: &str, id: &str) -> Result<()> {
    say!("Removing {kind} {name}")?;
    match api.delete(&format!("/{section}/{id}"), &Query::new()).await {
        Err(e) if is_not_found(&e) => Ok(()),
        other => other.map(drop),
    }
}

/// Waits until no task of a stack is left.
async fn gone(api: &Api, stack: &str) -> Result<()> {
    loop {
        let left = match all(api, "/tasks", stack).await {
            Err(e) if e.downcast_ref::<Refused>().is_some_and(|r| r.status == StatusCode::NOT_FOUND) => {
                return Ok(());
            }
            other => other?,
        };
        let ends = ["complete", "failed", "shutdown", "rejected", "orphaned", "remove"];
        if left.iter().all(|t| ends.contains(&text(&t["Status"], "State").as_str())) {
            return Ok(());
        }
        tokio::time::sleep(std::time::Duration::from_millis(250)).await;
    }
}
