//! Where a service is spread less evenly than the scheduler would spread it now, and which one move makes that better:
//! the same filters, preferences and ranks as for a task that waits. A move is worth making only if it is from where
//! there are at least two tasks more than where it goes to, so none is ever undone by another.

use std::collections::BTreeMap;
use std::sync::Arc;

use skep_proto::v1;

use super::{Group, Load, constraint, filter};
use crate::store::StoreView;

/// One task, and the node it goes to.
#[derive(Clone, Debug)]
pub struct Move {
    /// The task that is there.
    pub task: Arc<v1::Task>,
    /// ID of the node.
    pub to: String,
}

/// What can be done about the spread.
#[derive(Clone, Debug)]
pub enum Uneven {
    /// Nothing: it is as even as it can be.
    No,
    /// This first.
    Move(Move),
    /// The node that should have more keeps failing the service.
    Failing,
}

/// A node that could be given tasks of the service.
struct Candidate<'a> {
    id: &'a str,
    /// Tasks of the service.
    has: u32,
    in_all: u32,
    /// By which it stands in a branch of each preference.
    values: Vec<&'a str>,
    /// Whether it has room for one more.
    takes: bool,
    failing: bool,
    /// The task it would give first.
    gives: Option<&'a Arc<v1::Task>>,
}

/// Looks for the best move. `settled` are the tasks that may be moved; `leaving` the nodes of those that are being
/// moved already, one for each.
pub fn uneven(
    view: &StoreView,
    service: &v1::Service,
    settled: &[Arc<v1::Task>],
    leaving: &[&str],
    now_ms: i64,
) -> Uneven {
    let spec = view.revision(&service.id, service.revision).and_then(|r| r.spec.as_ref());
    let Some(spec) = spec.filter(|_| service.endpoint.is_some()) else { return Uneven::No };
    let group = Group::new(view, service, spec, service.revision, now_ms);
    if group.demand.nonsense.is_some() {
        return Uneven::No;
    }
    let mut load = Load::of(view);
    for id in leaving {
        if let Some(i) = load.position(id) {
            load.nodes[i].add_tasks(service.id.as_bytes(), -1);
        }
    }
    // The one with the greatest number of a node goes first.
    let mut gives: BTreeMap<&str, &Arc<v1::Task>> = BTreeMap::new();
    for t in settled {
        let last = gives.entry(t.node_id.as_str()).or_insert(t);
        if last.slot < t.slot {
            *last = t;
        }
    }
    let mut candidates = Vec::new();
    for node in load.nodes.iter().filter(|n| filter::suits(n, &group.demand).is_none()) {
        let rank = group.rank(node);
        let values = group.preferences.iter().map(|p| constraint::attribute(&node.node, p)).collect();
        candidates.push(Candidate {
            id: &node.node.id,
            has: rank.of_service,
            in_all: rank.in_all,
            values,
            takes: filter::fits(node, &group.demand, rank.of_service).is_none(),
            failing: rank.failures > 0,
            gives: gives.get(node.node.id.as_str()).copied(),
        });
    }
    let all: Vec<&Candidate<'_>> = candidates.iter().collect();
    let found = |takes: Takes<'_>| {
        let (from, to) = pair(&all, 0, takes)?;
        Some(Move { task: from.gives?.clone(), to: to.id.to_owned() })
    };
    match found(&|c| c.takes && !c.failing) {
        Some(best) => Uneven::Move(best),
        None if found(&|c| c.takes).is_some() => Uneven::Failing,
        None => Uneven::No,
    }
}

type Takes<'f> = &'f dyn Fn(&Candidate<'_>) -> bool;

/// The node to move from and the one to move to: between branches as high up as they differ by two, then within one.
fn pair<'a, 'c>(
    nodes: &[&'c Candidate<'a>],
    depth: usize,
    takes: Takes<'_>,
) -> Option<(&'c Candidate<'a>, &'c Candidate<'a>)> {
    let Some(branches) = branches(nodes, depth) else {
        let (from, to) = (most(nodes, depth)?, least(nodes, depth, takes)?);
        return (from.has >= to.has + 2).then_some((from, to));
    };
    let giving = branches.iter().filter(|b| b.iter().any(|c| c.gives.is_some()));
    let taking = branches.iter().filter(|b| b.iter().any(|c| takes(c)));
    let (from, to) = (giving.max_by_key(|b| total(b))?, taking.min_by_key(|b| total(b))?);
    if total(from) >= total(to) + 2 {
        return Some((most(from, depth + 1)?, least(to, depth + 1, takes)?));
    }
    branches.iter().find_map(|b| pair(b, depth + 1, takes))
}

fn total(branch: &[&Candidate<'_>]) -> u32 {
    branch.iter().map(|c| c.has).sum()
}

/// The nodes by their value of one preference; none is left to tell them apart by below the last.
fn branches<'a, 'c>(nodes: &[&'c Candidate<'a>], depth: usize) -> Option<Vec<Vec<&'c Candidate<'a>>>> {
    nodes.first().filter(|c| c.values.len() > depth)?;
    let mut by_value: BTreeMap<&str, Vec<&'c Candidate<'a>>> = BTreeMap::new();
    for c in nodes {
        by_value.entry(c.values[depth]).or_default().push(c);
    }
    Some(by_value.into_values().collect())
}

/// The node that gives a task first.
fn most<'a, 'c>(nodes: &[&'c Candidate<'a>], depth: usize) -> Option<&'c Candidate<'a>> {
    let Some(branches) = branches(nodes, depth) else {
        let giving = nodes.iter().filter(|c| c.gives.is_some());
        return giving.max_by_key(|c| (c.has, c.in_all, c.id)).copied();
    };
    let giving = branches.iter().filter(|b| b.iter().any(|c| c.gives.is_some()));
    most(giving.max_by_key(|b| total(b))?, depth + 1)
}

/// The node that takes one first.
fn least<'a, 'c>(nodes: &[&'c Candidate<'a>], depth: usize, takes: Takes<'_>) -> Option<&'c Candidate<'a>> {
    let Some(branches) = branches(nodes, depth) else {
        let taking = nodes.iter().filter(|c| takes(c));
        return taking.min_by_key(|c| (c.has, c.in_all, c.id)).copied();
    };
    let taking = branches.iter().filter(|b| b.iter().any(|c| takes(c)));
    least(taking.min_by_key(|b| total(b))?, depth + 1, takes)
}
