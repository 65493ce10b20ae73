//! What must hold after every write of the leader.

use std::collections::{BTreeMap, HashMap, HashSet};

use skep_manager::allocator::{self, Cidr6};
use skep_manager::homes;
use skep_manager::orchestrator::slot::{self, Slot, SlotKey};
use skep_manager::orchestrator::{schedule, task};
use skep_manager::store::StoreView;
use skep_manager::updater;
use skep_proto::v1;
use v1::TaskState;

/// Panics if the state breaks a promise, or the step to it did.
pub fn invariants(before: &StoreView, after: &StoreView) {
    addresses(after);
    slots(before, after);
    resources(after);
    jobs(before, after);
    data(before, after);
    moves(before, after);
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
            let six = view.network(&a.network_id).is_some_and(|n| !n.subnet6.is_empty());
            assert_eq!(!a.addr6.is_empty(), six, "address {a:?} has IPv6 as its network has");
            if six {
                assert!(held.insert((a.network_id.clone(), a.addr6.clone())), "address {a:?} given twice");
            }
        }
    }
    networks6(view);
}

/// Ranges of IPv6 share nothing, and every address of IPv6 that is held is routed to the node that holds it, and to
/// no other.
fn networks6(view: &StoreView) {
    let ranges = |n: &v1::Network| n.subnet6.parse::<Cidr6>().ok();
    let ranges: Vec<Cidr6> = view.networks().filter_map(|n| ranges(n)).collect();
    for (i, range) in ranges.iter().enumerate() {
        assert!(!ranges[..i].iter().any(|r| r.overlaps(*range)), "{range} is given twice");
    }
    for network in view.networks().filter(|n| !n.subnet6.is_empty()) {
        let blocks = allocator::v6::blocks(view, &network.id, &allocator::blocks(view, &network.id));
        for t in view.tasks().filter(|t| !task::finished(t)) {
            for a in t.addresses.iter().filter(|a| a.network_id == network.id) {
                let six = a.addr6.parse().expect("an address");
                let holder =
                    blocks.iter().filter(|(b, _)| b.contains(six)).max_by_key(|(b, _)| b.prefix_len());
                assert_eq!(holder.map(|(_, n)| n), Some(&t.node_id), "{a:?} in {blocks:?}");
            }
        }
    }
}

/// No task is let run while another of its slot may be running, but for the one that a start-first update
/// replaces. (A node that was cut off and comes back still runs its old tasks for a moment.)
fn slots(before: &StoreView, after: &StoreView) {
    for service in after.services() {
        let start_first = updater::order(service) == v1::UpdateOrder::StartFirst;
        // Runs of a schedule that allows it go on beside each other.
        let beside = schedule::of(service).is_some_and(|s| s.concurrency() == v1::ScheduleConcurrency::Allow);
        let mut slots: HashMap<(u64, &str, Option<u64>), Vec<&v1::Task>> = HashMap::new();
        for t in after.tasks_of_service(&service.id).filter(|t| !task::finished(t)) {
            let node = if t.slot == 0 { t.node_id.as_str() } else { "" };
            let run = t.job_iteration.filter(|_| beside);
            slots.entry((t.slot, node, run)).or_default().push(t);
        }
        let let_run = |t: &v1::Task| t.desired_state() >= TaskState::Running && task::wanted(t);
        for tasks in slots.values().filter(|tasks| tasks.len() > 1) {
            let starts = |t: &&&v1::Task| let_run(t) && !before.task(&t.id).is_some_and(|b| let_run(b));
            let Some(new) = tasks.iter().find(starts) else { continue };
            let others = tasks.iter().filter(|t| t.id != new.id && (let_run(t) || task::may_run(after, t)));
            let beside = start_first || !new.moved_from.is_empty();
            let others: Vec<_> = others.filter(|t| !(beside && task::wanted(t))).collect();
            assert!(others.is_empty(), "{new:?} may run beside {others:?}");
        }
    }
}

/// A move is begun only towards where there are two tasks fewer, as many at once as are allowed, and it ends none that runs
/// before the other does.
fn moves(before: &StoreView, after: &StoreView) {
    for service in after.services() {
        let of = |view: &StoreView| slot::slots(view, service);
        let (was, is) = (of(before), of(after));
        let under_way = |slots: &BTreeMap<SlotKey, Slot>| -> Vec<v1::Task> {
            let newest = slots.values().filter_map(|s| s.speaker().map(|(t, older)| (t, older.count() > 0)));
            newest
                .filter(|(t, two)| *two && !t.moved_from.is_empty())
                .map(|(t, _)| v1::Task::clone(t))
                .collect()
        };
        let config = service.spec.as_ref().and_then(|s| s.rebalance).unwrap_or_default();
        let now = under_way(&is);
        assert!(now.len() as u64 <= config.parallelism.max(1), "{} moves at once: {now:?}", now.len());
        for new in now.iter().filter(|t| before.task(&t.id).is_none()) {
            // Tasks that speak for their slots: of two, the one that comes.
            let speakers = || was.values().filter_map(|s| s.speaker()).filter(|(t, _)| task::live(t));
            let on = |id: &str| speakers().filter(|(t, _)| t.node_id == id).count();
            let preferences =
                after.task_spec(new).and_then(|s| s.placement.as_ref()).map_or(0, |p| p.preferences.len());
            assert!(
                preferences > 0 || on(&new.moved_from) >= on(&new.node_id) + 2,
                "{new:?} moves for nothing"
            );
        }
        for (key, slot) in &is {
            let Some(new) = slot.newest().filter(|t| !t.moved_from.is_empty() && task::wanted(t)) else {
                continue;
            };
            let ends = |t: &&std::sync::Arc<v1::Task>| {
                let before = was.get(key).and_then(|s| s.tasks.iter().find(|b| b.id == t.id));
                !task::wanted(t) && before.is_some_and(|b| task::live(b) && task::may_run(after, b))
            };
            let ended = slot.tasks.iter().find(ends);
            assert!(
                ended.is_none() || task::state(new) == TaskState::Running,
                "{ended:?} ends before {new:?} runs"
            );
        }
    }
}

/// No job has more slots at work than it may, and none in which anything is begun once they are complete.
fn jobs(before: &StoreView, after: &StoreView) {
    for service in after.services() {
        let Some(v1::service_spec::Mode::ReplicatedJob(job)) =
            service.spec.as_ref().and_then(|s| s.mode.as_ref())
        else {
            continue;
        };
        let of_now = |t: &&std::sync::Arc<v1::Task>| task::current(service, t);
        let live = after.tasks_of_service(&service.id).filter(|t| task::live(t));
        let slots: HashSet<u64> = live.filter(of_now).map(|t| t.slot).collect();
        assert!(slots.len() as u64 <= job.max_concurrent, "{} has {slots:?} of {job:?} at work", service.id);
        assert!(slots.iter().all(|s| *s <= job.total_completions), "{} has {slots:?} of {job:?}", service.id);
    }
    for t in after.tasks().filter(|t| t.job_iteration.is_some() && before.task(&t.id).is_none()) {
        let place = |t: &v1::Task| {
            (t.slot, t.job_iteration, if t.slot == 0 { t.node_id.clone() } else { String::new() })
        };
        let same = before.tasks_of_service(&t.service_id).filter(|other| place(other) == place(t));
        let done: Vec<_> = same.filter(|other| task::state(other) == TaskState::Complete).collect();
        assert!(done.is_empty(), "{t:?} begins what {done:?} did");
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
        let (mut named, mut amounts) = (HashSet::new(), HashMap::new());
        let holding = view.tasks_of_node(&node.id).filter(|t| !task::finished(t));
        for g in holding.flat_map(|t| &t.generic) {
            *amounts.entry(g.kind.clone()).or_insert(0) += g.amount;
            assert!(
                g.name.is_empty() || named.insert((&g.kind, &g.name)),
                "{g:?} of {} is given twice",
                node.id
            );
        }
        for (kind, given) in amounts {
            let has = node.description.iter().flat_map(|d| &d.generic).filter(|g| g.kind == kind);
            assert!(given <= has.map(|g| g.amount).sum(), "{given} {kind} of {} are given", node.id);
        }
        assert!(cpus <= total.nano_cpus && memory <= total.memory_bytes, "node {} is overcommitted", node.id);
    }
}

/// No task that stays with its data is sent elsewhere, or to it while another task of its slot may be writing.
fn data(before: &StoreView, after: &StoreView) {
    for t in after.tasks().filter(|t| t.slot != 0 && !t.node_id.is_empty()) {
        if before.task(&t.id).is_some_and(|b| !b.node_id.is_empty()) {
            continue;
        }
        let Some(service) = after.service(&t.service_id) else { continue };
        let volumes = after.task_spec(t).map(homes::volumes).unwrap_or_default();
        if homes::policy(service) != v1::DataPlacement::Stay || volumes.is_empty() {
            continue;
        }
        let Some(home) = homes::of(after, &service.id, &volumes).get(&t.slot).copied() else { continue };
        assert_eq!(t.node_id, home.node_id, "{t:?} leaves its data behind");
        if t.desired_state() > TaskState::Ready {
            let writes = |o: &&std::sync::Arc<v1::Task>| {
                o.node_id == home.node_id && !task::wanted(o) && task::may_run(after, o)
            };
            let others: Vec<_> = after.tasks_of_slot(&service.id, t.slot).filter(writes).collect();
            assert!(others.is_empty(), "{t:?} writes beside {others:?}");
        }
    }
}
