//! Cgroups v1: one hierarchy per controller, each joined by itself.

use std::io;
use std::path::{Path, PathBuf};

use super::{quota, write};
use crate::config::ResourceLimits;
use crate::runtime::devices::DeviceRule;
use crate::runtime::error::{Context, Error};

/// Controllers a container gets a directory in.
const CONTROLLERS: [&str; 7] = ["memory", "pids", "cpu", "cpuacct", "devices", "freezer", "blkio"];
const PERIOD: u64 = 100_000;

/// A container's directory in one hierarchy.
pub struct Directory {
    /// The hierarchy's name below /sys/fs/cgroup (`cpu,cpuacct`).
    pub name: String,
    /// The directory.
    pub path: PathBuf,
    controllers: Vec<String>,
}

impl Directory {
    /// Whether `controller` works here.
    pub fn has(&self, controller: &str) -> bool {
        self.controllers.iter().any(|c| c == controller)
    }
}

/// The directories of the group `path` in all hierarchies that matter.
pub fn directories(path: &Path) -> Result<Vec<Directory>, Error> {
    let table = std::fs::read_to_string("/proc/self/mountinfo").on("read", "/proc/self/mountinfo")?;
    let mut found: Vec<Directory> = Vec::new();
    for line in table.lines() {
        let Some((left, right)) = line.split_once(" - cgroup ") else { continue };
        let (Some(root), Some(mount)) = (left.split(' ').nth(3), left.split(' ').nth(4)) else { continue };
        let mount = Path::new(mount);
        let options = right.rsplit(' ').next().unwrap_or_default();
        let controllers: Vec<String> =
            options.split(',').filter(|o| CONTROLLERS.contains(o)).map(str::to_owned).collect();
        let seen = |d: &Directory| controllers.iter().any(|c| d.has(c));
        if root != "/" || controllers.is_empty() || found.iter().any(seen) {
            continue;
        }
        let name = mount.file_name().map(|n| n.to_string_lossy().into_owned()).unwrap_or_default();
        found.push(Directory { name, path: mount.join(path), controllers });
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

/// Sets limits.
pub fn limit(directories: &[Directory], limits: &ResourceLimits) -> Result<(), Error> {
    if let Some(memory) = limits.memory.filter(|m| *m > 0) {
        set_memory(find(directories, "memory", "a memory limit")?, memory, limits.memory_swap)?;
    }
    if let Some(nano) = limits.nano_cpus.filter(|n| *n > 0) {
        let path = find(directories, "cpu", "a CPU limit")?;
        write(path, "cpu.cfs_period_us", PERIOD)?;
        write(path, "cpu.cfs_quota_us", quota(nano))?;
    }
    if let Some(shares) = limits.cpu_shares.filter(|s| *s > 0) {
        write(find(directories, "cpu", "a CPU weight")?, "cpu.shares", shares)?;
    }
    if let Some(pids) = limits.pids.filter(|p| *p > 0) {
        write(find(directories, "pids", "a limit of processes")?, "pids.max", pids)?;
    }
    Ok(())
}

fn set_memory(path: &Path, memory: u64, swap: Option<i64>) -> Result<(), Error> {
    let total = match swap {
        Some(-1) => -1,
        None | Some(0) => i64::try_from(memory.saturating_mul(2)).unwrap_or(i64::MAX),
        Some(total) => total,
    };
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
