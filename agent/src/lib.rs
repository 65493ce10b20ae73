//! The agent: this node's side of the swarm. It holds a session with a manager, runs the tasks it is
//! assigned on the local engine, keeps the data plane at the swarm's state, and tells how it goes.
//!
//! With no manager in reach it goes on from the assignments it has on disk.

#![forbid(unsafe_code)]

mod assignments;
mod attachments;
mod certificate;
mod dependencies;
mod exchange;
mod generic;
mod local;
mod logs;
mod plane;
mod reach;
mod remotes;
mod run_options;
mod runtime;
mod session;
mod status;
mod task;
mod template;
mod tunnels;
mod usage;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;

use skep_engine::Engine;
use skep_identity::{Host, Identity, Network};
use skep_proto::v1;
use tokio::sync::{mpsc, watch};
use tokio::task::{AbortHandle, JoinSet};

pub use assignments::{Assignments, AssignmentsError};
pub use attachments::{Asked, AttachError, Attachments, Place};
pub use exchange::{Exchange, FetchError, Listening};
pub use local::LocalNetworking;
pub use plane::{Applied, NetworkPlane};
pub use runtime::{EngineRuntime, TASK_LABEL};
pub use task::{Observed, StatusSink, TaskError, TaskExit, TaskRuntime, TaskUse};
pub use tunnels::Tunnel;

/// What an agent needs.
pub struct AgentOptions {
    /// Directory of its own state.
    pub state_dir: PathBuf,
    /// The node's certificate.
    pub identity: Identity,
    /// How it reaches managers.
    pub network: Arc<dyn Network>,
    /// Managers (`host:port`) beside those remembered from earlier.
    pub managers: Vec<String>,
    /// What it says of its host; a change is reported to the managers.
    pub description: watch::Receiver<v1::NodeDescription>,
    /// Where other nodes reach this host; a change is reported to the managers.
    pub addresses: watch::Receiver<Addresses>,
    /// Runs tasks.
    pub runtime: Arc<dyn TaskRuntime>,
    /// The data plane.
    pub plane: Arc<dyn NetworkPlane>,
    /// Where service logs are read; none in simulations.
    pub engine: Option<Engine>,
    /// Takes the tunnels that managers open to the containers of tasks; none in simulations.
    pub tunnels: Option<mpsc::Sender<Tunnel>>,
    /// Has this agent ask for the places of containers outside services.
    pub attachments: Attachments,
    /// Hands images to other nodes and takes them from there; none in simulations.
    pub exchange: Option<Listening>,
}

/// Where other nodes reach this host; no ports.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Addresses {
    /// Its address in the swarm.
    pub advertise: String,
    /// Its WireGuard's; empty = the advertised one.
    pub data_path: String,
}

/// A running agent. Dropping it ends the session; containers stay.
pub struct Agent {
    node: watch::Receiver<Option<v1::Node>>,
    connected: watch::Receiver<Connection>,
    managers: watch::Receiver<Vec<v1::ManagerPeer>>,
    remotes: Arc<remotes::Remotes>,
    tasks: task::TaskSet,
    assignments: watch::Sender<Assignments>,
    reaching: AbortHandle,
    _exchange: Option<Listening>,
    _running: JoinSet<()>,
}

/// Whether the agent is in touch with the swarm.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Connection {
    /// Address of the manager that holds the session.
    pub manager: Option<String>,
    /// Why there is none.
    pub error: String,
    /// This node was removed from the swarm: it runs nothing any more, and has to leave and join again.
    pub removed: bool,
}

impl Agent {
    /// Starts: first with what is on disk, then with what managers say.
    pub fn start(mut options: AgentOptions) -> std::io::Result<Self> {
        std::fs::create_dir_all(&options.state_dir)?;
        let kept_at = options.state_dir.join("assignments");
        let kept = Assignments::load(&kept_at);
        let host = options.identity.host().clone();
        let remotes = Arc::new(remotes::Remotes::load(
            &options.state_dir.join("managers"),
            options.managers.clone(),
            host.clone(),
        ));
        let outbox = Arc::new(status::Outbox::default());
        let node_id = options.identity.node_id().to_string();

        let (applied, applied_seen) = watch::channel(Applied::default());
        let (wanted, wanted_seen) =
            watch::channel((plane::desired(&node_id, &kept, &BTreeMap::new()), data_path_port(&kept)));
        let (assignments, assigned) = watch::channel(kept);
        let tasks = task::TaskSet::new(task::Surroundings {
            host: host.clone(),
            runtime: options.runtime.clone(),
            statuses: outbox.clone(),
            networks: Arc::new(plane::AppliedNetworks(applied_seen.clone())),
            dependencies: dependencies::Held(assigned.clone()),
        });
        let (node, node_seen) = watch::channel(None);
        let (connected, connected_seen) = watch::channel(Connection::default());
        let (managers, managers_seen) = watch::channel(Vec::new());
        let (channel, channel_seen) = watch::channel(None);
        let exchange = options.exchange.take();
        if let Some(exchange) = &exchange {
            exchange.join(channel_seen.clone(), remotes.clone());
        }
        let attachments = options.attachments.clone();
        let link = attachments::Link {
            channel: channel_seen,
            assignments: assigned.clone(),
            applied: applied_seen.clone(),
        };

        let shared = session::Shared {
            identity: options.identity.clone(),
            description: options.description.clone(),
            addresses: options.addresses.clone(),
            assignments: assignments.clone(),
            node,
            managers,
            channel,
            outbox: outbox.clone(),
            remotes: remotes.clone(),
            runtime: options.runtime.clone(),
            usage: Arc::default(),
            assigned: watch::Sender::new(false),
            registration: AtomicU64::default(),
        };
        let mut running = JoinSet::new();
        running.spawn(plane::follow(options.plane.clone(), wanted_seen, applied));
        running.spawn(acknowledge(applied_seen, outbox));
        running.spawn(attachments.clone().settle(link.clone()));
        running.spawn({
            let (tasks, node_id, assigned) = (tasks.clone(), node_id.clone(), assigned.clone());
            let mut told = shared.assigned.subscribe();
            async move {
                // What is kept may be older than the containers, where it could not be written or read.
                if told.wait_for(|told| *told).await.is_ok() {
                    tasks.sweep(&node_id, &assigned).await;
                }
            }
        });
        running.spawn(reconcile(
            host,
            node_id,
            kept_at,
            assigned,
            tasks.clone(),
            attachments.clone(),
            wanted,
        ));
        running.spawn(certificate::keep_fresh(
            options.identity.clone(),
            options.network.clone(),
            remotes.clone(),
            node_seen.clone(),
        ));
        let reaching = running.spawn(reach::keep_session(options, shared, connected));
        attachments.join(link);
        Ok(Self {
            node: node_seen,
            connected: connected_seen,
            managers: managers_seen,
            remotes,
            tasks,
            assignments,
            reaching,
            _exchange: exchange,
            _running: running,
        })
    }

    /// This node as the managers see it; none until the first session.
    pub fn node(&self) -> watch::Receiver<Option<v1::Node>> {
        self.node.clone()
    }

    /// Whether a manager is in reach.
    pub fn connection(&self) -> watch::Receiver<Connection> {
        self.connected.clone()
    }

    /// Addresses of all managers known.
    pub fn managers(&self) -> Vec<String> {
        self.remotes.all()
    }

    /// Forgets every manager but this one: the others are lost for good.
    pub async fn only_manager(&self, addr: String) {
        self.remotes.replace(vec![addr]).await;
    }

    /// Has managers at these addresses (`host:port`) tried, too.
    pub fn try_managers(&self, addrs: impl IntoIterator<Item = String>) {
        self.remotes.add(addrs);
    }

    /// Managers as the last session told: node ID and address.
    pub fn manager_peers(&self) -> Vec<(String, String)> {
        self.managers.borrow().iter().map(|m| (m.node_id.clone(), m.addr.clone())).collect()
    }

    /// Ends the session, and asks for no other: the daemon stops, and tasks go on.
    pub fn hang_up(&self) {
        self.reaching.abort();
    }

    /// Stops and removes every task of this node: it is leaving the swarm. The session ends first, so that no
    /// manager gives it new ones.
    pub async fn drain(&self) {
        self.hang_up();
        let mut ended = self.tasks.ended();
        self.assignments.send_modify(Assignments::clear);
        self.tasks.assign(&BTreeMap::new());
        while !self.tasks.is_empty() {
            if ended.changed().await.is_err() {
                return;
            }
        }
    }
}

async fn acknowledge(mut applied: watch::Receiver<Applied>, outbox: Arc<status::Outbox>) {
    while applied.changed().await.is_ok() {
        let now = applied.borrow_and_update().clone();
        outbox.acknowledge(now);
    }
}

/// Turns the assignment set into work: kept on disk first, then networks, then tasks.
async fn reconcile(
    host: Host,
    node_id: String,
    kept_at: PathBuf,
    mut assigned: watch::Receiver<Assignments>,
    tasks: task::TaskSet,
    attachments: Attachments,
    wanted: watch::Sender<(skep_overlay::desired::Desired, u16)>,
) {
    let mut ended = tasks.ended();
    let mut views: BTreeMap<String, v1::NetworkView> = BTreeMap::new();
    let mut kept: Option<Assignments> = None;
    loop {
        let set = assigned.borrow_and_update().clone();
        if kept.as_ref() != Some(&set) {
            let (to_write, path) = (set.clone(), kept_at.clone());
            match host.blocking(move || to_write.save(&path)).await {
                Ok(()) => kept = Some(set.clone()),
                Err(e) => {
                    tracing::error!(error = %e, "assignments will not survive a restart without a manager")
                }
            }
        }
        let mut in_use = tasks.networks_in_use();
        in_use.extend(attachments.networks());
        views.retain(|id, _| in_use.contains(id) || set.networks.contains_key(id));
        let desired = plane::desired(&node_id, &set, &views);
        let port = data_path_port(&set);
        wanted.send_if_modified(|have| {
            let now = (desired, port);
            let changed = *have != now;
            *have = now;
            changed
        });
        tasks.assign(&set.service_tasks());
        views.extend(set.networks.clone());
        tokio::select! {
            r = assigned.changed() => if r.is_err() { return },
            r = ended.changed() => if r.is_err() { return },
        }
    }
}

/// UDP port of the swarm's data path.
fn data_path_port(set: &Assignments) -> u16 {
    let port = u16::try_from(set.data_path_port).ok().filter(|p| *p != 0);
    port.unwrap_or(skep_proto::defaults::DATA_PATH_PORT)
}
