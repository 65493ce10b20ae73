//! `run` and `create`: create, attach, start, copy streams, wait, exit with the container's code.

use anyhow::{Context, Result};
use clap::Args;
use serde_json::Value;

use super::api::{Api, Query};
use super::attach::{self, Ended, Exit};
use super::create_body::Streams;
use super::create_flags::CreateFlags;
use super::output::say;
use super::{images, is_not_found, reference, registry};

/// The container never ran: what Docker's `run` says of that, and its exit codes.
#[derive(Debug, thiserror::Error)]
#[error("skep: {message}\n\nRun 'skep {command} --help' for more information")]
pub struct NeverRan {
    command: &'static str,
    message: String,
}

impl NeverRan {
    fn new(e: &anyhow::Error) -> Self {
        Self { command: "run", message: format!("{e:#}") }
    }

    /// 127: there is no such command; 126: it cannot be run; 125: anything else, such as a socket that is not there,
    /// of which the system speaks with a capital letter.
    pub fn code(&self) -> u8 {
        let says = |words: &[&str]| words.iter().any(|w| self.message.contains(w));
        if says(&["executable file not found", "no such file or directory"]) {
            127
        } else if says(&["permission denied", "is a directory"]) {
            126
        } else {
            125
        }
    }
}

/// What `--pull` may be; nothing is the default.
fn check_pull(flags: &CreateFlags, command: &'static str) -> Result<(), NeverRan> {
    match flags.pull.as_str() {
        "" | "always" | "missing" | "never" => Ok(()),
        other => {
            let known = "must be one of \"always\", \"missing\" or \"never\"";
            Err(NeverRan { command, message: format!("invalid pull option: '{other}': {known}") })
        }
    }
}

/// Flags of `run`.
#[derive(Args)]
#[command(disable_help_flag = true)]
pub struct RunArgs {
    /// Run container in background and print container ID
    #[arg(short, long)]
    detach: bool,
    /// Override the key sequence for detaching a container
    #[arg(long, value_name = "string")]
    detach_keys: Option<String>,
    /// Proxy received signals to the process
    #[arg(long, value_name = "bool", num_args = 0..=1, require_equals = true, default_missing_value = "true", default_value_t = true, action = clap::ArgAction::Set)]
    sig_proxy: bool,
    #[command(flatten)]
    flags: CreateFlags,
}

/// Creates a container and prints its ID.
pub async fn create(api: &Api, flags: &CreateFlags) -> Result<u8> {
    check_pull(flags, "create")?;
    let streams = Streams { stdin: flags.interactive, stdout: true, stderr: true };
    let body = flags.body(streams).map_err(|e| NeverRan { command: "create", message: format!("{e:#}") })?;
    let id = make(api, flags, body).await?;
    say!("{id}")?;
    Ok(0)
}

/// Runs a container; its exit code.
pub async fn run(api: &Api, args: RunArgs) -> Result<u8> {
    let flags = &args.flags;
    check_pull(flags, "run")?;
    let streams = flags.streams(args.detach)?;
    if flags.tty && streams.stdin {
        use std::io::IsTerminal;
        anyhow::ensure!(std::io::stdin().is_terminal(), "the input device is not a TTY");
    }
    let body = flags.body(streams).map_err(|e| NeverRan::new(&e))?;
    let id = make(api, flags, body).await.map_err(|e| NeverRan::new(&e))?;
    let path = format!("/containers/{id}");
    if args.detach {
        start(api, &path, flags.rm).await?;
        say!("{id}")?;
        return Ok(0);
    }
    let attached = attach::attach(api, &path, streams, flags.tty, args.detach_keys.as_deref()).await?;
    let exit = Exit::of(api, &path, if flags.rm { "removed" } else { "next-exit" }).await?;
    start(api, &path, flags.rm).await?;
    match attached.join(api, &path, args.sig_proxy).await? {
        // Whoever typed the keys knows.
        Ended::Detached => Ok(0),
        Ended::Closed => exit.code().await,
    }
}

/// Creates the container, with the image pulled first where that is asked for; its ID.
async fn make(api: &Api, flags: &CreateFlags, body: Value) -> Result<String> {
    if let Some(file) = &flags.cidfile {
        anyhow::ensure!(
            !file.exists(),
            "container ID file found, make sure the other container isn't running or delete {}",
            file.display()
        );
    }
    let (image, _) = flags.image();
    reference::check(image)?;
    if flags.pull == "always" {
        registry::pull(api, image, flags.platform.as_deref(), flags.quiet).await?;
    }
    let mut query = flags.name.iter().fold(Query::new(), |q, name| q.with("name", name));
    if let Some(platform) = &flags.platform {
        query = query.with("platform", platform);
    }
    let created = match api.post("/containers/create", &query, Some(&body)).await {
        Err(e)
            if is_not_found(&e)
                && matches!(flags.pull.as_str(), "" | "missing")
                && ["No such image", "does not match the specified platform"]
                    .iter()
                    .any(|w| e.to_string().contains(w)) =>
        {
            if !flags.quiet {
                eprintln!("Unable to find image '{}' locally", images::familiar(image));
            }
            registry::pull(api, image, flags.platform.as_deref(), flags.quiet).await?;
            api.post("/containers/create", &query, Some(&body)).await?
        }
        other => other?,
    };
    for warning in created["Warnings"].as_array().into_iter().flatten().filter_map(Value::as_str) {
        eprintln!("WARNING: {warning}");
    }
    let id = created["Id"].as_str().context("the daemon answered without an ID")?.to_owned();
    if let Some(file) = &flags.cidfile {
        std::fs::write(file, &id).with_context(|| format!("write {}", file.display()))?;
    }
    Ok(id)
}

async fn start(api: &Api, path: &str, rm: bool) -> Result<()> {
    let Err(e) = api.post(&format!("{path}/start"), &Query::new(), None).await else { return Ok(()) };
    if rm {
        // The daemon removes it by itself as far as it got; there is nothing more to say than the first error.
        let _ = api.delete(path, &Query::new().flag("force", true)).await;
    }
    Err(NeverRan::new(&e).into())
}
