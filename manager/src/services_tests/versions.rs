//! Nodes and managers of older versions: what they would drop without a word they are not given.

use skep_proto::v1;
use skep_proto::v1::assignment_change::Op;

use super::harness::{swarm, web};
use super::ipv6::network;

fn described(knows: &[&str]) -> v1::NodeDescription {
    v1::NodeDescription {
        hostname: "elder".into(),
        engine_version: "0.1.0".into(),
        wireguard_public_key: "key of elder".into(),
        knows: knows.iter().map(|w| (*w).to_owned()).collect(),
        ..Default::default()
    }
}

/// Published on every node, one port on all addresses and one on one of them.
fn published() -> v1::ServiceSpec {
    let port = |published_port, host_ip: &str| v1::PortConfig {
        published_port,
        target_port: 80,
        host_ip: host_ip.into(),
        ..Default::default()
    };
    let ports = vec![port(8080, ""), port(8081, "192.0.2.1")];
    v1::ServiceSpec { endpoint: Some(v1::EndpointSpec { ports, ..Default::default() }), ..web(1, &[]) }
}

#[tokio::test]
async fn a_port_on_one_address_is_told_to_nodes_that_open_it_there_alone() {
    let swarm = swarm().await;
    let mut elder = swarm.agent(1, "elder").await;
    swarm.create(0, published()).await.expect("all managers may know it");
    let ports = |op: &Op| match op {
        Op::Ingress(v) if !v.ports.is_empty() => {
            Some(v.ports.iter().map(|p| p.published_port).collect::<Vec<_>>())
        }
        _ => None,
    };
    assert_eq!(elder.until("its ports", ports).await, [8080], "it would open the other one everywhere");
    // It was upgraded, which takes its daemon a start; the stream shows that no other one is needed.
    swarm.describe(&elder.node_id, described(&["host-ip"])).await;
    assert_eq!(elder.until("its ports", ports).await, [8080, 8081]);
    swarm.describe(&elder.node_id, described(&[])).await;
    assert_eq!(elder.until("its ports", ports).await, [8080], "and back again");
}

#[tokio::test]
async fn what_a_manager_would_drop_of_ports_and_networks_is_refused() {
    let swarm = swarm().await;
    let said = |knows: &'static [&'static str]| swarm.describe("manager3", described(knows));
    said(&[]).await;
    let why = swarm.create(1, published()).await.expect_err("one does not know it");
    assert!(
        why.message().starts_with("ports on one address or interface of the hosts need all managers"),
        "{why}"
    );
    let why = network(&swarm, "both", "10.77.0.0/24", "fd77:1::/64").await.expect_err("one does not know it");
    assert!(
        why.starts_with("overlay networks with IPv6 need all managers") && why.contains("elder"),
        "{why}"
    );
    // One that says anything of what it knows came after these two.
    said(&["domainname"]).await;
    swarm.create(1, published()).await.expect("known to all");
    network(&swarm, "both", "10.77.0.0/24", "fd77:1::/64").await.expect("known to all");
}
