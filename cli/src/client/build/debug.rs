//! `build --debug`: the shell that the daemon offers in the state a failed step left.

use std::io::IsTerminal;

use anyhow::{Context, Result};
use serde_json::Value;

use super::super::api::{Api, Query};
use super::super::attach::{self, Ended};
use super::super::create_body::Streams;
use super::super::messages::Messages;
use super::agent::Agents;

/// Whether the shell gets a terminal.
pub fn at_terminal() -> bool {
    std::io::stdin().is_terminal() && std::io::stdout().is_terminal()
}

/// Says what failed, joins the shell with our streams, and returns at its end. The daemon removes what was kept for it.
/// Its commands may use the agents that the step could.
pub async fn shell(api: &Api, messages: &mut Messages, agents: &Agents, failed: &Value) -> Result<()> {
    let text = |name: &str| failed[name].as_str().unwrap_or_default();
    eprintln!(
        "Step {}/{} ({}) failed: {}: {}\nThis is {} in the state it left; the build ends with it.",
        failed["Step"],
        failed["Steps"],
        text("Place"),
        text("Command"),
        text("Failure"),
        text("Shell"),
    );
    let id = failed["Container"].as_str().context("the daemon names no container to look into")?;
    let path = format!("/containers/{id}");
    let streams = Streams { stdin: true, stdout: true, stderr: true };
    let said = async {
        while let Some(result) = messages.next().await? {
            if let Some(wanted) = result.get("Skep.Agent") {
                agents.connect(api, wanted);
            }
        }
        anyhow::Ok(())
    };
    let joining = join(api, &path, streams);
    tokio::pin!(said, joining);
    let mut end = None;
    let joined = loop {
        tokio::select! {
            joined = &mut joining => break joined,
            // The build says how it ended as soon as the shell has; what that said last may still come.
            said = &mut said, if end.is_none() => end = Some(said),
        }
    };
    if let Some(end) = end {
        return end;
    }
    match joined {
        Ok(Ended::Closed) => {}
        // There is no way back to it, and the build waits.
        Ok(Ended::Detached) => remove(api, &path).await,
        Err(e) => {
            eprintln!("the shell cannot be opened: {e:#}");
            remove(api, &path).await;
        }
    }
    Ok(())
}

async fn join(api: &Api, path: &str, streams: Streams) -> Result<Ended> {
    let tty = at_terminal();
    let attached = attach::attach(api, path, streams, tty, None).await?;
    api.post(&format!("{path}/start"), &Query::new(), None).await?;
    attached.join(api, path, true).await
}

async fn remove(api: &Api, path: &str) {
    // The daemon removes it itself once it has ended.
    let _ = api.delete(path, &Query::new().flag("force", true)).await;
}
