//! A simulated host: its daemon (identity, manager, agent), which can crash and start again, and what outlives it
//! (disk, containers, clock).

use std::collections::VecDeque;
use std::path::PathBuf;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

use skep_agent::{Addresses, Agent, AgentOptions};
use skep_identity::{Bootstrap, Host, Identity, Network, bootstrap};
use skep_manager::{InitOptions, Manager, ManagerOptions, Start};
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
}

/// One host.
pub struct Node {
    pub name: String,
    pub addr: String,
    pub manages: bool,
    pub containers: Arc<Containers>,
    pub trace: Arc<Trace>,
    seed: u64,
    dir: PathBuf,
    founder: bool,
    invitation: Arc<Invitation>,
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
            manages,
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
        let (identity, manager) = loop {
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
            tokio::spawn(self.clone().note_terms(manager.clone()));
            *lock(&self.manager) = Some(manager.clone());
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
        let _agent = Agent::start(AgentOptions {
            state_dir: self.dir.join("agent"),
            identity,
            network,
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
            let Some(manager) = &manager else { continue };
            loop {
                let command = lock(&self.commands).pop_front();
                let Some(command) = command else { break };
                tokio::spawn(command.run(manager.control()));
            }
        }
    }

    /// The node's identity, as it is on disk or as joining gives it, and its manager if it is to have one.
    async fn start(
        &self,
        host: &Host,
        network: &Arc<dyn Network>,
    ) -> Result<(Identity, Option<Manager>), Box<dyn std::error::Error>> {
        let (identity_dir, state) = (self.dir.join("identity"), self.dir.join("manager"));
        let known = Identity::load(&identity_dir, None)?.map(|identity| identity.on(host.clone()));
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
        let identity = match known {
            Some(identity) => identity,
            None => {
                let token = if self.manages { manager } else { worker }.parse()?;
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
        if !self.manages {
            return Ok((identity, None));
        }
        let start = if state.exists() { Start::Restart } else { Start::Join { remote } };
        let options =
            ManagerOptions::new(state, identity.clone(), network.clone(), addr.clone(), addr, start);
        let manager = Manager::start(options).await?;
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
