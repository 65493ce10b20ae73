//! Waits until a job is complete, and shows how far it is.

use std::collections::BTreeMap;

use anyhow::{Result, bail};
use serde_json::{Value, json};

use super::api::{Api, Query};
use super::human;
use super::output::text;
use super::progress::{JOB_STATES, MAX_LINES, POLL, Screen, bar};

/// Other ends than completion, in their order.
const ENDED: [&str; 3] = ["shutdown", "failed", "rejected"];

/// Looks in a row that must find nothing at work before a job counts as given up.
const IDLE: u32 = 20;

/// Returns once the iteration of the job that `service` is in is complete. One that comes to its end without is an
/// error, where Docker's client would wait for ever.
pub async fn watch(api: &Api, service: &Value, screen: &mut Screen) -> Result<()> {
    let id = text(service, "ID");
    let job = Job {
        iteration: service["JobStatus"]["JobIteration"]["Index"].as_u64().unwrap_or(0),
        total: service["Spec"]["Mode"]["ReplicatedJob"]["TotalCompletions"].as_u64(),
        concurrent: service["Spec"]["Mode"]["ReplicatedJob"]["MaxConcurrent"].as_u64().unwrap_or(0),
    };
    // Nodes that come later have no part in what is waited for.
    let mut nodes = None;
    let mut idle = 0;
    loop {
        let filters = json!({ "service": [id], "_up-to-date": ["true"] });
        let tasks = api.get("/tasks", &Query::new().with("filters", filters.to_string())).await?;
        let places = job.places(tasks.as_array().map_or(&[][..], Vec::as_slice), &nodes);
        if job.total.is_none() && nodes.is_none() && !places.is_empty() {
            nodes = Some(places.keys().cloned().collect::<Vec<_>>());
        }
        let seen = job.seen(&places);
        let mut lines = seen.lines;
        if seen.complete {
            lines.push("job complete".to_owned());
            return screen.show(&lines);
        }
        screen.show(&lines)?;
        let over = seen.active == 0 && !places.is_empty();
        idle = if over { idle + 1 } else { 0 };
        if idle >= IDLE {
            bail!("job {id} is over and not complete: `skep service ps {id}` tells what failed");
        }
        // Gone meanwhile, or begun anew by somebody else: there is nothing left to wait for.
        let now = api.get(&format!("/services/{id}"), &Query::new()).await?;
        if now["JobStatus"]["JobIteration"]["Index"].as_u64().unwrap_or(0) != job.iteration {
            bail!("job {id} was updated: another iteration of it began");
        }
        tokio::time::sleep(POLL).await;
    }
}

struct Job {
    iteration: u64,
    /// Completions of a replicated job.
    total: Option<u64>,
    concurrent: u64,
}

/// A slot's number, or a node's ID.
type Place = (u64, String);

struct Seen {
    lines: Vec<String>,
    active: usize,
    complete: bool,
}

impl Job {
    /// The task that tells where a place is: the one that has come the least far. What ended otherwise than complete
    /// counts where there is nothing else.
    fn places<'a>(&self, tasks: &'a [Value], nodes: &Option<Vec<Place>>) -> BTreeMap<Place, &'a Value> {
        let mut places: BTreeMap<Place, &Value> = BTreeMap::new();
        for task in tasks {
            if task["JobIteration"]["Index"].as_u64().unwrap_or(0) != self.iteration {
                continue;
            }
            let place = match self.total {
                Some(_) => (task["Slot"].as_u64().unwrap_or(0), String::new()),
                None => (0, text(task, "NodeID")),
            };
            let known = nodes.as_ref().is_none_or(|nodes| nodes.contains(&place));
            if known && places.get(&place).is_none_or(|held| rank(held) > rank(task)) {
                places.insert(place, task);
            }
        }
        places
    }

    fn seen(&self, places: &BTreeMap<Place, &Value>) -> Seen {
        let total = self.total.unwrap_or(places.len() as u64);
        let state = |t: &Value| text(&t["Status"], "State");
        let completed = places.values().filter(|t| state(t) == "complete").count() as u64;
        let active = places.values().filter(|t| rank(t) < JOB_STATES.len() - 1).count();
        let width = total.to_string().len();
        let done = (completed * 50).checked_div(total).map_or(50, |n| n as usize);
        let mut lines = Vec::new();
        if self.total.is_none() && places.is_empty() {
            lines.push("job progress: waiting for tasks".to_owned());
        } else {
            let bar = "=".repeat(done.saturating_sub(1)) + ">";
            lines.push(format!("job progress: {completed:>width$} out of {total} complete [{bar:<50}]"));
        }
        if self.total.is_some() {
            let at_once = self.concurrent.min(total - completed.min(total));
            lines.push(format!("active tasks: {active} out of {at_once} tasks"));
        }
        if total <= MAX_LINES {
            for ((slot, node), task) in places {
                let error = text(&task["Status"], "Err");
                let state = if error.is_empty() { state(task) } else { human::ellipsis(&error, 75) };
                let place = if self.total.is_some() { format!("{}/{total}", slot + 1) } else { node.clone() };
                lines.push(format!("{place}: {}", bar(&state, &JOB_STATES)).trim_end().to_owned());
            }
        }
        let complete = completed == total && (self.total.is_some() || total > 0);
        Seen { lines, active, complete }
    }
}

fn rank(task: &Value) -> usize {
    let state = text(&task["Status"], "State");
    let at = |list: &[&str]| list.iter().position(|s| *s == state);
    at(&JOB_STATES).or_else(|| at(&ENDED).map(|i| JOB_STATES.len() + i)).unwrap_or(usize::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn task(slot: u64, iteration: u64, state: &str) -> Value {
        json!({ "Slot": slot, "JobIteration": { "Index": iteration }, "Status": { "State": state } })
    }

    #[test]
    fn only_the_tasks_of_the_iteration_count_and_each_slot_once() {
        let job = Job { iteration: 1, total: Some(3), concurrent: 2 };
        let tasks = [
            task(0, 0, "complete"),
            task(0, 1, "failed"),
            task(0, 1, "running"),
            task(1, 1, "complete"),
            task(1, 1, "shutdown"),
        ];
        let seen = job.seen(&job.places(&tasks, &None));
        assert_eq!((seen.active, seen.complete), (1, false));
        assert!(seen.lines[0].starts_with("job progress: 1 out of 3 complete ["), "{:?}", seen.lines);
        assert_eq!(seen.lines[1], "active tasks: 1 out of 2 tasks");
        assert!(seen.lines[2].starts_with("1/3: running") && seen.lines[3].starts_with("2/3: complete"));
        let done = [task(0, 1, "complete"), task(1, 1, "complete"), task(2, 1, "complete")];
        assert!(job.seen(&job.places(&done, &None)).complete);
    }
}
