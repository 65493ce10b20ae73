//! Which CPUs and memory nodes a container may use.
//!
//! On v1 a cpuset takes no process before it has CPUs and memory nodes, which it does not inherit. So a container
//! gets a directory in that hierarchy only when it asks for one.

use std::io;
use std::path::Path;

use super::v1::Directory;
use super::write;
use crate::config::ResourceLimits;
use crate::runtime::error::{Context, Error};

const FILES: [&str; 2] = ["cpuset.cpus", "cpuset.mems"];

/// Whether `limits` ask for it.
pub fn is_wanted(limits: &ResourceLimits) -> bool {
    limits.cpuset_cpus.is_some() || limits.cpuset_mems.is_some()
}

/// The CPUs and memory nodes that the host's topmost group has; none = they cannot be told.
pub fn available() -> Option<(String, String)> {
    let (root, suffix) = match super::version() {
        2 => (Path::new(super::MOUNT).to_path_buf(), ".effective"),
        _ => (super::v1::hierarchies(&["cpuset"]).ok()?.into_iter().next()?.path, ""),
    };
    let [cpus, nodes] = FILES.map(|file| {
        let text = std::fs::read_to_string(root.join(format!("{file}{suffix}"))).ok()?;
        Some(text.trim().to_owned())
    });
    cpus.zip(nodes)
}

/// Sets it in a directory that is ready for it.
pub fn set(directory: &Path, limits: &ResourceLimits) -> Result<(), Error> {
    for (file, value) in FILES.iter().zip([&limits.cpuset_cpus, &limits.cpuset_mems]) {
        if let Some(value) = value {
            write(directory, file, value)?;
        }
    }
    Ok(())
}

/// The container's directory of cgroups v1, made with what its parents have; none = not mounted.
pub fn v1_directory(group: &Path) -> Result<Directory, Error> {
    let found = super::v1::hierarchies(&["cpuset"])?.into_iter().next();
    let Some(hierarchy) = found else {
        return Err(Error::Refused(
            "a set of CPUs needs the cgroup controller \"cpuset\", which is not mounted on this host".into(),
        ));
    };
    let mut at = hierarchy.path.clone();
    for component in group.components() {
        let parent = at.clone();
        at.push(component);
        match std::fs::create_dir(&at) {
            Err(e) if e.kind() != io::ErrorKind::AlreadyExists => Err(e).on("make cgroup", at.display())?,
            _ => {}
        }
        for file in FILES {
            let read = |d: &Path| std::fs::read_to_string(d.join(file)).on("read", d.join(file).display());
            if read(&at)?.trim().is_empty() {
                write(&at, file, read(&parent)?.trim())?;
            }
        }
    }
    Ok(Directory { path: at, ..hierarchy })
}
