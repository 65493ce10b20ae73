//! One pass of the leader's logic: allocator, orchestrator, reaper and scheduler, each on the state the ones
//! before it leave, so that a new service is placed in a single write.

use std::collections::HashSet;

use rand::Rng;
use skep_proto::v1;

use super::Dirty;
use crate::allocator::{self, Pools};
use crate::orchestrator::{self, CREATE_LIMIT};
use crate::prerequisites;
use crate::reaper;
use crate::scheduler::{self, Load};
use crate::store::StoreView;

/// Works off `work` (what is left over stays in it) and returns the changes to write, each object once.
pub fn pass(view: &StoreView, work: &mut Dirty, now_ms: i64, rng: &mut impl Rng) -> Vec<v1::Change> {
    let mut ahead = Ahead { view: view.clone(), changes: Vec::new(), now_ms };
    let mut allocate = std::mem::take(&mut work.allocate);
    while allocate {
        let changes = allocator::allocate(&ahead.view).changes;
        allocate = !changes.is_empty();
        ahead.add(changes);
    }
    let dependents = prerequisites::dependents(view, &work.services);
    work.schedule |= !dependents.is_empty();
    work.services.extend(dependents);
    while ahead.changes.len() < CREATE_LIMIT
        && let Some(service) = work.services.pop_first()
    {
        let plan = orchestrator::reconcile(&ahead.view, &service, now_ms, rng);
        let reaped = reaper::reap(&ahead.view, &service, now_ms);
        for at in [plan.wake_ms, reaped.wake_ms].into_iter().flatten() {
            work.wake(service.clone(), at);
        }
        if plan.more || reaped.more {
            work.services.insert(service);
        }
        work.schedule |= !plan.changes.is_empty();
        ahead.add(plan.changes);
        ahead.add(reaped.changes);
    }
    if std::mem::take(&mut work.schedule) && ahead.view.waiting().next().is_some() {
        let refusals = allocator::allocate(&ahead.view).refusals;
        let (mut load, mut pools) = (Load::of(&ahead.view), Pools::of(&ahead.view));
        let schedule =
            scheduler::schedule(&ahead.view, &mut load, &mut pools, &refusals, now_ms, CREATE_LIMIT);
        work.schedule = schedule.more;
        ahead.changes.extend(schedule.changes);
    }
    latest_only(ahead.changes)
}

/// The view as it will be.
struct Ahead {
    view: StoreView,
    changes: Vec<v1::Change>,
    now_ms: i64,
}

impl Ahead {
    fn add(&mut self, changes: Vec<v1::Change>) {
        if !changes.is_empty() {
            self.view.foresee(changes.clone(), self.now_ms);
            self.changes.extend(changes);
        }
    }
}

/// Keeps the last change of every object, in order.
fn latest_only(mut changes: Vec<v1::Change>) -> Vec<v1::Change> {
    let keep: Vec<bool> = {
        let mut seen = HashSet::new();
        changes.iter().rev().map(|c| seen.insert(subject(c))).collect()
    };
    let mut keep = keep.into_iter().rev();
    changes.retain(|_| keep.next().unwrap_or(true));
    changes
}

/// What a change is about.
fn subject(change: &v1::Change) -> (i32, &str, u64) {
    use v1::{ObjectKind as K, change::Op, object::Kind};
    let (kind, id, number) = match &change.op {
        Some(Op::Put(object)) => match &object.kind {
            Some(Kind::Cluster(o)) => (K::Cluster, o.id.as_str(), 0),
            Some(Kind::Node(o)) => (K::Node, o.id.as_str(), 0),
            Some(Kind::Service(o)) => (K::Service, o.id.as_str(), 0),
            Some(Kind::Revision(o)) => (K::Revision, o.service_id.as_str(), o.number),
            Some(Kind::Task(o)) => (K::Task, o.id.as_str(), 0),
            Some(Kind::Network(o)) => (K::Network, o.id.as_str(), 0),
            Some(Kind::Dependency(o)) => (K::Dependency, o.id.as_str(), 0),
            Some(Kind::Homes(o)) => (K::Homes, o.service_id.as_str(), 0),
            None => (K::Cluster, "", 0),
        },
        Some(Op::Remove(r)) => return (r.kind, &r.id, r.revision),
        None => (K::Cluster, "", 0),
    };
    (kind.into(), id, number)
}
