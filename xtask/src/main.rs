//! The project's own chores: `cargo xtask <command>`.

use anyhow::Result;
use clap::{Parser, Subcommand};

mod proto;

#[derive(Parser)]
#[command(about = "Skep's build, test and laboratory chores")]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Regenerate proto/src/gen from proto/skep/v1/*.proto (no protoc needed).
    Proto {
        /// Fail instead of writing when the checked-in code differs.
        #[arg(long)]
        check: bool,
    },
}

fn main() -> Result<()> {
    match Cli::parse().command {
        Command::Proto { check } => proto::generate(check),
    }
}
