//! What a node says of itself reaches the leader by the manager it speaks to, and that one may be slow: what a node said
//! before must not take the place of what it has said since by way of another.

use skep_identity::{Identity, Role, channel};
use skep_proto::v1;
use skep_proto::v1::control_server::Control;
use skep_proto::v1::dispatcher_client::DispatcherClient;
use tonic::transport::Channel;
use tonic::{Code, Request, Status};

use super::harness::{Swarm, swarm};

fn described(key: &str) -> Option<v1::NodeDescription> {
    let (hostname, wireguard_public_key) = ("one".into(), key.into());
    Some(v1::NodeDescription { hostname, wireguard_public_key, ..Default::default() })
}

/// What the swarm holds of a node: its key, and how often it has registered.
fn held(swarm: &Swarm, node: &str) -> (String, u64) {
    let view = swarm.log.stores[0].view();
    let node = view.node(node).expect("there");
    let key = node.description.as_ref().map(|d| d.wireguard_public_key.clone());
    (key.unwrap_or_default(), node.registration)
}

/// A client to manager `to` with the identity that `who` has on its disk.
fn client(swarm: &Swarm, who: &str, to: usize) -> DispatcherClient<Channel> {
    let identity = Identity::load(&swarm.dir.path().join(who), None).expect("read").expect("there");
    DispatcherClient::new(channel(&identity, &swarm.network, &swarm.addr(to), Role::Manager))
}

async fn register(swarm: &Swarm, at: usize, key: &str, registration: Option<u64>) -> Result<(), Status> {
    let description = described(key);
    let request = v1::SessionRequest { description, registration, ..Default::default() };
    client(swarm, "one", at).session(request).await.map(drop)
}

/// Once, a manager of a swarm whose root was replaced stayed for good at the certificate it had before its last one.
#[tokio::test]
async fn what_a_node_said_before_comes_too_late_by_another_manager() {
    let swarm = swarm().await;
    let node = swarm.agent(1, "one").await.node_id.clone();
    let known = held(&swarm, &node).1;
    register(&swarm, 1, "first", Some(known)).await.expect("registered");
    // The node says this to manager 2, which is slow to pass it on; it leaves that one, and registers with manager 3.
    let kept = v1::NodeReport {
        node_id: node.clone(),
        description: described("second"),
        addr: "192.0.2.2".into(),
        registration: Some(known + 1),
        ..Default::default()
    };
    register(&swarm, 2, "third", Some(known + 1)).await.expect("registered");
    let request = v1::ReportRequest { nodes: vec![kept] };
    let answer = client(&swarm, "manager2", 0).report(request).await.expect("answered").into_inner();
    assert_eq!(answer.late, [v1::LateReport { index: 0, registration: known + 2 }]);
    assert_eq!(held(&swarm, &node), ("third".into(), known + 2));
}

/// A daemon that was started again knows no number, and is told it; one of an older version knows of none.
#[tokio::test]
async fn a_node_that_does_not_know_how_often_it_has_registered_is_told() {
    let swarm = swarm().await;
    let node = swarm.agent(1, "one").await.node_id.clone();
    register(&swarm, 2, "older", None).await.expect("registered");
    let (_, number) = held(&swarm, &node);
    let refused = register(&swarm, 1, "anew", Some(0)).await.expect_err("it has registered before");
    assert_eq!((refused.code(), skep_identity::registration(&refused)), (Code::Aborted, Some(number)));
    assert_eq!(held(&swarm, &node), ("older".into(), number));
    register(&swarm, 1, "anew", Some(number)).await.expect("registered");
    assert_eq!(held(&swarm, &node), ("anew".into(), number + 1));
}

/// Heartbeats are many, and say nothing of what the node is.
#[tokio::test]
async fn a_heartbeat_is_no_registration() {
    let swarm = swarm().await;
    let node = swarm.agent(1, "one").await.node_id.clone();
    let before = held(&swarm, &node);
    let beat = v1::NodeReport { node_id: node.clone(), ..Default::default() };
    let request = v1::ReportRequest { nodes: vec![beat] };
    client(&swarm, "manager2", 0).report(request).await.expect("answered");
    assert_eq!(held(&swarm, &node), before);
}

/// A role is changed by the node's own certificate, and the next change of it comes as soon as that is seen.
#[tokio::test]
async fn what_a_node_says_of_itself_is_not_in_the_way_of_who_changes_it() {
    let swarm = swarm().await;
    let node = swarm.agent(1, "one").await.node_id.clone();
    let seen = || {
        let view = swarm.log.stores[0].view();
        let node = view.node(&node).expect("there");
        (node.meta.map_or(0, |m| m.version), node.spec.clone().unwrap_or_default())
    };
    let update = async |version, availability: v1::NodeAvailability| {
        let spec = v1::NodeSpec { availability: availability.into(), ..seen().1 };
        let request = v1::UpdateNodeRequest { id: node.clone(), version, spec: Some(spec) };
        swarm.managers[1].control.update_node(Request::new(request)).await.map(drop)
    };
    let (version, _) = seen();
    register(&swarm, 1, "again", Some(held(&swarm, &node).1)).await.expect("registered");
    assert!(seen().0 > version, "the node has another version");
    update(version, v1::NodeAvailability::Pause).await.expect("on the specification that there is");
    let late = update(version, v1::NodeAvailability::Drain).await.expect_err("somebody has changed it since");
    assert!(late.message().starts_with("update out of sequence"), "{late}");
    update(seen().0, v1::NodeAvailability::Drain).await.expect("on what it is now");
}
