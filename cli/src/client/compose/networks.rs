//! The networks of a project.

use anyhow::{Context, Result, bail};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use super::super::api::{Query, encode};
use super::super::compose_parts::{network, pairs};
use super::super::human::hex;
use super::super::is_not_found;
use super::super::output::text;
use super::found::{self, HASH, PROJECT, VERSION};
use super::project::Project;
use super::{Session, service};
use crate::compose::Node;

const NETWORK: &str = "com.docker.compose.network";

/// Sees to it that the project's networks are there; their IDs by their names.
pub async fn ensure(
    s: &Session<'_>,
    project: &Project,
) -> Result<std::collections::BTreeMap<String, String>> {
    let declared = project.root.get("networks").map(Node::entries).unwrap_or_default();
    let made = declared.iter().map(|(key, node)| async move {
        let name = service::name_of(&project.root, "networks", &key.text);
        let id =
            one(s, project, &key.text, &name, node).await.with_context(|| format!("network {name:?}"))?;
        Ok::<_, anyhow::Error>((name, id))
    });
    Ok(futures::future::try_join_all(made).await?.into_iter().collect())
}

async fn one(s: &Session<'_>, project: &Project, key: &str, name: &str, node: &Node) -> Result<String> {
    let held = match s.api.get(&format!("/networks/{}", encode(name)), &Query::new()).await {
        Err(e) if is_not_found(&e) => None,
        other => Some(other?),
    };
    if node.is_set("external") {
        return match held {
            Some(held) => Ok(text(&held, "Id")),
            None => bail!("network {name} declared as external, but could not be found"),
        };
    }
    let body = body(project, key, name, node);
    let hash = text(&body["Labels"], HASH);
    if let Some(held) = held {
        let owner = text(&held["Labels"], PROJECT);
        if owner != project.name {
            let whose = match owner.as_str() {
                "" => "was not created by compose: say external: true to use it".to_owned(),
                other => format!("was created for project {other:?}"),
            };
            bail!("a network with name {name} exists but {whose}");
        }
        let same = text(&held["Labels"], HASH);
        // Docker's client counts differently: what it made is left as it is.
        if same.is_empty() || same == hash || !text(&held["Labels"], VERSION).eq(env!("CARGO_PKG_VERSION")) {
            return Ok(text(&held, "Id"));
        }
        replace(s, project, &held).await?;
    }
    s.report.tell("Network", name, "Creating");
    let made = s.api.post("/networks/create", &Query::new(), Some(&body)).await?;
    s.report.tell("Network", name, "Created");
    Ok(text(&made, "Id"))
}

/// Takes away a network that is not what the file says; its containers are stopped and made anew later.
async fn replace(s: &Session<'_>, project: &Project, held: &Value) -> Result<()> {
    let id = text(held, "Id");
    for container in found::all(s.api, &project.name).await? {
        let on = &container.raw["NetworkSettings"]["Networks"];
        if on.as_object().is_some_and(|n| n.values().any(|v| v["NetworkID"] == id.as_str())) {
            s.report.container(&container.name, "Stopping");
            s.api.post(&format!("{}/stop", container.path()), &Query::new(), None).await?;
            s.report.container(&container.name, "Stopped");
            let body = json!({ "Container": container.id, "Force": true });
            s.api.post(&format!("/networks/{}/disconnect", encode(&id)), &Query::new(), Some(&body)).await?;
        }
    }
    s.report.tell("Network", &text(held, "Name"), "Removing");
    s.api.delete(&format!("/networks/{}", encode(&id)), &Query::new()).await?;
    s.report.tell("Network", &text(held, "Name"), "Removed");
    Ok(())
}

fn body(project: &Project, key: &str, name: &str, node: &Node) -> Value {
    let mut body = network(name, node.text_of("driver"), node);
    let mut labels = pairs(node.get("labels"));
    let hash = Sha256::digest(format!("{body}{}", Value::Object(labels.clone())));
    for (label, value) in [
        (NETWORK, key.to_owned()),
        (PROJECT, project.name.clone()),
        (VERSION, env!("CARGO_PKG_VERSION").to_owned()),
        (HASH, hex(&hash)),
    ] {
        labels.insert(label.into(), value.into());
    }
    body["Labels"] = labels.into();
    body
}

/// Removes all of a project.
pub async fn remove(s: &Session<'_>, project: &str) -> Result<()> {
    let query = Query::new().filters(&[format!("label={PROJECT}={project}")])?;
    let found = s.api.get("/networks", &query).await?;
    let removed = found.as_array().into_iter().flatten().map(|network| async move {
        let name = text(network, "Name");
        s.report.tell("Network", &name, "Removing");
        match s.api.delete(&format!("/networks/{}", encode(&text(network, "Id"))), &Query::new()).await {
            Err(e) if e.to_string().contains("active endpoints") || e.to_string().contains("in use") => {
                s.report.tell("Network", &name, "Resource is still in use");
                Ok(())
            }
            Err(e) if !is_not_found(&e) => Err(e.context(format!("network {name:?}"))),
            _ => {
                s.report.tell("Network", &name, "Removed");
                Ok(())
            }
        }
    });
    super::output::gathered(futures::future::join_all(removed).await)
}
