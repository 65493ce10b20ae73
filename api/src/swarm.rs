//! What the API asks of the swarm side of the daemon: joining and leaving, and, on a manager, the
//! control and log services. Implemented by the binary, which owns the manager and the agent.

use std::sync::Arc;

use async_trait::async_trait;
use futures::StreamExt;
use futures::stream::BoxStream;
use skep_proto::v1::control_server::Control;
use skep_proto::v1::logs_server::Logs;
use skep_proto::v1::{ClusterSpec, NodeAvailability, SubscribeLogsMessage, SubscribeLogsRequest};
use tokio::io::DuplexStream;
use tonic::Status;

use crate::error::{ApiError, ApiResult};

/// The control service of the manager in this process (it forwards to the leader by itself).
pub type ControlHandle = Arc<dyn Control>;

/// Log lines of tasks, from wherever they run.
pub type LogStream = BoxStream<'static, Result<SubscribeLogsMessage, Status>>;

/// Where service and task logs come from; every implementation of the `Logs` service is one.
#[async_trait]
pub trait LogSource: Send + Sync {
    /// Subscribes to the logs of services or tasks.
    async fn subscribe(&self, request: SubscribeLogsRequest) -> Result<LogStream, Status>;
}

#[async_trait]
impl<T: Logs> LogSource for T {
    async fn subscribe(&self, request: SubscribeLogsRequest) -> Result<LogStream, Status> {
        let response = self.subscribe_logs(tonic::Request::new(request)).await?;
        Ok(response.into_inner().boxed())
    }
}

/// The log service of the manager in this process.
pub type LogsHandle = Arc<dyn LogSource>;

/// The way to the API of any node, on behalf of one task there.
#[async_trait]
pub trait Tunnels: Send + Sync {
    /// A connection to it, or why there is none.
    async fn reach(&self, node_id: &str, task_id: &str) -> ApiResult<DuplexStream>;
}

/// The tunnels of the manager in this process.
pub type TunnelsHandle = Arc<dyn Tunnels>;

/// `swarm init`.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct InitRequest {
    /// `addr[:port]` or `interface[:port]` to listen on; empty = 0.0.0.0:2377.
    pub listen_addr: String,
    /// `addr[:port]` or `interface[:port]` others reach this node at; empty = found by the daemon.
    pub advertise_addr: String,
    /// Address of the data path; empty = the advertised one.
    pub data_path_addr: String,
    /// UDP port of the data path; 0 = default.
    pub data_path_port: u32,
    /// Pools overlay networks are cut from; empty = default.
    pub address_pools: Vec<String>,
    /// Prefix length of each network; 0 = default.
    pub subnet_size: u32,
    /// Make this node the only manager of the swarm it was part of.
    pub force_new_cluster: bool,
    /// Availability of this node.
    pub availability: NodeAvailability,
    /// Settings of the new cluster.
    pub spec: ClusterSpec,
}

/// `swarm join`.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct JoinRequest {
    /// As in [`InitRequest`].
    pub listen_addr: String,
    /// As in [`InitRequest`].
    pub advertise_addr: String,
    /// As in [`InitRequest`].
    pub data_path_addr: String,
    /// Managers to ask, `host[:port]`, in order.
    pub remote_addrs: Vec<String>,
    /// The join token as the user gave it.
    pub token: String,
    /// Availability of this node.
    pub availability: NodeAvailability,
}

/// `swarm readdress`, which is Skep's own: what is empty stays as it is.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ReaddressRequest {
    /// `addr[:port]` or `interface[:port]` others reach this node at.
    pub advertise_addr: String,
    /// Address of the data path, or an interface.
    pub data_path_addr: String,
    /// Managers to look for, `host[:port]`, beside those known.
    pub remote_addrs: Vec<String>,
}

/// Where this host stands towards a swarm.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum LocalState {
    /// In no swarm.
    #[default]
    Inactive,
    /// Joining.
    Pending,
    /// A member.
    Active,
    /// A member whose manager or agent failed; see [`LocalSwarm::error`].
    Error,
    /// A manager whose log is locked.
    Locked,
}

impl LocalState {
    /// Docker's word for it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Inactive => "inactive",
            Self::Pending => "pending",
            Self::Active => "active",
            Self::Error => "error",
            Self::Locked => "locked",
        }
    }
}

/// What this host knows of its swarm without asking anybody.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LocalSwarm {
    /// State.
    pub state: LocalState,
    /// This node; empty outside a swarm.
    pub node_id: String,
    /// Address others reach this node at, without a port.
    pub node_addr: String,
    /// Cluster; empty outside a swarm.
    pub cluster_id: String,
    /// Whether this node is a manager that can be asked.
    pub control_available: bool,
    /// Why the state is pending or error.
    pub error: String,
    /// Managers known: node ID and `host:port`.
    pub managers: Vec<(String, String)>,
}

/// Why joining, leaving or starting a swarm failed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SwarmError {
    /// `init` or `join` on a member.
    #[error(
        "This node is already part of a swarm. Use \"docker swarm leave\" to leave this swarm and join another one."
    )]
    AlreadyMember,
    /// `leave` outside a swarm.
    #[error("This node is not part of a swarm")]
    NotMember,
    /// `init --force-new-cluster` on a worker.
    #[error("This node is not a swarm manager: only a manager can make a new cluster out of what it has")]
    NotManager,
    /// `leave` of a manager without `--force`; the text says what would be lost.
    #[error("You are attempting to leave the swarm on a node that is participating as a manager. {0}")]
    ManagerNeedsForce(String),
    /// Anything but unlocking or leaving on a locked manager.
    #[error(
        "Swarm is encrypted and needs to be unlocked before it can be used. Please use \"docker swarm unlock\" to unlock it."
    )]
    Locked,
    /// `leave` of a locked manager without `--force`.
    #[error("Swarm is encrypted and locked. Please unlock it first or use `--force` to ignore this message.")]
    LockedNeedsForce,
    /// `unlock` of a manager that is not locked.
    #[error("swarm is not locked")]
    NotLocked,
    /// `unlock` with another key than the one it is locked with.
    #[error("swarm could not be unlocked: invalid key provided")]
    InvalidUnlockKey,
    /// The request is wrong: an address, a token, a setting.
    #[error("{0}")]
    Invalid(String),
    /// Nobody could be reached, or not in time.
    #[error("{0}")]
    Unavailable(String),
    /// Anything else.
    #[error("{0}")]
    Failed(String),
}

impl From<SwarmError> for ApiError {
    fn from(e: SwarmError) -> Self {
        let message = e.to_string();
        match e {
            SwarmError::AlreadyMember
            | SwarmError::NotMember
            | SwarmError::NotManager
            | SwarmError::ManagerNeedsForce(_)
            | SwarmError::Locked
            | SwarmError::LockedNeedsForce
            | SwarmError::Unavailable(_) => Self::unavailable(message),
            SwarmError::NotLocked => Self::conflict(message),
            SwarmError::InvalidUnlockKey => Self::new(axum::http::StatusCode::UNAUTHORIZED, message),
            SwarmError::Invalid(_) => Self::bad_request(message),
            SwarmError::Failed(_) => Self::internal(message),
        }
    }
}

/// The swarm side of the daemon.
#[async_trait]
pub trait Swarm: Send + Sync + 'static {
    /// Starts a swarm with this node as its first manager; answers the node's ID.
    async fn init(&self, request: InitRequest) -> Result<String, SwarmError>;
    /// Joins a swarm; returns once this node is a member.
    async fn join(&self, request: JoinRequest) -> Result<(), SwarmError>;
    /// Opens the keys of a locked manager with the swarm's unlock key, and starts it.
    async fn unlock(&self, key: &str) -> Result<(), SwarmError>;
    /// Has this node reached elsewhere, and looks for managers elsewhere.
    async fn readdress(&self, request: ReaddressRequest) -> Result<(), SwarmError>;
    /// Leaves the swarm.
    async fn leave(&self, force: bool) -> Result<(), SwarmError>;
    /// What is known locally; cheap.
    fn local(&self) -> LocalSwarm;
    /// The control service, on a manager.
    fn control(&self) -> Option<ControlHandle>;
    /// The log service, on a manager.
    fn logs(&self) -> Option<LogsHandle>;
    /// The tunnels to other nodes, on a manager.
    fn tunnels(&self) -> Option<TunnelsHandle>;
}
