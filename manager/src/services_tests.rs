//! The services of three managers over real TLS on loopback, with agents played by the test.

mod attachments;
mod harness;
mod ipv6;
mod registration;
mod run_options;
mod statuses;
mod tunnels;
mod versions;

use std::sync::atomic::Ordering;
use std::time::Duration;

use skep_identity::{Bootstrap, Host, Role, bootstrap};
use skep_proto::v1::assignment_change::Op;
use skep_proto::v1::control_server::Control;
use skep_proto::v1::logs_client::LogsClient;
use skep_proto::v1::logs_server::Logs;
use skep_proto::v1::{self, TaskState};
use tokio_stream::StreamExt;
use tonic::{Code, Request};

use crate::consensus::Member;
use harness::{swarm, web};

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
        rebalance: false,
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
    let write = tokio::time::timeout(Duration::from_secs(60), swarm.create(1, web(1, &[]))).await;
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
        Request::new(v1::UpdateServiceRequest { id: "web".into(), version, spec, rollback, rebalance: false })
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
        rebalance: false,
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

/// A secret reaches the nodes whose tasks need it, before the task, and is taken back after it.
#[tokio::test]
async fn only_nodes_that_run_what_needs_a_secret_are_told_of_it() {
    let swarm = swarm().await;
    let mut agent = swarm.agent(1, "one").await;
    let control = &swarm.managers[2].control;
    let spec = v1::DependencySpec {
        annotations: Some(v1::Annotations { name: "pw".into(), ..Default::default() }),
        content: Some(v1::Content { data: b"hunter2".to_vec() }),
        ..Default::default()
    };
    let kind = v1::DependencyKind::Secret.into();
    let create = v1::CreateDependencyRequest { kind, spec: Some(spec.clone()) };
    let made = control.create_dependency(Request::new(create.clone())).await.expect("made").into_inner();
    let secret = made.dependency.expect("told");
    assert_eq!(secret.spec.as_ref().and_then(|s| s.content.as_ref()), None, "nobody is told what it holds");
    let again = control.create_dependency(Request::new(create)).await.expect_err("same name");
    assert_eq!((again.code(), again.message()), (Code::AlreadyExists, "secret pw already exists"));

    // A task that needs nothing comes alone.
    let plain = v1::ServiceSpec {
        annotations: Some(v1::Annotations { name: "plain".into(), ..Default::default() }),
        ..web(1, &[])
    };
    swarm.create(0, plain).await.expect("created");
    let task = |op: &Op| match op {
        Op::Task(t) => t.task.clone(),
        Op::Dependency(d) => panic!("told of {d:?}"),
        _ => None,
    };
    agent.until("a task", task).await;

    let mut needs = web(1, &[]);
    let container = needs.task.as_mut().and_then(|t| t.container.as_mut()).expect("a container");
    container.files.push(v1::FileReference {
        id: secret.id.clone(),
        name: "pw".into(),
        target: "pw".into(),
        mode: 0o444,
        ..Default::default()
    });
    let mut unknown = needs.clone();
    let container = unknown.task.as_mut().and_then(|t| t.container.as_mut()).expect("a container");
    container.files[0].id = "nope".into();
    assert_eq!(swarm.create(0, unknown).await.expect_err("unknown").message(), "secret not found: pw");
    let service = swarm.create(0, needs).await.expect("created");
    let mut held = None;
    let task = agent
        .until("the task, and before it the secret", |op| match op {
            Op::Dependency(d) => {
                held = d.spec.clone().and_then(|s| s.content);
                None
            }
            Op::Task(t) => t.task.clone().filter(|t| t.service_id == service.id && held.is_some()),
            _ => None,
        })
        .await;
    assert_eq!(held.map(|c| c.data).as_deref(), Some(b"hunter2".as_slice()));

    let remove = v1::RemoveDependencyRequest { kind, id: "pw".into() };
    let in_use = control.remove_dependency(Request::new(remove.clone())).await.expect_err("in use");
    assert_eq!(in_use.message(), "secret 'pw' is in use by the following service: web");
    control
        .remove_service(Request::new(v1::RemoveRequest { id: service.id.clone() }))
        .await
        .expect("removed");
    control.remove_dependency(Request::new(remove)).await.expect("removed");
    let stop = |op: &Op| match op {
        Op::Task(t) => t.task.as_ref().filter(|t| t.desired_state() > TaskState::Running).map(drop),
        _ => None,
    };
    agent.until("the stop", stop).await;
    agent.report(&task.id, TaskState::Shutdown).await;
    let gone = |op: &Op| matches!(op, Op::RemoveDependency(id) if *id == secret.id).then_some(());
    agent.until("the secret taken back", gone).await;
}

/// What a complete set lacks, the agent ends: only who surely knows everything may give one.
#[tokio::test]
async fn a_manager_that_may_have_missed_writes_tells_no_agent_of_everything() {
    let swarm = swarm().await;
    let mut agent = swarm.agent(2, "one").await;
    swarm.create(0, web(1, &[])).await.expect("created");
    let task = |op: &Op| match op {
        Op::Task(t) => t.task.clone(),
        _ => None,
    };
    let held = agent.until("a task", task).await;
    swarm.log.quorum.store(false, Ordering::SeqCst);
    let request = v1::AssignmentsRequest { session_id: agent.session_id.clone() };
    agent.assignments = agent.client.assignments(request).await.expect("taken").into_inner();
    let early = tokio::time::timeout(Duration::from_millis(300), agent.assignments.message()).await;
    assert!(early.is_err(), "{early:?}");
    swarm.log.quorum.store(true, Ordering::SeqCst);
    assert_eq!(agent.until("the same task", task).await.id, held.id);
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
    let beat = v1::HeartbeatRequest { session_id: agent.session_id.clone(), ..Default::default() };
    client.heartbeat(beat.clone()).await.expect("taken");
    swarm.until("ready again", |v| state(v, v1::NodeState::Ready)).await;
    swarm.until("down again", |v| state(v, v1::NodeState::Down)).await;
    control.remove_node(remove(false)).await.expect("removed");
    let mut wrong = agent.client.clone();
    let other = v1::HeartbeatRequest { session_id: "other".into(), ..Default::default() };
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
    assert!(refused.message().contains("loss of quorum"), "{refused}");
}

/// Once, one that was promoted between its leaving raft and its becoming a worker stayed a manager that was no member.
#[tokio::test]
async fn who_has_left_raft_is_a_worker_first_however_soon_it_is_promoted_again() {
    let swarm = swarm().await;
    let certified = async |role: v1::NodeRole| {
        let description = v1::NodeDescription { certified_role: role.into(), ..Default::default() };
        swarm.describe("manager3", description).await;
    };
    let role = |v: &crate::store::StoreView| v.node("manager3").map(|n| (n.role(), n.manager.is_some()));
    certified(v1::NodeRole::Manager).await;
    swarm.until("a member", |v| role(v) == Some((v1::NodeRole::Manager, true))).await;
    swarm.log.members.lock().expect("no panic").retain(|m| m.peer.node_id != "manager3");
    swarm.until("a worker", |v| role(v) == Some((v1::NodeRole::Worker, false))).await;
    // Its new certificate is what it may become a manager with.
    certified(v1::NodeRole::Worker).await;
    swarm.until("a manager again", |v| role(v) == Some((v1::NodeRole::Manager, false))).await;
}

#[tokio::test]
async fn logs_come_from_agents_at_every_manager() {
    let swarm = swarm().await;
    let mut agents = [swarm.agent(1, "one").await, swarm.agent(2, "two").await];
    let service = swarm.create(0, web(2, &[])).await.expect("created");
    for agent in &mut agents {
        let task = agent
            .until("a task", |op| match op {
                Op::Task(t) => t.task.as_ref().map(|t| t.id.clone()),
                _ => None,
            })
            .await;
        let mut logs = LogsClient::new(agent.channel.clone());
        let mut subscriptions =
            logs.listen_subscriptions(v1::Empty {}).await.expect("listening").into_inner();
        let node = agent.node_id.clone();
        tokio::spawn(async move {
            while let Ok(Some(subscription)) = subscriptions.message().await {
                let id = subscription.id;
                let entry = |task: &str, text: &str| v1::LogEntry {
                    node_id: node.clone(),
                    task_id: task.to_owned(),
                    data: text.into(),
                    ..Default::default()
                };
                let message = |entries, close| v1::PublishLogsMessage {
                    subscription_id: id.clone(),
                    entries,
                    close,
                    ..Default::default()
                };
                // Of a task that nobody can look up there are no lines.
                let entries = vec![entry("no such task", "bye\n"), entry(&task, "hello\n")];
                let messages = [message(entries, false), message(vec![], true)];
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
        tokio::time::timeout(Duration::from_secs(60), stream.collect()).await.expect("it ends");
    let mut nodes: Vec<_> =
        messages.into_iter().flat_map(|m| m.expect("no error").entries).map(|e| e.node_id).collect();
    nodes.sort();
    let mut expected = agents.each_ref().map(|a| a.node_id.clone()).to_vec();
    expected.sort();
    assert_eq!(nodes, expected);
}

/// A line that says so names a task, and clients look that up: the API keeps what names none until the stream ends.
#[tokio::test]
async fn one_that_follows_a_service_without_tasks_hears_of_what_is_missing_with_the_first() {
    let swarm = swarm().await;
    let service = swarm.create(0, web(0, &[])).await.expect("created");
    let peer = v1::RaftPeer { raft_id: 4, node_id: "manager4".into(), addr: "127.0.0.1:1".into() };
    let unreachable = Member { peer, voter: true, reachable: false };
    swarm.log.members.lock().expect("no panic").push(unreachable);
    let request = v1::SubscribeLogsRequest {
        selector: Some(v1::LogSelector { service_ids: vec![service.id.clone()], task_ids: Vec::new() }),
        options: Some(v1::LogOptions { follow: true, stdout: true, tail: -1, ..Default::default() }),
    };
    let stream = swarm.managers[0].logs.subscribe_logs(Request::new(request)).await;
    let mut stream = stream.expect("subscribed").into_inner();
    let update = v1::UpdateServiceRequest {
        id: service.id.clone(),
        version: swarm.service(0, &service.id).await.meta.map_or(0, |m| m.version),
        spec: Some(web(1, &[])),
        ..Default::default()
    };
    swarm.managers[0].control.update_service(Request::new(update)).await.expect("scaled");
    let first = tokio::time::timeout(Duration::from_secs(60), stream.next()).await.expect("at once");
    let message = first.expect("open").expect("no error");
    let said: Vec<_> = message.entries.iter().map(|e| String::from_utf8_lossy(&e.data)).collect();
    assert!(message.warning.is_empty() && said.len() == 1, "{message:?}");
    assert!(said[0].starts_with("warning: logs of agents at manager manager4 are missing"), "{said:?}");
    let task = swarm.log.stores[0].view().task(&message.entries[0].task_id).cloned();
    assert_eq!(task.map(|t| t.service_id.clone()), Some(service.id));
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
        rotate_unlock_key: false,
        ..Default::default()
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
