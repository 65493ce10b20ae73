//! The runtime: makes a container's process out of a [`ShimSpec`], one kernel mechanism per file.
//!
//! Runs inside the single-threaded shim, never in the daemon. Order of things: the shim decides
//! what can be decided without the kernel ([`process::Plan`]), clones a child into new namespaces,
//! and makes the cgroup while the child mounts the root file system; the child then waits at its
//! [`gate`] until it is started.
//!
//! On overwriting our own binary from inside a container (CVE-2019-5736): the daemon runs the shim
//! from a detached read-only mount of the binary (see `shim::client`), so the file that
//! `/proc/PID/exe` leads to cannot be opened for writing by anybody without CAP_SYS_ADMIN on the
//! host, and nothing has to be copied.

pub mod capabilities;
pub mod cgroup;
pub mod ended;
mod error;
pub mod exec;
pub mod external;
pub mod mount_api;
pub(crate) mod mountinfo;
pub mod seccomp;
pub mod sysctls;

mod clone;
mod command;
mod confinement;
pub(crate) mod descriptors;
mod devices;
mod foreign;
mod gate;
pub(crate) mod hooks;
mod keyring;
pub(crate) mod mounts;
mod namespaces;
mod paths;
mod process;
mod reaper;
pub(crate) mod resolve;
mod rlimits;
mod rootfs;
mod terminal;
mod user;
mod userns;
mod view;

use std::convert::Infallible;
use std::ffi::OsString;
use std::io;
use std::os::fd::{OwnedFd, RawFd};
use std::panic::UnwindSafe;
use std::path::Path;

use nix::sys::signal::Signal;
use nix::unistd::Pid;

use self::capabilities::Capabilities;
use self::cgroup::Cgroup;
use self::clone::{Side, clone3};
pub(crate) use self::command::DEFAULT_PATH;
pub use self::devices::parse_rule;
use self::ended::Whose;
use self::error::Context;
pub use self::error::Error;
use self::external::External;
use self::gate::{Gate, Message};
pub(crate) use self::paths::usual as usual_paths;
pub use self::process::Pipes;
use self::process::Plan;
pub use self::rlimits::check as check_ulimits;
use self::seccomp::Filter;
pub use self::terminal::resize;
pub(crate) use self::user::{User, refuses_user};
pub(crate) use self::userns::FsRoot;
pub(crate) use self::view::{Parts, View};
use crate::cdi::Stage;
use crate::config::ResourceLimits;
use crate::shim::{Namespace, NetworkNamespace, ShimSpec};

/// `skep container-init [--] COMMAND [ARG...]`: the first process of a container of another runtime that is to have
/// an init. Returns the exit code.
pub fn init_main(args: &[OsString]) -> i32 {
    reaper::main(args)
}

/// Checks all of `spec` that can be checked without making anything.
pub fn validate(spec: &ShimSpec) -> Result<(), Error> {
    let capabilities = Capabilities::resolve(&spec.cap_add, &spec.cap_drop, spec.privileged)?;
    Filter::compile(&spec.seccomp, capabilities, spec.privileged)?;
    rlimits::parse(&spec.ulimits)?;
    sysctls::check(&spec.sysctls, &spec.network)
}

/// A container whose process is ready and waits to be started, or runs.
pub struct Container {
    /// Host PID of its first process.
    pub pid: Pid,
    /// Readable once that process has ended.
    pub pidfd: OwnedFd,
    /// The master of its terminal, where it has one.
    pub terminal: Option<OwnedFd>,
    /// Its cgroup.
    pub cgroup: Cgroup,
    way: Way,
}

/// Who makes it do what it is to do.
enum Way {
    /// We do, through its gate.
    Own(Gate),
    /// Another runtime.
    External(External),
}

impl Container {
    /// Makes the container. `scratch` is any directory; `pipes` are the child's ends of its stdio,
    /// unless it has a terminal.
    ///
    /// # Safety
    /// The process must be single-threaded.
    pub unsafe fn create(spec: &ShimSpec, scratch: &Path, pipes: Option<Pipes>) -> Result<Self, Error> {
        if let Some(runtime) = &spec.external {
            sysctls::check(&spec.sysctls, &spec.network)?;
            return external::create(spec, runtime, scratch, pipes);
        }
        let capabilities = Capabilities::resolve(&spec.cap_add, &spec.cap_drop, spec.privileged)?.possible();
        sysctls::check(&spec.sysctls, &spec.network)?;
        let network = match &spec.network {
            NetworkNamespace::Path(path) => Some(namespaces::open_network(path)?),
            NetworkNamespace::New | NetworkNamespace::Host => None,
        };
        let userns = userns::of(spec)?;
        let place = match spec.hooks.is_empty() && userns.is_none() {
            true => scratch.to_path_buf(),
            false => hooks::prepare(spec, scratch)?,
        };
        let bundle = place.parent().unwrap_or(scratch);
        let plan = Plan {
            spec,
            capabilities,
            filter: Filter::compile(&spec.seccomp, capabilities, spec.privileged)?,
            rlimits: rlimits::parse(&spec.ulimits)?,
            network,
            ipc: namespaces::open_ipc(&spec.ipc)?,
            devices: devices::chosen(spec)?,
            scratch: &place,
            bundle,
            userns: userns.as_ref(),
        };
        let mut cgroup = Cgroup::at(&spec.cgroup)?.prepare(&spec.resources)?;
        let rules = devices::rules(spec, &plan.devices)?;
        let early = cgroup.is_entered_by_clone() || userns.is_some();
        if early {
            make_cgroup(&mut cgroup, spec, rules.as_deref())?;
        }
        let (ours, theirs) = Gate::pair()?;
        let born = match &userns {
            // SAFETY: single-threaded, by contract.
            Some(userns) => unsafe { userns::spawn(&plan, userns, &cgroup, pipes, (&ours, &theirs)) },
            // SAFETY: as above.
            None => unsafe { spawn(&plan, &cgroup, pipes, &ours, &theirs) },
        };
        let (pid, pidfd) = born.inspect_err(|_| drop(cgroup.remove()))?;
        drop(theirs);
        let ready = match early {
            true => Ok(()),
            false => make_cgroup(&mut cgroup, spec, rules.as_deref())
                .and_then(|()| ours.send(&Message::Join, None)),
        };
        let terminal = match ready {
            // A child that failed says why; a broken gate is only the consequence.
            Ok(()) | Err(Error::System { operation: "send to", .. }) => {
                let hooks = || {
                    let stages = [Stage::Prestart, Stage::CreateRuntime];
                    hooks::run(spec, &stages, "creating", pid.as_raw(), bundle)
                };
                await_ready(&ours, hooks).and_then(|terminal| ready.map(|()| terminal))
            }
            // It was not told to go in, and would wait for that as long as we for it.
            Err(e) => Err(e),
        };
        let mut container = Self { pid, pidfd, terminal: None, cgroup, way: Way::Own(ours) };
        match terminal {
            Ok(terminal) => container.terminal = terminal,
            Err(e) => {
                container.discard();
                return Err(e);
            }
        }
        Ok(container)
    }

    /// Runs the command; returns once it has been executed, or with the reason why not.
    pub fn start(&self) -> Result<(), Error> {
        let gate = match &self.way {
            Way::Own(gate) => gate,
            Way::External(external) => return external.start(),
        };
        gate.send(&Message::Start, None)?;
        match gate.receive()? {
            Some((Message::Failed { message, exit_code }, _)) => Err(Error::Init { message, exit_code }),
            _ => Ok(()),
        }
    }

    /// Changes its limits.
    pub fn update(&mut self, limits: &ResourceLimits) -> Result<(), Error> {
        match &self.way {
            Way::Own(_) => self.cgroup.update(limits),
            Way::External(external) => external.update(limits),
        }
    }

    /// Freezes its processes, or lets them go on.
    pub fn freeze(&self, frozen: bool) -> Result<(), Error> {
        match &self.way {
            Way::Own(_) => self.cgroup.freeze(frozen),
            Way::External(external) => external.freeze(frozen),
        }
    }

    /// Readable when some child of this process has ended, where there are such that nobody started.
    pub fn children(&self) -> Option<RawFd> {
        match &self.way {
            Way::Own(_) => None,
            Way::External(external) => Some(external.children()),
        }
    }

    /// Takes the exit status of children beside the container's first process and `known` ones.
    pub fn reap(&self, known: impl Iterator<Item = Pid>) {
        if let Way::External(external) = &self.way {
            external.reap(&known.chain([self.pid]).collect::<Vec<_>>());
        }
    }

    /// After its end: lets go of what another runtime holds of it.
    pub fn let_go(&mut self) -> Result<(), Error> {
        match &mut self.way {
            Way::Own(_) => Ok(()),
            Way::External(external) => external.delete(),
        }
    }

    /// Sends a signal to the first process, or to all processes.
    pub fn signal(&self, signal: i32, all: bool) -> Result<(), Error> {
        if all && signal != libc::SIGKILL {
            for pid in self.cgroup.processes().on("read", "cgroup")? {
                // SAFETY: plain integers. One that is gone meanwhile needs no signal.
                unsafe { libc::kill(pid, signal) };
            }
            return Ok(());
        }
        if let Way::External(external) = &self.way {
            return external.signal(signal);
        }
        // SAFETY: plain integers. Until `wait` succeeds the PID is ours.
        if unsafe { libc::kill(self.pid.as_raw(), signal) } != 0 {
            return Err(io::Error::last_os_error()).on("signal", self.pid);
        }
        Ok(())
    }

    /// The exit code, if the first process has ended: 128+n for signal n.
    pub fn try_wait(&self) -> Result<Option<i32>, Error> {
        exit_code(self.pid, false)
    }

    /// Kills what there is of it and removes its cgroup.
    pub fn discard(&mut self) {
        // SAFETY: plain integers.
        unsafe { libc::kill(self.pid.as_raw(), Signal::SIGKILL as i32) };
        match &mut self.way {
            Way::Own(_) => drop(ended::take(Whose::One(self.pid), 0)),
            Way::External(external) => external.discard(self.pid),
        }
        let _ = self.cgroup.remove();
    }
}

/// Waits until the container is set up, and runs `hooks` once its namespaces are there; the master of its terminal.
fn await_ready(gate: &Gate, hooks: impl Fn() -> Result<(), Error>) -> Result<Option<OwnedFd>, Error> {
    let mut terminal = None;
    loop {
        match gate.receive()? {
            Some((Message::Ready, _)) => return Ok(terminal),
            Some((Message::Terminal, fd)) => terminal = fd,
            Some((Message::Mounted, _)) => {
                hooks()?;
                gate.send(&Message::Enter, None)?;
            }
            Some((Message::Failed { message, exit_code }, _)) => {
                return Err(Error::Init { message, exit_code });
            }
            Some((other, _)) => return Err(Error::Refused(format!("container init said {other:?}"))),
            None => return Err(Error::Refused("container init died while setting up".into())),
        }
    }
}

/// The exit code of a child that has ended, 128+n for signal n. Waits for its end only if told to.
fn exit_code(pid: Pid, wait: bool) -> Result<Option<i32>, Error> {
    let flags = if wait { 0 } else { libc::WNOHANG };
    Ok(ended::take(Whose::One(pid), flags).on("wait for", pid)?.map(|ended| ended.code))
}

fn make_cgroup(
    cgroup: &mut Cgroup,
    spec: &ShimSpec,
    rules: Option<&[devices::DeviceRule]>,
) -> Result<(), Error> {
    cgroup.create(&spec.resources, rules).inspect_err(|_| drop(cgroup.remove()))
}

/// Clones the container's first process.
///
/// # Safety
/// The process must be single-threaded.
unsafe fn spawn(
    plan: &Plan<'_>,
    cgroup: &Cgroup,
    pipes: Option<Pipes>,
    ours: &Gate,
    theirs: &Gate,
) -> Result<(Pid, OwnedFd), Error> {
    let own = match &plan.spec.pid {
        Namespace::Path(path) => Some(namespaces::enter_pid(path)?),
        Namespace::New | Namespace::Host => None,
    };
    // SAFETY: single-threaded, by contract.
    let side = unsafe { clone3(namespaces::clone_flags(plan.spec), cgroup.clone_target()) };
    if let Ok(Side::Child) = side {
        ours.shut();
        child(plan, cgroup, pipes, theirs);
    }
    if let Some(own) = own {
        namespaces::leave_pid(&own)?;
    }
    match side.on("clone", "container init")? {
        Side::Parent(pid, pidfd) => Ok((pid, pidfd)),
        Side::Child => Err(Error::Refused("a child came back".into())),
    }
}

fn child(plan: &Plan<'_>, cgroup: &Cgroup, pipes: Option<Pipes>, gate: &Gate) -> ! {
    end_child(gate, std::panic::AssertUnwindSafe(|| process::run(plan, cgroup, pipes, gate)))
}

/// Runs what only returns when it fails; tells why, and ends this process.
fn end_child(gate: &Gate, run: impl FnOnce() -> Result<Infallible, Error> + UnwindSafe) -> ! {
    // Unwinding out of here would go on as a second shim.
    let error = match std::panic::catch_unwind(run) {
        Ok(Ok(never)) => match never {},
        Ok(Err(e)) => e,
        Err(_) => Error::Refused("container init panicked".into()),
    };
    let failed = Message::Failed { message: error.to_string(), exit_code: error.exit_code() };
    let _ = gate.send(&failed, None);
    // SAFETY: ends this process at once, without running what belongs to its parent.
    unsafe { libc::_exit(error.exit_code()) }
}
