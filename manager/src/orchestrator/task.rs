//! The facts about a task that every decision rests on, and the few ways the manager changes one.

use std::collections::HashMap;

use rand::Rng;
use skep_proto::{ids, v1};
use v1::TaskState;

use super::slot::Slot;
use crate::scheduler::constraint::Constraint;
use crate::store::StoreView;

/// The state an agent reported (or, before assignment, the manager decided).
pub fn state(task: &v1::Task) -> TaskState {
    task.status.as_ref().map_or(TaskState::New, v1::TaskStatus::state)
}

/// Whether the task has stopped for good.
pub fn finished(task: &v1::Task) -> bool {
    state(task) > TaskState::Running
}

/// Whether the manager wants the task to run (now, or as soon as it may), or one of a job to be complete.
pub fn wanted(task: &v1::Task) -> bool {
    task.desired_state() <= TaskState::Complete
}

/// The desired state of a task that may run: one of a job is to come to its end.
pub fn goal(task: &v1::Task) -> TaskState {
    if task.job_iteration.is_some() { TaskState::Complete } else { TaskState::Running }
}

/// Whether the task is of the service's present iteration; those of services that are no jobs always are.
pub fn current(service: &v1::Service, task: &v1::Task) -> bool {
    service.job_status.is_none_or(|job| task.job_iteration == Some(job.iteration))
}

/// Whether the task is wanted and has not stopped.
pub fn live(task: &v1::Task) -> bool {
    wanted(task) && !finished(task)
}

/// Whether the task still waits for a node.
pub fn waiting(task: &v1::Task) -> bool {
    wanted(task) && state(task) < TaskState::Assigned
}

/// Whether an agent may still be running the task: assigned, not finished, and its node not down.
pub fn may_run(view: &StoreView, task: &v1::Task) -> bool {
    !finished(task) && state(task) >= TaskState::Assigned && !node_lost(view, &task.node_id)
}

/// Whether the node is down or no longer part of the swarm.
pub fn node_lost(view: &StoreView, node_id: &str) -> bool {
    view.node(node_id).is_none_or(|n| n.state() == v1::NodeState::Down)
}

/// Whether the node may keep the tasks it has.
pub fn node_drained(view: &StoreView, node_id: &str) -> bool {
    view.node(node_id)
        .and_then(|n| n.spec.as_ref())
        .is_some_and(|s| s.availability() == v1::NodeAvailability::Drain)
}

/// When the task came to its present state, never later than the store learnt of it (agents' clocks differ).
pub fn since_ms(task: &v1::Task) -> i64 {
    let meta = task.meta.unwrap_or_default();
    let reported = task.status.as_ref().map_or(0, |s| s.timestamp_ms);
    reported.clamp(meta.created_at_ms.min(meta.updated_at_ms), meta.updated_at_ms)
}

/// Order of creation within a slot.
pub fn age_key(task: &v1::Task) -> (u64, &str) {
    (task.incarnation, &task.id)
}

/// The task with another desired state. One that no agent knows of stops there and then.
pub fn with_desired(task: &v1::Task, desired: TaskState, now_ms: i64, why: &str) -> v1::Task {
    let mut task = task.clone();
    task.set_desired_state(desired);
    if desired > TaskState::Complete && state(&task) < TaskState::Assigned {
        task.status = Some(v1::TaskStatus {
            state: TaskState::Shutdown.into(),
            timestamp_ms: now_ms,
            message: why.to_owned(),
            ..Default::default()
        });
    }
    task
}

/// A new task of a service, the `incarnation`th of its slot.
pub fn new(service: &v1::Service, revision: u64, place: Place, now_ms: i64, rng: &mut impl Rng) -> v1::Task {
    let mut task = v1::Task {
        id: ids::random(rng),
        service_id: service.id.clone(),
        revision,
        slot: place.slot,
        node_id: place.node.to_owned(),
        incarnation: place.incarnation,
        job_iteration: service.job_status.map(|job| job.iteration),
        status: Some(v1::TaskStatus {
            state: TaskState::New.into(),
            timestamp_ms: now_ms,
            message: "created".to_owned(),
            ..Default::default()
        }),
        ..Default::default()
    };
    task.set_desired_state(goal(&task));
    task
}

/// Where a new task belongs.
#[derive(Clone, Copy, Debug)]
pub struct Place<'a> {
    /// Number of the replica; 0 for a task bound to its node.
    pub slot: u64,
    /// Node of such a task; empty for a replica.
    pub node: &'a str,
    /// Its number among the tasks of the slot.
    pub incarnation: u64,
}

impl<'a> Place<'a> {
    /// The place of the successor of `old`, a task of `slot` and not always its newest.
    pub fn after(slot: &Slot, old: &'a v1::Task) -> Self {
        let node = if old.slot == 0 { old.node_id.as_str() } else { "" };
        Self { slot: old.slot, node, incarnation: slot.next_incarnation() }
    }
}

/// Whether the nodes of a service's tasks are still as the constraints of each task's revision say: labels and roles
/// change. The constraints are read once in a pass.
pub struct Fits<'a> {
    view: &'a StoreView,
    known: HashMap<u64, Vec<Constraint>>,
}

impl<'a> Fits<'a> {
    /// For the tasks of one service.
    pub fn new(view: &'a StoreView) -> Self {
        Self { view, known: HashMap::new() }
    }

    /// Whether the task may stay. Of a node that is gone nothing is known.
    pub fn holds(&mut self, task: &v1::Task) -> bool {
        let Some(node) = self.view.node(&task.node_id) else { return true };
        let constraints = self.known.entry(task.revision).or_insert_with(|| {
            let placement = self.view.task_spec(task).and_then(|s| s.placement.as_ref());
            let texts = placement.map_or(&[][..], |p| &p.constraints);
            texts.iter().filter_map(|text| Constraint::parse(text).ok()).collect()
        });
        constraints.iter().all(|c| c.matches(node))
    }
}
