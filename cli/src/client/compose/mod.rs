//! `compose`: the services of a Compose file as containers of one host, as `docker compose` has them.
//!
//! What belongs to a project is found by its labels, which are Docker's, so both clients see each other's projects. `project`
//! finds and loads the files; `container` (with `host_config`, `mounts`, `endpoints`) makes a service a container's body;
//! `create` brings the daemon's containers to what the files say and `start` starts them in the order of their needs
//! (`graph`, `wait`). Each command is a file.

mod attached;
mod build;
mod changes;
mod config;
mod container;
mod copy;
mod create;
mod digests;
mod down;
mod endpoints;
mod events;
mod exec;
mod found;
mod graph;
mod host_config;
mod image;
mod images;
mod injected;
mod lifecycle;
mod logs;
mod ls;
mod menu;
mod mounts;
mod networks;
mod one_container;
mod one_off;
mod output;
mod port;
mod progress;
mod project;
mod ps;
mod pull;
mod refused;
mod rehearsal;
mod scale;
mod service;
mod start;
mod stats;
mod supported;
mod top;
mod up;
mod version;
mod volume_list;
mod volumes;
mod wait;
mod watch;

use anyhow::{Result, bail};
use clap::{Args, Subcommand};
use tokio::sync::{Semaphore, SemaphorePermit};

use super::api::Api;
use progress::Report;
use project::FileFlags;
use rehearsal::Rehearsal;

/// What `--ansi` may be.
const ANSI: [&str; 3] = ["never", "always", "auto"];

/// Flags before the command, and the command.
#[derive(Args)]
pub struct ComposeArgs {
    #[command(flatten)]
    files: FileFlags,
    /// Control when to print ANSI control characters ("never"|"always"|"auto")
    #[arg(long, value_name = "string", value_parser = ANSI)]
    ansi: Option<String>,
    /// Execute command in dry run mode: tell what would be done, and do nothing
    #[arg(long)]
    dry_run: bool,
    /// Control max parallelism of builds and pulls, -1 for unlimited
    #[arg(long, value_name = "int", allow_negative_numbers = true)]
    parallel: Option<i32>,
    /// Set type of progress output (auto, tty, plain, json, quiet)
    #[arg(long, value_name = "string")]
    progress: Option<String>,
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Attach local standard input, output, and error streams to a service's running container
    Attach(one_container::AttachFlags),
    /// Build or rebuild services
    Build(build::BuildFlags),
    /// Create a new image from a service container's changes
    Commit(one_container::CommitFlags),
    /// Parse, resolve and render compose file in canonical format
    #[command(alias = "convert")]
    Config(config::ConfigFlags),
    /// Copy files/folders between a service container and the local filesystem
    Cp(copy::CopyFlags),
    /// Creates containers for a service
    Create(up::CreateFlags),
    /// Stop and remove containers, networks
    Down(down::DownFlags),
    /// Receive real time events from containers
    Events(events::EventFlags),
    /// Execute a command in a running container
    Exec(exec::ExecFlags),
    /// Export a service container's filesystem as a tar archive
    Export(one_container::ExportFlags),
    /// List images used by the created containers
    Images(images::ImageFlags),
    /// Force stop service containers
    Kill(lifecycle::KillFlags),
    /// View output from containers
    Logs(logs::LogFlags),
    /// List running compose projects
    Ls(ls::ListFlags),
    /// Pause services
    Pause(lifecycle::Named),
    /// Print the public port for a port binding
    Port(port::PortFlags),
    /// List containers
    Ps(ps::PsFlags),
    /// Pull service images
    Pull(pull::PullFlags),
    /// Push service images
    Push(pull::PushFlags),
    /// Restart service containers
    Restart(lifecycle::RestartFlags),
    /// Removes stopped service containers
    Rm(lifecycle::RemoveFlags),
    /// Run a one-off command on a service
    Run(Box<one_off::RunFlags>),
    /// Scale services
    Scale(scale::ScaleFlags),
    /// Start services
    Start(lifecycle::Named),
    /// Display a live stream of container(s) resource usage statistics
    Stats(stats::StatsFlags),
    /// Stop services
    Stop(lifecycle::StopFlags),
    /// Display the running processes
    Top(lifecycle::Named),
    /// Unpause services
    Unpause(lifecycle::Named),
    /// Create and start containers
    Up(Box<up::UpFlags>),
    /// Show the Compose version information
    Version(version::VersionFlags),
    /// List volumes
    Volumes(volume_list::VolumesFlags),
    /// Block until containers of all (or specified) services stop
    Wait(lifecycle::WaitFlags),
    /// Watch build context for service and rebuild/refresh containers when files are updated
    Watch(watch::WatchFlags),
    #[command(flatten)]
    Refused(refused::Refused),
}

/// What every command has.
pub struct Session<'a> {
    pub api: &'a Api,
    pub files: &'a FileFlags,
    pub report: Report,
    /// `--dry-run`: `api` changes nothing, and this says what it would have.
    pub rehearsal: Option<Rehearsal>,
    /// `--parallel`: places for builds and pulls; none = as many as there are.
    places: Option<Semaphore>,
    /// `--ansi`
    ansi: &'a str,
}

impl Session<'_> {
    /// Waits for a place to build or to pull; it is given back with what comes of this.
    async fn place(&self) -> Option<SemaphorePermit<'_>> {
        match &self.places {
            // They are never closed.
            Some(places) => places.acquire().await.ok(),
            None => None,
        }
    }
}

/// What holds for every command: by its flag, else by a variable of the environment or of the env files.
struct Given {
    ansi: String,
    parallel: i32,
    progress: String,
}

impl Given {
    fn read(args: &ComposeArgs) -> Result<Self> {
        let variables = args.files.known();
        // A variable that is set to nothing says nothing.
        let variable = |name: &str| variables.get(name).filter(|value| !value.is_empty()).cloned();
        let ansi = args.ansi.clone().or_else(|| variable("COMPOSE_ANSI")).unwrap_or("auto".into());
        if !ANSI.contains(&ansi.as_str()) {
            bail!("unsupported COMPOSE_ANSI value {ansi:?}: want {}", ANSI.join(", "));
        }
        let parallel = match (args.parallel, variable("COMPOSE_PARALLEL_LIMIT")) {
            (Some(flag), _) => flag,
            (None, None) => -1,
            (None, Some(text)) => match text.parse() {
                Ok(number) => number,
                Err(_) => bail!("COMPOSE_PARALLEL_LIMIT must be an integer (found: {text:?})"),
            },
        };
        let progress = args.progress.clone().or_else(|| variable("COMPOSE_PROGRESS"));
        Ok(Self { ansi, parallel, progress: progress.unwrap_or("auto".into()) })
    }
}

/// Runs a command; its exit code.
pub async fn run(api: &Api, args: ComposeArgs) -> Result<u8> {
    let given = Given::read(&args)?;
    let report = Report::new(&given.progress, &given.ansi, args.dry_run)?;
    let rehearsal = args.dry_run.then(Rehearsal::default);
    let rehearsed = rehearsal.as_ref().map(|r| api.instead(r.clone()));
    let api = rehearsed.as_ref().unwrap_or(api);
    // As with Docker, nought and less are no limit.
    let places = usize::try_from(given.parallel).ok().filter(|n| *n > 0).map(Semaphore::new);
    let session = Session { api, files: &args.files, report, rehearsal, places, ansi: &given.ansi };
    let s = &session;
    match args.command {
        Command::Up(flags) => return up::run(s, *flags).await,
        Command::Run(flags) => return one_off::run(s, *flags).await,
        Command::Exec(flags) => return exec::run(s, flags).await,
        Command::Wait(flags) => return lifecycle::wait(s, &flags).await,
        Command::Attach(flags) => return one_container::attach(s, flags).await,
        Command::Build(flags) => build::run(s, &flags).await,
        Command::Commit(flags) => one_container::commit(s, flags).await,
        Command::Config(flags) => config::run(s, &flags).await,
        Command::Cp(flags) => copy::run(s, flags).await,
        Command::Create(flags) => up::create(s, flags).await,
        Command::Down(flags) => down::run(s, &flags).await,
        Command::Events(flags) => events::run(s, &flags).await,
        Command::Export(flags) => one_container::export(s, flags).await,
        Command::Images(flags) => images::run(s, &flags).await,
        Command::Kill(flags) => lifecycle::kill(s, &flags).await,
        Command::Logs(flags) => logs::run(s, &flags).await,
        Command::Ls(flags) => ls::run(s, &flags).await,
        Command::Pause(named) => lifecycle::pause(s, &named.services, true).await,
        Command::Unpause(named) => lifecycle::pause(s, &named.services, false).await,
        Command::Port(flags) => port::run(s, &flags).await,
        Command::Ps(flags) => ps::run(s, &flags).await,
        Command::Pull(flags) => pull::pull(s, &flags).await,
        Command::Push(flags) => pull::push(s, &flags).await,
        Command::Restart(flags) => lifecycle::restart(s, &flags).await,
        Command::Rm(flags) => lifecycle::remove(s, &flags).await,
        Command::Scale(flags) => scale::run(s, &flags).await,
        Command::Start(named) => lifecycle::start(s, &named.services).await,
        Command::Stats(flags) => stats::run(s, flags).await,
        Command::Stop(flags) => lifecycle::stop(s, &flags.services, flags.timeout).await,
        Command::Top(named) => top::run(s, &named.services).await,
        Command::Version(flags) => version::run(&flags),
        Command::Volumes(flags) => volume_list::run(s, &flags).await,
        Command::Watch(flags) => watch::run(s, &flags).await,
        Command::Refused(command) => command.refuse(),
    }
    .map(|()| 0)
}
