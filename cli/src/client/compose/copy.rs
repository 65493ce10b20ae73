//! `compose cp`.

use anyhow::{Result, bail};
use clap::Args;

use super::super::copy::{self, CopyArgs};
use super::{Session, found};

/// Flags of `compose cp`.
#[derive(Args)]
pub struct CopyFlags {
    /// Include containers created by the run command
    #[arg(long)]
    all: bool,
    /// Archive mode (copy all uid/gid information)
    #[arg(short, long)]
    archive: bool,
    /// Always follow symbol link in SRC_PATH
    #[arg(short = 'L', long)]
    follow_link: bool,
    /// Index of the container if service has multiple replicas
    #[arg(long, value_name = "int")]
    index: Option<u32>,
    #[arg(value_name = "SERVICE:SRC_PATH|SRC_PATH|-")]
    source: String,
    #[arg(value_name = "DEST_PATH|-|SERVICE:DEST_PATH", allow_hyphen_values = true)]
    destination: String,
}

/// `SERVICE:PATH`, unless it is plainly a path.
fn place(text: &str) -> Option<(&str, &str)> {
    text.split_once(':').filter(|(service, _)| !text.starts_with('/') && !service.starts_with('.'))
}

pub async fn run(s: &Session<'_>, flags: CopyFlags) -> Result<()> {
    let subject = s.files.find(&[])?;
    let (from, to) = (place(&flags.source), place(&flags.destination));
    let service = match (from, to) {
        (Some(_), Some(_)) => bail!("copying between services is not supported"),
        (Some((service, _)), None) | (None, Some((service, _))) => service.to_owned(),
        (None, None) => bail!("unknown copy direction: name a service as SERVICE:PATH on one side"),
    };
    let mut found = match flags.all {
        true => {
            found::all(s.api, &subject.name).await?.into_iter().filter(|c| c.service == service).collect()
        }
        false => found::of(s.api, &subject.name, std::slice::from_ref(&service)).await?,
    };
    if let Some(index) = flags.index {
        found.retain(|c| c.number == index);
    }
    // Into all of a service's containers; out of one.
    if from.is_some() {
        found.truncate(1);
    }
    if found.is_empty() {
        bail!("no container found for service {service:?}");
    }
    for container in found {
        if s.rehearsal.is_some() {
            s.report.container(&container.name, "Copied");
            continue;
        }
        let at = |(_, path): (&str, &str)| format!("{}:{path}", container.name);
        let args = CopyArgs {
            archive: flags.archive,
            follow_link: flags.follow_link,
            quiet: s.report.is_quiet().then_some(true),
            source: from.map_or_else(|| flags.source.clone(), at),
            destination: to.map_or_else(|| flags.destination.clone(), at),
        };
        copy::run(s.api, args).await?;
    }
    Ok(())
}
