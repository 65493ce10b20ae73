//! Networks with IPv6 beside IPv4, and containers that choose their addresses there.

use skep_proto::v1;
use skep_proto::v1::assignment_change::Op;
use skep_proto::v1::control_server::Control;
use tonic::Request;

use super::attachments::{ask, attach};
use super::harness::{Swarm, swarm, web};

pub(super) async fn network(
    swarm: &Swarm,
    name: &str,
    subnet: &str,
    subnet6: &str,
) -> Result<v1::Network, String> {
    let spec = v1::NetworkSpec {
        annotations: Some(v1::Annotations { name: name.into(), ..Default::default() }),
        attachable: true,
        subnet: subnet.into(),
        ipv6: true,
        subnet6: subnet6.into(),
        ..Default::default()
    };
    let request = Request::new(v1::CreateNetworkRequest { spec: Some(spec) });
    let made = swarm.managers[1].control.create_network(request).await;
    made.map_err(|e| e.message().to_owned()).map(|m| m.into_inner().network.expect("there"))
}

fn ask6(container: &str, addr: &str, addr6: &str) -> v1::AttachRequest {
    v1::AttachRequest { addr6: addr6.into(), ..ask("both", container, addr) }
}

#[tokio::test]
async fn ranges_are_checked_and_do_not_overlap() {
    let swarm = swarm().await;
    network(&swarm, "both", "10.77.0.0/24", "fd77:1::/64").await.expect("made");
    for (subnet, subnet6, says) in [
        ("", "fd77:1::/56", "overlaps with fd77:1::/64 of network both"),
        ("", "10.0.0.0/8", "not an IPv6 network"),
        ("", "fe80::/64", "unicast"),
        ("", "ff00::/8", "unicast"),
        ("10.78.0.0/24", "fd78::/121", "at most 120"),
        ("", "fd78::/120", "at most 116"),
    ] {
        let why = network(&swarm, "other", subnet, subnet6).await.expect_err(subnet6);
        assert!(why.contains(says), "{subnet6}: {why}");
    }
    network(&swarm, "tight", "10.79.0.0/24", "fd79::100/120").await.expect("as large as the other");
    let without = v1::NetworkSpec {
        annotations: Some(v1::Annotations { name: "without".into(), ..Default::default() }),
        subnet6: "fd80::/64".into(),
        ..Default::default()
    };
    let request = Request::new(v1::CreateNetworkRequest { spec: Some(without) });
    let why = swarm.managers[0].control.create_network(request).await.expect_err("without");
    assert!(why.message().contains("turn it on with --ipv6"), "{why}");
}

#[tokio::test]
async fn containers_choose_among_what_is_free() {
    let swarm = swarm().await;
    let both = network(&swarm, "both", "10.77.0.0/24", "fd77:1::/64").await.expect("made").id;
    let (mut one, two) = (swarm.agent(1, "one").await, swarm.agent(2, "two").await);
    let own = |t: v1::Task| (t.addresses[0].addr.clone(), t.addresses[0].addr6.clone());
    let taken = |four: &str, six: &str| (four.to_owned(), six.to_owned());

    let first = attach(&one, ask6("c1", "", "fd77:1::40")).await.expect("free");
    assert_eq!(own(first), taken("10.77.0.64", "fd77:1::40"));
    let second = attach(&two, ask6("c2", "10.77.0.9", "")).await.expect("free");
    assert_eq!(own(second), taken("10.77.0.9", "fd77:1::9"));
    // Behind the places of IPv4 anything goes.
    let third = attach(&two, ask6("c3", "10.77.0.10", "fd77:1::beef:1")).await.expect("free");
    assert_eq!(own(third), taken("10.77.0.10", "fd77:1::beef:1"));
    for (addr, addr6, says) in [
        ("", "fd77:1::40", "already in use"),
        ("", "fd77:1::beef:1", "address fd77:1::beef:1 is already in use in network both"),
        ("", "fd78::1", "not in subnet fd77:1::/64"),
        ("10.77.0.20", "fd77:1::21", "goes with 10.77.0.33"),
        // A service's place.
        ("", "fd77:1::f0", "choose an IPv6 address from fd77:1::100 on"),
        ("", "10.0.0.1", "not an IPv6 address"),
    ] {
        let why = attach(&one, ask6("c4", addr, addr6)).await.expect_err(addr6);
        assert!(why.message().contains(says), "{addr} {addr6}: {why}");
    }

    let service = swarm.create(0, web(2, &["both"])).await.expect("created");
    let whole = |op: &Op| match op {
        Op::Network(v) if v.network_id == both => {
            let entry = v.services.iter().find(|s| s.service_id == service.id)?;
            (entry.vip6 == "fd77:1::c0" && v.attached.len() == 3 && !v.peers.is_empty()).then(|| v.clone())
        }
        _ => None,
    };
    let view = one.until("the network with its service", whole).await;
    assert_eq!((view.subnet6.as_str(), view.peers[0].overlay_addr6.is_empty()), ("fd77:1::/64", false));
    let has = |cidr: &str, node: &str| view.blocks6.iter().any(|b| b.cidr == cidr && b.node_id == node);
    assert!(has("fd77:1::40/126", &one.node_id) && has("fd77:1::8/126", &two.node_id), "{:?}", view.blocks6);
    assert!(has("fd77:1::beef:1/128", &two.node_id), "{:?}", view.blocks6);
    assert_eq!(view.blocks6.len(), view.blocks.len() + 1);
}
