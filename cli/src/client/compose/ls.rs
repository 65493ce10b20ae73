//! `compose ls`: projects that have containers.

use std::collections::BTreeMap;

use anyhow::Result;
use clap::Args;
use serde_json::{Value, json};

use super::super::api::Query;
use super::super::output::{Column, Listing, say, text};
use super::Session;
use super::found::{FILES, ONE_OFF, PROJECT};

/// Flags of `compose ls`.
#[derive(Args)]
pub struct ListFlags {
    /// Show all stopped Compose projects
    #[arg(short, long)]
    all: bool,
    /// Filter output based on conditions provided
    #[arg(long, value_name = "filter", value_parser = super::super::usage::filter)]
    filter: Vec<String>,
    /// Format the output. Values: [table | json]
    #[arg(long, value_name = "string", default_value = "table", value_parser = ["table", "json"])]
    format: String,
    /// Only display project names
    #[arg(short, long)]
    quiet: bool,
}

const COLUMNS: &[Column] = &[("Name", "NAME"), ("Status", "STATUS"), ("ConfigFiles", "CONFIG FILES")];
const TABLE: &str = "{{.Name}}\t{{.Status}}\t{{.ConfigFiles}}";

pub async fn run(s: &Session<'_>, flags: &ListFlags) -> Result<()> {
    let query = Query::new().flag("all", flags.all).filters(&[format!("label={PROJECT}")])?;
    let found = s.api.get("/containers/json", &query).await?;
    let mut projects = BTreeMap::<String, (BTreeMap<String, usize>, String)>::new();
    for container in found.as_array().into_iter().flatten() {
        let labels = &container["Labels"];
        if text(labels, ONE_OFF) == "True" {
            continue;
        }
        let (states, files) = projects.entry(text(labels, PROJECT)).or_default();
        *states.entry(text(container, "State")).or_default() += 1;
        *files = text(labels, FILES);
    }
    let mut wanted = Vec::new();
    for filter in &flags.filter {
        match filter.split_once('=') {
            Some(("name", name)) => wanted.push(name),
            _ => anyhow::bail!("invalid filter {filter:?}: want name=NAME"),
        }
    }
    projects.retain(|name, _| wanted.is_empty() || wanted.iter().any(|w| name.contains(w)));
    let status = |states: &BTreeMap<String, usize>| {
        states.iter().map(|(state, n)| format!("{state}({n})")).collect::<Vec<_>>().join(", ")
    };
    if flags.quiet {
        return projects.keys().try_for_each(|name| say!("{name}"));
    }
    if flags.format == "json" {
        let rows: Vec<Value> = projects
            .iter()
            .map(|(name, (states, files))| json!({ "Name": name, "Status": status(states), "ConfigFiles": files }))
            .collect();
        return say!("{}", Value::from(rows));
    }
    let mut listing = Listing::new(COLUMNS, TABLE);
    for (name, (states, files)) in &projects {
        listing.row(vec![name.as_str().into(), status(states).into(), files.as_str().into()], &Value::Null);
    }
    listing.print(false, None)
}
