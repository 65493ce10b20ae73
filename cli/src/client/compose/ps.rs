//! `compose ps`.

use anyhow::{Result, bail};
use clap::Args;
use serde_json::{Map, Value, json};

use super::super::container_list;
use super::super::output::{Column, Listing, say, text};
use super::super::template::Template;
use super::found::{self, Found};
use super::{Session, lifecycle};

/// Flags of `compose ps`.
#[derive(Args)]
pub struct PsFlags {
    /// Show all stopped containers (including those created by the run command)
    #[arg(short, long)]
    all: bool,
    /// Filter services by a property (supported filters: status)
    #[arg(long, value_name = "string")]
    filter: Option<String>,
    /// Format output: table, table TEMPLATE, json or a Go template
    #[arg(long, value_name = "string")]
    format: Option<String>,
    /// Don't truncate output
    #[arg(long)]
    no_trunc: bool,
    /// Include orphaned services (not declared by project)
    #[arg(long, default_value_t = true, action = clap::ArgAction::Set, num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    orphans: bool,
    /// Only display IDs
    #[arg(short, long)]
    quiet: bool,
    /// Display services
    #[arg(long)]
    services: bool,
    /// Filter services by status. Values: [paused | restarting | removing | running | dead | created | exited]
    #[arg(long, value_name = "stringArray")]
    status: Vec<String>,
    #[arg(value_name = "SERVICE")]
    names: Vec<String>,
}

const COLUMNS: &[Column] = &[
    ("Name", "NAME"),
    ("ID", "CONTAINER ID"),
    ("Image", "IMAGE"),
    ("Command", "COMMAND"),
    ("Service", "SERVICE"),
    ("Project", "PROJECT"),
    ("CreatedAt", "CREATED AT"),
    ("RunningFor", "CREATED"),
    ("Status", "STATUS"),
    ("State", "STATE"),
    ("Health", "HEALTH"),
    ("ExitCode", "EXIT CODE"),
    ("Ports", "PORTS"),
    ("Publishers", "PUBLISHERS"),
    ("Labels", "LABELS"),
    ("Mounts", "MOUNTS"),
    ("LocalVolumes", "LOCAL VOLUMES"),
    ("Networks", "NETWORKS"),
    ("Names", "NAMES"),
    ("Size", "SIZE"),
];
const TABLE: &str =
    "{{.Name}}\t{{.Image}}\t{{.Command}}\t{{.Service}}\t{{.RunningFor}}\t{{.Status}}\t{{.Ports}}";

pub async fn run(s: &Session<'_>, flags: &PsFlags) -> Result<()> {
    let subject = s.files.find(&flags.names)?;
    let mut status = flags.status.clone();
    match flags.filter.as_deref().map(|f| f.split_once('=')) {
        None => {}
        Some(Some(("status", wanted))) => status.push(wanted.to_owned()),
        Some(Some((other, _))) => bail!("unknown filter {other:?}: want status=STATUS"),
        Some(None) => bail!("arguments to --filter should be in form KEY=VAL"),
    }
    let mut found = found::all(s.api, &subject.name).await?;
    lifecycle::known(&subject, &flags.names, &found)?;
    let declared = |c: &Found| subject.project.as_ref().is_none_or(|p| p.service(&c.service).is_ok());
    found.retain(|c| {
        let state = match status.is_empty() {
            true => flags.all || c.running() && !c.one_off,
            false => status.contains(&c.state),
        };
        let named = flags.names.is_empty() || flags.names.contains(&c.service);
        state && named && (flags.orphans || declared(c))
    });
    found.sort_by(|a, b| a.name.cmp(&b.name));
    if flags.quiet {
        return found.iter().try_for_each(|c| say!("{}", c.id));
    }
    if flags.services {
        let mut names: Vec<&str> = found.iter().map(|c| c.service.as_str()).collect();
        names.sort_unstable();
        names.dedup();
        return names.iter().try_for_each(|n| say!("{n}"));
    }
    let rows: Vec<Map<String, Value>> = found.iter().map(|c| row(&subject.name, c, flags.no_trunc)).collect();
    match flags.format.as_deref().map_or("table", str::trim) {
        "json" => rows.into_iter().try_for_each(|row| say!("{}", Value::Object(row))),
        table if table.starts_with("table") => {
            let mut listing = Listing::new(COLUMNS, TABLE);
            for (mut row, c) in rows.into_iter().zip(&found) {
                let cells = COLUMNS.iter().map(|(name, _)| row.remove(*name).unwrap_or_default()).collect();
                listing.row(cells, &c.raw["Labels"]);
            }
            listing.print(false, Some(table))
        }
        source => {
            let template = Template::parse(source)?;
            for (row, c) in rows.into_iter().zip(&found) {
                say!("{}", template.execute(&Value::Object(row), c.raw["Labels"].as_object())?)?;
            }
            Ok(())
        }
    }
}

/// The fields of a container.
fn row(project: &str, c: &Found, whole: bool) -> Map<String, Value> {
    let cells = container_list::row(&c.raw, whole);
    let known = container_list::COLUMNS.iter().map(|(name, _)| (*name).to_owned());
    let mut row: Map<String, Value> = known.zip(cells).collect();
    row.remove("Platform");
    let status = text(&c.raw, "Status");
    let within = |start: &str| {
        let rest = status.split_once(start).map(|(_, rest)| rest.split(')').next().unwrap_or_default());
        rest.unwrap_or_default().to_owned()
    };
    let health = match within(" (").as_str() {
        "health: starting" => "starting",
        "healthy" => "healthy",
        "unhealthy" => "unhealthy",
        _ => "",
    };
    let code: i64 = within("Exited (").parse().unwrap_or(0);
    let ports = c.raw["Ports"].as_array().into_iter().flatten();
    let publishers: Vec<Value> = ports
        .map(|p| {
            json!({
                "URL": text(p, "IP"), "TargetPort": p["PrivatePort"], "Protocol": text(p, "Type"),
                "PublishedPort": p["PublicPort"].as_u64().unwrap_or(0),
            })
        })
        .collect();
    for (name, value) in [
        ("Name", c.name.as_str().into()),
        ("Service", c.service.as_str().into()),
        ("Project", project.into()),
        ("Health", health.into()),
        ("ExitCode", code.into()),
        ("Publishers", publishers.into()),
    ] {
        row.insert(name.into(), value);
    }
    row
}
