//! `compose down`: containers in the reverse order of their needs, then networks, volumes and images.

use anyhow::Result;
use clap::Args;

use super::super::api::{Query, encode};
use super::super::is_not_found;
use super::found::{self, Found};
use super::{Session, create, graph, lifecycle, networks, service, volumes};
use crate::compose::Node;

/// Flags of `compose down`.
#[derive(Args, Default)]
pub struct DownFlags {
    /// Remove containers for services not defined in the Compose file
    #[arg(long)]
    remove_orphans: bool,
    /// Remove images used by services. "local" remove only images that don't have a custom tag ("local"|"all")
    #[arg(long, value_name = "string", value_parser = ["local", "all"])]
    rmi: Option<String>,
    /// Specify a shutdown timeout in seconds
    #[arg(short, long, value_name = "int", allow_hyphen_values = true)]
    timeout: Option<i64>,
    /// Remove named volumes declared in the "volumes" section of the Compose file and anonymous volumes attached to containers
    #[arg(short, long)]
    volumes: bool,
    #[arg(value_name = "SERVICE")]
    services: Vec<String>,
}

pub async fn run(s: &Session<'_>, flags: &DownFlags) -> Result<()> {
    let subject = s.files.find(&flags.services)?;
    let (name, project) = (&subject.name, subject.project.as_ref());
    let all = found::all(s.api, name).await?;
    lifecycle::known(&subject, &flags.services, &all)?;
    let known = |c: &Found| {
        let here =
            |p: &super::project::Project| p.service(&c.service).is_ok() || p.inactive.contains(&c.service);
        project.is_none_or(here)
    };
    let wanted = |c: &Found| match flags.services.as_slice() {
        [] => known(c) || flags.remove_orphans,
        named => named.contains(&c.service),
    };
    let todo: Vec<Found> = all.into_iter().filter(wanted).collect();
    let edges = lifecycle::edges(&subject, &todo);
    let services = lifecycle::services_of(&todo);
    let mut errors = Vec::new();
    let removed = graph::walk(&services, &graph::reversed(&edges), true, async |service| {
        let node = project.and_then(|p| p.service(&service).ok());
        let own = todo.iter().filter(|c| c.service == service).map(|c| async move {
            if c.running() {
                lifecycle::before_stop(s, node, c).await;
                create::stop_container(s, c, flags.timeout).await?;
            }
            create::delete_container(s, c, flags.volumes).await
        });
        super::output::gathered(futures::future::join_all(own).await)
    })
    .await;
    errors.push(removed);
    // Part of a project leaves what is the whole project's.
    if flags.services.is_empty() {
        errors.push(networks::remove(s, name).await);
        if flags.volumes {
            errors.push(volumes::remove(s, name).await);
        }
    }
    if let Some(which) = &flags.rmi {
        let mut images: Vec<String> = match project {
            Some(project) => project
                .services()
                .filter(|(n, _)| flags.services.is_empty() || flags.services.iter().any(|f| f == n))
                .filter(|(_, s): &(&str, &Node)| which == "all" || s.get("image").is_none())
                .map(|(n, s)| service::image(project, n, s))
                .collect(),
            None => todo
                .iter()
                .map(|c| super::super::output::text(&c.raw, "Image"))
                .filter(|i| {
                    which == "all" || ['-', '_'].iter().any(|sep| i.starts_with(&format!("{name}{sep}")))
                })
                .collect(),
        };
        images.sort();
        images.dedup();
        for image in images {
            errors.push(remove_image(s, &image).await);
        }
    }
    super::output::gathered(errors)
}

async fn remove_image(s: &Session<'_>, image: &str) -> Result<()> {
    s.report.tell("Image", image, "Removing");
    match s.api.delete(&format!("/images/{}", encode(image)), &Query::new()).await {
        Err(e) if is_not_found(&e) => {
            s.report.tell("Image", image, "Warning: No resource found to remove");
            Ok(())
        }
        Err(e) if e.to_string().contains("in use") || e.to_string().contains("being used") => {
            s.report.tell("Image", image, "Resource is still in use");
            Ok(())
        }
        Err(e) => Err(e.context(format!("image {image:?}"))),
        Ok(_) => {
            s.report.tell("Image", image, "Removed");
            Ok(())
        }
    }
}
