//! Whole managers over TLS on loopback with their real logs on disk, each in a runtime of its own, so that
//! killing one is as abrupt as the death of its process.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU16, Ordering};
use std::time::{Duration, Instant};

use skep_identity::{Bootstrap, Identity, Network, Role, Tcp, bootstrap};
use skep_manager::{InitOptions, Manager, ManagerOptions, Start};
use skep_proto::v1;
use skep_proto::v1::control_client::ControlClient;
use skep_proto::v1::control_server::Control;
use tempfile::TempDir;
use tokio::runtime::Runtime;
use tonic::{Request, Status};

/// Longest wait for anything on a busy machine.
const LONG: Duration = Duration::from_secs(60);

/// One host that may run a manager.
struct Host {
    dir: PathBuf,
    addr: String,
    identity: Option<Identity>,
    running: Option<(Runtime, Manager)>,
}

struct Cluster {
    hosts: Vec<Host>,
    test: Runtime,
    _dir: TempDir,
}

fn runtime() -> Runtime {
    tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().expect("runtime")
}

fn tcp() -> Arc<dyn Network> {
    Arc::new(Tcp)
}

/// An address that nobody has, on a port below those that the kernel gives by itself (ip(7), `ip_local_port_range`): one
/// of those could be a connection's own while a manager that was killed wants it again.
fn free_addr() -> String {
    const FIRST: u16 = 20_000;
    const COUNT: u16 = 10_000;
    static TAKEN: AtomicU16 = AtomicU16::new(0);
    let own = std::process::id().wrapping_mul(37) as u16 % COUNT;
    let ports = (0..COUNT).map(|_| FIRST + (own + TAKEN.fetch_add(1, Ordering::Relaxed) % COUNT) % COUNT);
    let mut addrs = ports.map(|port| std::net::SocketAddr::from(([127, 0, 0, 1], port)));
    addrs.find(|addr| std::net::TcpListener::bind(addr).is_ok()).expect("a free port").to_string()
}

impl Host {
    fn manager(&self) -> &Manager {
        &self.running.as_ref().expect("running").1
    }

    fn options(&self, start: Start) -> ManagerOptions {
        let identity = self.identity.clone().expect("joined");
        ManagerOptions::new(
            self.dir.join("manager"),
            identity,
            tcp(),
            self.addr.clone(),
            self.addr.clone(),
            start,
        )
    }

    fn start(&mut self, start: Start) {
        let (runtime, options) = (runtime(), self.options(start));
        let manager = runtime.block_on(Manager::start(options)).expect("started");
        self.running = Some((runtime, manager));
    }

    /// The process dies.
    fn kill(&mut self) {
        let (runtime, manager) = self.running.take().expect("running");
        // With all it holds: the next one listens at the same address.
        runtime.shutdown_timeout(LONG);
        drop(manager);
    }

    fn stop(&mut self) {
        let (runtime, manager) = self.running.take().expect("running");
        runtime.block_on(manager.stop());
    }
}

impl Cluster {
    /// A first manager and two that join.
    fn new() -> Self {
        // Shown when a test fails, at the level RUST_LOG asks for.
        let _ = tracing_subscriber::fmt()
            .with_env_filter(tracing_subscriber::EnvFilter::from_default_env())
            .with_test_writer()
            .try_init();
        let dir = TempDir::new().expect("dir");
        let host = |i: usize| Host {
            dir: dir.path().join(format!("host{i}")),
            addr: free_addr(),
            identity: None,
            running: None,
        };
        let mut hosts: Vec<_> = (0..3).map(host).collect();
        let first = runtime();
        let init = InitOptions { hostname: "host0".into(), ..Default::default() };
        let (state, identity) = (hosts[0].dir.join("manager"), hosts[0].dir.join("identity"));
        let addr = hosts[0].addr.clone();
        let made = first.block_on(Manager::init(state, &identity, tcp(), addr.clone(), addr, init));
        let (manager, identity) = made.expect("made");
        hosts[0].identity = Some(identity);
        hosts[0].running = Some((first, manager));
        let mut cluster = Self { hosts, test: runtime(), _dir: dir };
        for i in 1..3 {
            cluster.join(i);
        }
        cluster
    }

    fn join(&mut self, i: usize) {
        let remote = self.hosts[0].addr.clone();
        let token = self.cluster(0).manager_token.parse().expect("token");
        let hostname = format!("host{i}");
        let join = Bootstrap {
            host: &skep_identity::Host::system(),
            addr: &remote,
            token: &token,
            availability: v1::NodeAvailability::Active,
            hostname: &hostname,
        };
        let dir = self.hosts[i].dir.join("identity");
        self.hosts[i].identity = Some(self.test.block_on(bootstrap(&tcp(), &dir, join)).expect("joined"));
        self.hosts[i].start(Start::Join { remote });
    }

    fn cluster(&self, at: usize) -> v1::Cluster {
        let control = self.hosts[at].manager().control();
        let answer = self.test.block_on(control.get_cluster(Request::new(v1::GetClusterRequest {})));
        answer.expect("read").into_inner().cluster.expect("there")
    }

    fn create(&self, at: usize, name: &str) -> Result<v1::Service, Status> {
        let spec = v1::ServiceSpec {
            annotations: Some(v1::Annotations { name: name.into(), ..Default::default() }),
            task: Some(v1::TaskSpec {
                container: Some(v1::ContainerSpec { image: "whoami".into(), ..Default::default() }),
                ..Default::default()
            }),
            mode: Some(v1::service_spec::Mode::Replicated(v1::Replicated { replicas: 0 })),
            ..Default::default()
        };
        let control = self.hosts[at].manager().control();
        let request = Request::new(v1::CreateServiceRequest { spec: Some(spec) });
        self.test.block_on(control.create_service(request)).map(|r| r.into_inner().service.expect("there"))
    }

    /// By a read that the leader has confirmed, once it does.
    fn services(&self, at: usize) -> Vec<String> {
        let control = self.hosts[at].manager().control();
        let begun = Instant::now();
        let answer = loop {
            let request = Request::new(v1::ListServicesRequest::default());
            let answer = self.test.block_on(control.list_services(request)).expect("read").into_inner();
            if !answer.stale {
                break answer;
            }
            assert!(begun.elapsed() < LONG, "never a confirmed read");
        };
        let name = |s: v1::ServiceWithStatus| {
            s.service.and_then(|s| s.spec).and_then(|s| s.annotations).map(|a| a.name)
        };
        let mut names: Vec<_> = answer.services.into_iter().filter_map(name).collect();
        names.sort();
        names
    }

    fn nodes(&self, at: usize) -> Vec<v1::Node> {
        let control = self.hosts[at].manager().control();
        let answer = self.test.block_on(control.list_nodes(Request::new(v1::ListNodesRequest::default())));
        answer.expect("read").into_inner().nodes
    }

    fn leader(&self, at: usize) -> usize {
        let mut leader = self.hosts[at].manager().leader();
        let known = self.test.block_on(async {
            let known = leader.wait_for(|l| l.is_some());
            tokio::time::timeout(LONG, known).await.expect("a leader").expect("running").clone()
        });
        let id = known.expect("known").node_id;
        let is = |h: &Host| h.identity.as_ref().is_some_and(|i| i.node_id().as_str() == id);
        self.hosts.iter().position(is).expect("one of ours")
    }

    fn until(&self, what: &str, mut condition: impl FnMut() -> bool) {
        let begun = Instant::now();
        while !condition() {
            assert!(begun.elapsed() < LONG, "never {what}");
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    fn set_role(&self, at: usize, id: &str, role: v1::NodeRole) -> Result<(), Status> {
        let node = self.nodes(at).into_iter().find(|n| n.id == id).expect("there");
        let spec = v1::NodeSpec { role: role.into(), ..node.spec.unwrap_or_default() };
        let version = node.meta.map_or(0, |m| m.version);
        let request = v1::UpdateNodeRequest { id: id.into(), version, spec: Some(spec) };
        let control = self.hosts[at].manager().control();
        self.test.block_on(control.update_node(Request::new(request))).map(drop)
    }
}

#[test]
fn writes_go_on_when_the_leader_is_killed_and_it_returns_from_its_disk() {
    let mut cluster = Cluster::new();
    cluster.create(2, "before").expect("written through a follower");
    let old = cluster.leader(1);
    let other = (old + 1) % 3;
    cluster.hosts[old].kill();
    cluster.create(other, "after").expect("written under a new leader");
    assert_eq!(cluster.services((old + 2) % 3), ["after", "before"]);
    cluster.hosts[old].start(Start::Restart);
    assert_eq!(cluster.services(old), ["after", "before"]);
}

#[test]
fn without_quorum_writes_fail_and_all_is_there_after_a_restart_of_all() {
    let mut cluster = Cluster::new();
    cluster.create(0, "kept").expect("written");
    cluster.hosts[1].kill();
    cluster.hosts[2].kill();
    let status = cluster.create(0, "lost").expect_err("no quorum");
    assert_eq!(status.code(), tonic::Code::Unavailable, "{status}");
    assert!(status.message().contains("no leader"), "{status}");
    cluster.hosts[0].stop();
    for host in &mut cluster.hosts {
        host.start(Start::Restart);
    }
    cluster.leader(1);
    assert!(cluster.services(1).contains(&"kept".to_owned()));
}

#[test]
fn a_demoted_manager_leaves_raft_and_a_stopped_leader_hands_over() {
    let mut cluster = Cluster::new();
    let all = |c: &Cluster| c.nodes(0).iter().filter(|n| n.manager.is_some()).count() == 3;
    cluster.until("three managers", || all(&cluster));
    let id = String::from(cluster.hosts[2].identity.as_ref().expect("joined").node_id());
    // A connection from before, by which the host may ask what managers may ask.
    let (identity, addr) =
        (cluster.hosts[2].identity.clone().expect("joined"), cluster.hosts[0].addr.clone());
    let _entered = cluster.test.enter();
    let mut control = ControlClient::new(skep_identity::channel(&identity, &tcp(), &addr, Role::Manager));
    let mut ask = || cluster.test.block_on(control.list_nodes(v1::ListNodesRequest::default()));
    ask().expect("a manager may");
    cluster.set_role(1, &id, v1::NodeRole::Worker).expect("demoted");
    let demoted = |n: &v1::Node| n.id != id || (n.manager.is_none() && n.role() == v1::NodeRole::Worker);
    cluster.until("demoted", || cluster.nodes(0).iter().all(demoted));
    let refused = ask().expect_err("no manager any more");
    assert_eq!(refused.code(), tonic::Code::PermissionDenied, "{refused}");
    cluster.hosts[2].stop();
    let (leader, other) = if cluster.leader(0) == 0 { (0, 1) } else { (1, 0) };
    cluster.set_role(other, &id, v1::NodeRole::Manager).expect("promoted again");
    cluster.create(leader, "two").expect("two managers are a quorum of two");
}

#[test]
fn one_manager_goes_on_alone_by_force() {
    let mut cluster = Cluster::new();
    cluster.create(0, "kept").expect("written");
    cluster.hosts.iter_mut().for_each(Host::kill);
    cluster.hosts[1].start(Start::ForceNewCluster);
    cluster.leader(1);
    assert_eq!(cluster.services(1), ["kept"]);
    cluster.create(1, "more").expect("written alone");
    let managers = cluster.nodes(1).into_iter().filter(|n| n.role() == v1::NodeRole::Manager).count();
    assert_eq!(managers, 1);
}

#[test]
fn managers_that_come_back_elsewhere_are_found() {
    let mut cluster = Cluster::new();
    cluster.create(0, "kept").expect("written");
    let leader = cluster.leader(0);
    let (next, last) = ((leader + 1) % 3, (leader + 2) % 3);
    // One that follows; the one that leads; more than a quorum can lack; all, of which two are told where a third is.
    for (round, which) in [vec![next], vec![leader], vec![leader, next], vec![0, 1, 2]].iter().enumerate() {
        which.iter().for_each(|i| cluster.hosts[*i].kill());
        for i in which {
            cluster.hosts[*i].addr = free_addr();
            cluster.hosts[*i].start(Start::Restart);
        }
        if which.len() == 3 {
            for i in [leader, next] {
                let (own, other) = (cluster.hosts[i].addr.clone(), cluster.hosts[last].addr.clone());
                cluster.hosts[i].manager().readdress(&own, [other]);
            }
        }
        cluster.until("every manager knows where each is", || {
            (0..3).all(|at| {
                let view = cluster.hosts[at].manager().store().view();
                cluster.hosts.iter().all(|host| {
                    let id = host.identity.as_ref().expect("joined").node_id();
                    let manager = view.node(id.as_str()).and_then(|n| n.manager.as_ref());
                    manager.is_some_and(|m| m.addr == host.addr)
                })
            })
        });
        cluster.create(last, &format!("round{round}")).expect("written");
    }
    assert_eq!(cluster.services(next), ["kept", "round0", "round1", "round2", "round3"]);
}

#[test]
fn snapshots_are_taken_and_kept_as_the_cluster_says() {
    let cluster = Cluster::new();
    let control = cluster.hosts[1].manager().control();
    let now = cluster.cluster(1);
    let spec =
        v1::ClusterSpec { snapshot_interval: 10, keep_old_snapshots: 2, ..now.spec.unwrap_or_default() };
    let version = now.meta.map_or(0, |m| m.version);
    let request = v1::UpdateClusterRequest { version, spec: Some(spec), ..Default::default() };
    cluster.test.block_on(control.update_cluster(Request::new(request))).expect("updated");
    let snapshots = || -> Vec<u64> {
        let status = |h: &Host| h.manager().raft_status().borrow().snapshot_index;
        cluster.hosts.iter().map(status).collect()
    };
    let kept = |host: &Host| -> Vec<String> {
        let files = std::fs::read_dir(host.dir.join("manager/raft")).expect("the log");
        let names = files.map(|f| f.expect("a file").file_name().to_string_lossy().into_owned());
        names.filter(|name| name.ends_with(".snap")).collect()
    };
    let mut created = 0;
    for round in 1..=4 {
        let before = snapshots();
        for _ in 0..12 {
            cluster.create(created % 3, &format!("s{created}")).expect("written");
            created += 1;
        }
        let grown = || snapshots().iter().zip(&before).all(|(now, then)| now > then);
        cluster.until("a snapshot everywhere", grown);
        // The first one is that of the beginning, or of joining.
        cluster.until("two older ones at most", || {
            cluster.hosts.iter().all(|h| kept(h).len() == 3 || (round == 1 && kept(h).len() == 2))
        });
    }
}
