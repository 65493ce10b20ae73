//! Scaling a replicated service: which slots to open and which to close.

use std::collections::{BTreeMap, HashMap};

use rand::Rng;
use skep_proto::v1;
use v1::TaskState;

use super::slot::{Slot, SlotKey};
use super::task::Place;
use super::{CREATE_LIMIT, Plan, task};
use crate::store::StoreView;

/// Opens or closes slots until there are `replicas`; closed ones leave `slots`.
pub(super) fn scale(
    view: &StoreView,
    service: &v1::Service,
    replicas: u64,
    slots: &mut BTreeMap<SlotKey, Slot>,
    now_ms: i64,
    rng: &mut impl Rng,
    plan: &mut Plan,
) {
    let open = slots.values().filter(|s| !s.tasks.is_empty()).count() as u64;
    if open > replicas {
        close(service, open - replicas, slots, now_ms, plan);
    }
    let mut missing = replicas.saturating_sub(open);
    let mut number = 0;
    while missing > 0 {
        number += 1;
        let slot = slots.get(&SlotKey::Replica(number));
        if slot.is_some_and(|s| !s.tasks.is_empty()) {
            continue;
        }
        if plan.changes.len() >= CREATE_LIMIT {
            plan.more = true;
            return;
        }
        let incarnation = slot.map_or(1, Slot::next_incarnation);
        let place = Place { slot: number, node: "", incarnation };
        let mut new = task::new(service, service.revision, place, now_ms, rng);
        if slot.is_some_and(|s| s.stopping(view)) {
            new.set_desired_state(TaskState::Ready);
        }
        plan.task(new);
        missing -= 1;
    }
}

/// Closes slots: first those not running, then those on the nodes with the most tasks of the service,
/// of these the highest numbers.
fn close(
    service: &v1::Service,
    count: u64,
    slots: &mut BTreeMap<SlotKey, Slot>,
    now_ms: i64,
    plan: &mut Plan,
) {
    let mut running: HashMap<String, u64> = HashMap::new();
    let mut order: BTreeMap<SlotKey, String> = BTreeMap::new();
    let mut idle = Vec::new();
    for (key, slot) in slots.iter() {
        match slot.speaker().map(|(t, _)| t) {
            Some(t) if task::live(t) && task::state(t) == TaskState::Running => {
                *running.entry(t.node_id.clone()).or_default() += 1;
                order.insert(key.clone(), t.node_id.clone());
            }
            Some(t) => idle.push((task::live(t), task::state(t), key.clone())),
            None => {}
        }
    }
    // Finished first, then the least advanced, then the highest number.
    idle.sort_by(|a, b| (a.0, a.1).cmp(&(b.0, b.1)).then(b.2.cmp(&a.2)));
    let mut closing: Vec<SlotKey> = idle.into_iter().map(|(_, _, k)| k).take(count as usize).collect();
    // By node: its slots with the highest number last, so that `pop` gives it.
    let mut by_node: HashMap<&str, Vec<&SlotKey>> = HashMap::new();
    for (key, node) in &order {
        by_node.entry(node).or_default().push(key);
    }
    let mut heap: std::collections::BinaryHeap<(u64, &SlotKey, &str)> =
        by_node.iter().filter_map(|(n, keys)| Some((running[*n], *keys.last()?, *n))).collect();
    while closing.len() < count as usize {
        let Some((load, key, node)) = heap.pop() else { break };
        closing.push(key.clone());
        if let Some(keys) = by_node.get_mut(node) {
            keys.pop();
            if let Some(next) = keys.last() {
                heap.push((load - 1, next, node));
            }
        }
    }
    for key in closing {
        for t in slots.remove(&key).into_iter().flat_map(|s| s.tasks) {
            plan.task(task::with_desired(&t, TaskState::Remove, now_ms, "scaled down"));
        }
    }
    tracing::debug!(service = %service.id, closed = count, "scaling down");
}
