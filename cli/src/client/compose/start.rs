//! Starting containers, each once what it needs is as it has to be.

use anyhow::{Context, Result, bail};
use serde_json::json;

use super::super::api::Query;
use super::super::attach::Upgraded;
use super::super::compose_parts::strings;
use super::super::stream;
use super::found::{self, Found};
use super::project::Project;
use super::wait::{self, For};
use super::{Session, graph};
use crate::compose::Node;
use crate::compose::depends::{self, Condition};

/// Starts the containers of services. Those of services that are not among them are waited for, but not started.
pub async fn all(s: &Session<'_>, project: &Project, services: &[String]) -> Result<()> {
    let edges = graph::of_files(project.services());
    graph::walk(services, &edges, false, async |name| {
        let service = project.service(&name)?;
        let todo = found::of(s.api, &project.name, std::slice::from_ref(&name)).await?;
        let todo: Vec<Found> = todo.into_iter().filter(|c| !c.running()).collect();
        if todo.is_empty() {
            return Ok(());
        }
        needs(s, project, &name, service).await?;
        let started = todo.iter().map(|c| one(s, service, c));
        futures::future::try_join_all(started).await.map(drop)
    })
    .await
}

/// Waits until what a service needs is as it has to be.
pub async fn needs(s: &Session<'_>, project: &Project, name: &str, service: &Node) -> Result<()> {
    let waits = depends::of(service).into_iter().map(|need| async move {
        let what = match need.condition {
            Condition::Started => return Ok(()),
            Condition::Healthy => For::Healthy,
            Condition::Completed => For::Completed,
        };
        let containers = found::of(s.api, &project.name, std::slice::from_ref(&need.service)).await?;
        if containers.is_empty() && need.required && project.service(&need.service).is_ok() {
            bail!("dependency failed to start: service {:?} has no container", need.service);
        }
        let waits = containers.iter().map(|c| wait::container(s, c, what));
        match futures::future::try_join_all(waits).await {
            Err(e) if !need.required => {
                s.report.note(&format!("optional dependency {:?} of {name:?} failed: {e:#}", need.service));
                Ok(())
            }
            other => other.map(drop).context("dependency failed to start"),
        }
    });
    futures::future::try_join_all(waits).await.map(drop)
}

/// Starts a container, and then runs what its service wants run in it.
async fn one(s: &Session<'_>, service: &Node, container: &Found) -> Result<()> {
    s.report.container(&container.name, "Starting");
    s.api.post(&format!("{}/start", container.path()), &Query::new(), None).await?;
    for hook in service.get("post_start").map(Node::items).unwrap_or_default() {
        self::hook(s, container, hook).await?;
    }
    s.report.container(&container.name, "Started");
    Ok(())
}

/// Runs a command in a container, as `post_start` and `pre_stop` say; it has to succeed.
pub async fn hook(s: &Session<'_>, container: &Found, hook: &Node) -> Result<()> {
    if s.rehearsal.is_some() {
        return Ok(());
    }
    let _aside = s.report.aside();
    let env = super::super::compose_parts::environment(hook);
    let body = json!({
        "Cmd": strings(hook.get("command")), "User": hook.text_of("user").unwrap_or_default(),
        "Privileged": hook.is_set("privileged"), "WorkingDir": hook.text_of("working_dir").unwrap_or_default(),
        "Env": env, "AttachStdout": true, "AttachStderr": true,
    });
    let at = &hook.at;
    let made = s.api.post(&format!("{}/exec", container.path()), &Query::new(), Some(&body)).await;
    let made = made.with_context(|| format!("{at}: hook of {}", container.name))?;
    let path = format!("/exec/{}", made["Id"].as_str().unwrap_or_default());
    let start = json!({ "Detach": false, "Tty": false });
    let attached = Upgraded { tty: false, stdin: false, keys: None };
    let attached = attached.ask(s.api, &format!("{path}/start"), &Query::new(), Some(&start)).await?;
    let mut output = attached.into_stream();
    while let Some((_, data)) = stream::frame(&mut output).await? {
        if !s.report.is_quiet() {
            super::super::output::bytes(&mut std::io::stderr(), &data)?;
        }
    }
    let found = s.api.get(&format!("{path}/json"), &Query::new()).await?;
    match found["ExitCode"] == 0 {
        true => Ok(()),
        false => bail!("{at}: hook of {} ended with {}", container.name, found["ExitCode"]),
    }
}
