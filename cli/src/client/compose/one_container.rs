//! Commands on one container of a service, as `docker` has them of any: attach, commit, export.

use std::path::PathBuf;

use anyhow::Result;
use clap::Args;

use super::super::containers::{self, AttachArgs};
use super::super::files::{self, CommitArgs};
use super::found::{self, Found};
use super::{Session, lifecycle};

/// Flags of `compose attach`.
#[derive(Args)]
pub struct AttachFlags {
    /// Override the key sequence for detaching from a container
    #[arg(long, value_name = "string")]
    detach_keys: Option<String>,
    /// Index of the container if service has multiple replicas
    #[arg(long, value_name = "int")]
    index: Option<u32>,
    /// Do not attach STDIN
    #[arg(long)]
    no_stdin: bool,
    /// Proxy all received signals to the process
    #[arg(long, value_name = "bool", num_args = 0..=1, require_equals = true, default_missing_value = "true", default_value_t = true, action = clap::ArgAction::Set)]
    sig_proxy: bool,
    #[arg(value_name = "SERVICE")]
    service: String,
}

/// Flags of `compose commit`.
#[derive(Args)]
pub struct CommitFlags {
    /// Author (e.g., "John Hannibal Smith <hannibal@a-team.com>")
    #[arg(short, long, value_name = "string")]
    author: Option<String>,
    /// Apply Dockerfile instruction to the created image
    #[arg(short, long, value_name = "list")]
    change: Vec<String>,
    /// Index of the container if service has multiple replicas
    #[arg(long, value_name = "int")]
    index: Option<u32>,
    /// Commit message
    #[arg(short, long, value_name = "string")]
    message: Option<String>,
    /// Pause container during commit
    #[arg(short, long, value_name = "bool", num_args = 0..=1, require_equals = true, default_missing_value = "true", default_value_t = true, action = clap::ArgAction::Set)]
    pause: bool,
    #[arg(value_name = "SERVICE")]
    service: String,
    #[arg(value_name = "REPOSITORY[:TAG]")]
    reference: Option<String>,
}

/// Flags of `compose export`.
#[derive(Args)]
pub struct ExportFlags {
    /// Index of the container if service has multiple replicas
    #[arg(long, value_name = "int")]
    index: Option<u32>,
    /// Write to a file, instead of STDOUT
    #[arg(short, long, value_name = "string")]
    output: Option<PathBuf>,
    #[arg(value_name = "SERVICE")]
    service: String,
}

/// The container of a service that is meant; with `running`, one that runs.
async fn container(s: &Session<'_>, service: &str, index: Option<u32>, running: bool) -> Result<Found> {
    let named = [service.to_owned()];
    let subject = s.files.find(&named)?;
    let found = found::of(s.api, &subject.name, &named).await?;
    lifecycle::known(&subject, &named, &found)?;
    match running {
        true => found::one(s.api, &subject.name, service, index).await,
        false => found::any(found, service, index),
    }
}

pub async fn attach(s: &Session<'_>, flags: AttachFlags) -> Result<u8> {
    let container = container(s, &flags.service, flags.index, true).await?;
    let args = AttachArgs {
        detach_keys: flags.detach_keys,
        no_stdin: flags.no_stdin,
        sig_proxy: flags.sig_proxy,
        container: container.id,
    };
    containers::attach(s.api, args).await
}

pub async fn commit(s: &Session<'_>, flags: CommitFlags) -> Result<()> {
    let container = container(s, &flags.service, flags.index, false).await?;
    let args = CommitArgs {
        author: flags.author,
        change: flags.change,
        message: flags.message,
        pause: flags.pause,
        container: container.id,
        reference: flags.reference,
    };
    files::commit(s.api, args).await
}

pub async fn export(s: &Session<'_>, flags: ExportFlags) -> Result<()> {
    let container = container(s, &flags.service, flags.index, false).await?;
    if s.rehearsal.is_some() {
        s.report.container(&container.name, "Exported");
        return Ok(());
    }
    files::export(s.api, &container.id, flags.output).await
}
