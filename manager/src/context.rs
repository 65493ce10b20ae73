//! What all services of a manager stand on: its identity, the store with its writer, the way to the
//! leader and to the other managers.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use futures::future::BoxFuture;
use rand::rngs::StdRng;
use skep_identity::{Host, Identity, Network, Role};
use skep_proto::v1;
use tokio::time::{Instant, timeout_at};
use tonic::metadata::MetadataMap;
use tonic::transport::Channel;
use tonic::{Code, Request, Status};

use crate::clock::ClusterClock;
use crate::consensus::{Consensus, Leader};
use crate::images;
use crate::metrics::Metrics;
use crate::store::{ProposeError, Store, StoreView, WriteError, Writer};

/// After this a write that no quorum took fails; a person should not wait longer than five seconds, and most clients
/// read before they write.
const WRITE_DEADLINE: Duration = Duration::from_millis(3800);
/// After this a read is answered with what is here, marked as possibly stale.
const READ_DEADLINE: Duration = Duration::from_secs(1);
/// As long after a read that nobody confirmed, the next ones wait only [`READ_AGAIN`]: a command makes many.
const UNCONFIRMED: Duration = Duration::from_secs(3);
/// See [`UNCONFIRMED`].
const READ_AGAIN: Duration = Duration::from_millis(100);
/// Pause before the leader is looked for again.
const RETRY: Duration = Duration::from_millis(50);
/// Set on requests one manager passes to another, so that none is passed on twice.
const FORWARDED: &str = "skep-forwarded";
/// Set on refusals that mean "ask the leader; nothing was done".
const NOT_LEADER: &str = "skep-not-leader";

pub(crate) struct Context {
    pub identity: Identity,
    pub node_id: String,
    pub network: Arc<dyn Network>,
    pub writer: Writer,
    pub consensus: Arc<dyn Consensus>,
    pub metrics: Metrics,
    pub images: images::Found,
    clock: ClusterClock,
    rng: Mutex<StdRng>,
    channels: Mutex<HashMap<String, Channel>>,
    /// When a read last went unconfirmed, unless one has been confirmed since.
    unconfirmed: Mutex<Option<Instant>>,
}

impl Context {
    pub fn new(
        identity: Identity,
        network: Arc<dyn Network>,
        writer: Writer,
        consensus: Arc<dyn Consensus>,
        metrics: Metrics,
        clock: ClusterClock,
    ) -> Self {
        let rng = identity.host().rng();
        Self {
            node_id: identity.node_id().into(),
            identity,
            network,
            writer,
            consensus,
            metrics,
            images: images::Found::default(),
            clock,
            rng: Mutex::new(rng),
            channels: Mutex::default(),
            unconfirmed: Mutex::default(),
        }
    }

    pub fn store(&self) -> &Store {
        self.writer.store()
    }

    pub fn view(&self) -> Arc<StoreView> {
        self.store().view()
    }

    /// The host this manager runs on.
    pub fn host(&self) -> &Host {
        self.identity.host()
    }

    /// The cluster's time, in milliseconds since the epoch.
    pub fn now_ms(&self) -> i64 {
        self.clock.now_ms()
    }

    /// A fresh identifier.
    pub fn new_id(&self) -> String {
        self.with_rng(skep_proto::ids::random)
    }

    pub fn with_rng<T>(&self, f: impl FnOnce(&mut StdRng) -> T) -> T {
        f(&mut self.rng.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// A channel to the manager at `addr`, kept for the next time.
    pub fn channel(&self, addr: &str) -> Channel {
        let mut channels = self.channels.lock().unwrap_or_else(PoisonError::into_inner);
        channels
            .entry(addr.to_owned())
            .or_insert_with(|| skep_identity::channel(&self.identity, &self.network, addr, Role::Manager))
            .clone()
    }

    pub fn leader(&self) -> Option<Leader> {
        self.consensus.leader().borrow().clone()
    }

    pub fn is_leader(&self) -> bool {
        self.leader().is_some_and(|l| l.node_id == self.node_id)
    }

    /// The other managers' addresses.
    pub fn other_managers(&self) -> Vec<v1::RaftPeer> {
        let members = self.consensus.members().into_iter();
        members.map(|m| m.peer).filter(|p| p.node_id != self.node_id).collect()
    }

    /// Writes from this manager, which must be the leader.
    pub async fn write(
        &self,
        compute: impl Fn(&StoreView) -> Result<Vec<v1::Change>, Status>,
    ) -> Result<Arc<StoreView>, Status> {
        let _timer = self.metrics.write.start_timer();
        loop {
            match self.writer.write(&compute).await {
                Ok(index) => return Ok(self.store().wait_for(index).await),
                Err(WriteError::Refused(status)) => return Err(status),
                Err(WriteError::Propose(ProposeError::Stale { .. })) => {}
                Err(WriteError::Propose(e @ (ProposeError::NotLeader { .. } | ProposeError::Stopping))) => {
                    return Err(not_leader(&e.to_string()));
                }
                Err(WriteError::Propose(e @ ProposeError::TooLarge { .. })) => {
                    return Err(Status::invalid_argument(e.to_string()));
                }
                Err(WriteError::Propose(e @ ProposeError::Unknown(_))) => {
                    return Err(Status::unavailable(e.to_string()));
                }
            }
        }
    }

    /// Runs an operation where the leader is: `local` here, or `remote` over a channel to it. Follows the
    /// leadership as it moves, until the deadline; repeats only what certainly was not done.
    pub async fn on_leader<T>(
        &self,
        forwarded: bool,
        local: impl Fn() -> BoxFuture<'static, Result<T, Status>>,
        remote: impl Fn(Channel) -> BoxFuture<'static, Result<T, Status>>,
    ) -> Result<T, Status> {
        let deadline = Instant::now() + WRITE_DEADLINE;
        let mut leadership = self.consensus.leader();
        loop {
            let leader = leadership.borrow_and_update().clone();
            let outcome = match &leader {
                Some(l) if l.node_id == self.node_id => timeout_at(deadline, local()).await,
                _ if forwarded => return Err(not_leader("this manager is not the leader any more")),
                Some(l) => {
                    let mut watching = self.consensus.leader();
                    let replaced = watching.wait_for(|now| now.as_ref().is_some_and(|now| now != l));
                    tokio::select! {
                        outcome = timeout_at(deadline, remote(self.channel(&l.addr))) => outcome,
                        // A leader that was cut off does not answer any more; do not wait for it.
                        _ = replaced => Ok(Err(Status::unavailable(
                            "the leader was replaced before it answered: look whether the change was made, and repeat it if not",
                        ))),
                    }
                }
                None => match timeout_at(deadline, leadership.changed()).await {
                    Ok(Ok(())) => continue,
                    Ok(Err(_)) => return Err(not_leader("the manager is stopping")),
                    Err(elapsed) => Err(elapsed),
                },
            };
            match outcome {
                Ok(Err(status)) if retryable(&status) && Instant::now() < deadline => {
                    let _ = tokio::time::timeout(RETRY, leadership.changed()).await;
                }
                Ok(Err(status)) if retryable(&status) => return Err(no_quorum("")),
                Ok(result) => return result,
                Err(_) if leader.is_some() => {
                    return Err(no_quorum(
                        "; what was asked for may still be done, so look before asking again",
                    ));
                }
                Err(_) => return Err(no_quorum("")),
            }
        }
    }

    /// The state including every write acknowledged before, once a leader confirms that.
    pub async fn current(&self) -> Arc<StoreView> {
        loop {
            match self.consensus.read_index().await {
                Ok(index) => return self.store().wait_for(index).await,
                Err(_) => tokio::time::sleep(RETRY).await,
            }
        }
    }

    /// The state including every write acknowledged before; `true` when no leader could confirm that.
    pub async fn read(&self) -> (Arc<StoreView>, bool) {
        let unconfirmed = || self.unconfirmed.lock().unwrap_or_else(PoisonError::into_inner);
        let lately = unconfirmed().is_some_and(|at| at.elapsed() < UNCONFIRMED);
        let deadline = Instant::now() + if lately { READ_AGAIN } else { READ_DEADLINE };
        match timeout_at(deadline, self.current()).await {
            Ok(view) => {
                unconfirmed().take();
                (view, false)
            }
            Err(_) => {
                // A short try proves nothing new.
                if !lately {
                    *unconfirmed() = Some(Instant::now());
                }
                (self.view(), true)
            }
        }
    }
}

/// Marks a request as passed on.
pub(crate) fn forward<T>(message: T) -> Request<T> {
    let mut request = Request::new(message);
    request.metadata_mut().insert(FORWARDED, tonic::metadata::MetadataValue::from_static("1"));
    request
}

pub(crate) fn is_forwarded(metadata: &MetadataMap) -> bool {
    metadata.contains_key(FORWARDED)
}

fn not_leader(message: &str) -> Status {
    let mut status = Status::unavailable(message);
    status.metadata_mut().insert(NOT_LEADER, tonic::metadata::MetadataValue::from_static("1"));
    status
}

/// `unsure` is said of a request that somebody has, and had not answered in time.
fn no_quorum(unsure: &str) -> Status {
    Status::unavailable(format!(
        "the swarm has no leader: it's likely that more than half of its managers are unreachable, \
         so nothing can be changed (running tasks go on){unsure}; bring managers back, or recover with \
         `docker swarm init --force-new-cluster`",
    ))
}

fn retryable(status: &Status) -> bool {
    status.code() == Code::Unavailable
        && (status.metadata().contains_key(NOT_LEADER) || skep_identity::not_sent(status))
}
