//! Containers outside services in attachable networks.

use skep_proto::v1::assignment_change::Op;
use skep_proto::v1::control_server::Control;
use skep_proto::v1::{self, TaskState};
use tonic::{Code, Request};

use super::harness::{Agent, Swarm, swarm, web};

async fn network(swarm: &Swarm, name: &str, attachable: bool) -> String {
    let spec = v1::NetworkSpec {
        annotations: Some(v1::Annotations { name: name.into(), ..Default::default() }),
        attachable,
        ..Default::default()
    };
    let request = Request::new(v1::CreateNetworkRequest { spec: Some(spec) });
    let made = swarm.managers[1].control.create_network(request).await.expect("created");
    made.into_inner().network.expect("there").id
}

pub(super) fn ask(network: &str, container: &str, addr: &str) -> v1::AttachRequest {
    v1::AttachRequest {
        // A worker speaks for itself only, whatever it says.
        node_id: "manager1".into(),
        network: network.into(),
        attachment: Some(v1::Attachment {
            container_id: container.into(),
            container_name: format!("{container}-name"),
            aliases: vec!["db".into()],
        }),
        addr: addr.into(),
        ..Default::default()
    }
}

pub(super) async fn attach(agent: &Agent, request: v1::AttachRequest) -> Result<v1::Task, tonic::Status> {
    let answer = agent.client.clone().attach(request).await?;
    Ok(answer.into_inner().task.expect("a place"))
}

#[tokio::test]
async fn a_container_of_any_node_gets_one_place_and_all_nodes_know_its_names() {
    let swarm = swarm().await;
    network(&swarm, "closed", false).await;
    let open = network(&swarm, "open", true).await;
    let (mut one, mut two) = (swarm.agent(1, "one").await, swarm.agent(2, "two").await);

    let closed = attach(&one, ask("closed", "c1", "")).await.expect_err("not attachable");
    assert_eq!(
        (closed.code(), closed.message()),
        (Code::PermissionDenied, "network closed not manually attachable")
    );
    assert_eq!(attach(&one, ask("nowhere", "c1", "")).await.expect_err("none").code(), Code::NotFound);

    let first = attach(&one, ask("open", "c1", "")).await.expect("a place");
    assert_eq!((&first.node_id, &first.addresses[0].network_id), (&one.node_id, &open));
    assert_eq!(
        (first.service_id.as_str(), first.status.as_ref().map(|s| s.state())),
        ("", Some(TaskState::Running))
    );
    let told = |op: &Op| match op {
        Op::Task(t) => t.task.clone().filter(|t| t.attachment.is_some()),
        _ => None,
    };
    assert_eq!(one.until("its place", told).await.addresses, first.addresses);
    assert_eq!(
        attach(&one, ask("open", "c1", "")).await.expect("again").id,
        first.id,
        "one place a container"
    );

    let second = attach(&two, ask(&open, "c2", "")).await.expect("a place");
    assert_ne!(second.addresses, first.addresses);
    let both = |op: &Op| match op {
        Op::Network(n) if n.attached.len() == 2 => Some(n.clone()),
        _ => None,
    };
    let view = one.until("both containers", both).await;
    let names: Vec<_> = view.attached.iter().map(|a| (a.name.as_str(), a.addr.as_str())).collect();
    assert!(names.contains(&("c2-name", second.addresses[0].addr.as_str())), "{names:?}");
    assert_eq!(view.attached[0].aliases, ["db"]);
    assert!(view.blocks.iter().any(|b| b.node_id == two.node_id), "routed: {:?}", view.blocks);
    two.until("both containers", both).await;

    let taken = attach(&two, ask("open", "c3", &first.addresses[0].addr)).await.expect_err("has it");
    assert!(taken.message().contains("already in use in network open"), "{taken}");
    let outside = attach(&two, ask("open", "c3", "192.0.2.1")).await.expect_err("not of the network");
    assert!(outside.message().contains("give one from"), "{outside}");
    let asked = first.addresses[0].addr.parse::<std::net::Ipv4Addr>().expect("an address");
    let asked = std::net::Ipv4Addr::from(u32::from(asked) + 3).to_string();
    let third = attach(&two, ask("open", "c3", &asked)).await.expect("free");
    assert_eq!(third.addresses[0].addr, asked);

    // Services keep off the addresses, and the tasks off the listings.
    let service = swarm.create(0, web(3, &["open"])).await.expect("created");
    swarm
        .until("three tasks with addresses", |v| {
            v.tasks_of_service(&service.id).filter(|t| !t.addresses.is_empty()).count() == 3
        })
        .await;
    let addresses: std::collections::BTreeSet<_> =
        swarm.log.stores[0].view().tasks().flat_map(|t| t.addresses.clone()).map(|a| a.addr).collect();
    assert_eq!(addresses.len(), 6);
    let control = &swarm.managers[0].control;
    let list = |attachments| Request::new(v1::ListTasksRequest { attachments, ..Default::default() });
    let count = async |attachments| {
        control.list_tasks(list(attachments)).await.expect("read").into_inner().tasks.len()
    };
    assert_eq!((count(false).await, count(true).await), (3, 3));
}

#[tokio::test]
async fn a_place_is_given_back_by_its_node_or_goes_with_it() {
    let swarm = swarm().await;
    let open = network(&swarm, "open", true).await;
    let (one, two) = (swarm.agent(1, "one").await, swarm.agent(2, "two").await);
    attach(&one, ask("open", "c1", "")).await.expect("a place");
    attach(&two, ask("open", "c2", "")).await.expect("a place");
    let control = &swarm.managers[0].control;
    let remove = || Request::new(v1::RemoveRequest { id: "open".into() });
    let used = control.remove_network(remove()).await.expect_err("in use");
    assert!(
        used.message().contains("network open is in use by task") && used.message().contains("-name"),
        "{used}"
    );

    let foreign = v1::DetachRequest { container_id: "c2".into(), ..Default::default() };
    one.client.clone().detach(foreign).await.expect("nothing of its own");
    let own = v1::DetachRequest { container_id: "c1".into(), network_id: open, ..Default::default() };
    one.client.clone().detach(own.clone()).await.expect("given back");
    one.client.clone().detach(own).await.expect("twice is fine");
    let left: Vec<_> = swarm.log.stores[0].view().attachments().map(|t| t.node_id.clone()).collect();
    assert_eq!(left, std::slice::from_ref(&two.node_id));

    let gone = Request::new(v1::RemoveNodeRequest { id: two.node_id.clone(), force: true });
    control.remove_node(gone).await.expect("removed");
    swarm.until("no place is left", |v| v.attachments().next().is_none()).await;
    control.remove_network(remove()).await.expect("free");
}
