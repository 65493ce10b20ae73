//! `service explain`: why tasks are where they are, or nowhere.

use anyhow::{Result, bail};
use serde_json::Value;

use super::api::{Api, Query, encode};
use super::is_not_found;
use super::output::{self, Column, Listing, say, text};

const COLUMNS: &[Column] = &[
    ("Node", "NODE"),
    ("Fits", "FITS"),
    ("Failures", "FAILURES"),
    ("OfService", "OF THE SERVICE"),
    ("Tasks", "TASKS"),
    ("Why", "REASON"),
];
const TABLE: &str = "{{.Node}}\t{{.Fits}}\t{{.Failures}}\t{{.OfService}}\t{{.Tasks}}\t{{.Why}}";

pub async fn run(api: &Api, subject: &str, format: Option<&str>) -> Result<()> {
    let found = find(api, subject).await?;
    if let Some(format) = format {
        return output::one(&found, format);
    }
    for note in found["Notes"].as_array().into_iter().flatten().filter_map(Value::as_str) {
        say!("{note}")?;
    }
    let tasks = found["Tasks"].as_array().cloned().unwrap_or_default();
    if tasks.is_empty() {
        return say!("{subject} has no tasks.");
    }
    let mut before = Value::Null;
    for (i, task) in tasks.iter().enumerate() {
        if i > 0 {
            say!()?;
        }
        say!("{} ({}) {}", text(task, "Name"), text(task, "ID"), text(task, "Standing"))?;
        let placement = &task["Placement"];
        if placement.is_null() {
            continue;
        }
        // Many tasks of one service are judged alike.
        if placement == &before {
            say!("Were it placed now: as the one above.")?;
            continue;
        }
        before = placement.clone();
        show(placement)?;
    }
    Ok(())
}

fn show(placement: &Value) -> Result<()> {
    let nodes = placement["Nodes"].as_array().cloned().unwrap_or_default();
    let goes_to = nodes.iter().find(|n| n["ID"] == placement["GoesTo"]).map(|n| text(n, "Hostname"));
    match goes_to {
        Some(node) => say!("Were it placed now, it would go to node {node}:")?,
        None => say!("Were it placed now, it would go nowhere:")?,
    }
    if nodes.is_empty() {
        return Ok(());
    }
    let mut listing = Listing::new(COLUMNS, TABLE);
    for n in &nodes {
        let fits = n["Fits"] == Value::Bool(true);
        let count = |name: &str| n[name].as_u64().unwrap_or(0).to_string();
        listing.row(
            vec![
                text(n, "Hostname").into(),
                if fits { "yes" } else { "no" }.into(),
                count("Failures").into(),
                count("ServiceTasks").into(),
                count("Tasks").into(),
                text(n, "Refusal").into(),
            ],
            &Value::Null,
        );
    }
    listing.print(false, None)
}

/// By service, by the ID of a task, or by a task's name.
async fn find(api: &Api, subject: &str) -> Result<Value> {
    let ask = async |kind: &str, name: &str| {
        let found = api.get(&format!("/{kind}/{}/explain", encode(name)), &Query::new()).await;
        match found {
            Err(e) if is_not_found(&e) => Ok(None),
            other => other.map(Some),
        }
    };
    if let Some(found) = ask("services", subject).await? {
        return Ok(found);
    }
    if let Some(found) = ask("tasks", subject).await? {
        return Ok(found);
    }
    if let Some((service, _)) = subject.rsplit_once('.')
        && let Some(mut found) = ask("services", service).await?
        && let Some(tasks) = found["Tasks"].as_array_mut()
    {
        let service_name = |t: &Value| text(t, "Name").rsplit_once('.').map(|(_, slot)| slot.to_owned());
        let slot = subject.rsplit_once('.').map(|(_, slot)| slot.to_owned());
        tasks.retain(|t| service_name(t) == slot);
        if !tasks.is_empty() {
            return Ok(found);
        }
    }
    bail!("no such service or task: {subject}")
}
