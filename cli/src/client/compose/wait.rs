//! Waiting for containers to be what others need them to be. The daemon's events say when to look again.

use anyhow::{Result, bail};
use serde_json::Value;
use tokio::io::AsyncBufReadExt;

use super::super::api::Query;
use super::super::attach::Exit;
use super::super::containers;
use super::Session;
use super::found::Found;

/// What is waited for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum For {
    Healthy,
    /// Healthy if it has a health check, running if it has none.
    Running,
    /// Ended with 0.
    Completed,
}

/// Waits for a container.
pub async fn container(s: &Session<'_>, container: &Found, what: For) -> Result<()> {
    s.report.container(&container.name, "Waiting");
    if s.rehearsal.is_some() {
        // All goes well.
        let done = if what == For::Completed { "Exited" } else { "Healthy" };
        s.report.container(&container.name, done);
        return Ok(());
    }
    match what {
        For::Completed => {
            let code = Exit::of(s.api, &container.path(), "not-running").await?.code().await?;
            s.report.container(&container.name, "Exited");
            if code != 0 {
                bail!("service {:?} didn't complete successfully: exit {code}", container.service);
            }
            Ok(())
        }
        For::Healthy | For::Running => {
            let done = healthy(s, container, what).await;
            s.report.container(&container.name, if done.is_ok() { "Healthy" } else { "Error" });
            done
        }
    }
}

async fn healthy(s: &Session<'_>, container: &Found, what: For) -> Result<()> {
    // Before the first look, so that nothing happens unseen.
    let query = Query::new().filters(&[format!("container={}", container.id), "type=container".into()])?;
    let mut events = containers::reader(s.api, "/events", &query).await?.lines();
    loop {
        let found = s.api.get(&format!("{}/json", container.path()), &Query::new()).await?;
        let state = &found["State"];
        let running = state["Running"] == Value::Bool(true) && state["Restarting"] != Value::Bool(true);
        match (state["Health"]["Status"].as_str(), what) {
            (Some("healthy"), _) if running => return Ok(()),
            (Some("unhealthy"), _) => bail!("container {} is unhealthy", container.name),
            (None | Some("none"), For::Healthy) if running => {
                bail!("container {} has no healthcheck configured", container.name)
            }
            (None | Some("none"), _) if running => return Ok(()),
            _ => {}
        }
        if matches!(state["Status"].as_str(), Some("exited" | "dead" | "removing")) {
            bail!("container {} exited ({})", container.name, state["ExitCode"]);
        }
        if events.next_line().await?.is_none() {
            bail!("the daemon stopped telling of container {}", container.name);
        }
    }
}
