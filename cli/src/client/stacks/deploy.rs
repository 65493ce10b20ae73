//! `stack deploy`: makes what is missing, updates what is there, and takes away what is not used any more.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::{Context, Result, bail};
use clap::Args;
use serde_json::Value;

use super::objects::{self, CONTENT, Files};
use super::{FileFlags, IMAGE, NAMESPACE, all, prerequisites, scope, service, supported};
use crate::client::api::{Api, Query, encode};
use crate::client::output::{say, text};
use crate::client::{is_not_found, progress, service_extras, service_image, services};
use crate::compose::Node;

/// Flags of `stack deploy`.
#[derive(Args)]
pub struct DeployFlags {
    #[command(flatten)]
    files: FileFlags,
    /// Exit immediately instead of waiting for the stack services to converge
    #[arg(
        short, long, num_args = 0..=1, require_equals = true, default_value_t = true, default_missing_value = "true",
        action = clap::ArgAction::Set, value_name = "bool"
    )]
    detach: bool,
    /// Show what would come of it, and change nothing (Skep's own)
    #[arg(long)]
    dry_run: bool,
    /// Prune services that are no longer referenced
    #[arg(long)]
    prune: bool,
    /// Suppress progress output
    #[arg(short, long)]
    quiet: bool,
    /// Query the registry to resolve image digest and supported platforms ("always", "changed", "never")
    #[arg(long, value_name = "string", default_value = "always", value_parser = ["always", "changed", "never"])]
    resolve_image: String,
    /// Send registry authentication details to Swarm agents
    #[arg(long)]
    with_registry_auth: bool,
    #[arg(value_name = "STACK", value_parser = super::name)]
    stack: String,
}

pub async fn run(api: &Api, flags: &DeployFlags) -> Result<()> {
    if !flags.dry_run {
        return deploy(api, flags).await;
    }
    eprintln!("Nothing of what follows is done: this is a plan.");
    let (api, plan) = api.planning();
    deploy(&api, flags).await?;
    plan.show(&api).await
}

async fn deploy(api: &Api, flags: &DeployFlags) -> Result<()> {
    let stack = flags.stack.as_str();
    let project = flags.files.load(true)?;
    let root = &project.root;
    supported::warn(root);
    supported::refuse(root)?;
    let declared = root.get("services").map(Node::entries).unwrap_or_default();
    // What is wrong in the files is told before anything is changed.
    for (key, node) in declared {
        service::spec(stack, root, &key.text, node, &Files::new())?;
    }
    let ordered = prerequisites::in_order(declared)?;
    let (secrets, configs) =
        (objects::files(stack, root, "secrets")?, objects::files(stack, root, "configs")?);
    let info = api.get("/info", &Query::new()).await?;
    if info["Swarm"]["ControlAvailable"] != Value::Bool(true) {
        bail!(
            "this node is not a swarm manager. Use \"skep swarm init\" or \"skep swarm join\" to connect this node to swarm and try again"
        );
    }
    if flags.prune {
        let wanted: BTreeSet<String> = declared.iter().map(|(k, _)| scope(stack, &k.text)).collect();
        for old in all(api, "/services", stack).await? {
            let name = text(&old["Spec"], "Name");
            if !wanted.contains(&name) {
                super::remove::one(api, "service", "services", &name, &text(&old, "ID")).await?;
            }
        }
    }
    networks(api, stack, root).await?;
    let mut files = Files::new();
    for (section, list) in [("secrets", secrets), ("configs", configs)] {
        for file in list {
            let id = put(api, section, &file).await?;
            files.insert((section, file.key), (file.name, id));
        }
    }
    let mut ids = Vec::new();
    for (key, node) in ordered {
        let spec = service::spec(stack, root, &key.text, node, &files)?;
        ids.push(put_service(api, flags, spec).await?);
    }
    if !flags.detach && !flags.dry_run {
        let mut errors = Vec::new();
        for id in ids {
            if let Err(e) = progress::converge(api, &id, flags.quiet).await {
                errors.push(format!("{id}: {e:#}"));
            }
        }
        if !errors.is_empty() {
            bail!(errors.join("\n"));
        }
    }
    drop_unused(api, flags).await
}

async fn networks(api: &Api, stack: &str, root: &Node) -> Result<()> {
    let services = root.get("services").map(Node::entries).unwrap_or_default();
    let used: BTreeSet<&str> = services.iter().flat_map(|(_, s)| service::network_names(s)).collect();
    let held: BTreeSet<String> =
        all(api, "/networks", stack).await?.iter().map(|n| text(n, "Name")).collect();
    let (external, own): (Vec<&str>, Vec<&str>) =
        used.into_iter().partition(|k| root.path(&["networks", k]).is_some_and(|n| n.is_set("external")));
    for key in external {
        let name = objects::network_name(stack, root, key);
        if matches!(name.as_str(), "host" | "none" | "bridge") {
            continue;
        }
        let found = match api.get(&format!("/networks/{}", encode(&name)), &Query::new()).await {
            Err(e) if is_not_found(&e) => bail!(
                "network {name:?} is declared as external, but could not be found. You need to create a swarm-scoped network before the stack is deployed"
            ),
            other => other?,
        };
        let scope = text(&found, "Scope");
        if scope != "swarm" {
            bail!(
                "network {name:?} is declared as external, but it is not in the right scope: {scope:?} instead of \"swarm\""
            );
        }
    }
    for key in own {
        let body = objects::network(stack, root, key);
        let name = text(&body, "Name");
        if held.contains(&name) {
            continue;
        }
        say!("Creating network {name}")?;
        let made = api.post("/networks/create", &Query::new(), Some(&body)).await;
        made.with_context(|| format!("failed to create network {name}"))?;
    }
    Ok(())
}

/// Sees to it that a secret or config is there; its ID.
async fn put(api: &Api, section: &str, file: &objects::File) -> Result<String> {
    let kind = section.trim_end_matches('s');
    let path = format!("/{section}/{}", encode(&file.name));
    let held = match api.get(&path, &Query::new()).await {
        Err(e) if is_not_found(&e) => None,
        other => Some(other?),
    };
    match (held, &file.body) {
        (Some(held), None) => Ok(text(&held, "ID")),
        (None, None) => bail!("{kind} not found: {}", file.name),
        (None, Some(body)) => {
            say!("Creating {kind} {}", file.name)?;
            let made = api.post(&format!("/{section}/create"), &Query::new(), Some(body)).await;
            Ok(text(&made.with_context(|| format!("failed to create {kind} {}", file.name))?, "ID"))
        }
        (Some(held), Some(body)) => {
            let id = text(&held, "ID");
            // Labels can be changed; where the content would have to be, the swarm refuses it.
            let version = held["Version"]["Index"].as_u64().unwrap_or_default();
            let query = Query::new().with("version", version.to_string());
            let done = api.post(&format!("/{section}/{id}/update"), &query, Some(body)).await;
            done.with_context(|| format!("failed to update {kind} {}", file.name))?;
            Ok(id)
        }
    }
}

async fn put_service(api: &Api, flags: &DeployFlags, mut spec: Value) -> Result<String> {
    let name = text(&spec, "Name");
    let image = text(&spec["TaskTemplate"]["ContainerSpec"], "Image");
    let auth = if flags.with_registry_auth { api.credentials_for(&image)? } else { String::new() };
    let held = match services::get(api, &name).await {
        Err(e) if is_not_found(&e) => None,
        other => Some(other?).filter(|s| text(&s["Spec"]["Labels"], NAMESPACE) == flags.stack),
    };
    let Some(held) = held else {
        say!("Creating service {name}")?;
        let mut unpinned = None;
        if flags.resolve_image != "never" {
            unpinned = service_image::pin_as(api, &mut spec, &auth).await?;
        }
        let made = api.post_as("/services/create", &Query::new(), &spec, &auth).await;
        let made = made.with_context(|| format!("failed to create service {name}"))?;
        unpinned.iter().for_each(|w| eprintln!("{w}"));
        return Ok(text(&made, "ID"));
    };
    let id = text(&held, "ID");
    say!("Updating service {name} (id: {id})")?;
    let before = &held["Spec"]["TaskTemplate"];
    let same_image = text(&held["Spec"]["Labels"], IMAGE) == image;
    let mut unpinned = None;
    if flags.resolve_image == "always" || (flags.resolve_image == "changed" && !same_image) {
        unpinned = service_image::pin_as(api, &mut spec, &auth).await?;
    } else if same_image {
        // With what the registry said at the deploy before, so that nothing is rolled without need.
        spec["TaskTemplate"]["ContainerSpec"]["Image"] = before["ContainerSpec"]["Image"].clone();
        if before["Placement"]["Platforms"].is_array() {
            spec["TaskTemplate"]["Placement"]["Platforms"] = before["Placement"]["Platforms"].clone();
        }
    }
    // What the file says nothing of is the default again; the daemon would keep what is there.
    service_extras::forget_unnamed(&mut spec, &held["Spec"]);
    if !before["ForceUpdate"].is_null() {
        spec["TaskTemplate"]["ForceUpdate"] = before["ForceUpdate"].clone();
    }
    let updated = services::update(api, &held, &spec, false, &auth).await;
    updated.with_context(|| format!("failed to update service {name}"))?;
    unpinned.iter().for_each(|w| eprintln!("{w}"));
    Ok(id)
}

/// Takes away secrets and configs called after content that no service has any more. What a rollback would need stays,
/// unless pruning was asked for and the new state was waited for.
async fn drop_unused(api: &Api, flags: &DeployFlags) -> Result<()> {
    let with_previous = !flags.prune || flags.detach;
    let mut used = BTreeSet::new();
    for service in all(api, "/services", &flags.stack).await? {
        let specs = [Some(&service["Spec"]), with_previous.then_some(&service["PreviousSpec"])];
        for spec in specs.into_iter().flatten() {
            for (list, id) in [("Secrets", "SecretID"), ("Configs", "ConfigID")] {
                let references = spec["TaskTemplate"]["ContainerSpec"][list].as_array();
                used.extend(references.into_iter().flatten().map(|r| text(r, id)));
            }
        }
    }
    let mut unused = BTreeMap::new();
    for (kind, section) in [("secret", "secrets"), ("config", "configs")] {
        for held in all(api, &format!("/{section}"), &flags.stack).await? {
            let id = text(&held, "ID");
            if !text(&held["Spec"]["Labels"], CONTENT).is_empty() && !used.contains(&id) {
                unused.insert(id, (kind, section, text(&held["Spec"], "Name")));
            }
        }
    }
    for (id, (kind, section, name)) in unused {
        super::remove::one(api, kind, section, &name, &id).await?;
    }
    Ok(())
}
