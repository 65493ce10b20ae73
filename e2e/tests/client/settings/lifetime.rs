//! Containers that stop with the daemon, and what SIGHUP changes.

use std::time::Duration;

use anyhow::{Result, ensure};
use skep_e2e::swarm::LONG;
use skep_e2e::{Host, eventually};

use super::{shown, told};
use crate::{busybox, lab};

const B: &str = "/bin/busybox";

fn states(host: &Host) -> Result<String> {
    host.docker(&[
        "inspect",
        "-f",
        "{{.Name}} {{.State.Status}} {{.State.ExitCode}}",
        "policy",
        "plain",
        "stubborn",
        "failing",
        "cleanly",
    ])
}

#[test]
fn containers_stop_with_a_daemon_that_was_told_so_and_policies_start_them_again() -> Result<()> {
    let lab = lab("sl")?;
    let host = lab.host(1);
    busybox(host)?;
    told(host, "live-restore = false\nshutdown-timeout = 60\n")?;
    shown(host, &[("live-restore", &["info", "-f", "{{.LiveRestoreEnabled}}"], "false")])?;
    let quits = "trap 'exit 7' TERM; echo ready; while :; do /bin/busybox sleep 0.05; done";
    host.docker(&[
        "run",
        "-d",
        "--name",
        "policy",
        "--restart",
        "unless-stopped",
        "busybox",
        "sh",
        "-c",
        quits,
    ])?;
    host.docker(&["run", "-d", "--name", "plain", "busybox", "sh", "-c", quits])?;
    host.docker(&[
        "run",
        "-d",
        "--name",
        "stubborn",
        "--stop-timeout",
        "1",
        "busybox",
        B,
        "sleep",
        "100000",
    ])?;
    let cleanly = quits.replace("exit 7", "exit 0");
    for (name, script) in [("failing", quits), ("cleanly", cleanly.as_str())] {
        host.docker(&[
            "run",
            "-d",
            "--name",
            name,
            "--restart",
            "on-failure",
            "busybox",
            "sh",
            "-c",
            script,
        ])?;
    }
    // Before its trap is set, a shell that is the first process does not hear the signal.
    for name in ["policy", "plain", "failing", "cleanly"] {
        eventually(&format!("{name} is ready"), LONG, || {
            ensure!(host.docker(&["logs", name])? == "ready\n");
            Ok(())
        })?;
    }
    // One that is always about to start again must not do so while the others stop.
    host.docker(&["run", "-d", "--name", "again", "--restart", "always", "busybox", "sh", "-c", "exit 1"])?;
    let pids = host.docker(&[
        "inspect",
        "-f",
        "{{.State.Pid}}",
        "policy",
        "plain",
        "stubborn",
        "failing",
        "cleanly",
    ])?;
    host.stop_daemon("-TERM")?;
    for pid in pids.split_whitespace() {
        ensure!(host.exec(&["kill", "-0", pid]).is_err(), "process {pid} outlives the daemon");
    }
    host.start_daemon()?;
    host.docker(&["rm", "-f", "again"])?;
    eventually("those whose policy says so run again, and no other", LONG, || {
        let states = states(host)?;
        let wanted = "/policy running 0\n/plain exited 7\n/stubborn exited 137\n/failing running 0\n/cleanly exited 0\n";
        ensure!(states == wanted, "{states}");
        Ok(())
    })?;

    // By SIGHUP they are to outlive it again.
    std::fs::write(host.dir.join("daemon.toml"), "live-restore = true\n")?;
    host.exec(&["kill", "-HUP", &host.daemon_pid()?.to_string()])?;
    eventually("it is told", LONG, || {
        shown(host, &[("live-restore", &["info", "-f", "{{.LiveRestoreEnabled}}"], "true")])
    })?;
    let pid = host.docker(&["inspect", "-f", "{{.State.Pid}}", "policy"])?;
    host.stop_daemon("-TERM")?;
    host.exec(&["kill", "-0", pid.trim()])?;
    host.start_daemon()?;
    shown(host, &[("live-restore", &["inspect", "-f", "{{.State.Pid}}", "policy"], pid.trim())])?;
    lab.down()
}

#[test]
fn a_daemon_that_waits_for_containers_ends_when_it_is_told_again() -> Result<()> {
    let lab = lab("sg")?;
    let host = lab.host(1);
    busybox(host)?;
    told(host, "log-level = \"info\"\nlive-restore = false\nshutdown-timeout = -1\n")?;
    host.docker(&[
        "run",
        "-d",
        "--name",
        "deaf",
        "--stop-timeout",
        "100000",
        "busybox",
        B,
        "sleep",
        "100000",
    ])?;
    let pid = host.docker(&["inspect", "-f", "{{.State.Pid}}", "deaf"])?;
    host.exec(&["kill", "-TERM", &host.daemon_pid()?.to_string()])?;
    eventually("it stops", LONG, || super::logged(host, "SIGTERM: stopping"))?;
    host.stop_daemon("-TERM")?;
    super::logged(host, "what still runs goes on")?;
    host.exec(&["kill", "-0", pid.trim()])?;
    host.start_daemon()?;
    shown(host, &[("running", &["inspect", "-f", "{{.State.Pid}}", "deaf"], pid.trim())])?;
    lab.down()
}

#[test]
fn sighup_changes_what_dockerd_changes() -> Result<()> {
    let lab = lab("sh")?;
    let host = lab.host(1);
    busybox(host)?;
    told(host, "log-level = \"info\"\nmax-concurrent-downloads = 2\n")?;
    let since = host.exec(&["date", "+%s"])?;
    std::fs::write(
        host.dir.join("daemon.toml"),
        "log-level = \"debug\"\nmax-concurrent-downloads = 1\nmax-concurrent-uploads = 2\nmax-download-attempts = 4\n\
         shutdown-timeout = 33\nlive-restore = false\ndefault-runtime = \"mine\"\nlabels = [\"a=b\"]\n\
         registry-mirrors = [\"http://mirror.example\"]\nmtu = 1400\n[runtimes.mine]\npath = \"/usr/bin/false\"\n",
    )?;
    host.exec(&["kill", "-HUP", &host.daemon_pid()?.to_string()])?;
    eventually("runtimes are read again", LONG, || {
        shown(
            host,
            &[(
                "runtimes",
                &["info", "-f", "{{.DefaultRuntime}} {{(index .Runtimes \"mine\").Path}}"],
                "mine /usr/bin/false",
            )],
        )
    })?;
    host.docker(&["create", "--name", "aa", "busybox", B, "true"])?;
    shown(host, &[("default-runtime", &["inspect", "-f", "{{.HostConfig.Runtime}}", "aa"], "mine")])?;
    let until = std::time::SystemTime::now() + Duration::from_secs(1);
    let until = until.duration_since(std::time::UNIX_EPOCH)?.as_secs().to_string();
    let told_of =
        host.docker(&["events", "--since", since.trim(), "--until", &until, "--filter", "event=reload"])?;
    for pair in [
        "debug=true",
        "default-runtime=mine",
        "labels=[\"a=b\"]",
        "live-restore=false",
        "max-concurrent-downloads=1",
        "max-concurrent-uploads=2",
        "max-download-attempts=4",
        "registry-mirrors=[\"http://mirror.example\"]",
        "shutdown-timeout=33",
    ] {
        ensure!(told_of.contains(pair), "{pair} is not in {told_of}");
    }
    super::logged(host, "the rest waits for a restart")?;
    lab.down()
}
