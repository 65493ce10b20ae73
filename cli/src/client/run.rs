//! `skep run`: create, attach, start, copy streams, wait, exit with the container's code.

use std::io::Write;

use anyhow::{Context, Result, bail};
use clap::Args;
use hyper::{Method, StatusCode};
use serde_json::{Map, Value, json};

use super::api::{Api, Query, full};
use super::stream;

/// The container was never started: exit code 125.
#[derive(Debug, thiserror::Error)]
#[error("skep: {0}")]
pub struct NeverRan(String);

/// Flags of `run`.
#[derive(Args)]
pub struct RunArgs {
    /// Run in the background and print the container ID
    #[arg(short, long)]
    detach: bool,
    /// Remove the container once it has exited
    #[arg(long)]
    rm: bool,
    /// Keep stdin open
    #[arg(short, long)]
    interactive: bool,
    /// Name of the container
    #[arg(long)]
    name: Option<String>,
    /// none, bridge, host, container:NAME or a network
    #[arg(long, alias = "net", value_name = "NETWORK")]
    network: Option<String>,
    /// Set an environment variable
    #[arg(short, long, value_name = "NAME=VALUE")]
    env: Vec<String>,
    /// Set a label
    #[arg(short, long, value_name = "NAME=VALUE")]
    label: Vec<String>,
    /// User, by name or number, with an optional :group
    #[arg(short, long)]
    user: Option<String>,
    /// Working directory
    #[arg(short, long, value_name = "DIR")]
    workdir: Option<String>,
    /// Replace the image's entrypoint
    #[arg(long)]
    entrypoint: Option<String>,
    /// Host name
    #[arg(long)]
    hostname: Option<String>,
    /// Publish a port: [[ip:]hostPort:]containerPort[/protocol]
    #[arg(short, long, value_name = "PORT")]
    publish: Vec<String>,
    /// Bind a directory: /host/path:/container/path[:ro]
    #[arg(short, long, value_name = "BIND")]
    volume: Vec<String>,
    /// Memory limit, like 512m
    #[arg(short, long, value_name = "BYTES")]
    memory: Option<String>,
    /// CPUs, like 1.5
    #[arg(long)]
    cpus: Option<f64>,
    /// Most processes
    #[arg(long)]
    pids_limit: Option<i64>,
    /// Restart policy: no, always, unless-stopped, on-failure[:n]
    #[arg(long, value_name = "POLICY")]
    restart: Option<String>,
    /// Add a capability
    #[arg(long, value_name = "CAP")]
    cap_add: Vec<String>,
    /// Drop a capability
    #[arg(long, value_name = "CAP")]
    cap_drop: Vec<String>,
    /// Give extended privileges
    #[arg(long)]
    privileged: bool,
    /// Mount the root file system read-only
    #[arg(long)]
    read_only: bool,
    /// Run an init that reaps processes
    #[arg(long)]
    init: bool,
    /// Image
    image: String,
    /// Command and arguments
    #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
    command: Vec<String>,
}

/// Runs it; the container's exit code.
pub async fn run(api: &Api, args: RunArgs) -> Result<u8> {
    let body = request(&args).map_err(|e| NeverRan(format!("{e:#}")))?;
    let query = args.name.iter().fold(Query::new(), |q, name| q.with("name", name));
    let created =
        api.post("/containers/create", &query, Some(&body)).await.map_err(|e| NeverRan(format!("{e:#}")))?;
    for warning in created["Warnings"].as_array().into_iter().flatten() {
        eprintln!("WARNING: {}", warning.as_str().unwrap_or_default());
    }
    let id = created["Id"].as_str().context("the daemon answered without an ID")?.to_owned();
    let path = format!("/containers/{id}");
    if args.detach {
        start(api, &path, args.rm).await?;
        println!("{id}");
        return Ok(0);
    }
    foreground(api, &path, &args).await
}

async fn start(api: &Api, path: &str, rm: bool) -> Result<(), anyhow::Error> {
    let Err(e) = api.post(&format!("{path}/start"), &Query::new(), None).await else { return Ok(()) };
    if rm {
        // The daemon removes it by itself as far as it got; there is nothing more to say than the first error.
        let _ = api.delete(path, &Query::new().flag("force", true)).await;
    }
    Err(NeverRan(format!("{e:#}")).into())
}

async fn foreground(api: &Api, path: &str, args: &RunArgs) -> Result<u8> {
    let query = Query::new()
        .flag("stream", true)
        .flag("stdout", true)
        .flag("stderr", true)
        .flag("stdin", args.interactive);
    let upgrade = [("Connection", "Upgrade"), ("Upgrade", "tcp")];
    let attached = api.send(Method::POST, &format!("{path}/attach"), &query, full(""), &upgrade).await?;
    if attached.status() != StatusCode::SWITCHING_PROTOCOLS {
        bail!("the daemon would not attach: {}", attached.status());
    }
    let (from, mut to) = tokio::io::split(hyper_util::rt::TokioIo::new(hyper::upgrade::on(attached).await?));
    let condition = if args.rm { "removed" } else { "next-exit" };
    let wait = api
        .send(
            Method::POST,
            &format!("{path}/wait"),
            &Query::new().with("condition", condition),
            full(""),
            &[],
        )
        .await?;
    start(api, path, args.rm).await?;
    if args.interactive {
        tokio::spawn(async move {
            let _ = tokio::io::copy(&mut tokio::io::stdin(), &mut to).await;
            // The container reads end-of-file; its output goes on.
            let _ = tokio::io::AsyncWriteExt::shutdown(&mut to).await;
            std::future::pending::<()>().await
        });
    }
    let output = stream::copy(from, false);
    let exit = async {
        let bytes = http_body_util::BodyExt::collect(wait.into_body()).await?.to_bytes();
        Ok::<Value, anyhow::Error>(serde_json::from_slice(&bytes)?)
    };
    let signals = forward_signals(api, path);
    let (output, exit) = tokio::select! {
        both = async { tokio::join!(output, exit) } => both,
        e = signals => return Err(e),
    };
    output?;
    std::io::stdout().flush()?;
    let exit = exit.context("wait for the container")?;
    if let Some(message) = exit["Error"]["Message"].as_str().filter(|m| !m.is_empty()) {
        bail!("{message}");
    }
    Ok(exit["StatusCode"].as_u64().and_then(|c| u8::try_from(c).ok()).unwrap_or(1))
}

/// Passes SIGINT and SIGTERM on to the container; ends only with an error.
async fn forward_signals(api: &Api, path: &str) -> anyhow::Error {
    use tokio::signal::unix::{SignalKind, signal};
    let listen =
        || Ok::<_, std::io::Error>((signal(SignalKind::interrupt())?, signal(SignalKind::terminate())?));
    let (mut int, mut term) = match listen() {
        Ok(pair) => pair,
        Err(e) => return e.into(),
    };
    loop {
        let name = tokio::select! { _ = int.recv() => "SIGINT", _ = term.recv() => "SIGTERM" };
        if let Err(e) = api.post(&format!("{path}/kill"), &Query::new().with("signal", name), None).await {
            eprintln!("pass {name} on: {e:#}");
        }
    }
}

fn request(args: &RunArgs) -> Result<Value> {
    let mut exposed = Map::new();
    let mut bindings = Map::new();
    for text in &args.publish {
        let (port, binding) = publish(text)?;
        exposed.insert(port.clone(), json!({}));
        let all = bindings.entry(port).or_insert_with(|| json!([]));
        all.as_array_mut().context("a list")?.push(binding);
    }
    let labels: Map<String, Value> = args
        .label
        .iter()
        .map(|l| l.split_once('=').unwrap_or((l, "")))
        .map(|(k, v)| (k.to_owned(), v.into()))
        .collect();
    let memory = match &args.memory {
        Some(text) => skep_engine::parse_size(text)
            .with_context(|| format!("invalid memory limit {text:?}: want a size like 512m"))?,
        None => 0,
    };
    let (policy, retries) = restart(args.restart.as_deref().unwrap_or("no"))?;
    let mut body = json!({
        "Image": args.image,
        "Cmd": (!args.command.is_empty()).then_some(&args.command),
        "Env": args.env.iter().map(|e| env(e)).collect::<Vec<_>>(),
        "Labels": labels,
        "AttachStdout": !args.detach,
        "AttachStderr": !args.detach,
        "AttachStdin": args.interactive && !args.detach,
        "OpenStdin": args.interactive,
        "StdinOnce": args.interactive && !args.detach,
        "ExposedPorts": exposed,
        "HostConfig": {
            "AutoRemove": args.rm,
            "NetworkMode": args.network.as_deref().unwrap_or("default"),
            "PortBindings": bindings,
            "Binds": args.volume,
            "Memory": memory,
            "NanoCpus": (args.cpus.unwrap_or(0.0) * 1e9) as i64,
            "RestartPolicy": { "Name": policy, "MaximumRetryCount": retries },
            "CapAdd": args.cap_add,
            "CapDrop": args.cap_drop,
            "Privileged": args.privileged,
            "ReadonlyRootfs": args.read_only,
        },
    });
    let optional = [("User", &args.user), ("WorkingDir", &args.workdir), ("Hostname", &args.hostname)];
    for (name, value) in optional {
        if let Some(value) = value {
            body[name] = value.as_str().into();
        }
    }
    if let Some(entrypoint) = &args.entrypoint {
        body["Entrypoint"] = json!([entrypoint]);
    }
    if let Some(pids) = args.pids_limit {
        body["HostConfig"]["PidsLimit"] = pids.into();
    }
    if args.init {
        body["HostConfig"]["Init"] = true.into();
    }
    Ok(body)
}

/// A bare `NAME` takes its value from our own environment, as Docker's client does.
fn env(text: &str) -> String {
    match std::env::var(text) {
        Ok(value) if !text.contains('=') => format!("{text}={value}"),
        _ => text.to_owned(),
    }
}

fn restart(text: &str) -> Result<(&str, u32)> {
    match text.split_once(':') {
        Some((name, count)) => Ok((
            name,
            count.parse().with_context(|| format!("restart policy {text:?}: {count:?} is not a number"))?,
        )),
        None => Ok((text, 0)),
    }
}

/// `[[ip:]hostPort:]containerPort[/protocol]` as the API's port key and binding.
fn publish(text: &str) -> Result<(String, Value)> {
    let (ports, protocol) = text.split_once('/').unwrap_or((text, "tcp"));
    let mut parts = ports.rsplitn(3, ':');
    let container = parts.next().unwrap_or_default();
    let host = parts.next().unwrap_or_default();
    let ip = parts.next().unwrap_or_default().trim_matches(['[', ']']);
    for port in [container, host] {
        if !port.is_empty() && port.parse::<u16>().is_err() {
            bail!("invalid port {port:?} in {text:?}: want [[ip:]hostPort:]containerPort[/protocol]");
        }
    }
    if container.is_empty() {
        bail!("no container port in {text:?}");
    }
    Ok((format!("{container}/{protocol}"), json!({ "HostIp": ip, "HostPort": host })))
}
