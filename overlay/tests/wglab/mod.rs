//! Hosts as network namespaces, each with its own "daemon": this binary run again inside the namespace,
//! holding a `wireguard::Device` and doing what it is told over a pipe.

use std::ffi::OsString;
use std::io::{BufRead as _, BufReader, Write as _};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use skep_overlay::wireguard::{Device, DeviceOptions, PeerConfig};

/// How long anything may take on a loaded machine.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// How long a ping goes on before its target counts as unreachable.
const PING_PATIENCE: Duration = Duration::from_secs(8);

/// Runs the parts of this binary that are not the tests; `None` means: be the tests.
pub fn dispatch() -> Option<i32> {
    let args: Vec<OsString> = std::env::args_os().collect();
    match args.get(1).and_then(|a| a.to_str()) {
        Some("wireguard") => Some(skep_overlay::wireguard_main(&args[2..])),
        Some("daemon") => Some(daemon()),
        _ => None,
    }
}

/// Runs a command and returns what it printed.
pub fn run(command: &str) -> Result<String, String> {
    let output = Command::new("sh").args(["-c", command]).stdin(Stdio::null()).output();
    let output = output.map_err(|e| format!("{command}: {e}"))?;
    let text =
        format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    if output.status.success() { Ok(text) } else { Err(format!("{command}: {}: {text}", output.status)) }
}

/// Runs code inside a named network namespace, on a thread of its own.
pub fn inside<T: Send + 'static>(
    namespace: &str,
    code: impl FnOnce() -> T + Send + 'static,
) -> std::thread::JoinHandle<T> {
    let path = Path::new("/run/netns").join(namespace);
    std::thread::spawn(move || {
        let file = std::fs::File::open(path).expect("namespace");
        nix::sched::setns(file, nix::sched::CloneFlags::CLONE_NEWNET).expect("setns");
        code()
    })
}

/// Waits for a condition.
pub fn until(what: &str, mut condition: impl FnMut() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !condition() {
        assert!(Instant::now() < deadline, "{what}: not within {PATIENCE:?}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// The daemon inside a host: a line of JSON in, a line of JSON out.
fn daemon() -> i32 {
    let runtime = tokio::runtime::Runtime::new().expect("runtime");
    let mut device: Option<Device> = None;
    for line in std::io::stdin().lock().lines() {
        let order: Value = serde_json::from_str(&line.expect("stdin")).expect("order");
        let result = runtime.block_on(obey(&order, &mut device));
        let answer = match result {
            Ok(value) => json!({ "ok": value }),
            Err(error) => json!({ "error": error }),
        };
        println!("{answer}");
    }
    0
}

async fn obey(order: &Value, device: &mut Option<Device>) -> Result<Value, String> {
    let text = |name: &str| order[name].as_str().map(str::to_owned);
    let made = || device.as_ref().ok_or("no device yet".to_owned());
    match order["do"].as_str() {
        Some("ensure") => {
            let root = PathBuf::from(text("root").expect("root"));
            let options = DeviceOptions {
                name: text("name").expect("name"),
                private_key_path: root.join("wireguard.key"),
                listen_port: order["port"].as_u64().and_then(|p| p.try_into().ok()).expect("port"),
                helper_exe: std::env::current_exe().expect("own path"),
                exec_root: root.clone(),
                addr: text("addr").map(|a| a.parse().expect("address")),
                addr6: None,
                underlay: text("underlay").map(|a| a.parse().expect("address")),
                mtu: None,
            };
            let made = Device::ensure(options).await.map_err(|e| e.to_string())?;
            let answer = json!({
                "key": made.public_key(), "mtu": made.mtu(), "adopted": made.adopted(), "kernel": made.is_kernel(),
            });
            *device = Some(made);
            Ok(answer)
        }
        Some("peers") => {
            let wanted = order["peers"].as_array().cloned().unwrap_or_default();
            let peers: Vec<PeerConfig> = wanted.iter().map(peer).collect();
            made()?.set_peers(&peers).await.map_err(|e| e.to_string())?;
            Ok(Value::Null)
        }
        Some("show") => {
            let peers = made()?.peers().await.map_err(|e| e.to_string())?;
            let shown = peers.iter().map(|p| {
                json!({
                    "key": p.public_key,
                    "endpoint": p.endpoint.map(|e| e.to_string()),
                    "allowed": p.allowed_ips.iter().map(ToString::to_string).collect::<Vec<_>>(),
                    "handshake": p.last_handshake.is_some(),
                    "rx": p.rx_bytes, "tx": p.tx_bytes,
                })
            });
            Ok(Value::Array(shown.collect()))
        }
        Some("remove") => made()?.remove().await.map(|()| Value::Null).map_err(|e| e.to_string()),
        other => Err(format!("order {other:?}")),
    }
}

fn peer(value: &Value) -> PeerConfig {
    let text = |name: &str| value[name].as_str().expect("text").to_owned();
    PeerConfig {
        public_key: text("key"),
        endpoint: text("endpoint").parse().expect("endpoint"),
        allowed_ips: value["allowed"]
            .as_array()
            .expect("allowed")
            .iter()
            .map(|a| a.as_str().expect("text").parse().expect("network"))
            .collect(),
        allowed_ips6: Vec::new(),
    }
}

/// A host: a namespace with a link to the others, state folders, and a daemon.
pub struct Host {
    pub namespace: String,
    pub interface: String,
    pub underlay: String,
    pub overlay: String,
    pub root: PathBuf,
    daemon: Option<(Child, BufReader<std::process::ChildStdout>)>,
}

static COUNTER: AtomicU32 = AtomicU32::new(0);

/// Hosts on one bridge; gone when dropped.
pub struct Lab {
    /// Namespace of the switch between them.
    pub switch: String,
    pub hosts: Vec<Host>,
    pub folder: tempfile::TempDir,
}

impl Lab {
    /// Makes `count` hosts, 10.99.0.N on the underlay and 10.88.0.N in the overlay.
    pub fn new(count: u8) -> Self {
        let id = format!("{:x}x{}", std::process::id(), COUNTER.fetch_add(1, Ordering::Relaxed));
        let folder = tempfile::tempdir().expect("temporary folder");
        let bridge = format!("sw{id}");
        let mut lab = Self { switch: bridge.clone(), hosts: Vec::new(), folder };
        // The bridge has a namespace of its own: nothing of it touches the machine's.
        must(&format!(
            "ip netns add {bridge} && ip -n {bridge} link add br0 type bridge && ip -n {bridge} link set br0 up"
        ));
        for n in 1..=count {
            let namespace = format!("sk{id}h{n}");
            let root = lab.folder.path().join(n.to_string());
            std::fs::create_dir_all(&root).expect("folder");
            must(&format!(
                "ip netns add {namespace} && ip -n {namespace} link set lo up && \
                 ip -n {bridge} link add p{n} type veth peer name eth0 netns {namespace} && \
                 ip -n {bridge} link set p{n} master br0 up && \
                 ip -n {namespace} addr add 10.99.0.{n}/24 dev eth0 && \
                 ip -n {namespace} addr add fd99::{n}/64 dev eth0 nodad && ip -n {namespace} link set eth0 up"
            ));
            lab.hosts.push(Host {
                namespace,
                interface: format!("w{id}h{n}"),
                underlay: format!("10.99.0.{n}"),
                overlay: format!("10.88.0.{n}"),
                root,
                daemon: None,
            });
        }
        lab
    }

    /// Makes the interfaces, and every host a peer of every other.
    pub fn mesh(&mut self) {
        let keys: Vec<String> =
            self.hosts.iter_mut().map(|h| text(&h.ensure().expect("ensure"), "key")).collect();
        for n in 0..self.hosts.len() {
            let peers: Vec<Value> = (0..self.hosts.len())
                .filter(|other| *other != n)
                .map(|other| self.hosts[other].as_peer(&keys[other]))
                .collect();
            self.hosts[n].set_peers(&peers).expect("peers");
            self.hosts[n].route_overlay();
        }
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        for host in &mut self.hosts {
            if host.daemon.is_some() {
                let _ = host.order(&json!({ "do": "remove" }));
            }
            host.kill_daemon();
            if let Some(pid) = host.helper() {
                let _ = run(&format!("kill -9 {pid}"));
            }
            let _ = run(&format!("ip netns del {}", host.namespace));
        }
        let _ = run(&format!("ip netns del {}", self.switch));
    }
}

/// A field of an answer.
pub fn text(value: &Value, name: &str) -> String {
    value[name].as_str().unwrap_or_else(|| panic!("no {name} in {value}")).to_owned()
}

/// Runs a command that has to succeed.
pub fn must(command: &str) -> String {
    run(command).unwrap_or_else(|e| panic!("{e}"))
}

impl Host {
    /// Runs a command inside.
    pub fn run(&self, command: &str) -> Result<String, String> {
        run(&format!("nsenter --net=/run/netns/{} {command}", self.namespace))
    }

    /// Runs code inside, on a thread of its own.
    pub fn inside<T: Send + 'static>(
        &self,
        code: impl FnOnce() -> T + Send + 'static,
    ) -> std::thread::JoinHandle<T> {
        inside(&self.namespace, code)
    }

    /// Gives the daemon an order, starting it first if need be.
    pub fn order(&mut self, order: &Value) -> Result<Value, String> {
        let (child, output) = self.daemon.get_or_insert_with(|| {
            let mut child = Command::new("nsenter")
                .arg(format!("--net=/run/netns/{}", self.namespace))
                .arg(std::env::current_exe().expect("own path"))
                .arg("daemon")
                .stdin(Stdio::piped())
                .stdout(Stdio::piped())
                .spawn()
                .expect("daemon");
            let output = BufReader::new(child.stdout.take().expect("piped"));
            (child, output)
        });
        writeln!(child.stdin.as_mut().expect("piped"), "{order}").map_err(|e| e.to_string())?;
        let mut line = String::new();
        output.read_line(&mut line).map_err(|e| e.to_string())?;
        let mut answer: Value = serde_json::from_str(&line).map_err(|e| format!("{e}: {line:?}"))?;
        match answer["error"].as_str() {
            Some(error) => Err(error.to_owned()),
            None => Ok(answer["ok"].take()),
        }
    }

    /// `Device::ensure` with this host's names and addresses.
    pub fn ensure(&mut self) -> Result<Value, String> {
        let order = json!({
            "do": "ensure", "root": self.root, "name": self.interface, "port": 4789,
            "addr": self.overlay, "underlay": self.underlay,
        });
        self.order(&order)
    }

    /// `Device::set_peers`.
    pub fn set_peers(&mut self, peers: &[Value]) -> Result<Value, String> {
        self.order(&json!({ "do": "peers", "peers": peers }))
    }

    /// `Device::peers`.
    pub fn show(&mut self) -> Vec<Value> {
        self.order(&json!({ "do": "show" })).expect("show").as_array().expect("list").clone()
    }

    /// This host as the others see it.
    pub fn as_peer(&self, key: &str) -> Value {
        json!({ "key": key, "endpoint": format!("{}:4789", self.underlay), "allowed": [format!("{}/32", self.overlay)] })
    }

    /// What the data plane would do.
    pub fn route_overlay(&self) {
        let (interface, overlay) = (&self.interface, &self.overlay);
        must(&format!("ip -n {} route replace 10.88.0.0/24 dev {interface} src {overlay}", self.namespace));
    }

    /// `kill -9` of the daemon.
    pub fn kill_daemon(&mut self) {
        if let Some((mut child, _)) = self.daemon.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }

    /// The PID of the userspace process, if it is alive.
    pub fn helper(&self) -> Option<u32> {
        let lock = self.root.join(format!("{}.lock", self.interface));
        let pid: u32 = std::fs::read_to_string(lock).ok()?.trim().parse().ok()?;
        let line = std::fs::read(format!("/proc/{pid}/cmdline")).ok()?;
        String::from_utf8_lossy(&line).contains(&self.interface).then_some(pid)
    }

    /// Whether `to` answers within a few seconds.
    pub fn pings(&self, to: &str) -> bool {
        self.ping(to, 56, false)
    }

    /// Whether `to` answers an ICMP echo with that many bytes, in one piece if need be.
    pub fn ping(&self, to: &str, bytes: usize, whole: bool) -> bool {
        let to: std::net::Ipv4Addr = to.parse().expect("address");
        let answer = self.inside(move || echo(to, bytes, whole)).join().expect("ping");
        answer.inspect_err(|e| eprintln!("ping {to}: {e}")).is_ok()
    }
}

/// One ICMP echo; there is no `ping` on a minimal machine.
fn echo(to: std::net::Ipv4Addr, bytes: usize, whole: bool) -> std::io::Result<()> {
    use nix::sys::socket::{
        AddressFamily, MsgFlags, SockFlag, SockProtocol, SockType, SockaddrIn, recv, sendto, setsockopt,
        socket, sockopt,
    };
    use std::os::fd::AsRawFd as _;
    let fd = socket(AddressFamily::Inet, SockType::Raw, SockFlag::SOCK_CLOEXEC, SockProtocol::Icmp)?;
    setsockopt(&fd, sockopt::ReceiveTimeout, &nix::sys::time::TimeVal::new(1, 0))?;
    let discover = if whole { libc::IP_PMTUDISC_DO } else { libc::IP_PMTUDISC_DONT };
    // SAFETY: an open descriptor and a whole i32 of the given size.
    let set = unsafe {
        let size = size_of::<i32>() as libc::socklen_t;
        libc::setsockopt(
            fd.as_raw_fd(),
            libc::IPPROTO_IP,
            libc::IP_MTU_DISCOVER,
            (&raw const discover).cast(),
            size,
        )
    };
    nix::errno::Errno::result(set)?;
    let mark = COUNTER.fetch_add(1, Ordering::Relaxed).to_be_bytes();
    let mut request = vec![8, 0, 0, 0, mark[0], mark[1], mark[2], mark[3]];
    request.resize(8 + bytes, 0xA5);
    let sum = request.chunks(2).fold(0u32, |sum, pair| {
        sum + u32::from(u16::from_be_bytes([pair[0], pair.get(1).copied().unwrap_or(0)]))
    });
    let sum = (sum & 0xFFFF) + (sum >> 16);
    let sum = !(((sum & 0xFFFF) + (sum >> 16)) as u16);
    request[2..4].copy_from_slice(&sum.to_be_bytes());
    let target = SockaddrIn::from(std::net::SocketAddrV4::new(to, 0));
    let deadline = Instant::now() + PING_PATIENCE;
    while Instant::now() < deadline {
        sendto(fd.as_raw_fd(), &request, &target, MsgFlags::empty())?;
        let mut answer = vec![0; 1 << 16];
        while let Ok(len) = recv(fd.as_raw_fd(), &mut answer, MsgFlags::empty()) {
            let icmp = &answer[20.min(len)..len];
            if icmp.len() == request.len() && icmp[0] == 0 && icmp[4..] == request[4..] {
                return Ok(());
            }
        }
    }
    Err(std::io::ErrorKind::TimedOut.into())
}
