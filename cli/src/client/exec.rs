//! `exec`: a further command in a container that runs.

use std::path::PathBuf;

use anyhow::{Context, Result, bail};
use clap::Args;
use serde_json::{Value, json};

use super::api::{Api, Query, encode};
use super::attach::{Ended, Upgraded};
use super::create_body::environment;
use super::terminal;

/// Flags of `exec`.
#[derive(Args)]
pub struct ExecArgs {
    /// Detached mode: run command in the background
    #[arg(short, long)]
    pub detach: bool,
    /// Override the key sequence for detaching a container
    #[arg(long, value_name = "string")]
    pub detach_keys: Option<String>,
    /// Set environment variables
    #[arg(short, long, value_name = "list")]
    pub env: Vec<String>,
    /// Read in a file of environment variables
    #[arg(long, value_name = "list")]
    pub env_file: Vec<PathBuf>,
    /// Keep STDIN open even if not attached
    #[arg(short, long)]
    pub interactive: bool,
    /// Give extended privileges to the command
    #[arg(long)]
    pub privileged: bool,
    /// Allocate a pseudo-TTY
    #[arg(short, long)]
    pub tty: bool,
    /// Username or UID (format: "<name|uid>[:<group|gid>]")
    #[arg(short, long, value_name = "string")]
    pub user: Option<String>,
    /// Working directory inside the container
    #[arg(short, long, value_name = "string")]
    pub workdir: Option<String>,
    /// Flags end at the container: what follows is the command's.
    #[arg(
        required = true,
        num_args = 2..,
        trailing_var_arg = true,
        allow_hyphen_values = true,
        value_name = "CONTAINER COMMAND [ARG...]"
    )]
    pub words: Vec<String>,
}

/// Runs a command in a container; its exit code.
pub async fn run(api: &Api, args: ExecArgs) -> Result<u8> {
    use std::io::IsTerminal;
    let (container, command) = args.words.split_first().context("a container")?;
    let env = environment(&args.env_file, &args.env)?;
    let container = format!("/containers/{}", encode(container));
    // That there is no such container comes before anything that is wrong with our terminal.
    api.get(&format!("{container}/json"), &Query::new()).await?;
    let attach = !args.detach;
    let stdin = attach && args.interactive;
    if stdin && args.tty && !std::io::stdin().is_terminal() {
        bail!("the input device is not a TTY");
    }
    let size = terminal::size().filter(|_| args.tty).map(|(rows, columns)| json!([rows, columns]));
    let body = json!({
        "User": args.user.as_deref().unwrap_or_default(), "Privileged": args.privileged, "Tty": args.tty,
        "ConsoleSize": size, "AttachStdin": stdin, "AttachStdout": attach, "AttachStderr": attach,
        "DetachKeys": args.detach_keys.as_deref().unwrap_or_default(), "Env": env,
        "WorkingDir": args.workdir.as_deref().unwrap_or_default(), "Cmd": command,
    });
    let made = api.post(&format!("{container}/exec"), &Query::new(), Some(&body)).await?;
    let path = format!("/exec/{}", made["Id"].as_str().context("the daemon answered without an ID")?);
    let start = json!({ "Detach": args.detach, "Tty": args.tty, "ConsoleSize": size });
    if args.detach {
        api.post(&format!("{path}/start"), &Query::new(), Some(&start)).await?;
        return Ok(0);
    }
    let upgraded = Upgraded { tty: args.tty, stdin, keys: args.detach_keys.as_deref() };
    let attached = upgraded.ask(api, &format!("{path}/start"), &Query::new(), Some(&start)).await?;
    match attached.join(api, &path, false).await? {
        Ended::Detached => bail!("read escape sequence"),
        Ended::Closed => {
            let found = api.get(&format!("{path}/json"), &Query::new()).await?;
            let code = found["ExitCode"].as_u64().and_then(|c| u8::try_from(c).ok());
            // Still running: it was left, and its end is not known.
            Ok(code.unwrap_or(if found["ExitCode"] == Value::Null { 0 } else { 1 }))
        }
    }
}
