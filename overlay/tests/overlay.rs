//! Two hosts of a swarm on the real kernel: encrypted overlay networks, virtual addresses, ports
//! published on every node, isolation, restarts. Has a `main` of its own because it also is the
//! userspace WireGuard of the hosts it makes.

mod doors;
mod idle;
mod lab;
mod lan;
mod mesh;
#[path = "lab/notices.rs"]
mod notices;
mod six;

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::net::Ipv4Addr;
use std::panic::{AssertUnwindSafe, catch_unwind};

use lab::{Host, ask, assert_same, request, serve, up};
use six::{VIP6, six};
use skep_overlay::desired::{
    Backend, Cidr, Cidr6, Desired, Door, IdleTimeout, Network, Peer, PublishedPort, Service,
};
use skep_overlay::{AttachRequest, Attached, DataPlane, Join};

const PORT: u16 = 4789;
const NODES: [&str; 2] = ["node-a", "node-b"];
const VIP: Ipv4Addr = Ipv4Addr::new(10, 40, 1, 2);

fn main() {
    let args: Vec<OsString> = std::env::args_os().collect();
    if args.get(1).is_some_and(|a| a == "wireguard") {
        std::process::exit(skep_overlay::wireguard_main(&args[2..]));
    }
    let filter = args.iter().skip(1).filter_map(|a| a.to_str()).find(|a| !a.starts_with('-'));
    let tests: [(&str, fn()); 16] = [
        ("virtual_addresses", virtual_addresses),
        ("isolation", isolation),
        ("published_ports", published_ports),
        ("client_addresses", client_addresses),
        ("forged_packets", forged_packets),
        ("restart_and_drift", restart_and_drift),
        ("leaving", leaving),
        ("idle_timeouts", idle::idle_timeouts),
        ("bridge_of_the_users", lan::bridge_of_the_users),
        ("doors", doors::doors),
        ("containers_doors", doors::containers_doors),
        ("ipv6", six::ipv6),
        ("ipv6_ports", six::ports::ipv6_ports),
        ("ipv6_client_addresses", six::ports::ipv6_client_addresses),
        ("ipv6_small_underlay", six::ports::ipv6_small_underlay),
        ("ipv6_drift", six::ipv6_drift),
    ];
    if args.iter().any(|a| a == "--list") {
        tests.iter().for_each(|(name, _)| println!("{name}: test"));
        return;
    }
    let mut failed = Vec::new();
    for (name, test) in tests.iter().filter(|(n, _)| filter.is_none_or(|f| n.contains(f))) {
        let ok = catch_unwind(AssertUnwindSafe(test)).is_ok();
        println!("test {name} ... {}", if ok { "ok" } else { "FAILED" });
        if !ok {
            failed.push(*name);
        }
    }
    if !failed.is_empty() {
        eprintln!("failed: {failed:?}");
        std::process::exit(101);
    }
}

fn cidr(text: &str) -> Cidr {
    text.parse().expect("network")
}

/// Two hosts on one underlay, and a client beside the second one.
struct Swarm {
    hosts: [Host; 2],
    client: Host,
    planes: [DataPlane; 2],
}

/// The second host's address as the client sees it.
const DOOR: Ipv4Addr = Ipv4Addr::new(10, 67, 0, 1);

impl Swarm {
    /// Whether the check finds what somebody else broke on a node.
    pub fn notices(&self, node: usize, breakage: &str) -> bool {
        self.hosts[node].run(notices::notices(&self.planes[node], &self.hosts[node], breakage))
    }

    fn new() -> Self {
        Self::on(|_| ())
    }

    /// On hosts that something was done to before.
    fn on(prepare: impl Fn(&Host)) -> Self {
        let hosts = [Host::new(), Host::new()];
        let client = Host::new();
        hosts[0].connect(&hosts[1], "under", "10.66.0.1", "10.66.0.2");
        hosts[1].connect(&client, "side", "10.67.0.1", "10.67.0.9");
        hosts.iter().for_each(prepare);
        let planes = [start(&hosts[0]), start(&hosts[1])];
        Self { hosts, client, planes }
    }

    /// Networks 1 and 2 and the ingress network; service `web` with these backends in network 1 and on
    /// port 8080.
    fn desired(&self, node: usize, backends: &[(usize, u8)]) -> Desired {
        let other = 1 - node;
        let peer = Peer {
            node_id: NODES[other].into(),
            endpoint: format!("10.66.0.{}:{PORT}", other + 1).parse().expect("endpoint"),
            public_key: self.planes[other].public_key(),
            overlay_addr: Ipv4Addr::new(10, 255, 0, other as u8 + 1),
            overlay_addr6: Some(six(255, other as u8 + 1)),
            keeps_client_address: self.planes[other].keeps_client_address(),
            keeps_client_address6: self.planes[other].keeps_client_address6(),
            addresses: self.planes[other].addresses().borrow().clone(),
        };
        let backend = |net: u8| {
            move |(node, host): &(usize, u8)| Backend {
                task_id: format!("task{host}"),
                task_name: format!("web.{host}"),
                addr: Ipv4Addr::new(10, 40, net, *host),
                addr6: Some(six(net, *host)),
                node_id: NODES[*node].into(),
            }
        };
        let network = |net: u8| {
            let web = Service {
                id: "web-id".into(),
                name: "web".into(),
                aliases: vec![],
                vip: Some(VIP),
                vip6: Some(VIP6),
                backends: backends.iter().map(backend(1)).collect(),
                idle: IdleTimeout::default(),
            };
            let network = Network {
                id: format!("net{net}"),
                name: format!("network-{net}"),
                version: 7,
                subnet: cidr(&format!("10.40.{net}.0/24")),
                subnet6: Some(Cidr6 { addr: six(net, 0), len: 64 }),
                internal: net == 2,
                ingress: net == 0,
                peers: vec![peer.clone()],
                blocks: BTreeMap::from([
                    (cidr(&format!("10.40.{net}.64/26")), NODES[0].to_owned()),
                    (cidr(&format!("10.40.{net}.128/26")), NODES[1].to_owned()),
                ]),
                blocks6: [(64, 0), (128, 1)]
                    .map(|(first, node)| (Cidr6 { addr: six(net, first), len: 122 }, NODES[node].to_owned()))
                    .into(),
                services: if net == 1 { vec![web] } else { vec![] },
                attached: vec![],
                attachable: false,
            };
            (network.id.clone(), network)
        };
        Desired {
            node_id: NODES[node].into(),
            overlay_addr: Some(Ipv4Addr::new(10, 255, 0, node as u8 + 1)),
            overlay_addr6: Some(six(255, node as u8 + 1)),
            networks: [network(0), network(1), network(2)].into(),
            ingress_version: 3,
            ports: [("tcp", 8080, 80), ("tcp", 8082, 82), ("udp", 8083, 83)]
                .map(|(protocol, published, target)| PublishedPort {
                    protocol: protocol.into(),
                    published,
                    target,
                    host: Door::Everywhere,
                    backends: backends.iter().map(backend(0)).collect(),
                    leaving: vec![],
                    leaving6: vec![],
                    idle: IdleTimeout::default(),
                })
                .into(),
        }
    }

    fn apply(&self, backends: &[(usize, u8)]) {
        for node in 0..2 {
            let applied = self.hosts[node].run(self.planes[node].apply(self.desired(node, backends), PORT));
            let applied = applied.expect("apply");
            assert_eq!((applied.networks["net1"], applied.ingress), (7, 3));
        }
    }

    /// A container with the same last number in each of these networks.
    fn container(&self, node: usize, networks: &[u8], host: u8) -> Attached {
        let networks = networks.iter().map(|n| self.join(*n, host)).collect();
        let request = AttachRequest { networks, ..request(&format!("c{host}"), &[]) };
        self.hosts[node].run(up(&self.planes[node], request))
    }

    /// A place in a network.
    fn join(&self, net: u8, host: u8) -> Join {
        Join {
            network: format!("net{net}"),
            addr: Some(Ipv4Addr::new(10, 40, net, host)),
            addr6: Some(six(net, host)),
            ..Join::default()
        }
    }

    fn check(&self) {
        for node in 0..2 {
            let found = self.hosts[node].run(self.planes[node].check()).expect("check");
            assert_eq!(found, Vec::<String>::new(), "host {node}");
        }
    }
}

impl Drop for Swarm {
    fn drop(&mut self) {
        for node in 0..2 {
            if let Err(error) = self.hosts[node].run(self.planes[node].leave_swarm()) {
                eprintln!("leaving: {error}");
            }
        }
    }
}

fn start(host: &Host) -> DataPlane {
    host.run(lab::start(host))
}

/// How often each server answers.
fn tally(times: usize, mut ask: impl FnMut() -> Option<(String, String)>) -> BTreeMap<String, usize> {
    let mut counts = BTreeMap::new();
    for _ in 0..times {
        let (name, _) = ask().unwrap_or_else(|| ("nobody".into(), String::new()));
        *counts.entry(name).or_default() += 1;
    }
    counts
}

fn assert_thirds(counts: &BTreeMap<String, usize>, total: usize, names: &[&str]) {
    assert_eq!(counts.keys().map(String::as_str).collect::<Vec<_>>(), names, "{counts:?}");
    // Six standard deviations of a fair third, which no chance leads to.
    let slack = 6.0 * (total as f64 * 2.0 / 9.0).sqrt() + total as f64 / 64.0;
    for count in counts.values() {
        assert!((*count as f64 - total as f64 / 3.0).abs() < slack, "{counts:?}");
    }
}

const BACKENDS: [(usize, u8); 3] = [(0, 70), (0, 71), (1, 130)];

fn virtual_addresses() {
    let swarm = Swarm::new();
    swarm.apply(&BACKENDS);
    let own = swarm.container(0, &[1], 70);
    swarm.container(0, &[1], 71);
    let remote = swarm.container(1, &[1], 130);
    let caller = swarm.container(0, &[1], 75);
    swarm.check();
    let direct = ask(&caller.netns, Ipv4Addr::new(10, 40, 1, 130), 80);
    assert_eq!(direct, Some(("c130".into(), "10.40.1.75".into())), "across hosts");
    let counts = tally(600, || {
        let answer = ask(&caller.netns, VIP, 80);
        assert_eq!(answer.as_ref().map(|a| a.1.as_str()), Some("10.40.1.75"), "client's address");
        answer
    });
    assert_thirds(&counts, 600, &["c130", "c70", "c71"]);
    for (name, netns) in [("backend", &own.netns), ("backend elsewhere", &remote.netns)] {
        let counts = tally(300, || ask(netns, VIP, 80));
        assert_thirds(&counts, 300, &["c130", "c70", "c71"]);
        println!("from a {name}: {counts:?}");
    }
    let counts = tally(300, || ask(swarm.hosts[1].netns(), VIP, 80));
    assert_thirds(&counts, 300, &["c130", "c70", "c71"]);
    swarm.apply(&[(1, 130)]);
    assert_eq!(tally(20, || ask(&caller.netns, VIP, 80)), BTreeMap::from([("c130".to_owned(), 20)]));
    swarm.check();
}

fn isolation() {
    let swarm = Swarm::new();
    swarm.apply(&BACKENDS);
    let one = swarm.container(0, &[1], 70);
    let both = swarm.container(0, &[1, 2], 71);
    let two = swarm.container(0, &[2], 72);
    swarm.container(1, &[1], 130);
    swarm.container(1, &[2], 131);
    let bridge = swarm.hosts[0].run(up(&swarm.planes[0], request("bridged", &["bridge"])));
    serve(swarm.hosts[1].netns(), 81, "outside");
    let addr = |net, host| Ipv4Addr::new(10, 40, net, host);
    let answers = |from: &Attached, to| ask(&from.netns, to, 80).map(|a| a.0);
    assert_eq!(answers(&one, addr(1, 71)), Some("c71".into()));
    assert_eq!(answers(&two, addr(2, 131)), Some("c131".into()), "across hosts");
    assert_eq!(answers(&both, addr(2, 72)), Some("c72".into()));
    for (what, from, to) in [
        ("a neighbour of another network", &two, addr(1, 70)),
        ("another network's virtual address", &two, VIP),
        ("another network on another host", &two, addr(1, 130)),
        ("the other way", &one, addr(2, 131)),
        ("from a bridge", &bridge, addr(1, 70)),
        ("from a bridge, virtual address", &bridge, VIP),
        ("to a bridge", &one, bridge.endpoints[0].addr.expect("IPv4")),
    ] {
        assert_eq!(lab::knock(&from.netns, to, 80), None, "{what}");
    }
    let outside = Ipv4Addr::new(10, 66, 0, 2);
    assert_eq!(ask(&one.netns, outside, 81), Some(("outside".into(), "10.66.0.1".into())));
    assert_eq!(lab::knock(&two.netns, outside, 81), None, "an internal network has no way out");
    // Nor has it one by the address that published ports come to, whatever it tries; those it answers.
    let inner = swarm.container(0, &[0, 2], 73);
    let leaves_from = |addr| {
        lab::within(&inner.netns, || {
            let script = format!("ip route replace default via 169.254.1.1 dev eth0 src {addr}");
            assert!(std::process::Command::new("sh").args(["-c", &script]).status().expect("sh").success());
        });
    };
    leaves_from("10.40.0.73");
    assert_eq!(lab::knock(&inner.netns, outside, 81), None, "a way out by the ingress network");
    leaves_from("10.40.2.73");
    swarm.apply(&[(0, 73)]);
    assert_eq!(ask(swarm.client.netns(), DOOR, 8080).map(|a| a.0), Some("c73".into()));
    swarm.apply(&BACKENDS);
    // An address taken by force opens nothing.
    lab::within(&two.netns, || {
        let script = "ip addr add 10.40.1.99/32 dev eth0 && ip route replace 10.40.1.0/24 via 169.254.1.1 src 10.40.1.99";
        assert!(std::process::Command::new("sh").args(["-c", script]).status().expect("sh").success());
    });
    assert_eq!(lab::knock(&two.netns, addr(1, 70), 80), None, "forged source");
    assert_eq!(lab::knock(&two.netns, addr(1, 130), 80), None, "forged source, across hosts");
    swarm.check();
}

fn published_ports() {
    let swarm = Swarm::new();
    swarm.apply(&BACKENDS);
    let own = swarm.container(0, &[1, 0], 70);
    swarm.container(0, &[1, 0], 71);
    swarm.container(1, &[1, 0], 130);
    let counts = tally(300, || ask(swarm.client.netns(), DOOR, 8080));
    assert_thirds(&counts, 300, &["c130", "c70", "c71"]);
    let local = tally(240, || ask(swarm.hosts[0].netns(), Ipv4Addr::LOCALHOST, 8080));
    assert_thirds(&local, 240, &["c130", "c70", "c71"]);
    let around = tally(240, || ask(&own.netns, Ipv4Addr::new(10, 66, 0, 1), 8080));
    assert_thirds(&around, 240, &["c130", "c70", "c71"]);
    // Tasks do not reach each other by their ingress addresses.
    assert_eq!(lab::knock(&own.netns, Ipv4Addr::new(10, 40, 0, 71), 80), None);
    swarm.check();
    // A program of the host that has the port keeps it.
    swarm.apply(&[]);
    swarm.hosts[1].run(swarm.planes[1].leave_swarm()).expect("leave");
    serve(swarm.hosts[1].netns(), 8080, "squatter");
    swarm.apply(&BACKENDS);
    assert_eq!(ask(swarm.client.netns(), DOOR, 8080).map(|a| a.0), Some("squatter".into()));
}

/// Tasks of either host see the client of the second one, by TCP and UDP. The first host knows no way to that client.
fn client_addresses() {
    let mut swarm = Swarm::new();
    // The strictest check of sources there is, which distributions turn on.
    for host in &swarm.hosts {
        host.sh("echo 1 > /proc/sys/net/ipv4/conf/all/rp_filter");
    }
    swarm.apply(&BACKENDS);
    let tasks = [
        swarm.container(0, &[1, 0], 70),
        // Without a network of its own.
        swarm.container(0, &[0], 71),
        swarm.container(1, &[1, 0], 130),
    ];
    for (task, name) in tasks.iter().zip(["c70", "c71", "c130"]) {
        mesh::serve_udp(&task.netns, 83, name);
        mesh::serve_lines(&task.netns, 82, name);
    }
    swarm.check();
    let all = ["c130", "c70", "c71"];
    let from = swarm.client.netns();
    for protocol in ["tcp", "udp"] {
        let counts = tally(240, || {
            let answer =
                if protocol == "tcp" { ask(from, DOOR, 8080) } else { mesh::ask_udp(from, DOOR, 8083) };
            assert_eq!(answer.as_ref().map(|a| a.1.as_str()), Some("10.67.0.9"), "{protocol}: {answer:?}");
            answer
        });
        assert_thirds(&counts, 240, &all);
    }
    // Clients on a node: by its own address, by the loopback, by another node and so perhaps to a task at home, from a
    // bridge, from a task.
    let node = Ipv4Addr::new(10, 66, 0, 2);
    let bridged = swarm.hosts[1].run(up(&swarm.planes[1], request("bridged", &["bridge"])));
    for (what, from, to) in [
        ("its own address", swarm.hosts[1].netns(), node),
        ("loopback", swarm.hosts[1].netns(), Ipv4Addr::LOCALHOST),
        ("another node", swarm.hosts[0].netns(), node),
        ("a bridge", &*bridged.netns, node),
        ("a task", &*tasks[0].netns, node),
        ("a task by its own node", &*tasks[2].netns, node),
    ] {
        let mut seen = BTreeMap::new();
        let counts = tally(40, || {
            let answer = ask(from, to, 8080);
            seen.extend(answer.clone());
            answer
        });
        assert_eq!(counts.keys().map(String::as_str).collect::<Vec<_>>(), all, "{what}: {counts:?}");
        println!("{what}: {seen:?}");
        let counts = tally(40, || mesh::ask_udp(from, to, 8083));
        assert_eq!(counts.keys().map(String::as_str).collect::<Vec<_>>(), all, "{what}, udp: {counts:?}");
    }

    // Connections outlive either host's daemon, and carry full segments.
    let mut connections: Vec<_> = (0..12).map(|_| mesh::Lines::open(from, DOOR, 8082)).collect();
    let names: Vec<_> = connections.iter_mut().map(|c| c.ask(100_000)).collect();
    for node in 0..2 {
        swarm.hosts[node].run(swarm.planes[node].shutdown());
        swarm.planes[node] = start(&swarm.hosts[node]);
        swarm.hosts[node]
            .run(swarm.planes[node].retain(&["c70", "c71", "c130", "bridged"].map(str::to_owned)))
            .expect("retain");
    }
    swarm.check();
    // And tasks that no longer get new ones.
    swarm.apply(&[(1, 130)]);
    let again: Vec<_> = connections.iter_mut().map(|c| c.ask(10)).collect();
    assert_eq!(names, again);
    assert!(names.iter().any(|n| n != "c130"), "{names:?}");
    assert_eq!(tally(10, || ask(from, DOOR, 8080)), BTreeMap::from([("c130".to_owned(), 10)]));

    // A flow of datagrams stays with its task until that is gone, however long its client goes on.
    swarm.apply(&BACKENDS);
    let flows: Vec<_> = (0..12).map(|_| mesh::Datagrams::open(from, DOOR, 8083).expect("port")).collect();
    let name = |flow: &mesh::Datagrams| flow.ask().expect("an answer").0;
    let names: Vec<_> = flows.iter().map(name).collect();
    assert!(names.iter().any(|n| n != "c130"), "{names:?}");
    let mut desired = swarm.desired(1, &[(1, 130)]);
    desired.ports[2].leaving = [70, 71].map(|host| Ipv4Addr::new(10, 40, 0, host)).into();
    swarm.hosts[1].run(swarm.planes[1].apply(desired, PORT)).expect("apply");
    assert_eq!(flows.iter().map(name).collect::<Vec<_>>(), names, "while the task goes on");
    swarm.apply(&[(1, 130)]);
    assert!(flows.iter().all(|f| name(f) == "c130"), "once it is gone");

    // Whatever is broken is seen and mended.
    let instance = &swarm.hosts[1].instance;
    swarm.apply(&BACKENDS);
    for breakage in [
        format!("ip link del vx-{instance}"),
        format!("ip link set vx-{instance} down"),
        format!("ip route flush dev vx-{instance} table all"),
        format!("ip neigh flush dev vx-{instance} nud permanent"),
        format!("bridge fdb del 02:d0:0a:ff:00:01 dev vx-{instance}"),
        "ip rule flush".to_owned(),
    ] {
        let seen = || {
            swarm.hosts[1].sh(&breakage);
            let found = swarm.hosts[1].run(swarm.planes[1].check());
            found.is_err() || found.is_ok_and(|f| !f.is_empty())
        };
        // The plane's own check, every 30 s, may have come first and repaired it: not twice in a row.
        assert!(seen() || seen(), "unseen: {breakage}");
        if breakage == "ip rule flush" {
            swarm.hosts[1].sh("ip rule add pref 32766 table main; ip rule add pref 32767 table default");
        }
        swarm.hosts[1].run(swarm.planes[1].reconcile()).expect("reconcile");
        swarm.check();
        let counts = tally(40, || ask(from, DOOR, 8080));
        assert_eq!(counts.keys().map(String::as_str).collect::<Vec<_>>(), all, "{breakage}: {counts:?}");
    }
}

/// What looks like the mesh's own is taken from nodes only, through the tunnel.
fn forged_packets() {
    let swarm = Swarm::new();
    swarm.apply(&BACKENDS);
    let task = swarm.container(1, &[0], 130);
    let neighbour = swarm.container(1, &[1], 131);
    let got = mesh::serve_udp(&task.netns, 83, "c130");
    let instance = &swarm.hosts[1].instance;
    let link = swarm.hosts[1].sh(&format!("ip -d link show vx-{instance}"));
    let vni =
        link.split("vxlan id ").nth(1).and_then(|t| t.split(' ').next()).expect("VXLAN").parse().expect("id");
    let macs = [1, 2].map(|node| [0x02, 0xd0, 10, 255, 0, node]);
    let liar = Ipv4Addr::new(9, 9, 9, 9);
    let packet = mesh::forged(vni, macs, liar, Ipv4Addr::new(10, 40, 0, 130), 83);
    let own = Ipv4Addr::new(10, 255, 0, 2);
    let ways = [
        ("a container, to the node's overlay address", &*neighbour.netns, own),
        ("a container, to the node's address", &*neighbour.netns, DOOR),
        ("a client", swarm.client.netns(), DOOR),
        ("another host, outside of the tunnel", swarm.hosts[0].netns(), Ipv4Addr::new(10, 66, 0, 2)),
    ];
    for (_, from, to) in &ways {
        mesh::throw(from, (*to, 4792), &packet);
    }
    // What is sent last arrives last.
    let settled = || {
        mesh::ask_udp(swarm.hosts[0].netns(), Ipv4Addr::new(10, 66, 0, 2), 8083).expect("the mesh works");
        got.try_iter().filter(|from| *from == liar).count()
    };
    swarm.apply(&[(1, 130)]);
    assert_eq!(settled(), 0, "a forged packet arrived");
    // They are well made: without the rule they all arrive.
    swarm.hosts[1].sh(&format!("nft flush chain ip skep_{instance} mesh_input"));
    for (what, from, to) in &ways {
        mesh::throw(from, (*to, 4792), &packet);
        // What was asked before may have been sent twice, and come late.
        let arrived = std::iter::from_fn(|| got.recv_timeout(lab::PATIENCE).ok()).any(|from| from == liar);
        assert!(arrived, "{what}");
    }
    swarm.hosts[1].run(swarm.planes[1].reconcile()).expect("reconcile");
    swarm.check();
    // A task's address in the ingress network is reached by nobody but through a port.
    assert_eq!(lab::knock(&neighbour.netns, Ipv4Addr::new(10, 40, 0, 130), 80), None);
}

fn restart_and_drift() {
    let mut swarm = Swarm::new();
    swarm.apply(&BACKENDS);
    let caller = swarm.container(0, &[1, 0], 70);
    swarm.container(1, &[1, 0], 130);
    let reach = || ask(&caller.netns, Ipv4Addr::new(10, 40, 1, 130), 80).map(|a| a.0);
    assert_eq!(reach(), Some("c130".into()));
    let list = "ip -o link; ip route; nft -a list ruleset";
    let before = swarm.hosts[0].sh(list);
    swarm.hosts[0].run(swarm.planes[0].shutdown());
    assert_eq!(reach(), Some("c130".into()), "without a daemon");
    swarm.planes[0] = start(&swarm.hosts[0]);
    assert_same(&before, &swarm.hosts[0].sh(list));
    swarm.hosts[0].run(swarm.planes[0].retain(&["c70".to_owned()])).expect("retain");
    swarm.check();
    assert_eq!(reach(), Some("c130".into()), "with the next daemon");
    let instance = &swarm.hosts[0].instance;
    for breakage in [
        format!("ip route flush dev wg-{instance}"),
        format!("nft flush map ip skep_{instance} vip_few"),
        format!("ip route flush dev $(ls /proc/sys/net/ipv4/conf | grep sk{instance}o)"),
        format!("ip link del $(ls /proc/sys/net/ipv4/conf | grep sk{instance}o)"),
        format!("ip link del wg-{instance}"),
    ] {
        let seen = || {
            swarm.hosts[0].sh(&breakage);
            let found = swarm.hosts[0].run(swarm.planes[0].check());
            found.is_err() || found.is_ok_and(|f| !f.is_empty())
        };
        // The plane's own check, every 30 s, may have come first and repaired it: not twice in a row.
        assert!(seen() || seen(), "unseen: {breakage}");
        swarm.hosts[0].run(swarm.planes[0].reconcile()).expect("reconcile");
        swarm.check();
        assert_eq!(reach(), Some("c130".into()), "{breakage}");
    }
}

fn leaving() {
    let swarm = Swarm::new();
    let list = "ip -o link | cut -d: -f2 | cut -d@ -f1 | sort; ip route; ip -6 route; ip rule; ip -6 rule; nft list ruleset";
    let before = swarm.hosts[0].sh(list);
    swarm.apply(&BACKENDS);
    swarm.container(0, &[1, 0], 70);
    swarm.hosts[0].run(async {
        swarm.planes[0].retain(&[]).await.expect("retain");
        swarm.planes[0].leave_swarm().await.expect("leave");
        swarm.planes[0].shutdown().await;
    });
    assert_same(&before, &swarm.hosts[0].sh(list));
    assert!(!swarm.hosts[0].root.path().join("data/network/swarm.json").exists());
}
