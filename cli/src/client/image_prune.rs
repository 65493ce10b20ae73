//! `image prune`: removes what no container uses, after asking.

use anyhow::Result;
use clap::Args;
use serde_json::Value;

use super::api::{Api, Query};
use super::output::text;
use super::prune;

/// Flags of `image prune`.
#[derive(Args)]
pub struct PruneArgs {
    /// Remove all unused images, not just dangling ones
    #[arg(short, long)]
    all: bool,
    /// Provide filter values (e.g. "until=<timestamp>")
    #[arg(long, value_name = "filter", value_parser = super::usage::filter)]
    filter: Vec<String>,
    /// Do not prompt for confirmation
    #[arg(short, long)]
    force: bool,
}

/// Removes them and says what went.
pub async fn run(api: &Api, args: &PruneArgs) -> Result<()> {
    let what = if args.all {
        "all images without at least one container associated to them"
    } else {
        "all dangling images"
    };
    if !prune::confirmed(&format!("WARNING! This will remove {what}."), args.force)? {
        return Ok(());
    }
    prune::freed(remove(api, &args.filter, args.all).await?)
}

/// Removes what no container uses (of `all` images, or of those without a name) and lists it; the bytes freed.
pub async fn remove(api: &Api, filters: &[String], all: bool) -> Result<i64> {
    let mut filters = filters.to_vec();
    filters.push(format!("dangling={}", !all));
    let pruned = api.post("/images/prune", &Query::new().filters(&filters)?, None).await?;
    let removed = pruned["ImagesDeleted"].as_array().into_iter().flatten();
    let line = |i: &Value| match i["Untagged"].as_str() {
        Some(name) => format!("untagged: {name}"),
        None => format!("deleted: {}", text(i, "Deleted")),
    };
    prune::listed("Deleted Images:", &removed.map(line).collect::<Vec<_>>().into())?;
    Ok(pruned["SpaceReclaimed"].as_i64().unwrap_or_default())
}
