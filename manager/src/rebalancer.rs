//! The rebalancer: moves running tasks of a service, a few at a time, to where the scheduler would place them now, as when
//! a node has joined or is back. Each move is start-first: another task of the slot is bound to the node it goes to, and
//! the one there is goes on until that one runs (`orchestrator::tend`). Where a rebalance stands is read off the tasks and
//! the service's rebalance status, so a new leader simply goes on.
//!
//! Nothing is moved while an update is under way or a replica does not run; tasks with local data, of jobs and of global
//! services never are. The first move that fails ends it, until the nodes or the service change.

use std::collections::BTreeMap;
use std::sync::Arc;

use rand::Rng;
use skep_proto::{defaults, v1};
use v1::service_spec::Mode;
use v1::{RebalanceState, TaskState, UpdateState};

use crate::homes;
use crate::orchestrator::Plan;
use crate::orchestrator::slot::Slot;
use crate::orchestrator::task::{self, Place};
use crate::scheduler::{self, Move, Uneven};
use crate::store::{StoreView, change::put, service_name};

/// Between the end of a move and the next, where nothing is said.
pub const DELAY_MS: i64 = 5000;
/// When a node that keeps failing the service is looked at again.
const FAILING_AGAIN_MS: i64 = 60_000;

/// Whether the spread of the service's tasks is looked after: by its own setting, or once because somebody asked.
pub fn concerns(service: &v1::Service) -> bool {
    let enabled = service.spec.as_ref().and_then(|s| s.rebalance).is_some_and(|r| r.enabled);
    enabled || under_way(service)
}

fn under_way(service: &v1::Service) -> bool {
    service.rebalance_status.as_ref().is_some_and(|s| s.state() == RebalanceState::Moving)
}

/// The service with a rebalance asked for, whatever its setting is.
pub fn ask(service: &mut v1::Service, now_ms: i64) {
    if let Some(status) = service.rebalance_status.as_mut().filter(|s| s.state() == RebalanceState::Moving) {
        status.asked = true;
        return;
    }
    service.rebalance_status = Some(v1::RebalanceStatus {
        state: RebalanceState::Moving.into(),
        started_at_ms: now_ms,
        message: "begins".to_owned(),
        asked: true,
        ..Default::default()
    });
}

/// Whether the task takes the place of one that is to run until it does.
pub fn moves(newest: &v1::Task, older: &[&Arc<v1::Task>]) -> bool {
    !newest.moved_from.is_empty() && !older.is_empty()
}

/// Why a task that is being moved to its node will not run there, if so.
pub fn stuck(view: &StoreView, t: &v1::Task) -> Option<String> {
    let status = t.status.clone().unwrap_or_default();
    if task::finished(t) {
        return Some(if status.err.is_empty() { "it ended at once".to_owned() } else { status.err });
    }
    if task::state(t) < TaskState::Assigned {
        return (!status.err.is_empty()).then_some(status.err);
    }
    if task::node_lost(view, &t.node_id) {
        return Some("its node is down".to_owned());
    }
    task::node_drained(view, &t.node_id).then(|| "its node is drained".to_owned())
}

/// Ends a move that comes to nothing: the task that was to be moved goes on where it is.
pub fn give_up(
    view: &StoreView,
    service: &v1::Service,
    t: &v1::Task,
    why: &str,
    now_ms: i64,
    plan: &mut Plan,
) {
    plan.task(task::with_desired(t, TaskState::Shutdown, now_ms, "the move is given up"));
    let message = failed(view, service, t, why);
    finish(view, service, RebalanceState::Stopped, message, now_ms, plan);
}

fn failed(view: &StoreView, service: &v1::Service, t: &v1::Task, why: &str) -> String {
    format!(
        "{}.{} could not be moved from node {} to node {}: {why}",
        service_name(service),
        t.slot,
        host(view, &t.moved_from),
        host(view, &t.node_id)
    )
}

fn host<'a>(view: &'a StoreView, id: &'a str) -> &'a str {
    view.node(id).and_then(|n| n.description.as_ref()).map_or(id, |d| &d.hostname)
}

/// One pass over the slots of a service at rest (but for its moves).
pub fn rebalance<'a>(
    view: &StoreView,
    service: &v1::Service,
    slots: impl Iterator<Item = &'a Slot>,
    now_ms: i64,
    rng: &mut impl Rng,
    plan: &mut Plan,
) {
    let spec = service.spec.as_ref();
    let replicated = matches!(spec.and_then(|s| s.mode.as_ref()), Some(Mode::Replicated(_)));
    let config = spec.and_then(|s| s.rebalance).unwrap_or_default();
    let status = service.rebalance_status.clone().unwrap_or_default();
    if !replicated || !concerns(service) {
        return;
    }
    if under_way(service) && !config.enabled && !status.asked {
        return finish(view, service, RebalanceState::Stopped, "turned off".to_owned(), now_ms, plan);
    }
    if status.state() == RebalanceState::Stopped && status.nodes == open_nodes(view) {
        return;
    }
    if let Some(why) = update_under_way(service) {
        return say(service, why, plan);
    }
    let standing = Standing::of(view, slots, status.started_at_ms);
    if let Some(t) = standing.failed.filter(|_| under_way(service)) {
        let why = t.status.as_ref().map_or("", |s| &s.err);
        let message = failed(view, service, &t, why);
        return finish(view, service, RebalanceState::Stopped, message, now_ms, plan);
    }
    let delay_ms = config.delay_ns.map_or(DELAY_MS, |ns| ns / 1_000_000);
    let parallelism = config.parallelism.max(1) as usize;
    if standing.moving + standing.stopping >= parallelism {
        return;
    }
    if standing.restless {
        return say(service, "waits until all replicas run", plan);
    }
    let next_ms = standing.moved_ms + delay_ms;
    if standing.moving == 0 && next_ms > now_ms {
        return plan.wake(next_ms);
    }
    let leaving: Vec<&str> = standing.leaving.iter().map(String::as_str).collect();
    let uneven = match even(view, service, &leaving) {
        true => Uneven::No,
        false => scheduler::uneven(view, service, &standing.settled, &leaving, now_ms),
    };
    match uneven {
        Uneven::Move(next) => begin(view, service, status, &next, now_ms, rng, plan),
        Uneven::No | Uneven::Failing if standing.moving + standing.stopping > 0 => {}
        Uneven::Failing => {
            plan.wake(now_ms + FAILING_AGAIN_MS);
            say(service, "waits: the node that should have more tasks keeps failing them", plan);
        }
        Uneven::No if under_way(service) => {
            // What fails a moment after it has begun is seen before all is said to be well.
            let settled_ms = standing.moved_ms + defaults::UPDATE_MONITOR.as_millis() as i64;
            if settled_ms > now_ms {
                return plan.wake(settled_ms);
            }
            let message = match status.moved {
                0 => "the tasks are spread as evenly as they can be".to_owned(),
                1 => "1 task was moved".to_owned(),
                n => format!("{n} tasks were moved"),
            };
            finish(view, service, RebalanceState::Completed, message, now_ms, plan);
        }
        Uneven::No => {}
    }
}

/// Whether the spread is even at a glance, whatever else there is to respect: most times, without a look at all tasks.
fn even(view: &StoreView, service: &v1::Service, leaving: &[&str]) -> bool {
    let placement = view.present_spec(service).and_then(|s| s.placement.as_ref());
    if placement.is_some_and(|p| !p.preferences.is_empty()) {
        return false;
    }
    let open = view.nodes().filter(|n| scheduler::open(n));
    let mut counts: BTreeMap<&str, i64> = open.map(|n| (n.id.as_str(), 0)).collect();
    let tasks = view.tasks_of_service(&service.id).filter(|t| task::live(t));
    let counted = tasks.map(|t| (t.node_id.as_str(), 1)).chain(leaving.iter().map(|id| (*id, -1)));
    for (id, n) in counted {
        if let Some(count) = counts.get_mut(id) {
            *count += n;
        }
    }
    counts.values().max().zip(counts.values().min()).is_none_or(|(most, least)| most - least < 2)
}

/// What an update of the service does that must not be disturbed.
fn update_under_way(service: &v1::Service) -> Option<&'static str> {
    match service.update_status.as_ref().map(v1::UpdateStatus::state)? {
        UpdateState::Updating => Some("waits for the update under way"),
        UpdateState::RollbackStarted => Some("waits for the rollback under way"),
        UpdateState::Paused | UpdateState::RollbackPaused => Some("waits: the service's update is paused"),
        UpdateState::None | UpdateState::Completed | UpdateState::RollbackCompleted => None,
    }
}

/// How the slots stand.
#[derive(Default)]
struct Standing {
    /// Tasks that may be moved.
    settled: Vec<Arc<v1::Task>>,
    /// Slots with a move under way.
    moving: usize,
    /// Nodes of the tasks that run until theirs is over.
    leaving: Vec<String>,
    /// Slots in which a task stops, as after a move.
    stopping: usize,
    /// Whether some other task does not run.
    restless: bool,
    /// When the last task that was moved came to run.
    moved_ms: i64,
    /// One that was moved since the rebalance began, and failed.
    failed: Option<Arc<v1::Task>>,
}

impl Standing {
    fn of<'a>(view: &StoreView, slots: impl Iterator<Item = &'a Slot>, began_ms: i64) -> Self {
        let mut s = Self::default();
        for slot in slots {
            let failed = slot.tasks.iter().find(|t| {
                !t.moved_from.is_empty()
                    && t.meta.is_some_and(|m| m.created_at_ms >= began_ms)
                    && matches!(task::state(t), TaskState::Failed | TaskState::Rejected)
            });
            s.failed = s.failed.or(failed.cloned());
            let Some((t, older)) = slot.speaker() else { continue };
            let older: Vec<_> = older.collect();
            if moves(t, &older) {
                s.moving += 1;
                s.leaving.extend(older.iter().filter(|o| task::live(o)).map(|o| o.node_id.clone()));
                continue;
            }
            let runs = task::live(t) && task::state(t) == TaskState::Running;
            if !runs || task::node_lost(view, &t.node_id) {
                s.restless |= task::wanted(t);
                continue;
            }
            if !t.moved_from.is_empty() {
                s.moved_ms = s.moved_ms.max(task::since_ms(t));
            }
            if slot.stopping(view) {
                s.stopping += 1;
            } else if view.task_spec(t).is_some_and(|spec| homes::volumes(spec).is_empty()) {
                s.settled.push(t.clone());
            }
        }
        s
    }
}

fn begin(
    view: &StoreView,
    service: &v1::Service,
    status: v1::RebalanceStatus,
    next: &Move,
    now_ms: i64,
    rng: &mut impl Rng,
    plan: &mut Plan,
) {
    let old = &next.task;
    let slots = view.tasks_of_slot(&service.id, old.slot);
    let incarnation = slots.map(|t| t.incarnation).max().unwrap_or(0) + 1;
    let place = Place { slot: old.slot, node: &next.to, incarnation };
    let mut new = task::new(service, service.revision, place, now_ms, rng);
    new.moved_from.clone_from(&old.node_id);
    let mut status = match status.state() {
        RebalanceState::Moving => status,
        _ => v1::RebalanceStatus { started_at_ms: now_ms, ..Default::default() },
    };
    status.set_state(RebalanceState::Moving);
    status.moved += 1;
    status.message = format!(
        "moves {}.{} from node {} to node {}",
        service_name(service),
        old.slot,
        host(view, &old.node_id),
        host(view, &next.to)
    );
    plan.task(new);
    plan.changes.push(put(v1::Service { rebalance_status: Some(status), ..service.clone() }));
}

/// Notes what holds a rebalance under way up.
fn say(service: &v1::Service, message: &str, plan: &mut Plan) {
    let Some(status) = service.rebalance_status.clone().filter(|s| s.state() == RebalanceState::Moving)
    else {
        return;
    };
    if status.message != message {
        let status = v1::RebalanceStatus { message: message.to_owned(), ..status };
        plan.changes.push(put(v1::Service { rebalance_status: Some(status), ..service.clone() }));
    }
}

fn finish(
    view: &StoreView,
    service: &v1::Service,
    state: RebalanceState,
    message: String,
    now_ms: i64,
    plan: &mut Plan,
) {
    let mut status = service.rebalance_status.clone().unwrap_or_default();
    status.set_state(state);
    status.message = message;
    status.completed_at_ms = now_ms;
    status.asked = false;
    status.nodes = open_nodes(view);
    plan.changes.push(put(v1::Service { rebalance_status: Some(status), ..service.clone() }));
}

/// A digest of the nodes that take tasks (FNV-1a over their IDs, whatever their order).
fn open_nodes(view: &StoreView) -> u64 {
    let digest = |id: &str| {
        id.bytes().fold(0xcbf2_9ce4_8422_2325_u64, |h, b| (h ^ u64::from(b)).wrapping_mul(0x100_0000_01b3))
    };
    view.nodes().filter(|n| scheduler::open(n)).fold(1, |sum: u64, n| sum.wrapping_add(digest(&n.id)))
}
