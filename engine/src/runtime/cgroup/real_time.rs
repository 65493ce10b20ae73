//! Time for real-time processes (sched(7), the kernel's `sched-rt-group`): of cgroups v1 only, and of kernels with
//! CONFIG_RT_GROUP_SCHED. A group can give what those above it have.

use std::path::{Component, Path};

use super::{v1, write};
use crate::config::ResourceLimits;
use crate::runtime::error::{Context, Error};

const PERIOD: &str = "cpu.rt_period_us";
const RUNTIME: &str = "cpu.rt_runtime_us";

/// Whether this host's cgroups know of it.
pub fn available() -> bool {
    root().is_some_and(|root| root.join(RUNTIME).exists())
}

fn root() -> Option<std::path::PathBuf> {
    if super::version() == 2 {
        return None;
    }
    v1::hierarchies(&["cpu"]).ok()?.into_iter().next().map(|d| d.path)
}

/// Gives the group at `path`, below the root of the hierarchy, and all above it the same: what containers in it can
/// have together. In microseconds; 0 is left as it is.
pub fn share(path: &str, period: i64, runtime: i64) -> Result<(), Error> {
    let Some(mut at) = root() else { return Ok(()) };
    for part in Path::new(path).components().filter(|c| matches!(c, Component::Normal(_))) {
        at.push(part);
        match std::fs::create_dir(&at) {
            Err(e) if e.kind() != std::io::ErrorKind::AlreadyExists => {
                Err(e).on("make cgroup", at.display())?
            }
            _ => {}
        }
        set_both(&at, Some(period).filter(|n| *n != 0), Some(runtime).filter(|n| *n != 0))?;
    }
    Ok(())
}

/// Sets what a container is given.
pub(super) fn set(directory: &Path, limits: &ResourceLimits) -> Result<(), Error> {
    set_both(directory, limits.cpu_rt_period, limits.cpu_rt_runtime)
}

/// The kernel checks the one against the other at each write: which goes first depends on what was set before.
fn set_both(directory: &Path, period: Option<i64>, runtime: Option<i64>) -> Result<(), Error> {
    // Setting what is set already fails where a group below has more than its share of that: it is not asked for.
    let is = |file: &str, value: i64| {
        std::fs::read_to_string(directory.join(file)).is_ok_and(|t| t.trim() == value.to_string())
    };
    let one = |file: &str, value: Option<i64>| match value {
        Some(value) if !is(file, value) => write(directory, file, value),
        _ => Ok(()),
    };
    if one(PERIOD, period).is_err() {
        one(RUNTIME, runtime)?;
        return one(PERIOD, period);
    }
    one(RUNTIME, runtime)
}
