//! The default bridge network on a bridge of the user's, which a LAN is on: who is there stays apart from other networks,
//! is known to tasks by its own address, and has its bridge back as it was.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::path::Path;
use std::sync::mpsc::TryRecvError;

use skep_overlay::{DataPlane, DefaultBridge};

use super::lab::{ask, request, start, up, within};
use super::six::six;
use super::{BACKENDS, DOOR, Swarm, assert_thirds, mesh, tally};

/// The second host's address on its LAN, and a client's there.
const DOOR6: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 0x67, 0, 0, 0, 0, 1);
const CLIENT6: &str = "2001:db8:67::9";
const ALL: [&str; 3] = ["c130", "c70", "c71"];
/// Settings of a bridge that a network changes.
const SETTINGS: &str = "cd /proc/sys/net/ipv4/conf/lan && cat route_localnet rp_filter send_redirects";

fn sh(netns: &Path, script: &str) {
    within(netns, || {
        assert!(std::process::Command::new("sh").args(["-c", script]).status().expect("sh").success());
    });
}

pub fn bridge_of_the_users() {
    let mut swarm = Swarm::new();
    swarm.hosts[1].run(swarm.planes[1].shutdown());
    swarm.hosts[1].sh(&format!(
        "ip link add lan type bridge && ip addr flush dev side && ip link set side master lan && ip link set lan up && \
         ip addr add {DOOR}/24 dev lan && ip addr add {DOOR6}/64 dev lan nodad && \
         echo 2 > /proc/sys/net/ipv4/conf/lan/rp_filter"
    ));
    swarm.client.sh(&format!("ip addr add {CLIENT6}/64 dev side nodad"));
    assert_eq!(swarm.hosts[1].sh(SETTINGS), "0\n2\n1\n");
    let told = skep_overlay::DataPlaneOptions {
        default_bridge: DefaultBridge { interface: Some("lan".into()), ipv6: true, ..Default::default() },
        ..swarm.hosts[1].options()
    };
    let on_lan = |swarm: &Swarm| swarm.hosts[1].run(DataPlane::start(told.clone())).expect("data plane");
    swarm.planes[1] = on_lan(&swarm);
    assert_eq!(swarm.hosts[1].sh(SETTINGS), "1\n0\n0\n");
    swarm.apply(&BACKENDS);
    swarm.container(0, &[1, 0], 70);
    swarm.container(0, &[0], 71);
    let task = swarm.container(1, &[1, 0], 130);
    let bridged = swarm.hosts[1].run(up(&swarm.planes[1], request("bridged", &["bridge"])));
    swarm.check();

    // Tasks of either host know who is on the LAN by its own address. A container there is known by its host's, since
    // another host may have one with that address.
    let (from, door) = (swarm.client.netns(), IpAddr::V4(DOOR));
    let node = |node: u8, v6: bool| if v6 { six(255, node).to_string() } else { format!("10.255.0.{node}") };
    for (door, client) in [(door, "10.67.0.9"), (DOOR6.into(), CLIENT6)] {
        let counts = tally(60, || {
            let answer = ask(from, door, 8080);
            assert_eq!(answer.as_ref().map(|a| a.1.as_str()), Some(client), "{answer:?}");
            answer
        });
        assert_thirds(&counts, 60, &ALL);
        let counts = tally(60, || {
            let answer = ask(&bridged.netns, door, 8080);
            let elsewhere = answer.as_ref().filter(|a| a.0 != "c130").map(|a| a.1.as_str());
            assert!(elsewhere.is_none_or(|seen| seen == node(2, door.is_ipv6())), "{answer:?}");
            answer
        });
        assert_thirds(&counts, 60, &ALL);
    }

    // Who takes an address of an overlay there is not taken for one of it.
    let heard = mesh::serve_udp(&task.netns, 84, "c130");
    sh(from, "ip addr add 10.40.1.99/32 dev side && ip route add 10.40.1.130 via 10.67.0.1 src 10.40.1.99");
    sh(from, "ip addr add fd40:1::63/128 dev side nodad");
    sh(from, &format!("ip -6 route add fd40:1::82/128 via {DOOR6} src fd40:1::63"));
    for to in [Ipv4Addr::new(10, 40, 1, 130).into(), IpAddr::V6(six(1, 130))] {
        assert_eq!(mesh::ask_udp(from, to, 84), None, "{to}");
        assert_eq!(heard.try_recv(), Err(TryRecvError::Empty), "{to}");
    }
    let neighbour = swarm.container(1, &[1], 131);
    assert!(mesh::ask_udp(&neighbour.netns, six(1, 130), 84).is_some(), "one of it is heard");

    // What somebody set while no daemon ran is theirs; the bridge has it back with the rest once the network leaves.
    let again = |swarm: &mut Swarm, plane: DataPlane| {
        swarm.planes[1] = plane;
        let kept = ["c130", "c131"].map(str::to_owned);
        swarm.hosts[1].run(swarm.planes[1].retain(&kept)).expect("retain");
    };
    swarm.hosts[1].run(swarm.planes[1].detach("bridged")).expect("detach");
    swarm.hosts[1].run(swarm.planes[1].shutdown());
    swarm.hosts[1].sh("echo 1 > /proc/sys/net/ipv4/conf/lan/rp_filter");
    let plane = on_lan(&swarm);
    again(&mut swarm, plane);
    assert_eq!(swarm.hosts[1].sh(SETTINGS), "1\n0\n0\n");
    swarm.hosts[1].run(swarm.planes[1].shutdown());
    let plane = swarm.hosts[1].run(start(&swarm.hosts[1]));
    again(&mut swarm, plane);
    assert_eq!(swarm.hosts[1].sh(SETTINGS), "0\n1\n1\n");
    swarm.check();
    assert!(
        swarm.hosts[1].sh("ip -o addr show dev lan").contains("10.67.0.1/24"),
        "the bridge is the user's"
    );
    // As it has with a data root that is given up.
    swarm.hosts[1].run(swarm.planes[1].shutdown());
    let plane = on_lan(&swarm);
    again(&mut swarm, plane);
    assert_eq!(swarm.hosts[1].sh(SETTINGS), "1\n0\n0\n");
    swarm.hosts[1].run(swarm.planes[1].uninstall()).expect("uninstall");
    assert_eq!(swarm.hosts[1].sh(SETTINGS), "0\n1\n1\n");
}
