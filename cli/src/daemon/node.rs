//! This host's membership in a swarm: starting, joining and leaving one, and running the manager while
//! the node's role asks for it. Implements [`skep_api::Swarm`] over the manager and the agent.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};

use async_trait::async_trait;
use skep_agent::{Agent, AgentOptions, EngineRuntime};
use skep_api::swarm::{
    ControlHandle, InitRequest, JoinRequest, LocalState, LocalSwarm, LogsHandle, Swarm, SwarmError,
};
use skep_engine::Engine;
use skep_identity::{Bootstrap, Host, Identity, JoinToken, Network, Role};
use skep_manager::{InitOptions, Manager, ManagerOptions, Start};
use skep_overlay::DataPlane;
use skep_proto::defaults;
use tokio::sync::watch;

use super::address;
use super::description::{describe, hostname};
use super::membership::Membership;

/// What the swarm side is built on.
pub struct NodeOptions {
    /// Directory of everything of the swarm.
    pub dir: PathBuf,
    /// Runs containers.
    pub engine: Engine,
    /// Connects them.
    pub plane: DataPlane,
    /// Engine labels.
    pub labels: Vec<String>,
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
    pending: bool,
    error: String,
}

struct Member {
    identity: Identity,
    membership: Membership,
    agent: Agent,
    manager: Mutex<Option<Manager>>,
    manager_error: Mutex<String>,
    role_watch: Mutex<Option<tokio::task::AbortHandle>>,
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
        if let Err(e) = node.resume().await {
            tracing::error!(error = %e, "this host's swarm membership could not be resumed; containers outside the swarm are not affected");
            lock(&node.inner.state).error = e.to_string();
        }
        Ok(node)
    }

    fn dir(&self, name: &str) -> PathBuf {
        self.inner.options.dir.join(name)
    }

    async fn resume(&self) -> Result<(), SwarmError> {
        let membership = Membership::load(&self.inner.options.dir).map_err(failed)?;
        let identity = Identity::load(&self.dir("identity")).map_err(failed)?;
        match (membership, identity) {
            (Some(membership), Some(identity)) => {
                let manager = if identity.role() == Role::Manager && self.dir("manager").exists() {
                    Some(self.start_manager(&identity, &membership, Start::Restart).await?)
                } else {
                    None
                };
                self.become_member(identity, membership, manager)
            }
            (None, None) => Ok(()),
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
        Manager::start(ManagerOptions::new(
            self.dir("manager"),
            identity.clone(),
            self.inner.network.clone(),
            membership.listen_addr.to_string(),
            membership.advertise_addr.to_string(),
            start,
        ))
        .await
        .map_err(failed)
    }

    fn become_member(
        &self,
        identity: Identity,
        membership: Membership,
        manager: Option<Manager>,
    ) -> Result<(), SwarmError> {
        let options = &self.inner.options;
        let (_, description) =
            watch::channel(describe(&options.engine, options.plane.public_key(), &options.labels));
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
            advertise_addr: membership.advertise_addr.ip().to_string(),
            runtime: Arc::new(EngineRuntime::new(options.engine.clone())),
            plane: Arc::new(options.plane.clone()),
            engine: Some(options.engine.clone()),
        })
        .map_err(failed)?;
        let member = Arc::new(Member {
            identity,
            membership,
            agent,
            manager: Mutex::new(manager),
            manager_error: Mutex::default(),
            role_watch: Mutex::default(),
        });
        let following = tokio::spawn(self.clone().follow_role(member.clone())).abort_handle();
        *lock(&member.role_watch) = Some(following);
        let mut state = lock(&self.inner.state);
        state.member = Some(member);
        state.error.clear();
        Ok(())
    }

    /// Runs a manager exactly while this node's certificate says manager.
    async fn follow_role(self, member: Arc<Member>) {
        let mut renewals = member.identity.renewals();
        loop {
            let wanted = member.identity.role() == Role::Manager;
            let running = lock(&member.manager).is_some();
            let outcome = match (wanted, running) {
                (true, false) => self.promote(&member).await,
                (false, true) => self.demote(&member).await,
                _ => Ok(()),
            };
            *lock(&member.manager_error) =
                outcome.as_ref().err().map(ToString::to_string).unwrap_or_default();
            if let Err(e) = outcome {
                tracing::warn!(error = %e, "this node could not take its new role, trying again");
                tokio::time::sleep(std::time::Duration::from_secs(1)).await;
                continue;
            }
            if renewals.changed().await.is_err() {
                return;
            }
        }
    }

    async fn promote(&self, member: &Member) -> Result<(), SwarmError> {
        let own = member.membership.advertise_addr.to_string();
        let others = member.agent.managers().into_iter().filter(|a| *a != own);
        let mut last = SwarmError::Unavailable("no manager to join is known".into());
        for remote in others {
            let start = if self.dir("manager").exists() { Start::Restart } else { Start::Join { remote } };
            match self.start_manager(&member.identity, &member.membership, start).await {
                Ok(manager) => {
                    *lock(&member.manager) = Some(manager);
                    tracing::info!("this node is a manager now");
                    return Ok(());
                }
                Err(e) => last = e,
            }
        }
        Err(last)
    }

    async fn demote(&self, member: &Member) -> Result<(), SwarmError> {
        let manager = lock(&member.manager).take();
        if let Some(manager) = manager {
            manager.stop().await;
        }
        remove_dir(&self.dir("manager"))?;
        tracing::info!("this node is a worker now");
        Ok(())
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
        if state.member.is_some() {
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

    async fn try_init(&self, request: InitRequest) -> Result<String, SwarmError> {
        let (listen, advertise) = addresses(&request.listen_addr, &request.advertise_addr, None)?;
        if !request.data_path_addr.is_empty() && request.data_path_addr != advertise.ip().to_string() {
            return Err(SwarmError::Invalid(format!(
                "a data path address ({}) apart from the advertised one ({}) is not there yet: leave --data-path-addr away",
                request.data_path_addr,
                advertise.ip()
            )));
        }
        let init = InitOptions {
            spec: request.spec,
            availability: request.availability,
            hostname: hostname(),
            address_pools: request.address_pools,
            subnet_size: request.subnet_size,
            data_path_port: request.data_path_port,
            ..Default::default()
        };
        let membership = Membership { listen_addr: listen, advertise_addr: advertise, managers: Vec::new() };
        let (manager, identity) = Manager::init(
            self.dir("manager"),
            &self.dir("identity"),
            self.inner.network.clone(),
            listen.to_string(),
            advertise.to_string(),
            init,
        )
        .await
        .map_err(failed)?;
        membership.save(&self.inner.options.dir).map_err(failed)?;
        let id = identity.node_id().to_string();
        self.become_member(identity, membership, Some(manager))?;
        Ok(id)
    }

    async fn try_join(&self, request: JoinRequest) -> Result<(), SwarmError> {
        if request.remote_addrs.is_empty() {
            return Err(SwarmError::Invalid("name at least one manager of the swarm to join".into()));
        }
        let token: JoinToken = request.token.parse().map_err(|e| SwarmError::Invalid(format!("{e}")))?;
        let port = defaults::MANAGER_PORT;
        let mut last = SwarmError::Unavailable(String::new());
        for text in &request.remote_addrs {
            let remote = address::remote(text, port)?;
            let (listen, advertise) = addresses(&request.listen_addr, &request.advertise_addr, Some(remote))?;
            let name = hostname();
            let join = Bootstrap {
                host: &Host::system(),
                addr: &remote.to_string(),
                token: &token,
                availability: request.availability,
                hostname: &name,
            };
            match skep_identity::bootstrap(&self.inner.network, &self.dir("identity"), join).await {
                Ok(identity) => {
                    let managers = vec![remote.to_string()];
                    let membership = Membership { listen_addr: listen, advertise_addr: advertise, managers };
                    membership.save(&self.inner.options.dir).map_err(failed)?;
                    return self.enter(identity, membership, remote).await;
                }
                Err(e) => last = SwarmError::Unavailable(e.to_string()),
            }
        }
        Err(last)
    }

    async fn enter(
        &self,
        identity: Identity,
        membership: Membership,
        remote: SocketAddr,
    ) -> Result<(), SwarmError> {
        let manager = if identity.role() == Role::Manager {
            let start = Start::Join { remote: remote.to_string() };
            Some(self.start_manager(&identity, &membership, start).await?)
        } else {
            None
        };
        self.become_member(identity, membership, manager)
    }

    async fn try_leave(&self, force: bool) -> Result<(), SwarmError> {
        let member = lock(&self.inner.state).member.clone();
        let Some(member) = member else {
            // A membership that could not be resumed is left by removing what there is of it.
            let broken = !std::mem::take(&mut lock(&self.inner.state).error).is_empty();
            return if broken { self.wipe().await } else { Err(SwarmError::NotMember) };
        };
        let manager = lock(&member.manager).clone();
        if let Some(manager) = &manager
            && !force
        {
            return Err(SwarmError::ManagerNeedsForce(manager.leave_warning()));
        }
        if let Some(following) = lock(&member.role_watch).take() {
            following.abort();
        }
        if let Some(manager) = manager
            && let Err(e) = manager.leave().await
        {
            tracing::warn!(error = %e, "left without the other managers' consent: remove this node there with `node rm --force`");
        }
        member.agent.drain().await;
        lock(&self.inner.state).member = None;
        drop(member);
        let plane = self.inner.options.plane.leave_swarm().await.map_err(failed);
        self.wipe().await.and(plane)
    }

    /// Ends the manager and the session; containers stay.
    pub async fn shutdown(&self) {
        let member = lock(&self.inner.state).member.take();
        if let Some(member) = member {
            if let Some(following) = lock(&member.role_watch).take() {
                following.abort();
            }
            let manager = lock(&member.manager).take();
            if let Some(manager) = manager {
                manager.stop().await;
            }
        }
    }
}

/// Port 0 asks for any free port; the manager's address is told to others before it listens, so the port
/// is chosen here.
fn with_port(mut addr: SocketAddr) -> Result<SocketAddr, SwarmError> {
    if addr.port() == 0 {
        let free = std::net::TcpListener::bind(addr).and_then(|l| l.local_addr());
        addr = free.map_err(|e| SwarmError::Failed(format!("find a free port on {}: {e}", addr.ip())))?;
    }
    Ok(addr)
}

fn addresses(
    listen: &str,
    advertise: &str,
    towards: Option<SocketAddr>,
) -> Result<(SocketAddr, SocketAddr), SwarmError> {
    let listen = with_port(address::listen(listen, defaults::MANAGER_PORT)?)?;
    let advertise = if advertise.is_empty() && !listen.ip().is_unspecified() {
        listen
    } else {
        address::advertise(advertise, listen.port(), towards)?
    };
    Ok((listen, advertise))
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
        if request.force_new_cluster {
            return Err(SwarmError::Invalid(
                "--force-new-cluster is not there yet: restore the other managers, or leave with --force and start anew".into(),
            ));
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

    async fn leave(&self, force: bool) -> Result<(), SwarmError> {
        let _one = self.inner.changing.lock().await;
        self.try_leave(force).await
    }

    fn local(&self) -> LocalSwarm {
        let state = lock(&self.inner.state);
        let Some(member) = &state.member else {
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
            state: LocalState::Active,
            node_id: member.identity.node_id().to_string(),
            node_addr: member.membership.advertise_addr.ip().to_string(),
            cluster_id: member.identity.cluster_id().to_string(),
            control_available: lock(&member.manager).is_some(),
            error: if manager_error.is_empty() { connection.error } else { manager_error },
            managers: member.agent.manager_peers(),
        }
    }

    fn control(&self) -> Option<ControlHandle> {
        let member = lock(&self.inner.state).member.clone()?;
        let control: ControlHandle = Arc::new(lock(&member.manager).as_ref()?.control());
        Some(control)
    }

    fn logs(&self) -> Option<LogsHandle> {
        let member = lock(&self.inner.state).member.clone()?;
        let logs: LogsHandle = Arc::new(lock(&member.manager).as_ref()?.logs());
        Some(logs)
    }
}
