//! The project's own chores: `cargo xtask <command>`.

use anyhow::Result;
use clap::{Parser, Subcommand};

mod bench;
mod build;
mod compat;
mod demo;
mod deny;
mod lab;
mod packages;
mod proto;
mod sdks;
mod software;
mod test;
mod vm;

#[derive(Parser)]
#[command(name = "cargo xtask", about = "Skep's build, test and laboratory chores")]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Show Skep at work: a single-node swarm on throw-away state with a replicated service.
    Demo(demo::DemoArgs),
    /// Measure what Skep promises, each figure beside its peer's in the same run.
    Bench(bench::BenchArgs),
    /// Install what the tests need from Debian, then run every check and every test.
    Test,
    /// Fetch from Debian what the tests need (part of `test`).
    Packages,
    /// Run the tests of what this machine's kernel may lack in a virtual machine (part of `test`).
    Vm(vm::VmArgs),
    /// Run what others wrote to test Docker against Skep, and count what it has (part of `test`).
    Compat(compat::CompatArgs),
    /// Check that every dependency is what deny.toml allows.
    Deny,
    /// A laboratory of hosts on this machine.
    #[command(subcommand)]
    Lab(lab::LabCommand),
    /// Regenerate proto/src/gen from proto/skep/v1/*.proto (no protoc needed).
    Proto {
        /// Fail instead of writing when the checked-in code differs.
        #[arg(long)]
        check: bool,
    },
}

fn main() -> Result<()> {
    match Cli::parse().command {
        Command::Demo(args) => demo::run(args),
        Command::Bench(args) => bench::run(args),
        Command::Test => test::run(),
        Command::Packages => test::packages(),
        Command::Vm(args) => vm::run(args),
        Command::Compat(args) => compat::run(args),
        Command::Deny => deny::run(),
        Command::Lab(command) => lab::run(command),
        Command::Proto { check } => proto::generate(check),
    }
}
