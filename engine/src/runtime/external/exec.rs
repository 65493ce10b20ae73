//! A further command by way of another runtime's `exec --detach`: the runtime's call is waited for in the shim's
//! loop, and leaves the command's process to the shim.

use std::ffi::OsStr;
use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};

use nix::unistd::Pid;

use super::super::capabilities::Capabilities;
use super::super::cgroup::pidfd;
use super::super::error::{Context, Error};
use super::super::process::Pipes;
use super::super::resolve::Root;
use super::super::user::User;
use super::console::Console;
use super::program::Program;
use super::{config, ground, read_pid};
use crate::shim::{ExecSpec, ShimSpec};

/// The runtime's call and what it is to leave.
pub struct Asked {
    call: Child,
    /// Readable once the call has ended.
    ended: OwnedFd,
    stage: Stage,
    console: Option<Console>,
    files: Files,
    program: Program,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Stage {
    Asked,
    Runs,
    Failed,
}

/// The files of one command, removed with it.
struct Files {
    process: PathBuf,
    pid: PathBuf,
    log: PathBuf,
}

/// What a call that has ended left.
pub struct Left {
    /// Host PID of the command.
    pub pid: Pid,
    /// Readable once the command has ended.
    pub pidfd: OwnedFd,
    /// The master of its terminal.
    pub terminal: Option<OwnedFd>,
}

impl Asked {
    /// Calls the runtime; answers the call's process too.
    pub fn begin(
        program: &Program,
        spec: &ShimSpec,
        exec: &ExecSpec,
        pipes: Option<Pipes>,
    ) -> Result<(Pid, OwnedFd, Self), Error> {
        let root = Root::at(Path::new(ground::ROOTFS)).on("open", "root file system")?;
        let own = exec.within(spec);
        let user = User::resolve(&root, &own.user, &own.groups)?;
        let capabilities = match exec.privileged {
            true => Capabilities::resolve(&[], &[], true)?,
            false => Capabilities::resolve(&spec.cap_add, &spec.cap_drop, spec.privileged)?,
        };
        let process = config::process(&own, &user, capabilities.possible(), exec.size)?;
        let name = exec.id.get(..12).unwrap_or(&exec.id);
        let file = |end: &str| PathBuf::from(format!("exec-{name}.{end}"));
        let files = Files { process: file("json"), pid: file("pid"), log: file("log") };
        let socket = format!("exec-{name}.sock");
        std::fs::write(&files.process, process.to_string()).on("write", files.process.display())?;
        let console = if own.tty { Some(Console::listen(&socket)?) } else { None };
        let mut command = program.command(&files.log, "exec");
        command.arg("--detach").arg("--process").arg(&files.process).arg("--pid-file").arg(&files.pid);
        if console.is_some() {
            command.args(["--console-socket", &socket]);
        }
        command.arg(OsStr::new(program.id()));
        let [stdin, stdout, stderr] =
            pipes.map_or_else(|| [Stdio::null(), Stdio::null(), Stdio::null()], |p| p.map(Stdio::from));
        let call = command.stdin(stdin).stdout(stdout).stderr(stderr).spawn().on("run", program.name())?;
        // Lets go of our copies of the pipes.
        drop(command);
        let pid = Pid::from_raw(call.id() as i32);
        let watched = pidfd(pid.as_raw()).and_then(|fd| Ok((fd.try_clone()?, fd)));
        let (ended, fd) = watched.on("open", format_args!("process {pid}"))?;
        let program = program.clone();
        Ok((pid, fd, Self { call, ended, stage: Stage::Asked, console, files, program }))
    }

    /// Readable when the call has ended.
    pub fn fd(&self) -> RawFd {
        self.ended.as_raw_fd()
    }

    /// Whether the command itself runs.
    pub fn runs(&self) -> bool {
        self.stage == Stage::Runs
    }

    /// Waits for the end of the call; none when it has been waited for.
    pub fn finish(&mut self) -> Result<Option<Left>, Error> {
        if self.stage != Stage::Asked {
            return Ok(None);
        }
        self.stage = Stage::Failed;
        let status = self.call.wait().on("wait for", "the runtime")?;
        if !status.success() {
            return Err(self.program.failure("exec", &self.files.log, status));
        }
        let pid = read_pid(&self.files.pid)?;
        let pidfd = pidfd(pid.as_raw()).on("open", format_args!("process {pid}"))?;
        self.stage = Stage::Runs;
        let terminal = self.console.take().map(Console::receive).transpose()?;
        Ok(Some(Left { pid, pidfd, terminal }))
    }

    /// Ends a call that has not ended.
    pub fn kill(&mut self) -> Result<(), Error> {
        if self.stage == Stage::Asked {
            self.stage = Stage::Failed;
            // It may just have ended.
            let _ = self.call.kill();
            self.call.wait().on("wait for", "the runtime")?;
        }
        Ok(())
    }
}

impl Drop for Files {
    fn drop(&mut self) {
        for path in [&self.process, &self.pid, &self.log] {
            // The bundle's removal takes what is left.
            let _ = std::fs::remove_file(path);
        }
    }
}
