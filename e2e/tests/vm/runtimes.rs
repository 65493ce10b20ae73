//! Containers of other OCI runtimes in cgroups v2: limits, devices, pauses and what is left.

use anyhow::{Context, Result, ensure};
use skep_e2e::swarm::{LONG, bare, path};
use skep_e2e::{Host, busybox_image, eventually};

use crate::{count, group, read};

#[test]
fn other_runtimes_keep_limits_too() -> Result<()> {
    let lab = bare("ort")?;
    let host = lab.host(1);
    let config = "[runtimes.runc]\npath = \"runc\"\n[runtimes.crun]\npath = \"crun\"\nruntimeArgs = [\"--cgroup-manager=cgroupfs\"]\n";
    std::fs::write(host.dir.join("daemon.toml"), config)?;
    host.start_daemon()?;
    let archive = host.dir.join("bb.tar");
    busybox_image(&["sh", "dd", "sleep", "mknod", "cat", "grep"], &archive)?;
    host.docker(&["import", path(&archive), "bb"])?;
    for runtime in ["runc", "crun"] {
        bounded(host, runtime).with_context(|| format!("with {runtime}"))?;
    }
    lab.down()
}

fn bounded(host: &Host, runtime: &str) -> Result<()> {
    let hungry = "exec dd if=/dev/zero of=/dev/null bs=64M count=1";
    let tight = ["-m=24m", "--memory-swap=24m", "bb", "sh", "-c", hungry];
    host.docker(&[&["run", "-d", "--name", "tight", "--runtime", runtime][..], &tight].concat())?;
    ensure!(host.docker(&["wait", "tight"])?.trim() == "137");
    ensure!(host.docker(&["inspect", "-f", "{{.State.OOMKilled}}", "tight"])?.trim() == "true");

    let up = ["run", "-d", "--name", "up", "--runtime", runtime, "-m=64m", "--cpus=0.5", "--pids-limit=8"];
    // /dev/kmsg (1:11) may be made, and not opened.
    let script =
        "mknod /m c 1 11; cat /m || echo refused; sh -c 'while :; do sleep 1000 & done'; exec sleep 1000";
    host.docker(&[&up[..], &["bb", "sh", "-c", script]].concat())?;
    let group = group(host, "up")?;
    eventually("the limit of processes is met", LONG, || {
        ensure!(count(&group, "pids.events", "max")? > 0);
        Ok(())
    })?;
    ensure!(host.docker(&["logs", "up"])?.contains("refused"), "a device that is not allowed was opened");
    ensure!(read(&group, "memory.max")? == (64 << 20).to_string());
    ensure!(read(&group, "cpu.max")? == "50000 100000");
    host.docker(&["update", "--memory=80m", "--memory-swap=160m", "--pids-limit=20", "up"])?;
    ensure!(read(&group, "memory.max")? == (80 << 20).to_string());
    ensure!(host.docker(&["exec", "up", "cat", "/proc/self/cgroup"])?.trim() == "0::/", "its own namespace");
    host.docker(&["pause", "up"])?;
    ensure!(count(&group, "cgroup.events", "frozen")? == 1);
    host.docker(&["unpause", "up"])?;
    ensure!(count(&group, "cgroup.events", "frozen")? == 0);
    let stats = host.docker(&["stats", "--no-stream", "--format", "{{.MemUsage}} {{.PIDs}}", "up"])?;
    ensure!(stats.contains("/ 80MiB "), "{stats}");
    host.docker(&["rm", "-f", "tight", "up"])?;
    eventually("the group is gone", LONG, || {
        ensure!(!group.exists(), "{} is left", group.display());
        Ok(())
    })
}
