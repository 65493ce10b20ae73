//! A further command in a container that runs: a child of the shim that enters the container's cgroup and
//! namespaces, and takes on the container's limits, filter and capabilities.
//!
//! The shim never enters anything itself, but for the PID namespace of its *children*, which setns(2) changes
//! and which is put back at once. The child is the shim's own, so the shim can wait for it; it dies with the
//! container's first process, as the kernel ends all of a PID namespace with its init.

use std::convert::Infallible;
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::path::Path;

use nix::fcntl::OFlag;
use nix::sched::{CloneFlags, setns};
use nix::sys::stat::{Mode, umask};
use nix::unistd::Pid;

use super::capabilities::Capabilities;
use super::clone::{Side, clone3};
use super::command::Command;
use super::confinement::Confinement;
use super::error::{Context, Error};
use super::external::{Asked, Left};
use super::gate::{Gate, Message};
use super::process::{self, Pipes};
use super::resolve::Root;
use super::rlimits::{self, Rlimit};
use super::seccomp::Filter;
use super::user::User;
use super::{Container, descriptors, devices, keyring, terminal, userns};
use crate::shim::{ExecSpec, ShimSpec};

/// A command on its way into a container, or in it.
pub struct Process {
    /// Its host PID.
    pub pid: Pid,
    /// Readable once it has ended.
    pub pidfd: OwnedFd,
    way: Way,
}

/// Who puts it in.
enum Way {
    /// We do.
    Own(Gate),
    /// Another runtime; until it has, PID and descriptor are those of the runtime's own process.
    External(Box<Asked>),
}

/// What a command on its way tells.
pub enum Progress {
    /// The master of its terminal.
    Terminal(OwnedFd),
    /// It runs.
    Executed,
    /// It could not be run, and has ended.
    Failed {
        /// Why.
        message: String,
        /// The exit code that this stands for.
        exit_code: i32,
    },
}

/// Everything decided before the process exists.
struct Plan<'a> {
    container: &'a Container,
    /// The container's own, with what this command has of its own put in.
    spec: ShimSpec,
    size: Option<(u16, u16)>,
    capabilities: Capabilities,
    filter: Option<Filter>,
    rlimits: Vec<Rlimit>,
}

impl Process {
    /// Starts on the way. `pipes` are the child's ends of its stdio, unless it has a terminal.
    ///
    /// # Safety
    /// The process must be single-threaded.
    pub unsafe fn spawn(
        container: &Container,
        spec: &ShimSpec,
        exec: &ExecSpec,
        pipes: Option<Pipes>,
    ) -> Result<Self, Error> {
        if let super::Way::External(external) = &container.way {
            let (pid, pidfd, asked) = external.exec(spec, exec, pipes)?;
            return Ok(Self { pid, pidfd, way: Way::External(Box::new(asked)) });
        }
        let of_container = Capabilities::resolve(&spec.cap_add, &spec.cap_drop, spec.privileged)?.possible();
        let capabilities = match exec.privileged {
            true => Capabilities::resolve(&[], &[], true)?.possible(),
            false => of_container,
        };
        let plan = Plan {
            container,
            spec: exec.within(spec),
            size: exec.size,
            capabilities,
            filter: Filter::compile(&spec.seccomp, of_container, spec.privileged)?,
            rlimits: rlimits::parse(&spec.ulimits)?,
        };
        let (ours, theirs) = Gate::pair()?;
        let own = File::open("/proc/self/ns/pid").on("open", "/proc/self/ns/pid")?;
        setns(&container.pidfd, CloneFlags::CLONE_NEWPID).on("enter", "PID namespace of container")?;
        // SAFETY: single-threaded, by contract.
        let side = unsafe { clone3(0, container.cgroup.clone_target()) };
        if let Ok(Side::Child) = side {
            drop(ours);
            child(&plan, pipes, &theirs);
        }
        setns(&own, CloneFlags::CLONE_NEWPID).on("leave", "PID namespace of container")?;
        match side {
            Ok(Side::Parent(pid, pidfd)) => Ok(Self { pid, pidfd, way: Way::Own(ours) }),
            Ok(Side::Child) => Err(Error::Refused("a child came back".into())),
            Err(e) => Err(e).on("clone", "command"),
        }
    }

    /// Readable when there is progress.
    pub fn gate(&self) -> RawFd {
        match &self.way {
            Way::Own(gate) => gate.as_fd().as_raw_fd(),
            Way::External(asked) => asked.fd(),
        }
    }

    /// Whether there is a process of its own yet, whose end can be waited for.
    pub fn is_there(&self) -> bool {
        match &self.way {
            Way::Own(_) => true,
            Way::External(asked) => asked.runs(),
        }
    }

    /// What has become of it; waits when the gate is not readable.
    pub fn progress(&mut self) -> Result<Progress, Error> {
        let gate = match &mut self.way {
            Way::Own(gate) => gate,
            Way::External(asked) => {
                let Some(Left { pid, pidfd, terminal }) = asked.finish()? else {
                    return Ok(Progress::Executed);
                };
                (self.pid, self.pidfd) = (pid, pidfd);
                return Ok(terminal.map_or(Progress::Executed, Progress::Terminal));
            }
        };
        match gate.receive()? {
            Some((Message::Terminal, Some(master))) => Ok(Progress::Terminal(master)),
            Some((Message::Failed { message, exit_code }, _)) => Ok(Progress::Failed { message, exit_code }),
            Some((other, _)) => Err(Error::Refused(format!("a command said {other:?}"))),
            None => Ok(Progress::Executed),
        }
    }

    /// Sends it a signal.
    pub fn signal(&self, signal: i32) -> Result<(), Error> {
        // SAFETY: plain integers. Until it is waited for, the PID is its.
        match unsafe { libc::kill(self.pid.as_raw(), signal) } {
            0 => Ok(()),
            _ => Err(io::Error::last_os_error()).on("signal", self.pid),
        }
    }

    /// The exit code, once it has ended: 128+n for signal n.
    pub fn try_wait(&self) -> Result<Option<i32>, Error> {
        super::exit_code(self.pid, false)
    }

    /// Ends it and waits for that.
    pub fn kill(&mut self) -> Result<Option<i32>, Error> {
        if let Way::External(asked) = &mut self.way
            && !asked.runs()
        {
            return asked.kill().map(|()| None);
        }
        // It may have ended.
        let _ = self.signal(libc::SIGKILL);
        super::exit_code(self.pid, true)
    }
}

fn child(plan: &Plan<'_>, pipes: Option<Pipes>, gate: &Gate) -> ! {
    super::end_child(gate, std::panic::AssertUnwindSafe(|| run(plan, pipes, gate)))
}

fn run(plan: &Plan<'_>, pipes: Option<Pipes>, gate: &Gate) -> Result<Infallible, Error> {
    let spec = &plan.spec;
    // From here on the container's processes see this one. What it holds of the host must stay out of their
    // reach: not dumpable, and no descriptor but its own.
    nix::sys::prctl::set_dumpable(false).on("protect", "command")?;
    process::reset_signals()?;
    nix::unistd::setsid().on("make", "session")?;
    process::set_oom_score(spec)?;
    rlimits::apply(&plan.rlimits)?;
    plan.container.cgroup.join()?;
    let mut namespaces = CloneFlags::CLONE_NEWNS
        | CloneFlags::CLONE_NEWIPC
        | CloneFlags::CLONE_NEWUTS
        | CloneFlags::CLONE_NEWNET
        | CloneFlags::CLONE_NEWCGROUP;
    if let Some(maps) = &spec.id_maps {
        userns::own_stdio(pipes.as_ref(), maps)?;
        namespaces |= CloneFlags::CLONE_NEWUSER;
    }
    let confinement = Confinement::prepare(&spec.confined)?;
    setns(&plan.container.pidfd, namespaces).on("enter", "namespaces of container")?;
    if spec.id_maps.is_some() {
        userns::become_root()?;
    }
    let kept: Vec<BorrowedFd<'_>> = pipes
        .iter()
        .flatten()
        .map(AsFd::as_fd)
        .chain([gate.as_fd()])
        .chain(confinement.as_ref().map(AsFd::as_fd))
        .collect();
    descriptors::close_all_but(&kept)?;
    keyring::leave_hosts()?;
    let root = Root::current().on("open", "/")?;
    umask(Mode::from_bits_truncate(0o022));
    let slave = match spec.tty {
        true => Some(open_terminal(&root, plan.size, gate)?),
        false => None,
    };
    let user = User::resolve(&root, &spec.user, &spec.groups)?;
    user.check(spec.id_maps.as_ref())?;
    enter_directory(&root, &spec.cwd)?;
    process::connect_stdio(pipes, slave, &user, devices::null(&root)?)?;
    drop(root);
    process::become_user(&user, plan.capabilities)?;
    let command = Command::find(spec, &user)?;
    if let Some(to) = &confinement {
        to.at_exec()?;
    }
    rlimits::lower(&plan.rlimits)?;
    process::confine(spec, plan.filter.as_ref(), &user, plan.capabilities)?;
    command.execute()
}

fn open_terminal(root: &Root, size: Option<(u16, u16)>, gate: &Gate) -> Result<OwnedFd, Error> {
    let (master, slave) = terminal::open(root)?;
    if let Some((rows, cols)) = size {
        terminal::resize(&master, rows, cols).on("resize", "terminal")?;
    }
    gate.send(&Message::Terminal, Some(&master))?;
    Ok(slave)
}

/// Unlike the container's own, it must be there.
fn enter_directory(root: &Root, cwd: &str) -> Result<(), Error> {
    let cwd = if cwd.is_empty() { "/" } else { cwd };
    let found = root.open(Path::new(cwd), OFlag::O_PATH | OFlag::O_DIRECTORY, 0);
    let directory = found.map_err(|e| {
        let (reason, exit_code) = match e.raw_os_error() {
            Some(libc::ENOENT) => ("no such file or directory".to_owned(), 127),
            Some(libc::ENOTDIR) => ("not a directory".to_owned(), 126),
            _ => (e.to_string(), 126),
        };
        Error::Init { message: format!("chdir to cwd ({cwd:?}) failed: {reason}"), exit_code }
    })?;
    nix::unistd::fchdir(directory).on("enter working directory", cwd)
}
