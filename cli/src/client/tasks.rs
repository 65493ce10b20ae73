//! Tasks as `service ps` and `node ps` list them.

use std::cmp::Reverse;
use std::collections::BTreeMap;

use anyhow::Result;
use clap::Args;
use serde_json::Value;

use super::api::{Api, Query};
use super::output::{Column, Listing, text};
use super::{human, ports};

/// Flags of `ps`.
#[derive(Args)]
pub struct TaskFlags {
    /// Filter output based on conditions provided
    #[arg(short, long, value_name = "filter", value_parser = super::usage::filter)]
    pub filter: Vec<String>,
    /// Pretty-print tasks using a Go template
    #[arg(long, value_name = "string")]
    format: Option<String>,
    /// Do not map IDs to Names
    #[arg(long)]
    no_resolve: bool,
    /// Do not truncate output
    #[arg(long)]
    pub no_trunc: bool,
    /// Only display task IDs
    #[arg(short, long)]
    pub quiet: bool,
}

const COLUMNS: &[Column] = &[
    ("ID", "ID"),
    ("Name", "NAME"),
    ("Image", "IMAGE"),
    ("Node", "NODE"),
    ("DesiredState", "DESIRED STATE"),
    ("CurrentState", "CURRENT STATE"),
    ("Error", "ERROR"),
    ("Ports", "PORTS"),
];
const TABLE: &str =
    "{{.ID}}\t{{.Name}}\t{{.Image}}\t{{.Node}}\t{{.DesiredState}}\t{{.CurrentState}}\t{{.Error}}\t{{.Ports}}";

/// Names of services and nodes by their IDs.
pub struct Names {
    services: BTreeMap<String, String>,
    nodes: BTreeMap<String, String>,
}

impl Names {
    /// Asks for them.
    pub async fn get(api: &Api) -> Result<Self> {
        let named = |found: &Value, name: &dyn Fn(&Value) -> String| {
            found.as_array().into_iter().flatten().map(|v| (text(v, "ID"), name(v))).collect()
        };
        Ok(Self {
            services: named(&api.get("/services", &Query::new()).await?, &|s| text(&s["Spec"], "Name")),
            nodes: named(&api.get("/nodes", &Query::new()).await?, &|n| match text(&n["Spec"], "Name") {
                name if name.is_empty() => text(&n["Description"], "Hostname"),
                name => name,
            }),
        })
    }

    /// Of a service; its ID if it has gone.
    pub fn service<'a>(&'a self, id: &'a str) -> &'a str {
        self.services.get(id).map_or(id, String::as_str)
    }

    /// Of a node; its ID if it has gone.
    pub fn node<'a>(&'a self, id: &'a str) -> &'a str {
        self.nodes.get(id).map_or(id, String::as_str)
    }
}

/// `web.2`, or `web.NODE` of a global service.
pub fn name(task: &Value, service: &str) -> String {
    match task["Slot"].as_u64() {
        Some(slot @ 1..) => format!("{service}.{slot}"),
        _ => format!("{service}.{}", text(task, "NodeID")),
    }
}

/// Lists tasks by filters, newest of each slot first.
pub async fn list(api: &Api, filters: &[String], show: &TaskFlags) -> Result<()> {
    let found = api.get("/tasks", &Query::new().filters(filters)?).await?;
    let names = Names::get(api).await?;
    let mut tasks = Vec::new();
    for task in found.as_array().into_iter().flatten() {
        let (service, node) = (text(task, "ServiceID"), text(task, "NodeID"));
        let name = match show.no_resolve {
            true => name(task, &service),
            false => name(task, names.service(&service)),
        };
        let node = if show.no_resolve { node } else { names.node(&node).to_owned() };
        tasks.push((name, node, task));
    }
    tasks.sort_by_cached_key(|(name, _, task)| (human::natural(name), Reverse(text(task, "CreatedAt"))));
    let table = show.format.as_deref().is_none_or(|f| f.trim().starts_with("table"));
    let mut listing = Listing::new(COLUMNS, TABLE);
    let mut before = String::new();
    for (name, node, task) in tasks {
        let again = name == before;
        before.clone_from(&name);
        let name = if again && table { format!(" \\_ {name}") } else { name };
        listing.row(row(task, name, node, show.no_trunc), &Value::Null);
    }
    listing.print(show.quiet, show.format.as_deref())
}

fn row(task: &Value, name: String, node: String, whole: bool) -> Vec<Value> {
    let id = text(task, "ID");
    let status = &task["Status"];
    let image = text(&task["Spec"]["ContainerSpec"], "Image");
    let image = if whole { image } else { image.split('@').next().unwrap_or_default().to_owned() };
    let error = text(status, "Err");
    let error = if whole { error } else { human::ellipsis(&error, 30) };
    let age = human::duration(human::since(&text(status, "Timestamp"))).to_lowercase();
    vec![
        if whole { id } else { id.chars().take(12).collect() }.into(),
        name.into(),
        image.into(),
        node.into(),
        human::capital(&text(task, "DesiredState")).into(),
        format!("{} {age} ago", human::capital(&text(status, "State"))).into(),
        if error.is_empty() { error } else { format!("\"{error}\"") }.into(),
        ports::of_service(&status["PortStatus"]["Ports"], "host").into(),
    ]
}
