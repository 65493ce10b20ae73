//! AppArmor: containers run in the default profile, or the one that is named, or in none; it holds for all their
//! processes, and denies what nothing else does.

use std::io::Write;
use std::process::Stdio;

use anyhow::{Context, Result, ensure};
use skep_e2e::Host;
use skep_e2e::swarm::{bare, path, refused};

const CURRENT: [&str; 2] = ["cat", "/proc/self/attr/current"];
const DEFAULT: &str = "docker-default (enforce)";
const MINE: &str = "profile skep-e2e-mine flags=(attach_disconnected,mediate_deleted) {\n  file,\n  signal,\n  capability,\n  network,\n  deny /secret r,\n}\n";

fn run(host: &Host, options: &[&str], command: &[&str]) -> Result<String> {
    let said = host.docker(&[&["run", "--rm"][..], options, &["bb"], command].concat())?;
    Ok(said.trim().to_owned())
}

fn inspect(host: &Host, name: &str) -> Result<String> {
    Ok(host.docker(&["inspect", "-f", "{{.AppArmorProfile}}", name])?.trim().to_owned())
}

/// Loads a profile as a user would.
fn load(host: &Host, text: &str) -> Result<()> {
    let mut command = host.command("apparmor_parser")?;
    let mut child = command.args(["-r", "-K"]).stdin(Stdio::piped()).stderr(Stdio::null()).spawn()?;
    child.stdin.take().context("piped")?.write_all(text.as_bytes())?;
    ensure!(child.wait()?.success(), "the profile is not loaded");
    Ok(())
}

#[test]
fn containers_run_in_their_profile() -> Result<()> {
    let lab = bare("aa")?;
    let host = lab.host(1);
    std::fs::write(host.dir.join("daemon.toml"), "[runtimes.runc]\npath = \"runc\"\n")?;
    host.start_daemon()?;
    let archive = host.dir.join("bb.tar");
    skep_e2e::busybox_image(&["sh", "sleep", "cat", "mount", "mkdir", "id"], &archive)?;
    host.docker(&["import", path(&archive), "bb"])?;
    let info = host.docker(&["info", "-f", "{{.SecurityOptions}} {{.Warnings}}"])?;
    ensure!(info.contains("name=apparmor") && !info.contains("unconfined"), "{info}");

    for options in [
        &[][..],
        &["--init"],
        &["--init", "--ulimit", "nofile=4"],
        &["-u", "5:6"],
        &["--security-opt", "no-new-privileges"],
        &["--security-opt", "apparmor=docker-default"],
        &["--runtime", "runc"],
    ] {
        let found = run(host, options, &CURRENT)?;
        ensure!(found == DEFAULT, "{found} with {options:?}");
    }
    let init = run(host, &["--init"], &["cat", "/proc/1/attr/current"])?;
    ensure!(init == DEFAULT, "our init: {init}");
    for options in [&["--privileged"][..], &["--security-opt", "apparmor=unconfined"]] {
        let found = run(host, options, &CURRENT)?;
        ensure!(found == "unconfined", "{found} with {options:?}");
    }

    // What it denies, and nothing else does.
    let write =
        "v=$(cat /proc/sys/vm/swappiness) && echo $v >/proc/sys/vm/swappiness && echo written || echo denied";
    let mount = "mkdir /m && mount -t tmpfs none /m && echo mounted || echo denied";
    let shared =
        "v=$(cat /proc/sys/kernel/shmmni) && echo $v >/proc/sys/kernel/shmmni && echo written || echo denied";
    for (options, script, [with, without]) in [
        (["--security-opt", "systempaths=unconfined"], write, ["denied", "written"]),
        (["--security-opt", "systempaths=unconfined"], shared, ["written", "written"]),
        (["--cap-add", "SYS_ADMIN"], mount, ["denied", "mounted"]),
    ] {
        let found = run(host, &options, &["sh", "-c", script])?;
        ensure!(found == with, "{found}: {script}");
        let free = [&options[..], &["--security-opt", "apparmor=unconfined"]].concat();
        let found = run(host, &free, &["sh", "-c", script])?;
        ensure!(found == without, "{found} without a profile: {script}");
    }

    // A container that goes on, with commands in it, and its end by signals.
    let script = "trap 'exit 9' TERM; while :; do sleep 0.1; done";
    host.docker(&["run", "-d", "--name", "up", "bb", "sh", "-c", script])?;
    ensure!(inspect(host, "up")? == "docker-default");
    for more in [&[][..], &["--privileged"]] {
        let found = host.docker(&[&["exec"][..], more, &["up"], &CURRENT].concat())?;
        ensure!(found.trim() == DEFAULT, "{found} by exec {more:?}");
    }
    host.docker(&["exec", "up", "sh", "-c", "sleep 1000 & kill $!"])?;
    host.docker(&["stop", "up"])?;
    let code = host.docker(&["inspect", "-f", "{{.State.ExitCode}}", "up"])?;
    ensure!(code.trim() == "9", "{code}");
    host.docker(&["rm", "up"])?;
    host.docker(&["run", "--name", "free", "--privileged", "bb", "cat", "/proc/self/status"])?;
    ensure!(inspect(host, "free")? == "unconfined");

    // Another profile, known and not.
    let mine = ["--security-opt", "apparmor=skep-e2e-mine"];
    refused(
        host,
        &[&["run", "--rm"][..], &mine, &["bb", "id"]].concat(),
        &["AppArmor profile \"skep-e2e-mine\" is not loaded"],
    )?;
    load(host, MINE)?;
    ensure!(run(host, &mine, &CURRENT)? == "skep-e2e-mine (enforce)");
    let secret = "echo x >/secret && cat /secret || echo denied";
    ensure!(run(host, &mine, &["sh", "-c", secret])? == "denied");
    ensure!(run(host, &[], &["sh", "-c", secret])? == "x");
    lab.down()
}
