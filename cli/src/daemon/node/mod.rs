//! This host's membership in a swarm: the manager and the agent while it has one. Implements
//! [`skep_api::Swarm`] over both.

mod change;
mod lock;
mod readdress;
mod role;
mod swarm_events;
pub mod tunnels;

use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use skep_agent::{
    Addresses, Agent, AgentOptions, Attachments, EngineRuntime, Exchange, Listening, Place, TASK_LABEL,
    Tunnel,
};
use skep_api::swarm::{
    ControlHandle, InitRequest, JoinRequest, LocalState, LocalSwarm, LogsHandle, ReaddressRequest, Swarm,
    SwarmError, TunnelsHandle,
};
use skep_engine::Engine;
use skep_identity::{Identity, Network, Role, UnlockKey};
use skep_manager::{Manager, ManagerOptions, Start};
use skep_overlay::DataPlane;
use skep_proto::privileges::Privilege;
use skep_proto::v1;
use tokio::sync::{mpsc, watch};

use super::description::describe;
use super::membership::Membership;
use lock::Keys;

/// How long changes of this host's addresses gather before they are told.
const GATHER: Duration = Duration::from_secs(1);

/// What the swarm side is built on.
#[derive(Clone)]
pub struct NodeOptions {
    /// Directory of everything of the swarm.
    pub dir: PathBuf,
    /// Runs containers.
    pub engine: Engine,
    /// Connects them.
    pub plane: DataPlane,
    /// Places of containers outside services in the swarm's networks.
    pub attachments: Attachments,
    /// Takes the tunnels that managers open to containers of tasks here.
    pub tunnels: mpsc::Sender<Tunnel>,
    /// Engine labels, as they change.
    pub labels: watch::Receiver<Vec<String>>,
    /// What services can reserve here beside CPUs and memory.
    pub generic: Vec<v1::GenericResource>,
    /// Images between nodes; none where there is never another node.
    pub exchange: Option<Exchange>,
    /// What they may have here beyond Docker's.
    pub allowed: Vec<Privilege>,
    /// Where other nodes reach this one, where nobody says.
    pub advertise_addr: Option<String>,
}

/// The swarm side of the daemon; a cheap handle.
#[derive(Clone)]
pub struct Node {
    inner: Arc<Inner>,
}

struct Inner {
    options: NodeOptions,
    network: Arc<dyn Network>,
    /// One change of membership at a time.
    changing: tokio::sync::Mutex<()>,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    member: Option<Arc<Member>>,
    /// Of a manager that waits for its unlock key.
    locked: Option<Membership>,
    pending: bool,
    error: String,
}

struct Member {
    identity: Identity,
    membership: Mutex<Membership>,
    addresses: watch::Sender<Addresses>,
    agent: Agent,
    manager: Mutex<Option<Manager>>,
    manager_error: Mutex<String>,
    role_watch: Mutex<Option<tokio::task::AbortHandle>>,
}

impl Member {
    /// The manager, unless the others have taken it out of their group: what it holds is out of date then, and it
    /// goes with the node's next certificate.
    fn manager(&self) -> Option<Manager> {
        lock(&self.manager).clone().filter(|m| !m.raft_status().borrow().removed)
    }
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn failed(e: impl std::fmt::Display) -> SwarmError {
    SwarmError::Failed(format!("{e:#}"))
}

impl Node {
    /// Picks up the membership of an earlier daemon, if there is one.
    pub async fn start(options: NodeOptions) -> anyhow::Result<Self> {
        use std::os::unix::fs::DirBuilderExt;
        std::fs::DirBuilder::new().recursive(true).mode(0o700).create(&options.dir)?;
        let node = Self {
            inner: Arc::new(Inner {
                options,
                network: Arc::new(skep_identity::Tcp),
                changing: tokio::sync::Mutex::new(()),
                state: Mutex::default(),
            }),
        };
        if let Err(e) = node.resume(None).await {
            tracing::error!(error = %e, "this host's swarm membership could not be resumed; containers outside the swarm are not affected");
            lock(&node.inner.state).error = e.to_string();
        }
        if lock(&node.inner.state).member.is_none() && !node.is_locked() {
            node.inner.options.attachments.alone();
        }
        Ok(node)
    }

    /// Running containers outside services have places in the swarm's networks already.
    fn take_up_attachments(&self) {
        let options = &self.inner.options;
        let bridges: Vec<String> = options.plane.list_bridges().into_iter().map(|b| b.id).collect();
        let own = options.engine.list().into_iter();
        for c in own.filter(|c| c.pid.is_some() && !c.config.labels.contains_key(TASK_LABEL)) {
            for e in c.endpoints.iter().filter(|e| !bridges.contains(&e.network_id)) {
                let place = Place {
                    network_id: e.network_id.clone(),
                    addr: e.addr.map(|addr| addr.to_string()).unwrap_or_default(),
                    addr6: e.v6.as_ref().map(|v6| v6.addr.to_string()).unwrap_or_default(),
                    name: c.name.clone(),
                    aliases: e.aliases.clone(),
                };
                options.attachments.take_up(c.id.as_str(), place);
            }
        }
    }

    fn dir(&self, name: &str) -> PathBuf {
        self.inner.options.dir.join(name)
    }

    async fn resume(&self, unlock: Option<&UnlockKey>) -> Result<(), SwarmError> {
        let membership = Membership::load(&self.inner.options.dir).map_err(failed)?;
        match (membership, self.keys(unlock)) {
            (Some(membership), Ok(Keys::Locked)) => {
                self.take_up_attachments();
                self.stay_locked(membership);
                Ok(())
            }
            (Some(membership), Ok(Keys::Open(Some(identity)))) => {
                let manager = if identity.role() == Role::Manager && self.dir("manager").exists() {
                    Some(self.start_manager(&identity, &membership, Start::Restart).await?)
                } else {
                    None
                };
                self.take_up_attachments();
                self.become_member(identity, membership, manager).await
            }
            (None, Ok(Keys::Open(None))) => Ok(()),
            (Some(_), Err(e)) => Err(e),
            // An init or join that was cut off half-way left the one without the other.
            _ => self.wipe().await,
        }
    }

    async fn start_manager(
        &self,
        identity: &Identity,
        membership: &Membership,
        start: Start,
    ) -> Result<Manager, SwarmError> {
        let manager = Manager::start(ManagerOptions::new(
            self.dir("manager"),
            identity.clone(),
            self.inner.network.clone(),
            membership.listen_addr.to_string(),
            membership.advertise_addr.to_string(),
            start,
        ))
        .await
        .map_err(failed)?;
        swarm_events::tell(self.inner.options.engine.clone(), &manager.store());
        Ok(manager)
    }

    async fn become_member(
        &self,
        identity: Identity,
        membership: Membership,
        manager: Option<Manager>,
    ) -> Result<(), SwarmError> {
        let options = &self.inner.options;
        let exchange = self.exchange(&identity, &membership).await;
        let description = self.description(exchange.as_ref().map_or(0, Listening::port));
        let (addresses, reached) = watch::channel(reached_at(&membership));
        let mut managers = membership.managers.clone();
        if manager.is_some() {
            managers.push(membership.advertise_addr.to_string());
        }
        let agent = Agent::start(AgentOptions {
            state_dir: self.dir("agent"),
            identity: identity.clone(),
            network: self.inner.network.clone(),
            managers,
            description,
            addresses: reached,
            runtime: Arc::new(EngineRuntime::new(
                options.engine.clone(),
                options.exchange.clone(),
                options.allowed.clone(),
            )),
            plane: Arc::new(options.plane.clone()),
            engine: Some(options.engine.clone()),
            tunnels: Some(options.tunnels.clone()),
            attachments: options.attachments.clone(),
            exchange,
        })
        .map_err(failed)?;
        let member = Arc::new(Member {
            identity,
            membership: Mutex::new(membership),
            addresses,
            agent,
            manager: Mutex::new(manager),
            manager_error: Mutex::default(),
            role_watch: Mutex::default(),
        });
        self.follow(&member);
        let mut state = lock(&self.inner.state);
        state.member = Some(member);
        state.error.clear();
        Ok(())
    }

    /// Begins to hand images to other nodes. Without that, this node does as well as it can.
    async fn exchange(&self, identity: &Identity, membership: &Membership) -> Option<Listening> {
        let exchange = self.inner.options.exchange.as_ref()?;
        match exchange.listen(identity, &self.inner.network, membership.listen_addr.ip()).await {
            Ok(listening) => Some(listening),
            Err(error) => {
                tracing::error!(%error, "this node neither hands images to other nodes nor takes any from there");
                None
            }
        }
    }

    /// This host's description, which changes with its labels and its addresses.
    fn description(&self, exchange_port: u16) -> watch::Receiver<v1::NodeDescription> {
        let options = self.inner.options.clone();
        let mut labels = options.labels.clone();
        let mut addresses = options.plane.addresses();
        let of = move |labels: &[String]| describe(&options, labels, exchange_port);
        let (told, description) = watch::channel(of(&labels.borrow_and_update()));
        tokio::spawn(async move {
            loop {
                tokio::select! {
                    changed = labels.changed() => if changed.is_err() { return },
                    changed = addresses.changed() => match changed {
                        Ok(()) => tokio::time::sleep(GATHER).await,
                        Err(_) => return,
                    },
                    // The agent is gone: the node has left.
                    () = told.closed() => return,
                }
                addresses.mark_unchanged();
                let now = of(&labels.borrow_and_update());
                // Each change is a session anew.
                told.send_if_modified(|have| std::mem::replace(have, now.clone()) != now);
            }
        });
        description
    }

    /// Has the manager started and stopped as the node's role changes, and the node's address kept up.
    fn follow(&self, member: &Arc<Member>) {
        let role = self.clone().follow_role(member.clone());
        let address = self.clone().follow_address(member.clone());
        let following = tokio::spawn(async { tokio::join!(role, address) }).abort_handle();
        *lock(&member.role_watch) = Some(following);
    }

    async fn wipe(&self) -> Result<(), SwarmError> {
        let mut errors = Vec::new();
        for name in ["membership.json", "agent", "manager", "identity"] {
            errors.extend(remove_dir(&self.dir(name)).err().map(|e| e.to_string()));
        }
        if errors.is_empty() { Ok(()) } else { Err(SwarmError::Failed(errors.join("; "))) }
    }

    /// Starts a change of membership; refused on a member.
    fn begin(&self) -> Result<(), SwarmError> {
        let mut state = lock(&self.inner.state);
        if state.member.is_some() || state.locked.is_some() {
            return Err(SwarmError::AlreadyMember);
        }
        state.pending = true;
        state.error.clear();
        Ok(())
    }

    /// Ends a change of membership; one that failed leaves nothing behind.
    async fn finish<T>(&self, outcome: Result<T, SwarmError>) -> Result<T, SwarmError> {
        lock(&self.inner.state).pending = false;
        if outcome.is_err()
            && let Err(e) = self.wipe().await
        {
            tracing::error!(error = %e, "what a failed change of membership left could not be removed");
        }
        outcome
    }

    /// The manager, while this node has one.
    pub(super) fn manager(&self) -> Option<Manager> {
        let member = lock(&self.inner.state).member.clone()?;
        member.manager()
    }

    /// Ends the manager and the session; containers stay.
    pub async fn shutdown(&self) {
        let member = lock(&self.inner.state).member.take();
        if let Some(member) = member {
            if let Some(following) = lock(&member.role_watch).take() {
                following.abort();
            }
            // Before the manager that may be the one it has: it would look for another.
            member.agent.hang_up();
            let manager = lock(&member.manager).take();
            if let Some(manager) = manager {
                manager.stop().await;
            }
        }
    }
}

/// Where other nodes reach this host.
fn reached_at(membership: &Membership) -> Addresses {
    Addresses {
        advertise: membership.advertise_addr.ip().to_string(),
        data_path: membership.data_path_addr.map(|ip| ip.to_string()).unwrap_or_default(),
    }
}

fn remove_dir(path: &std::path::Path) -> Result<(), SwarmError> {
    let removed = if path.is_dir() { std::fs::remove_dir_all(path) } else { std::fs::remove_file(path) };
    match removed {
        Err(e) if e.kind() != std::io::ErrorKind::NotFound => {
            Err(SwarmError::Failed(format!("remove {}: {e}", path.display())))
        }
        _ => Ok(()),
    }
}

#[async_trait]
impl Swarm for Node {
    async fn init(&self, request: InitRequest) -> Result<String, SwarmError> {
        let _one = self.inner.changing.lock().await;
        if self.is_locked() {
            return Err(if request.force_new_cluster {
                SwarmError::Locked
            } else {
                SwarmError::AlreadyMember
            });
        }
        if request.force_new_cluster {
            return self.try_force_new_cluster(request).await;
        }
        self.begin()?;
        let outcome = self.try_init(request).await;
        self.finish(outcome).await
    }

    async fn join(&self, request: JoinRequest) -> Result<(), SwarmError> {
        let _one = self.inner.changing.lock().await;
        self.begin()?;
        let outcome = self.try_join(request).await;
        self.finish(outcome).await
    }

    async fn unlock(&self, key: &str) -> Result<(), SwarmError> {
        let _one = self.inner.changing.lock().await;
        self.try_unlock(key).await
    }

    async fn readdress(&self, request: ReaddressRequest) -> Result<(), SwarmError> {
        let _one = self.inner.changing.lock().await;
        self.try_readdress(request).await
    }

    async fn leave(&self, force: bool) -> Result<(), SwarmError> {
        let _one = self.inner.changing.lock().await;
        self.try_leave(force).await
    }

    fn local(&self) -> LocalSwarm {
        let state = lock(&self.inner.state);
        let Some(member) = &state.member else {
            if let Some(locked) = &state.locked {
                return LocalSwarm {
                    state: LocalState::Locked,
                    node_addr: locked.advertise_addr.ip().to_string(),
                    error: SwarmError::Locked.to_string(),
                    ..Default::default()
                };
            }
            let local = match (state.pending, state.error.is_empty()) {
                (true, _) => LocalState::Pending,
                (false, true) => LocalState::Inactive,
                (false, false) => LocalState::Error,
            };
            return LocalSwarm { state: local, error: state.error.clone(), ..Default::default() };
        };
        let connection = member.agent.connection().borrow().clone();
        let manager_error = lock(&member.manager_error).clone();
        LocalSwarm {
            state: if connection.removed { LocalState::Error } else { LocalState::Active },
            node_id: member.identity.node_id().to_string(),
            node_addr: lock(&member.membership).advertise_addr.ip().to_string(),
            cluster_id: member.identity.cluster_id().to_string(),
            control_available: member.manager().is_some(),
            error: if manager_error.is_empty() { connection.error } else { manager_error },
            managers: member.agent.manager_peers(),
        }
    }

    fn control(&self) -> Option<ControlHandle> {
        let control: ControlHandle = Arc::new(self.manager()?.control());
        Some(control)
    }

    fn logs(&self) -> Option<LogsHandle> {
        let logs: LogsHandle = Arc::new(self.manager()?.logs());
        Some(logs)
    }

    fn tunnels(&self) -> Option<TunnelsHandle> {
        let tunnels: TunnelsHandle = Arc::new(tunnels::OfManager(self.manager()?.tunnels()));
        Some(tunnels)
    }
}
