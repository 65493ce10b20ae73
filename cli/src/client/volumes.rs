//! `volume`.

use anyhow::Result;
use clap::{Args, Subcommand};
use serde_json::{Value, json};

use super::api::{Api, Query, encode};
use super::create_body::{pairs, without_empty};
use super::output::{self, Column, Listing, say, text};
use super::{each, human, prune};

/// Flags of `volume create`.
#[derive(Args)]
pub struct CreateFlags {
    /// Specify volume driver name
    #[arg(short, long, value_name = "string", default_value = "local")]
    driver: String,
    /// Set metadata for a volume
    #[arg(long, value_name = "list")]
    label: Vec<String>,
    /// Set driver specific options
    #[arg(short, long, value_name = "map")]
    opt: Vec<String>,
    #[arg(value_name = "VOLUME")]
    name: Option<String>,
}

#[derive(Subcommand)]
pub enum VolumeCommand {
    /// Create a volume
    Create(CreateFlags),
    /// Display detailed information on one or more volumes
    Inspect {
        /// Format output: json or a Go template
        #[arg(short, long, value_name = "string")]
        format: Option<String>,
        #[arg(required = true, value_name = "VOLUME")]
        names: Vec<String>,
    },
    /// List volumes
    #[command(visible_alias = "list")]
    Ls {
        /// Provide filter values (e.g. "dangling=true")
        #[arg(short, long, value_name = "filter", value_parser = super::usage::filter)]
        filter: Vec<String>,
        /// Format output: table, table TEMPLATE, json or a Go template
        #[arg(long, value_name = "string")]
        format: Option<String>,
        /// Only display volume names
        #[arg(short, long)]
        quiet: bool,
    },
    /// Remove unused local volumes
    Prune {
        /// Remove all unused volumes, not just anonymous ones
        #[arg(short, long)]
        all: bool,
        /// Provide filter values (e.g. "label=<label>")
        #[arg(long, value_name = "filter", value_parser = super::usage::filter)]
        filter: Vec<String>,
        /// Do not prompt for confirmation
        #[arg(short, long)]
        force: bool,
    },
    /// Remove one or more volumes
    #[command(visible_alias = "remove")]
    Rm {
        /// Force the removal of one or more volumes
        #[arg(short, long)]
        force: bool,
        #[arg(required = true, value_name = "VOLUME")]
        names: Vec<String>,
    },
    /// Update a volume (cluster volumes only)
    Update {
        /// Cluster Volume availability ("active", "pause", "drain")
        #[arg(long, value_name = "string", default_value = "active")]
        availability: String,
        #[arg(value_name = "VOLUME")]
        name: String,
    },
}

/// Fields of a volume's row.
pub const COLUMNS: &[Column] = &[
    ("Name", "VOLUME NAME"),
    ("Driver", "DRIVER"),
    ("Scope", "SCOPE"),
    ("Availability", "AVAILABILITY"),
    ("Group", "GROUP"),
    ("Labels", "LABELS"),
    ("Links", "LINKS"),
    ("Mountpoint", "MOUNTPOINT"),
    ("Size", "SIZE"),
    ("Status", "STATUS"),
];
/// Columns of the list.
pub const TABLE: &str = "{{.Driver}}\t{{.Name}}";

pub async fn run(api: &Api, command: VolumeCommand) -> Result<()> {
    match command {
        VolumeCommand::Create(flags) => {
            let mut body = json!({
                "Name": flags.name.unwrap_or_default(), "Driver": flags.driver,
                "DriverOpts": pairs(&flags.opt), "Labels": pairs(&flags.label),
            });
            without_empty(&mut body);
            say!("{}", text(&api.post("/volumes/create", &Query::new(), Some(&body)).await?, "Name"))
        }
        VolumeCommand::Inspect { format, names } => {
            let get =
                async |name: String| api.get(&format!("/volumes/{}", encode(&name)), &Query::new()).await;
            output::inspect(&names, format.as_deref(), get).await
        }
        VolumeCommand::Ls { filter, format, quiet } => {
            let found = api.get("/volumes", &Query::new().filters(&filter)?).await?;
            let mut volumes = found["Volumes"].as_array().cloned().unwrap_or_default();
            volumes.sort_by_key(|v| text(v, "Name"));
            let mut listing = Listing::new(COLUMNS, TABLE);
            for v in &volumes {
                listing.row(row(v), &v["Labels"]);
            }
            listing.print(quiet, format.as_deref())
        }
        VolumeCommand::Prune { all, mut filter, force } => {
            let warning = if all { ALL_WARNING } else { WARNING };
            if !prune::confirmed(warning, force)? {
                return Ok(());
            }
            if all {
                filter.push("all=true".into());
            }
            let pruned = api.post("/volumes/prune", &Query::new().filters(&filter)?, None).await?;
            prune::told("Deleted Volumes:", &pruned["VolumesDeleted"], &pruned)
        }
        VolumeCommand::Rm { force, names } => {
            let query = Query::new().flag("force", force);
            each(&names, async |name| {
                api.delete(&format!("/volumes/{}", encode(&name)), &query).await?;
                say!("{name}")
            })
            .await
        }
        VolumeCommand::Update { availability, name } => {
            api.get(&format!("/volumes/{}", encode(&name)), &Query::new()).await?;
            anyhow::bail!(
                "Can only update cluster volumes: {name} is a volume of one host, and has no availability {availability:?}"
            )
        }
    }
}

const WARNING: &str = "WARNING! This will remove anonymous local volumes not used by at least one container.";
const ALL_WARNING: &str = "WARNING! This will remove all local volumes not used by at least one container.";

/// The cells of a volume; `system df` fills in how it is used.
pub fn row(v: &Value) -> Vec<Value> {
    let usage = &v["UsageData"];
    let (links, size) = match usage {
        Value::Null => ("N/A".into(), "N/A".into()),
        _ => (usage["RefCount"].to_string(), human::size(usage["Size"].as_i64().unwrap_or(0))),
    };
    vec![
        text(v, "Name").into(),
        text(v, "Driver").into(),
        text(v, "Scope").into(),
        "N/A".into(),
        "N/A".into(),
        output::labels(&v["Labels"]).into(),
        links.into(),
        text(v, "Mountpoint").into(),
        size.into(),
        "N/A".into(),
    ]
}
