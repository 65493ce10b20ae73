//! Namespaces: which ones a container gets, entering one that exists, and their first settings.

use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::path::Path;

use nix::sched::{CloneFlags, setns, unshare};

use super::error::{Context, Error};
use crate::shim::{NetworkNamespace, ShimSpec};

const NSFS_MAGIC: i64 = 0x6e73_6673;

/// The namespaces to clone into. The cgroup namespace comes later, once the process is in its cgroup.
pub fn clone_flags(network: &NetworkNamespace) -> i32 {
    let base = libc::CLONE_NEWPID | libc::CLONE_NEWNS | libc::CLONE_NEWIPC | libc::CLONE_NEWUTS;
    match network {
        NetworkNamespace::New => base | libc::CLONE_NEWNET,
        NetworkNamespace::Host | NetworkNamespace::Path(_) => base,
    }
}

/// Opens a pinned network namespace.
pub fn open_network(path: &Path) -> Result<OwnedFd, Error> {
    let file = File::open(path).on("open network namespace", path.display())?;
    let kind = nix::sys::statfs::fstatfs(&file).on("examine", path.display())?;
    if kind.filesystem_type().0 != NSFS_MAGIC {
        return Err(Error::Refused(format!(
            "{} is not a network namespace: nothing is mounted there",
            path.display()
        )));
    }
    Ok(file.into())
}

/// Enters it.
pub fn enter_network(fd: &OwnedFd) -> Result<(), Error> {
    setns(fd, CloneFlags::CLONE_NEWNET).on("enter", "network namespace")
}

/// A cgroup namespace whose root is the cgroup this process is in.
pub fn unshare_cgroup() -> Result<(), Error> {
    unshare(CloneFlags::CLONE_NEWCGROUP).on("make", "cgroup namespace")
}

/// Names the host as `spec` says.
pub fn set_names(spec: &ShimSpec) -> Result<(), Error> {
    if !spec.hostname.is_empty() {
        nix::unistd::sethostname(&spec.hostname).on("set host name", &spec.hostname)?;
    }
    if !spec.domainname.is_empty() {
        let name = spec.domainname.as_bytes();
        // SAFETY: pointer and length of a live slice.
        if unsafe { libc::setdomainname(name.as_ptr().cast(), name.len()) } != 0 {
            return Err(io::Error::last_os_error()).on("set domain name", &spec.domainname);
        }
    }
    Ok(())
}

/// Turns the loopback interface of a fresh network namespace on.
pub fn loopback_up() -> Result<(), Error> {
    // SAFETY: plain integers; the descriptor is owned below.
    let fd = unsafe { libc::socket(libc::AF_INET, libc::SOCK_DGRAM | libc::SOCK_CLOEXEC, 0) };
    if fd < 0 {
        return Err(io::Error::last_os_error()).on("open", "socket");
    }
    // SAFETY: just opened, known to nobody else.
    let socket = unsafe { OwnedFd::from_raw_fd(fd) };
    // SAFETY: all zeroes is a valid ifreq.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    for (to, from) in request.ifr_name.iter_mut().zip(b"lo") {
        *to = *from as libc::c_char;
    }
    request.ifr_ifru.ifru_flags = (libc::IFF_UP | libc::IFF_RUNNING) as libc::c_short;
    // SAFETY: a live ifreq.
    if unsafe { libc::ioctl(socket.as_raw_fd(), libc::SIOCSIFFLAGS, &raw const request) } != 0 {
        return Err(io::Error::last_os_error()).on("turn on", "loopback interface");
    }
    Ok(())
}
