//! Choosing among the nodes that fit: evenly over the branches of each placement preference, then the
//! node with the fewest tasks of the service, then the one with the fewest tasks. Nodes that keep failing the
//! service come last.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap};

/// How good a node is for the next task; less is better.
pub(super) type Rank = (u32, u32, u32);

/// A tree of the candidate nodes, one level for each preference. Picking and putting back cost O(log n).
pub(super) enum Spread {
    Nodes(BinaryHeap<Reverse<(Rank, usize)>>),
    Branches { heap: BinaryHeap<Reverse<(u32, usize)>>, children: Vec<Spread> },
}

/// A node picked from the tree; [`Spread::put_back`] returns it, dropping it takes it out.
pub(super) struct Pick {
    pub node: usize,
    path: Vec<(u32, usize)>,
}

impl Spread {
    /// `candidates`: node, its rank, the tasks of the service it has, and its value for each preference.
    pub fn new(candidates: Vec<(usize, Rank, u32, Vec<&str>)>) -> Self {
        Self::level(candidates, 0)
    }

    fn level(candidates: Vec<(usize, Rank, u32, Vec<&str>)>, depth: usize) -> Self {
        if candidates.first().is_none_or(|c| c.3.len() <= depth) {
            let heap: Vec<_> = candidates.into_iter().map(|(node, rank, ..)| Reverse((rank, node))).collect();
            return Spread::Nodes(heap.into());
        }
        let mut groups: BTreeMap<&str, Vec<_>> = BTreeMap::new();
        for c in candidates {
            groups.entry(c.3[depth]).or_default().push(c);
        }
        let mut heap = BinaryHeap::new();
        let mut children = Vec::new();
        for group in groups.into_values() {
            heap.push(Reverse((group.iter().map(|c| c.2).sum(), children.len())));
            children.push(Self::level(group, depth + 1));
        }
        Spread::Branches { heap, children }
    }

    /// Takes the best node out of the tree.
    pub fn pick(&mut self) -> Option<Pick> {
        let mut path = Vec::new();
        let node = self.descend(&mut path)?;
        Some(Pick { node, path })
    }

    fn descend(&mut self, path: &mut Vec<(u32, usize)>) -> Option<usize> {
        match self {
            Spread::Nodes(heap) => heap.pop().map(|Reverse((_, node))| node),
            Spread::Branches { heap, children } => {
                // A branch without nodes left leaves the heap for good.
                while let Some(Reverse((count, child))) = heap.pop() {
                    path.push((count, child));
                    if let Some(node) = children[child].descend(path) {
                        return Some(node);
                    }
                    path.pop();
                }
                None
            }
        }
    }

    /// Ends a pick: with `placed` the branches count one task more, with a rank the node stays a candidate.
    pub fn put_back(&mut self, pick: Pick, placed: bool, rank: Option<Rank>) {
        let mut level = self;
        for (count, child) in pick.path {
            let Spread::Branches { heap, children } = level else { return };
            heap.push(Reverse((count + u32::from(placed), child)));
            level = &mut children[child];
        }
        if let (Spread::Nodes(heap), Some(rank)) = (level, rank) {
            heap.push(Reverse((rank, pick.node)));
        }
    }
}
