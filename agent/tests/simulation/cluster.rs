//! A swarm of simulated hosts: forming it, breaking and mending it, and letting time pass under the checks.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use skep_manager::store::StoreView;
use skep_proto::v1::{NodeAvailability, NodeRole};
use tempfile::TempDir;
use turmoil::Sim;

use crate::batch::BatchCommand;
use crate::check::Checks;
use crate::client::{Ask, EvenCommand, NodeCommand, Record, Request, RootCommand};
use crate::job::JobCommand;
use crate::members::{self, Lock, LockCommand, RoleCommand};
use crate::node::{Invitation, Node, NodeOptions};
use crate::scaled::ScaledCommand;
use crate::trace::Trace;

/// Time that passes in one step of the simulation; messages arrive between steps.
const STEP: Duration = Duration::from_millis(5);
/// Steps between checks of what must always hold.
const CHECK_EVERY: u64 = 4;

/// Longest wait for an operator's word, with one host at most away.
const PATIENCE: Duration = Duration::from_secs(60);

/// A swarm that has written nothing for so long is at rest.
const REST: Duration = Duration::from_secs(5);

/// A task of some host panicked: the runtime would keep that to itself.
pub static PANICKED: AtomicBool = AtomicBool::new(false);

/// The swarm.
pub struct Cluster {
    pub nodes: Vec<Arc<Node>>,
    pub record: Arc<Record>,
    pub trace: Arc<Trace>,
    pub rng: StdRng,
    sim: Sim<'static>,
    checks: Checks,
    steps: u64,
    run: String,
    _dir: TempDir,
}

/// Where the hosts' disks are: in memory where there is such a place, since nothing here tests a real disk.
fn disks() -> TempDir {
    let memory = std::path::Path::new("/dev/shm");
    let made = if memory.is_dir() { TempDir::new_in(memory) } else { TempDir::new() };
    made.expect("a directory for the simulated hosts")
}

impl Cluster {
    /// `managers` hosts that manage and `workers` that do not, none of them up yet.
    pub fn new(run: &str, seed: u64, managers: usize, workers: usize) -> Self {
        let mut builder = turmoil::Builder::new();
        builder
            .rng_seed(seed)
            .tick_duration(STEP)
            .min_message_latency(Duration::from_millis(1))
            .max_message_latency(Duration::from_millis(20))
            .simulation_duration(Duration::from_secs(3600))
            .tcp_capacity(4096)
            .enable_random_order();
        let mut sim = builder.build();
        let (dir, trace, invitation) = (disks(), Arc::new(Trace::default()), Arc::new(Invitation::default()));
        let mut nodes = Vec::new();
        for i in 0..managers + workers {
            let name = format!("h{i}");
            let node = Node::new(NodeOptions {
                addr: format!("{}:2377", sim.lookup(name.as_str())),
                manages: i < managers,
                founder: i == 0,
                seed: seed.wrapping_mul(100).wrapping_add(i as u64),
                dir: dir.path().join(&name),
                invitation: invitation.clone(),
                trace: trace.clone(),
                name,
            });
            let daemon = node.clone();
            sim.host(node.name.as_str(), move || daemon.clone().daemon());
            nodes.push(node);
        }
        let record = Record::new(trace.clone());
        let rng = StdRng::seed_from_u64(seed ^ 0x5EED);
        let checks = Checks::default();
        Self { nodes, record, trace, rng, sim, checks, steps: 0, run: run.into(), _dir: dir }
    }

    /// Up, with all nodes ready.
    pub fn form(run: &str, seed: u64, managers: usize, workers: usize) -> Self {
        let mut cluster = Self::new(run, seed, managers, workers);
        cluster.converge(Duration::from_secs(60));
        cluster.trace.add("the swarm is formed".into());
        cluster
    }

    /// The run has shown something wrong.
    pub fn fail(&self, what: &str) -> ! {
        let (run, trace) = (&self.run, self.trace.tail());
        panic!(
            "{trace}\n{run} at {:?}: {what}\n\
             replay: SKEP_RUN={run} cargo test -p skep-agent --test simulation one_run -- --nocapture",
            self.trace.now()
        );
    }

    pub fn now(&self) -> Duration {
        self.trace.now()
    }

    fn step(&mut self) {
        if let Err(error) = self.sim.step() {
            self.fail(&format!("a daemon ended: {error}"));
        }
        self.trace.advance(self.sim.elapsed());
        self.steps += 1;
        if self.steps.is_multiple_of(CHECK_EVERY) {
            let broken = self.checks.always(&self.nodes, self.trace.now());
            let told = self.record.violations().into_iter().next();
            if let Some(what) = broken.err().or(told) {
                self.fail(&what);
            }
            if PANICKED.load(Ordering::Relaxed) {
                self.fail("something panicked, see above");
            }
        }
    }

    /// Lets time pass.
    pub fn pass(&mut self, time: Duration) {
        let end = self.now() + time;
        while self.now() < end {
            self.step();
        }
    }

    /// Lets time pass until `condition` holds.
    pub fn until(&mut self, what: &str, limit: Duration, condition: impl Fn(&Self) -> Result<(), String>) {
        let end = self.now() + limit;
        loop {
            self.pass(Duration::from_millis(100));
            match condition(self) {
                Ok(()) => return,
                Err(why) if self.now() >= end => self.fail(&format!("not {what} within {limit:?}: {why}")),
                Err(_) => {}
            }
        }
    }

    /// Lets time pass until the swarm is what its users were told, and has stayed so and written nothing more
    /// for a while: it must come to rest within the limit.
    pub fn converge(&mut self, limit: Duration) {
        let settled = |cluster: &Self| cluster.checks.settled(&cluster.nodes, &cluster.record, cluster.now());
        let end = self.now() + limit;
        loop {
            self.until("settled", limit, |c| settled(c).map(drop));
            let before = settled(self);
            self.pass(REST);
            let after = settled(self);
            if before == after {
                return;
            }
            self.trace.add(format!("no rest yet: first {before:?}, then {after:?}"));
            if self.now() >= end {
                self.fail("the swarm does not come to rest");
            }
        }
    }

    pub fn is_up(&mut self, i: usize) -> bool {
        self.sim.is_host_running(self.nodes[i].name.as_str())
    }

    /// The daemon of a host dies; its containers go on.
    pub fn crash(&mut self, i: usize) {
        if self.is_up(i) {
            self.trace.add(format!("-- {} crashes", self.nodes[i].name));
            self.sim.crash(self.nodes[i].name.as_str());
            self.nodes[i].crashed();
        }
    }

    /// The host loses power.
    pub fn power_cut(&mut self, i: usize) {
        self.crash(i);
        self.trace.add(format!("-- {} has lost power", self.nodes[i].name));
        self.nodes[i].containers.power_cut();
    }

    /// The daemon of a host is started again.
    pub fn start(&mut self, i: usize) {
        if !self.is_up(i) {
            self.trace.add(format!("-- {} starts", self.nodes[i].name));
            self.sim.bounce(self.nodes[i].name.as_str());
        }
    }

    fn pairs(&self, from: &[usize], to: &[usize]) -> Vec<(String, String)> {
        let name = |i: &usize| self.nodes[*i].name.clone();
        from.iter()
            .flat_map(|a| to.iter().filter(move |b| *b != a).map(move |b| (name(a), name(b))))
            .collect()
    }

    /// Nothing passes between these and those.
    pub fn cut(&mut self, these: &[usize], those: &[usize]) {
        self.trace.add(format!("-- cut between {these:?} and {those:?}"));
        for (a, b) in self.pairs(these, those) {
            self.sim.partition(a, b);
        }
    }

    /// Nothing passes from these to those, but the other way it does.
    pub fn cut_one_way(&mut self, these: &[usize], those: &[usize]) {
        self.trace.add(format!("-- cut from {these:?} to {those:?}"));
        for (a, b) in self.pairs(these, those) {
            self.sim.partition_oneway(a, b);
        }
    }

    /// Cuts a host off from all others.
    pub fn isolate(&mut self, i: usize) {
        let others: Vec<usize> = (0..self.nodes.len()).filter(|n| *n != i).collect();
        self.cut(&[i], &others);
    }

    /// Messages between two hosts are held up until all is healed.
    pub fn hold(&mut self, a: usize, b: usize) {
        self.trace.add(format!("-- hold between {a} and {b}"));
        self.sim.hold(self.nodes[a].name.as_str(), self.nodes[b].name.as_str());
    }

    /// Links break at random at this rate for each message, and are repaired as randomly.
    pub fn lose(&mut self, rate: f64) {
        self.trace.add(format!("-- loss {rate}"));
        self.sim.set_fail_rate(rate);
    }

    /// Every link works again.
    pub fn heal(&mut self) {
        self.trace.add("-- heal".into());
        let all: Vec<usize> = (0..self.nodes.len()).collect();
        for (a, b) in self.pairs(&all, &all) {
            if a < b {
                self.sim.release(a.as_str(), b.as_str());
                self.sim.repair(a, b);
            }
        }
    }

    /// Everything works, and every host is up.
    pub fn mend(&mut self) {
        self.lose(0.0);
        self.heal();
        for i in 0..self.nodes.len() {
            self.start(i);
            self.nodes[i].containers.set_failing(false);
        }
    }

    /// A host's clock is off.
    pub fn skew(&mut self, i: usize, ms: i64) {
        self.trace.add(format!("-- the clock of {} is off by {ms} ms", self.nodes[i].name));
        self.nodes[i].skew(ms);
    }

    /// Who leads, as the other managers see it.
    pub fn leader(&self) -> Option<usize> {
        let status = |n: &Arc<Node>| n.manager().map(|m| m.raft_status().borrow().clone());
        let known = self.nodes.iter().filter_map(status).max_by_key(|s| (s.term, s.leader != 0))?;
        let peer = known.members.iter().find(|m| m.peer.raft_id == known.leader)?;
        self.nodes.iter().position(|n| n.id() == peer.peer.node_id)
    }

    /// The leader; there must be one soon.
    pub fn settled_leader(&mut self) -> usize {
        self.until("led", Duration::from_secs(20), |c| c.leader().map(drop).ok_or("no leader".into()));
        self.leader().unwrap_or_default()
    }

    /// A user asks something at a manager.
    pub fn ask(&mut self, at: usize, service: &str, ask: Ask) {
        if self.nodes[at].manager().is_none() {
            return;
        }
        if let Some(command) = self.record.command(service, ask) {
            self.nodes[at].command(Request::Service(command));
        }
    }

    /// An operator drains a host, or takes it back, at some manager.
    pub fn make(&mut self, i: usize, availability: NodeAvailability) {
        let Some(at) = self.some_manager() else { return };
        let (record, id) = (self.record.clone(), self.nodes[i].id());
        self.nodes[at].command(Request::Node(NodeCommand { record, id, availability }));
    }

    /// An operator has the root replaced, at some manager.
    pub fn rotate_root(&mut self) {
        let Some(at) = self.some_manager() else { return };
        self.nodes[at].command(Request::Root(RootCommand { record: self.record.clone() }));
    }

    /// A user has a service's tasks moved from now on where that spreads them more evenly.
    pub fn even_out(&mut self, service: &str) {
        let Some(at) = self.some_manager() else { return };
        let (record, service) = (self.record.clone(), service.to_owned());
        self.nodes[at].command(Request::Even(EvenCommand { record, service }));
    }

    /// Somebody makes a service that is scaled by what its tasks use, at some manager.
    pub fn make_scaled(&mut self) {
        let Some(at) = self.some_manager() else { return };
        self.nodes[at].command(Request::Scaled(ScaledCommand { record: self.record.clone() }));
    }

    /// Each container of every host uses so many processors from now on.
    pub fn load(&self, processors: f64) {
        self.trace.add(format!("-- each container uses {processors} processors"));
        self.nodes.iter().for_each(|n| n.containers.set_load(processors));
    }

    /// Somebody makes a job with a schedule, at some manager.
    pub fn make_job(&mut self) {
        let Some(at) = self.some_manager() else { return };
        self.nodes[at].command(Request::Job(JobCommand { record: self.record.clone() }));
    }

    /// An operator gives a host another role, and asks again until told that it has it.
    pub fn give_role(&mut self, i: usize, role: NodeRole) {
        let wanted = role == NodeRole::Manager;
        let end = self.now() + PATIENCE;
        while self.nodes[i].manages() != wanted {
            if let Some(at) = self.some_manager() {
                let (record, node) = (self.record.clone(), self.nodes[i].clone());
                self.nodes[at].command(Request::Role(RoleCommand { record, node, role }));
            }
            self.pass(members::AGAIN);
            if self.now() > end {
                self.fail(&format!("nobody makes {} a {role:?}", self.nodes[i].name));
            }
        }
    }

    /// An operator locks the swarm, unlocks it or changes its key, at some manager.
    pub fn lock(&mut self, lock: Lock) {
        let Some(at) = self.some_manager() else { return };
        self.nodes[at].command(Request::Lock(LockCommand { record: self.record.clone(), lock }));
    }

    /// Somebody makes a job that comes to an end, at some manager.
    pub fn make_batch(&mut self) {
        let Some(at) = self.some_manager() else { return };
        self.nodes[at].command(Request::Batch(BatchCommand { record: self.record.clone() }));
    }

    /// The newest state of any manager.
    pub fn view(&self) -> Arc<StoreView> {
        let views = self.nodes.iter().filter_map(|n| n.manager()).map(|m| m.store().view());
        views.max_by_key(|v| v.index).unwrap_or_default()
    }

    /// A manager that runs, at random.
    pub fn some_manager(&mut self) -> Option<usize> {
        let running: Vec<usize> =
            (0..self.nodes.len()).filter(|i| self.nodes[*i].manager().is_some()).collect();
        (!running.is_empty()).then(|| running[self.rng.random_range(0..running.len())])
    }

    /// A digest of all that happened.
    pub fn hash(&self) -> u64 {
        self.trace.hash()
    }
}
