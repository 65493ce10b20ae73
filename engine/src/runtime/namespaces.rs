//! Namespaces: which ones a container gets, entering one that exists, and their first settings.

use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::path::Path;

use nix::sched::{CloneFlags, setns, unshare};

use super::error::{Context, Error};
use crate::shim::{Namespace, NetworkNamespace, ShimSpec};

const NSFS_MAGIC: i64 = 0x6e73_6673;

/// The namespaces to clone into. The cgroup namespace comes later, once the process is in its cgroup.
pub fn clone_flags(spec: &ShimSpec) -> i32 {
    let new = |namespace: &Namespace, flag| if *namespace == Namespace::New { flag } else { 0 };
    libc::CLONE_NEWNS
        | new(&spec.pid, libc::CLONE_NEWPID)
        | new(&spec.ipc, libc::CLONE_NEWIPC)
        | new(&spec.uts, libc::CLONE_NEWUTS)
        | if spec.network == NetworkNamespace::New { libc::CLONE_NEWNET } else { 0 }
}

/// Has children born into the PID namespace at `path`, until [`leave_pid`].
pub fn enter_pid(path: &Path) -> Result<OwnedFd, Error> {
    let own = File::open("/proc/self/ns/pid").on("open", "/proc/self/ns/pid")?;
    let other = File::open(path).on("open PID namespace", path.display())?;
    setns(&other, CloneFlags::CLONE_NEWPID).on("enter PID namespace", path.display())?;
    Ok(own.into())
}

/// Has children born into our own PID namespace again.
pub fn leave_pid(own: &OwnedFd) -> Result<(), Error> {
    setns(own, CloneFlags::CLONE_NEWPID).on("leave", "PID namespace of another container")
}

/// Opens the IPC namespace to be entered, where it is another's.
pub fn open_ipc(namespace: &Namespace) -> Result<Option<OwnedFd>, Error> {
    match namespace {
        Namespace::Path(path) => Ok(Some(File::open(path).on("open IPC namespace", path.display())?.into())),
        Namespace::New | Namespace::Host => Ok(None),
    }
}

/// Enters it.
pub fn enter_ipc(fd: &OwnedFd) -> Result<(), Error> {
    setns(fd, CloneFlags::CLONE_NEWIPC).on("enter", "IPC namespace")
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
    if spec.uts != Namespace::New {
        return Ok(());
    }
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
