//! `compose stats`: what the containers of a project use.

use anyhow::Result;
use clap::Args;

use super::super::container_usage::{self, StatsArgs};
use super::{Session, found, lifecycle};

/// Flags of `compose stats`.
#[derive(Args)]
pub struct StatsFlags {
    /// Show all containers (default shows just running)
    #[arg(short, long)]
    all: bool,
    /// Format output: table, table TEMPLATE, json or a Go template
    #[arg(long, value_name = "string")]
    format: Option<String>,
    /// Disable streaming stats and only pull the first result
    #[arg(long)]
    no_stream: bool,
    /// Do not truncate output
    #[arg(long)]
    no_trunc: bool,
    #[arg(value_name = "SERVICE")]
    service: Option<String>,
}

pub async fn run(s: &Session<'_>, flags: StatsFlags) -> Result<()> {
    let services: Vec<String> = flags.service.into_iter().collect();
    let subject = s.files.find(&services)?;
    let found = found::of(s.api, &subject.name, &services).await?;
    lifecycle::known(&subject, &services, &found)?;
    let containers = found.into_iter().filter(|c| flags.all || c.running()).map(|c| c.id).collect();
    let args = StatsArgs {
        all: flags.all,
        format: flags.format,
        no_stream: flags.no_stream,
        no_trunc: flags.no_trunc,
        containers,
    };
    match args.containers.is_empty() {
        // None named would mean all of the host's.
        true => container_usage::no_stats(args.format.as_deref()),
        false => container_usage::stats(s.api, &args).await,
    }
}
