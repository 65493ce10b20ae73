//! The store alone, without a log under it, beside SwarmKit's store benchmarks with a nil proposer: there
//! creating or updating a node takes 23-36 µs, getting one 2.4 µs, finding all 10,000 14-21 ms.

use std::cell::Cell;

use skep_manager::store::Store;
use skep_manager::store::change::put;
use skep_proto::v1;

/// Nodes in the store, as many as in SwarmKit's benchmark.
const NODES: u64 = 10_000;

fn main() {
    divan::main();
}

fn node(i: u64) -> v1::Change {
    put(v1::Node {
        id: format!("node-{i:020}"),
        spec: Some(v1::NodeSpec {
            annotations: Some(v1::Annotations {
                labels: [("label".to_owned(), format!("value {i}"))].into(),
                ..Default::default()
            }),
            ..Default::default()
        }),
        description: Some(v1::NodeDescription { hostname: format!("name{i}"), ..Default::default() }),
        ..Default::default()
    })
}

fn store() -> Store {
    let store = Store::new();
    write(&store, (0..NODES).map(node).collect());
    store
}

fn write(store: &Store, changes: Vec<v1::Change>) {
    let index = store.view().index;
    let batch = v1::Batch { changes, based_on: index, ..Default::default() };
    store.apply(index + 1, batch).expect("based on the latest state");
}

#[divan::bench]
fn create_node(bencher: divan::Bencher) {
    let (store, next) = (store(), Cell::new(NODES));
    bencher.with_inputs(|| node(next.replace(next.get() + 1))).bench_local_values(|n| write(&store, vec![n]));
}

#[divan::bench]
fn update_node(bencher: divan::Bencher) {
    let (store, next) = (store(), Cell::new(0));
    let another = || node(next.replace((next.get() + 7919) % NODES));
    bencher.with_inputs(another).bench_local_values(|n| write(&store, vec![n]));
}

#[divan::bench]
fn get_node(bencher: divan::Bencher) {
    let (store, next) = (store(), Cell::new(0));
    let another = || format!("node-{:020}", next.replace((next.get() + 7919) % NODES));
    bencher.with_inputs(another).bench_local_values(|id| store.view().node(&id).cloned().expect("there"));
}

#[divan::bench]
fn find_all_nodes(bencher: divan::Bencher) {
    let store = store();
    bencher.bench_local(|| store.view().nodes().cloned().collect::<Vec<_>>());
}
