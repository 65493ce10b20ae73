//! Another OCI runtime (`runc`, `crun`, ...) in the place of ours: the shim writes it a bundle, and has it make,
//! start and stop the container by its command line. The shim stays what it is with our own runtime: parent of
//! the container's processes (as their subreaper), owner of stdio, log and exit status.
//!
//! Nothing here is one program's own: a bundle (runtime-spec `bundle.md`), the operations of `runtime.md`, and the
//! options that all runtimes share with runc's command line: `--root`, `--log`, `--log-format`, `--bundle`,
//! `--pid-file`, `--console-socket`, `--process`, `--detach`, `--resources`.

mod bundle;
mod config;
mod console;
mod exec;
mod ground;
mod orphans;
mod program;

use std::ffi::OsStr;
use std::os::fd::RawFd;
use std::path::Path;
use std::process::Stdio;

use nix::unistd::Pid;

use self::console::Console;
pub use self::exec::{Asked, Left};
use self::ground::Ground;
use self::orphans::Orphans;
pub use self::program::Program;
use super::cgroup::{self, Cgroup};
use super::error::{Context, Error};
use super::process::Pipes;
use super::resolve::Root;
use super::rootfs;
use super::user::User;
use super::{Container, Way};
use crate::config::ResourceLimits;
use crate::runtimes::ExternalRuntime;
use crate::shim::{SHM_DIRECTORY, ShimSpec};

/// What the runtime writes the PID of a container's first process to.
const PID: &str = "init.pid";
const CONSOLE: &str = "console.sock";
const RESOURCES: &str = "resources.json";

/// A container of another runtime.
pub struct External {
    program: Program,
    orphans: Orphans,
    /// Dropped last: all mounts of the container's that are not its own go with it.
    ground: Option<Ground>,
}

/// Makes the container; it waits to be started. `bundle` is the working directory.
pub fn create(
    spec: &ShimSpec,
    runtime: &ExternalRuntime,
    bundle: &Path,
    pipes: Option<Pipes>,
) -> Result<Container, Error> {
    // The runtime ends when the container is made, and leaves its process to us.
    nix::sys::prctl::set_child_subreaper(true).on("become", "reaper of the container")?;
    let orphans = Orphans::watch()?;
    let directory = bundle.canonicalize().on("find", "bundle")?;
    let program = Program::new(runtime, &spec.id, &directory);
    let ground = Ground::prepare(spec, bundle)?;
    let made = make(spec, &program, &ground, &directory, pipes);
    let (pid, terminal) = made.inspect_err(|_| drop(program.delete()))?;
    let opened = cgroup::pidfd(pid.as_raw()).on("open", format_args!("process {pid}"));
    let opened = opened.and_then(|pidfd| Ok((pidfd, Cgroup::at(&spec.cgroup)?)));
    let (pidfd, cgroup) = opened.inspect_err(|_| drop(program.delete()))?;
    let way = Way::External(External { program, orphans, ground: Some(ground) });
    Ok(Container { pid, pidfd, terminal, cgroup, way })
}

fn make(
    spec: &ShimSpec,
    program: &Program,
    ground: &Ground,
    directory: &Path,
    pipes: Option<Pipes>,
) -> Result<(Pid, Option<std::os::fd::OwnedFd>), Error> {
    let root = Root::at(Path::new(ground::ROOTFS)).on("open", "root file system")?;
    let user = User::resolve(&root, &spec.user, &spec.groups)?;
    let cwd = if spec.cwd.is_empty() { "/" } else { &spec.cwd };
    root.directory(Path::new(cwd)).on("make working directory", cwd)?;
    rootfs::mark(&root)?;
    bundle::write(spec, &user, ground, directory)?;
    let console = if spec.tty { Some(Console::listen(CONSOLE)?) } else { None };
    let mut args: Vec<&OsStr> = vec!["--bundle".as_ref(), directory.as_os_str()];
    args.extend(["--pid-file", PID].map(OsStr::new));
    if console.is_some() {
        args.extend(["--console-socket", CONSOLE].map(OsStr::new));
    }
    let stdio = pipes.map_or_else(|| [Stdio::null(), Stdio::null(), Stdio::null()], |p| p.map(Stdio::from));
    program.run("create", &args, stdio)?;
    Ok((read_pid(Path::new(PID))?, console.map(|c| c.receive()).transpose()?))
}

fn read_pid(path: &Path) -> Result<Pid, Error> {
    let text = std::fs::read_to_string(path).on("read", path.display())?;
    let pid = text.trim().parse().ok().filter(|pid| *pid > 0);
    pid.map(Pid::from_raw)
        .ok_or_else(|| Error::Refused(format!("the runtime wrote {text:?} to {}", path.display())))
}

impl External {
    /// Runs the command.
    pub fn start(&self) -> Result<(), Error> {
        self.program.tell("start", &[])
    }

    /// Sends the first process a signal.
    pub fn signal(&self, signal: i32) -> Result<(), Error> {
        self.program.tell_with("kill", &[], &[&signal.to_string()])
    }

    /// Freezes all processes, or lets them go on.
    pub fn freeze(&self, frozen: bool) -> Result<(), Error> {
        self.program.tell(if frozen { "pause" } else { "resume" }, &[])
    }

    /// Changes the limits.
    pub fn update(&self, limits: &ResourceLimits) -> Result<(), Error> {
        let json = cgroup::oci::resources(limits)?.to_string();
        std::fs::write(RESOURCES, json).on("write", RESOURCES)?;
        self.program.tell("update", &["--resources", RESOURCES])
    }

    /// Readable when a child has ended.
    pub fn children(&self) -> RawFd {
        self.orphans.fd()
    }

    /// Takes the exit status of children that are nobody's concern.
    pub fn reap(&self, known: &[Pid]) {
        self.orphans.reap(known);
    }

    /// Ends a container that nobody is to have, and takes the exit status of all its processes.
    pub fn discard(&mut self, pid: Pid) {
        let _ = self.program.delete();
        let _ = orphans::wait_for(pid);
        self.ground = None;
    }

    /// Has the runtime forget a container that has ended, and takes away what was mounted for it.
    pub fn delete(&mut self) -> Result<(), Error> {
        let deleted = self.program.delete_with_the_rest();
        self.ground = None;
        deleted
    }

    /// Begins to run a further command.
    pub fn exec(
        &self,
        spec: &ShimSpec,
        exec: &crate::shim::ExecSpec,
        pipes: Option<Pipes>,
    ) -> Result<(Pid, std::os::fd::OwnedFd, Asked), Error> {
        Asked::begin(&self.program, spec, exec, pipes)
    }
}

/// The directory of shared memory, for the container's mounts.
fn shared_memory(directory: &Path) -> std::path::PathBuf {
    directory.join(SHM_DIRECTORY)
}
