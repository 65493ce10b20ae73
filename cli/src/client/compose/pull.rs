//! `compose pull` and `compose push`.

use anyhow::{Context, Result};
use clap::Args;

use super::super::registry;
use super::{Session, image, service};

/// Flags of `compose pull`.
#[derive(Args)]
pub struct PullFlags {
    /// Ignore images that can be built
    #[arg(long)]
    ignore_buildable: bool,
    /// Pull what it can and ignores images with pull failures
    #[arg(long)]
    ignore_pull_failures: bool,
    /// Also pull services declared as dependencies
    #[arg(long)]
    include_deps: bool,
    /// Apply pull policy ("missing"|"always")
    #[arg(long, value_name = "string", value_parser = ["missing", "always"])]
    policy: Option<String>,
    /// Pull without printing progress information
    #[arg(short, long)]
    quiet: bool,
    #[arg(value_name = "SERVICE")]
    services: Vec<String>,
}

/// Flags of `compose push`.
#[derive(Args)]
pub struct PushFlags {
    /// Push what it can and ignores images with push failures
    #[arg(long)]
    ignore_push_failures: bool,
    /// Also push images of services declared as dependencies
    #[arg(long)]
    include_deps: bool,
    /// Push without printing progress information
    #[arg(short, long)]
    quiet: bool,
    #[arg(value_name = "SERVICE")]
    services: Vec<String>,
}

pub async fn pull(s: &Session<'_>, flags: &PullFlags) -> Result<()> {
    let project = s.files.load(&flags.services)?;
    let mut images = Vec::new();
    for name in project.selected(&flags.services, flags.include_deps)? {
        let service = project.service(&name)?;
        let buildable = service.get("build").is_some();
        let Some(image) = service.text_of("image") else {
            s.report.tell(&name, "", "Skipped No image to be pulled");
            continue;
        };
        let policy = flags.policy.as_deref().or(service.text_of("pull_policy"));
        if buildable && (flags.ignore_buildable || policy == Some("build")) {
            s.report.tell(&name, "", "Skipped Image can be built");
            continue;
        }
        let there = match policy {
            Some("missing" | "if_not_present") => image::id(s.api, image).await?.is_some(),
            Some("never") => true,
            _ => false,
        };
        if there {
            s.report.tell(&name, "", "Skipped Image is already present locally");
        } else if !images.iter().any(|(_, held, ..): &(_, String, _, _)| held == image) {
            let platform = service.text_of("platform").map(str::to_owned);
            images.push((name, image.to_owned(), platform, buildable));
        }
    }
    let quiet = flags.quiet || s.report.is_quiet();
    let pulls = images.iter().map(|(name, image, platform, buildable)| async move {
        let _place = s.place().await;
        s.report.tell(name, "", "Pulling");
        match one(s, image, platform.as_deref(), quiet).await {
            Ok(()) => s.report.tell(name, "", "Pulled"),
            Err(e) if flags.ignore_pull_failures || *buildable => {
                s.report.note(&format!("service {name:?}: pull {image}: {e:#}"));
            }
            Err(e) => return Err(e.context(format!("service {name:?}: pull {image}"))),
        }
        Ok(())
    });
    super::output::gathered(futures::future::join_all(pulls).await)
}

pub async fn push(s: &Session<'_>, flags: &PushFlags) -> Result<()> {
    let project = s.files.load(&flags.services)?;
    let mut outcomes = Vec::new();
    for name in project.selected(&flags.services, flags.include_deps)? {
        let service = project.service(&name)?;
        if service.get("build").is_none() {
            s.report.tell(&name, "", "Skipped");
            continue;
        }
        let image = service::image(&project, &name, service);
        s.report.tell(&name, "", "Pushing");
        match push_one(s, &image, flags.quiet).await {
            Ok(()) => s.report.tell(&name, "", "Pushed"),
            Err(e) if flags.ignore_push_failures => {
                s.report.note(&format!("service {name:?}: push {image}: {e:#}"));
            }
            Err(e) => outcomes.push(Err(e).with_context(|| format!("service {name:?}: push {image}"))),
        }
    }
    super::output::gathered(outcomes)
}

/// Pulls an image; in a rehearsal, asks the registry whether it is there.
pub async fn one(s: &Session<'_>, image: &str, platform: Option<&str>, quiet: bool) -> Result<()> {
    let Some(rehearsal) = &s.rehearsal else {
        // The layers' lines are drawn below.
        let _aside = s.report.aside();
        return registry::pull(s.api, image, platform, quiet).await;
    };
    registry::in_registry(s.api, image).await?;
    rehearsal.has_image(image);
    Ok(())
}

/// Pushes an image; in a rehearsal, looks whether there is one.
pub async fn push_one(s: &Session<'_>, image: &str, quiet: bool) -> Result<()> {
    if s.rehearsal.is_some() {
        return match image::id(s.api, image).await? {
            Some(_) => Ok(()),
            None => anyhow::bail!("No such image: {image}"),
        };
    }
    let _aside = s.report.aside();
    registry::push_quietly(s.api, image, quiet || s.report.is_quiet()).await
}
