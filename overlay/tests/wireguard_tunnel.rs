//! The tunnel between hosts on the real kernel: traffic, secrecy, restarts, changes, refusals.
//!
//! The binary is also the userspace WireGuard process and the daemon of each host, so it has a `main`
//! of its own instead of the usual harness.

mod wglab;

use std::io::{Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::os::unix::fs::PermissionsExt as _;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use serde_json::{Value, json};
use wglab::{Lab, dispatch, must, run, text, until};

fn main() {
    if let Some(status) = dispatch() {
        std::process::exit(status);
    }
    let tests: &[(&str, fn())] = &[
        ("traffic_crosses_the_tunnel_and_is_unreadable_outside", traffic_crosses_and_is_unreadable),
        ("a_large_transfer_arrives_whole", large_transfer),
        ("an_ipv6_underlay_works", ipv6_underlay),
        ("a_new_daemon_adopts_the_running_tunnel", adoption),
        ("a_dead_process_is_replaced", replacement),
        ("changing_one_peer_leaves_the_others_alone", undisturbed),
        ("a_peer_that_moves_is_followed", roaming),
        ("removal_leaves_nothing", removal),
        ("refusals_name_their_subject", refusals),
        ("the_process_ends_with_its_interface_or_its_state", ends),
    ];
    let filter: Vec<String> = std::env::args().skip(1).filter(|a| !a.starts_with('-')).collect();
    if std::env::args().any(|a| a == "--list") {
        tests.iter().for_each(|(name, _)| println!("{name}: test"));
        return;
    }
    let mut failed = Vec::new();
    for (name, test) in tests {
        if !filter.is_empty() && !filter.iter().any(|f| name.contains(f.as_str())) {
            continue;
        }
        let passed = std::panic::catch_unwind(test).is_ok();
        println!("test {name} ... {}", if passed { "ok" } else { "FAILED" });
        if !passed {
            failed.push(*name);
        }
    }
    assert!(failed.is_empty(), "failed: {failed:?}");
}

/// Pseudo-random bytes that no protocol would make up.
fn noise(len: usize) -> Vec<u8> {
    let mut state = 0x9E37_79B9_7F4A_7C15_u64;
    (0..len)
        .map(|_| {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            (state >> 24) as u8
        })
        .collect()
}

/// Sends `data` from one host to an address of another and returns what arrived.
fn transfer(lab: &Lab, from: usize, to: usize, addr: &str, data: &[u8]) -> Vec<u8> {
    let target = format!("{addr}:7000");
    let bind = target.clone();
    let (ready, listening) = std::sync::mpsc::channel();
    let receiver = lab.hosts[to].inside(move || {
        let listener = TcpListener::bind(bind).expect("listen");
        ready.send(()).expect("tell");
        let mut data = Vec::new();
        listener.accept().expect("accept").0.read_to_end(&mut data).expect("read");
        data
    });
    listening.recv().expect("listening");
    let data = data.to_vec();
    let sender = lab.hosts[from]
        .inside(move || TcpStream::connect(target).expect("connect").write_all(&data).expect("write"));
    sender.join().expect("sender");
    receiver.join().expect("receiver")
}

/// Watches all that passes between the hosts, at the switch, until stopped; returns every byte seen.
fn capture(lab: &Lab, stop: Arc<AtomicBool>) -> std::thread::JoinHandle<Vec<u8>> {
    use nix::sys::socket::{AddressFamily, MsgFlags, SockFlag, SockProtocol, SockType, recv, socket};
    use std::os::fd::AsRawFd as _;
    let (ready, watching) = std::sync::mpsc::channel();
    let thread = wglab::inside(&lab.switch, move || {
        let all = SockProtocol::EthAll;
        let fd =
            socket(AddressFamily::Packet, SockType::Raw, SockFlag::SOCK_NONBLOCK, all).expect("AF_PACKET");
        ready.send(()).expect("tell");
        let (mut seen, mut frame) = (Vec::new(), vec![0; 1 << 17]);
        loop {
            // What was sent before the stop is in the socket already: read it all, then stop.
            let last = stop.load(Ordering::Relaxed);
            while let Ok(len) = recv(fd.as_raw_fd(), &mut frame, MsgFlags::empty()) {
                seen.extend_from_slice(&frame[..len]);
            }
            if last {
                return seen;
            }
            std::thread::sleep(std::time::Duration::from_millis(1));
        }
    });
    watching.recv().expect("watching");
    thread
}

fn contains(haystack: &[u8], needle: &[u8]) -> bool {
    haystack.windows(needle.len()).any(|window| window == needle)
}

fn traffic_crosses_and_is_unreadable() {
    let mut lab = Lab::new(2);
    lab.mesh();
    assert!(lab.hosts[0].pings("10.88.0.2") && lab.hosts[1].pings("10.88.0.1"));
    let key = lab.hosts[0].root.join("wireguard.key");
    assert_eq!(std::fs::metadata(key).expect("key").permissions().mode() & 0o777, 0o600);

    let secret = b"the password of the database is correct-horse-battery-staple";
    for (addr, readable) in [("10.88.0.2", false), ("10.99.0.2", true)] {
        let stop = Arc::new(AtomicBool::new(false));
        let watcher = capture(&lab, stop.clone());
        assert_eq!(transfer(&lab, 0, 1, addr, secret), secret);
        assert!(lab.hosts[0].pings(addr));
        stop.store(true, Ordering::Relaxed);
        let seen = watcher.join().expect("watcher");
        assert!(seen.len() > secret.len(), "the capture saw nothing");
        assert_eq!(contains(&seen, &secret[..20]), readable, "through {addr}");
    }
}

fn large_transfer() {
    let mut lab = Lab::new(2);
    lab.mesh();
    let data = noise(24 << 20);
    assert!(transfer(&lab, 0, 1, "10.88.0.2", &data) == data, "bytes changed on the way");
    assert!(transfer(&lab, 1, 0, "10.88.0.1", &data) == data, "bytes changed on the way back");
    if lab.hosts[0].helper().is_some() {
        let shown =
            must(&format!("ip -n {} -d link show {}", lab.hosts[0].namespace, lab.hosts[0].interface));
        assert!(shown.contains("gso_max_segs 128"), "{shown}");
    }
    // Just fits, and just does not: the MTU is the underlay's less 60.
    assert_eq!(lab.hosts[0].ensure().expect("ensure")["mtu"], 1440);
    assert!(lab.hosts[0].ping("10.88.0.2", 1412, true));
    assert!(!lab.hosts[0].ping("10.88.0.2", 1413, true));
    assert!(lab.hosts[0].ping("10.88.0.2", 20000, false));
}

fn ipv6_underlay() {
    let mut lab = Lab::new(2);
    for (n, host) in lab.hosts.iter_mut().enumerate() {
        host.underlay = format!("fd99::{}", n + 1);
    }
    let keys: Vec<Value> = lab.hosts.iter_mut().map(|h| h.ensure().expect("ensure")).collect();
    assert_eq!(keys[0]["mtu"], 1420);
    for (n, other) in [(0, 1), (1, 0)] {
        let peer = json!({
            "key": keys[other]["key"], "endpoint": format!("[fd99::{}]:4789", other + 1),
            "allowed": [format!("10.88.0.{}/32", other + 1)],
        });
        lab.hosts[n].set_peers(&[peer]).expect("peers");
        lab.hosts[n].route_overlay();
    }
    assert!(lab.hosts[0].pings("10.88.0.2"));
    let data = noise(1 << 20);
    assert!(transfer(&lab, 0, 1, "10.88.0.2", &data) == data);
}

fn adoption() {
    let mut lab = Lab::new(2);
    lab.mesh();
    assert!(lab.hosts[0].pings("10.88.0.2"));
    let (before, peers) = (lab.hosts[0].helper(), lab.hosts[0].show());
    lab.hosts[0].kill_daemon();
    assert!(lab.hosts[0].pings("10.88.0.2"), "the tunnel died with the daemon");
    let again = lab.hosts[0].ensure().expect("ensure");
    assert_eq!(again["adopted"], true);
    assert_eq!(lab.hosts[0].helper(), before);
    let after = lab.hosts[0].show();
    assert_eq!((&after[0]["key"], &after[0]["handshake"]), (&peers[0]["key"], &json!(true)));
    // Wanting what is there changes nothing.
    let peer = lab.hosts[1].as_peer(&text(&peers[0], "key"));
    lab.hosts[0].set_peers(&[peer]).expect("peers");
    assert!(lab.hosts[0].show()[0]["tx"].as_u64() >= after[0]["tx"].as_u64());
    assert!(lab.hosts[0].pings("10.88.0.2"));
}

fn replacement() {
    let mut lab = Lab::new(2);
    lab.mesh();
    assert!(lab.hosts[0].pings("10.88.0.2"));
    let Some(old) = lab.hosts[0].helper() else { return };
    must(&format!("kill -9 {old}"));
    until("the process to die", || lab.hosts[0].helper().is_none());
    let again = lab.hosts[0].ensure().expect("ensure");
    assert_eq!(again["adopted"], false);
    assert!(lab.hosts[0].helper().is_some_and(|new| new != old));
    let key = text(&lab.hosts[1].ensure().expect("ensure"), "key");
    let peer = lab.hosts[1].as_peer(&key);
    lab.hosts[0].set_peers(&[peer]).expect("peers");
    // The route has stayed with the interface, and the peer learns of the new process by itself.
    assert!(lab.hosts[1].pings("10.88.0.1"));
    assert!(lab.hosts[0].pings("10.88.0.2"));
}

fn undisturbed() {
    let mut lab = Lab::new(3);
    lab.mesh();
    assert!(lab.hosts[0].pings("10.88.0.2") && lab.hosts[0].pings("10.88.0.3"));
    let keys: Vec<String> = lab.hosts.iter_mut().map(|h| text(&h.ensure().expect("ensure"), "key")).collect();
    let find = |host: &mut wglab::Host, key: &str| host.show().into_iter().find(|p| p["key"] == key);
    let second = lab.hosts[1].as_peer(&keys[1]);
    let before = find(&mut lab.hosts[0], &keys[1]).expect("peer");

    // The third gets more addresses: the second's session stays, and so does its own.
    let mut third = lab.hosts[2].as_peer(&keys[2]);
    third["allowed"] = json!(["10.88.0.3/32", "10.77.0.0/16"]);
    lab.hosts[0].set_peers(&[second.clone(), third]).expect("peers");
    let changed = find(&mut lab.hosts[0], &keys[2]).expect("peer");
    assert_eq!(
        (&changed["handshake"], &changed["allowed"]),
        (&json!(true), &json!(["10.77.0.0/16", "10.88.0.3/32"]))
    );
    assert!(lab.hosts[2].pings("10.88.0.1"));

    // The third goes.
    lab.hosts[0].set_peers(&[second]).expect("peers");
    assert_eq!(lab.hosts[0].show().len(), 1);
    let after = find(&mut lab.hosts[0], &keys[1]).expect("peer");
    assert_eq!(after["handshake"], true);
    assert!(after["tx"].as_u64() >= before["tx"].as_u64(), "counters started anew: the peer was replaced");
    assert!(lab.hosts[0].pings("10.88.0.2"));
    assert!(!lab.hosts[0].pings("10.88.0.3"));
}

fn roaming() {
    let mut lab = Lab::new(2);
    lab.mesh();
    assert!(lab.hosts[0].pings("10.88.0.2"));
    let key = text(&lab.hosts[1].ensure().expect("ensure"), "key");
    let peer = lab.hosts[1].as_peer(&key);
    let two = lab.hosts[1].namespace.clone();
    must(&format!(
        "ip -n {two} addr del 10.99.0.2/24 dev eth0 && ip -n {two} addr add 10.99.0.77/24 dev eth0"
    ));
    // It speaks first from its new address, and is heard.
    assert!(lab.hosts[1].pings("10.88.0.1"));
    assert_eq!(lab.hosts[0].show()[0]["endpoint"], "10.99.0.77:4789");
    // The manager still says the old address: that is no reason to lose the peer.
    lab.hosts[0].set_peers(std::slice::from_ref(&peer)).expect("peers");
    assert!(lab.hosts[0].pings("10.88.0.2"));
    // Now it says another one.
    must(&format!("ip -n {two} addr add 10.99.0.78/24 dev eth0"));
    let mut moved = peer;
    moved["endpoint"] = json!("10.99.0.78:4789");
    lab.hosts[0].set_peers(&[moved]).expect("peers");
    assert_eq!(lab.hosts[0].show()[0]["endpoint"], "10.99.0.78:4789");
    assert!(lab.hosts[0].pings("10.88.0.2"));
}

fn removal() {
    let mut lab = Lab::new(1);
    lab.mesh();
    let host = &mut lab.hosts[0];
    let (pid, interface) = (host.helper(), host.interface.clone());
    host.order(&json!({ "do": "remove" })).expect("remove");
    assert!(host.run(&format!("ip link show {interface}")).is_err());
    assert_eq!(host.helper(), None, "process {pid:?} lives on");
    assert!(!std::path::Path::new(&format!("/var/run/wireguard/{interface}.sock")).exists());
    host.order(&json!({ "do": "remove" })).expect("removing what is gone is no error");
    host.ensure().expect("it can be made again");
}

fn refusals() {
    let mut lab = Lab::new(1);
    let (name, namespace) = (lab.hosts[0].interface.clone(), lab.hosts[0].namespace.clone());
    let host = &mut lab.hosts[0];
    must(&format!("ip -n {namespace} link add {name} type bridge"));
    let error = host.ensure().expect_err("the name is taken");
    assert!(error.contains(&name) && error.contains("bridge"), "{error}");
    must(&format!("ip -n {namespace} link del {name}"));

    let taken =
        host.inside(|| std::net::UdpSocket::bind("0.0.0.0:4789").expect("bind")).join().expect("thread");
    let error = host.ensure().expect_err("the port is taken");
    assert!(error.contains("4789"), "{error}");
    drop(taken);
    host.ensure().expect("the port is free again");

    let bad = json!({ "key": "nonsense", "endpoint": "10.99.0.9:1", "allowed": [] });
    let error = host.set_peers(&[bad]).expect_err("not a key");
    assert!(error.contains("nonsense"), "{error}");
    for name in ["a name", "far-too-long-a-name", ""] {
        let order = json!({ "do": "ensure", "root": host.root, "name": name, "port": 4789 });
        assert!(host.order(&order).is_err(), "{name:?}");
    }
    std::fs::write(host.root.join("wireguard.key"), "damaged").expect("write");
    assert!(host.ensure().expect_err("damaged key").contains("wireguard.key"));
}

fn ends() {
    let mut lab = Lab::new(2);
    lab.mesh();
    if lab.hosts[0].helper().is_none() {
        return;
    }
    let (name, namespace) = (lab.hosts[0].interface.clone(), lab.hosts[0].namespace.clone());
    must(&format!("ip -n {namespace} link del {name}"));
    until("the process to end with its interface", || lab.hosts[0].helper().is_none());
    let pid = lab.hosts[1].helper().expect("the other lives");
    std::fs::remove_dir_all(&lab.hosts[1].root).expect("remove state");
    until("the process to end with its state", || run(&format!("kill -0 {pid}")).is_err());
}
