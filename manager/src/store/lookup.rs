//! Finding an object by what a user types: a full identifier, a name, or a unique prefix of an
//! identifier, in that order.

use std::ops::Bound;
use std::sync::Arc;

use imbl::{OrdMap, OrdSet};
use skep_proto::v1;

use super::key::Key;
use super::view::StoreView;

/// Why a reference names no object.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum LookupError {
    /// Nothing matches.
    #[error("{kind} {reference} not found")]
    NotFound {
        /// What was looked for.
        kind: &'static str,
        /// What the user typed.
        reference: String,
    },
    /// More than one object matches.
    #[error("{kind} {reference} is ambiguous ({matches} matches): use the full ID")]
    Ambiguous {
        /// What was looked for.
        kind: &'static str,
        /// What the user typed.
        reference: String,
        /// How many objects match.
        matches: usize,
    },
}

impl StoreView {
    /// The node that `reference` names (ID, hostname or ID prefix).
    pub fn find_node(&self, reference: &str) -> Result<&Arc<v1::Node>, LookupError> {
        find("node", &self.nodes, Some(&self.names.nodes), reference)
    }
    /// The service that `reference` names (ID, name or ID prefix).
    pub fn find_service(&self, reference: &str) -> Result<&Arc<v1::Service>, LookupError> {
        find("service", &self.services, Some(&self.names.services), reference)
    }
    /// The network that `reference` names (ID, name or ID prefix).
    pub fn find_network(&self, reference: &str) -> Result<&Arc<v1::Network>, LookupError> {
        find("network", &self.networks, Some(&self.names.networks), reference)
    }
    /// The secret or config that `reference` names (ID, name or ID prefix).
    pub fn find_dependency(
        &self,
        kind: v1::DependencyKind,
        reference: &str,
    ) -> Result<&Arc<v1::Dependency>, LookupError> {
        let word = dependency_word(kind);
        find_if(word, &self.dependencies, Some(self.names.dependencies(kind)), reference, |d| {
            d.kind() == kind
        })
    }
    /// The task that `reference` names (ID or ID prefix).
    pub fn find_task(&self, reference: &str) -> Result<&Arc<v1::Task>, LookupError> {
        find("task", &self.tasks.ids, None, reference).map(|row| self.tasks.at(*row))
    }
}

/// What users call it.
pub fn dependency_word(kind: v1::DependencyKind) -> &'static str {
    match kind {
        v1::DependencyKind::Secret => "secret",
        v1::DependencyKind::Config => "config",
    }
}

fn find<'a, T>(
    kind: &'static str,
    objects: &'a OrdMap<Key, T>,
    names: Option<&OrdMap<String, OrdSet<Key>>>,
    reference: &str,
) -> Result<&'a T, LookupError> {
    find_if(kind, objects, names, reference, |_| true)
}

fn find_if<'a, T>(
    kind: &'static str,
    objects: &'a OrdMap<Key, T>,
    names: Option<&OrdMap<String, OrdSet<Key>>>,
    reference: &str,
    wanted: impl Fn(&T) -> bool,
) -> Result<&'a T, LookupError> {
    if let Some(object) = objects.get(reference.as_bytes()).filter(|o| wanted(o)) {
        return Ok(object);
    }
    let named = names.and_then(|n| n.get(reference));
    if let Some(ids) = named.filter(|ids| ids.len() > 1) {
        return Err(LookupError::Ambiguous { kind, reference: reference.to_owned(), matches: ids.len() });
    }
    if let Some(object) = named.and_then(|ids| ids.get_min()).and_then(|id| objects.get(id)) {
        return Ok(object);
    }
    let prefix = reference.as_bytes();
    let mut matches = (!prefix.is_empty())
        .then(|| objects.range::<_, [u8]>((Bound::Included(prefix), Bound::Unbounded)))
        .into_iter()
        .flatten()
        .take_while(|(id, _)| id.as_bytes().starts_with(prefix))
        .filter(|(_, object)| wanted(object));
    match (matches.next(), matches.count()) {
        (Some((_, object)), 0) => Ok(object),
        (Some(_), more) => {
            Err(LookupError::Ambiguous { kind, reference: reference.to_owned(), matches: more + 1 })
        }
        (None, _) => Err(LookupError::NotFound { kind, reference: reference.to_owned() }),
    }
}
