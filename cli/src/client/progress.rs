//! Waits until a service has come to what was asked of it, and shows how far it is.

use std::io::{IsTerminal, Write};
use std::time::Duration;

use anyhow::{Result, bail};
use serde_json::{Value, json};

use super::api::{Api, Query};

const POLL: Duration = Duration::from_millis(100);
/// How long every task must have run before the service counts as converged.
const STABLE: Duration = Duration::from_secs(1);

/// Returns once the service runs as asked. An update that was paused or rolled back is an error.
pub async fn converge(api: &Api, service: &str, quiet: bool) -> Result<()> {
    let mut shown = String::new();
    let mut complete_since = None;
    loop {
        let state = look(api, service).await?;
        let line = state.line();
        if !quiet && line != shown {
            show(&line)?;
            shown = line;
        }
        if let Some(why) = state.failed {
            bail!("{why}");
        }
        if state.complete {
            let since = *complete_since.get_or_insert_with(tokio::time::Instant::now);
            if since.elapsed() >= STABLE {
                break;
            }
        } else {
            complete_since = None;
        }
        tokio::time::sleep(POLL).await;
    }
    if !quiet {
        println!(
            "{}verify: Service {service} converged",
            if std::io::stdout().is_terminal() { "\n" } else { "" }
        );
    }
    Ok(())
}

struct Seen {
    wanted: u64,
    running: u64,
    complete: bool,
    failed: Option<String>,
    reason: String,
}

impl Seen {
    fn line(&self) -> String {
        let reason = if self.reason.is_empty() { String::new() } else { format!(": {}", self.reason) };
        format!("overall progress: {} out of {} tasks{reason}", self.running, self.wanted)
    }
}

fn show(line: &str) -> Result<()> {
    let mut out = std::io::stdout();
    if out.is_terminal() {
        write!(out, "\r\x1b[K{line}")?;
    } else {
        writeln!(out, "{line}")?;
    }
    Ok(out.flush()?)
}

async fn look(api: &Api, service: &str) -> Result<Seen> {
    let found = api.get(&format!("/services/{service}"), &Query::new()).await?;
    let filters =
        json!({ "service": [service], "_up-to-date": ["true"], "desired-state": ["running", "accepted"] });
    let tasks = api.get("/tasks", &Query::new().with("filters", filters.to_string())).await?;
    let tasks: Vec<&Value> = tasks.as_array().into_iter().flatten().collect();
    let running =
        tasks.iter().filter(|t| t["Status"]["State"] == "running" && t["DesiredState"] == "running").count()
            as u64;
    let wanted = found["Spec"]["Mode"]["Replicated"]["Replicas"].as_u64().unwrap_or(tasks.len() as u64);
    let reason = tasks.iter().find_map(|t| t["Status"]["Err"].as_str().filter(|e| !e.is_empty()));
    let status = &found["UpdateStatus"];
    let state = status["State"].as_str().unwrap_or_default();
    let message = status["Message"].as_str().unwrap_or_default();
    let failed = match state {
        "paused" | "rollback_paused" => Some(format!("service update paused: {message}")),
        "rollback_completed" => Some(format!("service rolled back: {message}")),
        _ => None,
    };
    let settled = state.is_empty() || state == "completed";
    Ok(Seen {
        wanted,
        running,
        complete: settled && running == wanted,
        failed,
        reason: reason.unwrap_or_default().to_owned(),
    })
}
