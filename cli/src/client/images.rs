//! Commands on images: ls, load, import, rm, tag, save.

use std::io::IsTerminal;
use std::path::PathBuf;

use anyhow::{Context, Result, bail};
use clap::{Args, Subcommand};
use futures::TryStreamExt;
use http_body_util::BodyDataStream;
use hyper::Method;
use serde_json::Value;

use super::api::{Api, Body, Query, encode, full, reader};
use super::messages::{self, Show};
use super::output::{Column, Listing, say, text};
use super::{each, human, reference};

/// Commands that stand by themselves and under `image`.
#[derive(Subcommand)]
pub enum ImageCommand {
    /// Import the contents from a tarball to create a filesystem image
    Import {
        /// Apply Dockerfile instruction to the created image
        #[arg(short, long, value_name = "list")]
        change: Vec<String>,
        /// Set commit message for imported image
        #[arg(short, long, value_name = "string")]
        message: Option<String>,
        /// Set platform if the server is capable of several
        #[arg(long, value_name = "string")]
        platform: Option<String>,
        #[arg(value_name = "file|URL|-")]
        file: PathBuf,
        #[arg(value_name = "REPOSITORY[:TAG]")]
        reference: Option<String>,
    },
    /// Load an image from a tar archive or STDIN
    Load {
        /// Read from tar archive file, instead of STDIN
        #[arg(short, long, value_name = "string")]
        input: Option<PathBuf>,
        /// Load only the given platform variant. Formatted as "os[/arch[/variant]]" (e.g., "linux/amd64")
        #[arg(long, value_name = "string")]
        platform: Option<String>,
        /// Suppress the load output
        #[arg(short, long)]
        quiet: bool,
    },
    /// Save one or more images to a tar archive (streamed to STDOUT by default)
    Save {
        /// Write to a file, instead of STDOUT
        #[arg(short, long, value_name = "string")]
        output: Option<PathBuf>,
        /// Save only the given platform variant. Formatted as "os[/arch[/variant]]" (e.g., "linux/amd64")
        #[arg(long, value_name = "string")]
        platform: Option<String>,
        #[arg(required = true, value_name = "IMAGE")]
        images: Vec<String>,
    },
    /// Create a tag TARGET_IMAGE that refers to SOURCE_IMAGE
    Tag {
        #[arg(value_name = "SOURCE_IMAGE[:TAG]")]
        source: String,
        #[arg(value_name = "TARGET_IMAGE[:TAG]")]
        target: String,
    },
}

/// Flags of `rmi`, which is `image rm`.
#[derive(Args)]
pub struct RemoveArgs {
    /// Force removal of the image
    #[arg(short, long)]
    force: bool,
    /// Do not delete untagged parents
    #[arg(long)]
    no_prune: bool,
    #[arg(required = true, value_name = "IMAGE")]
    images: Vec<String>,
}

/// Flags of `images`, which is `image ls`.
#[derive(Args)]
pub struct ListArgs {
    /// Show all images (default hides intermediate images)
    #[arg(short, long)]
    all: bool,
    /// Show digests
    #[arg(long)]
    digests: bool,
    /// Filter output based on conditions provided
    #[arg(short, long, value_name = "filter", value_parser = super::usage::filter)]
    filter: Vec<String>,
    /// Format output: table, table TEMPLATE, json or a Go template
    #[arg(long, value_name = "string")]
    format: Option<String>,
    /// Don't truncate output
    #[arg(long)]
    no_trunc: bool,
    /// Only show image IDs
    #[arg(short, long)]
    quiet: bool,
    #[arg(value_name = "REPOSITORY[:TAG]")]
    reference: Option<String>,
}

pub async fn run(api: &Api, command: ImageCommand) -> Result<()> {
    match command {
        ImageCommand::Load { input, platform, quiet } => {
            if input.is_none() && std::io::stdin().is_terminal() {
                bail!("requested load from stdin, but stdin is empty");
            }
            let query = Query::new().flag("quiet", quiet || !std::io::stdout().is_terminal());
            let query = for_platform(query, platform.as_deref())?;
            send(api, "/images/load", &query, open(input.as_deref()).await?).await
        }
        ImageCommand::Import { change, message, platform, file, reference } => {
            let source = file.to_string_lossy();
            let url = ["http://", "https://"].iter().any(|scheme| source.starts_with(scheme));
            let query = Query::new().with("fromSrc", if url { &source } else { "-" });
            let mut query = change.iter().fold(query, |q, c| q.with("changes", c));
            for (name, value) in [("message", message), ("platform", platform), ("repo", reference)] {
                if let Some(value) = value {
                    query = query.with(name, value);
                }
            }
            let from = (file.as_os_str() != "-").then_some(file.as_path());
            // The daemon fetches it.
            let body = if url { full("") } else { open(from).await? };
            send(api, "/images/create", &query, body).await
        }
        ImageCommand::Tag { source, target } => {
            reference::check_named(&source)?;
            reference::check_named(&target)?;
            let path = format!("/images/{}/tag", encode(&source));
            let (repo, tag) = split(&target);
            api.post(&path, &Query::new().with("repo", repo).with("tag", tag), None).await.map(drop)
        }
        ImageCommand::Save { output, platform, images } => {
            if output.is_none() && std::io::stdout().is_terminal() {
                bail!("cowardly refusing to save to a terminal. Use the -o flag or redirect");
            }
            let query = images.iter().fold(Query::new(), |q, name| q.with("names", name));
            let query = for_platform(query, platform.as_deref())?;
            save(api, &query, output).await
        }
    }
}

/// A platform as the daemon wants it: in JSON.
fn for_platform(query: Query, platform: Option<&str>) -> Result<Query> {
    let Some(text) = platform else { return Ok(query) };
    let read = skep_registry::Platform::parse(text)?;
    Ok(query.with("platform", serde_json::to_string(&read)?))
}

/// Removes images.
pub async fn remove(api: &Api, args: &RemoveArgs) -> Result<()> {
    let query = Query::new().flag("force", args.force).flag("noprune", args.no_prune);
    each(&args.images, async |name| {
        let removed = api.delete(&format!("/images/{}", encode(&name)), &query).await?;
        for one in removed.as_array().into_iter().flatten() {
            for (what, id) in one.as_object().into_iter().flatten() {
                say!("{what}: {}", id.as_str().unwrap_or_default())?;
            }
        }
        Ok(())
    })
    .await
}

/// `repository` and `tag` of a reference; `latest` if it names neither tag nor digest.
pub fn split(reference: &str) -> (&str, &str) {
    match reference.rsplit_once(':') {
        Some((name, tag)) if !tag.contains('/') && !reference.contains('@') => (name, tag),
        _ if reference.contains('@') => (reference, ""),
        _ => (reference, "latest"),
    }
}

/// A reference with its tag, as people write it.
pub fn familiar(reference: &str) -> String {
    match split(reference) {
        (name, "") => name.to_owned(),
        (name, tag) => format!("{name}:{tag}"),
    }
}

/// A reference with registry and tag.
pub fn full_name(reference: &str) -> String {
    let familiar = familiar(reference);
    match familiar.split_once('/') {
        Some((host, _)) if host.contains(['.', ':']) || host == "localhost" => familiar,
        Some(_) => format!("docker.io/{familiar}"),
        None => format!("docker.io/library/{familiar}"),
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
async fn send(api: &Api, path: &str, query: &Query, body: Body) -> Result<()> {
    let headers = [("Content-Type", "application/x-tar")];
    let response = api.send(Method::POST, path, query, body, &headers).await?;
    messages::show(response, Show::Out, |_| {}).await
}

async fn save(api: &Api, query: &Query, to: Option<PathBuf>) -> Result<()> {
    let response = api.send(Method::GET, "/images/get", query, full(""), &[]).await?;
    let bytes = BodyDataStream::new(response.into_body()).map_err(std::io::Error::other);
    let mut from = tokio_util::io::StreamReader::new(bytes);
    match to {
        None => {
            let mut out = std::io::stdout();
            loop {
                let piece = tokio::io::AsyncBufReadExt::fill_buf(&mut from).await?;
                if piece.is_empty() {
                    return Ok(());
                }
                super::output::bytes(&mut out, piece)?;
                let length = piece.len();
                tokio::io::AsyncBufReadExt::consume(&mut from, length);
            }
        }
        Some(path) => {
            // Written beside and renamed: what was there stays whole if this fails half-way.
            let beside = path.with_extension(format!("skep-{}", std::process::id()));
            let file = tokio::fs::File::create(&beside).await;
            let mut file = file.with_context(|| format!("make {}", beside.display()))?;
            let written = async {
                tokio::io::copy(&mut from, &mut file).await?;
                file.sync_all().await?;
                tokio::fs::rename(&beside, &path).await
            };
            if let Err(e) = written.await {
                let _ = tokio::fs::remove_file(&beside).await;
                return Err(e).with_context(|| format!("write {}", path.display()));
            }
            Ok(())
        }
    }
}

const COLUMNS: &[Column] = &[
    ("ID", "IMAGE ID"),
    ("Repository", "REPOSITORY"),
    ("Tag", "TAG"),
    ("Digest", "DIGEST"),
    ("CreatedSince", "CREATED"),
    ("CreatedAt", "CREATED AT"),
    ("Size", "SIZE"),
    ("Containers", "CONTAINERS"),
    ("SharedSize", "SHARED SIZE"),
    ("UniqueSize", "UNIQUE SIZE"),
    ("VirtualSize", "SIZE"),
];
const TABLE: &str = "{{.Repository}}\t{{.Tag}}\t{{.ID}}\t{{.CreatedSince}}\t{{.Size}}";
const TABLE_WITH_DIGESTS: &str =
    "{{.Repository}}\t{{.Tag}}\t{{.Digest}}\t{{.ID}}\t{{.CreatedSince}}\t{{.Size}}";

/// Lists images.
pub async fn list(api: &Api, args: &ListArgs) -> Result<()> {
    let mut filters = args.filter.clone();
    filters.extend(args.reference.iter().map(|r| format!("reference={r}")));
    let query = Query::new().flag("all", args.all).flag("digests", args.digests).filters(&filters)?;
    let found = api.get("/images/json", &query).await?;
    let mut listing = Listing::new(COLUMNS, if args.digests { TABLE_WITH_DIGESTS } else { TABLE });
    for image in found.as_array().into_iter().flatten() {
        let list = |name: &str| {
            image[name]
                .as_array()
                .into_iter()
                .flatten()
                .filter_map(Value::as_str)
                .map(str::to_owned)
                .collect::<Vec<_>>()
        };
        let digests: Vec<_> = list("RepoDigests")
            .iter()
            .filter_map(|d| d.split_once('@'))
            .map(|(n, d)| (n.to_owned(), d.to_owned()))
            .collect();
        let tags = list("RepoTags");
        let tags = match (tags.is_empty(), digests.is_empty()) {
            (false, _) => tags,
            (true, true) => vec!["<none>:<none>".to_owned()],
            // Known by a digest only: its name is.
            (true, false) => digests.iter().map(|(n, _)| format!("{n}:<none>")).collect(),
        };
        for tag in &tags {
            let (name, tag) = tag.rsplit_once(':').unwrap_or((tag, "<none>"));
            let digest = digests.iter().find(|(n, _)| n == name).map_or("<none>", |(_, d)| d);
            listing.row(row(image, name, tag, digest, args.no_trunc), &image["Labels"]);
        }
    }
    listing.print(args.quiet, args.format.as_deref())
}

fn row(image: &Value, name: &str, tag: &str, digest: &str, whole: bool) -> Vec<Value> {
    let count = |field: &str| match image[field].as_i64() {
        None | Some(-1) => "N/A".to_owned(),
        Some(n) if field == "Containers" => n.to_string(),
        Some(n) => human::size(n),
    };
    let created = image["Created"].as_i64().unwrap_or(0);
    let since = if created <= 0 {
        "N/A".into()
    } else {
        format!("{} ago", human::duration(human::since_unix(created)))
    };
    let size = human::size(image["Size"].as_i64().unwrap_or(0));
    let unique = match (image["Size"].as_i64(), image["SharedSize"].as_i64()) {
        (Some(size), Some(shared)) if shared >= 0 => human::size(size - shared),
        _ => "N/A".into(),
    };
    vec![
        human::short_id(&text(image, "Id"), whole).into(),
        name.into(),
        tag.into(),
        digest.into(),
        since.into(),
        human::unix_time(created).into(),
        size.into(),
        count("Containers").into(),
        count("SharedSize").into(),
        unique.into(),
        human::long_size(image["Size"].as_i64().unwrap_or(0)).into(),
    ]
}
