//! Images as `docker images` and `inspect` show them.

use serde_json::{Value, json};
use skep_engine::Image;

use super::time;

/// A row of the listing.
pub fn summary(i: &Image, containers: i64) -> Value {
    json!({
        "Id": i.id,
        "ParentId": "",
        "RepoTags": i.references,
        "RepoDigests": i.digests,
        "Created": i.created_at_ns / 1_000_000_000,
        "Size": i.size,
        "SharedSize": -1,
        "VirtualSize": i.size,
        "Labels": if i.config.labels.is_empty() { Value::Null } else { json!(i.config.labels) },
        "Containers": containers,
    })
}

/// The whole of it.
pub fn inspect(i: &Image) -> Value {
    let mut config = json!(i.config);
    // Empty lists are null in Docker's answers.
    for key in ["Cmd", "Entrypoint", "Labels", "Volumes", "OnBuild"] {
        if config.get(key).is_none_or(crate::fields::is_zero)
            && config[key].as_object().is_none_or(|o| o.is_empty())
        {
            config[key] = Value::Null;
        }
    }
    json!({
        "Id": i.id,
        "RepoTags": i.references,
        "RepoDigests": i.digests,
        "Parent": "",
        "Comment": i.comment,
        "Created": time::from_ns(i.created_at_ns),
        "DockerVersion": "",
        "Author": i.author,
        "Config": config,
        "Architecture": i.architecture,
        "Variant": i.variant,
        "Os": i.os,
        "Size": i.size,
        "VirtualSize": i.size,
        "GraphDriver": { "Data": null, "Name": "overlayfs" },
        "RootFS": { "Type": "layers", "Layers": i.layers },
        "Metadata": { "LastTagTime": time::NEVER },
    })
}
