//! All containers by ID and by name.

use std::collections::BTreeMap;
use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

use super::slot::Slot;
use crate::error::Error;

/// Names of links that may lead to each other. After renames one may lead to itself, and would without end.
const LONGEST_CHAIN: usize = 8;

#[derive(Default)]
pub(crate) struct Table(RwLock<Inner>);

#[derive(Default)]
struct Inner {
    by_id: BTreeMap<String, Arc<Slot>>,
    /// A name may be reserved before its container is there.
    names: BTreeMap<String, String>,
}

impl Table {
    fn read(&self) -> RwLockReadGuard<'_, Inner> {
        self.0.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self) -> RwLockWriteGuard<'_, Inner> {
        self.0.write().unwrap_or_else(PoisonError::into_inner)
    }

    /// By full ID, name, name of a link (`container/alias`), or unique prefix of an ID.
    pub(crate) fn find(&self, asked: &str) -> Result<Arc<Slot>, Error> {
        self.find_by(asked, LONGEST_CHAIN)
    }

    /// By at most so many names of links, one after the other.
    fn find_by(&self, asked: &str, links: usize) -> Result<Arc<Slot>, Error> {
        let missing = || Error::NoSuchContainer { name: asked.to_owned() };
        let name = asked.strip_prefix('/').unwrap_or(asked);
        if let Some((parent, alias)) = name.split_once('/') {
            let target = self.find(parent).ok().and_then(|p| p.container().link(alias).map(str::to_owned));
            let links = links.checked_sub(1).ok_or_else(missing)?;
            return target.and_then(|t| self.find_by(&t, links).ok()).ok_or_else(missing);
        }
        let inner = self.read();
        let exact = inner.by_id.get(asked).or_else(|| inner.by_id.get(inner.names.get(name)?));
        if let Some(slot) = exact {
            return Ok(slot.clone());
        }
        if asked.is_empty() {
            return Err(missing());
        }
        let mut fitting = inner.by_id.range(asked.to_owned()..).take_while(|(id, _)| id.starts_with(asked));
        match (fitting.next(), fitting.next()) {
            (Some((_, slot)), None) => Ok(slot.clone()),
            (Some(_), Some(_)) => Err(Error::AmbiguousPrefix { kind: "container", prefix: asked.to_owned() }),
            (None, _) => Err(missing()),
        }
    }

    /// Takes a name for a container that is about to be.
    pub(super) fn reserve(&self, name: &str, id: &str) -> Result<(), Error> {
        match self.write().names.entry(name.to_owned()) {
            std::collections::btree_map::Entry::Vacant(v) => {
                v.insert(id.to_owned());
                Ok(())
            }
            std::collections::btree_map::Entry::Occupied(o) => {
                Err(Error::NameInUse { name: name.to_owned(), holder: o.get().clone() })
            }
        }
    }

    pub(super) fn free_name(&self, name: &str) {
        self.write().names.remove(name);
    }

    pub(super) fn insert(&self, slot: Arc<Slot>) {
        let mut inner = self.write();
        inner.names.insert(slot.container().name.clone(), slot.id.clone());
        inner.by_id.insert(slot.id.clone(), slot);
    }

    pub(super) fn remove(&self, id: &str) {
        let mut inner = self.write();
        inner.by_id.remove(id);
        inner.names.retain(|_, holder| holder != id);
    }

    pub(crate) fn all(&self) -> Vec<Arc<Slot>> {
        self.read().by_id.values().cloned().collect()
    }
}
