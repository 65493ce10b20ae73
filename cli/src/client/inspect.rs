//! `inspect`: of whatever has the name.

use anyhow::{Result, bail};
use clap::Args;
use serde_json::Value;

use super::api::{Api, Query, encode};
use super::{is_not_found, output};

/// Flags of `inspect`.
#[derive(Args)]
pub struct InspectArgs {
    /// Format output: json or a Go template
    #[arg(short, long, value_name = "string")]
    format: Option<String>,
    /// Display total file sizes if the type is container
    #[arg(short, long)]
    size: bool,
    /// Only inspect objects of the given type
    #[arg(long = "type", value_name = "string")]
    kind: Option<String>,
    #[arg(required = true, value_name = "NAME|ID")]
    names: Vec<String>,
}

/// Kinds in the order they are tried, and where they are asked for.
const KINDS: [(&str, &str, &str); 9] = [
    ("container", "/containers/", "/json"),
    ("image", "/images/", "/json"),
    ("network", "/networks/", ""),
    ("volume", "/volumes/", ""),
    ("node", "/nodes/", ""),
    ("service", "/services/", ""),
    ("task", "/tasks/", ""),
    ("secret", "/secrets/", ""),
    ("config", "/configs/", ""),
];

/// Tries every kind of object for each name, or one.
pub async fn run(api: &Api, args: &InspectArgs) -> Result<()> {
    if let Some(kind) = &args.kind
        && !KINDS.iter().any(|(name, ..)| name == kind)
    {
        let mut names: Vec<_> = KINDS.iter().map(|(name, ..)| format!("{name:?}")).collect();
        names.sort();
        bail!("unknown type: {kind:?}: must be one of {}", names.join(", "));
    }
    output::inspect(&args.names, args.format.as_deref(), async |name: String| {
        let wanted = KINDS.iter().filter(|(kind, ..)| args.kind.as_ref().is_none_or(|k| k == kind));
        for (kind, before, after) in wanted {
            let query = Query::new().flag("size", args.size && *kind == "container");
            let query = if *kind == "service" { query.with("insertDefaults", "true") } else { query };
            match api.get(&format!("{before}{}{after}", encode(&name)), &query).await {
                Ok(found) => return Ok(found),
                // Outside a swarm its objects are not there to be found.
                Err(e) if is_absent(&e) && args.kind.is_none() => {}
                Err(e) => return Err(e),
            }
        }
        bail!("Error: No such object: {name}")
    })
    .await
}

fn is_absent(e: &anyhow::Error) -> bool {
    let text = e.to_string();
    is_not_found(e)
        || ["not a swarm manager", "not part of a swarm", "not supported"].iter().any(|t| text.contains(t))
}

/// One container.
pub async fn container(api: &Api, names: &[String], format: Option<&str>, size: bool) -> Result<()> {
    of(api, names, format, &Query::new().flag("size", size), "/containers/").await
}

/// One image.
pub async fn image(api: &Api, names: &[String], format: Option<&str>) -> Result<()> {
    of(api, names, format, &Query::new(), "/images/").await
}

async fn of(api: &Api, names: &[String], format: Option<&str>, query: &Query, at: &str) -> Result<()> {
    let get = async |name: String| -> Result<Value> {
        api.get(&format!("{at}{}/json", encode(&name)), query).await
    };
    output::inspect(names, format, get).await
}
