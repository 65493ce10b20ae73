//! Further commands in a container that runs (`exec`): made, started, watched to their end.
//!
//! They live in memory only. What runs when the daemon goes is asked of the shim by the next one.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use futures::StreamExt;
use tokio::io::DuplexStream;
use tokio::sync::{mpsc, watch};
use tokio_stream::wrappers::ReceiverStream;

use super::attach::{Attached, INPUT_BUFFER, Input};
use super::resolve::env;
use super::slot::Slot;
use super::start::with;
use crate::config::ContainerState;
use crate::engine::Engine;
use crate::error::{Error, RELATIVE};
use crate::events::now_ns;
use crate::logs::{LogFrame, StdStream};
use crate::shim::{self, ExecEvent, ExecSpec, ShimError};

/// Ended ones are remembered for this long, as Docker's collector does it.
const REMEMBERED: Duration = Duration::from_secs(5 * 60);
/// How long a resize waits for the command to run.
const START_PATIENCE: Duration = Duration::from_secs(10);
/// Exit code of a command that could not be started for another reason than itself.
const NOT_STARTED: i32 = 126;

/// What to run. Empty values mean "as the container's own command".
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ExecConfig {
    /// Command and arguments.
    pub argv: Vec<String>,
    /// `NAME=value`, added to the container's; a bare `NAME` removes.
    pub env: Vec<String>,
    /// Working directory.
    pub working_dir: String,
    /// `user[:group]`.
    pub user: String,
    /// With all capabilities.
    pub privileged: bool,
    /// Allocate a terminal.
    pub tty: bool,
    /// Rows and columns it begins with.
    pub size: Option<(u16, u16)>,
    /// Take input from who starts it.
    pub stdin: bool,
    /// Show who starts it standard output.
    pub stdout: bool,
    /// Show who starts it standard error.
    pub stderr: bool,
    /// The keys that leave its terminal, as the user wrote them.
    pub detach_keys: String,
}

/// A command as `inspect` shows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ExecInfo {
    /// 64 hex characters.
    pub id: String,
    /// The container's.
    pub container_id: String,
    /// As asked for.
    pub config: ExecConfig,
    /// It runs.
    pub running: bool,
    /// How it ended; also 126 or 127 when it could not be started.
    pub exit_code: Option<i32>,
    /// Host PID; 0 = never ran.
    pub pid: u32,
}

#[derive(Clone, Copy, Debug)]
enum Stage {
    Created,
    Starting,
    Running { pid: u32 },
    Ended { pid: u32, code: i32, at: Instant },
}

/// One command.
pub(crate) struct Instance {
    id: String,
    slot: Arc<Slot>,
    config: ExecConfig,
    /// Variables of the container's links, as they are when it is made.
    linked: Vec<String>,
    stage: watch::Sender<Stage>,
}

/// All of them.
#[derive(Default)]
pub(crate) struct Execs(Mutex<BTreeMap<String, Arc<Instance>>>);

impl Execs {
    fn lock(&self) -> MutexGuard<'_, BTreeMap<String, Arc<Instance>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn find(&self, id: &str) -> Result<Arc<Instance>, Error> {
        self.lock().get(id).cloned().ok_or_else(|| Error::NoSuchExec { id: id.to_owned() })
    }

    fn insert(&self, instance: Instance) -> Arc<Instance> {
        let instance = Arc::new(instance);
        let mut all = self.lock();
        all.retain(|_, e| match *e.stage.borrow() {
            Stage::Ended { at, .. } => at.elapsed() < REMEMBERED,
            _ => true,
        });
        all.insert(instance.id.clone(), instance.clone());
        instance
    }

    /// Forgets those of a container that is no more.
    pub(super) fn forget(&self, container: &str) {
        self.lock().retain(|_, e| e.slot.id != container);
    }

    /// Those of a container that have not ended.
    fn of(&self, container: &str) -> Vec<String> {
        let open = |e: &Instance| !matches!(*e.stage.borrow(), Stage::Ended { .. });
        self.lock().values().filter(|e| e.slot.id == container && open(e)).map(|e| e.id.clone()).collect()
    }
}

impl Engine {
    /// Makes a command ready to be started in a container that runs; its ID.
    pub fn exec_create(&self, container: &str, config: ExecConfig) -> Result<String, Error> {
        let slot = self.table().find(container)?;
        runs(&slot)?;
        if config.argv.is_empty() {
            return Err(Error::Invalid("No exec command specified".into()));
        }
        env(&[], &config.env)?;
        let linked = self.links(&slot.container())?.env;
        let id = hex::encode(rand::random::<[u8; 32]>());
        let action = format!("exec_create: {}", config.argv.join(" "));
        let stage = watch::Sender::new(Stage::Created);
        let exec = self.execs().insert(Instance { id, slot, config, linked, stage });
        self.emit(&exec.slot, &action, &[("execID", &exec.id)]);
        Ok(exec.id.clone())
    }

    /// Starts it, once. `size` overrides what it was made with; without `attach` nobody is shown its output.
    pub async fn exec_start(
        &self,
        id: &str,
        size: Option<(u16, u16)>,
        attach: bool,
    ) -> Result<Attached, Error> {
        let (engine, id) = (self.clone(), id.to_owned());
        // A task of its own: when a client leaves half-way, the command's end is seen all the same.
        let begun = tokio::spawn(async move { engine.exec_begin(&id, size, attach).await });
        begun.await.map_err(|_| Error::ShuttingDown)?
    }

    async fn exec_begin(&self, id: &str, size: Option<(u16, u16)>, attach: bool) -> Result<Attached, Error> {
        let exec = self.execs().find(id)?;
        runs(&exec.slot)?;
        let shim = exec.slot.shim().ok_or_else(|| Error::NotRunning { id: exec.slot.id.clone() })?;
        let mut before = Stage::Created;
        exec.stage.send_if_modified(|stage| {
            before = *stage;
            let fresh = matches!(stage, Stage::Created);
            if fresh {
                *stage = Stage::Starting;
            }
            fresh
        });
        match before {
            Stage::Created => {}
            Stage::Ended { .. } => {
                return Err(Error::Conflict(format!("Error: Exec command {id} has already run")));
            }
            Stage::Starting | Stage::Running { .. } => {
                return Err(Error::Conflict(format!("Error: Exec command {id} is already running")));
            }
        }
        let action = format!("exec_start: {}", exec.config.argv.join(" "));
        self.emit(&exec.slot, &action, &[("execID", &exec.id)]);
        let spec = exec.spec(size, attach);
        // As with Docker, the runtime's business: the exec is there, and tells how it ended.
        let relative = !exec.config.working_dir.is_empty() && !exec.config.working_dir.starts_with('/');
        let started = match spec {
            Ok(_) if relative => {
                Err(Error::ExecFailed { id: id.to_owned(), code: 128, reason: RELATIVE.to_owned() })
            }
            Ok(spec) => shim.exec(&spec).await.map_err(|e| not_started(id, &e)),
            Err(e) => Err(e),
        };
        let running = match started {
            Ok(running) => running,
            Err(e) => {
                let code = if let Error::ExecFailed { code, .. } = &e { *code } else { NOT_STARTED };
                exec.stage.send_replace(Stage::Ended { pid: 0, code, at: Instant::now() });
                return Err(e);
            }
        };
        exec.stage.send_replace(Stage::Running { pid: running.pid });
        let (send, receive) = mpsc::channel(64);
        let (ours, theirs) = tokio::io::duplex(INPUT_BUFFER);
        let takes_input = attach && exec.config.stdin;
        let engine = self.clone();
        let shown = exec.clone();
        tokio::spawn(async move {
            let input = takes_input.then_some(theirs);
            let code = tokio::select! {
                code = relay(running, &shown.config, input, attach, &send) => code,
                // It goes on; the next daemon asks for it.
                () = engine.closing().cancelled() => return,
            };
            engine.exec_ended(&shown, code);
            // Who reads to the end and asks then must find that it has ended.
            drop(send);
        });
        let input: Option<Input> = if takes_input { Some(Box::pin(ours)) } else { None };
        Ok(Attached { output: ReceiverStream::new(receive).boxed(), input })
    }

    fn exec_ended(&self, exec: &Instance, code: i32) {
        let pid = match *exec.stage.borrow() {
            Stage::Running { pid } => pid,
            _ => 0,
        };
        exec.stage.send_replace(Stage::Ended { pid, code, at: Instant::now() });
        self.emit(&exec.slot, "exec_die", &[("execID", &exec.id), ("exitCode", &code.to_string())]);
    }

    /// The client of a command typed the keys that leave its terminal.
    pub fn exec_detached(&self, id: &str) {
        if let Ok(exec) = self.execs().find(id) {
            self.emit(&exec.slot, "exec_detach", &[("execID", &exec.id)]);
        }
    }

    /// Sets the size of its terminal; waits for it to be started.
    pub async fn exec_resize(&self, id: &str, rows: u16, cols: u16) -> Result<(), Error> {
        let exec = self.execs().find(id)?;
        runs(&exec.slot)?;
        let mut stage = exec.stage.subscribe();
        let begun = stage.wait_for(|s| matches!(s, Stage::Running { .. } | Stage::Ended { .. }));
        if tokio::time::timeout(START_PATIENCE, begun).await.is_err() {
            return Err(Error::Conflict("timeout waiting for exec session ready".into()));
        }
        let shim = exec.slot.shim().ok_or_else(|| Error::NotRunning { id: exec.slot.id.clone() })?;
        let failed = |e: ShimError| Error::Conflict(format!("cannot resize exec {id}: {e}"));
        shim.resize_exec(id, rows, cols).await.map_err(failed)
    }

    /// What has become of it.
    pub fn exec_inspect(&self, id: &str) -> Result<ExecInfo, Error> {
        let exec = self.execs().find(id)?;
        let (running, exit_code, pid) = match *exec.stage.borrow() {
            Stage::Created | Stage::Starting => (false, None, 0),
            Stage::Running { pid } => (true, None, pid),
            Stage::Ended { pid, code, .. } => (false, Some(code), pid),
        };
        Ok(ExecInfo {
            id: exec.id.clone(),
            container_id: exec.slot.id.clone(),
            config: exec.config.clone(),
            running,
            exit_code,
            pid,
        })
    }

    /// The commands of a container that have not ended.
    pub fn exec_ids(&self, container: &str) -> Vec<String> {
        self.execs().of(container)
    }

    /// Takes up the commands that an earlier daemon started.
    pub(super) async fn adopt_execs(&self, slot: &Arc<Slot>, shim: &Arc<shim::Shim>) {
        let found = match shim.execs().await {
            Ok(found) => found,
            Err(e) => {
                tracing::warn!(container = slot.id, error = %e, "the execs of a container are not known");
                return;
            }
        };
        for state in found {
            let s = state.spec;
            let config = ExecConfig {
                argv: s.argv,
                working_dir: s.cwd,
                user: s.user,
                privileged: s.privileged,
                tty: s.tty,
                size: s.size,
                stdin: s.open_stdin,
                ..ExecConfig::default()
            };
            let stage = watch::Sender::new(Stage::Running { pid: state.pid });
            let exec = self.execs().insert(Instance {
                id: s.id,
                slot: slot.clone(),
                config,
                linked: Vec::new(),
                stage,
            });
            let (engine, shim) = (self.clone(), shim.clone());
            tokio::spawn(async move {
                let ended = tokio::select! {
                    ended = shim.wait_exec(&exec.id) => ended,
                    () = engine.closing().cancelled() => return,
                };
                engine.exec_ended(&exec, ended.map_or(super::supervise::UNSEEN, |e| e.code));
            });
        }
    }
}

impl Instance {
    fn spec(&self, size: Option<(u16, u16)>, attach: bool) -> Result<ExecSpec, Error> {
        let (c, plan) = (&self.config, &self.slot.plan);
        let or = |ours: &String, theirs: &String| if ours.is_empty() { theirs.clone() } else { ours.clone() };
        Ok(ExecSpec {
            id: self.id.clone(),
            argv: c.argv.clone(),
            env: env(&with(&plan.env, self.linked.clone()), &c.env)?,
            cwd: or(&c.working_dir, &plan.cwd),
            user: or(&c.user, &plan.user),
            privileged: c.privileged,
            tty: c.tty,
            size: size.or(c.size),
            open_stdin: c.stdin && attach,
        })
    }
}

/// In Docker's words, as far as they are told from a container that does not run.
fn runs(slot: &Slot) -> Result<(), Error> {
    match slot.container().state {
        ContainerState::Running => Ok(()),
        ContainerState::Paused => Err(Error::Conflict(format!(
            "container {} is paused, unpause the container before exec",
            slot.id
        ))),
        ContainerState::Restarting => Err(Error::Conflict(format!(
            "container {} is restarting, wait until the container is running",
            slot.id
        ))),
        _ => Err(Error::NotRunning { id: slot.id.clone() }),
    }
}

fn not_started(id: &str, e: &ShimError) -> Error {
    let code = match e.exit_code() {
        // Docker looks users up before it runs anything.
        128 if crate::runtime::refuses_user(&e.to_string()) => NOT_STARTED,
        code => code,
    };
    Error::ExecFailed { id: id.to_owned(), code, reason: e.to_string() }
}

/// Input one way, output the other, until the command has ended; its exit code. A client that leaves ends
/// its input, and nothing else.
async fn relay(
    exec: shim::Exec,
    config: &ExecConfig,
    from: Option<DuplexStream>,
    attach: bool,
    to: &mpsc::Sender<Result<LogFrame, Error>>,
) -> i32 {
    let shim::Exec { mut output, mut input, .. } = exec;
    let feed = tokio::spawn(async move {
        if let Some(mut from) = from {
            // A command that closes its input ends this; so does a client that leaves.
            if let Err(e) = tokio::io::copy(&mut from, &mut input).await {
                tracing::debug!(error = %e, "the input of an exec ended");
            }
        }
        if let Err(e) = tokio::io::AsyncWriteExt::shutdown(&mut input).await {
            tracing::debug!(error = %e, "the input of an exec could not be closed");
        }
        input
    });
    let mut code = super::supervise::UNSEEN;
    while let Some(event) = output.next().await {
        match event {
            Ok(ExecEvent::Ended(exit)) => {
                code = exit.code;
                break;
            }
            Ok(ExecEvent::Output(stream, data)) => {
                let stream = if stream == 2 { StdStream::Stderr } else { StdStream::Stdout };
                let wanted =
                    attach && if stream == StdStream::Stderr { config.stderr } else { config.stdout };
                if wanted {
                    // Whether anybody still listens makes no difference to the command.
                    let _ = to
                        .send(Ok(LogFrame { stream, timestamp_ns: now_ns(), data, attributes: Vec::new() }))
                        .await;
                }
            }
            Err(e) => {
                tracing::warn!(error = %e, "the shim broke off while a command ran");
                break;
            }
        }
    }
    feed.abort();
    code
}
