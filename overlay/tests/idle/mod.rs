//! Idle timeouts of a service: connections that nothing is heard of for longer than the hosts keep others, or for longer
//! than the service lets them be.

use std::collections::BTreeMap;
use std::io::{BufRead as _, BufReader, Write as _};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::path::Path;
use std::time::Duration;

use skep_overlay::desired::{Desired, IdleTimeout};

use super::lab::{PATIENCE, enter, within};
use super::mesh::serve_udp;
use super::{DOOR, PORT, Swarm, VIP};

/// The hosts' own timeouts are a second, or the service's are; this is more.
const SILENCE: Duration = Duration::from_secs(3);
/// So many that all come to the same task, of two, by luck only.
const MANY: usize = 24;

/// A line from each client is answered by the server's name, for as long as it likes.
fn serve_lines(netns: &Path, port: u16, name: &'static str) {
    let netns = netns.to_owned();
    let (ready, wait) = std::sync::mpsc::channel();
    std::thread::spawn(move || {
        enter(&netns);
        let listener = TcpListener::bind(("::", port)).expect("bind");
        ready.send(()).expect("tell");
        for client in listener.incoming().flatten() {
            std::thread::spawn(move || {
                let mut lines = BufReader::new(&client).lines();
                while lines.next().is_some_and(|l| l.is_ok()) {
                    if writeln!(&client, "{name}").is_err() {
                        return;
                    }
                }
            });
        }
    });
    wait.recv_timeout(PATIENCE).expect("server is up");
}

/// Who answers a line; an error where the connection is no more.
fn talk(stream: &TcpStream) -> std::io::Result<String> {
    writeln!(&*stream, "who?")?;
    let mut name = String::new();
    BufReader::new(stream).read_line(&mut name)?;
    match name.trim() {
        "" => Err(std::io::ErrorKind::ConnectionReset.into()),
        name => Ok(name.to_owned()),
    }
}

fn call(netns: &Path, to: IpAddr, port: u16) -> TcpStream {
    let stream = within(netns, || TcpStream::connect_timeout(&SocketAddr::new(to, port), PATIENCE));
    let stream = stream.expect("connect");
    stream.set_read_timeout(Some(PATIENCE)).expect("timeout");
    stream
}

fn datagrams(netns: &Path, to: IpAddr, port: u16) -> UdpSocket {
    let local = if to.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" };
    let socket = within(netns, || UdpSocket::bind(local)).expect("socket");
    socket.set_read_timeout(Some(PATIENCE)).expect("timeout");
    socket.connect((to, port)).expect("connect");
    socket
}

fn ask(socket: &UdpSocket) -> String {
    socket.send(b"who?").expect("send");
    let mut answer = [0; 64];
    let length = socket.recv(&mut answer).expect("an answer");
    let text = String::from_utf8_lossy(&answer[..length]).into_owned();
    text.split(' ').next().unwrap_or_default().to_owned()
}

impl Swarm {
    /// As [`Swarm::apply`], with how long connections may be idle.
    fn apply_idle(&self, idle: IdleTimeout) {
        for node in 0..2 {
            let mut desired: Desired = self.desired(node, &[(0, 70), (1, 130)]);
            desired.ports.iter_mut().for_each(|p| p.idle = idle);
            let networks = desired.networks.values_mut();
            networks.flat_map(|n| &mut n.services).for_each(|s| s.idle = idle);
            self.hosts[node].run(self.planes[node].apply(desired, PORT)).expect("apply");
        }
    }

    /// How long the hosts themselves keep connections, in seconds.
    fn keeps(&self, seconds: u32) {
        for host in &self.hosts {
            for name in ["tcp_timeout_established", "udp_timeout", "udp_timeout_stream"] {
                host.sh(&format!("echo {seconds} > /proc/sys/net/netfilter/nf_conntrack_{name}"));
            }
        }
    }
}

/// By published ports of both families, and by the virtual address.
pub fn idle_timeouts() {
    let swarm = Swarm::new();
    swarm.apply_idle(IdleTimeout::default());
    swarm.hosts[1].sh("ip addr add fd00:67::1/64 dev side nodad");
    swarm.client.sh("ip addr add fd00:67::9/64 dev side nodad");
    for (node, host, name) in [(0, 70, "c70"), (1, 130, "c130")] {
        let task = swarm.container(node, &[0, 1], host);
        serve_lines(&task.netns, 82, name);
        serve_udp(&task.netns, 83, name);
    }
    let caller = swarm.container(0, &[1], 72).netns;
    let doors: [(&Path, IpAddr, u16, u16); 3] = [
        (swarm.client.netns(), DOOR.into(), 8082, 8083),
        (swarm.client.netns(), "fd00:67::1".parse().expect("address"), 8082, 8083),
        (&caller, VIP.into(), 82, 83),
    ];
    let open = || {
        doors.iter().flat_map(|(from, to, tcp, udp)| {
            (0..MANY / 3).map(move |_| (call(from, *to, *tcp), datagrams(from, *to, *udp)))
        })
    };

    // Longer than the hosts keep any other.
    swarm.keeps(1);
    swarm.apply_idle(IdleTimeout { tcp: Some(3600), udp: Some(3600) });
    let held: Vec<_> = open().collect();
    let before: Vec<_> = held.iter().map(|(t, u)| (talk(t).expect("an answer"), ask(u))).collect();
    let shares = before.iter().fold(BTreeMap::new(), |mut all, (name, _)| {
        *all.entry(name.clone()).or_insert(0) += 1;
        all
    });
    assert_eq!(shares.len(), 2, "{shares:?}");
    std::thread::sleep(SILENCE);
    let after: Vec<_> = held.iter().map(|(t, u)| (talk(t).expect("still there"), ask(u))).collect();
    assert_eq!(before, after);
    swarm.check();

    // Shorter: what is forgotten is reset, and datagrams are led to any task.
    swarm.keeps(3600);
    swarm.apply_idle(IdleTimeout { tcp: Some(1), udp: Some(1) });
    let held: Vec<_> = open().collect();
    let before: Vec<_> = held.iter().map(|(t, u)| (talk(t).expect("an answer"), ask(u))).collect();
    std::thread::sleep(SILENCE);
    let mut led_elsewhere = 0;
    for ((stream, socket), (_, name)) in held.iter().zip(&before) {
        let error = talk(stream).expect_err("a connection that was forgotten");
        assert_eq!(error.kind(), std::io::ErrorKind::ConnectionReset, "{error}");
        led_elsewhere += usize::from(ask(socket) != *name);
    }
    assert!(led_elsewhere > 0);
    swarm.check();

    // Of a protocol alone, and none again: nothing of it is left.
    swarm.apply_idle(IdleTimeout { tcp: None, udp: Some(2) });
    swarm.check();
    let table = format!("nft list ruleset; nft list ct timeout ip skep_{} udp_2", swarm.hosts[0].instance);
    assert!(swarm.hosts[0].sh(&table).contains("replied : 2"));
    swarm.apply_idle(IdleTimeout::default());
    swarm.check();
    assert!(!swarm.hosts[0].sh("nft list ruleset").contains("ct timeout udp"));

    // What somebody else took away is put back.
    swarm.apply_idle(IdleTimeout { tcp: Some(7200), udp: None });
    let instance = &swarm.hosts[0].instance;
    let breakages = [
        format!("nft flush map ip skep_{instance} idle"),
        format!("nft flush map ip skep_{instance} idle && nft delete ct timeout ip skep_{instance} tcp_7200"),
        format!("nft flush chain ip6 skep_{instance} idle"),
    ];
    for breakage in breakages {
        assert!(swarm.notices(0, &breakage), "unseen: {breakage}");
        swarm.hosts[0].run(swarm.planes[0].reconcile()).expect("reconcile");
        swarm.check();
    }
}
