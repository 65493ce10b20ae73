//! What containers' lives look like from outside: input that nobody reads, the first process of `--init`, signals,
//! lists, events; and containers that need each other, after the host lost its power.

use std::time::Duration;

use anyhow::{Result, ensure};
use skep_e2e::{Host, busybox_image, eventually};

use super::{docker, lab, skep};
use crate::compare::Compare;

const LONG: Duration = Duration::from_secs(60);

fn inspect(host: &Host, format: &str, name: &str) -> Result<String> {
    Ok(host.docker(&["inspect", "-f", format, name])?.trim().to_owned())
}

#[test]
fn lives_are_as_with_docker() -> Result<()> {
    let mut lab = lab("life")?;
    let host = lab.host(1);
    let archive = host.dir.join("busybox.tar");
    busybox_image(&["sh", "sleep", "true", "cat", "ls", "tr", "kill", "touch"], &archive)?;
    host.docker(&["import", &archive.display().to_string(), "busybox"])?;

    // The end of a container is its own, whatever its client still had to say.
    for client in ["docker", &host.skep.display().to_string()] {
        let mut command = std::process::Command::new(client);
        command.env("DOCKER_HOST", host.docker_host()).stdin(std::fs::File::open("/dev/zero")?);
        command.args(["run", "-i", "--rm", "busybox", "sh", "-c", "exec <&-; sleep 0.3; echo done; exit 3"]);
        let out = command.output()?;
        ensure!(out.status.code() == Some(3) && out.stdout == b"done\n", "{client}: {out:?}");
    }

    // The first process shows nothing of the host, and signals without a name arrive and are told of.
    let trap = "trap 'exit 4' 37; while :; do sleep 0.1; done";
    let run = ["run", "-d", "--init", "--stop-signal", "RTMIN+3", "--stop-timeout", "-1", "--name", "ini"];
    host.docker(&[&run[..], &["busybox", "sh", "-c", trap]].concat())?;
    eventually("the first process is Docker's", LONG, || {
        let line = host.docker(&["exec", "ini", "sh", "-c", "tr '\\0' ' ' < /proc/1/cmdline"])?;
        ensure!(line.starts_with("/sbin/docker-init -- sh -c trap") && !line.contains("skep"), "{line}");
        Ok(())
    })?;
    let killed = docker(host, &["exec", "ini", "sh", "-c", "kill -40 $$"])?;
    ensure!(killed.code == Some(168), "{killed:?}");
    ensure!(inspect(host, "{{.Config.StopTimeout}}", "ini")? == "-1");
    host.docker(&["stop", "ini"])?;
    ensure!(inspect(host, "{{.State.ExitCode}}", "ini")? == "4");

    // What programs know a container by, which is no change of its own.
    let shown = host.docker(&["run", "--name", "marks", "busybox", "sh", "-c", "touch /x; ls -A / /etc"])?;
    ensure!(shown.contains(".dockerenv") && shown.contains("mtab"), "{shown}");
    ensure!(host.docker(&["diff", "marks"])? == "A /x\n");

    lists(host)?;
    events(host)?;
    wrong_values(host)?;

    // What needs others waits for them when all come back at once.
    let always = ["run", "-d", "--restart", "always", "--name"];
    let start = |more: &[&str]| host.docker(&[&always[..], more, &["busybox", "sleep", "1000"]].concat());
    start(&["zz-db"])?;
    start(&["mm-web", "--link", "zz-db:db"])?;
    start(&["aa-front", "--link", "mm-web:web"])?;
    start(&["bb-side", "--network", "container:zz-db"])?;
    // What runs is written down a little later, at the latest when the daemon ends.
    host.stop_daemon("-TERM")?;
    lab.kill(1)?;
    eventually("the kernel has taken the host's network away", LONG, || {
        ensure!(lab.outside(&["ip", "link", "show", "p1"]).is_err());
        Ok(())
    })?;
    lab.restart(1)?;
    let host = lab.host(1);
    for name in ["zz-db", "mm-web", "aa-front", "bb-side"] {
        eventually("it runs again", LONG, || {
            let state = inspect(host, "{{.State.Status}} {{.State.Error}}", name)?;
            ensure!(state == "running", "{name}: {state}");
            Ok(())
        })?;
    }
    lab.down()
}

/// Names are regular expressions; a network has its containers also while they do not run; words with blanks are quoted.
fn lists(host: &Host) -> Result<()> {
    host.docker(&["network", "create", "net1"])?;
    host.docker(&["create", "--name", "list-1", "--network", "net1", "busybox", "sh", "-c", "exit 3"])?;
    host.docker(&["create", "--name", "list-2", "busybox", "true"])?;
    for (filter, wanted) in [
        ("name=^list-[0-9]$", "list-2\nlist-1\n"),
        ("name=^/list-1$", "list-1\n"),
        ("name=^list$", ""),
        ("name=(", ""),
        ("network=net1", "list-1\n"),
    ] {
        let args = ["ps", "-a", "--format", "{{.Names}}", "--filter", filter];
        let (theirs, ours) = (docker(host, &args)?, skep(host, &args)?);
        ensure!(theirs.stdout == wanted && ours == theirs, "{filter}: {theirs:?} {ours:?}");
    }
    let command = host.docker(&["ps", "-a", "--format", "{{.Command}}", "--filter", "name=list-1"])?;
    ensure!(command == "\"sh -c 'exit 3'\"\n", "{command}");
    for (args, wanted) in [
        (&["kill", "list-1"][..], "cannot kill container: list-1: container "),
        (&["kill", "nope"], "cannot kill container: nope: No such container: nope"),
        (&["rename", "list-1", "list-1"], "Renaming a container with the same name as its current name\n"),
    ] {
        let refused = docker(host, args)?;
        ensure!(refused.code == Some(1) && refused.stderr.contains(wanted), "{args:?}: {refused:?}");
    }
    Ok(())
}

fn events(host: &Host) -> Result<()> {
    host.docker(&["network", "disconnect", "net1", "list-1"])?;
    let args = ["events", "--since", "1h", "--until", "0s", "--filter", "event=disconnect", "--filter"];
    eventually("the end of a place in a network is told", LONG, || {
        let told = host.docker(&[&args[..], &["network=net1"]].concat())?;
        ensure!(told.lines().count() == 1, "{told:?}");
        Ok(())
    })?;
    let refused = docker(host, &["events", "--since", "1h", "--until", "2h"])?;
    ensure!(
        refused.code == Some(1) && refused.stderr.contains("cannot be after `until` time"),
        "{refused:?}"
    );
    Ok(())
}

/// What is wrong with a flag is found before the daemon is asked, and told in the same words.
fn wrong_values(host: &Host) -> Result<()> {
    let mut compare = Compare::new(host);
    for flags in [
        "-m foo",
        "--shm-size foo",
        "--cpus abc",
        "--dns foo",
        "--add-host foo",
        "--add-host foo:bar",
        "--pid bogus",
        "--uts bogus",
        "--cgroupns bogus",
        "--ulimit foo",
        "--ulimit nofile=5:2",
        "--ulimit bogus=5:6",
        "--device-cgroup-rule foo",
        "--security-opt foo",
        "--blkio-weight-device foo",
        "--device-read-bps foo",
        "--memory-swappiness 101",
        "--storage-opt foo",
        "--health-interval foo",
        "--health-retries -1",
        "--no-healthcheck --health-cmd x",
        "-a foo",
        "-d -a stdout",
        "-l =x",
        "-e =x",
    ] {
        compare.same(&format!("run {flags} busybox true"))?;
    }
    compare.same("update -m foo list-1")?;
    compare.same("update --cpus x list-1")?;
    compare.end()
}
