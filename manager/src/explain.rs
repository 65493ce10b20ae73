//! Why a task runs, waits or has ended, in words for a person.

use skep_proto::v1::{self, TaskState};

use crate::orchestrator::slot::Slot;
use crate::orchestrator::task;
use crate::store::StoreView;

/// What a task does, or waits for. `slot` is the one it is of.
pub fn standing(view: &StoreView, slot: &Slot, t: &v1::Task, now_ms: i64) -> String {
    let status = t.status.clone().unwrap_or_default();
    let said = [status.message.as_str(), status.err.as_str()];
    let said = said.into_iter().filter(|s| !s.is_empty()).collect::<Vec<_>>().join(": ");
    if task::finished(t) {
        return ended(view, slot, t, said);
    }
    if !task::wanted(t) {
        return format!("is to stop on node {}: {said}", host(view, &t.node_id));
    }
    if task::state(t) < TaskState::Assigned {
        return if status.err.is_empty() { "waits for the scheduler".to_owned() } else { status.err };
    }
    let node = host(view, &t.node_id);
    if task::node_lost(view, &t.node_id) {
        return format!("is on node {node}, which is down");
    }
    if t.desired_state() <= TaskState::Ready && task::state(t) <= TaskState::Ready {
        if t.start_not_before_ms > now_ms {
            let seconds = (t.start_not_before_ms - now_ms).div_euclid(1000) + 1;
            return format!("is held on node {node}: its restart delay ends in {seconds} s");
        }
        let before = slot.tasks.iter().chain(&slot.leaving);
        let stopping = before.into_iter().find(|o| !task::wanted(o) && task::may_run(view, o));
        if let Some(old) = stopping {
            let on = host(view, &old.node_id);
            return format!("is held on node {node} until the task before it has stopped on node {on}");
        }
    }
    match task::state(t) {
        TaskState::Running if !t.moved_from.is_empty() => {
            format!("runs on node {node}, where it was moved to from node {}", host(view, &t.moved_from))
        }
        TaskState::Running => format!("runs on node {node}"),
        _ if !t.moved_from.is_empty() && slot.tasks.iter().filter(|o| task::live(o)).count() > 1 => {
            let from = host(view, &t.moved_from);
            format!("is being moved to node {node} from node {from}, where it goes on until then: {said}")
        }
        _ => format!("is being brought up on node {node}: {said}"),
    }
}

/// What is done about the service as a whole: moves of its tasks, and changes of their number.
pub fn notes(service: &v1::Service) -> Vec<String> {
    let mut notes = Vec::new();
    if let Some(s) = service.rebalance_status.as_ref().filter(|s| !s.message.is_empty()) {
        notes.push(format!("rebalance: {}", s.message));
    }
    if let Some(s) = &service.autoscale_status {
        let last = s.events.last().map(|e| format!("scaled from {} to {}: {}", e.from, e.to, e.reason));
        let said = [last, Some(s.message.clone()).filter(|m| !m.is_empty())];
        notes.push(format!("autoscale: {}", said.into_iter().flatten().collect::<Vec<_>>().join("; ")));
    }
    notes
}

fn ended(view: &StoreView, slot: &Slot, t: &v1::Task, said: String) -> String {
    let speaks = slot.newest().is_some_and(|newest| newest.id == t.id);
    let policy = view.task_spec(t).and_then(|s| s.restart).unwrap_or_default();
    let state = match task::state(t) {
        TaskState::Complete => "is complete",
        TaskState::Failed => "has failed",
        TaskState::Rejected => "was rejected by its node",
        TaskState::Orphaned => "was given up with its node",
        _ => "was stopped",
    };
    let why = match policy.condition() {
        _ if !speaks => "",
        v1::RestartCondition::None => "; it is not restarted: its restart condition is none",
        v1::RestartCondition::OnFailure if task::state(t) == TaskState::Complete => {
            "; it is not restarted: its restart condition is on-failure"
        }
        _ if policy.max_attempts > 0 && !task::wanted(t) => {
            "; it is not restarted: it has had all its attempts (--restart-max-attempts)"
        }
        _ => "",
    };
    let said = if said.is_empty() { said } else { format!(": {said}") };
    format!("{state} on node {}{said}{why}", host(view, &t.node_id))
}

fn host(view: &StoreView, id: &str) -> String {
    let description = view.node(id).and_then(|n| n.description.as_ref());
    description.map_or(id, |d| &d.hostname).to_owned()
}
