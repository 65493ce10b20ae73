//! `compose logs`: the lines of a project's containers, each with its container's name.

use std::collections::BTreeSet;

use anyhow::Result;
use clap::Args;
use futures::StreamExt;
use futures::stream::FuturesUnordered;
use serde_json::Value;
use tokio::io::{AsyncBufReadExt, AsyncRead, AsyncReadExt};

use super::super::api::Query;
use super::super::output::text;
use super::super::{containers, human, stream};
use super::found::{self, Found};
use super::output::{Lines, Printer};
use super::{Session, lifecycle};

/// Flags of `compose logs`.
#[derive(Args)]
pub struct LogFlags {
    /// Follow log output
    #[arg(short, long)]
    follow: bool,
    /// index of the container if service has multiple replicas
    #[arg(long, value_name = "int")]
    index: Option<u32>,
    /// Produce monochrome output
    #[arg(long)]
    no_color: bool,
    /// Don't print prefix in logs
    #[arg(long)]
    no_log_prefix: bool,
    /// Show logs since timestamp (e.g. 2013-01-02T13:23:37Z) or relative (e.g. 42m for 42 minutes)
    #[arg(long, value_name = "string")]
    since: Option<String>,
    /// Number of lines to show from the end of the logs for each container
    #[arg(short = 'n', long, value_name = "string", default_value = "all", allow_hyphen_values = true)]
    tail: String,
    /// Show timestamps
    #[arg(short, long)]
    timestamps: bool,
    /// Show logs before a timestamp (e.g. 2013-01-02T13:23:37Z) or relative (e.g. 42m for 42 minutes)
    #[arg(long, value_name = "string")]
    until: Option<String>,
    #[arg(value_name = "SERVICE")]
    services: Vec<String>,
}

pub async fn run(s: &Session<'_>, flags: &LogFlags) -> Result<()> {
    let subject = s.files.find(&flags.services)?;
    // Before the list, so that no container is missed between the two.
    let events = match flags.follow {
        true => Some(found::events(s.api, &subject.name).await?),
        false => None,
    };
    let mut list = found::of(s.api, &subject.name, &flags.services).await?;
    lifecycle::known(&subject, &flags.services, &list)?;
    list.retain(|c| flags.index.is_none_or(|i| c.number == i));
    let names: Vec<String> = list.iter().map(|c| c.shown(&subject.name)).collect();
    let printer = Printer::new(names.iter().map(String::as_str), s, flags.no_color, !flags.no_log_prefix);
    let mut query =
        Query::new().flag("stdout", true).flag("stderr", true).flag("timestamps", flags.timestamps);
    query = query.flag("follow", flags.follow);
    for (name, value) in [("since", &flags.since), ("until", &flags.until)] {
        if let Some(text) = value {
            query = query.with(name, human::timestamp(text)?);
        }
    }
    let whole = query.clone().with("tail", &flags.tail);
    let mut streams = FuturesUnordered::new();
    for (index, container) in list.iter().enumerate() {
        streams.push(one(s, container.clone(), names[index].clone(), index, &printer, whole.clone()));
    }
    let Some(events) = events else {
        while let Some(done) = streams.next().await {
            done?;
        }
        return Ok(());
    };
    let mut lines = events.lines();
    let mut live: BTreeSet<String> = list.iter().map(|c| c.id.clone()).collect();
    loop {
        // With nothing left that could say something more, there is nothing to wait for.
        if streams.is_empty() {
            return Ok(());
        }
        tokio::select! {
            Some(done) = streams.next() => drop(live.remove(&done?)),
            line = lines.next_line() => {
                let Some(line) = line? else { return Ok(()) };
                let event: Value = serde_json::from_str(&line)?;
                let id = text(&event["Actor"], "ID");
                if event["Action"] != "start" || live.contains(&id) {
                    continue;
                }
                let all = found::of(s.api, &subject.name, &flags.services).await?;
                let Some(container) = all.into_iter().find(|c| c.id == id) else { continue };
                let name = container.shown(&subject.name);
                let since = since(&event);
                let index = list.iter().position(|c| c.name == container.name).unwrap_or(list.len());
                live.insert(id);
                streams.push(one(s, container, name, index, &printer, query.clone().with("since", since)));
            }
        }
    }
}

/// When an event was, as the API takes times.
pub fn since(event: &Value) -> String {
    let nanos = event["timeNano"].as_i64().unwrap_or(0);
    format!("{}.{:09}", nanos / 1_000_000_000, nanos % 1_000_000_000)
}

/// Shows a container's log to its end; the container's ID.
pub async fn one(
    s: &Session<'_>,
    container: Found,
    name: String,
    index: usize,
    printer: &Printer,
    query: Query,
) -> Result<String> {
    let found = s.api.get(&format!("{}/json", container.path()), &Query::new()).await?;
    let raw = found["Config"]["Tty"] == Value::Bool(true);
    let reader = containers::reader(s.api, &format!("{}/logs", container.path()), &query).await?;
    show(reader, raw, printer, &name, index).await?;
    Ok(container.id)
}

/// Shows a stream of a container, line by line.
pub async fn show(
    mut from: impl AsyncRead + Unpin,
    raw: bool,
    printer: &Printer,
    name: &str,
    index: usize,
) -> Result<()> {
    let (mut out, mut err) = (Lines::default(), Lines::default());
    let mut buffer = vec![0; 1 << 16];
    loop {
        let (error, data) = if raw {
            let n = from.read(&mut buffer).await?;
            if n == 0 {
                break;
            }
            (false, buffer[..n].to_vec())
        } else {
            match stream::frame(&mut from).await? {
                Some(piece) => piece,
                None => break,
            }
        };
        for line in if error { &mut err } else { &mut out }.push(&data) {
            printer.line(name, index, error, &line)?;
        }
    }
    for (error, lines) in [(false, &mut out), (true, &mut err)] {
        if let Some(line) = lines.rest() {
            printer.line(name, index, error, &line)?;
        }
    }
    Ok(())
}
