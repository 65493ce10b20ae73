//! The command line: parses arguments and runs the daemon, or a command against a daemon's API.

mod api;
mod containers;
mod images;
mod networks;
mod nodes;
mod output;
mod progress;
mod run;
mod service_spec;
mod services;
mod stream;
mod swarm;
mod system;

use std::ffi::OsString;
use std::process::ExitCode;

use anyhow::Result;
use clap::{CommandFactory, Parser, Subcommand};

use crate::daemon::{self, DaemonArgs, DevArgs};
use api::{Api, Refused};

/// Containers on one host and services on a swarm of them.
///
/// Commands and flags are Docker's; DOCKER_HOST or -H names the daemon.
#[derive(Parser)]
#[command(name = "skep", version)]
struct Cli {
    /// Daemon to talk to: unix:///path or tcp://address:port
    #[arg(short = 'H', long, value_name = "URL")]
    host: Option<String>,
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Run the daemon of this host
    Daemon(DaemonArgs),
    /// Run a single-node swarm in the foreground, for development
    Dev(DevArgs),
    /// Print a shell's completion script
    Completion {
        /// Which shell
        shell: clap_complete::Shell,
    },
    /// Create and run a new container from an image
    Run(Box<run::RunArgs>),
    #[command(flatten)]
    Container(containers::Containers),
    #[command(flatten)]
    Image(images::ImageCommand),
    #[command(flatten)]
    System(system::System),
    /// Manage networks
    #[command(subcommand)]
    Network(networks::Networks),
    /// Manage the swarm
    #[command(subcommand)]
    Swarm(swarm::SwarmCommand),
    /// Manage swarm nodes
    #[command(subcommand)]
    Node(nodes::Nodes),
    /// Manage services
    #[command(subcommand)]
    Service(services::Services),
}

/// Runs the command line.
pub fn main(args: Vec<OsString>) -> ExitCode {
    let cli = Cli::parse_from(args);
    let outcome = match cli.command {
        Command::Daemon(args) => daemon::run(args).map(|()| 0),
        Command::Dev(args) => daemon::dev(args).map(|()| 0),
        Command::Completion { shell } => {
            clap_complete::generate(shell, &mut Cli::command(), "skep", &mut std::io::stdout());
            Ok(0)
        }
        command => ask(&Api::new(cli.host), command),
    };
    match outcome {
        Ok(code) => ExitCode::from(code),
        Err(e) => {
            eprintln!("{e:#}");
            // As with Docker, a `run` that never got a container ends with 125.
            ExitCode::from(if e.is::<run::NeverRan>() { 125 } else { 1 })
        }
    }
}

/// Runs a command against the daemon, on one thread: a client has nothing to do in parallel.
fn ask(api: &Api, command: Command) -> Result<u8> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let code = runtime.block_on(async {
        match command {
            Command::Run(args) => run::run(api, *args).await,
            Command::Container(command) => containers::run(api, command).await,
            Command::Image(command) => images::run(api, command).await.map(|()| 0),
            Command::System(command) => system::run(api, command).await,
            Command::Network(command) => networks::run(api, command).await.map(|()| 0),
            Command::Swarm(command) => swarm::run(api, command).await.map(|()| 0),
            Command::Node(command) => nodes::run(api, command).await.map(|()| 0),
            Command::Service(command) => services::run(api, command).await,
            Command::Daemon(_) | Command::Dev(_) | Command::Completion { .. } => Ok(0),
        }
    });
    // A blocked read of the terminal must not keep the process.
    runtime.shutdown_background();
    code
}

/// Does something for each argument, goes on past failures, and fails at the end if any did.
async fn each<F>(names: &[String], mut act: impl FnMut(String) -> F) -> Result<()>
where
    F: Future<Output = Result<()>>,
{
    let mut errors = Vec::new();
    for name in names {
        if let Err(e) = act(name.clone()).await {
            errors.push(format!("{e:#}"));
        }
    }
    if errors.is_empty() { Ok(()) } else { anyhow::bail!(errors.join("\n")) }
}

/// Whether an error is the daemon's "not found".
fn is_not_found(e: &anyhow::Error) -> bool {
    e.downcast_ref::<Refused>().is_some_and(|r| r.status == hyper::StatusCode::NOT_FOUND)
}
