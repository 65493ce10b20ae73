//! The reaper: deletes tasks that are done with, keeps each slot's history short, drops revisions that nothing
//! names, and gives up on tasks of nodes that stay away.

use std::collections::BTreeSet;

use skep_proto::{defaults, v1};
use v1::TaskState;

use crate::orchestrator::{Plan, schedule, slot, task};
use crate::store::{StoreView, change};

/// How long a node may be down before its tasks count as gone and their addresses are free again.
pub const ORPHAN_AFTER_MS: i64 = 24 * 60 * 60 * 1000;

/// What the leader's work list calls the attachments: they are the tasks of no service.
pub const ATTACHMENTS: &str = "";

/// One pass over a service's tasks and revisions.
pub fn reap(view: &StoreView, service_id: &str, now_ms: i64) -> Plan {
    let mut plan = Plan::default();
    if service_id == ATTACHMENTS {
        detach(view, now_ms, &mut plan);
        return plan;
    }
    let service = view.service(service_id);
    let limit =
        view.cluster().and_then(|c| c.spec.as_ref()).map_or(defaults::TASK_HISTORY, |s| s.task_history_limit);
    let mut named: BTreeSet<u64> = BTreeSet::new();
    for t in view.tasks_of_service(service_id) {
        let gone = service.is_none() || t.desired_state() == TaskState::Remove;
        if gone && !awaited(view, t, service.is_none_or(|s| s.removing)) {
            plan.changes.push(change::remove_task(&t.id));
            continue;
        }
        named.insert(t.revision);
        orphan(view, t, now_ms, &mut plan);
    }
    let Some(service) = service else {
        for r in view.revisions_of(service_id).filter(|r| !named.contains(&r.number)) {
            plan.changes.push(change::remove_revision(service_id, r.number));
        }
        return plan;
    };
    if service.removing {
        return plan;
    }
    if limit >= 0 {
        for slot in slot::slots(view, service).values() {
            // The last task speaks for the slot, however it ended.
            let past = slot.tasks.len().saturating_sub(1);
            let finished = slot.tasks.iter().take(past).filter(|t| task::finished(t) && !task::wanted(t));
            let finished: Vec<_> = finished.filter(|t| !completion(service, t)).collect();
            for t in finished.iter().take(finished.len().saturating_sub(limit as usize)) {
                plan.changes.push(change::remove_task(&t.id));
            }
        }
    }
    for r in
        view.revisions_of(service_id).filter(|r| r.number != service.revision && !named.contains(&r.number))
    {
        plan.changes.push(change::remove_revision(service_id, r.number));
    }
    plan
}

/// Whether a job's slot is complete by the task, in its present iteration or in a run that goes on beside that one.
fn completion(service: &v1::Service, t: &v1::Task) -> bool {
    let counts = || task::current(service, t) || schedule::under_way(service, t.job_iteration);
    t.job_iteration.is_some() && task::state(t) == TaskState::Complete && counts()
}

/// Takes back the places of containers that nobody can give back any more: their node was removed, or has been
/// down for so long that its tasks count as gone.
fn detach(view: &StoreView, now_ms: i64, plan: &mut Plan) {
    for t in view.attachments() {
        let lost = match view.node(&t.node_id) {
            None => true,
            Some(n) if n.state() == v1::NodeState::Down => {
                let due = n.meta.map_or(0, |m| m.updated_at_ms) + ORPHAN_AFTER_MS;
                if due > now_ms {
                    plan.wake(due);
                }
                due <= now_ms
            }
            Some(_) => false,
        };
        if lost || task::finished(t) {
            plan.changes.push(change::remove_task(&t.id));
        }
    }
}

/// Whether a task on its way out still has to be reported stopped. One on a node that is down does, as its
/// slot may come to life again on that node; with the whole service going it does not.
fn awaited(view: &StoreView, t: &v1::Task, all_going: bool) -> bool {
    if task::finished(t) || task::state(t) < TaskState::Assigned {
        return false;
    }
    view.node(&t.node_id).is_some_and(|n| !all_going || n.state() != v1::NodeState::Down)
}

/// Gives up on a task whose node has been down for too long or has left the swarm.
fn orphan(view: &StoreView, t: &v1::Task, now_ms: i64, plan: &mut Plan) {
    if task::finished(t) || task::wanted(t) || task::state(t) < TaskState::Assigned {
        return;
    }
    let why = match view.node(&t.node_id) {
        None => "its node left the swarm",
        Some(n) if n.state() == v1::NodeState::Down => {
            let due = n.meta.map_or(0, |m| m.updated_at_ms) + ORPHAN_AFTER_MS;
            if due > now_ms {
                return plan.wake(due);
            }
            "its node has been down for a day"
        }
        Some(_) => return,
    };
    let mut t = t.clone();
    let status = t.status.get_or_insert_default();
    status.set_state(TaskState::Orphaned);
    status.timestamp_ms = now_ms;
    status.message = "given up".to_owned();
    status.err = why.to_owned();
    plan.task(t);
}
