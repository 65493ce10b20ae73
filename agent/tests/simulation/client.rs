//! What users ask of the swarm, through the managers' APIs, and what they were told: the record that the state
//! of every manager is compared with in the end.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use skep_manager::control::ControlHandle;
use skep_proto::v1;
use skep_proto::v1::control_server::Control;
use skep_proto::v1::service_spec::Mode;
use tonic::{Code, Status};

use crate::batch::BatchCommand;
use crate::job::JobCommand;
use crate::members::{LockCommand, RoleCommand};
use crate::scaled::ScaledCommand;
use crate::trace::Trace;

/// A service of this name goes back by itself from an update that fails.
pub const RETURNS: &str = "returns";

/// Nobody waits longer for an answer, whatever has failed.
const PATIENCE: Duration = Duration::from_secs(5);

/// What is wanted of a service.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Want {
    pub replicas: u64,
    pub image: u64,
}

/// What is asked.
#[derive(Clone, Copy, Debug)]
pub enum Ask {
    Create(Want),
    Image(u64),
    Scale(u64),
    /// Back to what it was before the last update.
    Rollback,
    Remove,
}

/// How far a removal has come.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Removal {
    #[default]
    No,
    /// Asked for, outcome unknown.
    Maybe,
    Acknowledged,
}

/// One service as its user knows it.
#[derive(Clone, Debug, Default)]
pub struct Known {
    /// The last acknowledged state, with the version it was given.
    pub acknowledged: Option<(Want, u64)>,
    /// States asked for since then whose outcome is unknown.
    pub maybe: Vec<Want>,
    pub removal: Removal,
    /// An answer is awaited.
    pub busy: bool,
}

/// The users' record.
pub struct Record {
    pub trace: Arc<Trace>,
    services: Mutex<BTreeMap<String, Known>>,
    violations: Mutex<Vec<String>>,
    answers: Mutex<Vec<Answer>>,
    /// The newest rotation of the root that was acknowledged.
    pub rotations: AtomicU64,
}

/// What somebody was told.
#[derive(Clone, Debug)]
pub struct Answer {
    pub service: String,
    pub written: bool,
    pub told: String,
    /// Whether what was read for it was marked as possibly stale.
    pub stale: Option<bool>,
}

impl Record {
    pub fn new(trace: Arc<Trace>) -> Arc<Self> {
        Arc::new(Self {
            trace,
            services: Mutex::default(),
            violations: Mutex::default(),
            answers: Mutex::default(),
            rotations: AtomicU64::default(),
        })
    }

    pub fn services(&self) -> MutexGuard<'_, BTreeMap<String, Known>> {
        self.services.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A service of this state may come to be that is nobody's whose requests are recorded.
    pub fn stranger(&self, name: &str, want: Want) {
        self.services().entry(name.to_owned()).or_default().maybe.push(want);
    }

    /// What answers have shown to be wrong.
    pub fn violations(&self) -> Vec<String> {
        self.violations.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// The answers so far.
    pub fn answers(&self) -> Vec<Answer> {
        self.answers.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Makes a service, and notes what came of it.
    pub async fn make(&self, control: &ControlHandle, what: &str, spec: v1::ServiceSpec) {
        let request = tonic::Request::new(v1::CreateServiceRequest { spec: Some(spec) });
        let told = match self.timely(what, control.create_service(request)).await {
            Ok(_) => "made".to_owned(),
            Err(status) => status.message().to_owned(),
        };
        self.trace.add(format!("{what}: {told}"));
    }

    /// Waits for an answer, which must come in time.
    pub async fn timely<T>(&self, what: &str, call: impl Future<Output = T>) -> T {
        let began = tokio::time::Instant::now();
        let answer = call.await;
        let took = began.elapsed();
        if took > PATIENCE {
            self.violation(format!("{what} was answered after {took:?} only"));
        }
        answer
    }

    fn violation(&self, what: String) {
        self.trace.add(format!("VIOLATION {what}"));
        self.violations.lock().unwrap_or_else(PoisonError::into_inner).push(what);
    }

    /// Prepares a command; none while the service waits for an answer.
    pub fn command(self: &Arc<Self>, service: &str, ask: Ask) -> Option<Command> {
        let mut services = self.services();
        let known = services.entry(service.to_owned()).or_default();
        if known.busy || known.removal == Removal::Acknowledged {
            return None;
        }
        known.busy = true;
        let before = known.removal;
        if matches!(ask, Ask::Remove) {
            // From now on it may be gone, though nobody has been told yet.
            known.removal = Removal::Maybe;
        }
        let (record, service) = (self.clone(), service.to_owned());
        Some(Command { record, service, ask, wanted: None, before, answered: false })
    }

    /// A confirmed read shows whatever was acknowledged before it began.
    pub fn check_read(&self, before: &BTreeMap<String, Known>, answer: &v1::ListServicesResponse) {
        for (name, known) in before {
            let Some((want, version)) = known.acknowledged else { continue };
            if self.services().get(name).is_none_or(|now| now.removal != Removal::No) {
                continue;
            }
            let found =
                answer.services.iter().filter_map(|s| s.service.as_ref()).find(|s| name_of(s) == name);
            let seen = found.and_then(|s| s.meta).map(|m| m.version);
            if seen.is_none_or(|seen| seen < version) {
                self.violation(format!(
                    "a confirmed read shows {name} at version {seen:?}, but {want:?} was acknowledged at {version}"
                ));
            }
        }
    }
}

/// What a user sends to a manager.
pub enum Request {
    /// About a service: recorded, and compared with the state in the end.
    Service(Command),
    /// About a node.
    Node(NodeCommand),
    /// Another root certificate.
    Root(RootCommand),
    /// A job with a schedule.
    Job(JobCommand),
    /// A service that is to stay spread evenly.
    Even(EvenCommand),
    /// A service that is scaled by what its tasks use.
    Scaled(ScaledCommand),
    /// Another role for a node.
    Role(RoleCommand),
    /// Autolock.
    Lock(LockCommand),
    /// A job.
    Batch(BatchCommand),
}

impl Request {
    /// Carries it out at a manager.
    pub async fn run(self, control: ControlHandle) {
        match self {
            Self::Service(command) => command.run(control).await,
            Self::Node(command) => command.run(control).await,
            Self::Root(command) => command.run(control).await,
            Self::Job(command) => command.run(control).await,
            Self::Even(command) => command.run(control).await,
            Self::Scaled(command) => command.run(control).await,
            Self::Role(command) => command.run(control).await,
            Self::Lock(command) => command.run(control).await,
            Self::Batch(command) => command.run(control).await,
        }
    }
}

/// Drains a node, or takes it back.
pub struct NodeCommand {
    pub record: Arc<Record>,
    pub id: String,
    pub availability: v1::NodeAvailability,
}

impl NodeCommand {
    async fn run(self, control: ControlHandle) {
        let told = match self.try_run(&control).await {
            Ok(()) => "done".to_owned(),
            Err(status) => status.message().to_owned(),
        };
        self.record.trace.add(format!("node {} {:?}: {told}", self.id, self.availability));
    }

    async fn try_run(&self, control: &ControlHandle) -> Result<(), Status> {
        let request = v1::ListNodesRequest { ids_or_names: vec![self.id.clone()] };
        let nodes = self.record.timely("a read of nodes", control.list_nodes(tonic::Request::new(request)));
        let node = nodes.await?.into_inner().nodes.pop().ok_or_else(|| Status::not_found("not listed"))?;
        let mut spec = node.spec.unwrap_or_default();
        spec.set_availability(self.availability);
        let version = node.meta.map_or(0, |m| m.version);
        let request = v1::UpdateNodeRequest { id: node.id, version, spec: Some(spec) };
        let call = control.update_node(tonic::Request::new(request));
        self.record.timely("an update of a node", call).await.map(drop)
    }
}

/// Sets a service to be rebalanced.
pub struct EvenCommand {
    pub record: Arc<Record>,
    pub service: String,
}

impl EvenCommand {
    async fn run(self, control: ControlHandle) {
        let told = match self.try_run(&control).await {
            Ok(()) => "done".to_owned(),
            Err(status) => status.message().to_owned(),
        };
        self.record.trace.add(format!("{} is to be even: {told}", self.service));
    }

    async fn try_run(&self, control: &ControlHandle) -> Result<(), Status> {
        let request = v1::ListServicesRequest { ids_or_names: vec![self.service.clone()] };
        let list = self.record.timely("a read", control.list_services(tonic::Request::new(request)));
        let found = list.await?.into_inner().services.pop().and_then(|s| s.service);
        let service = found.ok_or_else(|| Status::not_found("not listed"))?;
        let mut spec = service.spec.unwrap_or_default();
        spec.rebalance =
            Some(v1::Rebalance { enabled: true, delay_ns: Some(300_000_000), ..Default::default() });
        let request = v1::UpdateServiceRequest {
            id: service.id,
            version: service.meta.map_or(0, |m| m.version),
            spec: Some(spec),
            ..Default::default()
        };
        let call = control.update_service(tonic::Request::new(request));
        self.record.timely("an update", call).await.map(drop)
    }
}

/// Has the swarm's root replaced.
pub struct RootCommand {
    pub record: Arc<Record>,
}

impl RootCommand {
    async fn run(self, control: ControlHandle) {
        let told = match self.try_run(&control).await {
            Ok(number) => {
                self.record.rotations.fetch_max(number, Ordering::Relaxed);
                format!("rotation {number}")
            }
            Err(status) => status.message().to_owned(),
        };
        self.record.trace.add(format!("another root: {told}"));
    }

    async fn try_run(&self, control: &ControlHandle) -> Result<u64, Status> {
        let call = control.get_cluster(tonic::Request::new(v1::GetClusterRequest {}));
        let cluster = self.record.timely("a read of the cluster", call).await?.into_inner().cluster;
        let cluster = cluster.ok_or_else(|| Status::not_found("no cluster"))?;
        let mut spec = cluster.spec.unwrap_or_default();
        spec.force_rotate += 1;
        let (number, version) = (spec.force_rotate, cluster.meta.map_or(0, |m| m.version));
        let request = v1::UpdateClusterRequest { version, spec: Some(spec), ..Default::default() };
        let call = control.update_cluster(tonic::Request::new(request));
        self.record.timely("an update of the cluster", call).await.map(|_| number)
    }
}

/// One request about a service.
pub struct Command {
    record: Arc<Record>,
    service: String,
    ask: Ask,
    /// What it asks for, once that is known and sent.
    wanted: Option<Want>,
    /// How far a removal had come before.
    before: Removal,
    answered: bool,
}

/// The manager died with the request: nobody knows what became of it.
impl Drop for Command {
    fn drop(&mut self) {
        if !self.answered {
            self.done(None, Outcome::Unknown(Status::unavailable("the manager has crashed")));
        }
    }
}

/// What became of it.
enum Outcome {
    /// At this version of the service.
    Written(u64),
    Removed,
    /// Certainly not done.
    Refused(Status),
    /// Perhaps done.
    Unknown(Status),
}

impl Command {
    async fn run(mut self, control: ControlHandle) {
        let before = self.record.services().clone();
        let mut stale = None;
        let outcome = self.ask_of(&control, &before, &mut stale).await;
        self.done(stale, outcome);
    }

    async fn ask_of(
        &mut self,
        control: &ControlHandle,
        before: &BTreeMap<String, Known>,
        stale: &mut Option<bool>,
    ) -> Outcome {
        if let Ask::Create(want) = self.ask {
            self.wanted = Some(want);
            let spec = Some(spec(&self.service, want));
            let call = control.create_service(tonic::Request::new(v1::CreateServiceRequest { spec }));
            let answer = self.record.timely("a creation", call).await;
            return match answer {
                Ok(answer) => Outcome::Written(version(answer.into_inner().service)),
                Err(status) => unwritten(status),
            };
        }
        let call = control.list_services(tonic::Request::new(v1::ListServicesRequest::default()));
        let list = match self.record.timely("a read", call).await {
            Ok(list) => list.into_inner(),
            Err(status) => return Outcome::Refused(status),
        };
        *stale = Some(list.stale);
        if !list.stale {
            self.record.check_read(before, &list);
        }
        let found = list.services.into_iter().filter_map(|s| s.service).find(|s| name_of(s) == self.service);
        let Some(service) = found else { return Outcome::Refused(Status::not_found("not listed")) };
        if matches!(self.ask, Ask::Remove) {
            let request = tonic::Request::new(v1::RemoveRequest { id: service.id });
            return match self.record.timely("a removal", control.remove_service(request)).await {
                Ok(_) => Outcome::Removed,
                Err(status) => unwritten(status),
            };
        }
        let mut want = want_of(&service);
        let rollback = matches!(self.ask, Ask::Rollback);
        match self.ask {
            Ask::Image(image) => want.image = image,
            Ask::Scale(replicas) => want.replicas = replicas,
            Ask::Rollback => match &service.previous_spec {
                Some(previous) => want = wanted_by(previous),
                None => return Outcome::Refused(Status::failed_precondition("there was none before")),
            },
            Ask::Create(_) | Ask::Remove => {}
        }
        self.wanted = Some(want);
        let request = v1::UpdateServiceRequest {
            id: service.id,
            version: service.meta.map_or(0, |m| m.version),
            spec: (!rollback).then(|| spec(&self.service, want)),
            rollback,
            rebalance: false,
        };
        let call = control.update_service(tonic::Request::new(request));
        match self.record.timely("an update", call).await {
            Ok(answer) => Outcome::Written(version(answer.into_inner().service)),
            Err(status) => unwritten(status),
        }
    }

    fn done(&mut self, stale: Option<bool>, outcome: Outcome) {
        self.answered = true;
        let wanted = self.wanted;
        let told = match &outcome {
            Outcome::Written(version) => format!("version {version}"),
            Outcome::Removed => "removed".into(),
            Outcome::Refused(status) => format!("refused: {}", status.message()),
            Outcome::Unknown(status) => format!("unknown: {}", status.message()),
        };
        self.record.trace.add(format!("{} {:?} {wanted:?}: {told}", self.service, self.ask));
        let written = matches!(outcome, Outcome::Written(_) | Outcome::Removed);
        let answer = Answer { service: self.service.clone(), written, told, stale };
        self.record.answers.lock().unwrap_or_else(PoisonError::into_inner).push(answer);
        let mut services = self.record.services();
        let known = services.entry(self.service.clone()).or_default();
        known.busy = false;
        match outcome {
            Outcome::Written(version) => {
                known.acknowledged = wanted.map(|want| (want, version));
                known.maybe.clear();
            }
            Outcome::Removed => known.removal = Removal::Acknowledged,
            Outcome::Refused(_) => known.removal = self.before,
            Outcome::Unknown(_) if matches!(self.ask, Ask::Remove) => {}
            Outcome::Unknown(_) => known.maybe.extend(wanted),
        }
    }
}

fn version(service: Option<v1::Service>) -> u64 {
    service.and_then(|s| s.meta).map_or(0, |m| m.version)
}

fn unwritten(status: Status) -> Outcome {
    match status.code() {
        Code::InvalidArgument | Code::NotFound | Code::AlreadyExists | Code::FailedPrecondition => {
            Outcome::Refused(status)
        }
        _ => Outcome::Unknown(status),
    }
}

/// Name of a service.
pub fn name_of(service: &v1::Service) -> &str {
    service.spec.as_ref().and_then(|s| s.annotations.as_ref()).map_or("", |a| &a.name)
}

/// What a service's specification asks for.
pub fn want_of(service: &v1::Service) -> Want {
    service.spec.as_ref().map_or(Want { replicas: 0, image: 0 }, wanted_by)
}

fn wanted_by(spec: &v1::ServiceSpec) -> Want {
    let spec = spec.clone();
    let replicas = match spec.mode {
        Some(Mode::Replicated(r)) => r.replicas,
        _ => 0,
    };
    let container = spec.task.and_then(|t| t.container).unwrap_or_default();
    Want { replicas, image: container.image.trim_start_matches("image:").parse().unwrap_or(0) }
}

fn spec(name: &str, want: Want) -> v1::ServiceSpec {
    // Some keep data on their nodes.
    let volume = v1::Mount { r#type: "volume".into(), source: "data".into(), ..Default::default() };
    let mounts = if name.ends_with(['1', '3', '5']) { vec![volume] } else { Vec::new() };
    let container =
        v1::ContainerSpec { image: format!("image:{}", want.image), mounts, ..Default::default() };
    // And some come after others.
    let first = v1::Prerequisite {
        service: "s0".into(),
        condition: v1::PrerequisiteCondition::Healthy.into(),
        optional: true,
    };
    let depends_on = name.ends_with(['2', '3', '4']).then(|| v1::Prerequisites { all: vec![first] });
    let restart = v1::RestartPolicy { delay_ns: Some(1_000_000_000), ..Default::default() };
    // What a fault hits goes on.
    let update = v1::UpdateConfig {
        parallelism: 2,
        monitor_ns: 500_000_000,
        failure_action: v1::UpdateFailureAction::Continue.into(),
        ..Default::default()
    };
    let failure_action =
        if name == RETURNS { v1::UpdateFailureAction::Rollback } else { v1::UpdateFailureAction::Continue };
    v1::ServiceSpec {
        annotations: Some(v1::Annotations { name: name.into(), ..Default::default() }),
        depends_on,
        task: Some(v1::TaskSpec { container: Some(container), restart: Some(restart), ..Default::default() }),
        mode: Some(Mode::Replicated(v1::Replicated { replicas: want.replicas })),
        update: Some(v1::UpdateConfig { failure_action: failure_action.into(), ..update }),
        rollback: Some(update),
        endpoint: Some(v1::EndpointSpec {
            ports: vec![v1::PortConfig { target_port: 80, ..Default::default() }],
            ..Default::default()
        }),
        ..Default::default()
    }
}
