//! Hosts as network namespaces within this process: all threads of a host's runtime live in its
//! namespace. Containers are the namespaces that the data plane makes; servers and clients in them are
//! threads.

use std::future::Future;
use std::io::{Read as _, Write as _};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use nix::sched::{CloneFlags, setns};
use skep_overlay::netns::{Namespace, unpin};
use skep_overlay::{AttachRequest, Attached, DataPlane, DataPlaneOptions, Join, Publish};
use tempfile::TempDir;
use tokio::runtime::Runtime;

/// How long anything may take on a loaded machine.
pub const PATIENCE: Duration = Duration::from_secs(60);
/// How long silence lasts before it counts as "unreachable".
const SILENCE: Duration = Duration::from_millis(700);

static COUNTER: AtomicU32 = AtomicU32::new(0);

/// A host.
pub struct Host {
    pub root: TempDir,
    pub instance: String,
    netns: PathBuf,
    runtime: Option<Runtime>,
}

impl Host {
    pub fn new() -> Self {
        let root = tempfile::Builder::new().prefix("skep-lab").tempdir().expect("folder");
        let netns = root.path().join("host-netns");
        Namespace::create(&netns, None).expect("namespace");
        within(&netns, || {
            std::fs::write("/proc/sys/net/ipv6/conf/default/disable_ipv6", "0").expect("sysctl")
        });
        let number = COUNTER.fetch_add(1, Ordering::Relaxed);
        let alphabet: Vec<char> = ('a'..='z').collect();
        let mut rest = std::process::id() as usize * 64 + number as usize;
        let instance = (0..6).map(|_| {
            let c = alphabet[rest % 26];
            rest /= 26;
            c
        });
        // Its threads are born in the host.
        let runtime = within(&netns, || {
            let mut builder = tokio::runtime::Builder::new_multi_thread();
            builder.worker_threads(2).enable_all().build().expect("runtime")
        });
        Self { root, instance: instance.collect(), netns, runtime: Some(runtime) }
    }

    pub fn options(&self) -> DataPlaneOptions {
        DataPlaneOptions {
            data_root: self.root.path().join("data"),
            exec_root: self.root.path().join("run"),
            instance: self.instance.clone(),
            helper_exe: std::env::current_exe().expect("own path"),
            solo: false,
            default_bridge: Default::default(),
            pools: Default::default(),
            without_relays: false,
        }
    }

    /// Runs a future on a runtime whose threads are in the host.
    pub fn run<T: Send>(&self, future: impl Future<Output = T> + Send) -> T {
        let runtime = self.runtime.as_ref().expect("until dropped");
        within(&self.netns, || runtime.block_on(future))
    }

    /// What a command prints when run in the host.
    pub fn sh(&self, command: &str) -> String {
        let netns = format!("--net={}", self.netns.display());
        let out = Command::new("nsenter").args([&netns, "sh", "-c", command]).output().expect("sh");
        assert!(out.status.success(), "{command}: {}", String::from_utf8_lossy(&out.stderr));
        String::from_utf8_lossy(&out.stdout).into_owned()
    }

    /// A link to another host: `addr/24` on `link` here and there.
    pub fn connect(&self, other: &Self, link: &str, here: &str, there: &str) {
        let far = other.netns.display();
        self.sh(&format!("ip link add {link} type veth peer name {link} netns {far} && ip link set {link} up && ip addr add {here}/24 dev {link}"));
        other.sh(&format!("ip link set {link} up && ip addr add {there}/24 dev {link}"));
    }

    pub fn netns(&self) -> &Path {
        &self.netns
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        self.runtime.take().expect("dropped once").shutdown_background();
        let pins = self.root.path().join("run/netns");
        for entry in std::fs::read_dir(pins).into_iter().flatten().flatten() {
            unpin(&entry.path()).expect("unpin");
        }
        unpin(&self.netns).expect("unpin");
    }
}

/// Runs a function in a namespace, on a thread of its own.
pub fn within<T: Send>(netns: &Path, f: impl FnOnce() -> T + Send) -> T {
    std::thread::scope(|scope| {
        let run = scope.spawn(|| {
            enter(netns);
            f()
        });
        run.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    })
}

/// Takes the calling thread into a namespace.
pub fn enter(netns: &Path) {
    let file = std::fs::File::open(netns).expect("namespace");
    setns(file, CloneFlags::CLONE_NEWNET).expect("setns");
}

/// A server that tells each client the server's name and the client's address, for as long as the test
/// process lives.
pub fn serve(netns: &Path, port: u16, name: &str) {
    let (netns, name) = (netns.to_owned(), name.to_owned());
    let (ready, wait) = std::sync::mpsc::channel();
    std::thread::spawn(move || {
        enter(&netns);
        // Both families, so that its clients may choose.
        let listener = TcpListener::bind(("::", port)).expect("bind");
        ready.send(()).expect("tell");
        for client in listener.incoming().flatten() {
            let peer = client.peer_addr().map(|a| a.ip().to_canonical().to_string()).unwrap_or_default();
            // A client that has gone is no concern of the server's.
            let _ = (&client).write_all(format!("{name} {peer}").as_bytes());
        }
    });
    wait.recv_timeout(PATIENCE).expect("server is up");
}

/// What the server says: its name and the address it saw; none = unreachable. Patient with a loaded
/// machine.
pub fn ask(netns: &Path, addr: impl Into<IpAddr>, port: u16) -> Option<(String, String)> {
    ask_for(netns, addr.into(), port, PATIENCE)
}

/// Who answers at once, where nobody should.
pub fn knock(netns: &Path, addr: impl Into<IpAddr>, port: u16) -> Option<String> {
    ask_for(netns, addr.into(), port, SILENCE).map(|answer| answer.0)
}

fn ask_for(netns: &Path, addr: IpAddr, port: u16, patience: Duration) -> Option<(String, String)> {
    within(netns, || {
        let mut stream = TcpStream::connect_timeout(&SocketAddr::from((addr, port)), patience).ok()?;
        stream.set_read_timeout(Some(PATIENCE)).expect("timeout");
        let mut text = String::new();
        stream.read_to_string(&mut text).ok()?;
        let (name, peer) = text.split_once(' ')?;
        Some((name.to_owned(), peer.to_owned()))
    })
}

/// A request to join networks, `name` or `name=address`.
pub fn request(id: &str, networks: &[&str]) -> AttachRequest {
    let join = |text: &&str| {
        let (network, addr) = text.split_once('=').map_or((*text, None), |(n, a)| (n, Some(a)));
        let addr = addr.map(|a| a.parse().expect("address"));
        Join { network: network.into(), addr, ..Join::default() }
    };
    AttachRequest {
        container_id: id.into(),
        name: format!("{id}-name"),
        networks: networks.iter().map(join).collect(),
        ..AttachRequest::default()
    }
}

/// `host_port:container_port` over TCP.
pub fn publish(host_port: u16, container_port: u16) -> Publish {
    Publish {
        protocol: "tcp".into(),
        container_port,
        host_ip: None,
        interface: None,
        host_port,
        host_port_end: 0,
    }
}

/// A host's data plane.
pub async fn start(host: &Host) -> DataPlane {
    DataPlane::start(host.options()).await.expect("data plane")
}

/// The kernel has what was computed for it.
pub async fn in_order(plane: &DataPlane) {
    assert_eq!(plane.check().await.expect("check"), Vec::<String>::new());
}

/// Attaches and serves port 80 under the container's ID.
pub async fn up(plane: &DataPlane, request: AttachRequest) -> Attached {
    let id = request.container_id.clone();
    let attached = plane.attach(request).await.unwrap_or_else(|e| panic!("attach {id}: {e}"));
    serve(&attached.netns, 80, &id);
    attached
}

/// Compares two listings line by line. Whether a bridge has a port with a carrier is not ours to say, and is
/// told a moment later than everything else: in flags, and as the operational state (RFC 2863, `state DOWN`). So is
/// whether an address of a link that went up just now is known to be nobody else's (RFC 4862, `tentative`).
pub fn assert_same(before: &str, after: &str) {
    const STATES: [&str; 7] = ["UP", "DOWN", "UNKNOWN", "LOWERLAYERDOWN", "DORMANT", "linkdown", "tentative"];
    let carrier = |line: &str| {
        let line = line.replace("NO-CARRIER,", "").replace(",LOWER_UP", "");
        line.split_whitespace().filter(|w| !STATES.contains(w)).collect::<Vec<_>>().join(" ")
    };
    let lines = |text: &str| -> Vec<String> { text.lines().map(carrier).collect() };
    let (before, after) = (lines(before), lines(after));
    let gone: Vec<_> = before.iter().filter(|l| !after.contains(l)).collect();
    let new: Vec<_> = after.iter().filter(|l| !before.contains(l)).collect();
    assert!(gone.is_empty() && new.is_empty(), "gone: {gone:#?}\nnew: {new:#?}");
}
