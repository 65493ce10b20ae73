//! The named volumes of a project.

use anyhow::{Context, Result, bail};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use super::super::api::{Query, encode};
use super::super::compose_parts::pairs;
use super::super::create_body::without_empty;
use super::super::human::hex;
use super::super::is_not_found;
use super::super::output::text;
use super::found::{self, HASH, PROJECT, VERSION};
use super::project::Project;
use super::{Session, create, service};
use crate::compose::Node;

const VOLUME: &str = "com.docker.compose.volume";

/// Sees to it that the project's volumes are there.
pub async fn ensure(s: &Session<'_>, project: &Project, options: &create::Options) -> Result<()> {
    for (key, node) in project.root.get("volumes").map(Node::entries).unwrap_or_default() {
        let name = service::name_of(&project.root, "volumes", &key.text);
        one(s, project, options, &key.text, &name, node).await.with_context(|| format!("volume {name:?}"))?;
    }
    Ok(())
}

async fn one(
    s: &Session<'_>,
    project: &Project,
    options: &create::Options,
    key: &str,
    name: &str,
    node: &Node,
) -> Result<()> {
    let held = match s.api.get(&format!("/volumes/{}", encode(name)), &Query::new()).await {
        Err(e) if is_not_found(&e) => None,
        other => Some(other?),
    };
    if node.is_set("external") {
        return match held {
            Some(_) => Ok(()),
            None => bail!("external volume {name:?} not found"),
        };
    }
    let mut body = json!({
        "Name": name, "Driver": node.text_of("driver"), "DriverOpts": pairs(node.get("driver_opts")),
    });
    without_empty(&mut body);
    let mut labels = pairs(node.get("labels"));
    let hash = hex(&Sha256::digest(format!("{body}{}", Value::Object(labels.clone()))));
    for (label, value) in [
        (VOLUME, key.to_owned()),
        (PROJECT, project.name.clone()),
        (VERSION, env!("CARGO_PKG_VERSION").to_owned()),
        (HASH, hash.clone()),
    ] {
        labels.insert(label.into(), value.into());
    }
    body["Labels"] = labels.into();
    if let Some(held) = held {
        let (owner, before) = (text(&held["Labels"], PROJECT), text(&held["Labels"], HASH));
        if owner.is_empty() {
            s.report.note(&format!(
                "volume {name:?} already exists but was not created by compose. Use `external: true` to use an existing volume"
            ));
        } else if owner != project.name {
            s.report.note(&format!(
                "volume {name:?} already exists but was created for project {owner:?} (expected {:?}). Use `external: true` to use an existing volume",
                project.name
            ));
        } else if before != hash && text(&held["Labels"], VERSION) == env!("CARGO_PKG_VERSION") {
            if options.yes {
                replace(s, project, options, name).await?;
                return make(s, name, &body).await;
            }
            s.report.note(&format!(
                "volume {name:?} exists but is not what the file says now: it stays as it is, with its data; to have it made anew without its data, say --yes, or remove it"
            ));
        }
        return Ok(());
    }
    make(s, name, &body).await
}

async fn make(s: &Session<'_>, name: &str, body: &Value) -> Result<()> {
    s.report.tell("Volume", name, "Creating");
    s.api.post("/volumes/create", &Query::new(), Some(body)).await?;
    s.report.tell("Volume", name, "Created");
    Ok(())
}

/// Takes away a volume that is not what the file says, with its data and the project's containers that mount it; those are
/// made anew later. Nothing goes where somebody else's container uses it.
async fn replace(s: &Session<'_>, project: &Project, options: &create::Options, name: &str) -> Result<()> {
    let users = found::with_volume(s.api, name).await?;
    if let Some(other) = users.iter().find(|c| c.label(PROJECT) != project.name) {
        bail!(
            "it is not what the file says now, and cannot be made anew: container {:?}, which is not of this project, uses it; remove that first, or leave out --yes",
            other.name
        );
    }
    for user in &users {
        create::remove_container(s, user, options.timeout).await?;
    }
    s.report.tell("Volume", name, "Removing");
    s.api.delete(&format!("/volumes/{}", encode(name)), &Query::new()).await?;
    s.report.tell("Volume", name, "Removed");
    Ok(())
}

/// Removes all of a project.
pub async fn remove(s: &Session<'_>, project: &str) -> Result<()> {
    let query = Query::new().filters(&[format!("label={PROJECT}={project}")])?;
    let found = s.api.get("/volumes", &query).await?;
    let removed = found["Volumes"].as_array().into_iter().flatten().map(|volume| async move {
        let name = text(volume, "Name");
        s.report.tell("Volume", &name, "Removing");
        match s.api.delete(&format!("/volumes/{}", encode(&name)), &Query::new()).await {
            Err(e) if e.to_string().contains("in use") => {
                s.report.tell("Volume", &name, "Resource is still in use");
                Ok(())
            }
            Err(e) if !is_not_found(&e) => Err(e.context(format!("volume {name:?}"))),
            _ => {
                s.report.tell("Volume", &name, "Removed");
                Ok(())
            }
        }
    });
    super::output::gathered(futures::future::join_all(removed).await)
}
