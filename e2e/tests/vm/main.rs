//! What needs a kernel with cgroups v2 and WireGuard. `cargo xtask vm` runs it in a virtual machine that
//! has one; anywhere else it fails.

mod apparmor;
mod devices;
mod emulation;
mod groups;
mod limits;
mod nfs;
mod quotas;
mod runtimes;
mod swarm;

use anyhow::{Context, Result};
use skep_e2e::swarm::path;
use skep_e2e::{Host, Lab, busybox_image};

/// One host, in no swarm, with the image `bb`.
fn one(name: &str) -> Result<Lab> {
    let lab = skep_e2e::swarm::plain(name, 1)?;
    let archive = lab.host(1).dir.join("bb.tar");
    busybox_image(&["sh", "dd", "sleep", "mknod", "mkdir", "cat"], &archive)?;
    lab.host(1).docker(&["import", path(&archive), "bb"])?;
    Ok(lab)
}

/// The control group of a container that runs, as the machine sees it.
fn group(host: &Host, container: &str) -> Result<std::path::PathBuf> {
    let pid = host.docker(&["inspect", "-f", "{{.State.Pid}}", container])?;
    let text = host.exec(&["cat", &format!("/proc/{}/cgroup", pid.trim())])?;
    let below = text.trim().strip_prefix("0::/").with_context(|| format!("not cgroups v2: {text}"))?;
    Ok(std::path::Path::new("/sys/fs/cgroup").join(below))
}

/// A file of a control group.
fn read(group: &std::path::Path, file: &str) -> Result<String> {
    let path = group.join(file);
    let text = std::fs::read_to_string(&path).with_context(|| format!("read {}", path.display()))?;
    Ok(text.trim().to_owned())
}

/// A number in a control group's file of names and numbers.
fn count(group: &std::path::Path, file: &str, name: &str) -> Result<u64> {
    let text = read(group, file)?;
    let found = text.lines().find_map(|l| l.strip_prefix(name)?.trim().parse().ok());
    found.with_context(|| format!("{name} is not in {text:?}"))
}
