//! Commands on containers that stand by themselves and under `container`: start, stop, kill, logs, ...

use anyhow::{Result, bail};
use clap::{Args, Subcommand};
use hyper::Method;
use serde_json::Value;

use super::api::{Api, Query, encode, full};
use super::attach::{self, Ended, Exit};
use super::container_usage::{self, StatsArgs, TopArgs, UpdateArgs};
use super::create_body::Streams;
use super::create_flags::CreateFlags;
use super::exec::{self, ExecArgs};
use super::output::say;
use super::run::{self, RunArgs};
use super::{copy, each, files, human, stream};

#[derive(Subcommand)]
pub enum Containers {
    /// Attach local standard input, output, and error streams to a running container
    Attach(AttachArgs),
    /// Create a new image from a container's changes
    Commit(files::CommitArgs),
    /// Copy files/folders between a container and the local filesystem
    Cp(copy::CopyArgs),
    /// Create a new container
    Create(Box<CreateFlags>),
    /// Inspect changes to files or directories on a container's filesystem
    Diff {
        #[arg(value_name = "CONTAINER")]
        container: String,
    },
    /// Export a container's filesystem as a tar archive
    Export {
        /// Write to a file, instead of STDOUT
        #[arg(short, long, value_name = "string")]
        output: Option<std::path::PathBuf>,
        #[arg(value_name = "CONTAINER")]
        container: String,
    },
    /// Execute a command in a running container
    Exec(Box<ExecArgs>),
    /// Kill one or more running containers
    Kill {
        /// Signal to send to the container
        #[arg(short, long, value_name = "string", default_value = "KILL", hide_default_value = true)]
        signal: String,
        #[arg(required = true, value_name = "CONTAINER")]
        containers: Vec<String>,
    },
    /// Fetch the logs of a container
    Logs {
        #[command(flatten)]
        logs: LogFlags,
        /// Show logs before a timestamp or relative time (e.g. "42m" for 42 minutes)
        #[arg(long, value_name = "string")]
        until: Option<String>,
        #[arg(value_name = "CONTAINER")]
        container: String,
    },
    /// Pause all processes within one or more containers
    Pause {
        #[arg(required = true, value_name = "CONTAINER")]
        containers: Vec<String>,
    },
    /// List port mappings or a specific mapping for the container
    Port {
        #[arg(value_name = "CONTAINER")]
        container: String,
        #[arg(value_name = "PRIVATE_PORT[/PROTO]")]
        port: Option<String>,
    },
    /// Rename a container
    Rename {
        #[arg(value_name = "CONTAINER")]
        container: String,
        #[arg(value_name = "NEW_NAME")]
        name: String,
    },
    /// Restart one or more containers
    Restart(StopArgs),
    /// Remove one or more containers
    #[command(alias = "remove")]
    Rm {
        /// Force the removal of a running container (uses SIGKILL)
        #[arg(short, long)]
        force: bool,
        /// Remove the specified link
        #[arg(short, long)]
        link: bool,
        /// Remove anonymous volumes associated with the container
        #[arg(short, long)]
        volumes: bool,
        #[arg(required = true, value_name = "CONTAINER")]
        containers: Vec<String>,
    },
    /// Create and run a new container from an image
    Run(Box<RunArgs>),
    /// Start one or more stopped containers
    Start(StartArgs),
    /// Display a live stream of container(s) resource usage statistics
    Stats(StatsArgs),
    /// Stop one or more running containers
    Stop(StopArgs),
    /// Display the running processes of a container
    Top(TopArgs),
    /// Unpause all processes within one or more containers
    Unpause {
        #[arg(required = true, value_name = "CONTAINER")]
        containers: Vec<String>,
    },
    /// Update configuration of one or more containers
    Update(Box<UpdateArgs>),
    /// Block until one or more containers stop, then print their exit codes
    Wait {
        #[arg(required = true, value_name = "CONTAINER")]
        containers: Vec<String>,
    },
}

#[derive(Args)]
pub struct AttachArgs {
    /// Override the key sequence for detaching a container
    #[arg(long, value_name = "string")]
    pub detach_keys: Option<String>,
    /// Do not attach STDIN
    #[arg(long)]
    pub no_stdin: bool,
    /// Proxy all received signals to the process
    #[arg(long, value_name = "bool", num_args = 0..=1, require_equals = true, default_missing_value = "true", default_value_t = true, action = clap::ArgAction::Set)]
    pub sig_proxy: bool,
    #[arg(value_name = "CONTAINER")]
    pub container: String,
}

#[derive(Args)]
pub struct StartArgs {
    /// Attach STDOUT/STDERR and forward signals
    #[arg(short, long)]
    attach: bool,
    /// Override the key sequence for detaching a container
    #[arg(long, value_name = "string")]
    detach_keys: Option<String>,
    /// Attach container's STDIN
    #[arg(short, long)]
    interactive: bool,
    #[arg(required = true, value_name = "CONTAINER")]
    containers: Vec<String>,
}

#[derive(Args)]
pub struct StopArgs {
    /// Signal to send to the container
    #[arg(short, long, value_name = "string")]
    signal: Option<String>,
    /// Seconds to wait before killing the container
    #[arg(short, long, visible_alias = "time", value_name = "int", allow_hyphen_values = true)]
    timeout: Option<i64>,
    #[arg(required = true, value_name = "CONTAINER")]
    containers: Vec<String>,
}

/// Flags that the logs of containers and of services share.
#[derive(Args)]
pub struct LogFlags {
    /// Show extra details provided to logs
    #[arg(long)]
    pub details: bool,
    /// Follow log output
    #[arg(short, long)]
    pub follow: bool,
    /// Show logs since a timestamp or relative time (e.g. "42m" for 42 minutes)
    #[arg(long, value_name = "string")]
    pub since: Option<String>,
    /// Number of lines to show from the end of the logs
    #[arg(short = 'n', long, value_name = "string", default_value = "all", allow_hyphen_values = true)]
    pub tail: String,
    /// Show timestamps
    #[arg(short, long)]
    pub timestamps: bool,
}

impl LogFlags {
    /// As a query of the API.
    pub fn query(&self) -> Result<Query> {
        let query = Query::new().flag("stdout", true).flag("stderr", true).flag("follow", self.follow);
        let query =
            query.flag("timestamps", self.timestamps).flag("details", self.details).with("tail", &self.tail);
        Ok(match &self.since {
            Some(text) => query.with("since", human::timestamp(text)?),
            None => query,
        })
    }
}

pub async fn run(api: &Api, command: Containers) -> Result<u8> {
    match command {
        Containers::Run(args) => return run::run(api, *args).await,
        Containers::Create(flags) => return run::create(api, &flags).await,
        Containers::Attach(args) => return attach(api, args).await,
        Containers::Commit(args) => files::commit(api, args).await?,
        Containers::Cp(args) => copy::run(api, args).await?,
        Containers::Diff { container } => files::diff(api, &container).await?,
        Containers::Export { output, container } => files::export(api, &container, output).await?,
        Containers::Exec(args) => return exec::run(api, *args).await,
        Containers::Start(args) => return start(api, args).await,
        Containers::Pause { containers } => act(api, &containers, "pause", &Query::new()).await?,
        Containers::Unpause { containers } => act(api, &containers, "unpause", &Query::new()).await?,
        Containers::Stats(args) => container_usage::stats(api, &args).await?,
        Containers::Top(args) => container_usage::top(api, &args).await?,
        Containers::Update(args) => container_usage::update(api, &args).await?,
        Containers::Stop(args) => stop(api, &args, "stop").await?,
        Containers::Restart(args) => stop(api, &args, "restart").await?,
        Containers::Kill { signal, containers } => {
            act(api, &containers, "kill", &Query::new().with("signal", signal)).await?;
        }
        Containers::Rename { container, name } => {
            let path = format!("/containers/{}/rename", encode(&container));
            if let Err(e) = api.post(&path, &Query::new().with("name", name), None).await {
                bail!("{e:#}\nError: failed to rename container named {container}");
            }
        }
        Containers::Rm { force, link, volumes, containers } => {
            let query = Query::new().flag("force", force).flag("v", volumes).flag("link", link);
            each(&containers, async |name| {
                let path = format!("/containers/{}", encode(name.trim_matches('/')));
                match api.delete(&path, &query).await {
                    Ok(_) => say!("{name}"),
                    // What was to go is not there.
                    Err(e) if force && super::is_not_found(&e) => {
                        eprintln!("{e:#}");
                        Ok(())
                    }
                    Err(e) => Err(e),
                }
            })
            .await?;
        }
        Containers::Logs { logs, until, container } => {
            let path = format!("/containers/{}", encode(&container));
            let tty =
                api.get(&format!("{path}/json"), &Query::new()).await?["Config"]["Tty"] == Value::Bool(true);
            let query = until.iter().try_fold(logs.query()?, |q, text| {
                Ok::<_, anyhow::Error>(q.with("until", human::timestamp(text)?))
            })?;
            copy(api, &format!("{path}/logs"), &query, tty).await?;
        }
        Containers::Port { container, port } => ports(api, &container, port.as_deref()).await?,
        Containers::Wait { containers } => {
            each(&containers, async |name| {
                let path = format!("/containers/{}/wait", encode(&name));
                say!("{}", api.post(&path, &Query::new(), None).await?["StatusCode"])
            })
            .await?;
        }
    }
    Ok(0)
}

async fn stop(api: &Api, args: &StopArgs, verb: &str) -> Result<()> {
    let mut query = Query::new();
    if let Some(seconds) = args.timeout {
        query = query.with("t", seconds.to_string());
    }
    if let Some(signal) = &args.signal {
        query = query.with("signal", signal);
    }
    act(api, &args.containers, verb, &query).await
}

async fn act(api: &Api, names: &[String], verb: &str, query: &Query) -> Result<()> {
    each(names, async |name| {
        api.post(&format!("/containers/{}/{verb}", encode(&name)), query, None).await?;
        say!("{name}")
    })
    .await
}

/// Starts each; or starts one and stays with it until it ends.
async fn start(api: &Api, args: StartArgs) -> Result<u8> {
    if args.attach || args.interactive {
        let [name] = args.containers.as_slice() else {
            bail!("you cannot start and attach multiple containers at once");
        };
        let found = api.get(&format!("/containers/{}/json", encode(name)), &Query::new()).await?;
        let path = format!("/containers/{}", super::output::text(&found, "Id"));
        let tty = found["Config"]["Tty"] == Value::Bool(true);
        let stdin = args.interactive && found["Config"]["OpenStdin"] == Value::Bool(true);
        let streams = Streams { stdin, stdout: true, stderr: true };
        let attached = attach::attach(api, &path, streams, tty, args.detach_keys.as_deref()).await?;
        let remove = found["HostConfig"]["AutoRemove"] == Value::Bool(true);
        let exit = Exit::of(api, &path, if remove { "removed" } else { "next-exit" }).await?;
        api.post(&format!("{path}/start"), &Query::new(), None).await?;
        return match attached.join(api, &path, true).await? {
            Ended::Detached => Ok(0),
            Ended::Closed => exit.code().await,
        };
    }
    let mut failed = Vec::new();
    for name in &args.containers {
        match api.post(&format!("/containers/{}/start", encode(name)), &Query::new(), None).await {
            Ok(_) => say!("{name}")?,
            Err(e) => {
                eprintln!("{e:#}");
                failed.push(name.as_str());
            }
        }
    }
    if failed.is_empty() { Ok(0) } else { bail!("Error: failed to start containers: {}", failed.join(", ")) }
}

pub async fn attach(api: &Api, args: AttachArgs) -> Result<u8> {
    let found = api.get(&format!("/containers/{}/json", encode(&args.container)), &Query::new()).await?;
    let state = |name: &str| found["State"][name] == Value::Bool(true);
    if !state("Running") {
        bail!("You cannot attach to a stopped container, start it first");
    }
    if state("Paused") {
        bail!("You cannot attach to a paused container, unpause it first");
    }
    if state("Restarting") {
        bail!("You cannot attach to a restarting container, wait until it is running");
    }
    let path = format!("/containers/{}", super::output::text(&found, "Id"));
    let tty = found["Config"]["Tty"] == Value::Bool(true);
    let stdin = !args.no_stdin && found["Config"]["OpenStdin"] == Value::Bool(true);
    let exit = Exit::of(api, &path, "not-running").await?;
    let streams = Streams { stdin, stdout: true, stderr: true };
    let attached = attach::attach(api, &path, streams, tty, args.detach_keys.as_deref()).await?;
    match attached.join(api, &path, args.sig_proxy).await? {
        Ended::Detached => bail!("read escape sequence"),
        Ended::Closed => exit.code().await,
    }
}

/// Copies a stream of the API to our own output.
pub async fn copy(api: &Api, path: &str, query: &Query, raw: bool) -> Result<()> {
    stream::copy(reader(api, path, query).await?, raw).await
}

/// A stream of the API.
pub async fn reader(
    api: &Api,
    path: &str,
    query: &Query,
) -> Result<impl tokio::io::AsyncBufRead + Unpin + use<>> {
    Ok(bytes(api.send(Method::GET, path, query, full(""), &[]).await?))
}

/// The body of an answer as it comes.
pub fn bytes(
    response: hyper::Response<hyper::body::Incoming>,
) -> impl tokio::io::AsyncBufRead + Unpin + Send + 'static {
    use futures::TryStreamExt;
    let bytes = http_body_util::BodyDataStream::new(response.into_body()).map_err(std::io::Error::other);
    tokio_util::io::StreamReader::new(bytes)
}

async fn ports(api: &Api, container: &str, port: Option<&str>) -> Result<()> {
    let found = api.get(&format!("/containers/{}/json", encode(container)), &Query::new()).await?;
    let ports = &found["NetworkSettings"]["Ports"];
    let address = |b: &Value| {
        let ip = super::output::text(b, "HostIp");
        let ip = if ip.contains(':') { format!("[{ip}]") } else { ip };
        format!("{ip}:{}", super::output::text(b, "HostPort"))
    };
    let mut lines = Vec::new();
    if let Some(asked) = port {
        let wanted = if asked.contains('/') { asked.to_owned() } else { format!("{asked}/tcp") };
        let bound = ports[&wanted].as_array().filter(|b| !b.is_empty());
        let Some(bound) = bound else { bail!("Error: No public port '{asked}' published for {container}") };
        lines.extend(bound.iter().map(address));
    } else {
        for (port, bound) in ports.as_object().into_iter().flatten() {
            let bound = bound.as_array().into_iter().flatten();
            lines.extend(bound.map(|b| format!("{port} -> {}", address(b))));
        }
    }
    lines.sort_by_cached_key(|line| super::ports::natural(line));
    for line in lines {
        say!("{line}")?;
    }
    Ok(())
}
