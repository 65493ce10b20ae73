//! How long it takes to place the tasks of one service and write them to the store, as the leader does: from a
//! view with tasks that wait, through the derived load and address pools, to the view with all assigned.

use std::collections::BTreeMap;
use std::sync::Mutex;
use std::time::Duration;

use rand::SeedableRng;
use rand::rngs::StdRng;
use skep_manager::allocator::{Pools, allocate};
use skep_manager::orchestrator::task::{self, Place};
use skep_manager::scheduler::{Load, schedule};
use skep_manager::store::StoreView;
use skep_manager::store::change::put;
use skep_proto::v1;

fn main() {
    divan::main();
}

/// A cluster of `nodes` nodes and one service with `tasks` tasks that wait.
fn cluster(nodes: usize, tasks: u64, constraint: Option<&str>, network: bool) -> StoreView {
    let mut rng = StdRng::seed_from_u64(1);
    let mut changes = Vec::new();
    for i in 0..nodes {
        let zone = if i % 2 == 0 { "even" } else { "odd" };
        let labels = [("zone".to_owned(), zone.to_owned())].into();
        changes.push(put(v1::Node {
            id: skep_proto::ids::random(&mut rng),
            state: v1::NodeState::Ready.into(),
            spec: Some(v1::NodeSpec {
                annotations: Some(v1::Annotations { name: String::new(), labels }),
                ..Default::default()
            }),
            description: Some(v1::NodeDescription {
                hostname: format!("node{i}"),
                resources: Some(v1::Resources { nano_cpus: 64_000_000_000, memory_bytes: 1 << 38, pids: 0 }),
                ..Default::default()
            }),
            ..Default::default()
        }));
    }
    let mut spec = v1::TaskSpec {
        reservations: Some(v1::Resources { nano_cpus: 10_000_000, memory_bytes: 1 << 20, pids: 0 }),
        ..Default::default()
    };
    spec.placement.get_or_insert_default().constraints.extend(constraint.map(str::to_owned));
    if network {
        changes.push(put(v1::Network {
            id: "net".into(),
            spec: Some(v1::NetworkSpec { subnet: "10.0.0.0/8".into(), ..Default::default() }),
            ..Default::default()
        }));
        spec.networks.push(v1::NetworkAttachment { network: "net".into(), ..Default::default() });
    }
    let service = v1::Service {
        id: "service".into(),
        revision: 1,
        spec: Some(v1::ServiceSpec { task: Some(spec.clone()), ..Default::default() }),
        ..Default::default()
    };
    changes.push(put(service.clone()));
    let revision =
        v1::Revision { service_id: "service".into(), number: 1, spec: Some(spec), ..Default::default() };
    changes.push(put(revision));
    for slot in 1..=tasks {
        let place = Place { slot, node: "", incarnation: 1 };
        changes.push(put(task::new(&service, 1, place, 0, &mut rng)));
    }
    let mut view = StoreView::default();
    view.apply(1, v1::Batch { changes, ..Default::default() }).expect("no precondition");
    for index in 2.. {
        let changes = allocate(&view).changes;
        if changes.is_empty() {
            break;
        }
        view.apply(index, v1::Batch { changes, ..Default::default() }).expect("no precondition");
    }
    view
}

/// What one sample took of the processor, which other work on the machine hardly changes.
struct Spent {
    placing: Duration,
    writing: Duration,
}

/// Places everything and writes it.
fn place(mut view: StoreView, tasks: u64, spent: &Mutex<Vec<Spent>>) -> StoreView {
    let began = on_cpu();
    let (mut load, mut pools) = (Load::of(&view), Pools::of(&view));
    let placed = schedule(&view, &mut load, &mut pools, &BTreeMap::new(), 1, usize::MAX);
    assert_eq!(placed.changes.len() as u64, tasks);
    let placing = on_cpu() - began;
    let batch = v1::Batch { changes: placed.changes, based_on: view.index, ..Default::default() };
    view.apply(view.index + 1, batch).expect("based on the latest state");
    assert!(view.waiting().next().is_none(), "every task has a node");
    let writing = on_cpu() - began - placing;
    spent.lock().expect("no panic").push(Spent { placing, writing });
    view
}

fn run(bencher: divan::Bencher, nodes: usize, tasks: u64, constraint: Option<&str>, network: bool) {
    let view = cluster(nodes, tasks, constraint, network);
    let spent = Mutex::new(Vec::new());
    bencher.with_inputs(|| view.clone()).bench_values(|view| place(view, tasks, &spent));
    let spent = spent.into_inner().expect("no panic");
    if spent.is_empty() {
        // Only asked which benchmarks there are.
        return;
    }
    let median = |of: fn(&Spent) -> Duration| {
        let mut all: Vec<_> = spent.iter().map(of).collect();
        all.sort_unstable();
        all[all.len() / 2]
    };
    eprintln!(
        " [processor time, median: placing {:.0?} + writing {:.0?} = {:.0?}; peak memory so far: {}]",
        median(|s| s.placing),
        median(|s| s.writing),
        median(|s| s.placing + s.writing),
        peak_memory()
    );
}

/// What this thread has had of a processor (proc_pid_schedstat: the first number, in nanoseconds).
fn on_cpu() -> Duration {
    let schedstat = std::fs::read_to_string("/proc/thread-self/schedstat").unwrap_or_default();
    let nanoseconds = schedstat.split_whitespace().next().and_then(|n| n.parse().ok());
    Duration::from_nanos(nanoseconds.unwrap_or_default())
}

#[divan::bench(sample_count = 10)]
fn a_1000_nodes_100_000_tasks(bencher: divan::Bencher) {
    run(bencher, 1000, 100_000, None, false);
}

#[divan::bench(sample_count = 10)]
fn b_5000_nodes_100_000_tasks_with_constraint(bencher: divan::Bencher) {
    run(bencher, 5000, 100_000, Some("node.labels.zone==even"), false);
}

#[divan::bench(sample_count = 10)]
fn c_1000_nodes_100_000_tasks_with_network(bencher: divan::Bencher) {
    run(bencher, 1000, 100_000, None, true);
}

#[divan::bench(sample_count = 3)]
fn d_5000_nodes_1_000_000_tasks(bencher: divan::Bencher) {
    run(bencher, 5000, 1_000_000, None, false);
}

fn peak_memory() -> String {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    status
        .lines()
        .find_map(|l| l.strip_prefix("VmHWM:"))
        .map_or("unknown".to_owned(), |v| v.trim().to_owned())
}
