//! A manager: the raft node, the store it drives, and the services over it, started and stopped as one.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use skep_identity::{Identity, Network, Role, RootCa, UnlockKey};
use skep_proto::ids::{ClusterId, NodeId};
use skep_proto::v1;
use skep_proto::v1::raft_client::RaftClient;
use tokio::sync::{Mutex, watch};
use tokio::task::AbortHandle;
use tonic::Code;

use crate::autolock::{self, Autolock, key_file};
use crate::clock::ClusterClock;
use crate::consensus::Leader;
use crate::context::Context;
use crate::control::ControlHandle;
use crate::error::Error;
use crate::genesis::{self, InitOptions};
use crate::logs::LogsHandle;
use crate::metrics::Metrics;
use crate::raft::{RaftStatus, Timing};
use crate::readdress::{self, Whereabouts};
use crate::recall;
use crate::replica::Replica;
use crate::services::Services;
use crate::store::{Store, Writer};
use crate::tunnels::TunnelsHandle;

/// How long a joiner tries to be let in: another joiner may be at it.
const JOIN_TIMEOUT: Duration = Duration::from_secs(20);
/// Pause before a joiner asks again.
const JOIN_RETRY: Duration = Duration::from_millis(200);
/// Longest wait for another manager to take over when this one stops.
const TRANSFER_TIMEOUT: Duration = Duration::from_secs(2);

/// More changes of roots than can have been lost with a quorum.
const LOST_EPOCHS: u64 = 1000;

/// How a manager begins.
#[derive(Clone, Debug)]
pub enum Start {
    /// As another manager of the swarm that `remote` manages; the identity has the manager's role.
    Join {
        /// Address (host:port) of a manager.
        remote: String,
    },
    /// From what it has on disk.
    Restart,
    /// From what it has on disk, as the only manager: the others are lost.
    ForceNewCluster,
}

/// What a manager is started with.
#[derive(Clone)]
pub struct ManagerOptions {
    /// Where its log lies.
    pub state_dir: PathBuf,
    /// Who it is.
    pub identity: Identity,
    /// What it talks over.
    pub network: Arc<dyn Network>,
    /// Where it listens (host:port).
    pub listen_addr: String,
    /// Where others reach it (host:port).
    pub advertise_addr: String,
    /// How it begins.
    pub start: Start,
    /// Raft's periods.
    pub timing: Timing,
}

impl ManagerOptions {
    /// Options with the default timing.
    pub fn new(
        state_dir: PathBuf,
        identity: Identity,
        network: Arc<dyn Network>,
        listen_addr: String,
        advertise_addr: String,
        start: Start,
    ) -> Self {
        let timing = Timing::default();
        Self { state_dir, identity, network, listen_addr, advertise_addr, start, timing }
    }
}

/// A running manager. Cheap to clone.
#[derive(Clone)]
pub struct Manager {
    inner: Arc<Inner>,
}

struct Inner {
    ctx: Arc<Context>,
    control: ControlHandle,
    logs: LogsHandle,
    tunnels: TunnelsHandle,
    services: Mutex<Option<Services>>,
    replica: Replica,
    whereabouts: watch::Sender<Whereabouts>,
    announcing: AbortHandle,
    recalling: AbortHandle,
}

impl Manager {
    /// Makes a new swarm with this host as its first node and manager. The node's identity is made with
    /// it, and stored under `identity_dir`.
    pub async fn init(
        state_dir: PathBuf,
        identity_dir: &Path,
        network: Arc<dyn Network>,
        listen_addr: String,
        advertise_addr: String,
        init: InitOptions,
    ) -> Result<(Self, Identity), Error> {
        genesis::check(&init).map_err(Error::Init)?;
        let listener = bind(&network, &listen_addr).await?;
        let (host, mut rng) = (init.host.clone(), init.host.rng());
        let (cluster_id, node_id) = (ClusterId::random(&mut rng), NodeId::random(&mut rng));
        let ca = RootCa::generate(&host, cluster_id)?;
        let life = Duration::from_secs(crate::control::with_defaults(init.spec.clone()).cert_expiry_s);
        let credentials = ca.credentials(&node_id, Role::Manager, life)?;
        let unlock_key = init.spec.autolock.then(|| UnlockKey::generate(&mut rng));
        let (dir, keys, lock) = (identity_dir.to_owned(), key_file(&state_dir), unlock_key.clone());
        let create = move || -> Result<Identity, Error> {
            let seal = lock.map(|lock| keys.create(Some(&lock))).transpose()?;
            Ok(Identity::create_sealed(&dir, credentials, seal)?)
        };
        let identity = host.blocking(create).await?.on(host.clone());
        let status = v1::ManagerStatus { addr: advertise_addr.clone(), ..Default::default() };
        let changes = genesis::objects(&init, &ca, unlock_key.as_ref(), node_id.as_str(), status, &mut rng);
        let store = Store::new();
        // The group begins with a snapshot at index 1, and this is what it holds.
        let batch = v1::Batch { changes, at_ms: host.now_ms(), ..Default::default() };
        store.apply(1, batch).map_err(|e| Error::Init(e.to_string()))?;
        let mut options = ManagerOptions::new(
            state_dir,
            identity.clone(),
            network,
            listen_addr,
            advertise_addr,
            Start::Restart,
        );
        options.timing = init.timing;
        let begin = crate::raft::Start::Init {
            cluster_id: identity.cluster_id().into(),
            node_id: node_id.into(),
            addr: options.advertise_addr.clone(),
        };
        let manager = Self::assemble(options, listener, store, begin, false).await?;
        Ok((manager, identity))
    }

    /// Starts the manager of a node that is part of a swarm.
    pub async fn start(options: ManagerOptions) -> Result<Self, Error> {
        let listener = bind(&options.network, &options.listen_addr).await?;
        let mut renew = false;
        let begin = match &options.start {
            Start::Join { remote } => {
                let lock = autolock::of_others(&options, remote).await;
                let response = ask_to_join(&options, remote).await?;
                if let Some(lock) = lock {
                    let (keys, identity) = (key_file(&options.state_dir), options.identity.clone());
                    let seal = move || -> Result<bool, Error> {
                        Ok(identity.seal(Some(keys.create(Some(&lock))?))?)
                    };
                    renew = options.identity.host().blocking(seal).await?;
                }
                crate::raft::Start::Join { response, node_id: options.identity.node_id().into() }
            }
            Start::Restart => crate::raft::Start::Restart,
            Start::ForceNewCluster => {
                crate::raft::Start::ForceNewCluster { addr: options.advertise_addr.clone() }
            }
        };
        let (alone, joins) =
            (matches!(options.start, Start::ForceNewCluster), matches!(options.start, Start::Join { .. }));
        let manager = Self::assemble(options, listener, Store::new(), begin, renew).await?;
        if alone {
            manager.give_up_others().await?;
        }
        if joins && !manager.inner.replica.votes(JOIN_TIMEOUT).await {
            tracing::warn!("this manager has not caught up yet: it votes as soon as it has");
        }
        Ok(manager)
    }

    async fn assemble(
        options: ManagerOptions,
        listener: Box<dyn skep_identity::Listener>,
        store: Store,
        begin: crate::raft::Start,
        renew: bool,
    ) -> Result<Self, Error> {
        let clock = ClusterClock::new(options.identity.host().clone(), store.clone());
        let metrics = Metrics::new().map_err(|e| Error::Internal(format!("a manager's own metrics: {e}")))?;
        let replica = Replica::start(&options, store.clone(), clock.clone(), metrics.clone(), begin).await?;
        let autolock = Autolock::new(&options, renew)?;
        let whereabouts = Whereabouts { addr: options.advertise_addr.clone(), ..Whereabouts::default() };
        let writer = Writer::new(store.clone(), replica.clone());
        let consensus = Arc::new(replica.clone());
        let ctx = Context::new(options.identity, options.network, writer, consensus, metrics, clock);
        let ctx = Arc::new(ctx);
        let mut status = replica.status();
        let removed = async move {
            if status.wait_for(|s| s.removed).await.is_err() {
                // The raft node has ended, which is not the same.
                std::future::pending::<()>().await;
            }
        };
        let services =
            Services::start(ctx.clone(), listener, replica.service(store), Some(autolock), removed);
        let (control, logs, tunnels) =
            (services.control.clone(), services.logs.clone(), services.tunnels.clone());
        let (whereabouts, wanted) = watch::channel(whereabouts);
        let announcing =
            tokio::spawn(readdress::announce(ctx.clone(), replica.clone(), wanted)).abort_handle();
        let recalling = tokio::spawn(recall::recall(ctx.clone())).abort_handle();
        let services = Mutex::new(Some(services));
        let inner =
            Inner { ctx, control, logs, tunnels, services, replica, whereabouts, announcing, recalling };
        Ok(Self { inner: Arc::new(inner) })
    }

    /// The control service; it forwards to the leader by itself.
    pub fn control(&self) -> ControlHandle {
        self.inner.control.clone()
    }

    /// The log service.
    pub fn logs(&self) -> LogsHandle {
        self.inner.logs.clone()
    }

    /// The way to the containers of tasks on any node.
    pub fn tunnels(&self) -> TunnelsHandle {
        self.inner.tunnels.clone()
    }

    /// Who leads, as it changes.
    pub fn leader(&self) -> watch::Receiver<Option<Leader>> {
        self.inner.ctx.consensus.leader()
    }

    /// What this manager's raft node tells of itself, as it changes.
    pub fn raft_status(&self) -> watch::Receiver<RaftStatus> {
        self.inner.replica.status()
    }

    /// What this manager times.
    pub fn metrics(&self) -> &Metrics {
        &self.inner.ctx.metrics
    }

    /// This manager's copy of the cluster's state.
    pub fn store(&self) -> Store {
        self.inner.ctx.store().clone()
    }

    /// Has the others look for this manager at `addr` (host:port) from now on. `others` are managers to tell beside those
    /// that the log tells of, which may have moved, too.
    pub fn readdress(&self, addr: &str, others: impl IntoIterator<Item = String>) {
        self.inner.whereabouts.send_modify(|w| {
            addr.clone_into(&mut w.addr);
            w.others.extend(others);
        });
    }

    /// Stops serving; what it leads it hands over first. What is on disk stays.
    pub async fn stop(&self) {
        self.inner.announcing.abort();
        self.inner.recalling.abort();
        self.hand_over().await;
        if let Some(mut services) = self.inner.services.lock().await.take() {
            services.stop().await;
        }
        self.inner.replica.stop().await;
    }

    /// Takes this manager out of the swarm's managers and stops it. Its state is of no use afterwards.
    pub async fn leave(&self) -> Result<(), Error> {
        let others = !self.inner.ctx.other_managers().is_empty();
        let left = if others { self.ask_to_leave().await } else { Ok(()) };
        self.stop().await;
        left
    }

    /// What leaving would mean, for a person to confirm.
    pub fn leave_warning(&self) -> String {
        let members = self.inner.ctx.consensus.members();
        let voters = members.iter().filter(|m| m.voter).count();
        let reachable = members.iter().filter(|m| m.voter && m.reachable).count();
        let warning = match voters {
            0 | 1 => "Removing the last manager erases all current state of the swarm. Use `--force` to ignore this message. ".to_owned(),
            2 => "Leaving with only one other manager means that the swarm goes on with a single one. Demote this node first (docker node demote), or use `--force`. ".to_owned(),
            _ => format!(
                "The swarm has {voters} managers, {reachable} of them reachable from here. The only way to keep their quorum safe is to demote this node first (docker node demote). Use `--force` to suppress this message. "
            ),
        };
        warning.trim_end().to_owned()
    }

    async fn hand_over(&self) {
        let ctx = &self.inner.ctx;
        if !ctx.is_leader() || ctx.other_managers().is_empty() {
            return;
        }
        match tokio::time::timeout(TRANSFER_TIMEOUT, ctx.consensus.transfer_leadership()).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => tracing::warn!(%error, "leadership is not handed over: the others will elect"),
            Err(_) => tracing::warn!("nobody took leadership over in time: the others will elect"),
        }
    }

    async fn ask_to_leave(&self) -> Result<(), Error> {
        self.hand_over().await;
        let ctx = &self.inner.ctx;
        let mut leadership = ctx.consensus.leader();
        let other = leadership.wait_for(|l| l.as_ref().is_some_and(|l| l.node_id != ctx.node_id));
        let leader = match tokio::time::timeout(TRANSFER_TIMEOUT, other).await {
            Ok(Ok(leader)) => leader.clone(),
            _ => None,
        };
        let leader = leader.ok_or_else(|| Error::Leave("no other manager leads".to_owned()))?;
        let request = v1::RaftLeaveRequest { node_id: ctx.node_id.clone() };
        let mut client = RaftClient::new(ctx.channel(&leader.addr));
        let left = tokio::time::timeout(TRANSFER_TIMEOUT, client.leave(request)).await;
        match left {
            Ok(Ok(_)) => Ok(()),
            Ok(Err(status)) => Err(Error::Leave(skep_identity::explain(&leader.addr, &status))),
            Err(_) => Err(Error::Leave(format!("the leader at {} did not answer", leader.addr))),
        }
    }

    /// After a lost quorum: the other managers are managers no more.
    async fn give_up_others(&self) -> Result<(), Error> {
        let ctx = &self.inner.ctx;
        let mut leadership = ctx.consensus.leader();
        let own = leadership.wait_for(|l| l.as_ref().is_some_and(|l| l.node_id == ctx.node_id));
        own.await.map_err(|e| Error::Internal(e.to_string()))?;
        let demoted = ctx.write(|view| {
            let others = view.nodes().filter(|n| n.id != ctx.node_id);
            let managers = others.filter(|n| n.spec.as_ref().is_some_and(|s| s.role() == Role::Manager));
            let demoted = managers.map(|node| {
                let mut node = v1::Node::clone(node);
                node.spec.get_or_insert_default().set_role(Role::Worker);
                node.set_role(Role::Worker);
                node.manager = None;
                crate::store::change::put(node)
            });
            // Nodes may have heard of roots that only the lost managers knew of.
            let cluster = view.cluster().map(|cluster| {
                let mut cluster = v1::Cluster::clone(cluster);
                cluster.trust_epoch += LOST_EPOCHS;
                crate::store::change::put(cluster)
            });
            Ok(demoted.chain(cluster).collect())
        });
        demoted.await.map(drop).map_err(|e| Error::Internal(e.message().to_owned()))
    }
}

async fn bind(network: &Arc<dyn Network>, addr: &str) -> Result<Box<dyn skep_identity::Listener>, Error> {
    network.bind(addr).await.map_err(|source| Error::Listen { addr: addr.to_owned(), source })
}

async fn ask_to_join(options: &ManagerOptions, remote: &str) -> Result<v1::RaftJoinResponse, Error> {
    let fail = |addr: &str, reason: String| Error::Join { addr: addr.to_owned(), reason };
    skep_identity::dial(&options.identity, &options.network, remote, Role::Manager)
        .await
        .map_err(|e| fail(remote, e.to_string()))?;
    let deadline = tokio::time::Instant::now() + JOIN_TIMEOUT;
    let request = v1::RaftJoinRequest {
        node_id: options.identity.node_id().into(),
        addr: options.advertise_addr.clone(),
    };
    let mut addr = remote.to_owned();
    loop {
        let channel = skep_identity::channel(&options.identity, &options.network, &addr, Role::Manager);
        let mut client = RaftClient::new(channel);
        let status = match tokio::time::timeout_at(deadline, client.join(request.clone())).await {
            Ok(Ok(response)) => return Ok(response.into_inner()),
            Ok(Err(status)) => status,
            Err(_) => return Err(fail(&addr, "no answer in time".to_owned())),
        };
        // Not the leader, no leader at the moment, or another change of members is under way.
        let passing = matches!(status.code(), Code::Unavailable | Code::FailedPrecondition | Code::Unknown);
        if !passing || tokio::time::Instant::now() + JOIN_RETRY >= deadline {
            return Err(fail(&addr, skep_identity::explain(&addr, &status)));
        }
        let leader = status.metadata().get(crate::raft::LEADER).and_then(|l| l.to_str().ok());
        match leader {
            Some(leader) if leader != addr => leader.clone_into(&mut addr),
            _ => {
                remote.clone_into(&mut addr);
                tokio::time::sleep(JOIN_RETRY).await;
            }
        }
    }
}
