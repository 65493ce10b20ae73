//! Waits until a service has come to what was asked of it, and shows how far each task is.

use std::collections::BTreeMap;
use std::io::{IsTerminal, Write};
use std::time::Duration;

use anyhow::{Result, bail};
use serde_json::{Value, json};
use tokio::time::Instant;

use super::api::{Api, Query};
use super::output::{bytes, say, text};
use super::{human, job_progress};

/// How long between two looks.
pub(super) const POLL: Duration = Duration::from_millis(100);
/// Most tasks that get a line of their own.
pub(super) const MAX_LINES: u64 = 20;
/// How long the tasks must run before the service counts as converged, unless its spec says.
const MONITOR: Duration = Duration::from_secs(5);
/// States a task goes through on its way, for its bar.
const STATES: [&str; 9] =
    ["new", "allocated", "pending", "assigned", "accepted", "preparing", "ready", "starting", "running"];
/// The same of a job's task.
pub(super) const JOB_STATES: [&str; 10] = [
    "new",
    "allocated",
    "pending",
    "assigned",
    "accepted",
    "preparing",
    "ready",
    "starting",
    "running",
    "complete",
];

/// Returns once the service runs as asked, and has done so for its monitoring time. An update that was paused
/// is an error. Ctrl-C ends the waiting, not the service.
pub async fn converge(api: &Api, id: &str, quiet: bool) -> Result<()> {
    tokio::select! {
        done = watch(api, id, quiet) => done,
        interrupted = tokio::signal::ctrl_c() => {
            interrupted?;
            if quiet {
                return Ok(());
            }
            say!("Operation continuing in background.\nUse `skep service ps {id}` to check progress.")
        }
    }
}

async fn watch(api: &Api, id: &str, quiet: bool) -> Result<()> {
    let mut screen = Screen::new(quiet);
    let service = api.get(&format!("/services/{id}"), &Query::new()).await?;
    // Its runs come when they are due.
    if !service["Spec"]["Schedule"].is_null() {
        return Ok(());
    }
    if !service["JobStatus"].is_null() {
        return job_progress::watch(api, &service, &mut screen).await;
    }
    let mut since = None;
    loop {
        let seen = look(api, id).await?;
        let mut lines = seen.lines();
        let Some(ends) = seen.running(&mut since) else {
            screen.show(&lines)?;
            if let Some(why) = seen.failed {
                bail!("{why}");
            }
            tokio::time::sleep(POLL).await;
            continue;
        };
        let left = ends.saturating_duration_since(Instant::now());
        if left.is_zero() {
            lines.push(format!("verify: Service {id} converged"));
            return screen.show(&lines);
        }
        let seconds = left.as_secs_f64().ceil() as u64;
        lines.push(format!(
            "verify: Waiting {seconds} second{} to verify that tasks are stable...",
            if seconds == 1 { "" } else { "s" }
        ));
        screen.show(&lines)?;
        tokio::time::sleep(POLL.min(left)).await;
    }
}

/// One look at a service.
struct Seen {
    /// What is waited for, by its place: the state it is in, or why it does not get on.
    places: Vec<(String, String)>,
    wanted: u64,
    running: u64,
    settled: bool,
    monitor: Duration,
    failed: Option<String>,
    rollback: String,
}

impl Seen {
    /// When the service counts as converged, if all runs now.
    fn running(&self, since: &mut Option<Instant>) -> Option<Instant> {
        if !self.settled || self.running < self.wanted || self.failed.is_some() {
            *since = None;
            return None;
        }
        Some(*since.get_or_insert_with(Instant::now) + self.monitor)
    }

    fn lines(&self) -> Vec<String> {
        let mut lines = Vec::new();
        if !self.rollback.is_empty() {
            lines.push(format!("rollback: {}", self.rollback));
        }
        lines.push(format!("overall progress: {} out of {} tasks", self.running, self.wanted));
        for (place, state) in &self.places {
            lines.push(format!("{place}: {}", bar(state, &STATES)).trim_end().to_owned());
        }
        lines
    }
}

/// A state with a bar of how far along it is; what is no state on the way stands by itself.
pub(super) fn bar(state: &str, states: &[&str]) -> String {
    match states.iter().position(|s| *s == state) {
        Some(at) => {
            let done = (at + 1) * 50 / states.len();
            format!("{state:<9} [{:<50}]", "=".repeat(done.saturating_sub(1)) + ">")
        }
        None => state.to_owned(),
    }
}

/// How many of all are through, with a bar.
pub(super) fn counter(done: usize, all: usize, unit: &str) -> String {
    let half = (done * 50).checked_div(all).unwrap_or(0).min(50);
    let space = 49usize.saturating_sub(half);
    format!("[{}>{}] {done}/{all} {unit}", "=".repeat(half), " ".repeat(space))
}

async fn look(api: &Api, id: &str) -> Result<Seen> {
    let found = api.get(&format!("/services/{id}"), &Query::new()).await?;
    let filters = json!({ "service": [id], "_up-to-date": ["true"] });
    let tasks = api.get("/tasks", &Query::new().with("filters", filters.to_string())).await?;
    let replicas = found["Spec"]["Mode"]["Replicated"]["Replicas"].as_u64();
    let mut newest = BTreeMap::<(u64, String), &Value>::new();
    for task in tasks.as_array().into_iter().flatten() {
        let slot = task["Slot"].as_u64().unwrap_or(0);
        // What is on its way out says nothing of where the service is going, except why it failed.
        if text(task, "DesiredState") == "shutdown" && text(&task["Status"], "Err").is_empty() {
            continue;
        }
        let place = (slot, if replicas.is_some() { String::new() } else { text(task, "NodeID") });
        let newer = |held: &&Value| text(held, "CreatedAt") >= text(task, "CreatedAt");
        if !newest.get(&place).is_some_and(newer) {
            newest.insert(place, task);
        }
    }
    let runs = |t: &&&Value| text(&t["Status"], "State") == "running" && text(t, "DesiredState") == "running";
    let running = newest.values().filter(runs).count() as u64;
    let wanted = replicas.unwrap_or(newest.len() as u64);
    let mut places = Vec::new();
    if wanted <= MAX_LINES {
        let state = |task: &Value| match (text(&task["Status"], "State"), text(&task["Status"], "Err")) {
            (state, _) if state == "running" => state,
            (_, error) if !error.is_empty() => human::ellipsis(&error, 75),
            (state, _) => state,
        };
        if replicas.is_some() {
            for slot in 1..=wanted {
                let task = newest.iter().find(|((s, _), _)| *s == slot).map(|(_, t)| state(t));
                places.push((format!("{slot}/{wanted}"), task.unwrap_or_default()));
            }
        } else {
            places.extend(newest.iter().map(|((_, node), t)| (node.chars().take(12).collect(), state(t))));
        }
    }
    let status = &found["UpdateStatus"];
    let (state, message) = (text(status, "State"), text(status, "Message"));
    let failed = match state.as_str() {
        "paused" => Some(format!("service update paused: {message}")),
        "rollback_paused" => Some(format!("service rollback paused: {message}")),
        _ => None,
    };
    let back = state.starts_with("rollback");
    let config = &found["Spec"][if back { "RollbackConfig" } else { "UpdateConfig" }];
    Ok(Seen {
        settled: !matches!(state.as_str(), "updating" | "rollback_started")
            && (replicas.is_some() || wanted > 0),
        places,
        wanted,
        running,
        monitor: config["Monitor"].as_u64().filter(|n| *n > 0).map_or(MONITOR, Duration::from_nanos),
        failed,
        rollback: if back { message } else { String::new() },
    })
}

/// Where progress is shown: redrawn in place on a terminal, else line by line as lines change.
pub struct Screen {
    quiet: bool,
    terminal: bool,
    drawn: Vec<String>,
}

impl Screen {
    pub fn new(quiet: bool) -> Self {
        Self { quiet, terminal: std::io::stdout().is_terminal(), drawn: Vec::new() }
    }

    /// Shows these lines in place of those before.
    pub fn show(&mut self, lines: &[String]) -> Result<()> {
        if self.quiet || lines == self.drawn.as_slice() {
            return Ok(());
        }
        let mut out = Vec::new();
        if self.terminal {
            if !self.drawn.is_empty() {
                write!(out, "\x1b[{}A", self.drawn.len())?;
            }
            for line in lines {
                write!(out, "\x1b[2K{line}\r\n")?;
            }
            // Fewer lines than before: what is below them goes.
            write!(out, "\x1b[J")?;
        } else {
            for line in lines.iter().filter(|l| !self.drawn.contains(l)) {
                writeln!(out, "{line}")?;
            }
        }
        self.drawn = lines.to_vec();
        bytes(&mut std::io::stdout(), &out)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bar_grows_with_the_states_and_a_reason_stands_by_itself() {
        let width = |state| bar(state, &STATES).matches(['=', '>']).count();
        assert!(width("new") < width("preparing") && width("preparing") < width("running"));
        assert_eq!(width("running"), 50);
        assert_eq!(bar("no node fits", &STATES), "no node fits");
    }
}
