//! `ps`, which is `container ls`.

use anyhow::Result;
use clap::Args;
use serde_json::{Value, json};

use super::api::{Api, Query};
use super::output::{self, Column, Listing, text};
use super::{human, ports};

/// Flags of `ps`.
#[derive(Args)]
pub struct ListArgs {
    /// Show all containers (default shows just running)
    #[arg(short, long)]
    all: bool,
    /// Filter output based on conditions provided
    #[arg(short, long, value_name = "filter", value_parser = super::usage::filter)]
    filter: Vec<String>,
    /// Format output: table, table TEMPLATE, json or a Go template
    #[arg(long, value_name = "string")]
    format: Option<String>,
    /// Show n last created containers (includes all states)
    #[arg(short = 'n', long, value_name = "int", default_value_t = -1, allow_hyphen_values = true)]
    last: i64,
    /// Show the latest created container (includes all states)
    #[arg(short, long)]
    latest: bool,
    /// Don't truncate output
    #[arg(long)]
    no_trunc: bool,
    /// Only display container IDs
    #[arg(short, long)]
    quiet: bool,
    /// Display total file sizes
    #[arg(short, long)]
    size: bool,
}

/// Fields of a container's row.
pub const COLUMNS: &[Column] = &[
    ("ID", "CONTAINER ID"),
    ("Names", "NAMES"),
    ("Image", "IMAGE"),
    ("Platform", "PLATFORM"),
    ("Command", "COMMAND"),
    ("CreatedAt", "CREATED AT"),
    ("RunningFor", "CREATED"),
    ("Ports", "PORTS"),
    ("State", "STATE"),
    ("Status", "STATUS"),
    ("Size", "SIZE"),
    ("Labels", "LABELS"),
    ("Mounts", "MOUNTS"),
    ("LocalVolumes", "LOCAL VOLUMES"),
    ("Networks", "NETWORKS"),
];

const TABLE: &str = "{{.ID}}\t{{.Image}}\t{{.Command}}\t{{.RunningFor}}\t{{.Status}}\t{{.Ports}}\t{{.Names}}";
const TABLE_WITH_SIZE: &str =
    "{{.ID}}\t{{.Image}}\t{{.Command}}\t{{.RunningFor}}\t{{.Status}}\t{{.Ports}}\t{{.Names}}\t{{.Size}}";

/// Lists containers.
pub async fn list(api: &Api, args: &ListArgs) -> Result<()> {
    let limit = if args.latest { 1 } else { args.last };
    // A template that asks for the size gets it without being told twice.
    let size = args.size || args.format.as_ref().is_some_and(|f| f.contains(".Size"));
    let mut query =
        Query::new().flag("all", args.all || limit > 0).flag("size", size).filters(&args.filter)?;
    if limit > 0 {
        query = query.with("limit", limit.to_string());
    }
    let found = api.get("/containers/json", &query).await?;
    if args.quiet && args.format.as_ref().is_some_and(|f| !f.is_empty()) {
        eprintln!("WARNING: Ignoring custom format, because both --format and --quiet are set.");
    }
    let mut listing = Listing::new(COLUMNS, if args.size { TABLE_WITH_SIZE } else { TABLE });
    for container in found.as_array().into_iter().flatten() {
        listing.row(row(container, args.no_trunc), &container["Labels"]);
    }
    listing.print(args.quiet, args.format.as_deref().filter(|_| !args.quiet))
}

/// The cells of a container.
pub fn row(c: &Value, whole: bool) -> Vec<Value> {
    let names = c["Names"].as_array().into_iter().flatten().filter_map(Value::as_str);
    // A name with a second part is another container's link to this one.
    let names: Vec<_> =
        names.map(|n| n.trim_start_matches('/')).filter(|n| whole || !n.contains('/')).collect();
    let image = match text(c, "Image") {
        image if image.is_empty() => "<no image>".to_owned(),
        image => image,
    };
    let image = if whole { image } else { image.split('@').next().unwrap_or_default().to_owned() };
    let command = text(c, "Command");
    let command = if whole { command } else { human::ellipsis(&command, 20) };
    let mounts = c["Mounts"].as_array().cloned().unwrap_or_default();
    let place = |m: &Value| match text(m, "Name") {
        name if name.is_empty() => text(m, "Source"),
        name => name,
    };
    let shown: Vec<_> =
        mounts.iter().map(place).map(|n| if whole { n } else { human::ellipsis(&n, 15) }).collect();
    let local = mounts.iter().filter(|m| m["Driver"] == "local").count();
    let networks = c["NetworkSettings"]["Networks"].as_object();
    let networks: Vec<_> = networks.into_iter().flatten().map(|(name, _)| name.as_str()).collect();
    let (writable, root) = (c["SizeRw"].as_i64().unwrap_or(0), c["SizeRootFs"].as_i64().unwrap_or(0));
    let size = match root {
        0 => human::size(writable),
        root => format!("{} (virtual {})", human::size(writable), human::size(root)),
    };
    let created = c["Created"].as_i64().unwrap_or(0);
    let platform = match &c["ImageManifestDescriptor"]["platform"] {
        Value::Null => Value::Null,
        p => json!({ "os": p["os"], "architecture": p["architecture"] }),
    };
    vec![
        human::short_id(&text(c, "Id"), whole).into(),
        names.join(",").into(),
        image.into(),
        platform,
        Value::from(command).to_string().into(),
        human::unix_time(created).into(),
        format!("{} ago", human::duration(human::since_unix(created))).into(),
        ports::of_container(&c["Ports"]).into(),
        text(c, "State").into(),
        text(c, "Status").into(),
        size.into(),
        output::labels(&c["Labels"]).into(),
        shown.join(",").into(),
        local.to_string().into(),
        networks.join(",").into(),
    ]
}
