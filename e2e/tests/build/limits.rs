//! Limits of `RUN`, as its own processes see them.

use std::fs;
use std::process::Stdio;

use anyhow::{Result, ensure};
use skep_e2e::eventually;
use skep_e2e::swarm::{LONG, path};

use crate::{builder, docker_build, run};

/// What there is of each limit, a line of its own: by the controllers of either version of cgroups (cgroups(7)), by the
/// limits of a process (proc_pid_limits(5)), and by the size of a file system.
const DOCKERFILE: &str = r#"FROM bb
RUN <<END
set -e
cd /sys/fs/cgroup
if test -e memory.max; then
  echo "memory $(cat memory.max)"
  echo "swap $(cat memory.swap.max)"
  echo "cpu $(cat cpu.max)"
  echo "weight $(cat cpu.weight)"
  echo "mems $(cat cpuset.mems)"
else
  echo "memory $(cat memory/memory.limit_in_bytes)"
  echo "both $(cat memory/memory.memsw.limit_in_bytes)"
  echo "cpu $(cat cpu/cpu.cfs_quota_us) $(cat cpu/cpu.cfs_period_us)"
  echo "shares $(cat cpu/cpu.shares)"
  echo "mems $(cat cpuset/cpuset.mems)"
fi
echo $(busybox grep Cpus_allowed_list: /proc/self/status)
echo $(busybox grep '^Max open files' /proc/self/limits)
echo $(busybox grep '^Max core file size' /proc/self/limits)
echo shm $(busybox df -k /dev/shm | busybox tail -n 1)
END
"#;

#[test]
fn steps_have_the_limits_that_were_asked_for() -> Result<()> {
    let (lab, context) = builder("blimit")?;
    let host = lab.host(1);
    fs::write(context.join("Dockerfile"), DOCKERFILE)?;
    let flags = [
        "--no-cache",
        "--memory=64m",
        "--memory-swap=96m",
        "--cpu-period=50000",
        "--cpu-quota=20000",
        "--cpu-shares=512",
        "--cpuset-cpus=0",
        "--cpuset-mems=0",
        "--ulimit=nofile=50:60",
        "--ulimit=core=0",
        "--shm-size=3m",
    ];
    let docker = docker_build(host, &flags, &context);
    let mut skep = host.skep_command();
    skep.arg("build").args(flags).arg(&context);
    for command in [docker, skep] {
        let which = command.get_program().to_owned();
        let (ok, said) = run(command)?;
        ensure!(ok, "{which:?}: {said}");
        let has = |words: &str| said.lines().any(|l| l == words);
        for wanted in [
            "memory 67108864",
            "cpu 20000 50000",
            "mems 0",
            "Cpus_allowed_list: 0",
            "Max open files 50 60 files",
            "Max core file size 0 0 bytes",
        ] {
            ensure!(has(wanted), "{which:?}: no {wanted:?} in {said}");
        }
        ensure!(has("swap 33554432") || has("both 100663296"), "{which:?}: {said}");
        ensure!(has("shares 512") || has("weight 20"), "{which:?}: {said}");
        let shm = said.lines().find_map(|l| l.strip_prefix("shm ")).unwrap_or_default();
        ensure!(shm.split(' ').nth(1) == Some("3072"), "{which:?}: {said}");
    }
    // More than it may have ends the step, and what the build says is why.
    let fills = "FROM bb\nRUN busybox dd if=/dev/zero of=/dev/shm/f bs=1000 count=4000\n";
    fs::write(context.join("Dockerfile"), fills)?;
    for (size, fits) in [("3m", false), ("5m", true)] {
        let (ok, said) = run(docker_build(host, &["--no-cache", "--shm-size", size], &context))?;
        ensure!(ok == fits && said.contains("No space left on device") != fits, "{size}: {said}");
    }
    // What is no limit is refused by its name.
    for (flag, words) in [
        ("--ulimit=nofile=60:50", "nofile"),
        ("--memory=1k", "memory"),
        ("--memory-swap=64m", "memory"),
        ("--cgroup-parent=../x", "cgroup"),
        ("--cpuset-mems=4000", "memory nodes are not available"),
    ] {
        let mut command = host.skep_command();
        command.args(["build", "--no-cache", flag, path(&context)]);
        let (ok, said) = run(command)?;
        ensure!(!ok && said.to_lowercase().contains(words), "{flag}: {said}");
    }
    lab.down()
}

#[test]
fn steps_run_below_the_cgroup_that_was_asked_for() -> Result<()> {
    let (lab, context) = builder("bgroup")?;
    let host = lab.host(1);
    fs::write(context.join("Dockerfile"), "FROM bb\nRUN sleep 1000\n")?;
    let parent = format!("skep-builds-{}", std::process::id());
    let docker = docker_build(host, &["--cgroup-parent", &parent], &context);
    let mut skep = host.skep_command();
    skep.args(["build", "--cgroup-parent", &parent]).arg(&context);
    for mut command in [docker, skep] {
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        let mut build = command.spawn()?;
        let found = eventually("the step runs in its cgroup", LONG, || {
            let id = host.docker(&["ps", "-q", "--no-trunc"])?;
            let pid = host.docker(&["inspect", "-f", "{{.State.Pid}}", id.trim()])?;
            let groups = host.exec(&["cat", &format!("/proc/{}/cgroup", pid.trim())])?;
            let wanted = format!("/{parent}/{}", id.trim());
            ensure!(groups.lines().any(|line| line.ends_with(&wanted)), "{groups}");
            Ok(())
        });
        build.kill()?;
        build.wait()?;
        found?;
        eventually("the step is gone", LONG, || {
            let left = host.docker(&["ps", "-aq"])?;
            ensure!(left.is_empty(), "{left}");
            Ok(())
        })?;
    }
    // The parent is whoever named it's; of either version of cgroups.
    host.exec(&["find", "/sys/fs/cgroup", "-depth", "-name", &parent, "-exec", "rmdir", "{}", ";"])?;
    lab.down()
}
