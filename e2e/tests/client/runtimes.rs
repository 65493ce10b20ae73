//! Containers made by other OCI runtimes, Debian's runc and crun, in the place of ours: everything that asks the shim
//! or the kernel works as it does with our own.

use std::io::Write;
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use skep_e2e::{Host, Lab, LabOptions, eventually};

use crate::{busybox, docker, skep};

const LONG: Duration = Duration::from_secs(60);
const RUNTIMES: [&str; 2] = ["runc", "crun"];

/// gVisor, as Debian has it: without KVM, and in the network namespace as it is, since that version takes the one it
/// is given for the host's on newer kernels.
#[test]
fn gvisor_makes_containers() -> Result<()> {
    let init = std::path::PathBuf::from(env!("CARGO_BIN_EXE_skep-lab-init"));
    let name = format!("gv{}", std::process::id() % 10_000);
    let lab = Lab::bare(LabOptions { name, hosts: 1, skep: init.with_file_name("skep"), init })?;
    let host = lab.host(1);
    let path = skep_e2e::registry::unpacked("runsc")?;
    let config = format!(
        "[runtimes.runsc]\npath = {path:?}\nruntimeArgs = [\"--platform=ptrace\", \"--ignore-cgroups\", \"--network=host\"]\n"
    );
    std::fs::write(host.dir.join("daemon.toml"), config)?;
    host.start_daemon()?;
    busybox(host)?;
    let b = "/bin/busybox";
    let out = docker(
        host,
        &["run", "--rm", "--runtime", "runsc", "busybox", "sh", "-c", "/bin/busybox dmesg; exit 7"],
    )?;
    ensure!(out.code == Some(7) && out.stdout.contains("Starting gVisor"), "{out:?}");
    let script = "/bin/busybox httpd -p 80 -h /bin; echo started; exec /bin/busybox sleep 100000";
    host.docker(&[
        "run",
        "-d",
        "--name",
        "up",
        "--runtime",
        "runsc",
        "-p",
        "8100:80",
        "busybox",
        "sh",
        "-c",
        script,
    ])?;
    let answers = || -> Result<()> {
        for addr in ["127.0.0.1", "[::1]"] {
            let url = format!("http://{addr}:8100/busybox");
            eventually("its port answers", LONG, || {
                host.exec(&["curl", "-sS", "-f", "-o", "/dev/null", &url]).map(drop)
            })?;
        }
        Ok(())
    };
    answers()?;
    let out = docker(host, &["exec", "-u", "7", "up", "sh", "-c", "/bin/busybox id -u; exit 4"])?;
    ensure!((out.code, &*out.stdout) == (Some(4), "7\n"), "{out:?}");
    host.docker(&["pause", "up"])?;
    host.docker(&["unpause", "up"])?;
    host.stop_daemon("-KILL")?;
    host.start_daemon()?;
    answers()?;
    ensure!(host.docker(&["logs", "up"])? == "started\n");
    host.docker(&["stop", "-t", "1", "up"])?;
    let code = host.docker(&["inspect", "-f", "{{.State.ExitCode}}", "up"])?;
    ensure!(["137", "143"].contains(&code.trim()), "{code}");
    host.docker(&["start", "up"])?;
    host.docker(&["exec", "up", b, "true"])?;
    host.docker(&["rm", "-f", "up"])?;
    // Nothing was left to wait for, in vain, or to be said.
    let log = std::fs::read_to_string(host.log())?;
    ensure!(!log.contains("have the runtime forget"), "{log}");
    lab.down()
}

/// A host whose daemon knows both by name.
fn prepared() -> Result<Lab> {
    let init = std::path::PathBuf::from(env!("CARGO_BIN_EXE_skep-lab-init"));
    let name = format!("rt{}", std::process::id() % 10_000);
    let lab = Lab::bare(LabOptions { name, hosts: 1, skep: init.with_file_name("skep"), init })?;
    let host = lab.host(1);
    let config = "default-runtime = \"crun\"\n[runtimes.runc]\npath = \"runc\"\n[runtimes.crun]\npath = \"crun\"\nruntimeArgs = [\"--cgroup-manager=cgroupfs\"]\n";
    std::fs::write(host.dir.join("daemon.toml"), config)?;
    // Crun refuses a host with both versions of cgroups. Where there is only one, nothing is mounted here.
    let _ = host.exec(&["umount", "/sys/fs/cgroup/unified"]);
    host.start_daemon()?;
    busybox(host)?;
    Ok(lab)
}

#[test]
fn other_runtimes_make_containers_as_ours_does() -> Result<()> {
    let lab = prepared()?;
    let host = lab.host(1);
    let shown =
        host.docker(&["info", "-f", "{{.DefaultRuntime}} {{range $n, $r := .Runtimes}}{{$n}} {{end}}"])?;
    ensure!(shown.trim() == "crun crun io.containerd.runc.v2 runc skep", "{shown}");
    for client in [docker, skep] {
        let refused = client(host, &["create", "--runtime", "nope", "busybox", "true"])?;
        let said = "unknown or invalid runtime name: nope";
        ensure!(refused.code == Some(1) && refused.stderr.contains(said), "{refused:?}");
    }
    for runtime in RUNTIMES {
        ends(host, runtime).with_context(|| format!("ends with {runtime}"))?;
        goes_on(host, runtime).with_context(|| format!("goes on with {runtime}"))?;
    }
    secret(host).context("a service with a secret")?;
    // The next daemon finds them, and what they do meanwhile.
    host.stop_daemon("-KILL")?;
    host.start_daemon()?;
    for runtime in RUNTIMES {
        taken_up(host, runtime).with_context(|| format!("taken up with {runtime}"))?;
    }
    let bundles = host.dir.join("exec/containers").display().to_string();
    eventually("nothing is left of them", LONG, || {
        let left = host.exec(&["find", &bundles, "-mindepth", "1"])?;
        ensure!(left.is_empty(), "left: {left}");
        Ok(())
    })?;
    lab.down()
}

/// Runs to the end: exit codes, streams, users, mounts, limits, a terminal, input.
fn ends(host: &Host, runtime: &str) -> Result<()> {
    let run = |args: &[&str]| docker(host, &[&["run", "--rm", "--runtime", runtime][..], args].concat());
    let b = "/bin/busybox";
    let out = run(&["busybox", "sh", "-c", "/bin/busybox echo out; /bin/busybox echo err >&2; exit 5"])?;
    ensure!((out.code, &*out.stdout, &*out.stderr) == (Some(5), "out\n", "err\n"), "{out:?}");
    let out = run(&["busybox", "nope"])?;
    ensure!(out.code != Some(0) && out.stderr.contains("not found in $PATH"), "{out:?}");
    let script = "/bin/busybox id -u; /bin/busybox pwd; /bin/busybox grep -E 'CapEff|Seccomp:' /proc/self/status; > /a";
    let out = run(&["-u", "5:6", "-w", "/x/y", "--read-only", "busybox", "sh", "-c", script])?;
    let wanted = "5\n/x/y\nCapEff:\t0000000000000000\nSeccomp:\t2\n";
    ensure!(out.stdout == wanted && out.stderr.contains("Read-only file system"), "{out:?}");
    let volume = format!("v-{runtime}:/v");
    let script =
        "echo kept > /v/x; /bin/busybox cat /s/x; /bin/busybox grep -c ' /t tmpfs ' /proc/mounts; > /s/y";
    let again = format!("type=volume,src=v-{runtime},dst=/s,readonly");
    let out = run(&["-v", &volume, "--mount", &again, "--tmpfs", "/t", "busybox", "sh", "-c", script])?;
    ensure!(out.stdout == "kept\n1\n" && out.stderr.contains("Read-only file system"), "{out:?}");
    let image = "type=image,source=busybox,target=/i,image-subpath=bin";
    let out = run(&["--mount", image, "busybox", "sh", "-c", "/i/busybox ls /i; > /i/x"])?;
    ensure!(out.stdout.starts_with("busybox\n") && out.stderr.contains("Read-only"), "{out:?}");
    let out = run(&["--init", "busybox", b, "sh", "-c", "echo $$ $PPID"])?;
    ensure!(out.stdout.trim().ends_with(" 1") && !out.stdout.starts_with("1 "), "{out:?}");
    let out = run(&["-t", "busybox", b, "tty"])?;
    ensure!(out.stdout.starts_with("/dev/pts/") || out.stdout.starts_with("/dev/console"), "{out:?}");
    let profile = host.dir.join("profile.json");
    let refused = r#"{ "names": ["mkdir", "mkdirat"], "action": "SCMP_ACT_ERRNO", "errnoRet": 28 }"#;
    std::fs::write(&profile, format!(r#"{{ "defaultAction": "SCMP_ACT_ALLOW", "syscalls": [{refused}] }}"#))?;
    let option = format!("seccomp={}", profile.display());
    let out = run(&["--security-opt", &option, "busybox", b, "mkdir", "/q"])?;
    ensure!(out.stderr.contains("No space left on device"), "{out:?}");
    let mut command = host.docker_command();
    command.args(["run", "-i", "--rm", "--runtime", runtime, "busybox", b, "cat"]);
    let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn()?;
    child.stdin.take().context("piped")?.write_all(b"through a pipe\n")?;
    let out = child.wait_with_output()?;
    ensure!(out.stdout == b"through a pipe\n" && out.status.success(), "{out:?}");
    Ok(())
}

/// A service's secret is a file of a container that crun makes, the default here.
fn secret(host: &Host) -> Result<()> {
    let pw = host.dir.join("pw");
    std::fs::write(&pw, "hunter2")?;
    host.docker(&["swarm", "init", "--advertise-addr", &host.addr])?;
    host.docker(&["secret", "create", "pw", &pw.display().to_string()])?;
    let b = "/bin/busybox";
    host.docker(&[
        "service",
        "create",
        "-d",
        "--name",
        "s",
        "--secret",
        "source=pw,mode=0400",
        "busybox",
        b,
        "sleep",
        "1000",
    ])?;
    eventually("the secret is in the container", LONG, || {
        let id = host.docker(&["ps", "-q", "--filter", "label=com.docker.swarm.service.name=s"])?;
        let script =
            "/bin/busybox stat -c %a /run/secrets/pw; /bin/busybox cat /run/secrets/pw; > /run/secrets/pw";
        let out = docker(host, &["exec", id.trim(), "sh", "-c", script])?;
        ensure!(out.stdout == "400\nhunter2" && out.stderr.contains("Read-only file system"), "{out:?}");
        Ok(())
    })?;
    host.docker(&["swarm", "leave", "--force"])?;
    eventually("its container is gone", LONG, || {
        let left = host.docker(&["ps", "-aq", "--filter", "label=com.docker.swarm.service.name=s"])?;
        ensure!(left.is_empty(), "{left}");
        Ok(())
    })
}

fn port(runtime: &str) -> u16 {
    8100 + RUNTIMES.iter().position(|r| *r == runtime).unwrap_or(0) as u16
}

/// By the kernel, and by the shim.
fn answers(host: &Host, runtime: &str) -> Result<()> {
    for addr in ["127.0.0.1", "[::1]"] {
        let url = format!("http://{addr}:{}/busybox", port(runtime));
        eventually("its port answers", LONG, || {
            host.exec(&["curl", "-sS", "-f", "-o", "/dev/null", &url]).map(drop)
        })?;
    }
    Ok(())
}

/// Goes on: commands in it, its limits, its state.
fn goes_on(host: &Host, runtime: &str) -> Result<()> {
    let name = format!("up-{runtime}");
    let script = "trap 'exit 9' TERM; /bin/busybox httpd -p 80 -h /bin; echo started; while :; do /bin/busybox sleep 0.1; done";
    let publish = format!("{}:80", port(runtime));
    let limits =
        ["-m", "64m", "--pids-limit", "50", "--health-cmd", "/bin/busybox true", "--health-interval", "1s"];
    let run = [
        &["run", "-d", "--name", &name, "--runtime", runtime][..],
        &limits,
        &["-p", &publish, "busybox", "sh", "-c", script],
    ];
    host.docker(&run.concat())?;
    answers(host, runtime)?;
    let exec = |args: &[&str]| docker(host, &[&["exec"][..], args].concat());
    let out = exec(&[&name, "sh", "-c", "echo in it; exit 4"])?;
    ensure!((out.code, &*out.stdout) == (Some(4), "in it\n"), "{out:?}");
    let out = exec(&[
        "-u",
        "7",
        "-e",
        "A=b",
        "-w",
        "/bin",
        &name,
        "sh",
        "-c",
        "/bin/busybox id -u; /bin/busybox pwd; echo $A",
    ])?;
    ensure!(out.stdout == "7\n/bin\nb\n", "{out:?}");
    let out = exec(&["-t", &name, "/bin/busybox", "tty"])?;
    ensure!(out.stdout.starts_with("/dev/pts/"), "{out:?}");
    let out = exec(&[&name, "nope"])?;
    ensure!(out.code == Some(127) && out.stdout.contains("not found in $PATH"), "{out:?}");
    ensure!(host.docker(&["top", &name])?.contains("trap"), "top");
    host.docker(&["pause", &name])?;
    let state = |format: &str| {
        Ok::<_, anyhow::Error>(host.docker(&["inspect", "-f", format, &name])?.trim().to_owned())
    };
    ensure!(state("{{.State.Status}} {{.HostConfig.Runtime}}")? == format!("paused {runtime}"));
    host.docker(&["unpause", &name])?;
    host.docker(&["update", "--memory", "80m", "--memory-swap", "160m", &name])?;
    let stats = host.docker(&["stats", "--no-stream", "--format", "{{.MemUsage}}", &name])?;
    ensure!(stats.trim().ends_with("/ 80MiB"), "{stats}");
    eventually("it is healthy", LONG, || {
        let health = state("{{.State.Health.Status}}")?;
        ensure!(health == "healthy", "{health}");
        Ok(())
    })?;
    host.docker(&["exec", "-d", &name, "sh", "-c", "/bin/busybox sleep 1; echo late > /late"])?;
    Ok(())
}

/// Taken up by another daemon, stopped, started and killed.
fn taken_up(host: &Host, runtime: &str) -> Result<()> {
    let name = format!("up-{runtime}");
    eventually("what runs in it has gone on", LONG, || {
        let late = host.docker(&["exec", &name, "/bin/busybox", "cat", "/late"])?;
        ensure!(late == "late\n", "{late}");
        Ok(())
    })?;
    ensure!(host.docker(&["logs", &name])? == "started\n", "its log");
    answers(host, runtime)?;
    host.docker(&["stop", &name])?;
    let code = host.docker(&["inspect", "-f", "{{.State.ExitCode}}", &name])?;
    ensure!(code.trim() == "9", "{code}");
    host.docker(&["start", &name])?;
    host.docker(&["kill", &name])?;
    ensure!(host.docker(&["wait", &name])?.trim() == "137");
    // A container does not go on without its shim.
    host.docker(&["start", &name])?;
    let id = host.docker(&["inspect", "-f", "{{.Id}}", &name])?;
    let pids = std::fs::read_to_string(host.dir.join("exec/containers").join(id.trim()).join("pids"))?;
    let (shim, first) = pids.trim().split_once(' ').context("two PIDs")?;
    host.exec(&["kill", "-KILL", shim])?;
    ensure!(host.docker(&["wait", &name])?.trim() == "255");
    // Whose parent it was is gone: the host's first process reaps it.
    eventually("it has ended with it", LONG, || {
        ensure!(host.exec(&["kill", "-0", first]).is_err(), "{first} goes on");
        Ok(())
    })?;
    host.docker(&["rm", &name]).map(drop)
}
