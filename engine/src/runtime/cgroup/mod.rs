//! The control group of a container: made, limited, observed and removed, on whichever version of
//! cgroups the host has.

mod cpuset;
mod device_program;
mod freezer;
mod io;
pub mod oci;
pub mod real_time;
mod usage;
mod v1;
mod v2;

use std::io::ErrorKind;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::path::{Component, Path, PathBuf};
use std::time::{Duration, Instant};

use super::devices::DeviceRule;
use super::error::{Context, Error};
use crate::config::ResourceLimits;

pub use self::cpuset::available as cpuset_available;
pub use self::usage::{CpuUsage, IoUsage, MemoryUsage, Usage};

/// Where the kernel shows cgroups.
const MOUNT: &str = "/sys/fs/cgroup";
const CGROUP2_SUPER_MAGIC: i64 = 0x6367_7270;

/// A container's control group.
pub struct Cgroup {
    path: PathBuf,
    kind: Kind,
}

enum Kind {
    /// Separate hierarchies: the container's directory in each.
    V1(Vec<v1::Directory>),
    /// One hierarchy.
    V2 { directory: PathBuf, fd: Option<OwnedFd> },
}

/// 1 or 2, by what is mounted.
pub fn version() -> u8 {
    match nix::sys::statfs::statfs(MOUNT) {
        Ok(s) if s.filesystem_type().0 == CGROUP2_SUPER_MAGIC => 2,
        _ => 1,
    }
}

impl Cgroup {
    /// The group at `path` below each hierarchy's root, which need not exist.
    pub fn at(path: &str) -> Result<Self, Error> {
        let path = PathBuf::from(path.trim_start_matches('/'));
        let plain = path.components().all(|c| matches!(c, Component::Normal(_)));
        if path.as_os_str().is_empty() || !plain {
            return Err(Error::Refused(format!("{path:?} is not a cgroup path")));
        }
        let kind = match version() {
            2 => Kind::V2 { directory: Path::new(MOUNT).join(&path), fd: None },
            _ => Kind::V1(v1::directories(&path)?),
        };
        Ok(Self { path, kind })
    }

    /// Readies it for these limits, before anybody who is to join it is forked: some need a directory of their
    /// own.
    pub fn prepare(mut self, limits: &ResourceLimits) -> Result<Self, Error> {
        if let Kind::V1(directories) = &mut self.kind {
            v1::add_cpuset(directories, &self.path, limits)?;
        }
        Ok(self)
    }

    /// Makes it, with its limits. Processes that are in one of that name already are an error: it
    /// is another container's.
    pub fn create(&mut self, limits: &ResourceLimits, devices: Option<&[DeviceRule]>) -> Result<(), Error> {
        let path = self.path.clone();
        match &mut self.kind {
            Kind::V1(directories) => v1::create(directories, limits, devices),
            Kind::V2 { directory, fd } => {
                *fd = Some(v2::create(directory, &path, limits, devices)?);
                Ok(())
            }
        }
    }

    /// Whether children enter it by clone3 (v2), so that it must be made before them.
    pub fn is_entered_by_clone(&self) -> bool {
        matches!(self.kind, Kind::V2 { .. })
    }

    /// For CLONE_INTO_CGROUP, once created, on v2.
    pub fn clone_target(&self) -> Option<BorrowedFd<'_>> {
        match &self.kind {
            Kind::V2 { fd: Some(fd), .. } => Some(fd.as_fd()),
            _ => None,
        }
    }

    /// Moves the calling single-threaded process into it (v1; on v2 it was cloned into it).
    pub fn join(&self) -> Result<(), Error> {
        match &self.kind {
            Kind::V1(directories) => v1::join(directories),
            Kind::V2 { .. } => Ok(()),
        }
    }

    /// Host directories to show at /sys/fs/cgroup/NAME (v1), or none: cgroup2 is mounted whole.
    pub fn views(&self) -> Vec<(String, &Path)> {
        match &self.kind {
            Kind::V1(directories) => directories.iter().map(|d| (d.name.clone(), d.path.as_path())).collect(),
            Kind::V2 { .. } => Vec::new(),
        }
    }

    /// Whether the kernel killed a process of it for want of memory.
    pub fn oom_killed(&self) -> bool {
        let (file, key) = match &self.kind {
            Kind::V1(directories) => match directories.iter().find(|d| d.has("memory")) {
                Some(d) => (d.path.join("memory.oom_control"), "oom_kill "),
                None => return false,
            },
            Kind::V2 { directory, .. } => (directory.join("memory.events"), "oom_kill "),
        };
        let Ok(text) = std::fs::read_to_string(file) else { return false };
        text.lines().filter_map(|l| l.strip_prefix(key)).any(|n| n.trim() != "0")
    }

    /// The host PIDs in it.
    pub fn processes(&self) -> std::io::Result<Vec<i32>> {
        let directory = match &self.kind {
            Kind::V1(directories) => match directories.first() {
                Some(d) => &d.path,
                None => return Ok(Vec::new()),
            },
            Kind::V2 { directory, .. } => directory,
        };
        match std::fs::read_to_string(directory.join("cgroup.procs")) {
            Ok(text) => Ok(text.lines().filter_map(|l| l.parse().ok()).collect()),
            Err(e) if e.kind() == ErrorKind::NotFound => Ok(Vec::new()),
            Err(e) => Err(e),
        }
    }

    /// The host PIDs in it and in the groups that the container made below it.
    pub fn all_processes(&self) -> std::io::Result<Vec<i32>> {
        let top = match &self.kind {
            Kind::V1(directories) => directories.first().map(|d| d.path.as_path()),
            Kind::V2 { directory, .. } => Some(directory.as_path()),
        };
        let mut pids = self.processes()?;
        if let Some(top) = top {
            for entry in std::fs::read_dir(top).into_iter().flatten().flatten() {
                if entry.file_type().is_ok_and(|t| t.is_dir()) {
                    below(&entry.path(), &mut pids);
                }
            }
        }
        Ok(pids)
    }

    /// Changes the limits of a group that exists.
    pub fn update(&mut self, limits: &ResourceLimits) -> Result<(), Error> {
        let processes = self.processes().on("read", "cgroup")?;
        match &mut self.kind {
            Kind::V1(directories) => {
                if v1::add_cpuset(directories, &self.path, limits)? {
                    v1::limit(directories, limits)?;
                    return v1::enter(directories, "cpuset", &processes);
                }
                v1::limit(directories, limits)
            }
            Kind::V2 { directory, .. } => v2::limit(directory, limits),
        }
    }

    /// Kills all processes in it and below it, and waits for them to go.
    pub fn kill(&self) -> Result<(), Error> {
        const PATIENCE: Duration = Duration::from_secs(10);
        let began = Instant::now();
        loop {
            let pids = self.all_processes().on("read", "cgroup")?;
            if pids.is_empty() {
                return Ok(());
            }
            // None of them is our child; a pidfd tells of anybody's end. Those that have ended have none.
            let held: Vec<OwnedFd> = pids.iter().filter_map(|pid| pidfd(*pid).ok()).collect();
            for pid in &pids {
                // SAFETY: plain integers; the process is in a cgroup that is ours alone.
                unsafe { libc::kill(*pid, libc::SIGKILL) };
            }
            // In cgroups v1 what is frozen ends only once it goes on.
            if self.is_frozen() {
                self.freeze(false)?;
            }
            for ended in &held {
                let left = PATIENCE.saturating_sub(began.elapsed());
                let mut fd = libc::pollfd { fd: ended.as_raw_fd(), events: libc::POLLIN, revents: 0 };
                // SAFETY: one live pollfd. An interrupted wait is begun again by the next round.
                unsafe { libc::poll(&raw mut fd, 1, left.as_millis() as libc::c_int) };
            }
            if began.elapsed() > PATIENCE {
                return Err(Error::Refused(format!("processes {pids:?} do not end when they are killed")));
            }
        }
    }

    /// Removes it with what the container made below it. Its parent, the daemon's, stays.
    pub fn remove(&self) -> Result<(), Error> {
        let mut failures = Vec::new();
        match &self.kind {
            Kind::V1(directories) => {
                for d in directories {
                    failures.extend(remove(&d.path).err());
                }
            }
            Kind::V2 { directory, .. } => failures.extend(remove(directory).err()),
        }
        match failures.len() {
            0 => Ok(()),
            _ => Err(Error::Refused(failures.iter().map(ToString::to_string).collect::<Vec<_>>().join("; "))),
        }
    }
}

/// pidfd_open(2): readable once the process has ended.
pub(super) fn pidfd(pid: i32) -> std::io::Result<OwnedFd> {
    // SAFETY: plain integers.
    let fd = unsafe { libc::syscall(libc::SYS_pidfd_open, pid, 0) };
    if fd < 0 {
        return Err(std::io::Error::last_os_error());
    }
    // SAFETY: a new descriptor that nothing else owns.
    Ok(unsafe { OwnedFd::from_raw_fd(fd as i32) })
}

fn below(directory: &Path, pids: &mut Vec<i32>) {
    let text = std::fs::read_to_string(directory.join("cgroup.procs")).unwrap_or_default();
    pids.extend(text.lines().filter_map(|l| l.parse::<i32>().ok()));
    for entry in std::fs::read_dir(directory).into_iter().flatten().flatten() {
        if entry.file_type().is_ok_and(|t| t.is_dir()) {
            below(&entry.path(), pids);
        }
    }
}

fn remove(directory: &Path) -> Result<(), Error> {
    // Groups that the container itself made go first.
    if let Ok(entries) = std::fs::read_dir(directory) {
        for entry in entries.flatten().filter(|e| e.file_type().is_ok_and(|t| t.is_dir())) {
            remove(&entry.path())?;
        }
    }
    match std::fs::remove_dir(directory) {
        Err(e) if e.kind() != ErrorKind::NotFound => Err(e).on("remove cgroup", directory.display()),
        _ => Ok(()),
    }
}

fn write(directory: &Path, file: &str, value: impl std::fmt::Display) -> Result<(), Error> {
    let path = directory.join(file);
    std::fs::OpenOptions::new()
        .write(true)
        .open(&path)
        .and_then(|mut f| std::io::Write::write_all(&mut f, value.to_string().as_bytes()))
        .on("set", format_args!("{}={value}", path.display()))
}

/// Microseconds over which CPU time is shared out.
const PERIOD: u64 = 100_000;

/// Microseconds of CPU per period for billionths of a CPU.
fn quota(nano_cpus: u64) -> u64 {
    (nano_cpus / 10_000).max(1000)
}
