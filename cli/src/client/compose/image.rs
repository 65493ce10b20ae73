//! The images of services: built or pulled where they are missing or asked for.

use anyhow::{Context, Result, bail};
use serde_json::Value;

use super::super::api::{Api, Query, encode};
use super::super::output::text;
use super::super::{human, is_not_found};
use super::project::Project;
use super::{Session, build, pull, service};
use crate::compose::{Node, Problem, units};

/// What is asked for beside the files.
#[derive(Clone, Copy, Default)]
pub struct Wanted<'a> {
    /// Build what has a build section, also if the image is there.
    pub build: bool,
    pub no_build: bool,
    /// `--pull`
    pub pull: Option<&'a str>,
    pub quiet_pull: bool,
    pub quiet_build: bool,
}

/// An image as the daemon has it; none if it has none.
pub async fn inspect(api: &Api, image: &str) -> Result<Option<Value>> {
    match api.get(&format!("/images/{}/json", encode(image)), &Query::new()).await {
        Err(e) if is_not_found(&e) => Ok(None),
        other => other.map(Some),
    }
}

/// Its ID; none if the daemon does not have it.
pub async fn id(api: &Api, image: &str) -> Result<Option<String>> {
    Ok(inspect(api, image).await?.map(|i| text(&i, "Id")))
}

enum Todo {
    Nothing,
    Build,
    Pull,
}

/// Sees to it that the images of services are there.
pub async fn ensure(
    s: &Session<'_>,
    project: &Project,
    services: &[String],
    wanted: Wanted<'_>,
) -> Result<()> {
    let (mut builds, mut pulls) = (Vec::new(), Vec::new());
    for name in services {
        let service = project.service(name)?;
        match todo(s.api, project, name, service, wanted).await? {
            Todo::Nothing => {}
            Todo::Build => builds.push(name.clone()),
            Todo::Pull => pulls.push((name.clone(), service::image(project, name, service))),
        }
    }
    // An image that several services have is got once.
    pulls.sort_by(|a, b| a.1.cmp(&b.1));
    pulls.dedup_by(|a, b| a.1 == b.1);
    let pulling = pulls.iter().map(|(name, image)| async move {
        let _place = s.place().await;
        s.report.tell(name, "", "Pulling");
        let platform = project.service(name)?.text_of("platform");
        let done = pull::one(s, image, platform, wanted.quiet_pull || s.report.is_quiet()).await;
        done.with_context(|| format!("service {name:?}: pull {image}"))?;
        s.report.tell(name, "", "Pulled");
        Ok::<_, anyhow::Error>(())
    });
    futures::future::try_join_all(pulling).await?;
    let options = build::Options {
        quiet: wanted.quiet_build || s.report.is_quiet(),
        to_stderr: true,
        ..Default::default()
    };
    build::all(s, project, &builds, &options).await
}

async fn todo(api: &Api, project: &Project, name: &str, service: &Node, wanted: Wanted<'_>) -> Result<Todo> {
    let builds = service.get("build").is_some();
    let said = service.get("pull_policy");
    let policy = match wanted.pull.filter(|p| *p != "policy") {
        Some(asked) => asked,
        None => said.and_then(Node::text).unwrap_or("missing"),
    };
    if wanted.build && builds {
        return Ok(Todo::Build);
    }
    let image = service::image(project, name, service);
    let held = inspect(api, &image).await?;
    let get = if builds && service.get("image").is_none() { Todo::Build } else { Todo::Pull };
    let missing = || match (builds, wanted.no_build) {
        (true, false) => Ok(Todo::Build),
        (true, true) if service.get("image").is_none() => {
            bail!("service {name:?}: image {image} is not there, and --no-build keeps it from being built")
        }
        _ => Ok(Todo::Pull),
    };
    match (policy, &held) {
        ("always", _) => Ok(get),
        ("build", _) if builds && !wanted.no_build => Ok(Todo::Build),
        ("build", None) if builds => missing(),
        ("build", None) => Ok(Todo::Pull),
        ("build" | "missing" | "if_not_present" | "never", Some(_)) => Ok(Todo::Nothing),
        ("never", None) if builds && !wanted.no_build => Ok(Todo::Build),
        ("never", None) => bail!("service {name:?}: no such image: {image}, and its pull policy is never"),
        ("missing" | "if_not_present", None) => missing(),
        (other, held) => {
            let span = match other {
                "daily" => Some(24 * 3_600_000_000_000),
                "weekly" => Some(7 * 24 * 3_600_000_000_000),
                other => other.strip_prefix("every_").and_then(units::duration),
            };
            let Some(span) = span else {
                let at = said.map_or(&service.at, |n| &n.at);
                let what = format!(
                    "services.{name}.pull_policy: want always, missing, never, build, daily, weekly or every_DURATION, not {other:?}"
                );
                return Err(Problem::new(at, what).into());
            };
            match held {
                None => missing(),
                Some(held) if human::since(&text(held, "Created")) * 1_000_000_000 > span => Ok(get),
                Some(_) => Ok(Todo::Nothing),
            }
        }
    }
}
