//! A tiny PID 1 (`--init`): passes signals on to the command and reaps orphans.

use std::convert::Infallible;
use std::ffi::{CString, OsString};
use std::io::{IsTerminal, Write};
use std::os::unix::ffi::OsStrExt;

use nix::sys::signal::{SigSet, SigmaskHow, Signal, kill, sigprocmask};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::{ForkResult, Pid, fork};

use super::error::{Context, Error};

/// Which of the two processes this is.
pub enum Role {
    /// The command is still to be executed, here.
    Command,
    /// The reaper, with the command as its child.
    Reaper(Pid),
}

/// Forks. In the reaper all signals are blocked, so that none is lost before [`run`].
///
/// # Safety
/// The process must be single-threaded.
pub unsafe fn split(terminal: bool) -> Result<Role, Error> {
    let mut before = SigSet::empty();
    sigprocmask(SigmaskHow::SIG_SETMASK, Some(&SigSet::all()), Some(&mut before)).on("block", "signals")?;
    // SAFETY: single-threaded, by contract.
    match unsafe { fork() }.on("fork", "init")? {
        ForkResult::Parent { child } => {
            // Orphans come to a PID 1 by themselves; in another's PID namespace they have to be sent for.
            nix::sys::prctl::set_child_subreaper(true).on("become", "reaper of orphans")?;
            Ok(Role::Reaper(child))
        }
        ForkResult::Child => {
            // A group of its own, in the foreground, so that ctrl-C reaches it once and not twice.
            let own = Pid::from_raw(0);
            nix::unistd::setpgid(own, own).on("set", "process group")?;
            if terminal {
                nix::unistd::tcsetpgrp(std::io::stdin(), nix::unistd::getpid())
                    .on("set", "foreground process group")?;
            }
            sigprocmask(SigmaskHow::SIG_SETMASK, Some(&before), None).on("restore", "signals")?;
            Ok(Role::Command)
        }
    }
}

/// Runs `[--] COMMAND [ARG...]`, looked up in `PATH`, below itself; its exit code.
pub fn main(args: &[OsString]) -> i32 {
    let args = match args.split_first() {
        Some((first, rest)) if first == "--" => rest,
        _ => args,
    };
    let words: Result<Vec<CString>, _> = args.iter().map(|a| CString::new(a.as_bytes())).collect();
    let words = words.unwrap_or_default();
    let Some(command) = words.first() else {
        let _ = writeln!(
            std::io::stderr(),
            "usage: container-init -- COMMAND [ARG...] (the first process of a container)"
        );
        return 2;
    };
    // SAFETY: this process has one thread.
    match unsafe { split(std::io::stdin().is_terminal()) } {
        Ok(Role::Reaper(child)) => run(child),
        Ok(Role::Command) => {
            let Err::<Infallible, _>(e) = nix::unistd::execvp(command, &words);
            let _ = writeln!(std::io::stderr(), "exec {} failed: {}", command.to_string_lossy(), e.desc());
            if e == nix::Error::ENOENT { 127 } else { 126 }
        }
        Err(e) => {
            let _ = writeln!(std::io::stderr(), "container-init: {e}");
            128
        }
    }
}

/// Runs until the command has ended; returns its exit code.
pub fn run(command: Pid) -> i32 {
    loop {
        match SigSet::all().wait() {
            Ok(Signal::SIGCHLD) => {
                if let Some(code) = reap(command) {
                    return code;
                }
            }
            // The command may be gone already; its exit is about to be seen.
            Ok(signal) => drop(kill(command, signal)),
            // A real-time signal, which has no name to pass on.
            Err(_) => {}
        }
    }
}

fn reap(command: Pid) -> Option<i32> {
    let mut ended = None;
    loop {
        match waitpid(None, Some(WaitPidFlag::WNOHANG)) {
            Ok(WaitStatus::Exited(pid, code)) if pid == command => ended = Some(code),
            Ok(WaitStatus::Signaled(pid, signal, _)) if pid == command => ended = Some(128 + signal as i32),
            Ok(WaitStatus::StillAlive) | Err(_) => return ended,
            Ok(_) => {}
        }
    }
}
