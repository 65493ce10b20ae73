//! A session keyring of the container's own: without one its processes share that of the host, and could read
//! the daemon's keys wherever the seccomp filter lets them use keyctl(2).

use std::io;

use super::error::{Context, Error};

const KEYCTL_JOIN_SESSION_KEYRING: libc::c_long = 1;

/// Leaves the host's session keyring for a fresh one.
pub fn leave_hosts() -> Result<(), Error> {
    // SAFETY: no name: a new anonymous keyring.
    let r = unsafe { libc::syscall(libc::SYS_keyctl, KEYCTL_JOIN_SESSION_KEYRING, std::ptr::null::<u8>()) };
    if r >= 0 {
        return Ok(());
    }
    match io::Error::last_os_error() {
        // A kernel without keys, or a filter over ourselves that the container inherits.
        e if matches!(e.raw_os_error(), Some(libc::ENOSYS | libc::EPERM)) => Ok(()),
        e => Err(e).on("join", "session keyring of the container's own"),
    }
}
