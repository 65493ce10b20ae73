//! `diff`, `export` and `commit`.

use std::io::IsTerminal;
use std::path::PathBuf;

use anyhow::{Context, Result, bail};
use clap::Args;

use super::api::{Api, Query, encode, full};
use super::containers;
use super::output::{say, text};

/// Flags of `commit`.
#[derive(Args)]
pub struct CommitArgs {
    /// Author (e.g., "John Hannibal Smith <hannibal@a-team.com>")
    #[arg(short, long, value_name = "string")]
    pub author: Option<String>,
    /// Apply Dockerfile instruction to the created image
    #[arg(short, long, value_name = "list")]
    pub change: Vec<String>,
    /// Commit message
    #[arg(short, long, value_name = "string")]
    pub message: Option<String>,
    /// Pause container during commit
    #[arg(short, long, value_name = "bool", num_args = 0..=1, require_equals = true, default_missing_value = "true", default_value_t = true, action = clap::ArgAction::Set)]
    pub pause: bool,
    #[arg(value_name = "CONTAINER")]
    pub container: String,
    #[arg(value_name = "REPOSITORY[:TAG]")]
    pub reference: Option<String>,
}

/// Makes an image of a container.
pub async fn commit(api: &Api, args: CommitArgs) -> Result<()> {
    let reference = args.reference.unwrap_or_default();
    let (repo, tag) = match reference.rsplit_once(':') {
        Some((repo, tag)) if !tag.contains('/') => (repo.to_owned(), tag.to_owned()),
        _ => (reference, String::new()),
    };
    let mut query = Query::new().with("author", args.author.unwrap_or_default());
    for change in &args.change {
        query = query.with("changes", change);
    }
    query = query
        .with("comment", args.message.unwrap_or_default())
        .with("container", &args.container)
        .with("repo", repo)
        .with("tag", tag);
    if !args.pause {
        query = query.with("pause", "0");
    }
    say!("{}", text(&api.post("/commit", &query, None).await?, "Id"))
}

/// Lists what a container changed.
pub async fn diff(api: &Api, container: &str) -> Result<()> {
    if container.is_empty() {
        bail!("Container name cannot be empty");
    }
    let found = api.get(&format!("/containers/{}/changes", encode(container)), &Query::new()).await?;
    for change in found.as_array().into_iter().flatten() {
        let letter = match change["Kind"].as_u64() {
            Some(0) => 'C',
            Some(1) => 'A',
            Some(2) => 'D',
            _ => '?',
        };
        say!("{letter} {}", text(change, "Path"))?;
    }
    Ok(())
}

/// Writes a container's files as a tar archive.
pub async fn export(api: &Api, container: &str, output: Option<PathBuf>) -> Result<()> {
    if output.is_none() && std::io::stdout().is_terminal() {
        bail!("cowardly refusing to save to a terminal. Use the -o flag or redirect");
    }
    let path = format!("/containers/{}/export", encode(container));
    let response = api.send(hyper::Method::GET, &path, &Query::new(), full(""), &[]).await?;
    let mut stream = containers::bytes(response);
    let Some(output) = output else { return super::stream::copy(stream, true).await };
    // Under its name only once it is whole.
    let mut name = output.file_name().context("name a file to write to")?.to_owned();
    name.push(format!(".{}", std::process::id()));
    let partial = output.with_file_name(name);
    let failed = || format!("write {}", partial.display());
    let mut file = tokio::fs::File::create(&partial).await.with_context(failed)?;
    let copied = tokio::io::copy(&mut stream, &mut file).await;
    if let Err(e) = copied {
        let _ = tokio::fs::remove_file(&partial).await;
        return Err(e).context("read the daemon's answer");
    }
    file.sync_all().await.with_context(failed)?;
    tokio::fs::rename(&partial, &output).await.with_context(|| format!("write {}", output.display()))
}
