//! Ports published on every node, by the nodes' IPv6 addresses: whom tasks see, whatever way a connection takes.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv6Addr};
use std::path::Path;

use skep_overlay::BridgeSpec;

use super::super::lab::{self, ask, request, serve, up};
use super::super::mesh;
use super::super::{Attached, BACKENDS, PORT, Swarm, assert_thirds, start, tally};
use super::six;

/// The second host, as the client beside it and as the first one see it.
const DOOR: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 0x67, 0, 0, 0, 0, 1);
const CLIENT: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 0x67, 0, 0, 0, 0, 9);

fn under(host: u16) -> Ipv6Addr {
    Ipv6Addr::new(0x2001, 0xdb8, 0x66, 0, 0, 0, 0, host)
}

const ALL: [&str; 3] = ["c130", "c70", "c71"];

/// Hosts and client with IPv6 on their links, and three tasks: of the first host one with a network of its own and one
/// without, of the second one with.
fn with_tasks(swarm: &Swarm) -> [Attached; 3] {
    for (host, number) in swarm.hosts.iter().zip(1..) {
        host.sh(&format!("ip addr add {}/64 dev under nodad", under(number)));
    }
    swarm.hosts[1].sh(&format!("ip addr add {DOOR}/64 dev side nodad"));
    swarm.client.sh(&format!("ip addr add {CLIENT}/64 dev side nodad"));
    // What others are told of a host follows.
    for (host, own) in [(0, under(1)), (1, under(2)), (1, DOOR)] {
        swarm.hosts[host].run(async {
            let mut addresses = swarm.planes[host].addresses();
            let known = addresses.wait_for(|all| all.contains(&IpAddr::V6(own)));
            let known = tokio::time::timeout(lab::PATIENCE, known).await.expect("an address that is told");
            let known = known.expect("a running plane");
            assert!(!known.iter().any(|a| a.is_loopback() || *a == IpAddr::V6(six(255, host as u8 + 1))));
        });
    }
    swarm.apply(&BACKENDS);
    let tasks =
        [swarm.container(0, &[1, 0], 70), swarm.container(0, &[0], 71), swarm.container(1, &[1, 0], 130)];
    for (task, name) in tasks.iter().zip(["c70", "c71", "c130"]) {
        mesh::serve_udp(&task.netns, 83, name);
        mesh::serve_lines(&task.netns, 82, name);
    }
    swarm.check();
    tasks
}

/// All tasks answer, by TCP and UDP, and see this client.
fn all_see(from: &Path, to: Ipv6Addr, client: impl Fn(&str) -> Ipv6Addr) {
    for protocol in ["tcp", "udp"] {
        let counts = tally(60, || {
            let answer = if protocol == "tcp" { ask(from, to, 8080) } else { mesh::ask_udp(from, to, 8083) };
            if let Some((name, seen)) = &answer {
                assert_eq!(*seen, client(name).to_string(), "{protocol}: {name}");
            }
            answer
        });
        assert_thirds(&counts, 60, &ALL);
    }
}

/// Who asks from a node, or from a container, reaches all tasks, also those at home by another node; and nobody else.
pub fn ipv6_ports() {
    let swarm = Swarm::new();
    let tasks = with_tasks(&swarm);
    let spec = BridgeSpec { name: "six".into(), ipv6: true, ..BridgeSpec::default() };
    let bridged = swarm.hosts[1].run(async {
        swarm.planes[1].create_bridge(spec).await.expect("bridge");
        up(&swarm.planes[1], request("bridged", &["six"])).await
    });
    // What is the host's in a network of containers is no address of its own.
    let gateway = bridged.endpoints[0].v6.as_ref().and_then(|v6| v6.gateway).expect("a gateway");
    assert!(!swarm.planes[1].addresses().borrow().contains(&IpAddr::V6(gateway)));
    for (what, from, to) in [
        ("loopback", swarm.hosts[1].netns(), Ipv6Addr::LOCALHOST),
        ("loopback elsewhere", swarm.hosts[0].netns(), Ipv6Addr::LOCALHOST),
        ("its own address", swarm.hosts[1].netns(), DOOR),
        ("another node", swarm.hosts[0].netns(), under(2)),
        ("another node, the other way", swarm.hosts[1].netns(), under(1)),
        ("a bridge", &*bridged.netns, DOOR),
        ("a task on that node", &*tasks[2].netns, DOOR),
        ("a task on another node", &*tasks[0].netns, under(2)),
    ] {
        let mut seen = BTreeMap::new();
        let counts = tally(40, || {
            let answer = ask(from, to, 8080);
            seen.extend(answer.clone());
            answer
        });
        assert_eq!(counts.keys().map(String::as_str).collect::<Vec<_>>(), ALL, "{what}: {counts:?}");
        println!("{what}: {seen:?}");
        let counts = tally(40, || mesh::ask_udp(from, to, 8083));
        assert_eq!(counts.keys().map(String::as_str).collect::<Vec<_>>(), ALL, "{what}, udp: {counts:?}");
    }
    // By the ingress network a task reaches out, but not one that is in internal networks otherwise, whatever it tries.
    serve(swarm.hosts[1].netns(), 81, "outside");
    let outside = under(2);
    assert_eq!(ask(&tasks[1].netns, outside, 81).map(|a| a.0), Some("outside".into()));
    let inner = swarm.container(0, &[2, 0], 72);
    lab::within(&inner.netns, || {
        let script = "ip -6 route replace default via fe80::1 dev eth0 src fd40::48";
        assert!(std::process::Command::new("sh").args(["-c", script]).status().expect("sh").success());
    });
    assert_eq!(lab::knock(&inner.netns, outside, 81), None, "an internal network has no way out");
    swarm.hosts[0].run(swarm.planes[0].detach("c72")).expect("detach");
    // Tasks do not reach each other by their ingress addresses.
    assert_eq!(lab::knock(&tasks[0].netns, six(0, 71), 80), None);
    assert_eq!(lab::knock(&tasks[0].netns, six(0, 130), 80), None, "across hosts");
    // A flow of datagrams stays with its task until that is gone, however long its client goes on.
    let from = swarm.client.netns();
    let flows: Vec<_> = (0..12).map(|_| mesh::Datagrams::open(from, DOOR, 8083).expect("port")).collect();
    let name = |flow: &mesh::Datagrams| flow.ask().expect("an answer").0;
    let names: Vec<_> = flows.iter().map(name).collect();
    let mut desired = swarm.desired(1, &[(1, 130)]);
    desired.ports[2].leaving6 = [70, 71].map(|host| six(0, host)).into();
    swarm.hosts[1].run(swarm.planes[1].apply(desired, PORT)).expect("apply");
    assert_eq!(flows.iter().map(name).collect::<Vec<_>>(), names, "while the task goes on");
    swarm.apply(&[(1, 130)]);
    assert!(flows.iter().all(|f| name(f) == "c130"), "once it is gone");
    swarm.check();
}

/// Tasks of either host see the client of the second one. The first host knows no way to that client.
pub fn ipv6_client_addresses() {
    let mut swarm = Swarm::new();
    with_tasks(&swarm);
    // The check of sources that firewalls have, as the kernel has none of IPv6 itself.
    for host in &swarm.hosts {
        host.sh(
            "nft 'add table ip6 strict; add chain ip6 strict arrive { type filter hook prerouting priority 10; }; \
             add rule ip6 strict arrive fib saddr . mark . iif oif missing drop'",
        );
    }
    let from = swarm.client.netns().to_owned();
    all_see(&from, DOOR, |_| CLIENT);

    // Datagrams that are too large for the way, in both directions: each side learns what fits (RFC 8201), so that what
    // is sent first may be lost.
    for _ in 0..6 {
        let flow = mesh::Datagrams::open(&from, DOOR, 8083).expect("port");
        let answer = (0..4).find_map(|_| flow.ask_at_length(3000));
        assert_eq!(answer.expect("large datagrams").1, CLIENT.to_string());
    }

    // Connections outlive either host's daemon, and carry full segments.
    let mut connections: Vec<_> = (0..12).map(|_| mesh::Lines::open(&from, DOOR, 8082)).collect();
    let names: Vec<_> = connections.iter_mut().map(|c| c.ask(100_000)).collect();
    assert!(names.iter().any(|n| n != "c130"), "{names:?}");
    for node in 0..2 {
        swarm.hosts[node].run(swarm.planes[node].shutdown());
        swarm.planes[node] = start(&swarm.hosts[node]);
        let kept = ["c70", "c71", "c130"].map(str::to_owned);
        swarm.hosts[node].run(swarm.planes[node].retain(&kept)).expect("retain");
    }
    swarm.check();
    // And tasks that no longer get new ones.
    swarm.apply(&[(1, 130)]);
    let again: Vec<_> = connections.iter_mut().map(|c| c.ask(10)).collect();
    assert_eq!(names, again);
    drop(connections);

    // A node that knows nothing of it gets such connections as the asked node's own; and no more once it does. A flow of
    // datagrams goes on meanwhile, which has one translation as long as it is remembered.
    swarm.apply(&BACKENDS);
    let flows: Vec<_> = (0..12).map(|_| mesh::Datagrams::open(&from, DOOR, 8083).expect("port")).collect();
    assert!(flows.iter().all(|f| f.ask().expect("an answer").1 == CLIENT.to_string()));
    for knows in [false, true] {
        for node in 0..2 {
            let mut desired = swarm.desired(node, &BACKENDS);
            let peers = desired.networks.values_mut().flat_map(|n| &mut n.peers);
            peers.for_each(|p| p.keeps_client_address6 = knows);
            swarm.hosts[node].run(swarm.planes[node].apply(desired, PORT)).expect("apply");
        }
        swarm.check();
        let own = |name: &str| knows || name == "c130";
        for flow in &flows {
            let (name, seen) = flow.ask().expect("a flow that goes on");
            assert_eq!(seen, if own(&name) { CLIENT } else { six(255, 2) }.to_string(), "{name}");
        }
        all_see(&from, DOOR, |name| if own(name) { CLIENT } else { six(255, 2) });
        let four = ask(&from, super::super::DOOR, 8080).map(|a| a.1);
        assert_eq!(four.as_deref(), Some("10.67.0.9"), "IPv4 meanwhile");
    }

    // Whatever is broken is seen and mended.
    let instance = swarm.hosts[1].instance.clone();
    for breakage in [
        format!("ip link del vx-{instance}"),
        format!("ip -6 route flush dev vx-{instance} table all"),
        format!("ip -6 neigh flush dev vx-{instance} nud permanent"),
        format!("echo 1 > /proc/sys/net/ipv6/conf/vx-{instance}/disable_ipv6"),
        format!("nft flush map ip6 skep_{instance} mesh_nodes"),
        format!("nft flush chain ip6 skep_{instance} mesh_track"),
        "ip -6 rule flush".to_owned(),
    ] {
        assert!(swarm.notices(1, &breakage), "unseen: {breakage}");
        if breakage == "ip -6 rule flush" {
            swarm.hosts[1].sh("ip -6 rule add pref 32766 table main");
        }
        swarm.hosts[1].run(swarm.planes[1].reconcile()).expect("reconcile");
        swarm.check();
        let counts = tally(40, || ask(&from, DOOR, 8080));
        assert_eq!(counts.keys().map(String::as_str).collect::<Vec<_>>(), ALL, "{breakage}: {counts:?}");
    }
}

/// Where the tunnel has no room for the smallest link that IPv6 may be on, and VXLAN around that.
pub fn ipv6_small_underlay() {
    let swarm = Swarm::on(|host| {
        host.sh("ip link set under mtu 1400 && ip route add default dev under");
    });
    with_tasks(&swarm);
    let instance = &swarm.hosts[1].instance;
    let links = swarm.hosts[1].sh(&format!("ip link show wg-{instance}; ip link show vx-{instance}"));
    assert!(links.contains("mtu 1320") && links.contains("mtu 1280"), "{links}");
    let from = swarm.client.netns();
    all_see(from, DOOR, |_| CLIENT);
    let mut connections: Vec<_> = (0..12).map(|_| mesh::Lines::open(from, DOOR, 8082)).collect();
    let names: Vec<_> = connections.iter_mut().map(|c| c.ask(100_000)).collect();
    assert!(names.iter().any(|n| n != "c130"), "{names:?}");
}
