//! This manager's raft node as the store's writer and the services see it.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use futures::future::BoxFuture;
use rand::Rng;
use skep_identity::Role;
use skep_proto::v1;
use skep_proto::v1::raft_server::RaftServer;
use tokio::sync::watch;

use crate::authority;
use crate::clock::ClusterClock;
use crate::consensus::{Consensus, ConsensusError, Leader, Member};
use crate::error::Error;
use crate::manager::ManagerOptions;
use crate::metrics::Metrics;
use crate::raft::disk::RealDisk;
use crate::raft::log::LogOptions;
use crate::raft::{
    self, Authorize, GrpcTransport, Leadership, MembershipError, Raft, RaftOptions, RaftService,
};
use crate::store::{Propose, ProposeError, Store};

/// Size of a segment file: several snapshots' worth of small entries, and cheap to preallocate.
const SEGMENT_BYTES: u64 = 16 << 20;
/// The same in a simulation, which restarts managers hundreds of times.
const SIMULATED_SEGMENT_BYTES: u64 = 1 << 18;
/// Entries kept behind a snapshot, for followers that lag a little.
const TRAILING: u64 = 500;
/// Largest batch: a scheduling pass over a great many tasks.
const MAX_ENTRY_BYTES: usize = 128 << 20;

/// Cheap to clone.
#[derive(Clone)]
pub(crate) struct Replica {
    raft: Raft,
    metrics: Metrics,
    leader: watch::Receiver<Option<Leader>>,
}

impl Replica {
    pub async fn start(
        options: &ManagerOptions,
        store: Store,
        clock: ClusterClock,
        metrics: Metrics,
        begin: raft::Start,
    ) -> Result<Self, Error> {
        let (identity, network) = (options.identity.clone(), options.network.clone());
        let connect =
            move |peer: &v1::RaftPeer| skep_identity::channel(&identity, &network, &peer.addr, Role::Manager);
        let transport = Arc::new(GrpcTransport::new(Arc::new(connect)));
        let raft_options = raft_options(options, &store, clock, &metrics);
        let machine = Arc::new(store.clone());
        let start = move || Raft::start(raft_options, begin, machine, transport);
        let raft = options.identity.host().blocking(start).await?;
        // Not every entry is a batch of the store's, but every index may be waited for.
        let mut applied = raft.applied();
        tokio::spawn(async move {
            store.advance(*applied.borrow_and_update());
            while applied.changed().await.is_ok() {
                store.advance(*applied.borrow_and_update());
            }
        });
        let mut leadership = raft.leadership();
        let (tx, leader) = watch::channel(leader_of(&leadership.borrow_and_update()));
        tokio::spawn(async move {
            while leadership.changed().await.is_ok() {
                let now = leader_of(&leadership.borrow_and_update());
                tx.send_if_modified(|known| {
                    let changed = *known != now;
                    *known = now;
                    changed
                });
            }
        });
        Ok(Self { raft, metrics, leader })
    }

    /// What other managers call.
    pub fn service(&self, store: Store) -> RaftServer<RaftService> {
        let (peers, members) = (store.clone(), store.clone());
        let authorize = Authorize {
            manager: Arc::new(move |from| authority::manager(&store, from).map(drop)),
            peer: Arc::new(move |from| authority::raft_peer(&peers, from).map(drop)),
            member: Arc::new(move |from| Ok(authority::raft_peer(&members, from)?.node_id.into())),
        };
        RaftService::server(self.raft.clone(), authorize)
    }

    /// What the node tells of itself.
    pub fn status(&self) -> watch::Receiver<raft::RaftStatus> {
        self.raft.status()
    }

    /// Has this manager reached at another address, where it leads.
    pub async fn readdress(&self, node_id: &str, addr: &str) -> Result<(), MembershipError> {
        self.raft.readdress(node_id, addr).await
    }

    /// Has raft's messages to another manager sent where that was reached.
    pub fn reached(&self, node_id: &str, addr: &str) {
        self.raft.reached(node_id, addr);
    }

    /// Waits until this manager is a voter; false if it is not in time.
    pub async fn votes(&self, limit: Duration) -> bool {
        let mut status = self.raft.status();
        let voter = |s: &raft::RaftStatus| s.members.iter().any(|m| m.voter && m.peer.raft_id == s.raft_id);
        matches!(tokio::time::timeout(limit, status.wait_for(voter)).await, Ok(Ok(_)))
    }

    /// Ends the node and closes its log.
    pub async fn stop(&self) {
        self.raft.stop().await;
    }
}

fn raft_options(
    options: &ManagerOptions,
    store: &Store,
    clock: ClusterClock,
    metrics: &Metrics,
) -> RaftOptions {
    let host = options.identity.host();
    let (store, kept) = (store.clone(), store.clone());
    let log = LogOptions {
        state_dir: options.state_dir.clone(),
        disk: Arc::new(RealDisk),
        segment_bytes: if host.is_simulated() { SIMULATED_SEGMENT_BYTES } else { SEGMENT_BYTES },
        unlock: options.identity.seal_key(),
    };
    RaftOptions {
        log,
        timing: options.timing.clone(),
        snapshot_interval: Arc::new(move || snapshot_interval(&store)),
        keep_snapshots: Arc::new(move || kept.view().cluster().map_or(0, |c| keep_snapshots(c))),
        trailing: TRAILING,
        max_entry_bytes: MAX_ENTRY_BYTES,
        seed: host.rng().random(),
        clock: Arc::new(move || clock.now_ms()),
        snapshot_timer: Some(metrics.snapshot.clone()),
        inline_log: host.is_simulated(),
    }
}

/// What the cluster asks for.
fn snapshot_interval(store: &Store) -> u64 {
    let asked = store.view().cluster().and_then(|c| c.spec.as_ref()).map_or(0, |s| s.snapshot_interval);
    if asked == 0 { skep_proto::defaults::SNAPSHOT_INTERVAL } else { asked }
}

fn keep_snapshots(cluster: &v1::Cluster) -> u64 {
    cluster.spec.as_ref().map_or(0, |s| s.keep_old_snapshots)
}

fn leader_of(leadership: &Leadership) -> Option<Leader> {
    let peer = leadership.leader.as_ref()?;
    Some(Leader { node_id: peer.node_id.clone(), addr: peer.addr.clone() })
}

impl Propose for Replica {
    fn propose(
        &self,
        based_on: u64,
        changes: Vec<v1::Change>,
    ) -> BoxFuture<'static, Result<u64, ProposeError>> {
        let (raft, timer) = (self.raft.clone(), self.metrics.transaction.clone());
        Box::pin(async move {
            let timer = timer.start_timer();
            let proposed = raft.propose(based_on, changes).await;
            timer.observe_duration();
            proposed.map_err(|error| match error {
                raft::ProposeError::NotLeader { leader } => {
                    ProposeError::NotLeader { leader: leader.map(|l| l.node_id) }
                }
                // Nothing was written: whoever asked looks for a leader as long as it wants one.
                raft::ProposeError::QuorumLost { .. } => ProposeError::NotLeader { leader: None },
                raft::ProposeError::Rejected(_) => ProposeError::Stale { based_on, actual: 0 },
                raft::ProposeError::TooLarge { bytes, limit } => ProposeError::TooLarge { bytes, limit },
                raft::ProposeError::Stopped(_) => ProposeError::Stopping,
                other => ProposeError::Unknown(other.to_string()),
            })
        })
    }
}

#[async_trait]
impl Consensus for Replica {
    fn leader(&self) -> watch::Receiver<Option<Leader>> {
        self.leader.clone()
    }

    fn members(&self) -> Vec<Member> {
        let status = self.raft.status();
        let status = status.borrow();
        let members = status.members.iter();
        members.map(|m| Member { peer: m.peer.clone(), voter: m.voter, reachable: m.reachable }).collect()
    }

    async fn read_index(&self) -> Result<u64, ConsensusError> {
        self.raft.read_index().await.map_err(|e| failed("confirm a read", e))
    }

    async fn remove_member(&self, node_id: &str) -> Result<(), ConsensusError> {
        match self.raft.remove(node_id).await {
            Ok(()) | Err(MembershipError::NotMember { .. }) => Ok(()),
            Err(error) => Err(failed("remove a manager from the raft group", error)),
        }
    }

    async fn transfer_leadership(&self) -> Result<(), ConsensusError> {
        self.raft.transfer_leadership().await.map_err(|e| failed("hand leadership over", e))
    }
}

fn failed(operation: &'static str, error: impl std::fmt::Display) -> ConsensusError {
    ConsensusError { operation, reason: error.to_string() }
}
