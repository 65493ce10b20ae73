//! `compose config`: what the files come to.

use anyhow::{Context, Result};
use clap::Args;
use serde_json::Value;

use super::super::images::full_name;
use super::super::output::{say, write};
use super::super::service_image;
use super::container::{self, Made};
use super::{Session, service};
use crate::compose::{self, Kind, Node, Type};

/// Flags of `compose config`.
#[derive(Args)]
pub struct ConfigFlags {
    /// Print environment used for interpolation
    #[arg(long)]
    environment: bool,
    /// Format the output. Values: [yaml | json]
    #[arg(long, value_name = "string", default_value = "yaml", value_parser = ["yaml", "json"])]
    format: String,
    /// Print the service config hash, one per line
    #[arg(long, value_name = "string")]
    hash: Option<String>,
    /// Print the image names, one per line
    #[arg(long)]
    images: bool,
    /// Produces an override file with image digests
    #[arg(long)]
    lock_image_digests: bool,
    /// Print the network names, one per line
    #[arg(long)]
    networks: bool,
    /// Don't interpolate environment variables
    #[arg(long)]
    no_interpolate: bool,
    /// Save to file (default to stdout)
    #[arg(short, long, value_name = "string")]
    output: Option<std::path::PathBuf>,
    /// Print the profile names, one per line
    #[arg(long)]
    profiles: bool,
    /// Only validate the configuration, don't print anything
    #[arg(short, long)]
    quiet: bool,
    /// Pin image tags to digests
    #[arg(long)]
    resolve_image_digests: bool,
    /// Print the service names, one per line
    #[arg(long)]
    services: bool,
    /// Print the volume names, one per line
    #[arg(long)]
    volumes: bool,
    #[arg(value_name = "SERVICE")]
    names: Vec<String>,
}

pub async fn run(s: &Session<'_>, flags: &ConfigFlags) -> Result<()> {
    let mut project = s.files.load_as(&flags.names, !flags.no_interpolate)?;
    if !flags.names.is_empty() {
        let wanted = project.selected(&flags.names, true)?;
        let others: Vec<String> =
            project.services().map(|(n, _)| n.to_owned()).filter(|n| !wanted.contains(n)).collect();
        if let Some(services) = project.root.get_mut("services") {
            others.iter().for_each(|n| drop(services.remove(n)));
        }
        service::complete(&mut project.root, &project.name.clone());
    }
    if flags.resolve_image_digests || flags.lock_image_digests {
        pin(s, &mut project.root).await?;
    }
    if flags.quiet {
        return Ok(());
    }
    let names = |section: &str| -> Vec<String> {
        let entries = project.root.get(section).map(Node::entries).unwrap_or_default();
        entries.iter().map(|(k, _)| k.text.clone()).collect()
    };
    let lines = if flags.services {
        Some(names("services"))
    } else if flags.volumes {
        Some(names("volumes"))
    } else if flags.networks {
        Some(names("networks"))
    } else if flags.images {
        Some(project.services().map(|(n, s)| service::image(&project.name, n, s)).collect())
    } else if flags.profiles {
        let all = s.files.load_all()?;
        let of = |s: &Node| super::super::compose_parts::strings(s.get("profiles")).join("\n");
        let mut found: Vec<String> = all.services().map(|(_, s)| of(s)).filter(|p| !p.is_empty()).collect();
        found = found.iter().flat_map(|p| p.lines()).map(str::to_owned).collect();
        found.sort();
        found.dedup();
        Some(found)
    } else if flags.environment {
        Some(project.variables.iter().map(|(k, v)| format!("{k}={v}")).collect())
    } else if let Some(which) = &flags.hash {
        let wanted = |name: &str| which == "*" || which.split(',').any(|w| w == name);
        let hash = |(name, service): (&str, &Node)| {
            Ok(format!("{name} {}", container::hash(&project, name, service, &Made::default())?))
        };
        Some(project.services().filter(|(n, _)| wanted(n)).map(hash).collect::<Result<_>>()?)
    } else {
        None
    };
    if let Some(lines) = lines {
        return lines.iter().try_for_each(|l| say!("{l}"));
    }
    let mut root = project.root;
    if flags.lock_image_digests {
        only_images(&mut root);
    }
    defaults(&mut root);
    let text = match flags.format.as_str() {
        "json" => serde_json::to_string_pretty(&json(&root))? + "\n",
        _ => compose::to_yaml(&root),
    };
    // What is printed can be read again.
    let text = if flags.no_interpolate { text } else { text.replace('$', "$$") };
    match &flags.output {
        Some(file) => std::fs::write(file, text).with_context(|| format!("write {}", file.display())),
        None => write(format_args!("{text}")),
    }
}

/// Names each service's image by the digest that its registry has for it now.
async fn pin(s: &Session<'_>, root: &mut Node) -> Result<()> {
    for (name, service) in root.get_mut("services").map(Node::entries_mut).unwrap_or_default() {
        let Some(image) = service.get_mut("image") else { continue };
        let Some(named) = image.text().filter(|text| !text.contains('@')).map(full_name) else { continue };
        let auth = s.api.credentials_for(&named)?;
        let told = service_image::told(s.api, &named, &auth).await;
        let told =
            told.with_context(|| format!("services.{}.image: find the digest of {named}", name.text))?;
        let digest = told["Descriptor"]["digest"].as_str().context("the registry told no digest")?;
        *image = Node::string(&image.at.clone(), format!("{named}@{digest}"));
    }
    Ok(())
}

/// Leaves the images of services, and nothing else.
fn only_images(root: &mut Node) {
    let Kind::Map(entries) = &mut root.kind else { return };
    entries.retain(|(section, _)| section.text == "services");
    for (_, service) in entries.iter_mut().flat_map(|(_, services)| services.entries_mut()) {
        if let Kind::Map(keys) = &mut service.kind {
            keys.retain(|(key, _)| key.text == "image");
        }
    }
}

/// Says what Docker's own says of what was left out.
fn defaults(root: &mut Node) {
    for (_, service) in root.get_mut("services").map(Node::entries_mut).unwrap_or_default() {
        if let Some(Node { kind: Kind::List(ports), .. }) = service.get_mut("ports") {
            for published in ports.iter_mut().filter_map(|p| p.get_mut("published")) {
                if let Kind::Scalar(ty, _) = &mut published.kind {
                    *ty = Type::Str;
                }
            }
        }
        for section in ["secrets", "configs"] {
            let items = service.get_mut(section).and_then(|s| match &mut s.kind {
                Kind::List(items) => Some(items),
                _ => None,
            });
            for mode in items.into_iter().flatten().filter_map(|item| item.get_mut("mode")) {
                if let Some(bits) = mode.text().and_then(|t| t.parse::<u32>().ok()) {
                    *mode = Node::string(&mode.at.clone(), format!("0{bits:o}"));
                }
            }
        }
        for (_, need) in service.get_mut("depends_on").map(Node::entries_mut).unwrap_or_default() {
            let at = need.at.clone();
            if need.get("condition").is_none() {
                need.set("condition", Node::string(&at, "service_started"));
            }
            if need.get("required").is_none() {
                need.set("required", Node::bool(&at, true));
            }
        }
    }
    compose::sort(root);
}

/// A tree as JSON.
fn json(node: &Node) -> Value {
    match &node.kind {
        Kind::Map(entries) => Value::Object(entries.iter().map(|(k, v)| (k.text.clone(), json(v))).collect()),
        Kind::List(items) => items.iter().map(json).collect(),
        Kind::Scalar(Type::Null, _) => Value::Null,
        Kind::Scalar(Type::Bool, text) => (text == "true").into(),
        Kind::Scalar(Type::Int | Type::Float, text) => text
            .parse::<i64>()
            .map(Value::from)
            .or_else(|_| text.parse::<f64>().map(Value::from))
            .unwrap_or_default(),
        Kind::Scalar(Type::Str, text) => text.as_str().into(),
    }
}
