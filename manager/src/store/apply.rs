//! How a batch changes a view. Deterministic: the same batches give the same view on every manager.

use std::sync::Arc;

use imbl::{OrdMap, OrdSet};
use skep_proto::v1::{self, change::Op, object::Kind};

use super::event::{Diff, Event};
use super::key::Key;
use super::view::StoreView;

/// Base of the indexes of changes that are only foreseen.
pub(crate) const FORESEEN: u64 = u64::MAX / 2;

/// A batch that was computed on a state which is no longer the latest: nothing of it applies.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("batch was computed at index {based_on}, but the store is at {actual}: compute it again")]
pub struct Stale {
    /// The index the proposer had applied.
    pub based_on: u64,
    /// The index of the last batch applied before this one.
    pub actual: u64,
}

impl StoreView {
    /// Applies a batch. A batch at or before this view's index is a replay: it changes nothing.
    pub fn apply(&mut self, index: u64, batch: v1::Batch) -> Result<Vec<Event>, Stale> {
        if index <= self.index {
            return Ok(Vec::new());
        }
        if batch.based_on != 0 && batch.based_on != self.index {
            return Err(Stale { based_on: batch.based_on, actual: self.index });
        }
        self.index = index;
        self.at_ms = self.at_ms.max(batch.at_ms);
        let mut events = Vec::with_capacity(batch.changes.len());
        for change in batch.changes {
            let event = match change.op {
                Some(Op::Put(v1::Object { kind: Some(kind) })) => Some(self.put(kind)),
                Some(Op::Remove(r)) => self.remove(&r),
                Some(Op::Put(v1::Object { kind: None })) | None => None,
            };
            events.extend(event);
        }
        Ok(events)
    }

    /// Applies changes that are not in the log yet, to compute on what they will leave. Their version is
    /// above every committed one, so that no client can name it.
    pub fn foresee(&mut self, changes: Vec<v1::Change>, at_ms: i64) {
        let index = self.index.max(FORESEEN) + 1;
        // Without a precondition a batch is never refused.
        let _ = self.apply(index, v1::Batch { changes, at_ms, ..Default::default() });
    }

    /// The view a snapshot was taken of. Versions and times stay as they were.
    pub fn restore(snapshot: v1::Snapshot) -> Self {
        let mut view = StoreView { index: snapshot.index, at_ms: snapshot.at_ms, ..Default::default() };
        for kind in snapshot.objects.into_iter().filter_map(|o| o.kind) {
            view.insert(kind);
        }
        view
    }

    fn put(&mut self, mut kind: Kind) -> Event {
        let (version, now) = (self.index, self.at_ms);
        let meta = |before: Option<v1::Meta>| {
            let created_at_ms = before.map_or(now, |m| m.created_at_ms);
            Some(v1::Meta { version, created_at_ms, updated_at_ms: now })
        };
        match &mut kind {
            Kind::Cluster(o) => o.meta = meta(self.cluster.as_ref().and_then(|b| b.meta)),
            Kind::Node(o) => {
                let before = self.node(&o.id);
                let same = before.filter(|b| b.spec == o.spec);
                o.spec_version = same.map_or(version, |b| b.spec_version);
                o.meta = meta(before.and_then(|b| b.meta));
            }
            Kind::Service(o) => o.meta = meta(self.service(&o.id).and_then(|b| b.meta)),
            Kind::Revision(o) => {
                o.meta = meta(self.revision(&o.service_id, o.number).and_then(|b| b.meta));
            }
            Kind::Network(o) => o.meta = meta(self.network(&o.id).and_then(|b| b.meta)),
            Kind::Dependency(o) => o.meta = meta(self.dependency(&o.id).and_then(|b| b.meta)),
            Kind::Homes(o) => o.meta = meta(self.homes(&o.service_id).and_then(|b| b.meta)),
            // The one lookup serves both.
            Kind::Task(o) => {
                let task = std::mem::take(o);
                return Event::Task(self.tasks.put(task, |before| meta(before.and_then(|b| b.meta))));
            }
        }
        self.insert(kind)
    }

    fn insert(&mut self, kind: Kind) -> Event {
        match kind {
            Kind::Cluster(o) => {
                let after = Arc::new(o);
                Event::Cluster(diff(self.cluster.replace(after.clone()), after))
            }
            Kind::Node(o) => {
                let (key, after) = (Key::from(o.id.as_str()), Arc::new(*o));
                let before = self.nodes.insert(key.clone(), after.clone());
                rename(&mut self.names.nodes, key, before.as_deref().map(hostname), Some(hostname(&after)));
                Event::Node(diff(before, after))
            }
            Kind::Service(o) => {
                let (key, after) = (Key::from(o.id.as_str()), Arc::new(*o));
                let before = self.services.insert(key.clone(), after.clone());
                rename(
                    &mut self.names.services,
                    key,
                    before.as_deref().map(service_name),
                    Some(service_name(&after)),
                );
                Event::Service(diff(before, after))
            }
            Kind::Revision(o) => {
                let (key, after) = ((Key::from(o.service_id.as_str()), o.number), Arc::new(*o));
                Event::Revision(diff(self.revisions.insert(key, after.clone()), after))
            }
            Kind::Task(o) => {
                let meta = o.meta;
                Event::Task(self.tasks.put(o, |_| meta))
            }
            Kind::Network(o) => {
                let (key, after) = (Key::from(o.id.as_str()), Arc::new(o));
                let before = self.networks.insert(key.clone(), after.clone());
                rename(
                    &mut self.names.networks,
                    key,
                    before.as_deref().map(network_name),
                    Some(network_name(&after)),
                );
                Event::Network(diff(before, after))
            }
            Kind::Dependency(o) => {
                let (key, after) = (Key::from(o.id.as_str()), Arc::new(o));
                let before = self.dependencies.insert(key.clone(), after.clone());
                rename(
                    self.names.dependencies_mut(after.kind()),
                    key,
                    before.as_deref().map(dependency_name),
                    Some(dependency_name(&after)),
                );
                Event::Dependency(diff(before, after))
            }
            Kind::Homes(o) => {
                let (key, after) = (Key::from(o.service_id.as_str()), Arc::new(o));
                Event::Homes(diff(self.homes.insert(key, after.clone()), after))
            }
        }
    }

    fn remove(&mut self, r: &v1::RemoveObject) -> Option<Event> {
        let id = r.id.as_bytes();
        let key = Key::from(r.id.as_str());
        match v1::ObjectKind::try_from(r.kind).ok()? {
            v1::ObjectKind::Cluster => self.cluster.take().map(|o| Event::Cluster(gone(o))),
            v1::ObjectKind::Node => self.nodes.remove(id).map(|o| {
                rename(&mut self.names.nodes, key, Some(hostname(&o)), None);
                Event::Node(gone(o))
            }),
            v1::ObjectKind::Service => self.services.remove(id).map(|o| {
                rename(&mut self.names.services, key, Some(service_name(&o)), None);
                Event::Service(gone(o))
            }),
            v1::ObjectKind::Revision => {
                self.revisions.remove(&(key, r.revision)).map(|o| Event::Revision(gone(o)))
            }
            v1::ObjectKind::Task => self.tasks.remove(&r.id).map(|o| Event::Task(gone(o))),
            v1::ObjectKind::Network => self.networks.remove(id).map(|o| {
                rename(&mut self.names.networks, key, Some(network_name(&o)), None);
                Event::Network(gone(o))
            }),
            v1::ObjectKind::Dependency => self.dependencies.remove(id).map(|o| {
                rename(self.names.dependencies_mut(o.kind()), key, Some(dependency_name(&o)), None);
                Event::Dependency(gone(o))
            }),
            v1::ObjectKind::Homes => self.homes.remove(id).map(|o| Event::Homes(gone(o))),
        }
    }
}

fn diff<T>(before: Option<Arc<T>>, after: Arc<T>) -> Diff<T> {
    Diff { before, after: Some(after) }
}
fn gone<T>(before: Arc<T>) -> Diff<T> {
    Diff { before: Some(before), after: None }
}

fn rename(names: &mut OrdMap<String, OrdSet<Key>>, key: Key, old: Option<&str>, new: Option<&str>) {
    if old == new {
        return;
    }
    if let Some(old) = old.filter(|n| !n.is_empty())
        && let Some(ids) = names.get_mut(old)
    {
        ids.remove(&key);
        if ids.is_empty() {
            names.remove(old);
        }
    }
    if let Some(new) = new.filter(|n| !n.is_empty()) {
        names.entry(new.to_owned()).or_default().insert(key);
    }
}

/// The name a node goes by: its host's.
pub(super) fn hostname(node: &v1::Node) -> &str {
    node.description.as_ref().map_or("", |d| &d.hostname)
}
/// The name of a service.
pub(crate) fn service_name(service: &v1::Service) -> &str {
    service.spec.as_ref().and_then(|s| s.annotations.as_ref()).map_or("", |a| &a.name)
}
/// The name of a network.
pub(crate) fn network_name(network: &v1::Network) -> &str {
    network.spec.as_ref().and_then(|s| s.annotations.as_ref()).map_or("", |a| &a.name)
}
/// The name of a secret or config.
pub(crate) fn dependency_name(dependency: &v1::Dependency) -> &str {
    dependency.spec.as_ref().and_then(|s| s.annotations.as_ref()).map_or("", |a| &a.name)
}
