//! `service logs`: each line with the task and node it comes from.

use std::io::Write;

use anyhow::{Context, Result};
use clap::Args;
use serde_json::Value;

use super::api::{Api, Query, encode};
use super::containers::{self, LogFlags};
use super::output::text;
use super::stream;
use super::tasks::Names;
use super::{is_not_found, services};

/// Flags of `service logs`.
#[derive(Args)]
pub struct ServiceLogs {
    #[command(flatten)]
    logs: LogFlags,
    /// Do not map IDs to Names in output
    #[arg(long)]
    no_resolve: bool,
    /// Do not include task IDs in output
    #[arg(long)]
    no_task_ids: bool,
    /// Do not truncate output
    #[arg(long)]
    no_trunc: bool,
    /// Do not neatly format logs
    #[arg(long)]
    raw: bool,
    #[arg(value_name = "SERVICE|TASK")]
    name: String,
}

/// Shows them, until their end or for as long as they are followed.
pub async fn show(api: &Api, args: &ServiceLogs) -> Result<()> {
    let (path, spec, slots) = match services::get(api, &args.name).await {
        Ok(service) => {
            let replicas = service["Spec"]["Mode"]["Replicated"]["Replicas"].as_u64().unwrap_or(1);
            let template = service["Spec"]["TaskTemplate"].clone();
            (format!("/services/{}/logs", text(&service, "ID")), template, replicas)
        }
        Err(e) if is_not_found(&e) => {
            let task = match api.get(&format!("/tasks/{}", encode(&args.name)), &Query::new()).await {
                Err(e) if is_not_found(&e) => anyhow::bail!("no such task or service: {}", args.name),
                other => other?,
            };
            let slot = task["Slot"].as_u64().unwrap_or(1);
            (format!("/tasks/{}/logs", text(&task, "ID")), task["Spec"].clone(), slot)
        }
        Err(e) => return Err(e),
    };
    let tty = spec["ContainerSpec"]["TTY"] == Value::Bool(true);
    if args.raw {
        return containers::copy(api, &path, &args.logs.query()?, tty).await;
    }
    anyhow::ensure!(!tty, "tty service logs only supported with --raw");
    // The daemon says in each line's details which task it is from.
    let query = args.logs.query()?;
    let query = if args.logs.details { query } else { query.flag("details", true) };
    let mut lines =
        Lines { args, names: Names::get(api).await?, api, tasks: Vec::new(), width: slots.to_string().len() };
    let mut from = containers::reader(api, &path, &query).await?;
    while let Some((error, data)) = stream::frame(&mut from).await? {
        for line in data.split_inclusive(|b| *b == b'\n') {
            let shown = lines.format(line).await?;
            if error {
                write(&mut std::io::stderr(), &shown)?
            } else {
                write(&mut std::io::stdout(), &shown)?
            }
        }
    }
    Ok(())
}

fn write(to: &mut impl Write, line: &[u8]) -> Result<()> {
    super::output::bytes(to, line)
}

struct Lines<'a> {
    args: &'a ServiceLogs,
    api: &'a Api,
    names: Names,
    /// Tasks seen so far: ID and slot.
    tasks: Vec<(String, u64)>,
    width: usize,
}

impl Lines<'_> {
    /// `web.1.id@host    | line`, with the time and the details before where they are asked for.
    async fn format(&mut self, line: &[u8]) -> Result<Vec<u8>> {
        let line = String::from_utf8_lossy(line).into_owned();
        let (time, rest) = match self.args.logs.timestamps {
            true => line.split_once(' ').map_or((None, line.as_str()), |(t, r)| (Some(t), r)),
            false => (None, line.as_str()),
        };
        let (details, message) = rest.split_once(' ').context("the daemon sent a line without its task")?;
        let (mut task, mut service, mut node, mut others) =
            (String::new(), String::new(), String::new(), Vec::new());
        for pair in details.split(',') {
            let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
            match name {
                "com.docker.swarm.task.id" => task = value.to_owned(),
                "com.docker.swarm.service.id" => service = value.to_owned(),
                "com.docker.swarm.node.id" => node = value.to_owned(),
                _ => others.push(pair),
            }
        }
        let slot = self.slot(&task).await?;
        let resolve = !self.args.no_resolve;
        let service = if resolve { self.names.service(&service) } else { &service };
        let node = if resolve { self.names.node(&node) } else { &node };
        let mut from = format!("{service}.{slot}");
        if !self.args.no_task_ids {
            let id: String = if self.args.no_trunc { task } else { task.chars().take(12).collect() };
            from = format!("{from}.{id}");
        }
        let blanks = " ".repeat(self.width.saturating_sub(slot.to_string().len()));
        let time = time.map(|t| format!("{t} ")).unwrap_or_default();
        let others = if self.args.logs.details { format!("{} ", others.join(",")) } else { String::new() };
        Ok(format!("{time}{from}@{node}{blanks}    | {others}{message}").into_bytes())
    }

    async fn slot(&mut self, task: &str) -> Result<u64> {
        if let Some((_, slot)) = self.tasks.iter().find(|(id, _)| id == task) {
            return Ok(*slot);
        }
        let slot = match self.api.get(&format!("/tasks/{}", encode(task)), &Query::new()).await {
            Ok(found) => found["Slot"].as_u64().unwrap_or(0),
            // Gone since it wrote the line.
            Err(e) if is_not_found(&e) => 0,
            Err(e) => return Err(e),
        };
        self.tasks.push((task.to_owned(), slot));
        Ok(slot)
    }
}
