//! The rolling updater: brings the slots of a service to its current revision, a few at a time, watches
//! them, and pauses, goes on or rolls back when too many fail. Where an update stands is read off
//! the tasks and the service's update status, so a new leader simply goes on.

mod progress;

use std::collections::BTreeMap;

use rand::Rng;
use skep_proto::v1;
use v1::{TaskState, UpdateState};

use crate::orchestrator::Plan;
use crate::orchestrator::slot::{Slot, SlotKey};
use crate::orchestrator::task::{self, Place};
use crate::prerequisites;
use crate::store::{StoreView, change::put};
use progress::Progress;

/// What an update says of itself while nothing holds it up.
const IN_PROGRESS: &str = "update in progress";

/// The order in which the service's update (or rollback) replaces a task.
pub fn order(service: &v1::Service) -> v1::UpdateOrder {
    config(service).order()
}

fn rolling_back(service: &v1::Service) -> bool {
    matches!(
        service.update_status.as_ref().map(v1::UpdateStatus::state),
        Some(UpdateState::RollbackStarted | UpdateState::RollbackPaused)
    )
}

fn config(service: &v1::Service) -> v1::UpdateConfig {
    let spec = service.spec.as_ref();
    let config =
        if rolling_back(service) { spec.and_then(|s| s.rollback) } else { spec.and_then(|s| s.update) };
    config.unwrap_or(v1::UpdateConfig { parallelism: 1, ..Default::default() })
}

/// One pass over the service's slots.
pub fn update(
    view: &StoreView,
    service: &v1::Service,
    slots: &BTreeMap<SlotKey, Slot>,
    now_ms: i64,
    rng: &mut impl Rng,
    plan: &mut Plan,
) {
    let config = config(service);
    let status = service.update_status.clone().unwrap_or_default();
    let current = status.revision == service.revision;
    let progress = Progress::of(view, service, slots, &config, &status, now_ms);
    match status.state() {
        UpdateState::Paused | UpdateState::RollbackPaused if current => return,
        UpdateState::Updating | UpdateState::RollbackStarted if current => {}
        UpdateState::RollbackStarted if status.revision == 0 => {
            return begin(service, UpdateState::RollbackStarted, "rollback in progress", now_ms, plan);
        }
        _ if progress.outdated.is_empty() => return,
        _ => return begin(service, UpdateState::Updating, IN_PROGRESS, now_ms, plan),
    }
    if progress.too_many_failures(&config) && fail(view, service, &config, &progress, now_ms, plan) {
        return;
    }
    if let Some(at) = progress.settles_ms {
        plan.wake(at);
    }
    if progress.outdated.is_empty() {
        if progress.settled {
            complete(service, &status, now_ms, plan);
        }
        return;
    }
    // Those that run go on until what the new ones depend on is there; those that wait lose nothing.
    let held = prerequisites::unmet(view, service, service.revision);
    let message = held.as_ref().map_or(IN_PROGRESS, |h| &h.what);
    if status.state() == UpdateState::Updating && status.message != message {
        say(service, message, plan);
    }
    let may = |s: &&&Slot| held.is_none() || s.newest().is_some_and(|t| task::waiting(t));
    let outdated: Vec<&Slot> = progress.outdated.iter().filter(may).copied().collect();
    let parallelism = if config.parallelism == 0 { usize::MAX } else { config.parallelism as usize };
    let free = parallelism.saturating_sub(progress.busy).min(crate::orchestrator::CREATE_LIMIT);
    for slot in outdated.iter().take(free) {
        replace(view, service, slot, config.order(), now_ms, rng, plan);
    }
    plan.more |= free < outdated.len() && free == crate::orchestrator::CREATE_LIMIT;
}

/// Puts a task of the current revision into a slot.
fn replace(
    view: &StoreView,
    service: &v1::Service,
    slot: &Slot,
    order: v1::UpdateOrder,
    now_ms: i64,
    rng: &mut impl Rng,
    plan: &mut Plan,
) {
    let Some(old) = slot.newest() else { return };
    let mut new = task::new(service, service.revision, Place::after(slot, old), now_ms, rng);
    // One that waits for its turn (a restart's delay) has nothing to keep up.
    let keeps = |t: &v1::Task| {
        order == v1::UpdateOrder::StartFirst
            && task::live(t)
            && t.desired_state() == TaskState::Running
            && task::state(t) >= TaskState::Assigned
    };
    let mut waits = slot.stopping(view);
    for t in slot.tasks.iter().filter(|t| task::wanted(t) && !keeps(t)) {
        plan.task(task::with_desired(t, TaskState::Shutdown, now_ms, "replaced by an update"));
        waits |= task::may_run(view, t);
    }
    if waits {
        new.set_desired_state(TaskState::Ready);
    }
    plan.task(new);
}

fn begin(service: &v1::Service, state: UpdateState, message: &str, now_ms: i64, plan: &mut Plan) {
    let mut service = service.clone();
    service.update_status = Some(v1::UpdateStatus {
        state: state.into(),
        started_at_ms: now_ms,
        completed_at_ms: 0,
        message: message.to_owned(),
        revision: service.revision,
    });
    plan.changes.push(put(service));
}

fn say(service: &v1::Service, message: &str, plan: &mut Plan) {
    let mut service = service.clone();
    service.update_status.get_or_insert_default().message = message.to_owned();
    plan.changes.push(put(service));
}

fn complete(service: &v1::Service, status: &v1::UpdateStatus, now_ms: i64, plan: &mut Plan) {
    let (state, message) = match status.state() {
        UpdateState::RollbackStarted => (UpdateState::RollbackCompleted, "rollback completed"),
        _ => (UpdateState::Completed, "update completed"),
    };
    finish(service, state, message.to_owned(), now_ms, plan);
}

fn finish(service: &v1::Service, state: UpdateState, message: String, now_ms: i64, plan: &mut Plan) {
    let mut service = service.clone();
    let mut status = service.update_status.unwrap_or_default();
    status.set_state(state);
    status.message = message;
    status.completed_at_ms = now_ms;
    service.update_status = Some(status);
    plan.changes.push(put(service));
}

/// Acts on too many failures; true if the update stops here.
fn fail(
    view: &StoreView,
    service: &v1::Service,
    config: &v1::UpdateConfig,
    progress: &Progress,
    now_ms: i64,
    plan: &mut Plan,
) -> bool {
    let task = progress.failed_task.as_deref().unwrap_or_default();
    let back = rolling_back(service);
    match config.failure_action() {
        v1::UpdateFailureAction::Continue => return false,
        v1::UpdateFailureAction::Rollback if !back && roll_back(view, service, task, now_ms, plan) => {}
        // A rollback that fails has nowhere further back to go.
        v1::UpdateFailureAction::Pause | v1::UpdateFailureAction::Rollback => {
            let (state, what) = if back {
                (UpdateState::RollbackPaused, "rollback")
            } else {
                (UpdateState::Paused, "update")
            };
            let message = format!("{what} paused due to failure or early termination of task {task}");
            finish(service, state, message, now_ms, plan);
        }
    }
    true
}

/// Makes the previous spec the current one, as a new revision; false if there is none.
fn roll_back(view: &StoreView, service: &v1::Service, task: &str, now_ms: i64, plan: &mut Plan) -> bool {
    let Some(previous) = service.previous_spec.clone() else { return false };
    let mut service = service.clone();
    let spec = previous.task.clone();
    service.spec = Some(previous);
    service.previous_spec = None;
    service.revision =
        view.revisions_of(&service.id).map(|r| r.number).max().unwrap_or(0).max(service.revision) + 1;
    plan.changes.push(put(v1::Revision {
        service_id: service.id.clone(),
        number: service.revision,
        spec,
        ..Default::default()
    }));
    let message = format!("update rolled back due to failure or early termination of task {task}");
    begin(&service, UpdateState::RollbackStarted, &message, now_ms, plan);
    true
}
