//! What the scheduler makes of each node for one task: the same filters, ranks and placement as for a task that
//! waits, on a state in which it does.

use std::collections::BTreeMap;

use skep_proto::v1;

use super::{Group, Load, Schedule, constraint, filter};
use crate::allocator::{self, Pools};
use crate::orchestrator::task;
use crate::scheduler::spread::Spread;
use crate::store::{StoreView, change};

/// The outcome for a task that had no node.
#[derive(Debug, Default)]
pub struct Explanation {
    /// In the order the nodes would be taken, then those that do not fit.
    pub nodes: Vec<v1::NodeVerdict>,
    /// ID of the node it would be given.
    pub goes_to: Option<String>,
    /// Why it goes nowhere.
    pub why: Option<String>,
}

/// Explains the placement of a task that has not ended.
pub fn explain(view: &StoreView, t: &v1::Task, now_ms: i64) -> Explanation {
    let Some(service) = view.service(&t.service_id) else { return Explanation::default() };
    let mut view = view.clone();
    // What it holds is free for it.
    view.foresee(vec![change::put(unplaced(t))], now_ms);
    let Some(waiting) = view.task(&t.id) else { return Explanation::default() };
    let refusals: BTreeMap<String, String> = allocator::allocate(&view).refusals;
    let (mut load, mut pools) = (Load::of(&view), Pools::of(&view));
    let group = match Group::waiting(&view, service, t.revision, &refusals, now_ms) {
        Ok(group) => group,
        Err(held) => return Explanation { why: Some(held.whole), ..Explanation::default() },
    };
    let nodes = group.verdicts(&load);
    let mut out = Schedule::default();
    group.place(&[waiting], &mut load, &mut pools, 1, &mut out);
    let placed = out.changes.first().and_then(change::as_task).unwrap_or(waiting);
    let settled = task::state(placed) >= v1::TaskState::Assigned;
    let why = placed.status.as_ref().map(|s| s.err.clone()).filter(|w| !w.is_empty() && !settled);
    Explanation { nodes, goes_to: settled.then(|| placed.node_id.clone()), why }
}

fn unplaced(t: &v1::Task) -> v1::Task {
    let mut t = t.clone();
    if t.slot != 0 {
        t.node_id.clear();
    }
    t.addresses.clear();
    t.ports.clear();
    t.generic.clear();
    t.set_desired_state(task::goal(&t));
    t.status = Some(v1::TaskStatus { state: v1::TaskState::New.into(), ..Default::default() });
    t
}

impl Group<'_> {
    fn verdicts(&self, load: &Load) -> Vec<v1::NodeVerdict> {
        let (mut fitting, mut others) = (Vec::new(), Vec::new());
        if self.demand.nonsense.is_some() {
            return others;
        }
        for (i, node) in load.nodes.iter().enumerate() {
            let rank = self.rank(node);
            let refused = filter::suits(node, &self.demand)
                .or_else(|| filter::fits(node, &self.demand, rank.of_service));
            let verdict = v1::NodeVerdict {
                node_id: node.node.id.clone(),
                hostname: node.node.description.as_ref().map(|d| d.hostname.clone()).unwrap_or_default(),
                refusal: refused.as_ref().map(|r| r.phrase(1).to_owned()).unwrap_or_default(),
                failures: rank.failures,
                service_tasks: rank.of_service,
                tasks: rank.in_all,
            };
            match refused {
                Some(_) => others.push(verdict),
                None => fitting.push((i, rank, verdict)),
            }
        }
        let values = |i: usize| {
            let preferences = self.preferences.iter();
            preferences.map(|p| constraint::attribute(&load.nodes[i].node, p)).collect()
        };
        let mut spread = Spread::new(fitting.iter().map(|(i, rank, _)| (*i, *rank, values(*i))).collect());
        let mut nodes = Vec::new();
        while let Some((best, _)) = spread.best() {
            nodes.extend(fitting.iter().find(|(i, ..)| *i == best).map(|(.., v)| v.clone()));
            spread.refuse_best();
        }
        others.sort_by(|a, b| a.hostname.cmp(&b.hostname));
        nodes.extend(others);
        nodes
    }
}
