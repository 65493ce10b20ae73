//! The loop around raft-rs's node: one task that owns it, takes in what callers, peers, the disk and the clock
//! have to say, and never waits for the disk or the network.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::sync::Arc;

use prost::Message as _;
use raft::eraftpb::{Message, MessageType};
use raft::{RawNode, SnapshotStatus, StateRole};
use skep_proto::v1;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::{Instant, MissedTickBehavior};

use super::error::{MembershipError, ProposeError};
use super::freeze::Written;
use super::lacking::Lacking;
use super::log::writer::{Job, Report, Writer};
use super::log::{Record, Snapshots};
use super::members::Members;
use super::node::RaftOptions;
use super::reads::Reads;
use super::ready::Unpersisted;
use super::state_machine::StateMachine;
use super::status::{Leadership, RaftStatus};
use super::storage::MemoryLog;
use super::transport::{Reports, Transport, TransportReport};
use super::waiter::Waiter;

pub(super) type Reply<T, E> = oneshot::Sender<Result<T, E>>;

/// What callers ask of the node.
pub(super) enum Input {
    Propose { based_on: u64, changes: Vec<v1::Change>, reply: Reply<u64, ProposeError> },
    Read { reply: oneshot::Sender<u64> },
    Message(Box<Message>),
    Join { node_id: String, addr: String, reply: Reply<v1::RaftJoinResponse, MembershipError> },
    Remove { node_id: String, reply: Reply<(), MembershipError> },
    Readdress { node_id: String, addr: String, reply: Reply<(), MembershipError> },
    Moved { node_id: String, addr: String },
    Transfer { reply: Reply<u64, MembershipError> },
    Stop,
}

pub(super) struct Parts {
    pub raw: RawNode<MemoryLog>,
    pub machine: Arc<dyn StateMachine>,
    pub transport: Arc<dyn Transport>,
    pub writer: Writer,
    pub snapshots: Snapshots,
    pub members: Members,
    pub identity: v1::RaftIdentity,
    pub applied: u64,
    pub options: RaftOptions,
    pub reports: Reports,
    pub status: watch::Sender<RaftStatus>,
    pub leadership: watch::Sender<Leadership>,
    pub applied_seen: watch::Sender<u64>,
}

pub(super) struct Core {
    pub(super) raw: RawNode<MemoryLog>,
    pub(super) machine: Arc<dyn StateMachine>,
    pub(super) transport: Arc<dyn Transport>,
    pub(super) writer: Writer,
    pub(super) snapshots: Snapshots,
    pub(super) members: Members,
    /// Where members said that they are reached now, until the log says so, too.
    pub(super) moved: HashMap<u64, String>,
    pub(super) identity: v1::RaftIdentity,
    pub(super) options: RaftOptions,
    pub(super) reports: Reports,
    pub(super) status: watch::Sender<RaftStatus>,
    pub(super) leadership: watch::Sender<Leadership>,
    pub(super) applied_seen: watch::Sender<u64>,
    pub(super) unpersisted: VecDeque<Unpersisted>,
    /// A commit index that no write has carried yet; it costs no write of its own.
    pub(super) deferred: Option<v1::RaftHardState>,
    pub(super) last_number: u64,
    /// Who waits, by index, with the term the entry was proposed in.
    pub(super) waiters: BTreeMap<u64, (u64, Waiter)>,
    pub(super) proposals: u64,
    pub(super) reads: Reads,
    pub(super) applied: u64,
    pub(super) heard: HashMap<u64, u64>,
    pub(super) ticks: u64,
    pub(super) seeded: (u64, StateRole),
    pub(super) snapshot_index: u64,
    pub(super) snapshot_wanted: u64,
    pub(super) snapshot_running: bool,
    pub(super) written: (mpsc::UnboundedSender<Written>, mpsc::UnboundedReceiver<Written>),
    pub(super) full: bool,
    pub(super) removed: bool,
    pub(super) lacking: Option<Lacking>,
    pub(super) failure: Option<String>,
}

impl Core {
    pub(super) fn new(parts: Parts) -> Self {
        let mut core = Self {
            reads: Reads::new(
                parts.identity.raft_id,
                parts.raw.raft.term,
                parts.raw.raft.raft_log.last_index(),
            ),
            raw: parts.raw,
            machine: parts.machine,
            transport: parts.transport,
            writer: parts.writer,
            snapshots: parts.snapshots,
            members: parts.members,
            moved: HashMap::new(),
            identity: parts.identity,
            options: parts.options,
            reports: parts.reports,
            status: parts.status,
            leadership: parts.leadership,
            applied_seen: parts.applied_seen,
            unpersisted: VecDeque::new(),
            deferred: None,
            last_number: 0,
            waiters: BTreeMap::new(),
            proposals: 0,
            applied: parts.applied,
            heard: HashMap::new(),
            ticks: 0,
            seeded: (0, StateRole::Leader),
            snapshot_index: parts.applied,
            snapshot_wanted: 0,
            snapshot_running: false,
            written: mpsc::unbounded_channel(),
            full: false,
            removed: false,
            lacking: None,
            failure: None,
        };
        core.seed_election();
        core.publish();
        core
    }

    pub(super) async fn run(
        mut self,
        mut inputs: mpsc::Receiver<Input>,
        mut log: mpsc::UnboundedReceiver<Report>,
        mut transport: mpsc::UnboundedReceiver<TransportReport>,
    ) {
        if self.alone() {
            // Nobody else could lead: no reason to wait an election timeout.
            self.campaign();
        }
        let mut tick =
            tokio::time::interval_at(Instant::now() + self.options.timing.tick, self.options.timing.tick);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut batch = Vec::new();
        while self.failure.is_none() {
            self.drive();
            self.publish();
            if self.failure.is_some() {
                break;
            }
            tokio::select! {
                biased;
                Some(report) = log.recv() => self.on_log(report),
                Some(report) = transport.recv() => self.on_transport(report),
                Some(written) = self.written.1.recv() => self.on_snapshot_written(written),
                _ = tick.tick() => self.on_tick(),
                count = inputs.recv_many(&mut batch, 512) => {
                    if count == 0 || self.take(&mut batch) {
                        break;
                    }
                }
            }
        }
        self.end().await;
    }

    /// Takes queued inputs in; true when asked to stop.
    fn take(&mut self, batch: &mut Vec<Input>) -> bool {
        let mut stop = false;
        for input in batch.drain(..) {
            match input {
                Input::Propose { based_on, changes, reply } => self.propose(based_on, changes, reply),
                Input::Read { reply } => self.reads.ask(reply, &mut self.raw),
                Input::Message(message) => self.step(*message),
                Input::Join { node_id, addr, reply } => self.join(node_id, addr, reply),
                Input::Remove { node_id, reply } => self.remove(&node_id, reply),
                Input::Readdress { node_id, addr, reply } => self.readdress(&node_id, addr, reply),
                Input::Moved { node_id, addr } => self.reached(&node_id, addr),
                Input::Transfer { reply } => drop(reply.send(self.transfer())),
                Input::Stop => stop = true,
            }
        }
        stop
    }

    async fn end(mut self) {
        let reason = self.failure.clone().unwrap_or_else(|| "the manager is stopping".into());
        for (_, (_, waiter)) in std::mem::take(&mut self.waiters) {
            waiter.fail(ProposeError::Unknown { reason: reason.clone() });
        }
        self.failure.get_or_insert(reason);
        self.publish();
        self.leadership.send_modify(|leadership| {
            *leadership = Leadership { term: leadership.term, ..Default::default() }
        });
        if let Some(deferred) = self.deferred.take() {
            self.submit(vec![Record::HardState(deferred)], false);
        }
        if let Some(thread) = self.writer.close() {
            // Waits until the log's files are let go of; the thread reports its own failures.
            let _ = tokio::task::spawn_blocking(move || thread.join()).await;
        }
    }

    fn on_tick(&mut self) {
        self.ticks += 1;
        self.writer.tick();
        if let Some(deferred) = self.deferred.take() {
            self.submit(vec![Record::HardState(deferred)], false);
        }
        // raft-rs requires that a node which elects itself has everything on disk.
        let waits = self.alone() && !self.leads() && !self.unpersisted.is_empty();
        if self.lacking.is_some() && !self.removed {
            // Only standing for election is withheld: the lease of a leader that fell silent runs out all the same,
            // or no other candidate could be voted for.
            self.raw.raft.election_elapsed += 1;
        } else if !waits && !self.removed {
            self.raw.tick();
            self.seed_election();
        }
        self.reads.tick(&mut self.raw);
        self.tend_learners();
        if self.snapshot_wanted > 0 {
            self.snapshot_wanted -= 1;
            if self.snapshot_wanted == 0 {
                self.raw.mut_store().set_outgoing(None);
            }
        }
    }

    fn campaign(&mut self) {
        if let Err(error) = self.raw.campaign() {
            tracing::warn!(%error, "could not campaign");
        }
    }

    pub(super) fn leads(&self) -> bool {
        self.raw.raft.state == StateRole::Leader
    }

    fn alone(&self) -> bool {
        self.members.conf.voters == [self.identity.raft_id] && self.members.conf.voters_outgoing.is_empty()
    }

    pub(super) fn leader(&self) -> Option<v1::RaftPeer> {
        self.peer(self.raw.raft.leader_id)
    }

    /// A member, where it is reached now.
    pub(super) fn peer(&self, id: u64) -> Option<v1::RaftPeer> {
        let peer = self.members.peers.get(&id)?.clone();
        let addr = self.moved.get(&id).cloned().unwrap_or_else(|| peer.addr.clone());
        Some(v1::RaftPeer { addr, ..peer })
    }

    /// Whether a member was heard from within two election timeouts.
    pub(super) fn hears(&self, id: u64) -> bool {
        let limit = 2 * self.options.timing.election_ticks as u64;
        id == self.identity.raft_id || self.heard.get(&id).is_some_and(|tick| self.ticks - tick <= limit)
    }

    /// raft-rs draws election timeouts from the thread's generator; this draws them from the seed, so that
    /// a simulation replays.
    fn seed_election(&mut self) {
        let now = (self.raw.raft.term, self.raw.raft.state);
        if now == self.seeded {
            return;
        }
        self.seeded = now;
        let timing = &self.options.timing;
        let spread = (timing.max_election_ticks - timing.election_ticks).max(1) as u64;
        let salt = now.0 ^ (now.1 as u64) << 56 ^ self.identity.raft_id;
        let draw = super::node::new_raft_id(self.options.seed, salt, "election") % spread;
        self.raw.raft.set_randomized_election_timeout(timing.election_ticks + draw as usize);
    }

    fn propose(&mut self, based_on: u64, changes: Vec<v1::Change>, reply: Reply<u64, ProposeError>) {
        let waiter = Waiter::Proposal(reply);
        if !self.leads() {
            return waiter.fail(ProposeError::NotLeader { leader: self.leader() });
        }
        if self.full {
            return waiter.fail(ProposeError::DiskFull { may_apply: false });
        }
        self.proposals += 1;
        let batch = v1::Batch {
            proposal_id: self.proposals,
            proposer: self.identity.raft_id,
            changes,
            at_ms: (self.options.clock)(),
            based_on,
        };
        let (bytes, limit) = (batch.encoded_len(), self.options.max_entry_bytes);
        if bytes > limit {
            return waiter.fail(ProposeError::TooLarge { bytes, limit });
        }
        match self.raw.propose(Vec::new(), batch.encode_to_vec()) {
            Ok(()) => self.wait_for_last(waiter),
            // Dropped: leadership is being handed on, or too much is uncommitted. Nothing was appended.
            Err(_) => waiter.fail(ProposeError::NotLeader { leader: None }),
        }
    }

    pub(super) fn wait_for_last(&mut self, waiter: Waiter) {
        let index = self.raw.raft.raft_log.last_index();
        self.waiters.insert(index, (self.raw.raft.term, waiter));
    }

    fn step(&mut self, mut message: Message) {
        if self.removed || message.to != self.identity.raft_id || self.members.removed.contains(&message.from)
        {
            return;
        }
        if !self.admit(&mut message) {
            return;
        }
        let (from, kind) = (message.from, message.get_msg_type());
        self.heard.insert(from, self.ticks);
        if let Err(error) = self.raw.step(message) {
            tracing::debug!(%error, "raft dropped a message");
        }
        // Once a heartbeat: an answer to every message would double them each time round.
        if kind == MessageType::MsgHeartbeat {
            self.tell_lacking(from);
        }
        self.seed_election();
    }

    fn on_transport(&mut self, report: TransportReport) {
        match report {
            TransportReport::Unreachable(id) => self.raw.report_unreachable(id),
            TransportReport::Snapshot { to, arrived } => {
                let status = if arrived { SnapshotStatus::Finish } else { SnapshotStatus::Failure };
                self.raw.report_snapshot(to, status);
            }
            TransportReport::Removed => self.removed = true,
        }
    }

    fn on_log(&mut self, report: Report) {
        match report {
            Report::Persisted(number) => self.persisted(number),
            Report::Full => {
                tracing::error!(
                    "the disk under the raft log is full: no write is acknowledged until there is room"
                );
                self.full = true;
                for (_, (_, waiter)) in std::mem::take(&mut self.waiters) {
                    waiter.fail(ProposeError::DiskFull { may_apply: true });
                }
                // Others have room, perhaps.
                drop(self.transfer());
            }
            Report::Resumed => {
                tracing::info!("the disk under the raft log takes writes again");
                self.full = false;
            }
            Report::Failed(reason) => self.failure = Some(reason),
        }
    }

    pub(super) fn submit(&mut self, records: Vec<Record>, sync: bool) {
        self.writer.submit(Job { number: self.last_number, records, sync, ..Job::default() });
    }
}
