//! What a simulated host runs: containers as records that outlive the daemon, with phases that take time and
//! fail now and then, and a data plane that acknowledges what it is given.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use skep_agent::{Applied, NetworkPlane, Observed, TaskError, TaskExit, TaskRuntime, TaskUse};
use skep_overlay::desired::Desired;
use skep_proto::v1;

use crate::job;
use crate::trace::Trace;

/// Containers of this image come to a bad end at once.
pub const BROKEN: &str = "image:666";

/// One container.
#[derive(Clone, Debug)]
pub struct Container {
    pub service: String,
    pub slot: u64,
    /// When it was started, in simulated time.
    pub started: Option<Duration>,
    /// When its process ends or ended, and how.
    pub exit: Option<(Duration, i32)>,
    /// The agent has sent it the stop signal.
    pub stopping: bool,
}

impl Container {
    /// Whether its process runs at `now`.
    pub fn runs(&self, now: Duration) -> bool {
        self.started.is_some() && self.exit.is_none_or(|(at, _)| now < at)
    }
}

/// The containers of a host.
pub struct Containers {
    host: String,
    trace: Arc<Trace>,
    state: Mutex<State>,
}

struct State {
    all: BTreeMap<String, Container>,
    rng: StdRng,
    /// Whether things fail by chance.
    failing: bool,
    /// Processors that each container uses since some moment, and what each had used until then.
    load: (f64, Duration, u64),
}

impl State {
    /// Processor time that each container has used, in nanoseconds.
    fn used_ns(&self, now: Duration) -> u64 {
        let (processors, since, before) = self.load;
        before + ((now - since).as_nanos() as f64 * processors) as u64
    }
}

impl Containers {
    pub fn new(host: &str, seed: u64, trace: Arc<Trace>) -> Self {
        let load = (0.0, Duration::ZERO, 0);
        let state = State { all: BTreeMap::new(), rng: StdRng::seed_from_u64(seed), failing: false, load };
        Self { host: host.into(), trace, state: Mutex::new(state) }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// All there are, by task.
    pub fn all(&self) -> BTreeMap<String, Container> {
        self.lock().all.clone()
    }

    /// Whether starts fail and processes die now and then.
    pub fn set_failing(&self, failing: bool) {
        self.lock().failing = failing;
    }

    /// Each container uses so many processors from now on.
    pub fn set_load(&self, processors: f64) {
        let now = self.trace.now();
        let mut state = self.lock();
        state.load = (processors, now, state.used_ns(now));
    }

    /// The host loses power: every process ends.
    pub fn power_cut(&self) {
        let now = self.trace.now();
        let mut state = self.lock();
        for container in state.all.values_mut().filter(|c| c.runs(now)) {
            container.exit = Some((now, 137));
        }
    }

    /// Some process of a service dies; returns its task.
    pub fn kill_one(&self, code: i32) -> Option<String> {
        let now = self.trace.now();
        let mut state = self.lock();
        let (id, container) = state.all.iter_mut().find(|(_, c)| c.runs(now) && !c.stopping)?;
        container.exit = Some((now, code));
        Some(id.clone())
    }

    /// Work of the engine's takes its time.
    async fn work(&self, millis: std::ops::Range<u64>) {
        let took = self.lock().rng.random_range(millis);
        tokio::time::sleep(Duration::from_millis(took)).await;
    }

    fn note(&self, what: &str, task_id: &str, container: &Container) {
        self.trace
            .add(format!("{} {what} {task_id} of {} slot {}", self.host, container.service, container.slot));
    }
}

fn id_of(task: &v1::TaskAssignment) -> &str {
    task.task.as_ref().map_or("", |t| &t.id)
}

fn status(task: &v1::TaskAssignment) -> v1::ContainerStatus {
    v1::ContainerStatus { container_id: format!("c-{}", id_of(task)), pid: 7, exit_code: 0 }
}

fn gone(task: &v1::TaskAssignment) -> TaskError {
    TaskError::Failed(format!("no container of task {}", id_of(task)))
}

/// The engine of one simulated host, as its daemon sees it.
pub struct SimRuntime(pub Arc<Containers>);

#[async_trait::async_trait]
impl TaskRuntime for SimRuntime {
    async fn observe(&self, task: &v1::TaskAssignment) -> Observed {
        let now = self.0.trace.now();
        match self.0.lock().all.get(id_of(task)) {
            None => Observed::Absent,
            Some(c) if c.started.is_none() => Observed::Prepared,
            Some(c) if c.runs(now) => Observed::Running(status(task)),
            Some(c) => {
                let code = c.exit.map_or(0, |(_, code)| code);
                Observed::Exited(status(task), TaskExit { code, cause: String::new() })
            }
        }
    }

    async fn prepare(&self, task: &v1::TaskAssignment) -> Result<(), TaskError> {
        self.0.work(5..150).await;
        let t = task.task.clone().unwrap_or_default();
        let new =
            Container { service: t.service_id, slot: t.slot, started: None, exit: None, stopping: false };
        self.0.lock().all.entry(t.id).or_insert(new);
        Ok(())
    }

    async fn start(
        &self,
        task: &v1::TaskAssignment,
        _held: &[Arc<v1::Dependency>],
    ) -> Result<v1::ContainerStatus, TaskError> {
        self.0.work(5..80).await;
        let now = self.0.trace.now();
        let mut state = self.0.lock();
        let fails = state.failing && state.rng.random_bool(0.03);
        let dies = state.failing && state.rng.random_bool(0.1);
        let life = Duration::from_millis(state.rng.random_range(500..15_000));
        let image = task.spec.as_ref().and_then(|s| s.container.as_ref()).map_or("", |c| &c.image);
        let ends = image == job::IMAGE;
        let broken = image == BROKEN;
        let container = state.all.get_mut(id_of(task)).ok_or_else(|| gone(task))?;
        if fails {
            return Err(TaskError::Failed("the simulated engine refused to start it".into()));
        }
        if container.started.is_none() {
            container.started = Some(now);
            container.exit = dies.then_some((now + life, 3));
            if ends && !dies {
                container.exit = Some((now + life / 4, 0));
            }
            if broken {
                container.exit = Some((now + Duration::from_millis(50), 1));
            }
            let container = container.clone();
            drop(state);
            self.0.note("runs", id_of(task), &container);
        }
        Ok(status(task))
    }

    async fn wait(&self, task: &v1::TaskAssignment) -> Result<TaskExit, TaskError> {
        loop {
            let now = self.0.trace.now();
            let exit = self.0.lock().all.get(id_of(task)).ok_or_else(|| gone(task))?.exit;
            match exit {
                Some((at, code)) if at <= now => return Ok(TaskExit { code, cause: String::new() }),
                Some((at, _)) => tokio::time::sleep(at - now + Duration::from_millis(1)).await,
                // Ended by somebody else than this call, at most that much later noticed.
                None => tokio::time::sleep(Duration::from_millis(100)).await,
            }
        }
    }

    async fn shutdown(&self, task: &v1::TaskAssignment) -> Result<(), TaskError> {
        let now = self.0.trace.now();
        let runs = {
            let mut state = self.0.lock();
            let Some(container) = state.all.get_mut(id_of(task)) else { return Ok(()) };
            container.stopping = true;
            container.runs(now)
        };
        if runs {
            self.0.work(5..400).await;
        }
        let now = self.0.trace.now();
        let mut state = self.0.lock();
        let Some(container) = state.all.get_mut(id_of(task)) else { return Ok(()) };
        if container.runs(now) {
            container.exit = Some((now, 143));
            let container = container.clone();
            drop(state);
            self.0.note("stopped", id_of(task), &container);
        }
        Ok(())
    }

    async fn usage(&self, task: &v1::TaskAssignment, _metric: Option<&v1::MetricTarget>) -> Option<TaskUse> {
        let now = self.0.trace.now();
        let state = self.0.lock();
        state.all.get(id_of(task)).filter(|c| c.runs(now))?;
        Some(TaskUse { cpu_ns: state.used_ns(now), ..TaskUse::default() })
    }

    async fn remove(&self, task: &v1::TaskAssignment) -> Result<(), TaskError> {
        self.0.work(1..20).await;
        self.0.lock().all.remove(id_of(task));
        Ok(())
    }
}

/// A data plane that takes what it is given.
pub struct SimPlane(pub Arc<Containers>);

#[async_trait::async_trait]
impl NetworkPlane for SimPlane {
    async fn apply(&self, desired: Desired, _listen_port: u16) -> Result<Applied, String> {
        self.0.work(1..30).await;
        let networks = desired.networks.iter().map(|(id, n)| (id.clone(), n.version)).collect();
        Ok(Applied { networks, ingress: desired.ingress_version })
    }
}
