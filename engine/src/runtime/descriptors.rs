//! Keeping descriptors of the host from a container: of those that the daemon was started with without
//! close-on-exec, nobody here knows.

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};

use super::error::{Context, Error};

const CLOSE_RANGE_CLOEXEC: libc::c_uint = 4;

/// Has all but stdio closed by the next execve(2), whoever opened it.
pub fn close_on_exec() -> Result<(), Error> {
    // SAFETY: plain integers; nothing is closed here.
    match unsafe { libc::syscall(libc::SYS_close_range, 3u32, u32::MAX, CLOSE_RANGE_CLOEXEC) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()).on("close on exec", "descriptors"),
    }
}

/// close_range(2) around the descriptors that are kept; stdio stays. Nothing that owns one of those closed may be
/// used or dropped any more.
pub fn close_all_but(kept: &[BorrowedFd<'_>]) -> Result<(), Error> {
    let mut numbers: Vec<u32> = kept.iter().filter_map(|f| u32::try_from(f.as_raw_fd()).ok()).collect();
    numbers.sort_unstable();
    let mut first: u32 = 3;
    for last in numbers.into_iter().chain([u32::MAX]) {
        if last > first {
            // SAFETY: plain integers; nothing that owns one of these descriptors is used or dropped any more.
            let r = unsafe { libc::syscall(libc::SYS_close_range, first, last - 1, 0) };
            if r != 0 {
                return Err(io::Error::last_os_error()).on("close", "descriptors");
            }
        }
        first = first.max(last.saturating_add(1));
    }
    Ok(())
}
