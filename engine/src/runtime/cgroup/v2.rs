//! Cgroups v2: one hierarchy, entered by CLONE_INTO_CGROUP.

use std::io;
use std::os::fd::OwnedFd;
use std::path::Path;

use super::device_program;
use super::{MOUNT, PERIOD, cpuset, io as block_io, quota, write};
use crate::config::ResourceLimits;
use crate::runtime::devices::DeviceRule;
use crate::runtime::error::{Context, Error};

const CONTROLLERS: [&str; 5] = ["memory", "pids", "cpu", "io", "cpuset"];

/// Makes the group and sets limits and device rules.
pub fn create(
    directory: &Path,
    path: &Path,
    limits: &ResourceLimits,
    devices: Option<&[DeviceRule]>,
) -> Result<OwnedFd, Error> {
    match std::fs::create_dir(directory) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => {
            std::fs::create_dir_all(directory).on("make cgroup", directory.display())?;
        }
        Err(e) if e.kind() == io::ErrorKind::AlreadyExists => {
            let inside =
                std::fs::read_to_string(directory.join("cgroup.procs")).on("read", directory.display())?;
            if !inside.is_empty() {
                let text = format!("cgroup {} has processes already", directory.display());
                return Err(Error::Refused(text));
            }
        }
        other => other.on("make cgroup", directory.display())?,
    }
    let refusals = delegate(path);
    limit(directory, limits).map_err(|e| explain(e, directory, limits, &refusals))?;
    let fd = OwnedFd::from(std::fs::File::open(directory).on("open cgroup", directory.display())?);
    if let Some(rules) = devices {
        device_program::attach(&fd, rules).on("attach device rules to cgroup", directory.display())?;
    }
    Ok(fd)
}

/// Turns controllers on in every ancestor; why some could not be. That matters only when a limit needs one.
fn delegate(path: &Path) -> Vec<String> {
    let mut refusals = Vec::new();
    let mut at = Path::new(MOUNT).to_path_buf();
    for component in path.components() {
        let words = |file: &str| std::fs::read_to_string(at.join(file)).unwrap_or_default();
        let (there, enabled) = (words("cgroup.controllers"), words("cgroup.subtree_control"));
        let has = |text: &str, controller: &str| text.split_whitespace().any(|w| w == controller);
        for controller in CONTROLLERS.iter().filter(|c| has(&there, c) && !has(&enabled, c)) {
            refusals.extend(
                write(&at, "cgroup.subtree_control", format_args!("+{controller}"))
                    .err()
                    .map(|e| e.to_string()),
            );
        }
        at.push(component);
    }
    refusals
}

/// A limit whose file is missing lacks its controller: says which, and why.
fn explain(error: Error, directory: &Path, limits: &ResourceLimits, refusals: &[String]) -> Error {
    if error.errno() != Some(libc::ENOENT) {
        return error;
    }
    let wishes = [
        ("memory", limits.memory.is_some() || limits.memory_reservation.is_some(), "a memory limit"),
        (
            "cpu",
            limits.nano_cpus.is_some()
                || limits.cpu_shares.is_some()
                || limits.cpu_quota.is_some()
                || limits.cpu_period.is_some(),
            "a CPU limit",
        ),
        ("cpuset", super::cpuset::is_wanted(limits), "a set of CPUs"),
        ("io", !limits.blkio_rates.is_empty(), "a limit of block I/O"),
        ("pids", limits.pids.is_some(), "a limit of processes"),
    ];
    let have = std::fs::read_to_string(directory.join("cgroup.controllers")).unwrap_or_default();
    let missing = wishes.iter().find(|(c, wanted, _)| *wanted && !have.split_whitespace().any(|h| h == *c));
    let Some((controller, _, wish)) = missing else { return error };
    let because = match refusals {
        [] => "the host does not offer it here".to_owned(),
        all => all.join("; "),
    };
    Error::Refused(format!(
        "{wish} needs the cgroup controller {controller:?}, which is not on in {}: {because}",
        directory.display()
    ))
}

/// Sets limits.
pub fn limit(directory: &Path, limits: &ResourceLimits) -> Result<(), Error> {
    if let Some(memory) = limits.memory.filter(|m| *m > 0) {
        write(directory, "memory.max", memory)?;
        let swap = match limits.memory_and_swap() {
            None | Some(-1) => "max".to_owned(),
            Some(total) => u64::try_from(total).unwrap_or(0).saturating_sub(memory).to_string(),
        };
        if directory.join("memory.swap.max").exists() {
            write(directory, "memory.swap.max", swap)?;
        }
    }
    if let Some(soft) = limits.memory_reservation {
        write(directory, "memory.low", soft)?;
    }
    if limits.memory_swappiness.is_some() || limits.oom_kill_disable {
        return Err(Error::Refused(
            "--memory-swappiness and --oom-kill-disable are of cgroups v1, and this host has v2: leave them out"
                .into(),
        ));
    }
    if limits.is_real_time() {
        return Err(Error::Refused(
            "--cpu-rt-period and --cpu-rt-runtime are of cgroups v1, and this host has v2: leave them out"
                .into(),
        ));
    }
    if let Some(nano) = limits.nano_cpus.filter(|n| *n > 0) {
        write(directory, "cpu.max", format_args!("{} {PERIOD}", quota(nano)))?;
    }
    if limits.cpu_quota.is_some() || limits.cpu_period.is_some() {
        let quota = limits.cpu_quota.filter(|q| *q > 0).map_or("max".to_owned(), |q| q.to_string());
        write(directory, "cpu.max", format_args!("{quota} {}", limits.cpu_period.unwrap_or(PERIOD)))?;
    }
    cpuset::set(directory, limits)?;
    if limits.limits_io() {
        block_io::v2(directory, limits)?;
    }
    if let Some(shares) = limits.cpu_shares.filter(|s| *s > 0) {
        // 2-262144 onto 1-10000, as every runtime does.
        let weight = 1 + (shares.clamp(2, 262_144) - 2) * 9999 / 262_142;
        write(directory, "cpu.weight", weight)?;
    }
    match limits.pids {
        Some(pids) if pids > 0 => write(directory, "pids.max", pids)?,
        Some(_) => write(directory, "pids.max", "max")?,
        None => {}
    }
    Ok(())
}
