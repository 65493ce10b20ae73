//! Commands on containers that are there: start, stop, restart, kill, rm, pause, unpause, wait.

use std::io::{BufRead, IsTerminal};

use anyhow::{Result, bail};
use clap::Args;

use super::super::api::Query;
use super::super::attach::Exit;
use super::super::output::say;
use super::down::{self, DownFlags};
use super::found::{self, Found};
use super::output::gathered;
use super::project::{Project, Subject};
use super::{Session, create, graph, start as starting};
use crate::compose::{Node, depends};

/// Services, and nothing else.
#[derive(Args)]
pub struct Named {
    #[arg(value_name = "SERVICE")]
    pub services: Vec<String>,
}

/// Flags of `compose stop`.
#[derive(Args)]
pub struct StopFlags {
    /// Specify a shutdown timeout in seconds
    #[arg(short, long, value_name = "int", allow_hyphen_values = true)]
    pub timeout: Option<i64>,
    #[arg(value_name = "SERVICE")]
    pub services: Vec<String>,
}

/// Flags of `compose restart`.
#[derive(Args)]
pub struct RestartFlags {
    /// Don't restart dependent services
    #[arg(long)]
    no_deps: bool,
    /// Specify a shutdown timeout in seconds
    #[arg(short, long, value_name = "int", allow_hyphen_values = true)]
    timeout: Option<i64>,
    #[arg(value_name = "SERVICE")]
    services: Vec<String>,
}

/// Flags of `compose kill`.
#[derive(Args)]
pub struct KillFlags {
    /// Remove containers for services not defined in the Compose file
    #[arg(long)]
    remove_orphans: bool,
    /// SIGNAL to send to the container
    #[arg(short, long, value_name = "string", default_value = "SIGKILL")]
    signal: String,
    #[arg(value_name = "SERVICE")]
    services: Vec<String>,
}

/// Flags of `compose rm`.
#[derive(Args)]
pub struct RemoveFlags {
    /// Don't ask to confirm removal
    #[arg(short, long)]
    force: bool,
    /// Stop the containers, if required, before removing
    #[arg(short, long)]
    stop: bool,
    /// Remove any anonymous volumes attached to containers
    #[arg(short, long)]
    volumes: bool,
    #[arg(value_name = "SERVICE")]
    services: Vec<String>,
}

/// Flags of `compose wait`.
#[derive(Args)]
pub struct WaitFlags {
    /// Drops project when the first container stops
    #[arg(long)]
    down_project: bool,
    #[arg(required = true, value_name = "SERVICE")]
    services: Vec<String>,
}

/// A project with the containers of named services; those must be of it.
async fn subject(s: &Session<'_>, services: &[String]) -> Result<(Subject, Vec<Found>)> {
    let subject = s.files.find(services)?;
    let found = found::of(s.api, &subject.name, services).await?;
    known(&subject, services, &found)?;
    Ok((subject, found))
}

/// Refuses services that neither the files nor the daemon know.
pub fn known(subject: &Subject, services: &[String], found: &[Found]) -> Result<()> {
    for name in services {
        let declared = subject.project.as_ref().is_some_and(|p| p.service(name).is_ok());
        if !declared && !found.iter().any(|c| c.service == *name) {
            bail!("no such service: {name}");
        }
    }
    Ok(())
}

/// What waits for what: by the files, or without them by what the containers were made with.
pub fn edges(subject: &Subject, containers: &[Found]) -> graph::Edges {
    match &subject.project {
        Some(project) => graph::of_files(project.services()),
        None => graph::of_containers(containers),
    }
}

/// The services of containers, each once.
pub fn services_of(containers: &[Found]) -> Vec<String> {
    let mut out: Vec<String> = containers.iter().map(|c| c.service.clone()).collect();
    out.sort();
    out.dedup();
    out
}

/// Runs what a service wants run in a container before it is stopped; what fails keeps nothing from stopping.
pub async fn before_stop(s: &Session<'_>, service: Option<&Node>, container: &Found) {
    for hook in service.and_then(|s| s.get("pre_stop")).map(Node::items).unwrap_or_default() {
        if let Err(e) = starting::hook(s, container, hook).await {
            s.report.note(&format!("{e:#}"));
        }
    }
}

pub async fn start(s: &Session<'_>, services: &[String]) -> Result<()> {
    let (subject, found) = subject(s, services).await?;
    if found.is_empty() {
        bail!("no container found for project {:?}: not found", subject.name);
    }
    match &subject.project {
        Some(project) => {
            let mut wanted = services_of(&found);
            wanted.retain(|n| project.service(n).is_ok());
            if !wanted.is_empty() {
                // With what they need, which would else be waited for and not come.
                wanted = project.selected(&wanted, true)?;
            }
            starting::all(s, project, &wanted).await
        }
        None => {
            let edges = graph::of_containers(&found);
            graph::walk(&services_of(&found), &edges, false, async |service| {
                for c in found.iter().filter(|c| c.service == service && !c.running()) {
                    s.report.container(&c.name, "Starting");
                    s.api.post(&format!("{}/start", c.path()), &Query::new(), None).await?;
                    s.report.container(&c.name, "Started");
                }
                Ok(())
            })
            .await
        }
    }
}

pub async fn stop(s: &Session<'_>, services: &[String], timeout: Option<i64>) -> Result<()> {
    let (subject, found) = subject(s, services).await?;
    stop_found(s, subject.project.as_ref(), &edges(&subject, &found), &found, timeout).await
}

/// Stops containers, those that are needed by others last.
pub async fn stop_found(
    s: &Session<'_>,
    project: Option<&Project>,
    edges: &graph::Edges,
    found: &[Found],
    timeout: Option<i64>,
) -> Result<()> {
    graph::walk(&services_of(found), &graph::reversed(edges), true, async |service| {
        let node = project.and_then(|p| p.service(&service).ok());
        let own = found.iter().filter(|c| c.service == service && c.running()).map(|c| async move {
            before_stop(s, node, c).await;
            create::stop_container(s, c, timeout).await
        });
        gathered(futures::future::join_all(own).await)
    })
    .await
}

pub async fn restart(s: &Session<'_>, flags: &RestartFlags) -> Result<()> {
    let (subject, found) = subject(s, &flags.services).await?;
    let mut wanted = services_of(&found);
    let mut found = found;
    if let Some(project) = subject.project.as_ref().filter(|_| !flags.no_deps) {
        // Those that want to be restarted with what they need.
        let follows = |name: &str, service: &Node| {
            depends::of(service).iter().any(|n| n.restart && wanted.contains(&n.service))
                && !wanted.iter().any(|w| w == name)
        };
        let more: Vec<String> =
            project.services().filter(|(n, s)| follows(n, s)).map(|(n, _)| n.to_owned()).collect();
        if !more.is_empty() {
            found.extend(found::of(s.api, &subject.name, &more).await?);
            wanted.extend(more);
            wanted.sort();
        }
    }
    graph::walk(&wanted, &edges(&subject, &found), false, async |service| {
        let node = subject.project.as_ref().and_then(|p| p.service(&service).ok());
        let own = found.iter().filter(|c| c.service == service).map(|c| async move {
            if c.running() {
                before_stop(s, node, c).await;
            }
            s.report.container(&c.name, "Restarting");
            let query = flags.timeout.map_or_else(Query::new, |t| Query::new().with("t", t.to_string()));
            s.api.post(&format!("{}/restart", c.path()), &query, None).await?;
            s.report.container(&c.name, "Started");
            Ok::<_, anyhow::Error>(())
        });
        futures::future::try_join_all(own).await.map(drop)
    })
    .await
}

pub async fn kill(s: &Session<'_>, flags: &KillFlags) -> Result<()> {
    let (subject, found) = subject(s, &flags.services).await?;
    let running: Vec<&Found> = found.iter().filter(|c| c.running()).collect();
    let declared = |c: &Found| subject.project.as_ref().is_none_or(|p| p.service(&c.service).is_ok());
    let (own, orphans): (Vec<&Found>, Vec<&Found>) = running.into_iter().partition(|c| declared(c));
    if own.is_empty() && orphans.is_empty() {
        eprintln!("no container to kill");
        return Ok(());
    }
    if flags.remove_orphans {
        for container in orphans {
            create::remove_container(s, container, None).await?;
        }
    }
    let killed = own.into_iter().map(|c| kill_container(s, c, &flags.signal));
    gathered(futures::future::join_all(killed).await)
}

/// Sends a container a signal.
pub async fn kill_container(s: &Session<'_>, container: &Found, signal: &str) -> Result<()> {
    s.report.container(&container.name, "Killing");
    let query = Query::new().with("signal", signal);
    s.api.post(&format!("{}/kill", container.path()), &query, None).await?;
    s.report.container(&container.name, "Killed");
    Ok(())
}

pub async fn pause(s: &Session<'_>, services: &[String], on: bool) -> Result<()> {
    let (_, found) = subject(s, services).await?;
    let (verb, done) = if on { ("pause", "Paused") } else { ("unpause", "Unpaused") };
    let wanted = if on { "running" } else { "paused" };
    let outcomes = found.iter().filter(|c| c.state == wanted).map(|c| async move {
        s.api.post(&format!("{}/{verb}", c.path()), &Query::new(), None).await?;
        s.report.container(&c.name, done);
        Ok(())
    });
    gathered(futures::future::join_all(outcomes).await)
}

pub async fn remove(s: &Session<'_>, flags: &RemoveFlags) -> Result<()> {
    if flags.stop {
        stop(s, &flags.services, None).await?;
    }
    let (_, found) = subject(s, &flags.services).await?;
    let stopped: Vec<&Found> = found.iter().filter(|c| !c.running()).collect();
    if stopped.is_empty() {
        eprintln!("No stopped containers");
        return Ok(());
    }
    let names: Vec<&str> = stopped.iter().map(|c| c.name.as_str()).collect();
    if flags.force {
        say!("Going to remove {}", names.join(", "))?;
    } else {
        super::super::output::write(format_args!("? Going to remove {} [yN] ", names.join(", ")))?;
        let mut answer = String::new();
        if std::io::stdin().is_terminal() {
            std::io::stdin().lock().read_line(&mut answer)?;
        }
        if !matches!(answer.trim(), "y" | "Y" | "yes") {
            return say!();
        }
    }
    let removed = stopped.into_iter().map(|c| create::delete_container(s, c, flags.volumes));
    gathered(futures::future::join_all(removed).await)
}

/// Waits for containers; the last exit code that was not 0.
pub async fn wait(s: &Session<'_>, flags: &WaitFlags) -> Result<u8> {
    let (_, found) = subject(s, &flags.services).await?;
    if found.is_empty() {
        bail!("no containers for project");
    }
    let mut last = 0;
    let waits = found.iter().map(|c| async move {
        let code = Exit::of(s.api, &c.path(), "not-running").await?.code().await?;
        say!("container {:?} exited with status code {code}", c.name)?;
        Ok::<_, anyhow::Error>(code)
    });
    if flags.down_project {
        let (code, _, others) = futures::future::select_all(waits.map(Box::pin)).await;
        drop(others);
        down::run(s, &DownFlags::default()).await?;
        return code;
    }
    for code in futures::future::try_join_all(waits).await? {
        if code != 0 {
            last = code;
        }
    }
    Ok(last)
}
