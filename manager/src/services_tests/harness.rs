//! Three managers' services and played agents. Raft itself is replaced by one log that all three share, so
//! that leadership moves when a test says so.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use futures::future::BoxFuture;
use skep_identity::{Bootstrap, Host, Identity, Network, Role, RootCa, Tcp, bootstrap, channel};
use skep_proto::ids::ClusterId;
use skep_proto::v1::assignment_change::Op;
use skep_proto::v1::control_server::Control;
use skep_proto::v1::dispatcher_client::DispatcherClient;
use skep_proto::v1::raft_server::{Raft, RaftServer};
use skep_proto::v1::{self, TaskState};
use tempfile::TempDir;
use tokio::sync::watch;
use tonic::transport::Channel;
use tonic::{Request, Response, Status, Streaming};

use crate::clock::ClusterClock;
use crate::consensus::{Consensus, ConsensusError, Leader, Member};
use crate::context::Context;
use crate::genesis::{self, InitOptions};
use crate::services::Services;
use crate::store::{Propose, ProposeError, Store, Writer};

/// More than anything here takes, on whatever machine.
const PATIENCE: Duration = Duration::from_secs(60);

/// A log that every manager has at once.
pub(super) struct SharedLog {
    pub(super) stores: Vec<Store>,
    pub(super) leader: watch::Sender<Option<Leader>>,
    pub(super) members: Mutex<Vec<Member>>,
    pub(super) quorum: AtomicBool,
    pub(super) append: Mutex<u64>,
}

#[derive(Clone)]
pub(super) struct Node {
    pub(super) log: Arc<SharedLog>,
    pub(super) node_id: String,
}

impl Propose for Node {
    fn propose(
        &self,
        based_on: u64,
        changes: Vec<v1::Change>,
    ) -> BoxFuture<'static, Result<u64, ProposeError>> {
        let node = self.clone();
        Box::pin(async move {
            if node.log.leader.borrow().as_ref().is_none_or(|l| l.node_id != node.node_id) {
                return Err(ProposeError::NotLeader { leader: None });
            }
            if !node.log.quorum.load(Ordering::SeqCst) {
                std::future::pending::<()>().await;
            }
            let mut index = node.log.append.lock().expect("no panic");
            let batch = v1::Batch { changes, based_on, at_ms: Host::system().now_ms(), ..Default::default() };
            for store in &node.log.stores {
                store
                    .apply(*index + 1, batch.clone())
                    .map_err(|s| ProposeError::Stale { based_on: s.based_on, actual: s.actual })?;
            }
            *index += 1;
            Ok(*index)
        })
    }
}

#[async_trait]
impl Consensus for Node {
    fn leader(&self) -> watch::Receiver<Option<Leader>> {
        self.log.leader.subscribe()
    }
    fn members(&self) -> Vec<Member> {
        self.log.members.lock().expect("no panic").clone()
    }
    async fn read_index(&self) -> Result<u64, ConsensusError> {
        if self.log.quorum.load(Ordering::SeqCst) && self.log.leader.borrow().is_some() {
            return Ok(*self.log.append.lock().expect("no panic"));
        }
        Err(ConsensusError { operation: "confirm a read", reason: "no quorum".into() })
    }
    async fn remove_member(&self, node_id: &str) -> Result<(), ConsensusError> {
        self.log.members.lock().expect("no panic").retain(|m| m.peer.node_id != node_id);
        Ok(())
    }
    async fn transfer_leadership(&self) -> Result<(), ConsensusError> {
        let members = self.members();
        let next = members.iter().find(|m| m.peer.node_id != self.node_id).map(leader);
        self.log.leader.send_replace(next);
        Ok(())
    }
}

pub(super) fn leader(member: &Member) -> Leader {
    Leader { node_id: member.peer.node_id.clone(), addr: member.peer.addr.clone() }
}

/// The raft service is not part of these tests.
pub(super) struct NoRaft;
#[async_trait]
impl Raft for NoRaft {
    async fn send(&self, _: Request<Streaming<v1::RaftMessage>>) -> Result<Response<v1::Empty>, Status> {
        Err(Status::unimplemented("no raft here"))
    }
    async fn join(&self, _: Request<v1::RaftJoinRequest>) -> Result<Response<v1::RaftJoinResponse>, Status> {
        Err(Status::unimplemented("no raft here"))
    }
    async fn leave(&self, _: Request<v1::RaftLeaveRequest>) -> Result<Response<v1::Empty>, Status> {
        Err(Status::unimplemented("no raft here"))
    }
    async fn readdress(
        &self,
        _: Request<v1::RaftReaddressRequest>,
    ) -> Result<Response<v1::RaftReaddressResponse>, Status> {
        Err(Status::unimplemented("no raft here"))
    }
    async fn read_index(&self, _: Request<v1::Empty>) -> Result<Response<v1::ReadIndexResponse>, Status> {
        Err(Status::unimplemented("no raft here"))
    }
}

pub(super) struct Swarm {
    pub(super) managers: Vec<Services>,
    pub(super) log: Arc<SharedLog>,
    pub(super) network: Arc<dyn Network>,
    pub(super) dir: TempDir,
}

pub(super) async fn swarm() -> Swarm {
    let network: Arc<dyn Network> = Arc::new(Tcp);
    let dir = TempDir::new().expect("dir");
    let ca = RootCa::generate(&Host::system(), ClusterId::random(&mut rand::rng())).expect("root");
    let (mut listeners, mut members) = (Vec::new(), Vec::new());
    for i in 1..=3u64 {
        let listener = network.bind("127.0.0.1:0").await.expect("bind");
        let addr = listener.local_addr().expect("addr").to_string();
        listeners.push(listener);
        let peer = v1::RaftPeer { raft_id: i, node_id: format!("manager{i}"), addr };
        members.push(Member { peer, voter: true, reachable: true });
    }
    let stores: Vec<_> = (0..3).map(|_| Store::new()).collect();
    let log = Arc::new(SharedLog {
        stores: stores.clone(),
        leader: watch::Sender::new(Some(leader(&members[0]))),
        members: Mutex::new(members.clone()),
        quorum: AtomicBool::new(true),
        append: Mutex::new(0),
    });
    let identity = |node: &str| {
        let credentials =
            ca.credentials(&node.into(), Role::Manager, Duration::from_secs(3600)).expect("credentials");
        Identity::create(&dir.path().join(node), credentials).expect("stored")
    };
    let identities: Vec<_> = members.iter().map(|m| identity(&m.peer.node_id)).collect();
    let init = InitOptions {
        // A node is down after 900 ms here: the tests that are not about that keep beating.
        spec: v1::ClusterSpec { heartbeat_ms: 300, ..Default::default() },
        availability: v1::NodeAvailability::Drain,
        hostname: "m".into(),
        address_pools: Vec::new(),
        subnet_size: 0,
        data_path_port: 0,
        ..Default::default()
    };
    let mut changes =
        genesis::objects(&init, &ca, None, "manager1", v1::ManagerStatus::default(), &mut rand::rng());
    for node in ["manager2", "manager3"] {
        let drain = v1::NodeAvailability::Drain.into();
        changes.push(crate::store::change::put(crate::ca::new_node(node, Role::Manager, drain, node)));
    }
    let node = |i: usize| Node { log: log.clone(), node_id: format!("manager{}", i + 1) };
    node(0).propose(0, changes).await.expect("written");
    let managers = listeners.into_iter().enumerate().map(|(i, listener)| {
        let writer = Writer::new(stores[i].clone(), node(i));
        let clock = ClusterClock::new(Host::system(), stores[i].clone());
        let metrics = crate::Metrics::new().expect("metrics");
        let consensus = Arc::new(node(i));
        let ctx = Context::new(identities[i].clone(), network.clone(), writer, consensus, metrics, clock);
        Services::start(Arc::new(ctx), listener, RaftServer::new(NoRaft), None, std::future::pending())
    });
    Swarm { managers: managers.collect(), log: log.clone(), network: network.clone(), dir }
}

impl Swarm {
    pub(super) fn lead(&self, i: Option<usize>) {
        let members = self.log.members.lock().expect("no panic");
        self.log.leader.send_replace(i.map(|i| leader(&members[i])));
    }
    pub(super) fn addr(&self, i: usize) -> String {
        self.log.members.lock().expect("no panic")[i].peer.addr.clone()
    }
    pub(super) async fn create(&self, at: usize, spec: v1::ServiceSpec) -> Result<v1::Service, Status> {
        let request = Request::new(v1::CreateServiceRequest { spec: Some(spec) });
        let response = self.managers[at].control.create_service(request).await?;
        Ok(response.into_inner().service.expect("created"))
    }
    pub(super) async fn service(&self, at: usize, id: &str) -> v1::Service {
        let request = Request::new(v1::ListServicesRequest { ids_or_names: vec![id.into()] });
        let response = self.managers[at].control.list_services(request).await.expect("read").into_inner();
        response.services[0].service.clone().expect("there")
    }
    /// Waits until the state satisfies `condition`.
    pub(super) async fn until(&self, what: &str, condition: impl Fn(&crate::store::StoreView) -> bool) {
        let (view, mut updates) = self.log.stores[0].subscribe();
        let wait = async {
            let mut view = view;
            while !condition(&view) {
                view = updates.next().await.expect("the store is there").view().clone();
            }
        };
        tokio::time::timeout(PATIENCE, wait).await.unwrap_or_else(|_| panic!("never {what}"));
    }
    /// Has a node described like this.
    pub(super) async fn describe(&self, node_id: &str, description: v1::NodeDescription) {
        let mut node = v1::Node::clone(self.log.stores[0].view().node(node_id).expect("there"));
        node.description = Some(description);
        let leader = Node { log: self.log.clone(), node_id: "manager1".into() };
        leader.propose(0, vec![crate::store::change::put(node)]).await.expect("written");
    }
    pub(super) async fn agent(&self, at: usize, hostname: &str) -> Agent {
        let addr = self.addr(at);
        let token =
            self.log.stores[0].view().cluster().expect("cluster").worker_token.parse().expect("token");
        let join = Bootstrap {
            host: &Host::system(),
            addr: &addr,
            token: &token,
            availability: v1::NodeAvailability::Active,
            hostname,
        };
        let identity = bootstrap(&self.network, &self.dir.path().join(hostname), join).await.expect("joined");
        Agent::connect(identity, &self.network, &addr, hostname).await
    }
}

/// A worker that does what it is told, as far as the protocol goes.
pub(super) struct Agent {
    pub(super) node_id: String,
    pub(super) session_id: String,
    pub(super) client: DispatcherClient<Channel>,
    pub(super) channel: Channel,
    pub(super) assignments: Streaming<v1::AssignmentsMessage>,
    pub(super) beating: tokio::task::JoinHandle<()>,
    pub(super) _session: Streaming<v1::SessionMessage>,
}

impl Drop for Agent {
    fn drop(&mut self) {
        self.beating.abort();
    }
}

impl Agent {
    pub(super) async fn connect(
        identity: Identity,
        network: &Arc<dyn Network>,
        addr: &str,
        hostname: &str,
    ) -> Self {
        let channel = channel(&identity, network, addr, Role::Manager);
        let mut client = DispatcherClient::new(channel.clone());
        let description = v1::NodeDescription {
            hostname: hostname.into(),
            resources: Some(v1::Resources { nano_cpus: 4_000_000_000, memory_bytes: 8 << 30, pids: 0 }),
            platform: Some(v1::Platform { os: "linux".into(), architecture: "x86_64".into() }),
            wireguard_public_key: format!("key of {hostname}"),
            ..Default::default()
        };
        let request = v1::SessionRequest { description: Some(description), ..Default::default() };
        let mut session = client.session(request).await.expect("session").into_inner();
        let first = session.message().await.expect("message").expect("first");
        assert_eq!(first.managers.len(), 3, "the agent learns of all managers");
        let session_id = first.session_id;
        let request = v1::AssignmentsRequest { session_id: session_id.clone() };
        let assignments = client.assignments(request).await.expect("assignments").into_inner();
        let mut heart = client.clone();
        let beat = v1::HeartbeatRequest { session_id: session_id.clone(), ..Default::default() };
        let beating = tokio::spawn(async move {
            while let Ok(answer) = heart.heartbeat(beat.clone()).await {
                tokio::time::sleep(Duration::from_millis(answer.into_inner().period_ms / 2)).await;
            }
        });
        let node_id = identity.node_id().into();
        Self { node_id, session_id, client, channel, assignments, beating, _session: session }
    }

    /// Reads assignments until a change satisfies `condition`.
    pub(super) async fn until<T>(&mut self, what: &str, mut condition: impl FnMut(&Op) -> Option<T>) -> T {
        let wait = async {
            loop {
                let message = self.assignments.message().await.expect("message").expect("not ended");
                let mut found = None;
                for change in message.changes.iter().filter_map(|c| c.op.as_ref()) {
                    found = found.or_else(|| condition(change));
                }
                if let Some(found) = found {
                    return found;
                }
            }
        };
        tokio::time::timeout(PATIENCE, wait).await.unwrap_or_else(|_| panic!("never {what}"))
    }

    pub(super) async fn report(&mut self, task: &str, state: TaskState) {
        let status = v1::TaskStatus {
            state: state.into(),
            timestamp_ms: Host::system().now_ms(),
            ..Default::default()
        };
        let updates = vec![v1::TaskStatusUpdate { task_id: task.into(), status: Some(status) }];
        let request =
            v1::UpdateTaskStatusRequest { session_id: self.session_id.clone(), updates, acks: vec![] };
        self.client.update_task_status(request).await.expect("taken");
    }

    pub(super) async fn ack(&mut self, acks: Vec<v1::ViewAck>) {
        let request =
            v1::UpdateTaskStatusRequest { session_id: self.session_id.clone(), updates: vec![], acks };
        self.client.update_task_status(request).await.expect("taken");
    }
}

pub(super) fn web(replicas: u64, networks: &[&str]) -> v1::ServiceSpec {
    let attach = |n: &&str| v1::NetworkAttachment { network: (*n).into(), aliases: Vec::new() };
    v1::ServiceSpec {
        annotations: Some(v1::Annotations { name: "web".into(), ..Default::default() }),
        task: Some(v1::TaskSpec {
            container: Some(v1::ContainerSpec { image: "whoami".into(), ..Default::default() }),
            networks: networks.iter().map(attach).collect(),
            ..Default::default()
        }),
        mode: Some(v1::service_spec::Mode::Replicated(v1::Replicated { replicas })),
        ..Default::default()
    }
}
