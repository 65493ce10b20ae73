//! What would come of a change: the leader's own passes, run on a copy of the state, with agents that do at once what
//! they are told. So a plan is what the orchestrator, updater and scheduler will decide, if nothing else happens and
//! every task starts.

use rand::Rng;
use skep_proto::v1::{self, TaskState};

use crate::leader::{Dirty, pass};
use crate::orchestrator::task;
use crate::store::StoreView;
use crate::store::change::put;

/// What is looked ahead over.
const HORIZON_MS: i64 = 60 * 60 * 1000;
/// Most passes and steps of agents, for a state that never comes to rest.
const ROUNDS: usize = 10_000;

/// The steps in order.
#[derive(Debug, Default)]
pub struct Forecast {
    /// What starts, stops, and in the end waits.
    pub steps: Vec<v1::PlanStep>,
    /// Whether the swarm came to rest.
    pub complete: bool,
}

/// Looks ahead from a state to which changes are to be made.
pub fn forecast(view: &StoreView, changes: Vec<v1::Change>, now_ms: i64, rng: &mut impl Rng) -> Forecast {
    let mut ahead = Ahead { view: view.clone(), dirty: Dirty::all(view), now_ms, began_ms: now_ms };
    ahead.apply(changes);
    let mut out = Forecast::default();
    for _ in 0..ROUNDS {
        ahead.dirty.due(ahead.now_ms);
        if ahead.dirty.any() {
            let mut work = ahead.dirty.take();
            let changes = pass(&ahead.view, &mut work, ahead.now_ms, rng);
            ahead.dirty.merge(work);
            ahead.apply(changes);
            continue;
        }
        let reports = ahead.agents(&mut out.steps);
        if !reports.is_empty() {
            ahead.apply(reports);
            continue;
        }
        match ahead.dirty.next_wake() {
            Some(at) if at <= now_ms + HORIZON_MS => ahead.now_ms = at.max(ahead.now_ms),
            _ => {
                out.complete = true;
                break;
            }
        }
    }
    let mut waiting: Vec<_> = ahead.view.tasks().filter(|t| task::waiting(t)).collect();
    waiting.sort_by_key(|t| (&t.service_id, t.slot));
    for t in waiting {
        let why = t.status.as_ref().map(|s| s.err.clone()).unwrap_or_default();
        out.steps.push(ahead.step("wait", t, &why));
    }
    out
}

struct Ahead {
    view: StoreView,
    dirty: Dirty,
    now_ms: i64,
    began_ms: i64,
}

impl Ahead {
    fn apply(&mut self, changes: Vec<v1::Change>) {
        if changes.is_empty() {
            return;
        }
        let batch = v1::Batch { changes, at_ms: self.now_ms, ..Default::default() };
        // Without a precondition a batch is never refused.
        let events = self.view.apply(self.view.index + 1, batch).unwrap_or_default();
        for event in &events {
            self.dirty.event(&self.view, event);
        }
    }

    /// What the agents report next: first all that stops, then what it makes room for.
    fn agents(&self, steps: &mut Vec<v1::PlanStep>) -> Vec<v1::Change> {
        let mut moves: Vec<(TaskState, &v1::Task)> =
            self.view.tasks().filter_map(|t| Some((self.next(t)?, &**t))).collect();
        moves.sort_by_key(|(next, t)| (*next <= TaskState::Running, &t.service_id, t.slot));
        let mut changes = Vec::new();
        for (next, t) in moves {
            match next {
                TaskState::Shutdown => steps.push(self.step("stop", t, "")),
                TaskState::Running => steps.push(self.step("start", t, "")),
                _ => {}
            }
            let mut t = t.clone();
            let container = (next >= TaskState::Running).then(v1::ContainerStatus::default);
            t.status = Some(v1::TaskStatus {
                state: next.into(),
                timestamp_ms: self.now_ms,
                container,
                ..Default::default()
            });
            changes.push(put(t));
        }
        changes
    }

    fn next(&self, t: &v1::Task) -> Option<TaskState> {
        let (state, desired) = (task::state(t), t.desired_state());
        if state < TaskState::Assigned
            || task::finished(t)
            || t.attachment.is_some()
            || task::node_lost(&self.view, &t.node_id)
        {
            return None;
        }
        let goal =
            if desired > TaskState::Complete { TaskState::Shutdown } else { desired.min(TaskState::Running) };
        (state < goal).then_some(goal)
    }

    fn step(&self, act: &str, t: &v1::Task, why: &str) -> v1::PlanStep {
        let node = self.view.node(&t.node_id).and_then(|n| n.description.as_ref());
        let service = self.view.service(&t.service_id);
        v1::PlanStep {
            after_ms: self.now_ms - self.began_ms,
            act: act.to_owned(),
            service: service.map_or(t.service_id.as_str(), |s| crate::control::service_name(s)).to_owned(),
            slot: t.slot,
            node: node.map_or(t.node_id.as_str(), |d| &d.hostname).to_owned(),
            why: why.to_owned(),
        }
    }
}
