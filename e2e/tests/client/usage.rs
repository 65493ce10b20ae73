//! What containers do, use and may, and how they fare: `top`, `stats`, `pause`, `update`, health checks.

use std::time::Duration;

use anyhow::{Result, ensure};
use skep_e2e::{Host, eventually};

use crate::compare::Compare;
use crate::{Outcome, busybox, docker, lab, skep};

const LONG: Duration = Duration::from_secs(180);

#[test]
fn containers_are_watched_paused_and_changed_as_docker_does() -> Result<()> {
    let lab = lab("cu")?;
    let host = lab.host(1);
    busybox(host)?;
    let busy = ["run", "-d", "--name", "busy", "-m", "64m", "busybox", "sh", "-c", "while :; do :; done"];
    host.docker(&busy)?;
    host.docker(&["create", "--name", "made", "busybox", "true"])?;
    let mut compare = Compare::new(host);
    for line in [
        "top busy -o pid,args",
        "top busy -eo pid,user,comm",
        "top made",
        "top nope",
        "top busy --forest",
        "stats --no-stream nope",
        "pause made",
        "pause nope",
        "unpause busy",
        "update --memory 1g busy",
        "update nope",
        "update -m 100m nope",
    ] {
        compare.same(line)?;
    }
    for line in [
        "run -d --name x-@ busybox /bin/busybox sleep 100000",
        "pause x-@",
        "pause x-@",
        "inspect -f '{{.State.Status}} {{.State.Paused}} {{.State.Running}}' x-@",
        "exec x-@ true",
        "start x-@",
        "container unpause x-@",
        "container update --memory 100m --memory-swap 200m --cpus 0.5 --pids-limit 20 x-@",
        "update --restart on-failure:3 x-@",
        "inspect -f '{{.HostConfig.Memory}} {{.HostConfig.MemorySwap}} {{.HostConfig.NanoCpus}} {{.HostConfig.PidsLimit}} {{.HostConfig.RestartPolicy}}' x-@",
        "pause x-@",
        "stop -t 0 x-@",
        "inspect -f '{{.State.Status}} {{.State.ExitCode}}' x-@",
        "rm x-@",
    ] {
        compare.alike(line)?;
    }
    compare.end()?;
    cgroup_namespaces(host)?;
    for client in [docker, skep] {
        run_options(host, client)?;
        labels_without_selinux(host, client)?;
        let format = "{{.Name}};{{.CPUPerc}};{{.MemUsage}};{{.MemPerc}};{{.PIDs}}";
        let out = client(host, &["stats", "--no-stream", "--format", format])?;
        let cells: Vec<_> = out.stdout.trim().split(';').collect();
        let [name, cpu, memory, share, pids] = cells.as_slice() else { anyhow::bail!("{out:?}") };
        let percent = |text: &str| text.trim_end_matches('%').parse::<f64>();
        ensure!(*name == "busy" && memory.ends_with(" / 64MiB") && !memory.starts_with("0B"), "{out:?}");
        ensure!(percent(cpu)? > 1.0 && percent(share)? > 0.0 && *pids == "1", "{out:?}");
        let table = client(host, &["stats", "--no-stream", "-a"])?;
        ensure!(
            table.stdout.lines().count() == 3 && table.stdout.starts_with("CONTAINER ID   NAME "),
            "{table:?}"
        );
    }
    host.docker(&["rm", "-f", "busy", "made"])?;
    lab.down()
}

/// Docker's default is the host's with cgroups v1, and one of the container's own with v2.
fn cgroup_namespaces(host: &Host) -> Result<()> {
    let version = host.docker(&["info", "-f", "{{.CgroupVersion}}"])?;
    let default = if version.trim() == "1" { "host" } else { "private" };
    let daemons = host.exec(&["readlink", &format!("/proc/{}/ns/cgroup", host.daemon_pid()?)])?;
    for (options, wanted) in [
        (&[][..], default),
        (&["--cgroupns", "host"], "host"),
        (&["--cgroupns", "private"], "private"),
        (&["--privileged"], default),
    ] {
        let link = ["busybox", "/bin/busybox", "readlink", "/proc/self/ns/cgroup"];
        let told = host.docker(&[&["run", "--name", "ns"][..], options, &link].concat())?;
        ensure!((told == daemons) == (wanted == "host"), "{options:?}: {told}, the daemon's is {daemons}");
        let shown = host.docker(&["inspect", "-f", "{{.HostConfig.CgroupnsMode}}", "ns"])?;
        ensure!(shown.trim() == wanted, "{options:?}: {shown}");
        host.docker(&["rm", "ns"])?;
    }
    Ok(())
}

/// What a label would do is told where nothing can be done with it.
fn labels_without_selinux(host: &Host, client: fn(&Host, &[&str]) -> Result<Outcome>) -> Result<()> {
    let there = host.docker(&["info", "-f", "{{.SecurityOptions}}"])?.contains("selinux");
    for (option, told) in [("label=type:x_t", !there), ("label=disable", false)] {
        let out = client(host, &["run", "--rm", "--security-opt", option, "busybox", "true"])?;
        ensure!(out.code == Some(0) || there, "{option}: {out:?}");
        ensure!(out.stderr.contains("SELinux is not enabled on this host") == told, "{option}: {out:?}");
    }
    Ok(())
}

/// Options of `run`, each by what the container sees of it.
fn run_options(host: &Host, client: fn(&Host, &[&str]) -> Result<Outcome>) -> Result<()> {
    let name = host.exec(&["hostname"])?;
    let profile = host.dir.join("no-mkdir.json");
    let rule = r#"{"names":["mkdir","mkdirat"],"action":"SCMP_ACT_ERRNO"}"#;
    std::fs::write(&profile, format!(r#"{{"defaultAction":"SCMP_ACT_ALLOW","syscalls":[{rule}]}}"#))?;
    let seccomp = format!("seccomp={}", profile.display());
    for (options, script, expected) in [
        (
            &["--device", "/dev/null:/dev/hole:r", "--device-cgroup-rule", "c 42:* rwm"][..],
            "ls /dev/hole",
            "/dev/hole\n",
        ),
        (&["--security-opt", "systempaths=unconfined"], "grep -q . /proc/interrupts && echo seen", "seen\n"),
        (&[], "grep -q . /proc/interrupts || echo masked", "masked\n"),
        (&["--security-opt", &seccomp], "mkdir /x 2>/dev/null || echo refused", "refused\n"),
        (&["--security-opt", "no-new-privileges"], "grep -c NoNewPrivs:.1 /proc/self/status", "1\n"),
        (&["--uts", "host", "--pid", "host", "--ipc", "host", "--cgroupns", "host"], "hostname", &name),
        (&["--init"], "echo $PPID", "1\n"),
        (&["--oom-score-adj", "300"], "cat /proc/self/oom_score_adj", "300\n"),
        (
            &["--ulimit", "nofile=50:60"],
            "grep open.files /proc/self/limits | tr -s ' '",
            "Max open files 50 60 files \n",
        ),
        (&["--ulimit", "nofile=4", "--init"], "ulimit -n", "4\n"),
        (&["--runtime", "io.containerd.runc.v2"], "echo made by runc", "made by runc\n"),
        (&["--sysctl", "net.ipv4.ip_forward=0"], "cat /proc/sys/net/ipv4/ip_forward", "0\n"),
        (&["--shm-size", "1m"], "df -k /dev/shm | tail -n 1 | tr -s ' ' | cut -d ' ' -f 2", "1024\n"),
        (&["--cpuset-cpus", "0"], "grep Cpus_allowed_list /proc/self/status | cut -f 2", "0\n"),
        (
            &["-m", "64m", "--memory-reservation", "32m", "--cpu-quota", "50000", "--cpu-period", "100000"],
            "echo limited",
            "limited\n",
        ),
        (&["--group-add", "77", "-u", "5:6"], "id -G", "6 77\n"),
    ] {
        let script = format!(
            "for a in ls grep mkdir hostname cat tr df tail cut id; do eval \"$a() {{ busybox $a \\\"\\$@\\\"; }}\"; done; {script}"
        );
        let args = [&["run", "--rm"], options, &["busybox", "sh", "-c", &script]].concat();
        let out = client(host, &args)?;
        ensure!(out.code == Some(0) && out.stdout == expected, "{options:?}: {out:?}, not {expected:?}");
    }
    Ok(())
}

#[test]
fn health_is_shown_and_decides_over_tasks() -> Result<()> {
    let lab = lab("ch")?;
    let host = lab.host(1);
    busybox(host)?;
    let check =
        ["--health-cmd", "busybox test -e /well", "--health-interval", "500ms", "--health-retries", "2"];
    let idle = ["busybox", "/bin/busybox", "sleep", "100000"];
    host.docker(&[&["run", "-d", "--name", "patient"][..], &check, &idle].concat())?;
    host.docker(&[
        "run",
        "-d",
        "--no-healthcheck",
        "--name",
        "plain",
        "busybox",
        "sh",
        "-c",
        "busybox sleep 100000",
    ])?;
    let listed =
        |filter: &str| host.docker(&["ps", "--filter", filter, "--format", "{{.Names}} {{.Status}}"]);
    eventually("it is ill", LONG, || {
        let shown = listed("health=unhealthy")?;
        ensure!(shown.starts_with("patient Up ") && shown.trim().ends_with("(unhealthy)"), "{shown}");
        Ok(())
    })?;
    host.skep(&["exec", "patient", "/bin/busybox", "touch", "/well"])?;
    eventually("it is well", LONG, || {
        let shown = listed("health=healthy")?;
        ensure!(shown.starts_with("patient Up ") && shown.trim().ends_with("(healthy)"), "{shown}");
        Ok(())
    })?;
    ensure!(listed("health=none")?.starts_with("plain "), "{}", listed("health=none")?);
    let mut compare = Compare::new(host);
    compare.same("inspect -f '{{.State.Health.Status}} {{.State.Health.FailingStreak}} {{json .Config.Healthcheck.Test}}' patient")?;
    compare.end()?;
    // The client cuts a time off at its second, and what was told just now is in this one.
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH)?.as_secs();
    let until = (now + 1).to_string();
    let filter = "event=health_status";
    let told = host.docker(&["events", "--since", "1", "--until", &until, "--filter", filter])?;
    ensure!(told.contains("health_status: unhealthy") && told.contains("health_status: healthy"), "{told}");

    host.skep(&["swarm", "init", "--advertise-addr", &host.addr])?;
    let service = ["service", "create", "-d", "--restart-condition", "none", "--name"];
    host.docker(&[&service[..], &["ill"], &check, &idle].concat())?;
    let well = ["busybox", "sh", "-c", "busybox sleep 1; busybox touch /well; busybox sleep 100000"];
    host.skep(
        &[
            &service[..],
            &["well"],
            &check,
            &["--health-start-period", "60s", "--health-start-interval", "1s"],
            &well,
        ]
        .concat(),
    )?;
    let tasks = |name: &str| {
        host.docker(&["service", "ps", "--no-trunc", "--format", "{{.CurrentState}};{{.Error}}", name])
    };
    eventually("the ill task fails", LONG, || {
        let shown = tasks("ill")?;
        ensure!(shown.starts_with("Failed ") && shown.contains("unhealthy container"), "{shown}");
        Ok(())
    })?;
    eventually("the other runs once it is well", LONG, || {
        let shown = tasks("well")?;
        ensure!(shown.starts_with("Running "), "{shown}");
        Ok(())
    })?;
    lab.down()
}
