//! The steps from the table the kernel holds to the table wanted.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use super::{Chain, Element, Rule, Set, Table, Timeout};

/// One step; steps are applied in order, all or none.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Change {
    /// Removes the table with all it holds.
    DeleteTable,
    /// Makes the table.
    AddTable,
    /// Makes a timeout.
    AddTimeout(String, Timeout),
    /// Removes a timeout that nothing names any more.
    DeleteTimeout(String),
    /// Makes a set without elements.
    AddSet(String, Set),
    /// Makes a chain without rules.
    AddChain(String, Chain),
    /// Replaces the rules of a chain.
    Rules(String, Vec<Rule>),
    /// Removes elements.
    DeleteElements(String, Vec<Element>),
    /// Adds elements.
    AddElements(String, Vec<Element>),
}

impl fmt::Display for Change {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::DeleteTable => write!(f, "remove the table"),
            Self::AddTable => write!(f, "make the table"),
            Self::AddTimeout(name, _) => write!(f, "make timeout {name}"),
            Self::DeleteTimeout(name) => write!(f, "remove timeout {name}"),
            Self::AddSet(name, _) => write!(f, "make set {name}"),
            Self::AddChain(name, _) => write!(f, "make chain {name}"),
            Self::Rules(chain, rules) => write!(f, "write {} rules of {chain}", rules.len()),
            Self::DeleteElements(set, e) => write!(f, "remove {} elements of {set}", e.len()),
            Self::AddElements(set, e) => write!(f, "add {} elements to {set}", e.len()),
        }
    }
}

/// The steps that make `held` into `wanted`; none = no table.
pub fn changes(held: Option<&Table>, wanted: Option<&Table>) -> Vec<Change> {
    match (held, wanted) {
        (held, Some(wanted)) => diff(held, wanted),
        (Some(_), None) => vec![Change::DeleteTable],
        (None, None) => Vec::new(),
    }
}

/// The steps that make `held` (none = there is no such table) into `wanted`. Where the shape of a set
/// or a chain differs, the whole table is written anew, in the same transaction.
pub fn diff(held: Option<&Table>, wanted: &Table) -> Vec<Change> {
    let mut changes = Vec::new();
    let nothing = Table::default();
    let held = match held {
        Some(held) if same_shape(held, wanted) => held,
        Some(_) => {
            changes.extend([Change::DeleteTable, Change::AddTable]);
            &nothing
        }
        None => {
            changes.push(Change::AddTable);
            &nothing
        }
    };
    let new = wanted.timeouts.iter().filter(|(name, _)| !held.timeouts.contains_key(*name));
    changes.extend(new.map(|(name, timeout)| Change::AddTimeout(name.clone(), *timeout)));
    for (name, set) in &wanted.sets {
        if !held.sets.contains_key(name) {
            let empty = Set {
                key: set.key.clone(),
                data: set.data.clone(),
                interval: set.interval,
                timeouts: set.timeouts,
                ..Set::default()
            };
            changes.push(Change::AddSet(name.clone(), empty));
        }
    }
    for (name, chain) in &wanted.chains {
        if !held.chains.contains_key(name) {
            let empty = Chain { rules: Vec::new(), hook: chain.hook.clone() };
            changes.push(Change::AddChain(name.clone(), empty));
        }
    }
    for (name, set) in &wanted.sets {
        if held.sets.get(name).is_some_and(|have| Arc::ptr_eq(have, set)) {
            continue;
        }
        let none = Default::default();
        let have = held.sets.get(name).map_or(&none, |s| &s.elements);
        let gone: Vec<_> = have.difference(&set.elements).cloned().collect();
        let new: Vec<_> = set.elements.difference(have).cloned().collect();
        if !gone.is_empty() {
            changes.push(Change::DeleteElements(name.clone(), gone));
        }
        if !new.is_empty() {
            changes.push(Change::AddElements(name.clone(), new));
        }
    }
    let gone = held.timeouts.keys().filter(|name| !wanted.timeouts.contains_key(*name));
    changes.extend(gone.map(|name| Change::DeleteTimeout(name.clone())));
    for (name, chain) in &wanted.chains {
        let have = held.chains.get(name).map_or(&[][..], |c| &c.rules);
        if !same_rules(have, &chain.rules) {
            changes.push(Change::Rules(name.clone(), chain.rules.clone()));
        }
    }
    changes
}

/// Whether only elements and rules may differ, and which timeouts there are. Sets and chains held but not wanted are a
/// difference, as is a timeout of another length than its name says.
fn same_shape(held: &Table, wanted: &Table) -> bool {
    let sets = |have: &BTreeMap<String, Arc<Set>>| {
        have.iter().all(|(n, s)| wanted.sets.get(n).is_some_and(|w| w.same_shape(s)))
    };
    let chains = |have: &BTreeMap<String, Chain>| {
        have.iter().all(|(n, c)| wanted.chains.get(n).is_some_and(|w| w.hook == c.hook))
    };
    let same = held.timeouts.iter().all(|(n, t)| wanted.timeouts.get(n).is_none_or(|w| w == t));
    sets(&held.sets) && chains(&held.chains) && same
}

fn same_rules(have: &[Rule], want: &[Rule]) -> bool {
    have.len() == want.len()
        && have.iter().zip(want).all(|(h, w)| h.comment == w.comment && h.count == w.count)
}
