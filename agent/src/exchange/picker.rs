//! Which piece is asked of which node next: first what few have, then what is this node's part among those who fetch the
//! same image, so that nodes that begin together ask for different pieces and exchange them.

use std::collections::{BTreeMap, HashMap};
use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use skep_engine::{Partial, Share};
use tokio::sync::watch;
use tokio::time::Instant;

use super::is_set;

/// How far ahead of the first missing piece a node's own part is asked for: unpacking follows the first.
const OWN: usize = 256;
/// The same for any other piece.
const ANY: usize = 64;
/// A piece that one node has not sent for so long is asked of another one, too.
const SLOW: Duration = Duration::from_secs(3);

/// A piece that was asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Job {
    /// Place of the blob in the image's makeup.
    pub(super) blob: usize,
    pub(super) piece: usize,
    /// Among all pieces.
    at: usize,
}

#[derive(Debug)]
struct Piece {
    blob: usize,
    piece: usize,
    have: bool,
    /// Nodes that were asked for it and have not answered, and since when.
    asked: Vec<(String, Instant)>,
    /// How many known nodes have it.
    holders: usize,
}

#[derive(Debug)]
struct Source {
    has: Vec<bool>,
    /// It fetches the image, too.
    fetches: bool,
}

#[derive(Debug, Default)]
struct State {
    pieces: Vec<Piece>,
    /// Everything before it is there.
    first: usize,
    sources: BTreeMap<String, Source>,
}

/// What is missing of an image, and who has it.
#[derive(Debug)]
pub(super) struct Picker {
    own: String,
    partials: HashMap<usize, Arc<Partial>>,
    state: Mutex<State>,
    news: watch::Sender<u64>,
}

impl Picker {
    /// `own` is this node's ID.
    pub(super) fn new(share: &Share, own: &str) -> Self {
        let mut pieces = Vec::new();
        let mut partials = HashMap::new();
        for (blob, partial) in share.partials() {
            let there = partial.pieces().into_iter().enumerate();
            pieces.extend(there.map(|(piece, have)| Piece {
                blob,
                piece,
                have,
                asked: Vec::new(),
                holders: 0,
            }));
            partials.insert(blob, partial.clone());
        }
        let state = Mutex::new(State { pieces, ..State::default() });
        Self { own: own.to_owned(), partials, state, news: watch::Sender::new(0) }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Told of everything that may make another piece the next one.
    pub(super) fn news(&self) -> watch::Receiver<u64> {
        self.news.subscribe()
    }

    fn tell(&self) {
        self.news.send_modify(|n| *n += 1);
    }

    /// How many pieces are there, and how many there will be.
    pub(super) fn progress(&self) -> (usize, usize) {
        let state = self.lock();
        (state.pieces.iter().filter(|p| p.have).count(), state.pieces.len())
    }

    /// What a node has; `partial` are blobs, by their place, of which it has only some pieces.
    pub(super) fn update(&self, node: &str, partial: &HashMap<usize, Vec<u8>>, fetches: bool) {
        let mut state = self.lock();
        let has: Vec<bool> = state
            .pieces
            .iter()
            .map(|p| partial.get(&p.blob).is_none_or(|pieces| is_set(pieces, p.piece)))
            .collect();
        let before = state.sources.insert(node.to_owned(), Source { has: has.clone(), fetches });
        let before = before.map(|s| s.has).unwrap_or_default();
        for (at, piece) in state.pieces.iter_mut().enumerate() {
            let had = before.get(at).copied().unwrap_or(false);
            piece.holders = (piece.holders + usize::from(has[at])).saturating_sub(usize::from(had));
        }
        drop(state);
        self.tell();
    }

    /// Nothing more comes from a node; what was asked of it is asked of others.
    pub(super) fn gone(&self, node: &str) {
        let mut state = self.lock();
        let Some(source) = state.sources.remove(node) else { return };
        for (piece, had) in state.pieces.iter_mut().zip(source.has) {
            piece.asked.retain(|(asked, _)| asked != node);
            piece.holders = piece.holders.saturating_sub(usize::from(had));
        }
        drop(state);
        self.tell();
    }

    /// The piece to ask a node for next, if any.
    pub(super) fn next(&self, node: &str) -> Option<Job> {
        let mut state = self.lock();
        let state = &mut *state;
        while state.pieces.get(state.first).is_some_and(|p| p.have) {
            state.first += 1;
        }
        let source = state.sources.get(node)?;
        // Those that fetch share the pieces out among them by turns; each knows about the same others.
        let mut fetching: Vec<&str> =
            state.sources.iter().filter(|(_, s)| s.fetches).map(|(id, _)| id.as_str()).collect();
        fetching.push(&self.own);
        fetching.sort_unstable();
        let part = fetching.iter().position(|id| *id == self.own).unwrap_or(0);
        let is_own = |at: usize| at % fetching.len() == part;
        let mut best: Option<(usize, bool, usize)> = None;
        let mut slow: Option<usize> = None;
        let mut missing = 0;
        for (at, piece) in state.pieces.iter().enumerate().skip(state.first).filter(|(_, p)| !p.have) {
            if let Some((by, since)) = piece.asked.last() {
                let again = piece.asked.len() == 1 && by != node && since.elapsed() > SLOW;
                if again && source.has[at] {
                    slow.get_or_insert(at);
                }
                continue;
            }
            missing += 1;
            if missing > OWN && best.is_some() {
                break;
            }
            if source.has[at] && (best.is_none() || missing <= ANY || is_own(at)) {
                let rank = (piece.holders, !is_own(at), at);
                if best.is_none_or(|b| rank < b) {
                    best = Some(rank);
                }
            }
        }
        let at = best.map(|(_, _, at)| at).or(slow)?;
        let piece = &mut state.pieces[at];
        piece.asked.push((node.to_owned(), Instant::now()));
        Some(Job { blob: piece.blob, piece: piece.piece, at })
    }

    /// Offset and bytes of a piece.
    pub(super) fn span(&self, job: Job) -> (u64, u64) {
        self.partials.get(&job.blob).map_or((0, 0), |p| p.span(job.piece))
    }

    /// Takes a piece that came. Blocks.
    pub(super) fn put(&self, job: Job, node: &str, bytes: &[u8]) -> io::Result<()> {
        if self.lock().pieces[job.at].have {
            return Ok(());
        }
        if let Some(partial) = self.partials.get(&job.blob) {
            partial.put(job.piece, bytes)?;
        }
        let piece = &mut self.lock().pieces[job.at];
        piece.have = true;
        piece.asked.retain(|(asked, _)| asked != node);
        self.tell();
        Ok(())
    }

    /// A piece did not come.
    pub(super) fn failed(&self, job: Job, node: &str) {
        self.lock().pieces[job.at].asked.retain(|(asked, _)| asked != node);
        self.tell();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn picker(own: &str, pieces: usize) -> Picker {
        let piece = |piece| Piece { blob: 0, piece, have: false, asked: Vec::new(), holders: 0 };
        let state = State { pieces: (0..pieces).map(piece).collect(), ..State::default() };
        Picker {
            own: own.into(),
            partials: HashMap::new(),
            state: Mutex::new(state),
            news: watch::Sender::new(0),
        }
    }

    fn some(pieces: &[usize]) -> HashMap<usize, Vec<u8>> {
        let mut bits = vec![false; 64];
        pieces.iter().for_each(|p| bits[*p] = true);
        HashMap::from([(0, super::super::packed(&bits))])
    }

    #[tokio::test]
    async fn nodes_that_fetch_the_same_ask_for_different_pieces() {
        let (a, b) = (picker("a", 8), picker("b", 8));
        for (picker, other) in [(&a, "b"), (&b, "a")] {
            picker.update("seed", &HashMap::new(), false);
            picker.update(other, &some(&[]), true);
        }
        let asked =
            |p: &Picker, n| (0..n).filter_map(|_| p.next("seed")).map(|j| j.piece).collect::<Vec<_>>();
        assert_eq!(asked(&a, 4), [0, 2, 4, 6]);
        assert_eq!(asked(&b, 4), [1, 3, 5, 7]);
        assert_eq!(a.next("b"), None, "it has nothing yet");
        // What somebody else has is left to them, until there is nothing else to ask for.
        b.update("a", &some(&[0, 2]), true);
        assert_eq!(b.next("a").map(|j| j.piece), Some(0));
        assert_eq!(asked(&b, 9), [4, 6, 2]);
        assert_eq!(b.next("seed"), None, "all is asked for");
        // One goes, and what it was asked for is asked of others.
        b.gone("a");
        assert_eq!(b.next("seed").map(|j| j.piece), Some(0));
        assert_eq!(b.progress(), (0, 8));
    }

    #[tokio::test(start_paused = true)]
    async fn a_slow_node_is_helped_out() {
        let p = picker("a", 1);
        p.update("slow", &HashMap::new(), false);
        p.update("fast", &HashMap::new(), false);
        let job = p.next("slow").expect("a piece");
        assert_eq!(p.next("fast"), None);
        tokio::time::advance(SLOW * 2).await;
        assert_eq!(p.next("slow"), None, "it has been asked");
        assert_eq!(p.next("fast"), Some(job));
        p.put(job, "fast", &[]).expect("taken");
        assert_eq!((p.next("slow"), p.progress()), (None, (1, 1)));
        p.put(job, "slow", &[]).expect("of no use, and no harm");
    }
}
