//! `cp`: between a container and this host, or our own standard streams.

mod local;
mod paths;

use std::io::IsTerminal;

use anyhow::{Context, Result, bail};
use base64::Engine as _;
use clap::Args;
use hyper::Method;
use serde_json::Value;
use tokio_util::io::SyncIoBridge;

use super::api::{Api, Query, encode, full, reader};
use super::{containers, human, is_not_found};
use local::Counted;
pub use paths::clean;
use paths::{Place, base, parent_and_base};

/// Flags of `cp`.
#[derive(Args)]
pub struct CopyArgs {
    /// Archive mode (copy all uid/gid information)
    #[arg(short, long)]
    pub archive: bool,
    /// Always follow symbol link in SRC_PATH
    #[arg(short = 'L', long)]
    pub follow_link: bool,
    /// Suppress progress output during copy. Progress output is automatically suppressed if no terminal is attached
    #[arg(short, long, value_name = "bool", num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    pub quiet: Option<bool>,
    #[arg(value_name = "CONTAINER:SRC_PATH|SRC_PATH|-")]
    pub source: String,
    #[arg(value_name = "DEST_PATH|-|CONTAINER:DEST_PATH", allow_hyphen_values = true)]
    pub destination: String,
}

/// Go's bits of a file's mode.
const DIR: u64 = 1 << 31;
const LINK: u64 = 1 << 27;
const SPECIAL: u64 = 1 << 26 | 1 << 25 | 1 << 24 | 1 << 21 | 1 << 19;

pub async fn run(api: &Api, args: CopyArgs) -> Result<()> {
    if args.source.is_empty() {
        bail!("source can not be empty");
    }
    if args.destination.is_empty() {
        bail!("destination can not be empty");
    }
    match (Place::read(&args.source), Place::read(&args.destination)) {
        (Place::Container(c, from), Place::Local(to)) => out(api, &c, &from, &to, &args).await,
        (Place::Local(from), Place::Container(c, to)) => into(api, &from, &c, &to, &args).await,
        (Place::Container(..), Place::Container(..)) => {
            bail!("copying between containers is not supported")
        }
        (Place::Local(_), Place::Local(_)) => bail!("must specify at least one container source"),
    }
}

/// What is at a path of a container.
async fn stat(api: &Api, container: &str, path: &str) -> Result<Value> {
    let at = format!("/containers/{}/archive", encode(container));
    let answer = api.send(Method::HEAD, &at, &Query::new().with("path", path), full(""), &[]).await;
    read_stat(answer.map_err(|e| told(e, container, path))?.headers())
}

/// The answer to HEAD has no words of its own.
fn told(e: anyhow::Error, container: &str, path: &str) -> anyhow::Error {
    match is_not_found(&e) {
        true => anyhow::anyhow!(
            "Error response from daemon: Could not find the file {path} in container {container}"
        ),
        false => e,
    }
}

fn read_stat(headers: &hyper::HeaderMap) -> Result<Value> {
    let header =
        headers.get("X-Docker-Container-Path-Stat").context("the daemon does not tell of the path")?;
    let json = base64::engine::general_purpose::STANDARD.decode(header.as_bytes())?;
    Ok(serde_json::from_slice(&json)?)
}

fn mode(stat: &Value) -> u64 {
    stat["mode"].as_u64().unwrap_or(0)
}

async fn out(api: &Api, container: &str, from: &str, to: &str, args: &CopyArgs) -> Result<()> {
    let (mut from, mut name) = (from.to_owned(), None);
    if to != "-" {
        local::check_output(to)?;
    }
    if args.follow_link {
        let found = stat(api, container, &from).await;
        if let Ok(found) = found
            && mode(&found) & LINK != 0
        {
            let target = found["linkTarget"].as_str().unwrap_or_default().to_owned();
            name = Some(base(&from)).filter(|n| *n != base(&target));
            from = target;
        }
    }
    let at = format!("/containers/{}/archive", encode(container));
    let query = Query::new().with("path", &from);
    let response = api.send(Method::GET, &at, &query, full(""), &[]).await?;
    let found = read_stat(response.headers())?;
    let stream = containers::bytes(response);
    if to == "-" {
        return super::stream::copy(stream, true).await;
    }
    let is_dir = mode(&found) & DIR != 0;
    let renamed = local::placed(&base(&from), name.as_deref(), is_dir, to)?;
    let bridge = SyncIoBridge::new(stream);
    let copied = tokio::task::spawn_blocking(move || {
        let mut counted = Counted { inner: bridge, bytes: 0 };
        let done = local::unpack(&mut counted, &renamed);
        // What follows the end mark belongs to the archive.
        let rest = std::io::copy(&mut counted, &mut std::io::sink());
        done.and(rest.map_err(Into::into)).map(|_| counted.bytes)
    });
    let bytes = copied.await??;
    say_copied(args, bytes, &paths::absolute(to)?);
    Ok(())
}

async fn into(api: &Api, from: &str, container: &str, to: &str, args: &CopyArgs) -> Result<()> {
    let mut place = to.to_owned();
    let mut found = stat(api, container, to).await;
    if let Ok(stat_of_link) = &found
        && mode(stat_of_link) & LINK != 0
    {
        place = stat_of_link["linkTarget"].as_str().unwrap_or_default().to_owned();
        found = stat(api, container, &place).await;
    }
    // What is not there yet may still be made; a container that is not there is told of by the copy itself.
    let (exists, is_dir) = match &found {
        Ok(found) if mode(found) & SPECIAL != 0 => {
            bail!("destination \"{container}:{to}\" must be a directory or a regular file")
        }
        Ok(found) => (true, mode(found) & DIR != 0),
        Err(_) => (false, false),
    };
    let (directory, body, count) = if from == "-" {
        if !is_dir {
            bail!("destination \"{container}:{to}\" must be a directory");
        }
        (place.clone(), reader(tokio::io::stdin()), None)
    } else {
        let source = local::Source::find(from, args.follow_link)?;
        let (above, last) = parent_and_base(&place);
        let (directory, name) = match (exists, is_dir, source.is_dir) {
            (true, true, _) => (place.clone(), source.name.clone()),
            (true, false, true) => bail!("cannot copy directory"),
            (false, _, false) if place.ends_with('/') || place.ends_with("/.") => bail!("no such directory"),
            _ => (above, last),
        };
        let (near, far) = tokio::io::duplex(256 << 10);
        let bridge = SyncIoBridge::new(near);
        let packing = tokio::task::spawn_blocking(move || source.pack(bridge, &name));
        (directory, reader(far), Some(packing))
    };
    let at = format!("/containers/{}/archive", encode(container));
    let mut query = Query::new().with("noOverwriteDirNonDir", "true").with("path", &directory);
    if args.archive {
        query = query.with("copyUIDGID", "true");
    }
    api.send(Method::PUT, &at, &query, body, &[("Content-Type", "application/x-tar")]).await?;
    if let Some(packing) = count {
        say_copied(args, packing.await??, &format!("{container}:{place}"));
    }
    Ok(())
}

fn say_copied(args: &CopyArgs, bytes: u64, to: &str) {
    if !args.quiet.unwrap_or_else(|| !std::io::stdout().is_terminal()) {
        eprintln!("Successfully copied {} to {to}", human::size(i64::try_from(bytes).unwrap_or(i64::MAX)));
    }
}
