//! clone3(2): a child in new namespaces, with a pidfd, placed in a cgroup (v2) from its first instruction.

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

use nix::unistd::Pid;

const CLONE_INTO_CGROUP: u64 = 0x2_0000_0000;

#[repr(C)]
#[derive(Default)]
struct CloneArgs {
    flags: u64,
    pidfd: u64,
    child_tid: u64,
    parent_tid: u64,
    exit_signal: u64,
    stack: u64,
    stack_size: u64,
    tls: u64,
    set_tid: u64,
    set_tid_size: u64,
    cgroup: u64,
}

/// Which of the two processes this is.
pub enum Side {
    /// The child.
    Child,
    /// The parent: the child's PID and a pidfd of it.
    Parent(Pid, OwnedFd),
}

/// Forks into the namespaces `flags` (`CLONE_NEW*`), and into `cgroup` where given.
///
/// # Safety
/// The process must be single-threaded: the child goes on with a copy of it, locks included.
pub unsafe fn clone3(flags: i32, cgroup: Option<BorrowedFd<'_>>) -> io::Result<Side> {
    let mut pidfd: i32 = -1;
    let mut args = CloneArgs {
        flags: flags as u64 | libc::CLONE_PIDFD as u64,
        pidfd: std::ptr::from_mut(&mut pidfd) as u64,
        // A sibling ends as we do ourselves.
        exit_signal: if flags & libc::CLONE_PARENT == 0 { libc::SIGCHLD as u64 } else { 0 },
        ..CloneArgs::default()
    };
    if let Some(fd) = cgroup {
        args.flags |= CLONE_INTO_CGROUP;
        args.cgroup = fd.as_raw_fd() as u64;
    }
    // SAFETY: `args` is valid for its size; without CLONE_VM and a stack this is a fork.
    let pid = unsafe { libc::syscall(libc::SYS_clone3, std::ptr::from_ref(&args), size_of::<CloneArgs>()) };
    match pid {
        0 => Ok(Side::Child),
        pid if pid > 0 => {
            // SAFETY: the kernel stored a fresh descriptor there.
            let fd = unsafe { OwnedFd::from_raw_fd(pidfd) };
            Ok(Side::Parent(Pid::from_raw(pid as i32), fd))
        }
        _ => Err(io::Error::last_os_error()),
    }
}
