//! A group of raft nodes in one process, on real log files, over a network that can be cut and loses messages.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use rand::rngs::StdRng;
use rand::{Rng as _, SeedableRng as _};
use skep_manager::raft::log::LogOptions;
use skep_manager::raft::{
    Encode, Raft, RaftOptions, Rejected, Reports, Role, Start, StateMachine, Transport,
};
use skep_proto::v1;

/// Keeps the names of the networks put into it, in the order they came.
#[derive(Default)]
pub struct Names(Mutex<Vec<String>>);

impl Names {
    pub fn all(&self) -> Vec<String> {
        self.0.lock().unwrap().clone()
    }
}

impl StateMachine for Names {
    fn apply(&self, _index: u64, batch: &v1::Batch) -> Result<(), Rejected> {
        for change in &batch.changes {
            if let Some(v1::change::Op::Put(v1::Object { kind: Some(v1::object::Kind::Network(network)) })) =
                &change.op
            {
                self.0.lock().unwrap().push(network.id.clone());
            }
        }
        Ok(())
    }

    fn snapshot(&self) -> Encode {
        let names = self.all();
        Box::new(move || names.join("\n").into_bytes())
    }

    fn restore(&self, _index: u64, bytes: &[u8]) -> Result<(), String> {
        let text = std::str::from_utf8(bytes).map_err(|error| error.to_string())?;
        *self.0.lock().unwrap() = text.lines().map(str::to_owned).collect();
        Ok(())
    }
}

pub fn put(id: &str) -> Vec<v1::Change> {
    let network = v1::Network { id: id.into(), ..Default::default() };
    let object = v1::Object { kind: Some(v1::object::Kind::Network(network)) };
    vec![v1::Change { op: Some(v1::change::Op::Put(object)) }]
}

struct NetState {
    nodes: BTreeMap<u64, Raft>,
    /// Raft IDs that nothing reaches and that reach nothing.
    cut: BTreeSet<u64>,
    rng: StdRng,
    loss: f64,
    delay: bool,
}

/// The network between the nodes.
#[derive(Clone)]
pub struct Net(Arc<Mutex<NetState>>);

impl Net {
    pub fn new(seed: u64, loss: f64, delay: bool) -> Self {
        let rng = StdRng::seed_from_u64(seed);
        Self(Arc::new(Mutex::new(NetState {
            nodes: BTreeMap::new(),
            cut: BTreeSet::new(),
            rng,
            loss,
            delay,
        })))
    }

    pub fn cut(&self, id: u64) {
        self.0.lock().unwrap().cut.insert(id);
    }

    pub fn heal(&self) {
        let mut state = self.0.lock().unwrap();
        state.cut.clear();
        state.loss = 0.0;
    }
}

impl Transport for Net {
    fn send(&self, to: &v1::RaftPeer, messages: Vec<v1::RaftMessage>, reports: &Reports) {
        for message in messages {
            let mut state = self.0.lock().unwrap();
            let chance = state.loss;
            let lost = state.rng.random_bool(chance);
            let blocked = state.cut.contains(&message.from) || state.cut.contains(&to.raft_id);
            let target = state.nodes.get(&to.raft_id).cloned().filter(|_| !lost && !blocked);
            let micros = state.rng.random_range(200..20_000);
            let delay = state.delay;
            drop(state);
            let snapshot = message.snapshot.is_some();
            let Some(target) = target else {
                reports.unreachable(to.raft_id);
                if snapshot {
                    reports.snapshot(to.raft_id, false);
                }
                continue;
            };
            if snapshot {
                reports.snapshot(to.raft_id, true);
            }
            if delay {
                // Messages overtake each other, as over several connections.
                tokio::spawn(async move {
                    tokio::time::sleep(Duration::from_micros(micros)).await;
                    target.receive(message).unwrap();
                });
            } else {
                target.receive(message).unwrap();
            }
        }
    }
}

/// One node, running or not.
pub struct Node {
    pub name: String,
    pub id: u64,
    pub raft: Option<Raft>,
    pub names: Arc<Names>,
}

/// A group of nodes.
pub struct Group {
    pub net: Net,
    pub nodes: Vec<Node>,
    dir: tempfile::TempDir,
    simulated: bool,
    seed: u64,
    /// Leaders seen, by term.
    pub leaders: Arc<Mutex<BTreeMap<u64, BTreeSet<u64>>>>,
}

impl Group {
    pub fn new(seed: u64, simulated: bool, loss: f64) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let net = Net::new(seed, loss, simulated);
        Self { net, nodes: Vec::new(), dir, simulated, seed, leaders: Arc::default() }
    }

    pub fn options(&self, name: &str) -> RaftOptions {
        let path: PathBuf = self.dir.path().join(name);
        std::fs::create_dir_all(&path).unwrap();
        let mut log = LogOptions::new(path);
        let mut options = RaftOptions::new(log.clone());
        if self.simulated {
            log.segment_bytes = 64 << 10;
            options.snapshot_interval = Arc::new(|| 60);
            options.trailing = 10;
            options.inline_log = true;
            options.clock = Arc::new(|| 0);
        }
        options.seed =
            self.seed.wrapping_mul(31) + name.len() as u64 + u64::from(name.as_bytes()[name.len() - 1]);
        RaftOptions { log, ..options }
    }

    /// Starts a node and watches which terms it leads.
    pub fn start(&mut self, name: &str, start: Start) -> usize {
        let names = Arc::new(Names::default());
        let raft = Raft::start(self.options(name), start, names.clone(), Arc::new(self.net.clone())).unwrap();
        let id = raft.identity().raft_id;
        self.net.0.lock().unwrap().nodes.insert(id, raft.clone());
        let (mut status, leaders) = (raft.status(), self.leaders.clone());
        tokio::spawn(async move {
            loop {
                let (term, role) = {
                    let now = status.borrow_and_update();
                    (now.term, now.role)
                };
                if role == Role::Leader {
                    leaders.lock().unwrap().entry(term).or_default().insert(id);
                }
                if status.changed().await.is_err() {
                    break;
                }
            }
        });
        let node = Node { name: name.into(), id, raft: Some(raft), names };
        match self.nodes.iter().position(|known| known.name == name) {
            Some(position) => {
                self.nodes[position] = node;
                position
            }
            None => {
                self.nodes.push(node);
                self.nodes.len() - 1
            }
        }
    }

    /// Lets a node go without a word: what it had not written is gone.
    pub async fn crash(&mut self, position: usize) {
        self.net.0.lock().unwrap().nodes.remove(&self.nodes[position].id);
        if let Some(raft) = self.nodes[position].raft.take() {
            let mut status = raft.status();
            drop(raft);
            // Handles in flight keep it for a moment.
            while status.changed().await.is_ok() {}
        }
    }

    /// A group of `count` voters.
    pub async fn form(seed: u64, simulated: bool, loss: f64, count: usize) -> Self {
        let mut group = Self::new(seed, simulated, loss);
        let (cluster_id, node_id, addr) = ("c".to_owned(), "n1".to_owned(), "a1".to_owned());
        group.start("n1", Start::Init { cluster_id, node_id, addr });
        let first = group.nodes[0].raft.clone().unwrap();
        first.leadership().wait_for(|now| now.ready).await.unwrap();
        for number in 2..=count {
            let name = format!("n{number}");
            let response = first.join(&name, &format!("a{number}")).await.unwrap();
            let position = group.start(&name, Start::Join { response, node_id: name.clone() });
            let id = group.nodes[position].id;
            first
                .status()
                .wait_for(|now| now.members.iter().any(|member| member.peer.raft_id == id && member.voter))
                .await
                .unwrap();
        }
        group
    }

    pub fn leader(&self) -> Option<Raft> {
        let running = self.nodes.iter().filter_map(|node| node.raft.as_ref());
        let leading = running.filter(|raft| raft.status().borrow().role == Role::Leader);
        leading.max_by_key(|raft| raft.status().borrow().term).cloned()
    }
}
