//! User namespaces: making one, finding the one that a container has to share, and entering it for good.
//!
//! The first process of a container with a user namespace is made in two steps. A process of the shim's ("maker") takes
//! from the host, as the host's root, what the container is to have of it. Then it enters the user namespace and clones
//! itself into the container's others, which so belong to that one; what it has gathered goes along. The clone is the
//! shim's child, and the maker ends.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

use nix::fcntl::OFlag;
use nix::sched::{CloneFlags, setns};
use nix::sys::signal::{Signal, kill};
use nix::sys::stat::{Mode, fstat};
use nix::sys::wait::{Id, WaitPidFlag, waitid};
use nix::unistd::{Gid, Pid, Uid, fchown};

use super::cgroup::Cgroup;
use super::clone::{Side, clone3};
use super::error::{Context, Error};
use super::gate::{Gate, Message};
use super::process::{self, Pipes, Plan};
use super::{end_child, namespaces};
use crate::shim::{Namespace, NetworkNamespace, ShimSpec};
use crate::userns::IdMaps;

/// ioctl_ns(2): the user namespace that owns a namespace.
const NS_GET_USERNS: libc::Ioctl = 0xb701;

/// A new user namespace with these IDs. Also for processes with several threads.
pub fn make(maps: &IdMaps) -> Result<OwnedFd, Error> {
    // SAFETY: the child makes system calls only, whatever locks other threads hold.
    let (child, _pidfd) = match unsafe { clone3(libc::CLONE_NEWUSER, None) }.on("make", "user namespace")? {
        Side::Child => {
            // SAFETY: plain integers. It only waits for its end, and does not outlive who is to end it.
            unsafe {
                libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL);
                libc::pause();
                libc::_exit(0);
            }
        }
        Side::Parent(child, pidfd) => (child, pidfd),
    };
    let made = fill(child, maps);
    let _ = kill(child, Signal::SIGKILL);
    let _ = waitid(Id::Pid(child), WaitPidFlag::WEXITED);
    made
}

fn fill(child: Pid, maps: &IdMaps) -> Result<OwnedFd, Error> {
    for (name, text) in ["uid_map", "gid_map"].into_iter().zip(maps.lines()) {
        let path = format!("/proc/{child}/{name}");
        std::fs::write(&path, text).on("write", &path)?;
    }
    let path = format!("/proc/{child}/ns/user");
    Ok(File::open(&path).on("open", &path)?.into())
}

/// The user namespace of a container: that of the namespaces it is to be in, else a new one.
pub fn of(spec: &ShimSpec) -> Result<Option<OwnedFd>, Error> {
    let Some(maps) = &spec.id_maps else { return Ok(None) };
    let network = match &spec.network {
        NetworkNamespace::Path(path) => Namespace::Path(path.clone()),
        NetworkNamespace::New | NetworkNamespace::Host => Namespace::New,
    };
    let mut found: Option<OwnedFd> = None;
    for (kind, namespace) in [("network", &network), ("IPC", &spec.ipc), ("PID", &spec.pid)] {
        let Namespace::Path(path) = namespace else { continue };
        let file = File::open(path).on("open namespace", path.display())?;
        let owner = owner(&file).on("find the user namespace of", path.display())?;
        let other = match &found {
            None => is_own(&owner)?,
            Some(found) => !same(found, &owner)?,
        };
        if other {
            return Err(Error::Refused(format!(
                "cannot join the {kind} namespace of a container that has another user namespace: run both with --userns host"
            )));
        }
        found.get_or_insert(owner);
    }
    found.map_or_else(|| make(maps), Ok).map(Some)
}

fn owner(namespace: &File) -> io::Result<OwnedFd> {
    // SAFETY: no argument; the descriptor that comes back is owned by nobody else.
    let fd = unsafe { libc::ioctl(namespace.as_raw_fd(), NS_GET_USERNS) };
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: just opened for us.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

fn same(a: impl AsFd, b: impl AsFd) -> Result<bool, Error> {
    let number = |fd: BorrowedFd<'_>| fstat(fd).on("examine", "user namespace").map(|m| (m.st_dev, m.st_ino));
    Ok(number(a.as_fd())? == number(b.as_fd())?)
}

fn is_own(namespace: &OwnedFd) -> Result<bool, Error> {
    same(namespace, File::open("/proc/self/ns/user").on("open", "/proc/self/ns/user")?)
}

/// What this thread makes in a file system belongs to a container's root meanwhile; its capabilities stay. An id-mapped
/// file system takes nothing from anybody else.
pub struct FsRoot(());

const SECBIT_NO_SETUID_FIXUP: libc::c_int = 1 << 2;

impl FsRoot {
    /// Until it is dropped, by this thread.
    pub fn of(maps: &IdMaps) -> Result<Self, Error> {
        let (uid, gid) = maps.root();
        set_bits(SECBIT_NO_SETUID_FIXUP)?;
        let guard = Self(());
        nix::unistd::setfsgid(Gid::from_raw(gid));
        nix::unistd::setfsuid(Uid::from_raw(uid));
        Ok(guard)
    }
}

impl Drop for FsRoot {
    fn drop(&mut self) {
        nix::unistd::setfsuid(Uid::from_raw(0));
        nix::unistd::setfsgid(Gid::from_raw(0));
        // Set by this call, so it can be taken back.
        let _ = set_bits(0);
    }
}

fn set_bits(bits: libc::c_int) -> Result<(), Error> {
    // SAFETY: plain integers; of this thread only.
    match unsafe { libc::prctl(libc::PR_SET_SECUREBITS, bits) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()).on("set", "securebits"),
    }
}

/// Becomes root of the user namespace this process has entered.
pub fn become_root() -> Result<(), Error> {
    nix::unistd::setgroups(&[]).on("drop", "supplementary groups")?;
    let (uid, gid) = (Uid::from_raw(0), Gid::from_raw(0));
    nix::unistd::setresgid(gid, gid, gid).on("become", "root group of the user namespace")?;
    nix::unistd::setresuid(uid, uid, uid).on("become", "root of the user namespace")
}

/// Gives stdio to the container's root, who may then give it to the user.
pub fn own_stdio(pipes: Option<&Pipes>, maps: &IdMaps) -> Result<(), Error> {
    let (uid, gid) = maps.root();
    for end in pipes.into_iter().flatten() {
        if !super::devices::is_null(end).on("examine", "stdio")? {
            fchown(end.as_fd(), Some(Uid::from_raw(uid)), Some(Gid::from_raw(gid))).on("own", "stdio")?;
        }
    }
    Ok(())
}

/// As clone3, through a maker.
///
/// # Safety
/// The process must be single-threaded.
pub unsafe fn spawn(
    plan: &Plan<'_>,
    userns: &OwnedFd,
    cgroup: &Cgroup,
    pipes: Option<Pipes>,
    (ours, gate): (&Gate, &Gate),
) -> Result<(Pid, OwnedFd), Error> {
    let (near, far) = Gate::pair()?;
    // SAFETY: single-threaded, by contract.
    let maker = match unsafe { clone3(libc::CLONE_NEWNS, cgroup.clone_target()) }
        .on("clone", "maker of container init")?
    {
        Side::Child => {
            drop(near);
            ours.shut();
            let work = || make_child(plan, userns, cgroup, pipes, gate, &far);
            end_child(&far, std::panic::AssertUnwindSafe(work));
        }
        Side::Parent(maker, _) => maker,
    };
    drop(far);
    let said = near.receive();
    waitid(Id::Pid(maker), WaitPidFlag::WEXITED).on("wait for", "maker of container init")?;
    match said? {
        Some((Message::Born { pid }, Some(pidfd))) => Ok((Pid::from_raw(pid), pidfd)),
        Some((Message::Failed { message, exit_code }, _)) => Err(Error::Init { message, exit_code }),
        _ => Err(Error::Refused("the maker of container init died".into())),
    }
}

fn make_child(
    plan: &Plan<'_>,
    userns: &OwnedFd,
    cgroup: &Cgroup,
    pipes: Option<Pipes>,
    gate: &Gate,
    far: &Gate,
) -> Result<std::convert::Infallible, Error> {
    let spec = plan.spec;
    process::begin(plan)?;
    cgroup.join()?;
    let outside = process::gather(plan, cgroup)?;
    if let Some(maps) = &spec.id_maps {
        own_stdio(pipes.as_ref(), maps)?;
    }
    // Where the root file system is to be mounted: the working directory is taken along into another mount namespace.
    nix::unistd::chdir(plan.scratch).on("enter", plan.scratch.display())?;
    if let Namespace::Path(path) = &spec.pid {
        namespaces::enter_pid(path)?;
    }
    setns(userns, CloneFlags::CLONE_NEWUSER).on("enter", "user namespace")?;
    become_root()?;
    // SAFETY: this process has never had a second thread.
    let side = unsafe { clone3(namespaces::clone_flags(spec) | libc::CLONE_PARENT, None) };
    match side.on("clone", "container init")? {
        Side::Child => end_child(
            gate,
            std::panic::AssertUnwindSafe(|| {
                let here = nix::fcntl::open(
                    ".",
                    OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC,
                    Mode::empty(),
                );
                let scratch = here.on("open", "the place of the root file system")?;
                process::join_namespaces(plan)?;
                process::inside(plan, outside, &scratch, pipes, gate)
            }),
        ),
        Side::Parent(pid, pidfd) => {
            far.send(&Message::Born { pid: pid.as_raw() }, Some(&pidfd))?;
            // SAFETY: ends this process at once, without running what belongs to its parent.
            unsafe { libc::_exit(0) }
        }
    }
}
