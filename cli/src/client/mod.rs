//! The command line: parses arguments and runs the daemon, or a command against a daemon's API.

mod api;
mod attach;
mod autoscale;
mod build;
mod compose;
mod compose_parts;
mod container_list;
mod container_usage;
mod containers;
mod context;
mod copy;
mod create_body;
mod create_flags;
mod create_values;
mod credentials;
mod dependencies;
mod devices;
mod dial_stdio;
mod dry_run;
mod exec;
mod explain;
mod file_references;
mod files;
mod human;
mod image_history;
mod image_prune;
mod images;
mod info;
mod inspect;
mod job_progress;
mod manifests;
mod messages;
mod mount;
mod networks;
mod nodes;
mod output;
mod ports;
mod pretty;
mod progress;
mod prune;
mod reference;
mod registry;
mod run;
mod service_create;
mod service_extras;
mod service_image;
mod service_logs;
mod service_run;
mod service_spec;
mod service_update;
mod services;
mod ssh;
mod stacks;
mod stream;
mod swarm;
mod swarm_ca;
mod system;
mod tasks;
mod template;
mod terminal;
mod tls;
mod unlock_key;
mod usage;
mod usage_report;
mod volumes;

use std::ffi::OsString;
use std::process::ExitCode;

use anyhow::Result;
use clap::{CommandFactory, FromArgMatches, Parser, Subcommand};
use skep_registry::system_words::in_gos_words;

pub use human::size;

use crate::daemon::{self, DaemonArgs, DevArgs};
use crate::registry::RegistryArgs;
use api::{Api, Refused};

/// Containers on one host and services on a swarm of them.
///
/// Commands and flags are Docker's; DOCKER_HOST or -H names the daemon.
#[derive(Parser)]
#[command(name = "skep", version, disable_version_flag = true)]
struct Cli {
    #[command(flatten)]
    global: Global,
    #[command(subcommand)]
    command: Command,
}

/// Flags before the command.
#[derive(clap::Args)]
struct Global {
    /// Daemon socket to connect to: unix:///path, tcp://address:port or ssh://[user@]host[:port]
    #[arg(short = 'H', long, value_name = "URL")]
    host: Option<String>,
    /// Enable debug mode
    #[arg(short = 'D', long)]
    debug: bool,
    /// Set the logging level ("debug", "info", "warn", "error", "fatal")
    #[arg(short, long, value_name = "string", default_value = "info", value_parser = ["debug", "info", "warn", "error", "fatal"])]
    log_level: String,
    /// Location of client config files
    #[arg(long, value_name = "string")]
    config: Option<std::path::PathBuf>,
    /// Name of the context to use to connect to the daemon (overrides DOCKER_HOST env var and default context set with "skep context use")
    #[arg(short, long, value_name = "string")]
    context: Option<String>,
    #[command(flatten)]
    tls: tls::TlsFlags,
    /// Print version information and quit
    #[arg(short, long, action = clap::ArgAction::Version)]
    version: Option<bool>,
}

#[derive(Subcommand)]
enum Command {
    /// Run the daemon of this host
    Daemon(Box<DaemonArgs>),
    /// Run a single-node swarm in the foreground, for development
    Dev(DevArgs),
    /// Run a registry of images, or collect its garbage (Skep's own)
    ///
    /// Without a command it serves in the foreground (OCI distribution 1.1, Docker Registry API V2): it takes what docker, skep,
    /// skopeo, podman and the like push, and keeps it in one directory, which one process serves at a time. SIGTERM ends it
    /// once the requests in flight are answered (10 seconds at most); uploads that are cut off by that, or by a crash, are
    /// gone on with where they were. There is no configuration file. Of the environment it reads SKEP_LOG and NO_COLOR, and
    /// for a mirror SSL_CERT_FILE, HTTPS_PROXY and NO_PROXY.
    Registry(Box<RegistryArgs>),
    /// Print a shell's completion script
    Completion {
        /// Which shell
        shell: clap_complete::Shell,
    },
    /// Write the manual pages of all commands into a directory, such as /usr/local/share/man/man1
    Man {
        /// Directory; made if it is not there
        dir: std::path::PathBuf,
    },
    #[command(flatten)]
    Client(Box<Client>),
}

/// What asks a daemon.
#[derive(Subcommand)]
enum Client {
    #[command(flatten)]
    OnContainer(containers::Containers),
    #[command(flatten)]
    OnImage(images::ImageCommand),
    #[command(flatten)]
    OnRegistry(registry::RegistryCommand),
    #[command(flatten)]
    OnAccount(registry::AccountCommand),
    #[command(flatten)]
    OnSystem(system::System),
    /// Build an image from a Dockerfile
    Build(Box<build::BuildArgs>),
    /// List containers
    Ps(container_list::ListArgs),
    /// List images
    Images(images::ListArgs),
    /// Show the history of an image
    History(image_history::HistoryArgs),
    /// Remove one or more images
    Rmi(images::RemoveArgs),
    /// Return low-level information on objects
    Inspect(inspect::InspectArgs),
    /// Show version information
    Version {
        /// Format output: json or a Go template
        #[arg(short, long, value_name = "string")]
        format: Option<String>,
    },
    /// Define and run multi-container applications (Compose files)
    Compose(Box<compose::ComposeArgs>),
    /// Manage contexts
    #[command(subcommand)]
    Context(context::ContextCommand),
    /// Manage containers
    #[command(subcommand)]
    Container(ContainerGroup),
    /// Manage images
    #[command(subcommand)]
    Image(ImageGroup),
    /// Manage Docker image manifests and manifest lists
    #[command(subcommand)]
    Manifest(manifests::Manifests),
    /// Manage networks
    #[command(subcommand)]
    Network(networks::Networks),
    /// Manage Swarm nodes
    #[command(subcommand)]
    Node(nodes::Nodes),
    /// Manage Swarm configs
    #[command(subcommand)]
    Config(dependencies::Configs),
    /// Manage Swarm secrets
    #[command(subcommand)]
    Secret(dependencies::Secrets),
    /// Manage Swarm services
    #[command(subcommand)]
    Service(services::Services),
    /// Manage Swarm stacks
    #[command(subcommand)]
    Stack(Box<stacks::Stacks>),
    /// Manage Swarm
    #[command(subcommand)]
    Swarm(swarm::SwarmCommand),
    /// Manage the daemon
    #[command(subcommand)]
    System(SystemGroup),
    /// Manage builds
    #[command(subcommand)]
    Builder(BuilderGroup),
    /// Manage volumes
    #[command(subcommand)]
    Volume(volumes::VolumeCommand),
}

#[derive(Subcommand)]
enum ContainerGroup {
    #[command(flatten)]
    Same(containers::Containers),
    /// List containers
    #[command(visible_alias = "list", visible_alias = "ps")]
    Ls(container_list::ListArgs),
    /// Remove all stopped containers
    Prune(usage_report::PruneArgs),
    /// Display detailed information on one or more containers
    Inspect {
        /// Format output: json or a Go template
        #[arg(short, long, value_name = "string")]
        format: Option<String>,
        /// Display total file sizes
        #[arg(short, long)]
        size: bool,
        #[arg(required = true, value_name = "CONTAINER")]
        names: Vec<String>,
    },
}

#[derive(Subcommand)]
enum SystemGroup {
    #[command(flatten)]
    Same(system::System),
    /// Proxy the stdio stream to the daemon connection. Should not be invoked manually.
    #[command(hide = true)]
    DialStdio,
    /// Compare the host's network (interfaces, addresses, routes, tunnel, firewall) with what it should be (Skep's own)
    Check {
        /// Format output: json or a Go template
        #[arg(short, long, value_name = "string")]
        format: Option<String>,
    },
    /// Show disk usage
    Df(usage_report::UsageArgs),
    /// Remove unused data
    Prune(usage_report::SystemPruneArgs),
}

#[derive(Subcommand)]
enum BuilderGroup {
    /// Build an image from a Dockerfile
    Build(Box<build::BuildArgs>),
    /// Remove build cache
    Prune(usage_report::BuilderPruneArgs),
}

#[derive(Subcommand)]
enum ImageGroup {
    /// Build an image from a Dockerfile
    Build(Box<build::BuildArgs>),
    #[command(flatten)]
    Same(images::ImageCommand),
    #[command(flatten)]
    Registry(registry::RegistryCommand),
    /// List images
    #[command(visible_alias = "list")]
    Ls(images::ListArgs),
    /// Remove one or more images
    #[command(visible_alias = "remove")]
    Rm(images::RemoveArgs),
    /// Show the history of an image
    History(image_history::HistoryArgs),
    /// Remove unused images
    Prune(image_prune::PruneArgs),
    /// Display detailed information on one or more images
    Inspect {
        /// Format output: json or a Go template
        #[arg(short, long, value_name = "string")]
        format: Option<String>,
        #[arg(required = true, value_name = "IMAGE")]
        names: Vec<String>,
    },
}

/// Runs the command line.
pub fn main(args: Vec<OsString>) -> ExitCode {
    let parsed = usage::matches(definition(), &args);
    let outcome = match parsed.map(|m| Cli::from_arg_matches(&m)) {
        Ok(Ok(cli)) => dispatch(cli),
        Ok(Err(e)) => Err(e.into()),
        Err(unread) => {
            if let Some(error) = unread.error {
                eprintln!("{error}");
            }
            unread
                .output
                .map_or(Ok(unread.code), |text| output::write(format_args!("{text}")).map(|()| unread.code))
        }
    };
    match outcome {
        Ok(code) => ExitCode::from(code),
        // As of a program killed by SIGPIPE: there is nobody left to be told more.
        Err(e) if e.is::<output::Closed>() => ExitCode::from(141),
        Err(e) => {
            eprintln!("{}", in_gos_words(&format!("{e:#}")));
            if e.is::<output::BadTemplate>() {
                return ExitCode::from(output::BadTemplate::CODE);
            }
            // As with Docker, a `run` that never got a container ends with 125 and more.
            ExitCode::from(e.downcast_ref::<run::NeverRan>().map_or(1, run::NeverRan::code))
        }
    }
}

fn definition() -> clap::Command {
    usage::with_usage(Cli::command(), "skep")
}

/// What `--help` says of a command.
fn help(path: &[&str]) -> String {
    let mut command = definition();
    command.build();
    let found = path.iter().try_fold(&mut command, |at, name| at.find_subcommand_mut(name));
    found.map_or_else(String::new, |c| c.render_help().to_string())
}

fn dispatch(cli: Cli) -> Result<u8> {
    match cli.command {
        Command::Daemon(args) => daemon::run(*args).map(|()| 0),
        Command::Dev(args) => daemon::dev(args).map(|()| 0),
        Command::Registry(args) => crate::registry::run(*args).map(|()| 0),
        Command::Completion { shell } => {
            let mut script = Vec::new();
            clap_complete::generate(shell, &mut definition(), "skep", &mut script);
            output::bytes(&mut std::io::stdout(), &script).map(|()| 0)
        }
        Command::Man { dir } => {
            std::fs::create_dir_all(&dir)?;
            clap_mangen::generate_to(definition(), &dir)?;
            Ok(0)
        }
        Command::Client(command) => {
            let Global { host, context, config, tls, .. } = cli.global;
            let selection = context::Selection::new(host, context, tls)?;
            if let Client::Context(command) = *command {
                let runtime = tokio::runtime::Builder::new_current_thread().build()?;
                return runtime.block_on(context::run(&selection, config.as_deref(), command)).map(|()| 0);
            }
            ask(&Api::new(selection.resolve(config.as_deref())?, config), *command)
        }
    }
}

/// Runs a command against the daemon, on one thread: a client has nothing to do in parallel.
fn ask(api: &Api, command: Client) -> Result<u8> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let done = runtime.block_on(async {
        match command {
            Client::OnContainer(command) | Client::Container(ContainerGroup::Same(command)) => {
                return containers::run(api, command).await;
            }
            Client::Build(args)
            | Client::Image(ImageGroup::Build(args))
            | Client::Builder(BuilderGroup::Build(args)) => return build::run(api, &args).await,
            Client::Compose(args) => return compose::run(api, *args).await,
            Client::OnImage(command) | Client::Image(ImageGroup::Same(command)) => {
                images::run(api, command).await
            }
            Client::OnRegistry(command) | Client::Image(ImageGroup::Registry(command)) => {
                registry::run(api, command).await
            }
            Client::OnAccount(command) => registry::account(api, command).await,
            Client::OnSystem(command) | Client::System(SystemGroup::Same(command)) => {
                system::run(api, command).await
            }
            Client::System(SystemGroup::Check { format }) => system::check(api, format.as_deref()).await,
            Client::System(SystemGroup::DialStdio) => dial_stdio::run(api).await,
            Client::System(SystemGroup::Df(args)) => usage_report::show(api, &args).await,
            Client::System(SystemGroup::Prune(args)) => usage_report::prune_all(api, &args).await,
            Client::Builder(BuilderGroup::Prune(args)) => usage_report::prune_builds(api, &args).await,
            Client::Container(ContainerGroup::Prune(args)) => {
                usage_report::prune_containers(api, &args).await
            }
            Client::Ps(args) | Client::Container(ContainerGroup::Ls(args)) => {
                container_list::list(api, &args).await
            }
            Client::Images(args) | Client::Image(ImageGroup::Ls(args)) => images::list(api, &args).await,
            Client::Rmi(args) | Client::Image(ImageGroup::Rm(args)) => images::remove(api, &args).await,
            Client::History(args) | Client::Image(ImageGroup::History(args)) => {
                image_history::show(api, &args).await
            }
            Client::Image(ImageGroup::Prune(args)) => image_prune::run(api, &args).await,
            Client::Inspect(args) => inspect::run(api, &args).await,
            Client::Container(ContainerGroup::Inspect { format, size, names }) => {
                inspect::container(api, &names, format.as_deref(), size).await
            }
            Client::Image(ImageGroup::Inspect { format, names }) => {
                inspect::image(api, &names, format.as_deref()).await
            }
            Client::Version { format } => system::version(api, format.as_deref()).await,
            Client::Manifest(command) => manifests::run(api, command).await,
            Client::Network(command) => networks::run(api, command).await,
            Client::Swarm(command) => swarm::run(api, command).await,
            Client::Node(command) => nodes::run(api, command).await,
            Client::Config(command) => dependencies::configs(api, command).await,
            Client::Secret(command) => dependencies::secrets(api, command).await,
            Client::Service(command) => services::run(api, command).await,
            Client::Stack(command) => stacks::run(api, *command).await,
            Client::Volume(command) => volumes::run(api, command).await,
            // No daemon is asked.
            Client::Context(_) => Ok(()),
        }
        .map(|()| 0)
    });
    // A blocked read of the terminal must not keep the process.
    runtime.shutdown_background();
    done
}

/// Does something for each argument, goes on past failures, and fails at the end if any did.
async fn each<F>(names: &[String], mut act: impl FnMut(String) -> F) -> Result<()>
where
    F: Future<Output = Result<()>>,
{
    let mut errors = Vec::new();
    for name in names {
        match act(name.clone()).await {
            Err(e) if e.is::<output::Closed>() => return Err(e),
            Err(e) => errors.push(format!("{e:#}")),
            Ok(()) => {}
        }
    }
    if errors.is_empty() { Ok(()) } else { anyhow::bail!(errors.join("\n")) }
}

/// Whether an error is the daemon's "not found".
fn is_not_found(e: &anyhow::Error) -> bool {
    e.downcast_ref::<Refused>().is_some_and(|r| r.status == hyper::StatusCode::NOT_FOUND)
}
