//! The store's promises: replays change nothing, snapshots carry everything, watchers miss nothing or are
//! told, names and prefixes find what they should.

use skep_manager::store::change::{put, remove_service, remove_task};
use skep_manager::store::{LookupError, Store, StoreView, Update};
use skep_proto::v1;

fn batch(changes: Vec<v1::Change>) -> v1::Batch {
    v1::Batch { changes, at_ms: 1000, ..Default::default() }
}

fn service(id: &str, name: &str) -> v1::Change {
    put(v1::Service {
        id: id.into(),
        spec: Some(v1::ServiceSpec {
            annotations: Some(v1::Annotations { name: name.into(), ..Default::default() }),
            ..Default::default()
        }),
        ..Default::default()
    })
}

fn task(id: &str, slot: u64, node: &str, state: v1::TaskState) -> v1::Change {
    put(v1::Task {
        id: id.into(),
        service_id: "s1".into(),
        slot,
        node_id: node.into(),
        desired_state: v1::TaskState::Running.into(),
        status: Some(v1::TaskStatus { state: state.into(), ..Default::default() }),
        ..Default::default()
    })
}

fn ids<'a>(tasks: impl Iterator<Item = &'a std::sync::Arc<v1::Task>>) -> Vec<&'a str> {
    tasks.map(|t| t.id.as_str()).collect()
}

#[test]
fn indexes_follow_the_objects() {
    let mut view = StoreView::default();
    let new = v1::TaskState::New;
    view.apply(1, batch(vec![service("s1", "web"), task("b", 1, "", new), task("a", 2, "", new)]))
        .expect("applies");
    assert_eq!(ids(view.tasks_of_service("s1")), ["b", "a"]);
    assert_eq!(view.waiting().map(|(s, t)| (s.as_str(), t.len())).collect::<Vec<_>>(), [("s1", 2)]);
    view.apply(2, batch(vec![task("b", 1, "n1", v1::TaskState::Assigned)])).expect("applies");
    assert_eq!(ids(view.tasks_of_node("n1")), ["b"]);
    assert_eq!(ids(view.tasks_of_slot("s1", 2)), ["a"]);
    assert_eq!(view.waiting().map(|(_, t)| t.len()).sum::<usize>(), 1);
    view.apply(3, batch(vec![remove_task("a"), remove_task("b"), service("s1", "shop")])).expect("applies");
    assert_eq!((view.tasks().len(), view.tasks_of_node("n1").count(), view.waiting().count()), (0, 0, 0));
    assert!(view.service_by_name("web").is_none() && view.service_by_name("shop").is_some());
    view.apply(4, batch(vec![remove_service("s1")])).expect("applies");
    assert!(view.service_by_name("shop").is_none());
}

#[test]
fn replays_change_nothing_and_versions_are_indexes() {
    let store = Store::new();
    store.apply(7, batch(vec![service("s1", "web")])).expect("applies");
    let before = store.view();
    assert!(store.apply(7, batch(vec![service("s1", "other")])).expect("a replay").is_empty());
    assert!(std::sync::Arc::ptr_eq(
        before.service("s1").expect("there"),
        store.view().service("s1").expect("there")
    ));
    let later = v1::Batch { at_ms: 2000, based_on: 7, ..batch(vec![service("s1", "shop")]) };
    store.apply(9, later).expect("based on the latest");
    let meta = store.view().service("s1").and_then(|s| s.meta).expect("stamped");
    assert_eq!((meta.version, meta.created_at_ms, meta.updated_at_ms), (9, 1000, 2000));
    let stale = v1::Batch { based_on: 7, ..batch(vec![remove_service("s1")]) };
    assert!(store.apply(10, stale).is_err() && store.view().service("s1").is_some());
}

#[test]
fn a_snapshot_restores_the_same_state() {
    let store = Store::new();
    let changes = vec![
        put(v1::Cluster { id: "c".into(), ..Default::default() }),
        put(v1::Node { id: "n1".into(), ..Default::default() }),
        put(v1::Network { id: "net".into(), ..Default::default() }),
        service("s1", "web"),
        put(v1::Revision { service_id: "s1".into(), number: 3, ..Default::default() }),
        task("t1", 1, "n1", v1::TaskState::Running),
    ];
    store.apply(5, batch(changes)).expect("applies");
    let other = Store::new();
    let (_, mut watch) = other.subscribe();
    other.restore(store.snapshot());
    assert_eq!(other.snapshot(), store.snapshot());
    assert_eq!(ids(other.view().tasks_of_node("n1")), ["t1"]);
    assert!(matches!(watch.try_next(), Some(Update::Resync(view)) if view.index == 5));
}

#[tokio::test]
async fn a_watcher_sees_every_batch_or_is_told_that_it_did_not() {
    let store = Store::new();
    let (_, mut prompt) = store.subscribe();
    let (_, mut lagging) = store.subscribe();
    for index in 1..=3000 {
        store.apply(index, batch(vec![service("s1", &format!("v{index}"))])).expect("applies");
        match prompt.next().await {
            Some(Update::Commit(c)) => assert_eq!((c.view.index, c.events.len()), (index, 1)),
            _ => panic!("a watcher that keeps up gets every batch"),
        }
    }
    assert!(matches!(lagging.next().await, Some(Update::Resync(view)) if view.index == 3000));
    assert!(lagging.try_next().is_none(), "what the resync showed is not told again");
    store.apply(3001, batch(vec![service("s2", "next")])).expect("applies");
    assert!(matches!(lagging.next().await, Some(Update::Commit(c)) if c.view.index == 3001));
}

#[tokio::test]
async fn an_index_without_a_batch_can_be_waited_for() {
    let store = Store::new();
    let (view, ()) = tokio::join!(store.wait_for(3), async { store.advance(3) });
    assert_eq!(view.index, 0);
}

#[test]
fn references_find_by_id_then_name_then_prefix() {
    let mut view = StoreView::default();
    let changes = vec![service("abc1", "web"), service("abc2", "abc1"), service("xyz", "db")];
    view.apply(1, batch(changes)).expect("applies");
    let find = |r: &str| view.find_service(r).map(|s| s.id.as_str());
    assert_eq!(find("abc1"), Ok("abc1"));
    assert_eq!(find("web"), Ok("abc1"));
    assert_eq!(find("x"), Ok("xyz"));
    assert!(matches!(find("abc"), Err(LookupError::Ambiguous { matches: 2, .. })));
    assert!(matches!(find("nope"), Err(LookupError::NotFound { .. })));
    assert!(matches!(find(""), Err(LookupError::NotFound { .. })));
}
