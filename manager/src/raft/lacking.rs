//! A member whose log ends before what it had acknowledged: its disk lost a write that it had confirmed, or was put
//! back from a copy. raft-rs takes for granted that this cannot be: it fails on a commit index behind the log's end,
//! and a leader takes the follower's rejections for old ones. Here the follower answers all the same and the leader
//! begins again from what the follower holds.
//!
//! Until it holds what the leader had counted on, such a member does not campaign, and votes only for a log that has
//! all of that (Raft, section 5.4.1: an elected log holds every committed entry).

use raft::eraftpb::{Message, MessageType};

use super::core::Core;

/// What the log should hold and does not.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Lacking {
    /// Term of the leader that said so.
    term: u64,
    /// The index it counts on.
    index: u64,
}

impl Core {
    /// Looks at a message before raft-rs does; false drops it.
    pub(super) fn admit(&mut self, message: &mut Message) -> bool {
        let last = self.raw.raft.raft_log.last_index();
        if self.lacking.is_some_and(|lacking| lacking.index <= last) {
            tracing::info!(last, "this manager's log holds again what it had acknowledged");
            self.lacking = None;
        }
        match message.get_msg_type() {
            MessageType::MsgHeartbeat if message.commit > last => {
                if message.term >= self.raw.raft.term {
                    self.lack(Lacking { term: message.term, index: message.commit }, last);
                }
                message.commit = self.raw.raft.raft_log.committed;
                true
            }
            MessageType::MsgRequestVote | MessageType::MsgRequestPreVote => {
                let held = Lacking { term: message.log_term, index: message.index };
                self.lacking.is_none_or(|lacking| held >= lacking)
            }
            MessageType::MsgTimeoutNow => self.lacking.is_none(),
            MessageType::MsgAppendResponse if message.reject => {
                self.begin_again(message);
                true
            }
            _ => true,
        }
    }

    fn lack(&mut self, lacking: Lacking, last: u64) {
        if self.lacking.is_none() {
            tracing::error!(
                expected = lacking.index,
                last,
                "the leader counts on entries that this log does not hold: it was cut or replaced. They are fetched \
                 again; until then this manager does not stand for election. Check the disk"
            );
        }
        self.lacking = self.lacking.max(Some(lacking));
    }

    /// Tells the leader where this log ends. With nothing new to send it would not ask: it believes that all is here.
    pub(super) fn tell_lacking(&mut self, leader: u64) {
        let Some(lacking) = self.lacking.filter(|_| self.raw.raft.leader_id == leader) else { return };
        let mut told = Message::default();
        told.set_msg_type(MessageType::MsgAppendResponse);
        (told.to, told.from, told.term) = (leader, self.identity.raft_id, self.raw.raft.term);
        (told.reject, told.index) = (true, lacking.index);
        told.reject_hint = self.raw.raft.raft_log.last_index();
        if told.reject_hint < lacking.index {
            self.raw.raft.msgs.push(told);
        }
    }

    /// Takes back what this leader believed of a follower that no longer holds it.
    fn begin_again(&mut self, message: &Message) {
        if !self.leads() || message.term != self.raw.raft.term || message.request_snapshot != 0 {
            return;
        }
        let Some(progress) = self.raw.raft.mut_prs().get_mut(message.from) else { return };
        if message.reject_hint >= progress.matched {
            return;
        }
        let peer = message.from;
        tracing::warn!(
            peer,
            acknowledged = progress.matched,
            holds = message.reject_hint,
            "a manager lacks entries it had"
        );
        progress.become_probe();
        // Nothing of it counts towards a quorum before it has been compared anew.
        progress.matched = 0;
        progress.next_idx = message.reject_hint + 1;
    }
}
