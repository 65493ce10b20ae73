//! Generic resources of a node: what is left of each kind, and which of the named units a task gets.

use std::collections::HashMap;

use skep_proto::v1;

/// What the tasks on one node hold, by kind and name; amounts have no name.
#[derive(Clone, Debug, Default)]
pub(super) struct Held(HashMap<(String, String), i64>);

impl Held {
    /// Counts what a task holds (`sign` 1), or no longer does (-1).
    pub fn count(&mut self, resources: &[v1::GenericResource], sign: i32) {
        for r in resources {
            let key = (r.kind.clone(), r.name.clone());
            let amount = if r.name.is_empty() { r.amount } else { 1 };
            let held = self.0.entry(key.clone()).or_default();
            *held = held.saturating_add(i64::from(sign).saturating_mul(amount));
            if *held == 0 {
                self.0.remove(&key);
            }
        }
    }

    /// How much of a kind is free on the node.
    pub fn free(&self, node: &v1::Node, kind: &str) -> i64 {
        of_kind(node, kind)
            .map(|r| match r.name.is_empty() {
                true => r.amount.saturating_sub(self.of(r)),
                false => i64::from(self.of(r) == 0),
            })
            // What a node says that it has is its own word.
            .fold(0, i64::saturating_add)
    }

    /// Takes what is `wanted`, which must be free: named units where the node has names.
    pub fn claim(&mut self, node: &v1::Node, wanted: &[v1::GenericResource]) -> Vec<v1::GenericResource> {
        let mut claimed = Vec::new();
        for want in wanted.iter().filter(|w| w.amount > 0) {
            let named = of_kind(node, &want.kind).filter(|r| !r.name.is_empty());
            let free = named.filter(|r| self.of(r) == 0).take(usize::try_from(want.amount).unwrap_or(0));
            let names: Vec<_> = free.cloned().collect();
            match names.is_empty() {
                true => claimed.push(want.clone()),
                false => claimed.extend(names),
            }
        }
        self.count(&claimed, 1);
        claimed
    }

    fn of(&self, r: &v1::GenericResource) -> i64 {
        self.0.get(&(r.kind.clone(), r.name.clone())).copied().unwrap_or(0)
    }
}

fn of_kind<'a>(node: &'a v1::Node, kind: &str) -> impl Iterator<Item = &'a v1::GenericResource> {
    node.description.iter().flat_map(|d| &d.generic).filter(move |r| r.kind == kind)
}
