//! `compose exec`.

use std::io::IsTerminal;

use anyhow::Result;
use clap::Args;

use super::super::exec::{self, ExecArgs};
use super::{Session, found};

/// Flags of `compose exec`.
#[derive(Args)]
pub struct ExecFlags {
    /// Detached mode: Run command in the background
    #[arg(short, long)]
    detach: bool,
    /// Set environment variables
    #[arg(short, long, value_name = "stringArray")]
    env: Vec<String>,
    /// Index of the container if service has multiple replicas
    #[arg(long, value_name = "int")]
    index: Option<u32>,
    /// Keep STDIN open even if not attached
    #[arg(short, long, hide = true, default_value_t = true, action = clap::ArgAction::Set, num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    interactive: bool,
    /// Disable pseudo-TTY allocation. By default it is allocated where our input and output are a terminal
    #[arg(short = 'T', long)]
    no_tty: bool,
    /// Allocate a pseudo-TTY, as is done anyway: out of habit from `docker exec -it`
    #[arg(short, long, hide = true, default_value_t = true, action = clap::ArgAction::Set, num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    tty: bool,
    /// Give extended privileges to the process
    #[arg(long)]
    privileged: bool,
    /// Run the command as this user
    #[arg(short, long, value_name = "string")]
    user: Option<String>,
    /// Path to workdir directory for this command
    #[arg(short, long, value_name = "string")]
    workdir: Option<String>,
    #[arg(required = true, num_args = 2.., trailing_var_arg = true, allow_hyphen_values = true, value_name = "SERVICE COMMAND [ARGS...]")]
    words: Vec<String>,
}

/// Runs a command in a service's container; its exit code.
pub async fn run(s: &Session<'_>, flags: ExecFlags) -> Result<u8> {
    let mut words = flags.words;
    let service = std::mem::take(&mut words[0]);
    let subject = s.files.find(std::slice::from_ref(&service))?;
    if let Some(project) = &subject.project {
        project.service(&service)?;
    }
    let container = found::one(s.api, &subject.name, &service, flags.index).await?;
    words[0] = container.id;
    let terminal = std::io::stdin().is_terminal() && std::io::stdout().is_terminal();
    let args = ExecArgs {
        detach: flags.detach,
        detach_keys: None,
        env: flags.env,
        env_file: Vec::new(),
        interactive: flags.interactive && !flags.detach,
        privileged: flags.privileged,
        tty: terminal && flags.tty && !flags.no_tty && !flags.detach,
        user: flags.user,
        workdir: flags.workdir,
        words,
    };
    exec::run(s.api, args).await
}
