//! Commands on images: images, load, import, rmi, tag, save.

use std::path::PathBuf;

use anyhow::{Context, Result};
use clap::Subcommand;
use futures::TryStreamExt;
use http_body_util::BodyDataStream;
use hyper::Method;
use serde_json::Value;
use tokio::io::AsyncBufReadExt;

use super::api::{Api, Body, Query, encode, full, reader};
use super::each;
use super::output::{self, Table, short_id};

#[derive(Subcommand)]
pub enum ImageCommand {
    /// List images
    Images {
        /// Only IDs
        #[arg(short, long)]
        quiet: bool,
        /// Whole IDs
        #[arg(long)]
        no_trunc: bool,
        /// Filter, name=value
        #[arg(short, long)]
        filter: Vec<String>,
        /// Template for each line
        #[arg(long)]
        format: Option<String>,
    },
    /// Load images from an archive of `save` or an OCI layout
    Load {
        /// Archive [default: stdin]
        #[arg(short, long)]
        input: Option<PathBuf>,
        /// Say nothing while loading
        #[arg(short, long)]
        quiet: bool,
    },
    /// Make an image out of a plain tar
    Import {
        /// Dockerfile instruction to apply
        #[arg(short, long)]
        change: Vec<String>,
        /// Message for the history
        #[arg(short, long)]
        message: Option<String>,
        /// Tar file, - for stdin
        file: PathBuf,
        /// Name of the image
        reference: Option<String>,
    },
    /// Remove images
    Rmi {
        /// Also when a stopped container uses it
        #[arg(short, long)]
        force: bool,
        /// Names or IDs
        #[arg(required = true)]
        images: Vec<String>,
    },
    /// Give an image another name
    Tag {
        /// Image
        source: String,
        /// Its new name
        target: String,
    },
    /// Write images to an archive
    Save {
        /// File [default: stdout]
        #[arg(short, long)]
        output: Option<PathBuf>,
        /// Names or IDs
        #[arg(required = true)]
        images: Vec<String>,
    },
}

pub async fn run(api: &Api, command: ImageCommand) -> Result<()> {
    match command {
        ImageCommand::Images { quiet, no_trunc, filter, format } => {
            let found = api.get("/images/json", &Query::new().filters(&filter)?).await?;
            list(&found, quiet, no_trunc, format.as_deref())
        }
        ImageCommand::Load { input, quiet } => {
            progress(api, "/images/load", &Query::new().flag("quiet", quiet), open(input.as_deref()).await?)
                .await
        }
        ImageCommand::Import { change, message, file, reference } => {
            let mut query = Query::new().with("fromSrc", "-");
            for one in &change {
                query = query.with("changes", one);
            }
            if let Some(message) = message {
                query = query.with("message", message);
            }
            if let Some(reference) = reference {
                query = query.with("repo", reference);
            }
            let from = (file.as_os_str() != "-").then_some(file.as_path());
            progress(api, "/images/create", &query, open(from).await?).await
        }
        ImageCommand::Rmi { force, images } => {
            each(&images, async |name| {
                let removed = api
                    .delete(&format!("/images/{}", encode(&name)), &Query::new().flag("force", force))
                    .await?;
                for one in removed.as_array().into_iter().flatten() {
                    for (what, id) in one.as_object().into_iter().flatten() {
                        println!("{what}: {}", id.as_str().unwrap_or_default());
                    }
                }
                Ok(())
            })
            .await
        }
        ImageCommand::Tag { source, target } => {
            let path = format!("/images/{}/tag", encode(&source));
            api.post(&path, &Query::new().with("repo", target), None).await.map(drop)
        }
        ImageCommand::Save { output, images } => {
            let query = images.iter().fold(Query::new(), |q, name| q.with("names", name));
            save(api, &query, output).await
        }
    }
}

async fn open(path: Option<&std::path::Path>) -> Result<Body> {
    match path {
        None => Ok(reader(tokio::io::stdin())),
        Some(path) => {
            let file = tokio::fs::File::open(path).await;
            Ok(reader(file.with_context(|| format!("open {}", path.display()))?))
        }
    }
}

/// Sends an archive and prints what the daemon says of it, line by line; an error in the stream fails.
async fn progress(api: &Api, path: &str, query: &Query, body: Body) -> Result<()> {
    let headers = [("Content-Type", "application/x-tar")];
    let response = api.send(Method::POST, path, query, body, &headers).await?;
    let bytes = BodyDataStream::new(response.into_body()).map_err(std::io::Error::other);
    let mut lines = tokio::io::BufReader::new(tokio_util::io::StreamReader::new(bytes)).lines();
    while let Some(line) = lines.next_line().await? {
        let Ok(message) = serde_json::from_str::<Value>(&line) else { continue };
        if let Some(error) = message["error"].as_str() {
            anyhow::bail!("{error}");
        }
        for text in [&message["stream"], &message["status"]].into_iter().filter_map(Value::as_str) {
            println!("{}", text.trim_end());
        }
    }
    Ok(())
}

async fn save(api: &Api, query: &Query, to: Option<PathBuf>) -> Result<()> {
    let response = api.send(Method::GET, "/images/get", query, full(""), &[]).await?;
    let bytes = BodyDataStream::new(response.into_body()).map_err(std::io::Error::other);
    let mut from = tokio_util::io::StreamReader::new(bytes);
    match to {
        None => drop(tokio::io::copy(&mut from, &mut tokio::io::stdout()).await?),
        Some(path) => {
            let file = tokio::fs::File::create(&path).await;
            let mut file = file.with_context(|| format!("make {}", path.display()))?;
            tokio::io::copy(&mut from, &mut file).await?;
            file.sync_all().await?;
        }
    }
    Ok(())
}

fn list(found: &Value, quiet: bool, whole: bool, format: Option<&str>) -> Result<()> {
    let mut table = Table::new(&["REPOSITORY", "TAG", "IMAGE ID", "CREATED", "SIZE"]);
    for image in found.as_array().into_iter().flatten() {
        let id = short_id(image["Id"].as_str().unwrap_or_default(), whole);
        if quiet {
            println!("{id}");
            continue;
        }
        let tags: Vec<_> =
            image["RepoTags"].as_array().into_iter().flatten().filter_map(Value::as_str).collect();
        let tags = if tags.is_empty() { vec!["<none>:<none>"] } else { tags };
        for tag in tags {
            let (name, tag) = tag.rsplit_once(':').unwrap_or((tag, "<none>"));
            table.row(vec![
                name.into(),
                tag.into(),
                id.clone(),
                format!(
                    "{} ago",
                    output::duration(output::since_unix(image["Created"].as_i64().unwrap_or(0)))
                ),
                output::size(image["Size"].as_i64().unwrap_or(0)),
            ]);
        }
    }
    if quiet { Ok(()) } else { table.print(format) }
}
