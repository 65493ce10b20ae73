//! Starting a raft node: from nothing, as a joiner, from its log, or alone after a lost quorum.

use std::sync::Arc;
use std::time::Duration;

use prost::Message as _;
use raft::eraftpb::ConfState;
use raft::{Config, RawNode};
use skep_proto::v1;
use tokio::sync::{mpsc, watch};

use super::codec;
use super::core::{Core, Parts};
use super::error::StartError;
use super::handle::Raft;
use super::log::writer::Writer;
use super::log::{Log, LogOptions, Record, Recovered};
use super::logger::logger;
use super::members::Members;
use super::state_machine::StateMachine;
use super::status::{Leadership, RaftStatus};
use super::storage::MemoryLog;
use super::transport::{Reports, Transport};

/// Raft's periods.
#[derive(Debug, Clone)]
pub struct Timing {
    /// One tick.
    pub tick: Duration,
    /// Ticks between a leader's heartbeats.
    pub heartbeat_ticks: usize,
    /// Fewest ticks without a leader until an election; also the period of the leader's quorum check.
    pub election_ticks: usize,
    /// Most ticks (exclusive) until an election.
    pub max_election_ticks: usize,
    /// How long a write or a read waits for a quorum.
    pub request: Duration,
}

impl Default for Timing {
    /// A new leader within about 1.5 s of the old one's death.
    fn default() -> Self {
        Self {
            tick: Duration::from_millis(100),
            heartbeat_ticks: 2,
            election_ticks: 8,
            max_election_ticks: 14,
            request: Duration::from_secs(5),
        }
    }
}

/// The time of day, for the batches' time stamps: milliseconds since the epoch.
pub type Clock = Arc<dyn Fn() -> i64 + Send + Sync>;

/// What a raft node is made with.
#[derive(Clone)]
pub struct RaftOptions {
    /// Where and how the log lies.
    pub log: LogOptions,
    /// Raft's periods.
    pub timing: Timing,
    /// Entries between snapshots, asked at every entry: it may change while the node runs.
    pub snapshot_interval: Arc<dyn Fn() -> u64 + Send + Sync>,
    /// Snapshots kept beside the last, asked whenever there is another.
    pub keep_snapshots: Arc<dyn Fn() -> u64 + Send + Sync>,
    /// Entries kept behind a snapshot for followers that lag a little.
    pub trailing: u64,
    /// The largest batch taken.
    pub max_entry_bytes: usize,
    /// Decides election timeouts and raft IDs.
    pub seed: u64,
    /// The time of day.
    pub clock: Clock,
    /// Times the making of snapshots.
    pub snapshot_timer: Option<prometheus::Histogram>,
    /// Write the log in the raft task itself: for simulations, where every run must be the same.
    pub inline_log: bool,
}

impl RaftOptions {
    /// The usual settings, by the host's clock and with timeouts no other node draws alike.
    pub fn new(log: LogOptions) -> Self {
        let since_epoch =
            || std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
        Self {
            log,
            timing: Timing::default(),
            snapshot_interval: Arc::new(|| skep_proto::defaults::SNAPSHOT_INTERVAL),
            keep_snapshots: Arc::new(|| 0),
            trailing: 1_000,
            max_entry_bytes: 16 << 20,
            seed: since_epoch().as_nanos() as u64,
            clock: Arc::new(move || since_epoch().as_millis() as i64),
            snapshot_timer: None,
            inline_log: false,
        }
    }
}

/// How a node begins.
#[derive(Debug, Clone)]
pub enum Start {
    /// The first member of a new group.
    Init {
        /// The new cluster.
        cluster_id: String,
        /// This node.
        node_id: String,
        /// Where its raft service is reached.
        addr: String,
    },
    /// A member let in by the leader's `Join`.
    Join {
        /// The leader's answer.
        response: v1::RaftJoinResponse,
        /// This node.
        node_id: String,
    },
    /// A member that was one before.
    Restart,
    /// The only member of the group from now on, with all that its log holds.
    ForceNewCluster {
        /// Where its raft service is reached.
        addr: String,
    },
}

/// A raft ID that no member has had before.
pub(crate) fn new_raft_id(seed: u64, salt: u64, node_id: &str) -> u64 {
    let mut context = ring::digest::Context::new(&ring::digest::SHA256);
    context.update(&seed.to_le_bytes());
    context.update(&salt.to_le_bytes());
    context.update(node_id.as_bytes());
    let mut bytes = [0u8; 8];
    bytes.copy_from_slice(&context.finish().as_ref()[..8]);
    u64::from_le_bytes(bytes).max(1)
}

fn begin(options: &RaftOptions, start: &Start, machine: &dyn StateMachine) -> Result<Recovered, StartError> {
    match start {
        Start::Init { cluster_id, node_id, addr } => {
            let raft_id = new_raft_id(options.seed, 0, node_id);
            let peer = v1::RaftPeer { raft_id, node_id: node_id.clone(), addr: addr.clone() };
            let identity =
                v1::RaftIdentity { raft_id, node_id: node_id.clone(), cluster_id: cluster_id.clone() };
            let mut members = Members::default();
            members.peers.insert(raft_id, peer);
            let snapshot = v1::RaftSnapshot {
                data: members.envelope(machine.snapshot()()),
                conf_state: Some(v1::RaftConfState { voters: vec![raft_id], ..Default::default() }),
                index: 1,
                term: 1,
            };
            Log::create(&options.log, identity, Some(&snapshot))?;
        }
        Start::Join { response, node_id } => {
            let identity = v1::RaftIdentity {
                raft_id: response.raft_id,
                node_id: node_id.clone(),
                cluster_id: response.cluster_id.clone(),
            };
            Log::create(&options.log, identity, None)?;
        }
        Start::Restart => {}
        Start::ForceNewCluster { addr } => {
            let recovered = Log::open(&options.log)?;
            return alone(recovered, addr, machine, &*options.keep_snapshots);
        }
    }
    Ok(Log::open(&options.log)?)
}

/// Rewrites the log of a member so that it is the only one. Every entry it holds counts as committed:
/// an acknowledged one may be among them.
fn alone(
    mut recovered: Recovered,
    addr: &str,
    machine: &dyn StateMachine,
    keep: &dyn Fn() -> u64,
) -> Result<Recovered, StartError> {
    if let Some(snapshot) = &recovered.snapshot {
        restore(machine, snapshot)?;
    }
    for entry in recovered.entries.iter().filter(|entry| entry.r#type == 0 && !entry.data.is_empty()) {
        match v1::Batch::decode(entry.data.as_slice()) {
            // A rejected batch is rejected again, as it was everywhere.
            Ok(batch) => drop(machine.apply(entry.index, &batch)),
            Err(error) => tracing::error!(index = entry.index, %error, "skipped an entry that is no batch"),
        }
    }
    let identity = recovered.log.identity().clone();
    let base = recovered.snapshot.as_ref().map_or((0, 0), |snapshot| (snapshot.index, snapshot.term));
    let (index, term) = recovered.entries.last().map_or(base, |entry| (entry.index, entry.term));
    let (index, term) = (index.max(1), term.max(1));
    let mut members = Members::default();
    let peer =
        v1::RaftPeer { raft_id: identity.raft_id, node_id: identity.node_id.clone(), addr: addr.to_owned() };
    members.peers.insert(identity.raft_id, peer);
    if let Some(old) = recovered
        .snapshot
        .as_ref()
        .and_then(|snapshot| v1::RaftSnapshotEnvelope::decode(snapshot.data.as_slice()).ok())
    {
        let others = old.peers.iter().map(|peer| peer.raft_id).filter(|id| *id != identity.raft_id);
        members.removed.extend(old.removed.iter().copied().chain(others));
    }
    for entry in recovered.entries.iter().filter(|entry| entry.r#type == 2) {
        if let Ok((_, Some(peer))) = codec::conf_change_from_data(&entry.data) {
            members.removed.extend(Some(peer.raft_id).filter(|id| *id != identity.raft_id));
        }
    }
    let conf_state = v1::RaftConfState { voters: vec![identity.raft_id], ..Default::default() };
    let snapshot = v1::RaftSnapshot {
        data: members.envelope(machine.snapshot()()),
        conf_state: Some(conf_state),
        index,
        term,
    };
    recovered.hard_state = v1::RaftHardState {
        term: recovered.hard_state.term.max(term),
        vote: recovered.hard_state.vote,
        commit: index,
    };
    let snapshots = recovered.log.snapshots();
    snapshots.write(&snapshot)?;
    let mark = v1::RaftLogMark { index, term };
    recovered.log.append(&[Record::Mark(mark), Record::HardState(recovered.hard_state)], true)?;
    snapshots.remove_before(index, keep())?;
    recovered.log.compact(index)?;
    recovered.entries.clear();
    recovered.snapshot = Some(snapshot);
    Ok(recovered)
}

fn restore(
    machine: &dyn StateMachine,
    snapshot: &v1::RaftSnapshot,
) -> Result<v1::RaftSnapshotEnvelope, StartError> {
    let fail = |problem: String| StartError::Restore { index: snapshot.index, problem };
    let envelope = v1::RaftSnapshotEnvelope::decode(snapshot.data.as_slice())
        .map_err(|error| fail(error.to_string()))?;
    machine.restore(snapshot.index, &envelope.state).map_err(fail)?;
    Ok(envelope)
}

impl Raft {
    /// Starts a node. It reads its log back first, which blocks on the disk.
    pub fn start(
        options: RaftOptions,
        start: Start,
        machine: Arc<dyn StateMachine>,
        transport: Arc<dyn Transport>,
    ) -> Result<Self, StartError> {
        let recovered = begin(&options, &start, machine.as_ref())?;
        for note in &recovered.notes {
            tracing::warn!("raft log: {note}");
        }
        let mut members = Members::default();
        let mut base = (0, 0);
        if let Some(snapshot) = &recovered.snapshot {
            let envelope = restore(machine.as_ref(), snapshot)?;
            let conf = snapshot.conf_state.as_ref().map(codec::conf_state_from_wire).unwrap_or_default();
            members = Members::from_envelope(&envelope, conf);
            base = (snapshot.index, snapshot.term);
        } else if let Start::Join { response, .. } = &start {
            // Only to know where to answer until the leader's snapshot says it with authority.
            members.peers = response.peers.iter().map(|peer| (peer.raft_id, peer.clone())).collect();
            members.conf = ConfState::default();
        }
        let identity = recovered.log.identity().clone();
        let entries: Result<Vec<_>, _> = recovered.entries.into_iter().map(codec::entry_from_wire).collect();
        let entries = entries.map_err(|error| StartError::Raft(error.to_string()))?;
        let hard_state = codec::hard_state_from_wire(&recovered.hard_state);
        let memory = MemoryLog::new(hard_state, members.conf.clone(), base, entries);
        let config = Config {
            id: identity.raft_id,
            election_tick: options.timing.election_ticks,
            heartbeat_tick: options.timing.heartbeat_ticks,
            min_election_tick: options.timing.election_ticks,
            max_election_tick: options.timing.max_election_ticks,
            applied: base.0,
            max_size_per_msg: 1 << 20,
            max_inflight_msgs: 256,
            check_quorum: true,
            pre_vote: true,
            max_uncommitted_size: 256 << 20,
            max_committed_size_per_ready: 16 << 20,
            ..Config::default()
        };
        let raw =
            RawNode::new(&config, memory, &logger()).map_err(|error| StartError::Raft(error.to_string()))?;
        let snapshots = recovered.log.snapshots();
        let (log_reports, log_inbox) = mpsc::unbounded_channel();
        let writer =
            Writer::start(recovered.log, options.inline_log, log_reports).map_err(StartError::Thread)?;
        let (inbox, inputs) = mpsc::channel(4096);
        let (reports, transport_inbox) = mpsc::unbounded_channel();
        let (status, status_seen) = watch::channel(RaftStatus::default());
        let (leadership, leadership_seen) = watch::channel(Leadership::default());
        let (applied, applied_seen) = watch::channel(base.0);
        let core = Core::new(Parts {
            raw,
            machine,
            transport,
            writer,
            snapshots,
            members,
            identity: identity.clone(),
            applied: base.0,
            options: options.clone(),
            reports: Reports(reports),
            status,
            leadership,
            applied_seen: applied,
        });
        let task = tokio::spawn(core.run(inputs, log_inbox, transport_inbox));
        Ok(Self::new(inbox, identity, options, status_seen, leadership_seen, applied_seen, task))
    }
}
