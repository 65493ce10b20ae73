//! The life of a task on this node: the phases a runtime offers, the worker that walks one task through
//! them, and the set of workers kept in step with the assignments.

mod set;
mod worker;

pub use set::TaskSet;

use std::sync::Arc;

use skep_identity::Host;
use skep_proto::v1;

use crate::dependencies::Held;

/// How a phase can fail.
#[derive(Debug, thiserror::Error)]
pub enum TaskError {
    /// The task can never run here as it is (no such image, bad mount): state Rejected.
    #[error("{0}")]
    Rejected(String),
    /// The attempt failed; another task may do better: state Failed.
    #[error("{0}")]
    Failed(String),
}

/// How a task's process ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TaskExit {
    /// Exit code; 128+n when killed by signal n.
    pub code: i32,
    /// Further cause, for example that the kernel killed it for want of memory; may be empty.
    pub cause: String,
}

/// What a task uses.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct TaskUse {
    /// Processor time so far, in nanoseconds.
    pub cpu_ns: u64,
    /// Memory, in bytes, without what the kernel would give back at once.
    pub memory_bytes: u64,
    /// The metric that was asked for, if the task tells it.
    pub metric: Option<f64>,
}

/// What the runtime already holds of a task, found after the daemon restarted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Observed {
    /// Nothing.
    Absent,
    /// Prepared, not started.
    Prepared,
    /// Started, and its health is not known yet.
    Starting(v1::ContainerStatus),
    /// Running.
    Running(v1::ContainerStatus),
    /// Ended.
    Exited(v1::ContainerStatus, TaskExit),
}

/// What there is of a task that may be nobody's any more.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Remnant {
    /// The task.
    pub task_id: String,
    /// The runtime's own name for it.
    pub container_id: String,
}

/// The phases of a task's life, each idempotent: a repeated call finds the work done.
#[async_trait::async_trait]
pub trait TaskRuntime: Send + Sync + 'static {
    /// What is there of this task already.
    async fn observe(&self, task: &v1::TaskAssignment) -> Observed;
    /// Brings what the container is made of, which may take long. May be dropped and called again.
    async fn fetch(&self, _task: &v1::TaskAssignment) -> Result<(), TaskError> {
        Ok(())
    }
    /// Makes the container, without starting it.
    async fn prepare(&self, task: &v1::TaskAssignment) -> Result<(), TaskError>;
    /// Starts it with the secrets and configs of its files, in the same order; returns once its process runs.
    async fn start(
        &self,
        task: &v1::TaskAssignment,
        held: &[Arc<v1::Dependency>],
    ) -> Result<v1::ContainerStatus, TaskError>;
    /// Returns once a started task is in good health, or at once if that is not checked. One that is not is
    /// stopped and has failed. May be dropped and called again.
    async fn healthy(&self, _task: &v1::TaskAssignment) -> Result<(), TaskError> {
        Ok(())
    }
    /// Returns once its process has ended; one that falls ill is stopped. May be dropped and called again.
    async fn wait(&self, task: &v1::TaskAssignment) -> Result<TaskExit, TaskError>;
    /// Stop signal, grace period, SIGKILL; returns once its process has ended.
    async fn shutdown(&self, task: &v1::TaskAssignment) -> Result<(), TaskError>;
    /// Removes all that `prepare` made.
    async fn remove(&self, task: &v1::TaskAssignment) -> Result<(), TaskError>;
    /// Containers of this node's tasks, each with its task's ID, whoever knows of them.
    async fn containers(&self, _node_id: &str) -> Vec<Remnant> {
        Vec::new()
    }
    /// Stops and removes one of them.
    async fn discard(&self, _of: &Remnant) -> Result<(), TaskError> {
        Ok(())
    }
    /// What it uses, with a metric of its own if one is asked for; none if that is not known.
    async fn usage(&self, _task: &v1::TaskAssignment, _metric: Option<&v1::MetricTarget>) -> Option<TaskUse> {
        None
    }
}

/// Takes what workers have to say of their tasks; the newest status of a task wins.
pub trait StatusSink: Send + Sync + 'static {
    /// Reports a status.
    fn report(&self, task_id: &str, status: v1::TaskStatus);
}

/// Tells when the networks of a task are there to be joined.
#[async_trait::async_trait]
pub trait NetworksReady: Send + Sync + 'static {
    /// Returns once every one of these networks has been applied to the kernel.
    async fn ready(&self, network_ids: &[String]);
}

/// What workers need of their surroundings.
#[derive(Clone)]
pub struct Surroundings {
    /// Knows the time.
    pub host: Host,
    /// Runs containers.
    pub runtime: Arc<dyn TaskRuntime>,
    /// Takes statuses.
    pub statuses: Arc<dyn StatusSink>,
    /// Knows which networks are there.
    pub networks: Arc<dyn NetworksReady>,
    /// Knows which secrets and configs are there.
    pub dependencies: Held,
}
