//! Walks one task from Assigned to its end, one phase at a time, following its desired state.

use std::sync::Arc;
use std::time::Duration;

use skep_proto::v1::{self, TaskState};
use tokio::sync::watch;
use tokio::time::Instant;

use crate::dependencies;

use super::set::Over;
use super::{Observed, Surroundings, TaskError, TaskExit};

/// First and longest pause between attempts to stop or remove a container that would not go.
const RETRY: (Duration, Duration) = (Duration::from_millis(200), Duration::from_secs(10));

/// What the manager wants of the task.
#[derive(Clone)]
pub(super) enum Target {
    /// Follow the assignment's desired state.
    Follow(Arc<v1::TaskAssignment>),
    /// No longer assigned: stop it and remove every trace.
    Forget,
}

fn desired_of(a: &v1::TaskAssignment) -> TaskState {
    a.task.as_ref().map_or(TaskState::Remove, |t| t.desired_state())
}

/// One task's worker. Ends after the task was forgotten and its container removed.
pub(super) struct Worker {
    around: Surroundings,
    target: watch::Receiver<Target>,
    assignment: Arc<v1::TaskAssignment>,
    state: TaskState,
    container: Option<v1::ContainerStatus>,
    /// Since when it is to stop.
    stopping: Option<Instant>,
    over: Over,
}

impl Worker {
    pub(super) fn new(
        around: Surroundings,
        target: watch::Receiver<Target>,
        assignment: Arc<v1::TaskAssignment>,
        over: Over,
    ) -> Self {
        let state = TaskState::Assigned;
        Self { around, target, assignment, state, container: None, stopping: None, over }
    }

    pub(super) async fn run(mut self) {
        self.recover().await;
        loop {
            let target = self.target.borrow_and_update().clone();
            let desired = match target {
                Target::Forget => {
                    self.forget().await;
                    return;
                }
                Target::Follow(assignment) => {
                    self.assignment = assignment;
                    self.desired()
                }
            };
            if desired > TaskState::Complete {
                if !self.drain().await {
                    continue;
                }
                self.stop().await;
            } else if self.may_advance(desired) {
                self.advance().await;
                continue;
            }
            if self.target.changed().await.is_err() {
                return; // The set itself is gone: the daemon is stopping and containers stay.
            }
        }
    }

    fn task(&self) -> v1::Task {
        self.assignment.task.clone().unwrap_or_default()
    }

    fn desired(&self) -> TaskState {
        desired_of(&self.assignment)
    }

    /// A task desired Ready is prepared and held there; one desired Running (or, of a job, Complete) goes on.
    fn may_advance(&self, desired: TaskState) -> bool {
        match self.state {
            s if s < TaskState::Ready => true,
            s if s < TaskState::Running => desired >= TaskState::Running,
            TaskState::Running => true,
            _ => false,
        }
    }

    /// Picks up where an earlier daemon left the task.
    async fn recover(&mut self) {
        if let Some(status) = self.assignment.task.as_ref().and_then(|t| t.status.as_ref())
            && status.state() > TaskState::Running
        {
            self.state = status.state();
            self.container = status.container.clone();
            self.over.set();
            return;
        }
        match self.around.runtime.observe(&self.assignment).await {
            Observed::Absent => {}
            Observed::Prepared => self.state = TaskState::Ready,
            Observed::Starting(container) => {
                self.container = Some(container);
                self.state = TaskState::Starting;
            }
            Observed::Running(container) => {
                self.container = Some(container);
                self.set(TaskState::Running, "started", "");
            }
            Observed::Exited(container, exit) => {
                self.container = Some(container);
                self.ended(exit);
            }
        }
    }

    async fn advance(&mut self) {
        match self.state {
            s if s < TaskState::Accepted => self.set(TaskState::Accepted, "accepted", ""),
            s if s < TaskState::Ready => self.prepare().await,
            s if s < TaskState::Running => self.start().await,
            _ => self.watch().await,
        }
    }

    async fn prepare(&mut self) {
        self.set(TaskState::Preparing, "preparing", "");
        let (runtime, assignment) = (self.around.runtime.clone(), self.assignment.clone());
        let mut fetch = runtime.fetch(&assignment);
        let fetched = loop {
            tokio::select! {
                fetched = &mut fetch => break fetched,
                changed = self.target.changed() => {
                    if changed.is_err() {
                        std::future::pending::<()>().await;
                    }
                    // A task that is still wanted goes on: what was fetched so far would be fetched again.
                    let wanted = match &*self.target.borrow_and_update() {
                        Target::Forget => false,
                        Target::Follow(a) => desired_of(a) <= TaskState::Complete,
                    };
                    if !wanted {
                        self.target.mark_changed();
                        self.state = TaskState::Accepted;
                        return;
                    }
                }
            }
        };
        if let Err(e) = fetched {
            return self.failed("preparing", e);
        }
        match self.around.runtime.prepare(&self.assignment).await {
            Ok(()) => self.set(TaskState::Ready, "prepared", ""),
            Err(e) => self.failed("preparing", e),
        }
    }

    async fn start(&mut self) {
        let ids: Vec<String> = self.task().addresses.into_iter().map(|a| a.network_id).collect();
        let networks = self.around.networks.clone();
        self.set(TaskState::Starting, "starting", "");
        let (held, assignment) = (self.around.dependencies.clone(), self.assignment.clone());
        let files = dependencies::files(&assignment);
        if let Err(missing) = held.look(files) {
            let why =
                format!("waiting for {missing}: this node keeps none on disk, and no manager has sent it");
            self.set(TaskState::Starting, "starting", &why);
        }
        let ready = async {
            networks.ready(&ids).await;
            held.wait(files).await
        };
        let held = tokio::select! {
            held = ready => held,
            changed = self.target.changed() => {
                if changed.is_ok() { self.target.mark_changed(); }
                self.state = TaskState::Ready;
                return;
            }
        };
        match self.around.runtime.start(&assignment, &held).await {
            Ok(container) => self.container = Some(container),
            Err(e) => return self.failed("starting", e),
        }
        let (runtime, assignment) = (self.around.runtime.clone(), self.assignment.clone());
        tokio::select! {
            healthy = runtime.healthy(&assignment) => match healthy {
                Ok(()) => self.set(TaskState::Running, "started", ""),
                Err(e) => self.failed("starting", e),
            },
            changed = self.target.changed() => {
                if changed.is_ok() { self.target.mark_changed(); }
                self.state = TaskState::Ready;
            }
        }
    }

    /// Waits for the process to end, or for the manager to want something else.
    async fn watch(&mut self) {
        let (runtime, assignment) = (self.around.runtime.clone(), self.assignment.clone());
        tokio::select! {
            exit = runtime.wait(&assignment) => match exit {
                Ok(exit) => self.ended(exit),
                Err(e) => self.failed("running", e),
            },
            changed = self.target.changed() => {
                if changed.is_ok() { self.target.mark_changed(); } else { std::future::pending::<()>().await }
            }
        }
    }

    /// Goes on with the connections there are for the time given: no node sends new ones any more. False when the
    /// manager wants something else meanwhile: where that is to stop, too (and be removed), what is left of the time
    /// is left. A daemon that comes back begins the time anew.
    async fn drain(&mut self) -> bool {
        let time = Duration::from_nanos(u64::try_from(self.assignment.drain_ns).unwrap_or(0));
        let end = *self.stopping.get_or_insert_with(Instant::now) + time;
        if self.state != TaskState::Running || time.is_zero() {
            return true;
        }
        let (runtime, assignment) = (self.around.runtime.clone(), self.assignment.clone());
        tokio::select! {
            () = tokio::time::sleep_until(end) => true,
            // Nobody is left to wait for; the stop finds it ended.
            _ = runtime.wait(&assignment) => true,
            changed = self.target.changed() => {
                if changed.is_ok() { self.target.mark_changed(); } else { std::future::pending::<()>().await }
                false
            }
        }
    }

    async fn stop(&mut self) {
        if self.state > TaskState::Running {
            return;
        }
        let mut pause = RETRY.0;
        while let Err(e) = self.around.runtime.shutdown(&self.assignment).await {
            self.set(self.state, "shutting down", &format!("could not be stopped, trying again: {e}"));
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(RETRY.1);
        }
        // What it ended with is told like the end of one that was not stopped.
        if let Observed::Exited(container, _) = self.around.runtime.observe(&self.assignment).await {
            self.container = Some(container);
        }
        self.set(TaskState::Shutdown, "shutdown", "");
    }

    async fn forget(&mut self) {
        let mut pause = RETRY.0;
        loop {
            let stopped = self.around.runtime.shutdown(&self.assignment).await;
            let removed = self.around.runtime.remove(&self.assignment).await;
            let Err(e) = stopped.and(removed) else { return };
            tracing::warn!(task = %self.task().id, error = %e, "cannot remove the container of a task that is no longer assigned, trying again");
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(RETRY.1);
        }
    }

    fn ended(&mut self, exit: TaskExit) {
        if let Some(container) = &mut self.container {
            container.exit_code = exit.code;
        }
        if exit.code == 0 {
            self.set(TaskState::Complete, "finished", "");
        } else {
            let cause = if exit.cause.is_empty() { String::new() } else { format!(": {}", exit.cause) };
            self.set(TaskState::Failed, "failed", &format!("task: non-zero exit ({}){cause}", exit.code));
        }
    }

    fn failed(&mut self, phase: &str, error: TaskError) {
        let state = match error {
            TaskError::Rejected(_) => TaskState::Rejected,
            TaskError::Failed(_) => TaskState::Failed,
        };
        self.set(state, phase, &error.to_string());
    }

    fn set(&mut self, state: TaskState, message: &str, err: &str) {
        self.state = state;
        self.around.statuses.report(
            &self.task().id,
            v1::TaskStatus {
                state: state.into(),
                timestamp_ms: self.around.host.now_ms(),
                message: message.into(),
                err: err.into(),
                container: self.container.clone(),
            },
        );
        if state > TaskState::Running {
            self.over.set();
        }
    }
}
