//! The Ready loop: one task that owns raft-rs's node and never waits for the disk or the network.
//!
//! Order is what makes it correct: a follower's answers and a candidate's votes leave only once what they
//! promise is on disk; a leader's appends leave at once, beside its own write.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::sync::Arc;

use prost::Message as _;
use raft::eraftpb::{Entry, EntryType, Message, Snapshot};
use raft::{RawNode, SnapshotStatus, StateRole};
use skep_proto::v1;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::{Instant, MissedTickBehavior};

use super::codec;
use super::error::{MembershipError, ProposeError};
use super::log::writer::{Job, Report, Writer};
use super::log::{LogError, Record, Snapshots};
use super::members::Members;
use super::node::RaftOptions;
use super::reads::Reads;
use super::state_machine::StateMachine;
use super::status::{Leadership, MemberStatus, RaftStatus, Role};
use super::storage::MemoryLog;
use super::transport::{Reports, Transport, TransportReport};

pub(super) type Reply<T, E> = oneshot::Sender<Result<T, E>>;

/// What callers ask of the node.
pub(super) enum Input {
    Propose { based_on: u64, changes: Vec<v1::Change>, reply: Reply<u64, ProposeError> },
    Read { reply: oneshot::Sender<u64> },
    Message(Box<Message>),
    Join { node_id: String, addr: String, reply: Reply<v1::RaftJoinResponse, MembershipError> },
    Remove { node_id: String, reply: Reply<(), MembershipError> },
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

/// A Ready that is not yet on disk.
struct Unpersisted {
    number: u64,
    messages: Vec<Message>,
    /// It carried nothing to write, and only waits for those before it.
    empty: bool,
    /// The snapshot it installed.
    installed: Option<u64>,
}

/// Who waits for an entry.
pub(super) enum Waiter {
    Proposal(Reply<u64, ProposeError>),
    Join(v1::RaftJoinResponse, Reply<v1::RaftJoinResponse, MembershipError>),
    Remove(Reply<(), MembershipError>),
    Nobody,
}

impl Waiter {
    fn fail(self, error: ProposeError) {
        // A caller that gave up is not an error.
        match self {
            Self::Proposal(reply) => drop(reply.send(Err(error))),
            Self::Join(_, reply) => drop(reply.send(Err(error.into()))),
            Self::Remove(reply) => drop(reply.send(Err(error.into()))),
            Self::Nobody => {}
        }
    }

    fn done(self, index: u64, verdict: Result<(), ProposeError>) {
        match (self, verdict) {
            (waiter, Err(error)) => waiter.fail(error),
            (Self::Proposal(reply), Ok(())) => drop(reply.send(Ok(index))),
            (Self::Join(response, reply), Ok(())) => drop(reply.send(Ok(response))),
            (Self::Remove(reply), Ok(())) => drop(reply.send(Ok(()))),
            (Self::Nobody, Ok(())) => {}
        }
    }
}

type Written = (Snapshot, Result<(), LogError>);

pub(super) struct Core {
    pub(super) raw: RawNode<MemoryLog>,
    machine: Arc<dyn StateMachine>,
    transport: Arc<dyn Transport>,
    writer: Writer,
    snapshots: Snapshots,
    pub(super) members: Members,
    pub(super) identity: v1::RaftIdentity,
    pub(super) options: RaftOptions,
    reports: Reports,
    status: watch::Sender<RaftStatus>,
    leadership: watch::Sender<Leadership>,
    applied_seen: watch::Sender<u64>,
    unpersisted: VecDeque<Unpersisted>,
    /// A commit index that no write has carried yet; it costs no write of its own.
    deferred: Option<v1::RaftHardState>,
    last_number: u64,
    /// Who waits, by index, with the term the entry was proposed in.
    pub(super) waiters: BTreeMap<u64, (u64, Waiter)>,
    proposals: u64,
    reads: Reads,
    pub(super) applied: u64,
    pub(super) heard: HashMap<u64, u64>,
    pub(super) ticks: u64,
    seeded: (u64, StateRole),
    snapshot_index: u64,
    snapshot_wanted: u64,
    snapshot_running: bool,
    written: (mpsc::UnboundedSender<Written>, mpsc::UnboundedReceiver<Written>),
    full: bool,
    removed: bool,
    failure: Option<String>,
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
        if !waits && !self.removed {
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
        self.members.peers.get(&self.raw.raft.leader_id).cloned()
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

    fn step(&mut self, message: Message) {
        let last = self.raw.raft.raft_log.last_index();
        if self.removed || message.to != self.identity.raft_id || self.members.removed.contains(&message.from)
        {
            return;
        }
        if message.get_msg_type() == raft::eraftpb::MessageType::MsgHeartbeat && message.commit > last {
            tracing::error!(
                from = message.from,
                commit = message.commit,
                last,
                "the leader counts on entries that this log does not hold: this manager's log was lost or replaced"
            );
            return;
        }
        self.heard.insert(message.from, self.ticks);
        if let Err(error) = self.raw.step(message) {
            tracing::debug!(%error, "raft dropped a message");
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

    /// Lets go of what waited for the disk.
    fn persisted(&mut self, number: u64) {
        while let Some(ready) = self.unpersisted.pop_front_if(|ready| ready.number <= number || ready.empty) {
            self.raw.on_persist_ready(ready.number);
            if let Some(index) = ready.installed {
                self.raw.advance_apply_to(index);
            }
            self.send(ready.messages);
        }
    }

    fn submit(&mut self, records: Vec<Record>, sync: bool) {
        self.writer.submit(Job { number: self.last_number, records, sync, ..Job::default() });
    }

    /// Handles everything raft has ready.
    fn drive(&mut self) {
        while self.failure.is_none() && self.raw.has_ready() {
            let mut ready = self.raw.ready();
            let number = ready.number();
            self.last_number = number;
            self.send(ready.take_messages());
            self.reads.confirmed(ready.take_read_states());
            let mut job = Job { number, sync: ready.must_sync(), ..Job::default() };
            let installed = (!ready.snapshot().is_empty()).then(|| ready.snapshot().clone());
            if let Some(snapshot) = &installed {
                self.install(snapshot, &mut job);
            }
            if !ready.entries().is_empty() {
                self.raw.mut_store().append(ready.entries());
                job.records
                    .extend(ready.entries().iter().map(|entry| Record::Entry(codec::entry_to_wire(entry))));
            }
            if let Some(hard_state) = ready.hs() {
                self.raw.mut_store().set_hard_state(hard_state.clone());
                self.deferred = Some(codec::hard_state_to_wire(hard_state));
            }
            if job.sync {
                job.records.extend(self.deferred.take().map(Record::HardState));
            }
            let messages = ready.take_persisted_messages();
            let committed = ready.take_committed_entries();
            let installed = installed.map(|snapshot| snapshot.get_metadata().index);
            self.raw.advance_append_async(ready);
            let empty = job.records.is_empty() && job.install.is_none();
            self.unpersisted.push_back(Unpersisted { number, messages, empty, installed });
            if empty {
                self.persisted(0);
            } else {
                self.writer.submit(job);
            }
            self.apply(committed);
        }
        if self.raw.store().take_wanted() {
            self.snapshot_wanted = 100;
            self.take_snapshot();
        }
        if self.applied >= self.snapshot_index + self.options.snapshot_interval {
            self.take_snapshot();
        }
    }

    fn install(&mut self, snapshot: &Snapshot, job: &mut Job) {
        let meta = snapshot.get_metadata();
        let restored = v1::RaftSnapshotEnvelope::decode(snapshot.data.as_ref())
            .map_err(|error| error.to_string())
            .and_then(|envelope| self.machine.restore(meta.index, &envelope.state).map(|()| envelope));
        let envelope = match restored {
            Ok(envelope) => envelope,
            Err(error) => {
                self.failure =
                    Some(format!("cannot restore the leader's snapshot at {}: {error}", meta.index));
                return;
            }
        };
        self.members = Members::from_envelope(&envelope, meta.get_conf_state().clone());
        self.raw.mut_store().install(snapshot);
        job.install = Some(codec::snapshot_to_wire(snapshot));
        job.records.push(Record::Mark(v1::RaftLogMark { index: meta.index, term: meta.term }));
        job.compact = Some(meta.index);
        self.snapshot_index = meta.index;
        let behind = self.waiters.split_off(&(meta.index + 1));
        for (_, (_, waiter)) in std::mem::replace(&mut self.waiters, behind) {
            waiter.fail(ProposeError::Unknown {
                reason: "this manager fell behind and took a snapshot".into(),
            });
        }
        self.advance(meta.index);
    }

    fn send(&mut self, messages: Vec<Message>) {
        let mut by_peer: BTreeMap<u64, Vec<v1::RaftMessage>> = BTreeMap::new();
        for message in messages {
            let to = message.to;
            by_peer.entry(to).or_default().push(codec::message_to_wire(message, &self.identity.cluster_id));
        }
        for (to, messages) in by_peer {
            match self.members.peers.get(&to) {
                Some(peer) => self.transport.send(peer, messages, &self.reports),
                None => tracing::debug!(to, "no address for a raft peer"),
            }
        }
    }

    fn apply(&mut self, entries: Vec<Entry>) {
        let Some(last) = entries.last().map(|entry| entry.index) else { return };
        for entry in entries {
            let verdict = match entry.get_entry_type() {
                EntryType::EntryNormal if entry.data.is_empty() => Ok(()),
                EntryType::EntryNormal => self.apply_batch(&entry),
                EntryType::EntryConfChange | EntryType::EntryConfChangeV2 => self.apply_membership(&entry),
            };
            if let Some((term, waiter)) = self.waiters.remove(&entry.index) {
                if term == entry.term {
                    waiter.done(entry.index, verdict);
                } else {
                    // Another leader's entry took its place: the proposal was never committed.
                    waiter.fail(ProposeError::NotLeader { leader: self.leader() });
                }
            }
        }
        self.advance(last);
        self.raw.advance_apply_to(last);
    }

    fn advance(&mut self, index: u64) {
        self.applied = index;
        self.applied_seen.send_replace(index);
        self.reads.applied(index);
    }

    fn apply_batch(&mut self, entry: &Entry) -> Result<(), ProposeError> {
        let batch = v1::Batch::decode(entry.data.as_ref()).map_err(|error| {
            tracing::error!(index = entry.index, %error, "skipped an entry that is no batch");
            ProposeError::Rejected(format!("the entry is no batch: {error}"))
        })?;
        self.machine.apply(entry.index, &batch).map_err(|rejected| ProposeError::Rejected(rejected.0))
    }

    fn apply_membership(&mut self, entry: &Entry) -> Result<(), ProposeError> {
        let refused = |problem: String| {
            tracing::error!(index = entry.index, %problem, "skipped a change of the managers");
            ProposeError::Rejected(problem)
        };
        let (change, peer) = codec::conf_change_from_data(&entry.data).map_err(|error| refused(error.0))?;
        let conf = self.raw.apply_conf_change(&change).map_err(|error| refused(error.to_string()))?;
        self.members.apply(&change, peer, conf);
        if self.members.removed.contains(&self.identity.raft_id) {
            self.removed = true;
        }
        // Who waits for the change finds it in the status.
        self.publish();
        Ok(())
    }

    /// Freezes the state now, and encodes and writes it elsewhere.
    fn take_snapshot(&mut self) {
        let Some(term) = self.raw.store().term_of(self.applied).filter(|_| !self.snapshot_running) else {
            return;
        };
        self.snapshot_running = true;
        let (encode, index) = (self.machine.snapshot(), self.applied);
        let (members, snapshots, done) =
            (self.members.clone(), self.snapshots.clone(), self.written.0.clone());
        let write = move || {
            let conf_state = Some(codec::conf_state_to_wire(&members.conf));
            let snapshot = v1::RaftSnapshot { data: members.envelope(encode()), conf_state, index, term };
            let result = snapshots.write(&snapshot);
            // The node may have stopped meanwhile; the file is whole all the same.
            let _ = done.send((codec::snapshot_from_wire(snapshot), result));
        };
        if self.options.inline_log {
            write();
        } else {
            drop(tokio::task::spawn_blocking(write));
        }
    }

    fn on_snapshot_written(&mut self, (snapshot, result): Written) {
        self.snapshot_running = false;
        let index = snapshot.get_metadata().index;
        if self.snapshot_wanted > 0 {
            self.raw.mut_store().set_outgoing(Some(snapshot));
        }
        match result {
            Ok(()) if index >= self.snapshot_index => {
                self.snapshot_index = index;
                self.raw.mut_store().compact(index.saturating_sub(self.options.trailing));
                self.writer.submit(Job { number: self.last_number, compact: Some(index), ..Job::default() });
            }
            Ok(()) => {}
            Err(error) => {
                // Tried again after another interval; the log goes on growing meanwhile.
                self.snapshot_index = index;
                tracing::error!(%error, "could not write a raft snapshot");
            }
        }
    }

    fn publish(&mut self) {
        let raft = &self.raw.raft;
        let role = match raft.state {
            StateRole::Leader => Role::Leader,
            StateRole::Follower => Role::Follower,
            StateRole::Candidate | StateRole::PreCandidate => Role::Candidate,
        };
        let status = RaftStatus {
            raft_id: self.identity.raft_id,
            term: raft.term,
            role,
            leader: raft.leader_id,
            commit: raft.raft_log.committed,
            applied: self.applied,
            last_index: raft.raft_log.last_index(),
            snapshot_index: self.snapshot_index,
            members: self.members.peers.values().map(|peer| self.member(peer)).collect(),
            removed_members: self.members.removed.iter().copied().collect(),
            disk_full: self.full,
            removed: self.removed,
            failure: self.failure.clone(),
        };
        self.status.send_if_modified(|old| std::mem::replace(old, status.clone()) != status);
        let ready = role == Role::Leader && raft.apply_to_current_term();
        let leadership = Leadership { term: raft.term, leader: self.leader(), ready };
        self.leadership.send_if_modified(|old| std::mem::replace(old, leadership.clone()) != leadership);
    }

    fn member(&self, peer: &v1::RaftPeer) -> MemberStatus {
        MemberStatus {
            peer: peer.clone(),
            voter: self.members.is_voter(peer.raft_id),
            reachable: self.hears(peer.raft_id),
            matched: self.raw.raft.prs().get(peer.raft_id).map_or(0, |progress| progress.matched),
        }
    }
}
