//! Limits hold: memory with and without swap, processes, processor time.

use anyhow::{Result, ensure};
use skep_e2e::swarm::LONG;
use skep_e2e::{Host, eventually};

use crate::{count, group, one, read};

/// Exit code and OOMKilled of a container that runs `script` with these limits.
fn ended(host: &Host, name: &str, limits: &[&str], script: &str) -> Result<(String, String)> {
    host.docker(&[&["run", "-d", "--name", name][..], limits, &["bb", "sh", "-c", script]].concat())?;
    let code = host.docker(&["wait", name])?.trim().to_owned();
    let oom = host.docker(&["inspect", "-f", "{{.State.OOMKilled}} {{.State.ExitCode}}", name])?;
    let (oom, again) = oom.trim().split_once(' ').unwrap_or_default();
    ensure!(code == again, "wait says {code}, inspect {again}");
    Ok((code, oom.to_owned()))
}

#[test]
fn a_container_has_no_more_memory_than_its_limit() -> Result<()> {
    let lab = one("mem")?;
    let host = lab.host(1);
    let hungry = "exec dd if=/dev/zero of=/dev/null bs=64M count=1";
    let expected = [
        ("enough", &["--memory=128m"][..], hungry, ("0", "false")),
        ("tight", &["--memory=24m", "--memory-swap=24m"], hungry, ("137", "true")),
        // Twice as much with swap is not enough; five times is.
        ("default", &["--memory=24m"], hungry, ("137", "true")),
        ("swap", &["--memory=24m", "--memory-swap=120m"], hungry, ("0", "false")),
        ("unlimited", &["--memory=24m", "--memory-swap=-1"], hungry, ("0", "false")),
        // Not the first process, but one of the container's all the same.
        (
            "child",
            &["--memory=24m", "--memory-swap=24m"],
            "dd if=/dev/zero of=/dev/null bs=64M count=1; exit 3",
            ("3", "true"),
        ),
    ];
    for (name, limits, script, wanted) in expected {
        let (code, oom) = ended(host, name, limits, script)?;
        ensure!((code.as_str(), oom.as_str()) == wanted, "{name}: {code} {oom}, not {wanted:?}");
    }
    lab.down()
}

#[test]
fn a_container_that_forks_without_end_is_bounded() -> Result<()> {
    let lab = one("pids")?;
    let host = lab.host(1);
    let script = "sh -c 'while :; do sleep 1000 & done'; exec sleep 1000";
    host.docker(&["run", "-d", "--name", "bomb", "--pids-limit=8", "bb", "sh", "-c", script])?;
    let group = group(host, "bomb")?;
    eventually("the limit is met", LONG, || {
        ensure!(count(&group, "pids.events", "max")? > 0);
        Ok(())
    })?;
    let current: u32 = read(&group, "pids.current")?.parse()?;
    ensure!(current <= 8, "{current} processes");
    // All of them are in the group, and go with it.
    host.docker(&["rm", "-f", "bomb"])?;
    ensure!(!group.exists(), "{} is left", group.display());
    lab.down()
}

#[test]
fn a_container_gets_no_more_processor_time_than_its_share() -> Result<()> {
    let lab = one("cpu")?;
    let host = lab.host(1);
    let script = "while :; do :; done";
    host.docker(&["run", "-d", "--name", "busy", "--cpus=0.2", "bb", "sh", "-c", script])?;
    let group = group(host, "busy")?;
    eventually("it is throttled", LONG, || {
        ensure!(count(&group, "cpu.stat", "nr_throttled")? > 3);
        Ok(())
    })?;
    ensure!(count(&group, "cpu.stat", "throttled_usec")? > 0);
    lab.down()
}
