//! The orchestrator: one pass over a service brings its tasks closer to its spec. It looks only at the
//! store (never at what happened before), so it gives the same answer on a new leader.
//!
//! Rules of a slot:
//! - the task created last speaks for it; earlier ones are stopping or finished (or, in a start-first
//!   update or a move, run until their successor does, and go on where it fails for good);
//! - a task never changes its node, it is only replaced; a replacement is held at desired Ready until its restart delay is
//!   over and its predecessor has stopped, so no slot runs two tasks;
//! - a finished task that the restart policy does not restart stays as the slot's last word.
//!
//! What jobs do differently is in [`jobs`].

pub mod plan;
pub mod schedule;
pub mod slot;
pub mod task;

mod jobs;
mod scale;

use std::collections::BTreeMap;

use rand::Rng;
use skep_proto::v1;
use v1::TaskState;
use v1::service_spec::Mode;

pub use plan::Plan;
use slot::{Slot, SlotKey};
use task::Place;

use crate::store::{StoreView, change};
use crate::{homes, rebalancer, restart, scheduler, updater};

/// Tasks created in one pass; more follow once these are written, so that no batch grows without bound.
pub const CREATE_LIMIT: usize = 10_000;

/// One pass over a service.
pub fn reconcile(view: &StoreView, service_id: &str, now_ms: i64, rng: &mut impl Rng) -> Plan {
    let mut plan = Plan::default();
    let Some(service) = view.service(service_id) else { return plan };
    if service.removing {
        remove(view, service, now_ms, &mut plan);
        return plan;
    }
    let Some(spec) = &service.spec else { return plan };
    homes::record(view, service, &mut plan);
    if schedule::tick(view, service, now_ms, &mut plan) {
        return plan;
    }
    let mut slots = slot::slots(view, service);
    match &spec.mode {
        Some(Mode::Global(_)) => globalise(view, service, &mut slots, now_ms, rng, &mut plan),
        Some(Mode::Replicated(r)) => {
            scale::scale(view, service, r.replicas, &mut slots, now_ms, rng, &mut plan)
        }
        Some(Mode::ReplicatedJob(job)) => {
            jobs::replicated(view, service, job, &mut slots, now_ms, rng, &mut plan)
        }
        Some(Mode::GlobalJob(_)) => jobs::global(view, service, &mut slots, now_ms, rng, &mut plan),
        None => return plan,
    }
    let mut fits = task::Fits::new(view);
    for slot in slots.values() {
        if service.job_status.is_some() && jobs::over(view, slot, now_ms, &mut plan) {
            continue;
        }
        tend(view, service, slot, &mut fits, now_ms, rng, &mut plan);
    }
    // An update goes on once the slots are at rest: every change brings another pass. A job has none.
    if plan.changes.is_empty() && service.job_status.is_none() {
        updater::update(view, service, &slots, now_ms, rng, &mut plan);
    }
    if plan.changes.is_empty() && service.job_status.is_none() {
        rebalancer::rebalance(view, service, slots.values(), now_ms, rng, &mut plan);
    }
    plan
}

/// Looks after one slot: replaces what failed or must leave its node, lets due tasks start.
fn tend(
    view: &StoreView,
    service: &v1::Service,
    slot: &Slot,
    fits: &mut task::Fits<'_>,
    now_ms: i64,
    rng: &mut impl Rng,
    plan: &mut Plan,
) {
    let Some((newest, older)) = slot.speaker() else { return };
    if !task::wanted(newest) {
        for old in older {
            plan.task(task::with_desired(old, TaskState::Shutdown, now_ms, "its successor completed"));
        }
        return;
    }
    let older: Vec<_> = older.collect();
    let moves = rebalancer::moves(newest, &older);
    if !newest.moved_from.is_empty()
        && (moves || task::waiting(newest))
        && let Some(why) = rebalancer::stuck(view, newest)
    {
        return match moves {
            true => rebalancer::give_up(view, service, newest, &why, now_ms, plan),
            false => replace(view, service, slot, newest, Reason::NowhereToMove, now_ms, rng, plan),
        };
    }
    if task::finished(newest) {
        // One that failed while it was being prepared has not had its turn yet: its successor would fail as fast.
        if newest.start_not_before_ms > now_ms {
            return plan.wake(newest.start_not_before_ms);
        }
        return replace(view, service, slot, newest, Reason::Finished, now_ms, rng, plan);
    }
    if task::state(newest) >= TaskState::Assigned {
        if task::node_lost(view, &newest.node_id) {
            return replace(view, service, slot, newest, Reason::NodeLost, now_ms, rng, plan);
        }
        if task::node_drained(view, &newest.node_id) {
            return replace(view, service, slot, newest, Reason::NodeDrained, now_ms, rng, plan);
        }
        if newest.slot != 0 && !fits.holds(newest) {
            return replace(view, service, slot, newest, Reason::NodeUnfit, now_ms, rng, plan);
        }
    }
    if newest.desired_state() < TaskState::Running && !slot.stopping(view) {
        if newest.start_not_before_ms <= now_ms {
            plan.task(task::with_desired(newest, task::goal(newest), now_ms, ""));
        } else {
            plan.wake(newest.start_not_before_ms);
        }
    }
    let start_first = moves || updater::order(service) == v1::UpdateOrder::StartFirst;
    if !start_first || task::state(newest) == TaskState::Running {
        for old in older {
            plan.task(task::with_desired(old, TaskState::Shutdown, now_ms, "replaced"));
        }
    } else {
        for old in older.into_iter().filter(|t| task::node_lost(view, &t.node_id)) {
            plan.task(task::with_desired(old, TaskState::Shutdown, now_ms, "its node is down"));
        }
    }
}

#[derive(Clone, Copy, PartialEq)]
enum Reason {
    Finished,
    NodeLost,
    NodeDrained,
    /// Its node is not as the service's constraints say any more.
    NodeUnfit,
    /// It was to run on one node, and what it was to take over from is gone.
    NowhereToMove,
}

#[allow(clippy::too_many_arguments, reason = "one decision over the whole context of a pass")]
fn replace(
    view: &StoreView,
    service: &v1::Service,
    slot: &Slot,
    old: &v1::Task,
    reason: Reason,
    now_ms: i64,
    rng: &mut impl Rng,
    plan: &mut Plan,
) {
    // A task that is bound to its node has no slot to be replaced in when that is lost. Those before it go with it: once
    // the node is back, the last of them would speak for the slot, and say that it is over.
    if old.slot == 0 && reason != Reason::Finished {
        for t in &slot.tasks {
            plan.task(task::with_desired(t, TaskState::Remove, now_ms, "its node was lost or drained"));
        }
        return;
    }
    plan.task(task::with_desired(old, TaskState::Shutdown, now_ms, "replaced"));
    let policy = view.task_spec(old).and_then(|s| s.restart).unwrap_or_default();
    let restart = match reason {
        Reason::Finished => restart::decide(&policy, old, now_ms),
        // Leaving a node is not the task's failure: no delay, and no attempt is counted.
        Reason::NodeLost | Reason::NodeDrained | Reason::NodeUnfit
            if policy.condition() == v1::RestartCondition::None =>
        {
            None
        }
        Reason::NodeLost | Reason::NodeDrained | Reason::NodeUnfit | Reason::NowhereToMove => {
            Some(restart::Restart { not_before_ms: 0, restarts_ms: old.restarts_ms.clone() })
        }
    };
    let Some(restart) = restart else { return };
    let mut new = task::new(service, old.revision, Place::after(slot, old), now_ms, rng);
    new.start_not_before_ms = restart.not_before_ms;
    new.restarts_ms = restart.restarts_ms;
    let must_wait = slot.stopping(view) || (reason != Reason::Finished && task::may_run(view, old));
    if restart.not_before_ms > now_ms || must_wait {
        new.set_desired_state(TaskState::Ready);
    }
    if restart.not_before_ms > now_ms {
        plan.wake(restart.not_before_ms);
    }
    plan.task(new);
}

/// A global service has one slot on every node that may run it.
fn globalise(
    view: &StoreView,
    service: &v1::Service,
    slots: &mut BTreeMap<SlotKey, Slot>,
    now_ms: i64,
    rng: &mut impl Rng,
    plan: &mut Plan,
) {
    let placement = view.present_spec(service).and_then(|s| s.placement.clone()).unwrap_or_default();
    for node in view.nodes() {
        let key = SlotKey::Node(node.id.clone());
        let eligible = scheduler::may_hold(node, &placement);
        let has = slots.get(&key).is_some_and(|s| !s.tasks.is_empty());
        if eligible && scheduler::open(node) && !has {
            if plan.changes.len() >= CREATE_LIMIT {
                plan.more = true;
                break;
            }
            let incarnation = slots.get(&key).map_or(1, Slot::next_incarnation);
            let place = Place { slot: 0, node: &node.id, incarnation };
            let mut new = task::new(service, service.revision, place, now_ms, rng);
            if slots.get(&key).is_some_and(|s| s.stopping(view)) {
                new.set_desired_state(TaskState::Ready);
            }
            plan.task(new);
            slots.remove(&key);
        } else if !eligible && has && node.state() != v1::NodeState::Down {
            for t in slots.remove(&key).into_iter().flat_map(|s| s.tasks) {
                plan.task(task::with_desired(&t, TaskState::Remove, now_ms, "its node no longer fits"));
            }
        }
    }
}

/// Stops every task of a service being removed; with the last task gone, the service goes.
fn remove(view: &StoreView, service: &v1::Service, now_ms: i64, plan: &mut Plan) {
    let mut tasks = view.tasks_of_service(&service.id).peekable();
    if tasks.peek().is_none() {
        for r in view.revisions_of(&service.id) {
            plan.changes.push(change::remove_revision(&service.id, r.number));
        }
        if view.homes(&service.id).is_some() {
            plan.changes.push(change::remove_homes(&service.id));
        }
        plan.changes.push(change::remove_service(&service.id));
        return;
    }
    for t in tasks.filter(|t| t.desired_state() != TaskState::Remove) {
        if plan.changes.len() >= CREATE_LIMIT {
            plan.more = true;
            return;
        }
        plan.task(task::with_desired(t, TaskState::Remove, now_ms, "service removed"));
    }
}
