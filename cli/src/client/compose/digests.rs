//! Images of services by what their registries hold under their names now.

use anyhow::{Context, Result};
use serde_json::Value;

use super::super::images::full_name;
use super::super::registry;
use super::Session;
use crate::compose::Node;

/// Adds its digest to each image that has none.
pub async fn pin(s: &Session<'_>, root: &mut Node) -> Result<()> {
    for (key, service) in root.get_mut("services").map(Node::entries_mut).unwrap_or_default() {
        let Some(image) = service.get_mut("image").filter(|i| i.text().is_some_and(|t| !t.contains('@')))
        else {
            continue;
        };
        let name = full_name(image.text().unwrap_or_default());
        let found = registry::in_registry(s.api, &name).await;
        let found = found.with_context(|| format!("service {:?}: image {name}", key.text))?;
        let Value::String(digest) = &found["Descriptor"]["digest"] else {
            anyhow::bail!("the daemon tells no digest of {name}");
        };
        *image = Node::string(&image.at.clone(), format!("{name}@{digest}"));
    }
    Ok(())
}

/// A file that says the images of services and nothing else.
pub fn alone(root: &Node) -> Node {
    let (mut file, mut services) = (Node::map(&root.at), Node::map(&root.at));
    for (key, service) in root.get("services").map(Node::entries).unwrap_or_default() {
        let mut only = Node::map(&service.at);
        if let Some(image) = service.get("image") {
            only.set("image", image.clone());
        }
        services.set(&key.text, only);
    }
    file.set("services", services);
    file
}
