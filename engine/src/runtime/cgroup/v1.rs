//! Cgroups v1: one hierarchy per controller, each joined by itself.

use std::io;
use std::path::{Path, PathBuf};

use super::{PERIOD, cpuset, io as block_io, quota, real_time, write};
use crate::config::ResourceLimits;
use crate::runtime::devices::DeviceRule;
use crate::runtime::error::{Context, Error};

/// Controllers a container gets a directory in.
const CONTROLLERS: [&str; 7] = ["memory", "pids", "cpu", "cpuacct", "devices", "freezer", "blkio"];

/// A container's directory in one hierarchy.
pub struct Directory {
    /// The hierarchy's name below /sys/fs/cgroup (`cpu,cpuacct`).
    pub name: String,
    /// The directory.
    pub path: PathBuf,
    pub(super) controllers: Vec<String>,
}

impl Directory {
    /// Whether `controller` works here.
    pub fn has(&self, controller: &str) -> bool {
        self.controllers.iter().any(|c| c == controller)
    }
}

/// The directories of the group `path` in all hierarchies that matter; the one of CPUs only if it is there.
pub fn directories(path: &Path) -> Result<Vec<Directory>, Error> {
    let mut found = hierarchies(&CONTROLLERS)?;
    found.extend(hierarchies(&["cpuset"])?.into_iter().filter(|d| d.path.join(path).is_dir()));
    for d in &mut found {
        d.path.push(path);
    }
    Ok(found)
}

/// Where hierarchies with one of these controllers are mounted.
pub(super) fn hierarchies(wanted: &[&str]) -> Result<Vec<Directory>, Error> {
    let table = std::fs::read_to_string("/proc/self/mountinfo").on("read", "/proc/self/mountinfo")?;
    let mut found: Vec<Directory> = Vec::new();
    for line in table.lines() {
        let Some((left, right)) = line.split_once(" - cgroup ") else { continue };
        let (Some(root), Some(mount)) = (left.split(' ').nth(3), left.split(' ').nth(4)) else { continue };
        let mount = Path::new(mount);
        let options = right.rsplit(' ').next().unwrap_or_default();
        let controllers: Vec<String> =
            options.split(',').filter(|o| wanted.contains(o)).map(str::to_owned).collect();
        let seen = |d: &Directory| controllers.iter().any(|c| d.has(c));
        if root != "/" || controllers.is_empty() || found.iter().any(seen) {
            continue;
        }
        let name = mount.file_name().map(|n| n.to_string_lossy().into_owned()).unwrap_or_default();
        found.push(Directory { name, path: mount.to_owned(), controllers });
    }
    Ok(found)
}

fn find<'a>(directories: &'a [Directory], controller: &str, wish: &str) -> Result<&'a Path, Error> {
    directories.iter().find(|d| d.has(controller)).map(|d| d.path.as_path()).ok_or_else(|| {
        Error::Refused(format!(
            "{wish} needs the cgroup controller {controller:?}, which is not mounted on this host"
        ))
    })
}

/// Makes the directories and sets limits and device rules.
pub fn create(
    directories: &[Directory],
    limits: &ResourceLimits,
    devices: Option<&[DeviceRule]>,
) -> Result<(), Error> {
    for d in directories {
        make(&d.path)?;
    }
    limit(directories, limits)?;
    if let Some(rules) = devices {
        let path = find(directories, "devices", "keeping devices from a container")?;
        write(path, "devices.deny", "a")?;
        for rule in rules {
            write(path, "devices.allow", rule)?;
        }
    }
    Ok(())
}

fn make(path: &Path) -> Result<(), Error> {
    match std::fs::create_dir(path) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => {
            std::fs::create_dir_all(path).on("make cgroup", path.display())
        }
        Err(e) if e.kind() == io::ErrorKind::AlreadyExists => {
            let inside =
                std::fs::read_to_string(path.join("cgroup.procs")).on("read cgroup", path.display())?;
            match inside.is_empty() {
                true => Ok(()),
                false => Err(Error::Refused(format!("cgroup {} has processes already", path.display()))),
            }
        }
        other => other.on("make cgroup", path.display()),
    }
}

/// Adds the container's directory in the hierarchy of CPUs, for limits that need it; `true` if it was not there.
pub fn add_cpuset(
    directories: &mut Vec<Directory>,
    path: &Path,
    limits: &ResourceLimits,
) -> Result<bool, Error> {
    if !cpuset::is_wanted(limits) || directories.iter().any(|d| d.has("cpuset")) {
        return Ok(false);
    }
    directories.push(cpuset::v1_directory(path)?);
    Ok(true)
}

/// Sets limits.
pub fn limit(directories: &[Directory], limits: &ResourceLimits) -> Result<(), Error> {
    if let Some(memory) = limits.memory.filter(|m| *m > 0) {
        let path = find(directories, "memory", "a memory limit")?;
        set_memory(path, memory, limits.memory_and_swap().unwrap_or(-1))?;
    }
    if let Some(soft) = limits.memory_reservation {
        let path = find(directories, "memory", "a soft memory limit")?;
        write(path, "memory.soft_limit_in_bytes", soft)?;
    }
    if let Some(swappiness) = limits.memory_swappiness {
        write(find(directories, "memory", "a swappiness")?, "memory.swappiness", swappiness)?;
    }
    if limits.oom_kill_disable {
        write(find(directories, "memory", "disabling the OOM killer")?, "memory.oom_control", 1)?;
    }
    if let Some(nano) = limits.nano_cpus.filter(|n| *n > 0) {
        let path = find(directories, "cpu", "a CPU limit")?;
        write(path, "cpu.cfs_period_us", PERIOD)?;
        write(path, "cpu.cfs_quota_us", quota(nano))?;
    }
    if limits.cpu_period.is_some() || limits.cpu_quota.is_some() {
        let path = find(directories, "cpu", "a CPU quota")?;
        set_quota(path, limits.cpu_quota, limits.cpu_period)?;
    }
    if limits.is_real_time() {
        real_time::set(find(directories, "cpu", "real-time CPU time")?, limits)?;
    }
    if cpuset::is_wanted(limits) {
        cpuset::set(find(directories, "cpuset", "a set of CPUs")?, limits)?;
    }
    if limits.limits_io() {
        block_io::v1(find(directories, "blkio", "a limit of block I/O")?, limits)?;
    }
    if let Some(shares) = limits.cpu_shares.filter(|s| *s > 0) {
        write(find(directories, "cpu", "a CPU weight")?, "cpu.shares", shares)?;
    }
    match limits.pids {
        Some(pids) if pids > 0 => {
            write(find(directories, "pids", "a limit of processes")?, "pids.max", pids)?
        }
        Some(_) => write(find(directories, "pids", "a limit of processes")?, "pids.max", "max")?,
        None => {}
    }
    Ok(())
}

/// The kernel checks the one against the other at each write: which goes first depends on what was set before.
fn set_quota(path: &Path, quota: Option<i64>, period: Option<u64>) -> Result<(), Error> {
    let period = || period.map_or(Ok(()), |p| write(path, "cpu.cfs_period_us", p));
    let quota = || quota.map_or(Ok(()), |q| write(path, "cpu.cfs_quota_us", q));
    if period().is_err() {
        quota()?;
        return period();
    }
    quota()
}

/// `total`: of memory and swap.
fn set_memory(path: &Path, memory: u64, total: i64) -> Result<(), Error> {
    let both = path.join("memory.memsw.limit_in_bytes");
    if !both.exists() {
        return write(path, "memory.limit_in_bytes", memory);
    }
    // Memory may never be above memory + swap: which goes first depends on what was set before.
    if write(path, "memory.limit_in_bytes", memory).is_err() {
        write(path, "memory.memsw.limit_in_bytes", total)?;
        return write(path, "memory.limit_in_bytes", memory);
    }
    write(path, "memory.memsw.limit_in_bytes", total)
}

/// Moves the calling process in. A single-threaded process that writes `0` to `tasks` moves only
/// itself, which spares the kernel the global lock (and its RCU grace periods, milliseconds each)
/// that a write to `cgroup.procs` takes.
pub fn join(directories: &[Directory]) -> Result<(), Error> {
    for d in directories {
        write(&d.path, "tasks", 0)?;
    }
    Ok(())
}

/// Moves processes of the container into its directory in one more hierarchy.
pub fn enter(directories: &[Directory], controller: &str, processes: &[i32]) -> Result<(), Error> {
    let path = find(directories, controller, "moving processes")?;
    for pid in processes {
        match write(path, "cgroup.procs", pid) {
            // Gone meanwhile.
            Err(e) if e.errno() == Some(libc::ESRCH) => {}
            other => other?,
        }
    }
    Ok(())
}
