//! `compose volumes`: the volumes that a project's containers have.

use std::collections::BTreeSet;

use anyhow::Result;
use clap::Args;
use serde_json::Value;

use super::super::api::Query;
use super::super::output::{Listing, say, text};
use super::super::volumes::{self, COLUMNS, TABLE};
use super::found::{self, PROJECT};
use super::{Session, lifecycle};

/// Flags of `compose volumes`.
#[derive(Args)]
pub struct VolumesFlags {
    /// Format output: table, table TEMPLATE, json or a Go template
    #[arg(long, value_name = "string", default_value = "table")]
    format: String,
    /// Only display volume names
    #[arg(short, long)]
    quiet: bool,
    #[arg(value_name = "SERVICE")]
    services: Vec<String>,
}

pub async fn run(s: &Session<'_>, flags: &VolumesFlags) -> Result<()> {
    let subject = s.files.find(&flags.services)?;
    let found = found::of(s.api, &subject.name, &flags.services).await?;
    lifecycle::known(&subject, &flags.services, &found)?;
    let mounts = found.iter().flat_map(|c| c.raw["Mounts"].as_array().into_iter().flatten());
    let used: BTreeSet<String> = mounts.map(|m| text(m, "Name")).collect();
    let query = Query::new().filters(&[format!("label={PROJECT}={}", subject.name)])?;
    let answer = s.api.get("/volumes", &query).await?;
    let mut all: Vec<&Value> = answer["Volumes"].as_array().into_iter().flatten().collect();
    all.retain(|v| flags.services.is_empty() || used.contains(&text(v, "Name")));
    all.sort_by_key(|v| text(v, "Name"));
    if flags.quiet {
        return all.iter().try_for_each(|v| say!("{}", text(v, "Name")));
    }
    let mut listing = Listing::new(COLUMNS, TABLE);
    for volume in all {
        listing.row(volumes::row(volume), &volume["Labels"]);
    }
    listing.print(false, Some(flags.format.as_str()).filter(|f| *f != "table"))
}
