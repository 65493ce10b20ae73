//! `compose version`.

use anyhow::Result;
use clap::Args;
use serde_json::json;

use super::super::output::say;

/// Flags of `compose version`.
#[derive(Args)]
pub struct VersionFlags {
    /// Format the output. Values: [pretty | json]
    #[arg(short, long, value_name = "string", default_value = "pretty", value_parser = ["pretty", "json"])]
    format: String,
    /// Shows only Compose's version number
    #[arg(long)]
    short: bool,
}

pub fn run(flags: &VersionFlags) -> Result<()> {
    let version = env!("CARGO_PKG_VERSION");
    match (flags.short, flags.format.as_str()) {
        (true, _) => say!("{version}"),
        (_, "json") => say!("{}", json!({ "version": version })),
        _ => say!("Skep Compose version {version}"),
    }
}
