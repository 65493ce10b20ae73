//! `compose images`: what the containers of a project were made of.

use anyhow::Result;
use clap::Args;
use serde_json::{Value, json};

use super::super::output::{Column, Listing, say, text};
use super::super::{human, images};
use super::{Session, found, image};

/// Flags of `compose images`.
#[derive(Args)]
pub struct ImageFlags {
    /// Format the output. Values: [table | json]
    #[arg(long, value_name = "string", default_value = "table", value_parser = ["table", "json"])]
    format: String,
    /// Only display IDs
    #[arg(short, long)]
    quiet: bool,
    #[arg(value_name = "SERVICE")]
    services: Vec<String>,
}

const COLUMNS: &[Column] = &[
    ("Container", "CONTAINER"),
    ("Repository", "REPOSITORY"),
    ("Tag", "TAG"),
    ("Platform", "PLATFORM"),
    ("ID", "IMAGE ID"),
    ("Size", "SIZE"),
    ("Created", "CREATED"),
];
const TABLE: &str =
    "{{.Container}}\t{{.Repository}}\t{{.Tag}}\t{{.Platform}}\t{{.ID}}\t{{.Size}}\t{{.Created}}";

pub async fn run(s: &Session<'_>, flags: &ImageFlags) -> Result<()> {
    let subject = s.files.find(&flags.services)?;
    let found = found::of(s.api, &subject.name, &flags.services).await?;
    let (mut listing, mut rows, mut ids) = (Listing::new(COLUMNS, TABLE), Vec::new(), Vec::new());
    for container in &found {
        let id = text(&container.raw, "ImageID");
        let image = image::inspect(s.api, &id).await?.unwrap_or_default();
        // The container may be called after an image that has another name by now.
        let name = text(&container.raw, "Image");
        let (repository, tag) = match name.starts_with("sha256:") {
            true => ("<none>", "<none>"),
            false => images::split(&name),
        };
        let mut platform = format!("{}/{}", text(&image, "Os"), text(&image, "Architecture"));
        if let Some(variant) = image["Variant"].as_str().filter(|v| !v.is_empty()) {
            platform += &format!("/{variant}");
        }
        let (size, created) = (image["Size"].as_i64().unwrap_or(0), text(&image, "Created"));
        ids.push(id.trim_start_matches("sha256:").to_owned());
        rows.push(json!({
            "ID": id, "ContainerName": container.name, "Repository": repository, "Tag": tag, "Platform": platform,
            "Size": size, "Created": created,
        }));
        listing.row(
            vec![
                container.name.as_str().into(),
                repository.into(),
                tag.into(),
                platform.into(),
                human::short_id(&id, false).into(),
                human::size(size).into(),
                format!("{} ago", human::duration(human::since(&created))).into(),
            ],
            &Value::Null,
        );
    }
    if flags.quiet {
        ids.sort();
        ids.dedup();
        return ids.iter().try_for_each(|id| say!("{id}"));
    }
    if flags.format == "json" { say!("{}", Value::from(rows)) } else { listing.print(false, None) }
}
