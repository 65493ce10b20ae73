//! The services of three managers over real TLS on loopback, with agents played by the test. Raft itself
//! is replaced here by one log all three share, so that leadership moves when the test says so.

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
use skep_proto::v1::logs_client::LogsClient;
use skep_proto::v1::logs_server::Logs;
use skep_proto::v1::raft_server::{Raft, RaftServer};
use skep_proto::v1::{self, TaskState};
use tempfile::TempDir;
use tokio::sync::watch;
use tokio_stream::StreamExt;
use tonic::transport::Channel;
use tonic::{Code, Request, Response, Status, Streaming};

use crate::clock::ClusterClock;
use crate::consensus::{Consensus, ConsensusError, Leader, Member};
use crate::context::Context;
use crate::genesis::{self, InitOptions};
use crate::services::Services;
use crate::store::{Propose, ProposeError, Store, Writer};

/// A log that every manager has at once.
struct SharedLog {
    stores: Vec<Store>,
    leader: watch::Sender<Option<Leader>>,
    members: Mutex<Vec<Member>>,
    quorum: AtomicBool,
    append: Mutex<u64>,
}

#[derive(Clone)]
struct Node {
    log: Arc<SharedLog>,
    node_id: String,
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

fn leader(member: &Member) -> Leader {
    Leader { node_id: member.peer.node_id.clone(), addr: member.peer.addr.clone() }
}

/// The raft service is not part of these tests.
struct NoRaft;
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
    async fn read_index(&self, _: Request<v1::Empty>) -> Result<Response<v1::ReadIndexResponse>, Status> {
        Err(Status::unimplemented("no raft here"))
    }
}

struct Swarm {
    managers: Vec<Services>,
    log: Arc<SharedLog>,
    network: Arc<dyn Network>,
    dir: TempDir,
}

async fn swarm() -> Swarm {
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
        genesis::objects(&init, &ca, "manager1", v1::ManagerStatus::default(), &mut rand::rng());
    for node in ["manager2", "manager3"] {
        let drain = v1::NodeAvailability::Drain.into();
        changes.push(crate::store::change::put(crate::ca::new_node(node, Role::Manager, drain, node)));
    }
    let node = |i: usize| Node { log: log.clone(), node_id: format!("manager{}", i + 1) };
    node(0).propose(0, changes).await.expect("written");
    let managers = listeners.into_iter().enumerate().map(|(i, listener)| {
        let writer = Writer::new(stores[i].clone(), node(i));
        let clock = ClusterClock::new(Host::system(), stores[i].clone());
        let ctx = Context::new(identities[i].clone(), network.clone(), writer, Arc::new(node(i)), clock);
        Services::start(Arc::new(ctx), listener, RaftServer::new(NoRaft))
    });
    Swarm { managers: managers.collect(), log: log.clone(), network: network.clone(), dir }
}

impl Swarm {
    fn lead(&self, i: Option<usize>) {
        let members = self.log.members.lock().expect("no panic");
        self.log.leader.send_replace(i.map(|i| leader(&members[i])));
    }
    fn addr(&self, i: usize) -> String {
        self.log.members.lock().expect("no panic")[i].peer.addr.clone()
    }
    async fn create(&self, at: usize, spec: v1::ServiceSpec) -> Result<v1::Service, Status> {
        let request = Request::new(v1::CreateServiceRequest { spec: Some(spec) });
        let response = self.managers[at].control.create_service(request).await?;
        Ok(response.into_inner().service.expect("created"))
    }
    async fn service(&self, at: usize, id: &str) -> v1::Service {
        let request = Request::new(v1::ListServicesRequest { ids_or_names: vec![id.into()] });
        let response = self.managers[at].control.list_services(request).await.expect("read").into_inner();
        response.services[0].service.clone().expect("there")
    }
    /// Waits until the state satisfies `condition`.
    async fn until(&self, what: &str, condition: impl Fn(&crate::store::StoreView) -> bool) {
        let (view, mut updates) = self.log.stores[0].subscribe();
        let wait = async {
            let mut view = view;
            while !condition(&view) {
                view = updates.next().await.expect("the store is there").view().clone();
            }
        };
        tokio::time::timeout(Duration::from_secs(20), wait).await.unwrap_or_else(|_| panic!("never {what}"));
    }
    async fn agent(&self, at: usize, hostname: &str) -> Agent {
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
struct Agent {
    node_id: String,
    session_id: String,
    client: DispatcherClient<Channel>,
    channel: Channel,
    assignments: Streaming<v1::AssignmentsMessage>,
    beating: tokio::task::JoinHandle<()>,
    _session: Streaming<v1::SessionMessage>,
}

impl Drop for Agent {
    fn drop(&mut self) {
        self.beating.abort();
    }
}

impl Agent {
    async fn connect(identity: Identity, network: &Arc<dyn Network>, addr: &str, hostname: &str) -> Self {
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
        let beat = v1::HeartbeatRequest { session_id: session_id.clone() };
        let beating = tokio::spawn(async move {
            while let Ok(answer) = heart.heartbeat(beat.clone()).await {
                tokio::time::sleep(Duration::from_millis(answer.into_inner().period_ms / 2)).await;
            }
        });
        let node_id = identity.node_id().into();
        Self { node_id, session_id, client, channel, assignments, beating, _session: session }
    }

    /// Reads assignments until a change satisfies `condition`.
    async fn until<T>(&mut self, what: &str, mut condition: impl FnMut(&Op) -> Option<T>) -> T {
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
        tokio::time::timeout(Duration::from_secs(20), wait).await.unwrap_or_else(|_| panic!("never {what}"))
    }

    async fn report(&mut self, task: &str, state: TaskState) {
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

    async fn ack(&mut self, acks: Vec<v1::ViewAck>) {
        let request =
            v1::UpdateTaskStatusRequest { session_id: self.session_id.clone(), updates: vec![], acks };
        self.client.update_task_status(request).await.expect("taken");
    }
}

fn web(replicas: u64, networks: &[&str]) -> v1::ServiceSpec {
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

#[tokio::test]
async fn any_manager_takes_writes_and_leadership_may_move() {
    let mut swarm = swarm().await;
    let created = swarm.create(2, web(0, &[])).await.expect("created through a follower");
    assert_eq!(swarm.create(1, web(0, &[])).await.expect_err("same name").code(), Code::AlreadyExists);
    // While nobody leads, a write waits for the next leader.
    swarm.lead(None);
    let waiting = swarm.create(
        1,
        v1::ServiceSpec {
            annotations: Some(v1::Annotations { name: "second".into(), ..Default::default() }),
            ..web(0, &[])
        },
    );
    let (written, ()) = tokio::join!(waiting, async { swarm.lead(Some(1)) });
    let second = written.expect("written once there was a leader");
    swarm.managers[0].stop().await;
    let stored = swarm.service(2, &created.id).await;
    let update = |version, replicas| v1::UpdateServiceRequest {
        id: created.id.clone(),
        version,
        spec: Some(web(replicas, &[])),
        rollback: false,
    };
    let version = stored.meta.as_ref().expect("meta").version;
    let control = &swarm.managers[2].control;
    control.update_service(Request::new(update(version, 2))).await.expect("updated by the new leader");
    let stale = control.update_service(Request::new(update(version, 3))).await.expect_err("stale");
    assert_eq!(stale.code(), Code::Aborted);
    assert!(stale.message().starts_with("update out of sequence"), "{stale}");
    let remove = v1::RemoveRequest { id: second.id.clone() };
    control.remove_service(Request::new(remove.clone())).await.expect("removed");
    assert_eq!(control.remove_service(Request::new(remove)).await.expect_err("gone").code(), Code::NotFound);
}

#[tokio::test]
async fn without_quorum_writes_fail_in_time_and_reads_say_that_they_may_be_stale() {
    let swarm = swarm().await;
    swarm.log.quorum.store(false, Ordering::SeqCst);
    let write = tokio::time::timeout(Duration::from_secs(6), swarm.create(1, web(1, &[]))).await;
    let status = write.expect("in time").expect_err("no quorum");
    assert_eq!(status.code(), Code::Unavailable);
    assert!(status.message().contains("more than half"), "{status}");
    let nodes = swarm.managers[2].control.list_nodes(Request::new(v1::ListNodesRequest::default())).await;
    let nodes = nodes.expect("answered").into_inner();
    assert!(nodes.stale && nodes.nodes.len() == 3);
}

#[tokio::test]
async fn an_update_makes_a_revision_and_rollback_returns() {
    let swarm = swarm().await;
    let created = swarm.create(0, web(0, &[])).await.expect("created");
    assert_eq!(created.revision, 1);
    let mut spec = web(0, &[]);
    spec.task.get_or_insert_default().container.get_or_insert_default().image = "other".into();
    let control = &swarm.managers[1].control;
    let update = |version, spec: Option<v1::ServiceSpec>| {
        let rollback = spec.is_none();
        Request::new(v1::UpdateServiceRequest { id: "web".into(), version, spec, rollback })
    };
    let version = |s: &v1::Service| s.meta.as_ref().map_or(0, |m| m.version);
    let stored = swarm.service(1, "web").await;
    let two = control.update_service(update(version(&stored), Some(spec.clone()))).await.expect("updated");
    let two = two.into_inner().service.expect("there");
    assert_eq!((two.revision, two.previous_spec.is_some()), (2, true));
    let stored = swarm.service(1, "web").await;
    let back = control.update_service(update(version(&stored), None)).await.expect("rolled back");
    let back = back.into_inner().service.expect("there");
    let image = |s: Option<&v1::ServiceSpec>| {
        s.and_then(|s| s.task.as_ref()).and_then(|t| t.container.as_ref()).map(|c| c.image.clone())
    };
    assert_eq!(back.revision, 3);
    assert_eq!(image(back.spec.as_ref()).as_deref(), Some("whoami"));
}

#[tokio::test]
async fn agents_at_different_managers_get_tasks_networks_and_a_drain_order() {
    let swarm = swarm().await;
    let control = &swarm.managers[1].control;
    let spec = v1::NetworkSpec {
        annotations: Some(v1::Annotations { name: "back".into(), ..Default::default() }),
        ..Default::default()
    };
    let network = control.create_network(Request::new(v1::CreateNetworkRequest { spec: Some(spec) })).await;
    let network = network.expect("created").into_inner().network.expect("there").id;
    let missing = swarm.create(0, web(2, &["nowhere"])).await.expect_err("no such network");
    assert_eq!(missing.code(), Code::NotFound);
    let mut one = swarm.agent(1, "one").await;
    let mut two = swarm.agent(2, "two").await;
    let service = swarm.create(2, web(2, &["back"])).await.expect("created");

    let task = |op: &Op| match op {
        Op::Task(t) => t.task.clone(),
        _ => None,
    };
    let (task_one, task_two) = (one.until("a task", task).await, two.until("a task", task).await);
    assert_eq!(task_one.node_id, one.node_id);
    one.report(&task_one.id, TaskState::Running).await;
    two.report(&task_two.id, TaskState::Running).await;
    let full = |op: &Op| match op {
        Op::Network(n) if n.services.iter().any(|s| s.backends.len() == 2) => Some(n.clone()),
        _ => None,
    };
    let seen = one.until("both backends", full).await;
    two.until("both backends", full).await;
    assert_eq!(seen.network_id, network);
    assert_eq!(seen.peers.len(), 1, "the other node");
    assert_eq!(seen.peers[0].node_id, two.node_id);
    assert!(seen.peers[0].endpoint.ends_with(":4789"));
    assert!(!seen.services[0].vip.is_empty() && seen.blocks.len() >= 2);

    let in_use = control.remove_network(Request::new(v1::RemoveRequest { id: "back".into() })).await;
    assert!(in_use.expect_err("in use").message().contains("in use by service web"));

    // Scaled to nothing: first out of the load balancers, then stopped.
    let stored = swarm.service(0, &service.id).await;
    let version = stored.meta.expect("meta").version;
    let update = v1::UpdateServiceRequest {
        id: service.id.clone(),
        version,
        spec: Some(web(0, &["back"])),
        rollback: false,
    };
    control.update_service(Request::new(update)).await.expect("scaled");
    let drained = |op: &Op| match op {
        Op::Network(n) => n.services.iter().all(|s| s.backends.is_empty()).then_some(n.version),
        Op::Task(t) => {
            panic!("told to stop {:?} before the acknowledgements", t.task.as_ref().map(|t| &t.id))
        }
        _ => None,
    };
    let version_one = one.until("drained", drained).await;
    let version_two = two.until("drained", drained).await;
    let ack = |version| vec![v1::ViewAck { network_id: network.clone(), version }];
    one.ack(ack(version_one)).await;
    two.ack(ack(version_two)).await;
    let stop = |op: &Op| match op {
        Op::Task(t) => t.task.as_ref().map(|t| t.desired_state()),
        _ => None,
    };
    assert!(one.until("the stop", stop).await >= TaskState::Shutdown);
    assert!(two.until("the stop", stop).await >= TaskState::Shutdown);
    one.report(&task_one.id, TaskState::Shutdown).await;
    two.report(&task_two.id, TaskState::Shutdown).await;
    let gone = |op: &Op| matches!(op, Op::RemoveNetwork(id) if *id == network).then_some(());
    one.until("out of the network", gone).await;
}

#[tokio::test]
async fn a_silent_node_is_down_and_back_when_it_speaks() {
    let swarm = swarm().await;
    let agent = swarm.agent(1, "quiet").await;
    let node = agent.node_id.clone();
    let state = |view: &crate::store::StoreView, s| view.node(&node).is_some_and(|n| n.state() == s);
    swarm.until("ready", |v| state(v, v1::NodeState::Ready)).await;
    let control = &swarm.managers[0].control;
    let remove = |force| Request::new(v1::RemoveNodeRequest { id: node.clone(), force });
    assert_eq!(control.remove_node(remove(false)).await.expect_err("up").code(), Code::FailedPrecondition);
    agent.beating.abort();
    swarm.until("down", |v| state(v, v1::NodeState::Down)).await;
    // The session is still open: one heartbeat brings it back.
    let mut client = agent.client.clone();
    let beat = v1::HeartbeatRequest { session_id: agent.session_id.clone() };
    client.heartbeat(beat.clone()).await.expect("taken");
    swarm.until("ready again", |v| state(v, v1::NodeState::Ready)).await;
    swarm.until("down again", |v| state(v, v1::NodeState::Down)).await;
    control.remove_node(remove(false)).await.expect("removed");
    let mut wrong = agent.client.clone();
    let other = v1::HeartbeatRequest { session_id: "other".into() };
    assert_eq!(wrong.heartbeat(other).await.expect_err("not its session").code(), Code::NotFound);
}

#[tokio::test]
async fn promotion_gives_the_role_and_demotion_takes_raft_membership_first() {
    let swarm = swarm().await;
    let agent = swarm.agent(0, "worker").await;
    let control = &swarm.managers[1].control;
    let set_role = async |id: &str, role: Role| {
        let request = v1::ListNodesRequest { ids_or_names: vec![id.into()] };
        let node =
            control.list_nodes(Request::new(request)).await.expect("read").into_inner().nodes.remove(0);
        let spec = v1::NodeSpec { role: role.into(), ..node.spec.unwrap_or_default() };
        let version = node.meta.expect("meta").version;
        control
            .update_node(Request::new(v1::UpdateNodeRequest { id: id.into(), version, spec: Some(spec) }))
            .await
    };
    agent.beating.abort();
    set_role(&agent.node_id, Role::Manager).await.expect("promoted");
    swarm.until("promoted", |v| v.node(&agent.node_id).is_some_and(|n| n.role() == Role::Manager)).await;
    set_role(&agent.node_id, Role::Worker).await.expect("demoted before it was a member");
    let member = |id: &str| swarm.log.members.lock().expect("no panic").iter().any(|m| m.peer.node_id == id);
    let refused = control
        .remove_node(Request::new(v1::RemoveNodeRequest { id: "manager3".into(), force: true }))
        .await
        .expect_err("a manager");
    assert!(refused.message().contains("must be demoted"), "{refused}");
    set_role("manager3", Role::Worker).await.expect("demoted");
    let worker = |v: &crate::store::StoreView| {
        v.node("manager3").is_some_and(|n| n.role() == Role::Worker && n.manager.is_none())
    };
    swarm.until("demoted", worker).await;
    assert!(!member("manager3"), "no worker is a member");
    // Of two members, the second may not go while the first cannot be reached.
    for m in swarm.log.members.lock().expect("no panic").iter_mut().filter(|m| m.peer.node_id == "manager2") {
        m.reachable = false;
    }
    let refused = set_role("manager1", Role::Worker).await.expect_err("no quorum would be left");
    assert!(refused.message().contains("no quorum"), "{refused}");
}

#[tokio::test]
async fn logs_come_from_agents_at_every_manager() {
    let swarm = swarm().await;
    let mut agents = [swarm.agent(1, "one").await, swarm.agent(2, "two").await];
    let service = swarm.create(0, web(2, &[])).await.expect("created");
    for agent in &mut agents {
        agent.until("a task", |op| matches!(op, Op::Task(_)).then_some(())).await;
        let mut logs = LogsClient::new(agent.channel.clone());
        let mut subscriptions =
            logs.listen_subscriptions(v1::Empty {}).await.expect("listening").into_inner();
        let node = agent.node_id.clone();
        tokio::spawn(async move {
            while let Ok(Some(subscription)) = subscriptions.message().await {
                let id = subscription.id;
                let entry =
                    v1::LogEntry { node_id: node.clone(), data: b"hello\n".to_vec(), ..Default::default() };
                let message = |entries, close| v1::PublishLogsMessage {
                    subscription_id: id.clone(),
                    entries,
                    close,
                    ..Default::default()
                };
                let messages = [message(vec![entry], false), message(vec![], true)];
                let _ = logs.publish_logs(tokio_stream::iter(messages)).await;
            }
        });
    }
    let request = v1::SubscribeLogsRequest {
        selector: Some(v1::LogSelector { service_ids: vec![service.id], task_ids: Vec::new() }),
        options: Some(v1::LogOptions { stdout: true, tail: -1, ..Default::default() }),
    };
    let stream =
        swarm.managers[0].logs.subscribe_logs(Request::new(request)).await.expect("subscribed").into_inner();
    // Not following, the stream ends by itself once all agents have said what they have.
    let messages: Vec<_> =
        tokio::time::timeout(Duration::from_secs(10), stream.collect()).await.expect("it ends");
    let mut nodes: Vec<_> =
        messages.into_iter().flat_map(|m| m.expect("no error").entries).map(|e| e.node_id).collect();
    nodes.sort();
    let mut expected = agents.each_ref().map(|a| a.node_id.clone()).to_vec();
    expected.sort();
    assert_eq!(nodes, expected);
}

#[tokio::test]
async fn tokens_rotate_and_the_old_one_is_refused() {
    let swarm = swarm().await;
    let old = swarm.log.stores[0].view().cluster().expect("cluster").clone();
    let version = old.meta.as_ref().map_or(0, |m| m.version);
    let request = v1::UpdateClusterRequest {
        version,
        spec: None,
        rotate_worker_token: true,
        rotate_manager_token: false,
    };
    let new =
        swarm.managers[1].control.update_cluster(Request::new(request)).await.expect("rotated").into_inner();
    let new = new.cluster.expect("there");
    assert_ne!(new.worker_token, old.worker_token);
    assert_eq!(new.manager_token, old.manager_token);
    let token = old.worker_token.parse().expect("token");
    let addr = swarm.addr(2);
    let join = Bootstrap {
        host: &Host::system(),
        addr: &addr,
        token: &token,
        availability: v1::NodeAvailability::Active,
        hostname: "h",
    };
    let error = bootstrap(&swarm.network, &swarm.dir.path().join("h"), join).await.expect_err("rotated");
    assert!(error.to_string().contains("rotated"), "{error}");
}
