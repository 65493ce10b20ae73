//! A network namespace that belongs to a user namespace of its own: what has no capability on the host may have them in
//! there. Only a process without further threads can make one, so one is forked that does nothing else.

use std::fs::File;
use std::io::{self, Read};
use std::os::fd::{AsFd, AsRawFd};

use nix::sched::{CloneFlags, setns};
use nix::sys::signal::{Signal, kill};
use nix::sys::wait::waitpid;
use nix::unistd::{ForkResult, Pid, fork, pipe2};

use crate::error::{Error, Result};
use crate::model::UserNamespace;

/// Enters a new network namespace, owned by a user namespace that this thread stays out of: a new one, or that of another
/// container.
pub fn enter_new(owner: &UserNamespace) -> Result<()> {
    let shared = match &owner.shared {
        Some(path) => Some(File::open(path).map_err(Error::io("open", path.display()))?),
        None => None,
    };
    let (ready, told) = pipe2(nix::fcntl::OFlag::O_CLOEXEC).map_err(Error::sys("make", "pipe"))?;
    // SAFETY: the child makes system calls only, whatever locks other threads hold.
    let child = match unsafe { fork() }.map_err(Error::sys("fork", "maker of a network namespace"))? {
        ForkResult::Child => {
            let failed = make(shared.as_ref());
            // SAFETY: a live byte; then only waiting, and the end.
            unsafe {
                libc::write(told.as_raw_fd(), std::ptr::from_ref(&failed).cast(), 1);
                libc::pause();
                libc::_exit(0);
            }
        }
        ForkResult::Parent { child } => child,
    };
    drop(told);
    let entered = enter(child, File::from(ready), owner);
    // It has done its part, and nothing else knows it.
    let _ = kill(child, Signal::SIGKILL);
    let _ = waitpid(child, None);
    entered
}

/// In the child. 0, or the number of the error.
fn make(shared: Option<&File>) -> u8 {
    // SAFETY: plain integers. It must not outlive who waits for it.
    let r = unsafe {
        libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL);
        match shared {
            None => libc::unshare(libc::CLONE_NEWUSER | libc::CLONE_NEWNET),
            Some(userns) => match libc::setns(userns.as_raw_fd(), libc::CLONE_NEWUSER) {
                0 => libc::unshare(libc::CLONE_NEWNET),
                failed => failed,
            },
        }
    };
    match r {
        0 => 0,
        _ => u8::try_from(nix::errno::Errno::last_raw()).unwrap_or(u8::MAX),
    }
}

fn enter(child: Pid, mut ready: File, owner: &UserNamespace) -> Result<()> {
    let mut failed = [0u8];
    ready.read_exact(&mut failed).map_err(Error::io("wait for", "maker of a network namespace"))?;
    if failed[0] != 0 {
        let e = io::Error::from_raw_os_error(i32::from(failed[0]));
        return Err(Error::io("make", "network namespace in a user namespace")(e));
    }
    let maps = [("uid_map", &owner.uid_map), ("gid_map", &owner.gid_map)];
    // One that is shared has its own.
    for (name, text) in maps.into_iter().filter(|_| owner.shared.is_none()) {
        let path = format!("/proc/{child}/{name}");
        std::fs::write(&path, text).map_err(Error::io("write", path))?;
    }
    let path = format!("/proc/{child}/ns/net");
    let made = File::open(&path).map_err(Error::io("open", &path))?;
    setns(made.as_fd(), CloneFlags::CLONE_NEWNET).map_err(Error::sys("enter", "network namespace"))
}
