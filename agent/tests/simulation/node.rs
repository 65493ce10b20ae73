//! A simulated host: its daemon (identity, manager, agent), which can crash and start again, and what outlives it
//! (disk, containers, clock).

use std::collections::VecDeque;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

use skep_agent::{Addresses, Agent, AgentOptions};
use skep_identity::{Bootstrap, Host, Identity, Network, Role, UnlockKey, bootstrap};
use skep_manager::{InitOptions, Manager, ManagerOptions, Start, key_file};
use skep_proto::v1;
use tokio::sync::watch;

use crate::client::Request;
use crate::containers::{Containers, SimPlane, SimRuntime};
use crate::net::SimNetwork;
use crate::trace::Trace;

/// When simulations take place: a year with valid certificates.
const EPOCH: Duration = Duration::from_secs(2_000_000_000);

/// What one host knows of the swarm before it is part of it.
#[derive(Default)]
pub struct Invitation {
    /// Address of a manager, with both tokens: set by the first host.
    pub first: Mutex<Option<(String, String, String)>>,
    /// Every unlock key the swarm has had, the last one last: what its operators have written down.
    pub keys: Mutex<Vec<String>>,
}

impl Invitation {
    /// Notes the key there is now.
    pub fn note_key(&self, key: &str) {
        let mut keys = lock(&self.keys);
        if !key.is_empty() && keys.last().is_none_or(|last| last != key) {
            keys.push(key.to_owned());
        }
    }
}

/// One host.
pub struct Node {
    pub name: String,
    pub addr: String,
    /// Whether it is to manage, as users were told.
    pub manages: AtomicBool,
    pub containers: Arc<Containers>,
    pub trace: Arc<Trace>,
    seed: u64,
    dir: PathBuf,
    founder: bool,
    pub invitation: Arc<Invitation>,
    /// By how much its clock is off, in milliseconds.
    skew: AtomicI64,
    starts: AtomicU64,
    id: Mutex<String>,
    manager: Mutex<Option<Manager>>,
    commands: Mutex<VecDeque<Request>>,
    /// Terms this host has led.
    pub led: Mutex<Vec<u64>>,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// What makes a host.
pub struct NodeOptions {
    pub name: String,
    pub addr: String,
    pub manages: bool,
    pub founder: bool,
    pub seed: u64,
    pub dir: PathBuf,
    pub invitation: Arc<Invitation>,
    pub trace: Arc<Trace>,
}

impl Node {
    pub fn new(options: NodeOptions) -> Arc<Self> {
        let NodeOptions { name, addr, manages, founder, seed, dir, invitation, trace } = options;
        Arc::new(Self {
            containers: Arc::new(Containers::new(&name, seed ^ 0xC0, trace.clone())),
            name,
            addr,
            manages: AtomicBool::new(manages),
            trace,
            seed,
            dir,
            founder,
            invitation,
            skew: AtomicI64::new(0),
            starts: AtomicU64::new(0),
            id: Mutex::default(),
            manager: Mutex::default(),
            commands: Mutex::default(),
            led: Mutex::default(),
        })
    }

    /// Its manager, while the daemon runs one.
    pub fn manager(&self) -> Option<Manager> {
        lock(&self.manager).clone()
    }

    /// Its identifier in the swarm; empty before it joined.
    pub fn id(&self) -> String {
        lock(&self.id).clone()
    }

    /// Whether users were told that it manages.
    pub fn manages(&self) -> bool {
        self.manages.load(Ordering::Relaxed)
    }

    /// Whether the manager's keys on its disk are sealed by this unlock key; with none, readable.
    pub fn is_locked_by(&self, key: &str) -> Result<bool, String> {
        let kept = key_file(&self.dir.join("manager")).read().map_err(|e| e.to_string())?;
        Ok(kept.is_some_and(|kept| kept.is_as(key.parse().ok().as_ref())))
    }

    /// Sets its clock off by so much.
    pub fn skew(&self, ms: i64) {
        self.skew.store(ms, Ordering::Relaxed);
    }

    /// Has the daemon's API take a command.
    pub fn command(&self, command: Request) {
        lock(&self.commands).push_back(command);
    }

    /// The daemon is gone: so is what it had in memory.
    pub fn crashed(&self) {
        drop(lock(&self.manager).take());
        lock(&self.commands).clear();
    }

    /// The host as its next daemon sees it.
    fn host(self: &Arc<Self>) -> Host {
        let node = self.clone();
        let start = self.starts.fetch_add(1, Ordering::Relaxed);
        Host::simulated(self.seed.wrapping_mul(1000).wrapping_add(start), move || {
            let skew = node.skew.load(Ordering::Relaxed);
            let now = SystemTime::UNIX_EPOCH + EPOCH + node.trace.now();
            let off = Duration::from_millis(skew.unsigned_abs());
            if skew < 0 { now - off } else { now + off }
        })
    }

    /// The daemon: runs until the host crashes.
    pub async fn daemon(self: Arc<Self>) -> turmoil::Result {
        let host = self.host();
        let network: Arc<dyn Network> = Arc::new(SimNetwork);
        let (identity, mut manager) = loop {
            match self.start(&host, &network).await {
                Ok(started) => break started,
                Err(error) => {
                    self.trace.add(format!("{} cannot start yet: {error}", self.name));
                    tokio::time::sleep(Duration::from_millis(500)).await;
                }
            }
        };
        *lock(&self.id) = identity.node_id().to_string();
        self.trace.add(format!("{} is up as {}", self.name, identity.node_id()));
        let mut managers: Vec<String> = lock(&self.invitation.first).iter().map(|f| f.0.clone()).collect();
        if let Some(manager) = &manager {
            managers.push(self.addr.clone());
            self.clone().leads(manager);
        }
        let (_description, description) = watch::channel(v1::NodeDescription {
            hostname: self.name.clone(),
            resources: Some(v1::Resources { nano_cpus: 8_000_000_000, memory_bytes: 16 << 30, pids: 0 }),
            platform: Some(v1::Platform { os: "linux".into(), architecture: "x86_64".into() }),
            wireguard_public_key: format!("key of {}", self.name),
            ..Default::default()
        });
        let (_addresses, addresses) = watch::channel(Addresses {
            advertise: self.addr.rsplit_once(':').map_or("", |(ip, _)| ip).to_owned(),
            data_path: String::new(),
        });
        let agent = Agent::start(AgentOptions {
            state_dir: self.dir.join("agent"),
            identity: identity.clone(),
            network: network.clone(),
            managers,
            description,
            addresses,
            runtime: Arc::new(SimRuntime(self.containers.clone())),
            plane: Arc::new(SimPlane(self.containers.clone())),
            engine: None,
            tunnels: None,
            attachments: skep_agent::Attachments::default(),
            exchange: None,
        })?;
        loop {
            tokio::time::sleep(Duration::from_millis(20)).await;
            if (identity.role() == Role::Manager) != manager.is_some() {
                manager = match manager.take() {
                    Some(manager) => self.demote(&manager).await?,
                    None => self.promote(&identity, &network, &agent).await,
                };
            }
            let Some(manager) = &manager else { continue };
            loop {
                let command = lock(&self.commands).pop_front();
                let Some(command) = command else { break };
                tokio::spawn(command.run(manager.control()));
            }
        }
    }

    fn leads(self: Arc<Self>, manager: &Manager) {
        *lock(&self.manager) = Some(manager.clone());
        tokio::spawn(self.note_terms(manager.clone()));
    }

    /// The node's certificate has the manager's role: it joins the others. None as long as none of them takes it.
    async fn promote(
        self: &Arc<Self>,
        identity: &Identity,
        network: &Arc<dyn Network>,
        agent: &Agent,
    ) -> Option<Manager> {
        for remote in agent.managers().into_iter().filter(|a| *a != self.addr) {
            match self.manager_on(identity, network, Start::Join { remote }).await {
                Ok(manager) => {
                    self.trace.add(format!("{} is a manager now", self.name));
                    self.clone().leads(&manager);
                    return Some(manager);
                }
                Err(error) => self.trace.add(format!("{} cannot manage yet: {error}", self.name)),
            }
        }
        tokio::time::sleep(Duration::from_millis(500)).await;
        None
    }

    /// Its certificate has the worker's role, and it has left the others: its log goes.
    async fn demote(&self, manager: &Manager) -> std::io::Result<Option<Manager>> {
        drop(lock(&self.manager).take());
        lock(&self.commands).clear();
        manager.stop().await;
        std::fs::remove_dir_all(self.dir.join("manager"))?;
        self.trace.add(format!("{} is a worker now", self.name));
        Ok(None)
    }

    /// The manager there is on disk, or else one that begins like this.
    async fn manager_on(
        &self,
        identity: &Identity,
        network: &Arc<dyn Network>,
        else_like: Start,
    ) -> Result<Manager, skep_manager::Error> {
        let state = self.dir.join("manager");
        let start = if state.exists() { Start::Restart } else { else_like };
        let (own, identity) = (self.addr.clone(), identity.clone());
        Manager::start(ManagerOptions::new(state, identity, network.clone(), own.clone(), own, start)).await
    }

    /// The identity on disk, opened with the swarm's unlock keys where it is a locked manager's.
    fn unlocked(&self) -> Result<Option<Identity>, Box<dyn std::error::Error>> {
        let dir = self.dir.join("identity");
        let kept = key_file(&self.dir.join("manager")).read()?;
        let kept = match (Identity::load(&dir, None), kept) {
            (Err(skep_identity::Error::Sealed { .. }), Some(kept)) => kept,
            (Ok(Some(identity)), Some(kept)) if kept.is_sealed() && identity.role() == Role::Manager => kept,
            (other, _) => return Ok(other?),
        };
        // It may have missed the last ones.
        for key in lock(&self.invitation.keys).iter().rev() {
            let key: UnlockKey = key.parse()?;
            if let Ok(key) = kept.open(Some(&key)) {
                self.trace.add(format!("{} is unlocked", self.name));
                return Ok(Identity::load(&dir, Some(key))?);
            }
        }
        Ok(Identity::load(&dir, Some(kept.open(None)?))?)
    }

    /// The node's identity, as it is on disk or as joining gives it, and its manager if it is to have one.
    async fn start(
        &self,
        host: &Host,
        network: &Arc<dyn Network>,
    ) -> Result<(Identity, Option<Manager>), Box<dyn std::error::Error>> {
        let (identity_dir, state) = (self.dir.join("identity"), self.dir.join("manager"));
        let known = self.unlocked()?.map(|identity| identity.on(host.clone()));
        let addr = self.addr.clone();
        if known.is_none() && self.founder {
            let init = InitOptions { hostname: self.name.clone(), host: host.clone(), ..Default::default() };
            let made = Manager::init(state, &identity_dir, network.clone(), addr.clone(), addr, init).await;
            let (manager, identity) = made?;
            let view = manager.store().view();
            let cluster = view.cluster().ok_or("no cluster")?;
            let first = (self.addr.clone(), cluster.worker_token.clone(), cluster.manager_token.clone());
            *lock(&self.invitation.first) = Some(first);
            return Ok((identity, Some(manager)));
        }
        let first = lock(&self.invitation.first).clone();
        let (remote, worker, manager) = first.ok_or("nobody has founded the swarm yet")?;
        let joined = known.is_some();
        let identity = match known {
            Some(identity) => identity,
            None => {
                let token = if self.manages() { manager } else { worker }.parse()?;
                let join = Bootstrap {
                    host,
                    addr: &remote,
                    token: &token,
                    availability: v1::NodeAvailability::Active,
                    hostname: &self.name,
                };
                bootstrap(network, &identity_dir, join).await?
            }
        };
        if identity.role() == Role::Worker {
            // A crash cut a demotion off: this log is not to be gone on with when the node is promoted again.
            if state.exists() {
                std::fs::remove_dir_all(&state)?;
            }
            return Ok((identity, None));
        }
        // A crash cut a promotion off: it joins once its agent knows who manages now.
        if joined && !state.exists() {
            return Ok((identity, None));
        }
        let manager = self.manager_on(&identity, network, Start::Join { remote }).await?;
        Ok((identity, Some(manager)))
    }

    async fn note_terms(self: Arc<Self>, manager: Manager) {
        let mut status = manager.raft_status();
        loop {
            let (term, leads) = {
                let now = status.borrow_and_update();
                (now.term, now.role == skep_manager::raft::Role::Leader)
            };
            if leads && lock(&self.led).last() != Some(&term) {
                lock(&self.led).push(term);
                self.trace.add(format!("{} leads term {term}", self.name));
            }
            if status.changed().await.is_err() {
                return;
            }
        }
    }
}
