//! Children of the shim that it never started: what a runtime forked on its way into a container, and what lost its
//! parent there. Their exit status must be taken, since the kernel lets a PID namespace end only when none of its
//! processes is left, not even as a zombie.

use std::os::fd::{AsFd, AsRawFd, RawFd};
use std::time::{Duration, Instant};

use nix::sys::signal::{SigSet, SigmaskHow, Signal, sigprocmask};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use nix::unistd::Pid;

use super::super::ended::{Whose, take};
use super::super::error::{Context, Error};

/// Tells of ended children.
pub struct Orphans(SignalFd);

impl Orphans {
    /// From here on SIGCHLD is blocked in this process; what it runs begins without that.
    pub fn watch() -> Result<Self, Error> {
        let mut signals = SigSet::empty();
        signals.add(Signal::SIGCHLD);
        sigprocmask(SigmaskHow::SIG_BLOCK, Some(&signals), None).on("block", "SIGCHLD")?;
        let flags = SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK;
        Ok(Self(SignalFd::with_flags(&signals, flags).on("watch", "children")?))
    }

    /// For poll(2).
    pub fn fd(&self) -> RawFd {
        self.0.as_fd().as_raw_fd()
    }

    /// Takes the exit status of ended children up to one that is known, whose end is told by its own descriptor and
    /// is about to be seen.
    pub fn reap(&self, known: &[Pid]) {
        while let Ok(Some(_)) = self.0.read_signal() {}
        while let Ok(Some(ended)) = take(Whose::Any, libc::WNOHANG | libc::WNOWAIT) {
            if known.contains(&ended.pid) {
                return;
            }
            let _ = take(Whose::One(ended.pid), 0);
        }
    }
}

/// Takes the exit status of one child after the other, until `pid` has ended; its exit code. None: it is no child any
/// more.
pub fn wait_for(pid: Pid) -> Option<i32> {
    while let Ok(Some(ended)) = take(Whose::Any, 0) {
        if ended.pid == pid {
            return Some(ended.code);
        }
    }
    None
}

/// What a wait with a limit came to.
pub enum Waited {
    /// The child's exit code.
    Ended(i32),
    /// It is no child any more.
    Gone,
    /// It runs still.
    Running,
}

/// The same for so long at most; SIGCHLD is blocked.
pub fn wait_for_within(pid: Pid, limit: Duration) -> Waited {
    let deadline = Instant::now() + limit;
    loop {
        loop {
            match take(Whose::Any, libc::WNOHANG) {
                Ok(Some(ended)) if ended.pid == pid => return Waited::Ended(ended.code),
                Ok(Some(_)) => {}
                Ok(None) => break,
                Err(_) => return Waited::Gone,
            }
        }
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Waited::Running;
        }
        let mut signals = SigSet::empty();
        signals.add(Signal::SIGCHLD);
        let left = nix::sys::time::TimeSpec::from_duration(left);
        // SAFETY: a set and a span of time that live for the call; what the signal says is not asked for.
        unsafe { libc::sigtimedwait(signals.as_ref(), std::ptr::null_mut(), left.as_ref()) };
    }
}
