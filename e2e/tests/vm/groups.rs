//! The control groups of containers: where they are, what is set, and that they go.

use anyhow::{Context, Result, ensure};
use skep_e2e::eventually;
use skep_e2e::swarm::{LONG, wait_running};

use crate::{group, one, read};

#[test]
fn a_container_is_born_in_a_group_with_its_limits_and_leaves_none() -> Result<()> {
    let lab = one("grp")?;
    let host = lab.host(1);
    let limits = [
        "--memory=64m",
        "--memory-swap=96m",
        "--cpus=0.5",
        "--cpu-shares=512",
        "--pids-limit=20",
        // A group below its own goes as well.
        "--privileged",
    ];
    let script = "mkdir /sys/fs/cgroup/below && cat /proc/self/cgroup && exec sleep 1000";
    host.docker(&[&["run", "-d", "--name", "box"][..], &limits, &["bb", "sh", "-c", script]].concat())?;
    let group = group(host, "box")?;
    let wanted = [
        ("memory.max", "67108864"),
        ("memory.swap.max", "33554432"),
        ("cpu.max", "50000 100000"),
        ("cpu.weight", "20"),
        ("pids.max", "20"),
    ];
    for (file, value) in wanted {
        let found = read(&group, file)?;
        ensure!(found == value, "{file} is {found}, not {value}");
    }
    let parent = group.parent().context("a parent")?;
    for above in [parent, parent.parent().context("the root")?] {
        let on = read(above, "cgroup.subtree_control")?;
        for controller in ["cpu", "cpuset", "io", "memory", "pids"] {
            ensure!(on.split(' ').any(|c| c == controller), "{} has {on}", above.display());
        }
    }
    ensure!(read(parent, "cgroup.procs")?.is_empty(), "no process is beside the containers");
    // Its own view of it begins there.
    eventually("its group is its root", LONG, || {
        let logs = host.docker(&["logs", "box"])?;
        ensure!(logs.trim() == "0::/", "{logs}");
        Ok(())
    })?;
    ensure!(group.join("below").is_dir());

    host.docker(&["kill", "box"])?;
    host.docker(&["wait", "box"])?;
    ensure!(!group.exists(), "{} is left", group.display());
    host.docker(&["start", "box"])?;
    ensure!(read(&group, "memory.max")? == "67108864");
    host.docker(&["rm", "-f", "box"])?;
    ensure!(!group.exists(), "{} is left", group.display());
    host.stop_daemon("-TERM")?;
    ensure!(!parent.exists(), "{} is left", parent.display());
    lab.down()
}

#[test]
fn a_task_has_the_limits_of_its_service() -> Result<()> {
    let lab = one("lim")?;
    let host = lab.host(1);
    host.docker(&["swarm", "init", "--advertise-addr", &host.addr])?;
    let limits = ["--limit-memory=64m", "--limit-cpu=0.25", "--limit-pids=30"];
    let create = ["service", "create", "-d", "--name", "web"];
    host.docker(&[&create[..], &limits, &["bb", "sleep", "1000"]].concat())?;
    wait_running(host, "web", 1)?;
    let id = host.docker(&["ps", "-q"])?;
    let group = group(host, id.trim())?;
    for (file, value) in [("memory.max", "67108864"), ("cpu.max", "25000 100000"), ("pids.max", "30")] {
        let found = read(&group, file)?;
        ensure!(found == value, "{file} is {found}, not {value}");
    }
    host.docker(&["service", "rm", "web"])?;
    eventually("the group goes", LONG, || {
        ensure!(!group.exists(), "{} is left", group.display());
        Ok(())
    })?;
    lab.down()
}
