//! Jobs: tasks that run to completion. A replicated job has one slot for every completion it is to come to, and no
//! more of them at work at once than its limit says; a global job has one on every node that was part of the swarm
//! when its iteration began. Every update of the service begins another iteration: what is left of the one before is
//! stopped first.
//!
//! A slot is over when its task is complete, or has failed and is not restarted. Nothing runs in it again before the
//! next iteration. A task of a global job that was stopped with its node's drain is tried again when the node is back.

use std::collections::{BTreeMap, BTreeSet};

use rand::Rng;
use skep_proto::v1::{self, service_spec::Mode};
use v1::TaskState;

use super::slot::{Slot, SlotKey};
use super::task::{self, Place};
use super::{CREATE_LIMIT, Plan, schedule};
use crate::scheduler;
use crate::store::StoreView;

/// Whether there is nothing to look after in a slot. One is complete when any of its tasks is, also one that was
/// replaced: the others, which would do its work once more, are stopped. A task that is bound to a node that is down
/// may have ended there by now, and is left alone.
pub(super) fn over(view: &StoreView, slot: &Slot, now_ms: i64, plan: &mut Plan) -> bool {
    if complete(slot) {
        for t in slot.tasks.iter().filter(|t| task::live(t)) {
            plan.task(task::with_desired(t, TaskState::Shutdown, now_ms, "its slot is complete"));
        }
        return true;
    }
    let down = |id| view.node(id).is_some_and(|n| n.state() == v1::NodeState::Down);
    slot.newest().is_some_and(|t| t.slot == 0 && task::live(t) && down(&t.node_id))
}

fn complete(slot: &Slot) -> bool {
    slot.tasks.iter().any(|t| task::state(t) == TaskState::Complete)
}

/// Opens slots of a replicated job, as many as may be at work.
pub(super) fn replicated(
    view: &StoreView,
    service: &v1::Service,
    job: &v1::ReplicatedJob,
    slots: &mut BTreeMap<SlotKey, Slot>,
    now_ms: i64,
    rng: &mut impl Rng,
    plan: &mut Plan,
) {
    let within = |key: &SlotKey| matches!(key, SlotKey::Replica(n) if *n <= job.total_completions);
    if !retire(view, service, slots, within, now_ms, plan) || !schedule::open(service) {
        return;
    }
    let busy = slots.values().filter(|s| at_work(view, service, s)).count() as u64;
    let mut free = job.max_concurrent.saturating_sub(busy);
    for number in 1..=job.total_completions {
        if free == 0 {
            return;
        }
        let slot = slots.get(&SlotKey::Replica(number));
        if slot.is_some_and(|s| !s.tasks.is_empty() || at_work(view, service, s)) {
            continue;
        }
        if plan.changes.len() >= CREATE_LIMIT {
            plan.more = true;
            return;
        }
        let place = Place { slot: number, node: "", incarnation: slot.map_or(1, Slot::next_incarnation) };
        plan.task(task::new(service, service.revision, place, now_ms, rng));
        free -= 1;
    }
}

/// Gives every node that a global job concerns its task, and stops those on nodes that may have none any more.
pub(super) fn global(
    view: &StoreView,
    service: &v1::Service,
    slots: &mut BTreeMap<SlotKey, Slot>,
    now_ms: i64,
    rng: &mut impl Rng,
    plan: &mut Plan,
) {
    let there = |key: &SlotKey| matches!(key, SlotKey::Node(id) if view.node(id).is_some());
    if !retire(view, service, slots, there, now_ms, plan) {
        return;
    }
    for slot in slots.iter().filter(|(key, _)| !there(key)).map(|(_, slot)| slot) {
        for t in slot.tasks.iter().filter(|t| task::live(t)) {
            plan.task(task::with_desired(t, TaskState::Remove, now_ms, "its node left the swarm"));
        }
    }
    slots.retain(|key, _| there(key));
    let spec = view.present_spec(service);
    let placement = spec.and_then(|s| s.placement.clone()).unwrap_or_default();
    let restart = spec.and_then(|s| s.restart).unwrap_or_default();
    let again = restart.condition() != v1::RestartCondition::None;
    for node in view.nodes() {
        let key = SlotKey::Node(node.id.clone());
        let slot = slots.get(&key);
        if slot.is_some_and(complete) {
            continue;
        }
        let fits = scheduler::may_hold(node, &placement);
        match slot.and_then(Slot::newest) {
            Some(t) if task::live(t) => {
                if !fits && node.state() != v1::NodeState::Down {
                    plan.task(task::with_desired(t, TaskState::Shutdown, now_ms, "its node no longer fits"));
                    slots.remove(&key);
                }
                continue;
            }
            // Stopped by us, or given up on: it has not had its turn.
            Some(t) if again && matches!(task::state(t), TaskState::Shutdown | TaskState::Orphaned) => {}
            Some(_) => continue,
            None if joined_later(service, node) => continue,
            None => {}
        }
        let free = scheduler::open(node) && !slot.is_some_and(|s| at_work(view, service, s));
        if !fits || !free || !schedule::open(service) {
            continue;
        }
        if plan.changes.len() >= CREATE_LIMIT {
            plan.more = true;
            return;
        }
        let place = Place { slot: 0, node: &node.id, incarnation: slot.map_or(1, Slot::next_incarnation) };
        plan.task(task::new(service, service.revision, place, now_ms, rng));
    }
}

/// Whether a node came into the swarm after the present iteration began, which is none of its concern.
fn joined_later(service: &v1::Service, node: &v1::Node) -> bool {
    let began_ms = service.job_status.map_or(0, |job| job.last_execution_ms);
    node.meta.is_some_and(|m| m.created_at_ms > began_ms)
}

/// Whether a global job has yet to give a node its task of the present iteration; `opened` are the slots that had one.
pub(super) fn unopened(view: &StoreView, service: &v1::Service, opened: &BTreeSet<SlotKey>) -> bool {
    if !matches!(service.spec.as_ref().and_then(|s| s.mode.as_ref()), Some(Mode::GlobalJob(_))) {
        return false;
    }
    let placement = view.present_spec(service).and_then(|s| s.placement.clone()).unwrap_or_default();
    let takes = |n: &v1::Node| scheduler::open(n) && scheduler::may_hold(n, &placement);
    let due = |n: &v1::Node| takes(n) && !joined_later(service, n);
    view.nodes().any(|n| due(n) && !opened.contains(&SlotKey::Node(n.id.clone())))
}

/// Whether a task of the slot may be running, or will without anybody's doing: one that failed is restarted, or given
/// up, before others are begun.
fn at_work(view: &StoreView, service: &v1::Service, slot: &Slot) -> bool {
    let beside = |t: &v1::Task| schedule::goes_on(view, service, t) && !task::current(service, t);
    (!complete(slot) && slot.newest().is_some_and(|t| task::wanted(t)))
        || slot.tasks.iter().chain(&slot.leaving).any(|t| task::may_run(view, t) && !beside(t))
}

/// Puts an end to tasks of earlier iterations, which from then on only keep their slots' history, if those are still
/// `needed`. False if there is more to do in the next pass.
fn retire(
    view: &StoreView,
    service: &v1::Service,
    slots: &mut BTreeMap<SlotKey, Slot>,
    needed: impl Fn(&SlotKey) -> bool,
    now_ms: i64,
    plan: &mut Plan,
) -> bool {
    for (key, slot) in slots.iter_mut() {
        let (of_now, earlier) =
            std::mem::take(&mut slot.tasks).into_iter().partition(|t| task::current(service, t));
        slot.tasks = of_now;
        let end = if needed(key) { TaskState::Shutdown } else { TaskState::Remove };
        for mut t in earlier {
            if t.desired_state() < end && !(needed(key) && schedule::goes_on(view, service, &t)) {
                if plan.changes.len() >= CREATE_LIMIT {
                    plan.more = true;
                    slots.clear();
                    return false;
                }
                t = task::with_desired(&t, end, now_ms, "another iteration of the job began").into();
                plan.task(v1::Task::clone(&t));
            }
            slot.leaving.push(t);
        }
    }
    true
}
