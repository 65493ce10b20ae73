//! The containers of tasks from managers they do not run at: `exec`, `attach`, `cp` and the rest, by both clients.

use std::io::Write;
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail, ensure};
use skep_e2e::swarm::{LONG, begun, join, nodes_are, path, refused, token, wait_running};
use skep_e2e::{Host, Terminal, busybox_image, eventually};

/// Says where it is, again and again, and ends when it is told to.
const LOOP: &str =
    "echo began on $(hostname); while ! [ -e /tmp/end ]; do echo tick; sleep 1; done; exit $(cat /tmp/end)";
/// What this host's API answers of a container that it has not.
const NONE: &str = "No such container: ";

fn clients(host: &Host) -> [(&'static str, Command); 2] {
    [("docker", host.docker_command()), ("skep", host.skep_command())]
}

/// What a client comes to: code, standard output, standard error.
fn run(mut command: Command, args: &[&str], input: &[u8]) -> Result<(Option<i32>, Vec<u8>, String)> {
    command.args(args).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn()?;
    let (mut stdin, input) = (child.stdin.take().context("piped")?, input.to_owned());
    let typed = std::thread::spawn(move || stdin.write_all(&input));
    let out = child.wait_with_output()?;
    typed.join().ok().context("no panic")??;
    Ok((out.status.code(), out.stdout, String::from_utf8_lossy(&out.stderr).into_owned()))
}

/// A field of the one task of `web` that is wanted running.
fn task(host: &Host, format: &str) -> Result<String> {
    let id =
        host.docker(&["service", "ps", "-q", "--no-trunc", "--filter", "desired-state=running", "web"])?;
    Ok(host.docker(&["inspect", "--type", "task", "-f", format, id.trim()])?.trim().to_owned())
}

#[test]
fn any_manager_reaches_into_the_container_of_any_task() -> Result<()> {
    let mut lab = begun("tasks", 3)?;
    let (one, two, three) = (lab.host(1).clone(), lab.host(2).clone(), lab.host(3).clone());
    join(&two, &token(&one, "manager")?, "10.99.0.1:2377")?;
    join(&three, &token(&one, "worker")?, "10.99.0.1:2377")?;
    nodes_are(&one, "three nodes are ready", &["Ready Leader", "Ready Reachable", "Ready"])?;
    let archive = one.dir.join("busybox.tar");
    let applets = ["sh", "cat", "sleep", "stty", "grep", "hostname", "touch", "head", "wc", "yes"];
    busybox_image(&applets, &archive)?;
    for host in lab.hosts() {
        host.docker(&["import", path(&archive), "busybox"])?;
    }
    let there = format!("node.hostname=={}", three.name);
    let create = ["service", "create", "-d", "--constraint", &there, "--hostname", "inner"];
    let host_port = "published=8123,target=80,mode=host";
    one.docker(
        &[&create[..], &["--name", "web", "--publish", host_port, "busybox", "sh", "-c", LOOP]].concat(),
    )?;
    wait_running(&one, "web", 1)?;
    let id = task(&one, "{{.ID}}")?;
    let (full, container) = (format!("web.1.{id}"), task(&one, "{{.Status.ContainerStatus.ContainerID}}")?);

    // By every name, with every exit code, from the leader and from another manager.
    for host in [&one, &two] {
        for name in ["web.1", &full, &id, &container, &container[..12]] {
            let out = host.docker(&["exec", name, "hostname"]).with_context(|| format!("by {name}"))?;
            ensure!(out.trim() == "inner", "{name}: {out}");
        }
        for (client, command) in clients(host) {
            let script = "echo out; echo err >&2; exit 3";
            let seen = run(command, &["exec", "web.1", "sh", "-c", script], b"")?;
            ensure!(seen == (Some(3), b"out\n".to_vec(), "err\n".into()), "{client}: {seen:?}");
        }
    }
    // Much in both directions at once, and the end of the input on its way.
    let much: Vec<u8> = (0..3u32 << 20).map(|i| (i % 253) as u8).collect();
    for (client, command) in clients(&two) {
        let (code, out, err) = run(command, &["exec", "-i", "web.1", "cat"], &much)?;
        ensure!(code == Some(0) && out == much, "{client}: {code:?} {} {err}", out.len());
    }
    // A terminal: its size, a new size, and the keys that leave it.
    for (_, mut command) in clients(&two) {
        command.args(["exec", "-it", "web.1", "sh"]);
        let mut terminal = Terminal::start(command)?;
        terminal.write(b"while ! stty size | grep '33 77'; do :; done\n")?;
        terminal.until("\r\n33 77\r\n")?;
        terminal.write(b"while ! stty size | grep '44 99'; do :; done\n")?;
        terminal.resize(44, 99, "\r\n44 99\r\n")?;
        terminal.write(b"echo on $(hostname)\n")?;
        terminal.until("on inner")?;
        terminal.write(b"\x10\x11")?;
        let code = terminal.wait()?;
        ensure!(code == Some(1), "left by its keys: {code:?}");
    }
    looked_at(&two, &full)?;
    executed_by_another_manager(&one, &two, &full)?;
    bad_requests(&one, &two, &three, &full)?;
    attached(&one, &two, &full)?;

    // The slot's name is that of its present task; the task's own is of it alone, also when that has ended.
    eventually("another task runs in its place", LONG, || {
        let now = task(&one, "{{.ID}} {{.Status.State}}")?;
        ensure!(now.ends_with(" running") && !now.starts_with(&id), "{now}");
        Ok(())
    })?;
    ensure!(two.docker(&["inspect", "-f", "{{.State.ExitCode}}", &full])?.trim() == "5");
    ensure!(two.docker(&["inspect", "-f", "{{.State.Running}}", "web.1"])?.trim() == "true");
    refused(&two, &["exec", &full, "true"], &["is not running"])?;

    // The node's daemon is away: said so, and no more of it once it is back.
    lab.kill(3)?;
    nodes_are(&one, "host 3 is down", &["Ready Leader", "Ready Reachable", "Down"])?;
    refused(&two, &["exec", &full, "true"], &["is not in touch with the swarm", &three.name])?;
    lab.down()
}

/// What `cp`, `logs`, `top`, `stats`, `port` and `inspect` tell of a task elsewhere.
fn looked_at(host: &Host, full: &str) -> Result<()> {
    let (from, back) = (host.dir.join("from"), host.dir.join("back"));
    std::fs::write(&from, "carried there and back\n")?;
    for (client, _) in clients(host) {
        let run = |args: &[&str]| if client == "docker" { host.docker(args) } else { host.skep(args) };
        run(&["cp", path(&from), "web.1:/tmp/carried"])?;
        run(&["cp", &format!("{full}:/tmp/carried"), path(&back)])?;
        ensure!(std::fs::read(&back)? == std::fs::read(&from)?, "{client} cp");
        let logs = run(&["logs", "--tail", "all", "web.1"])?;
        ensure!(logs.starts_with("began on inner\n") && logs.contains("tick"), "{client} logs: {logs}");
        let top = run(&["top", "web.1"])?;
        ensure!(top.contains("PID") && top.contains("sh -c echo began"), "{client} top: {top}");
        let stats = run(&["stats", "--no-stream", "--format", "{{.Name}} {{.PIDs}}", "web.1"])?;
        let (name, pids) = stats.trim().split_once(' ').context("two fields")?;
        ensure!(name == full && pids.parse::<u32>()? > 0, "{client} stats: {stats}");
        let port = run(&["port", "web.1"])?;
        ensure!(port.starts_with("80/tcp -> 0.0.0.0:8123"), "{client} port: {port}");
        let shown = run(&["inspect", "-f", "{{.Name}} {{.Config.Hostname}}", "web.1"])?;
        ensure!(shown.trim() == format!("/{full} inner"), "{client} inspect: {shown}");
    }
    // Followed until the reader leaves, who does not wait for more.
    let mut follow = host.docker_command();
    follow.args(["logs", "-f", "--tail", "1", "web.1"]).stdout(Stdio::piped());
    let mut child = follow.spawn()?;
    let mut lines = std::io::BufRead::lines(std::io::BufReader::new(child.stdout.take().context("piped")?));
    for _ in 0..3 {
        let line = lines.next().context("it goes on")??;
        ensure!(line == "tick", "{line}");
    }
    child.kill()?;
    child.wait()?;
    std::fs::remove_file(&from)?;
    Ok(std::fs::remove_file(&back)?)
}

/// An exec that one manager made is started and inspected through another, which needs not be asked before.
fn executed_by_another_manager(one: &Host, two: &Host, full: &str) -> Result<()> {
    let body = r#"{"Cmd":["sh","-c","echo made elsewhere; exit 4"],"AttachStdout":true,"Tty":true}"#;
    let made = one.request("POST", &format!("/v1.50/containers/{full}/exec"), body)?;
    ensure!(made.status == 201, "{made:?}");
    let made: serde_json::Value = serde_json::from_str(&made.body)?;
    let id = made["Id"].as_str().context("an ID")?;
    // Without `Upgrade`, as older clients: bare bytes on the same connection.
    let started = two.request("POST", &format!("/exec/{id}/start"), "{}")?;
    ensure!(started.status == 200 && started.body.contains("made elsewhere"), "{started:?}");
    for host in [one, two] {
        let shown = host.request("GET", &format!("/exec/{id}/json"), "")?;
        let shown: serde_json::Value = serde_json::from_str(&shown.body)?;
        ensure!(shown["ExitCode"] == 4 && shown["ID"] == id, "{shown}");
    }
    Ok(())
}

fn bad_requests(one: &Host, two: &Host, three: &Host, full: &str) -> Result<()> {
    // A worker reaches what is its own, and asks nobody for more.
    three.docker(&["exec", full, "hostname"])?;
    refused(three, &["exec", "web.1", "hostname"], &[NONE])?;
    one.docker(&[
        "service",
        "create",
        "-d",
        "--name",
        "here",
        "--constraint",
        "node.role==manager",
        "busybox",
        "sleep",
        "100000",
    ])?;
    let nodes = wait_running(one, "here", 1)?;
    let (host, other) = if nodes == [one.name.clone()] { (one, two) } else { (two, one) };
    for asked in [host, other] {
        asked.docker(&["exec", "here.1", "hostname"])?;
    }
    let here = one.docker(&["service", "ps", "-q", "--no-trunc", "here"])?;
    refused(three, &["exec", &format!("here.1.{}", here.trim()), "true"], &[NONE])?;
    // What changes a container is its service's business.
    for args in [&["kill", "web.1"][..], &["stop", "web.1"], &["rename", "web.1", "x"]] {
        refused(one, args, &[NONE, "it is a task on node", "its service web"])?;
    }
    refused(one, &["exec", "--privileged", "web.1", "true"], &["tasks of privileged services"])?;
    three.docker(&["exec", "--privileged", full, "hostname"])?;
    refused(one, &["exec", "web.7", "true"], &[NONE])?;
    refused(one, &["exec", "nothing", "true"], &[NONE])?;
    one.docker(&[
        "service",
        "create",
        "-d",
        "--name",
        "stuck",
        "--constraint",
        "node.labels.x==y",
        "busybox",
    ])?;
    eventually("a task that fits nowhere is told of", LONG, || {
        refused(one, &["exec", "stuck.1", "true"], &["has no container yet: it is pending", "no node fits"])
    })?;
    one.docker(&["service", "rm", "stuck", "here"])?;
    Ok(())
}

/// Attached from two managers until the container ends, with its exit code.
fn attached(one: &Host, two: &Host, full: &str) -> Result<()> {
    let mut watching = Vec::new();
    for host in [one, two] {
        for (client, mut command) in clients(host) {
            command.args(["attach", "--no-stdin", full]).stdin(Stdio::null()).stdout(Stdio::piped());
            let mut child = command.spawn()?;
            let mut lines =
                std::io::BufRead::lines(std::io::BufReader::new(child.stdout.take().context("piped")?));
            let Some(Ok(line)) = lines.next() else { bail!("{client}: nothing came") };
            ensure!(line == "tick", "{client}: {line}");
            watching.push((client, child, lines));
        }
    }
    one.docker(&["exec", "web.1", "sh", "-c", "echo 5 >/tmp/end"])?;
    for (client, mut child, lines) in watching {
        for line in lines {
            ensure!(line? == "tick", "{client}");
        }
        let code = child.wait()?.code();
        ensure!(code == Some(5), "{client}: {code:?}");
    }
    Ok(())
}
