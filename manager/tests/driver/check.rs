//! What must hold after every write of the leader.

use std::collections::{HashMap, HashSet};

use skep_manager::orchestrator::task;
use skep_manager::store::StoreView;
use skep_manager::updater;
use skep_proto::v1;
use v1::TaskState;

/// Panics if the state breaks a promise, or the step to it did.
pub fn invariants(before: &StoreView, after: &StoreView) {
    addresses(after);
    slots(after);
    resources(after);
    for t in after.tasks() {
        let Some(old) = before.task(&t.id) else { continue };
        assert!(task::state(t) >= task::state(old), "task {} went back", t.id);
        assert!(old.node_id.is_empty() || old.node_id == t.node_id, "task {} moved", t.id);
        assert!(t.desired_state() >= old.desired_state(), "task {} is wanted less than before", t.id);
    }
}

/// No address is held twice.
fn addresses(view: &StoreView) {
    let mut held = HashSet::new();
    let vips = view.services().flat_map(|s| s.endpoint.iter()).flat_map(|e| &e.virtual_ips);
    for v in vips {
        assert!(held.insert((v.network_id.clone(), v.addr.clone())), "virtual address {v:?} given twice");
    }
    for t in view.tasks().filter(|t| !task::finished(t)) {
        for a in &t.addresses {
            assert!(held.insert((a.network_id.clone(), a.addr.clone())), "address {a:?} given twice");
        }
    }
}

/// One task at most may run in a slot, but for a start-first update, which has two.
fn slots(view: &StoreView) {
    for service in view.services() {
        let start_first = updater::order(service) == v1::UpdateOrder::StartFirst;
        let mut running: HashMap<(u64, &str), u32> = HashMap::new();
        for t in view.tasks_of_service(&service.id) {
            let may_start = t.desired_state() == TaskState::Running && !task::finished(t);
            let still_runs = task::may_run(view, t) && task::state(t) > TaskState::Ready;
            if may_start || still_runs {
                let node = if t.slot == 0 { t.node_id.as_str() } else { "" };
                *running.entry((t.slot, node)).or_default() += 1;
            }
        }
        let most = if start_first { 2 } else { 1 };
        assert!(running.values().all(|n| *n <= most), "a slot of {} has two tasks: {running:?}", service.id);
    }
}

/// No node is asked for more than it has.
fn resources(view: &StoreView) {
    for node in view.nodes() {
        let total = node.description.as_ref().and_then(|d| d.resources).unwrap_or_default();
        let (mut cpus, mut memory) = (0, 0);
        for t in view
            .tasks_of_node(&node.id)
            .filter(|t| !task::finished(t) && task::state(t) >= TaskState::Assigned)
        {
            let r = view.task_spec(t).and_then(|s| s.reservations).unwrap_or_default();
            cpus += r.nano_cpus;
            memory += r.memory_bytes;
        }
        assert!(cpus <= total.nano_cpus && memory <= total.memory_bytes, "node {} is overcommitted", node.id);
    }
}
