//! A tiny PID 1 (`--init`): passes signals on to the command and reaps orphans.

use std::convert::Infallible;
use std::ffi::{CString, OsString};
use std::io::{IsTerminal, Write};
use std::os::unix::ffi::OsStrExt;

use nix::sys::signal::{SigSet, SigmaskHow, sigprocmask};
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
        Ok(Role::Reaper(child)) => {
            disguise(&words);
            run(child)
        }
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
    let all = SigSet::all();
    loop {
        // SAFETY: a live set of signals, and nowhere for more to be written to.
        match unsafe { libc::sigwaitinfo(all.as_ref(), std::ptr::null_mut()) } {
            libc::SIGCHLD => {
                if let Some(code) = reap(command) {
                    return code;
                }
            }
            // By number, as real-time signals have no names. The command may be gone already; its exit is about to
            // be seen.
            signal @ 1.. => {
                // SAFETY: plain integers; the command is our child, and not reaped.
                unsafe { libc::kill(command.as_raw(), signal) };
            }
            // Interrupted.
            _ => {}
        }
    }
}

/// Shows this process as Docker's own first process, in place of a command line that tells of the host.
pub fn disguise(command: &[CString]) {
    // What cannot be shown so is shown as it is.
    let _ = nix::sys::prctl::set_name(c"docker-init");
    let Some((start, end)) = std::fs::read_to_string("/proc/self/stat").ok().and_then(|s| arguments(&s))
    else {
        return;
    };
    let mut line = b"/sbin/docker-init\0--\0".to_vec();
    command.iter().for_each(|word| line.extend_from_slice(word.as_bytes_with_nul()));
    let room = end.saturating_sub(start);
    line.truncate(room.saturating_sub(1));
    line.resize(room, 0);
    // SAFETY: the kernel says that this process's arguments lie there; they are on its stack, and nothing refers to
    // them any more than by these addresses.
    unsafe { std::ptr::copy_nonoverlapping(line.as_ptr(), start as *mut u8, room) };
}

/// Where a process's arguments are: `arg_start` and `arg_end` of /proc/PID/stat (proc(5), fields 48 and 49).
fn arguments(stat: &str) -> Option<(usize, usize)> {
    let (_, after_name) = stat.rsplit_once(')')?;
    let mut fields = after_name.split_ascii_whitespace().skip(45).map_while(|n| n.parse().ok());
    Some((fields.next()?, fields.next()?)).filter(|(start, end)| *start > 0 && start < end)
}

/// By wait4(2), which a seccomp profile that knows Docker's first process lets through.
fn reap(command: Pid) -> Option<i32> {
    let mut ended = None;
    loop {
        let mut status = 0;
        // SAFETY: a live integer to write to. Numbers again.
        match unsafe { libc::waitpid(-1, &raw mut status, libc::WNOHANG) } {
            ..=0 => return ended,
            pid if pid != command.as_raw() => {}
            _ if libc::WIFEXITED(status) => ended = Some(libc::WEXITSTATUS(status)),
            _ if libc::WIFSIGNALED(status) => ended = Some(128 + libc::WTERMSIG(status)),
            _ => {}
        }
    }
}
