//! The restart supervisor: whether a task that ended is tried again, and when. What it needs to remember
//! travels with the tasks of the slot, so a new leader goes on where the old one stopped.

use skep_proto::{defaults, v1};
use v1::{RestartCondition, TaskState};

use crate::orchestrator::task;

/// The successor of a finished task.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Restart {
    /// It may not start before.
    pub not_before_ms: i64,
    /// The restarts the policy has to remember, this one included.
    pub restarts_ms: Vec<i64>,
}

/// Decides on a finished task by its policy; `None`: leave it be.
pub fn decide(policy: &v1::RestartPolicy, ended: &v1::Task, now_ms: i64) -> Option<Restart> {
    let failed = task::state(ended) != TaskState::Complete;
    match policy.condition() {
        RestartCondition::None => return None,
        RestartCondition::OnFailure if !failed => return None,
        RestartCondition::OnFailure | RestartCondition::Any => {}
    }
    let mut restarts_ms = Vec::new();
    if policy.max_attempts > 0 {
        let window_ms = policy.window_ns / 1_000_000;
        let counted = |at: &&i64| window_ms == 0 || **at > now_ms.saturating_sub(window_ms);
        restarts_ms.extend(ended.restarts_ms.iter().filter(counted));
        if restarts_ms.len() as u64 >= policy.max_attempts {
            return None;
        }
        restarts_ms.push(now_ms);
    }
    let delay_ms = policy.delay_ns.map_or(defaults::RESTART_DELAY.as_millis() as i64, |ns| ns / 1_000_000);
    let ended_ms = task::since_ms(ended).max(ended.start_not_before_ms);
    Some(Restart { not_before_ms: ended_ms.saturating_add(delay_ms), restarts_ms })
}
