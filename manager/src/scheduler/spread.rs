//! Choosing among the nodes that fit: evenly over the branches of each placement preference, then the
//! node with the fewest tasks of the service, then the one with the fewest tasks. Nodes that keep failing the
//! service come last.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap};

/// How good a node is for the next task; less is better, the first field counts most.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Rank {
    /// Recent failures of the service, if there are enough to matter.
    pub failures: u32,
    /// Tasks of the service.
    pub of_service: u32,
    /// Tasks.
    pub in_all: u32,
}

/// A tree of the candidate nodes, one level for each preference. A placement costs O(log n).
pub(super) enum Spread {
    Nodes(BinaryHeap<Reverse<(Rank, usize)>>),
    /// Branches by the tasks of the service in them, and their places in `children`.
    Branches {
        heap: BinaryHeap<Reverse<(u32, usize)>>,
        children: Vec<Spread>,
    },
}

impl Spread {
    /// `candidates`: node, its rank, and its value for each preference.
    pub fn new(candidates: Vec<(usize, Rank, Vec<&str>)>) -> Self {
        Self::level(candidates, 0)
    }

    fn level(candidates: Vec<(usize, Rank, Vec<&str>)>, depth: usize) -> Self {
        if candidates.first().is_none_or(|c| c.2.len() <= depth) {
            let heap: Vec<_> = candidates.into_iter().map(|(node, rank, _)| Reverse((rank, node))).collect();
            return Spread::Nodes(heap.into());
        }
        let mut groups: BTreeMap<&str, Vec<_>> = BTreeMap::new();
        for c in candidates {
            groups.entry(c.2[depth]).or_default().push(c);
        }
        let mut heap = BinaryHeap::new();
        let mut children = Vec::new();
        for group in groups.into_values() {
            heap.push(Reverse((group.iter().map(|c| c.1.of_service).sum(), children.len())));
            children.push(Self::level(group, depth + 1));
        }
        Spread::Branches { heap, children }
    }

    /// The best node, if any is left.
    pub fn best(&mut self) -> Option<(usize, Rank)> {
        match self {
            Spread::Nodes(heap) => heap.peek().map(|Reverse((rank, node))| (*node, *rank)),
            Spread::Branches { heap, children } => {
                // A branch without nodes left leaves the heap for good.
                while let Some(Reverse((_, child))) = heap.peek() {
                    if let Some(best) = children[*child].best() {
                        return Some(best);
                    }
                    heap.pop();
                }
                None
            }
        }
    }

    /// Counts one task more on the best node and its branches.
    pub fn place_on_best(&mut self) {
        match self {
            Spread::Nodes(heap) => {
                if let Some(mut best) = heap.peek_mut() {
                    let rank = &mut best.0.0;
                    rank.of_service += 1;
                    rank.in_all += 1;
                }
            }
            Spread::Branches { heap, children } => {
                if let Some(mut best) = heap.peek_mut() {
                    children[best.0.1].place_on_best();
                    best.0.0 += 1;
                }
            }
        }
    }

    /// Takes the best node out: it is a candidate no longer.
    pub fn refuse_best(&mut self) {
        match self {
            Spread::Nodes(heap) => drop(heap.pop()),
            Spread::Branches { heap, children } => {
                if let Some(Reverse((_, child))) = heap.peek() {
                    children[*child].refuse_best();
                }
            }
        }
    }
}
