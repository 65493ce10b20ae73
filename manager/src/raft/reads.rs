//! Linearizable reads: one round of ReadIndex for all that wait, asked again until a quorum answers.

use raft::{RawNode, ReadState};
use tokio::sync::oneshot;

use super::storage::MemoryLog;

/// Ticks after which an unanswered round is asked again: messages get lost, leaders change.
const PATIENCE: u64 = 4;

type Reply = oneshot::Sender<u64>;

/// The reads of one node.
pub(super) struct Reads {
    waiting: Vec<Reply>,
    round: Option<(Vec<u8>, Vec<Reply>, u64)>,
    /// Confirmed, but the index is not applied here yet.
    confirmed: Vec<(u64, Reply)>,
    applied: u64,
    prefix: [u64; 3],
    count: u64,
}

impl Reads {
    /// `raft_id`, `term` and `last` make this run's rounds differ from any earlier run's.
    pub(super) fn new(raft_id: u64, term: u64, last: u64) -> Self {
        let prefix = [raft_id, term, last];
        Self { waiting: Vec::new(), round: None, confirmed: Vec::new(), applied: 0, prefix, count: 0 }
    }

    pub(super) fn ask(&mut self, reply: Reply, raw: &mut RawNode<MemoryLog>) {
        self.waiting.push(reply);
        self.begin(raw);
    }

    fn begin(&mut self, raw: &mut RawNode<MemoryLog>) {
        if self.round.is_some() || self.waiting.is_empty() {
            return;
        }
        self.count += 1;
        let context: Vec<u8> =
            self.prefix.iter().chain([&self.count]).flat_map(|part| part.to_le_bytes()).collect();
        raw.read_index(context.clone());
        self.round = Some((context, std::mem::take(&mut self.waiting), 0));
    }

    pub(super) fn tick(&mut self, raw: &mut RawNode<MemoryLog>) {
        if let Some((context, replies, age)) = self.round.take() {
            if age < PATIENCE {
                self.round = Some((context, replies, age + 1));
            } else {
                self.waiting.extend(replies);
            }
        }
        self.waiting.retain(|reply| !reply.is_closed());
        self.begin(raw);
    }

    pub(super) fn confirmed(&mut self, states: Vec<ReadState>) {
        for state in states {
            if let Some((_, replies, _)) = self.round.take_if(|round| round.0 == state.request_ctx) {
                self.confirmed.extend(replies.into_iter().map(|reply| (state.index, reply)));
            }
        }
        self.applied(self.applied);
    }

    pub(super) fn applied(&mut self, index: u64) {
        self.applied = self.applied.max(index);
        for (wanted, reply) in self.confirmed.extract_if(.., |(wanted, _)| *wanted <= index) {
            // A caller that gave up is not an error.
            let _ = reply.send(wanted);
        }
    }
}
