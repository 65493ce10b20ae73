//! Processes beside the shim, which must have no threads: forked from it, and nobody's child.

use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};

use nix::sys::wait::waitpid;
use nix::unistd::{ForkResult, fork, setsid};

/// Runs `work` with `keep` in a process of its own, which has nothing else of the shim's open and ends with it.
pub(super) fn detached(keep: &OwnedFd, work: impl FnOnce(OwnedFd)) -> io::Result<()> {
    // SAFETY: the shim has one thread, so the child may do what it likes.
    match unsafe { fork() }? {
        ForkResult::Parent { child } => {
            // It ends at once; its child is somebody else's.
            waitpid(child, None)?;
            Ok(())
        }
        ForkResult::Child => {
            // SAFETY: as above; `_exit` runs nothing of the shim's.
            let code = match unsafe { fork() } {
                Ok(ForkResult::Child) => match alone(keep.as_raw_fd()) {
                    Ok(fd) => {
                        work(fd);
                        0
                    }
                    Err(_) => 1,
                },
                Ok(ForkResult::Parent { .. }) => 0,
                Err(_) => 1,
            };
            unsafe { libc::_exit(code) }
        }
    }
}

fn alone(keep: i32) -> io::Result<OwnedFd> {
    setsid()?;
    std::env::set_current_dir("/")?;
    // SAFETY: this process is ours alone; of the shim's descriptors it touches only the one it keeps.
    unsafe {
        if keep != 3 && libc::dup2(keep, 3) < 0 {
            return Err(io::Error::last_os_error());
        }
        if libc::syscall(libc::SYS_close_range, 4u32, u32::MAX, 0u32) < 0 {
            return Err(io::Error::last_os_error());
        }
        libc::prctl(libc::PR_SET_NAME, c"skep-log".as_ptr());
        Ok(OwnedFd::from_raw_fd(3))
    }
}
