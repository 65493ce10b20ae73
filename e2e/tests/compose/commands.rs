//! What is done with a project that runs: each command by each client, and what they said compared.

use std::io::{BufRead, BufReader, Read};
use std::path::Path;
use std::process::{Child, Stdio};

use anyhow::{Context, Result, ensure};
use serde_json::Value;
use skep_e2e::registry::{Registry, RegistryOptions};
use skep_e2e::swarm::bare;
use skep_e2e::{Host, Terminal, eventually};

use super::{Client, LONG, field, lab, prepared, write};

const REGISTRY: &str = "127.0.0.1:5000";
const FILE: &str = r#"
name: cmd
services:
  web:
    image: 127.0.0.1:5000/cmd/web:1
    build: .
    command: sh -c "trap 'exit 3' TERM; while true; do echo tick; sleep 0.1; done"
    ports: ["127.0.0.1:8087:80", "127.0.0.1:8088:53/udp"]
    volumes: ["data:/data"]
  side: {image: bb, init: true, command: sleep 1000, stop_grace_period: 1s}
volumes: {data: {}}
"#;

/// A command in the background whose output is read here.
fn begin(
    client: Client,
    host: &Host,
    dir: &Path,
    args: &[&str],
) -> Result<(Child, BufReader<impl Read + use<>>)> {
    let mut command = client.command(host, dir)?;
    let complaints = std::fs::File::create(dir.join("complaints"))?;
    let mut child = command.args(args).stdout(Stdio::piped()).stderr(complaints).spawn()?;
    let out = child.stdout.take().context("its output")?;
    Ok((child, BufReader::new(out)))
}

fn end(mut child: Child) -> Result<()> {
    child.kill()?;
    child.wait()?;
    Ok(())
}

/// What both clients must say alike, in order; the exit code with standard output.
fn said(client: Client, host: &Host, dir: &Path) -> Result<Vec<(String, String)>> {
    let mut all = Vec::new();
    let mut ask = |args: &[&str]| -> Result<()> {
        let (code, out, _) = client.run(host, dir, args)?;
        let mut lines: Vec<&str> = out.lines().map(str::trim_end).collect();
        lines.sort_unstable();
        all.push((args.join(" "), format!("{code}\n{}", lines.join("\n"))));
        Ok(())
    };
    for args in [
        &["config", "--lock-image-digests", "web"][..],
        &["port", "web", "80"],
        &["port", "--protocol", "udp", "web", "53"],
        &["port", "web", "81"],
        &["port", "nope", "80"],
        &["top", "nope"],
        &["images", "-q", "nope"],
        &["ls", "-q"],
        &["ls", "--filter", "name=nothing", "-q"],
        &["volumes", "-q"],
        &["volumes", "--format", "{{.Name}} {{.Driver}}"],
        &["volumes", "web", "-q"],
        &["volumes", "side", "-q"],
        &["stats", "--no-stream", "--format", "{{.Name}}"],
        &["stats", "--no-stream", "--format", "{{.Name}}", "side"],
        &["scale", "side=3"],
        &["ps", "--format", "{{.Name}}"],
        &["scale", "side=1", "web=1"],
        &["ps", "--format", "{{.Name}}"],
        &["scale", "side"],
        &["scale", "side=x"],
        &["scale", "nope=1"],
        &["down", "nope"],
        &["pause", "web"],
        &["ps", "-a", "--format", "{{.Name}} {{.State}}"],
        &["exec", "-T", "web", "true"],
        &["unpause", "web"],
        &["ps", "--format", "{{.Name}} {{.State}}"],
        &["cp", "given", "web:/taken"],
        &["exec", "-T", "web", "cat", "/taken"],
        &["cp", "web:/taken", "back"],
        &["cp", "web:/nothing", "back"],
        &["cp", "--index", "7", "given", "web:/taken"],
        &["export", "-o", "web.tar", "web"],
        &["commit", "-m", "by hand", "-c", "CMD [\"made\"]", "web", "made:1"],
    ] {
        ask(args)?;
    }
    // Each has built its own.
    let locked = std::mem::take(&mut all[0].1);
    let (image, digest) = locked.split_once("@sha256:").with_context(|| locked.clone())?;
    all[0].1 = format!("{image}{}", digest.trim_start_matches(|c: char| c.is_ascii_hexdigit()));
    // An image's ID is its own, and Docker's tells it elsewhere.
    for (_, text) in all.iter_mut().filter(|(args, _)| args.starts_with("commit")) {
        text.truncate(1);
    }
    Ok(all)
}

/// What goes on until something happens: events, wait, attach.
fn followed(client: Client, host: &Host, dir: &Path) -> Result<()> {
    // As fingers type it that are used to `docker exec`.
    for args in [&["exec", "-it", "side"][..], &["run", "--rm", "-it", "side"], &["exec", "-ti", "side"]] {
        let mut command = client.command(host, dir)?;
        command.args(args).args(["sh", "-c", "test -t 0 && echo typed"]);
        let mut terminal = Terminal::start(command)?;
        terminal.until("typed")?;
        ensure!(terminal.wait()? == Some(0), "{client:?} {args:?}");
    }
    let (attached, mut out) =
        begin(client, host, dir, &["attach", "--no-stdin", "--sig-proxy=false", "web"])?;
    let mut line = String::new();
    out.read_line(&mut line)?;
    let complaints = std::fs::read_to_string(dir.join("complaints"))?;
    ensure!(line.trim_end() == "tick", "{client:?}: attach shows {line:?}: {complaints}");
    end(attached)?;
    let (events, mut told) = begin(client, host, dir, &["events", "--json", "side"])?;
    // It is followed from when the daemon has been asked: kicked until it shows.
    let (kicks, done) = (host.clone(), std::sync::Arc::new(std::sync::atomic::AtomicBool::new(false)));
    let seen = done.clone();
    let kicking = std::thread::spawn(move || {
        while !seen.load(std::sync::atomic::Ordering::Relaxed) {
            let _ = kicks.docker(&["rename", "cmd-side-1", "cmd-side-x"]);
            let _ = kicks.docker(&["rename", "cmd-side-x", "cmd-side-1"]);
        }
    });
    let mut line = String::new();
    told.read_line(&mut line)?;
    done.store(true, std::sync::atomic::Ordering::Relaxed);
    let _ = kicking.join();
    let event: Value = serde_json::from_str(&line).with_context(|| format!("{client:?}: {line}"))?;
    let shown = (&event["action"], &event["service"], &event["type"]);
    ensure!(shown == (&"rename".into(), &"side".into(), &"container".into()), "{client:?}: {event}");
    end(events)?;
    let before = waits(host)?;
    let (mut waiting, mut out) = begin(client, host, dir, &["wait", "web"])?;
    // Docker's knows nothing of a container that has ended before it looks.
    eventually("it waits", LONG, || {
        ensure!(waits(host)? > before);
        Ok(())
    })?;
    client.ok(host, dir, &["kill", "-s", "TERM", "web"])?;
    let mut text = String::new();
    out.read_to_string(&mut text)?;
    let status = waiting.wait()?;
    ensure!(
        status.code() == Some(3) && text.contains("exited with status code 3"),
        "{client:?}: {status} {text}"
    );
    ensure!(field(host, "cmd-web-1", "{{.State.ExitCode}}")? == "3");
    if client == Client::Docker {
        // Whose own takes the project away once for each container that ends, and may meet itself.
        return Ok(());
    }
    client.ok(host, dir, &["start"])?;
    // Before its trap is set, it does not hear the signal.
    let began = field(host, "cmd-web-1", "{{.State.StartedAt}}")?;
    eventually("it ticks again", LONG, || {
        ensure!(host.docker(&["logs", "--since", &began, "cmd-web-1"])?.contains("tick"));
        Ok(())
    })?;
    let before = waits(host)?;
    let (mut waiting, _) = begin(client, host, dir, &["wait", "--down-project", "web", "side"])?;
    eventually("it waits for both", LONG, || {
        ensure!(waits(host)? > before + 1);
        Ok(())
    })?;
    client.ok(host, dir, &["kill", "-s", "TERM", "web"])?;
    waiting.wait()?;
    ensure!(super::containers(host)?.is_empty(), "{client:?}: the project goes with the first that ends");
    Ok(())
}

/// How often the daemon, which tells of requests at this level, was asked to wait for a container.
fn waits(host: &Host) -> Result<usize> {
    let log = std::fs::read_to_string(host.log())?;
    Ok(log.lines().filter(|l| l.contains("POST") && l.contains("/wait")).count())
}

#[test]
fn both_clients_do_the_same_with_a_project_that_runs() -> Result<()> {
    let lab = bare("ccmd")?;
    std::fs::write(lab.host(1).dir.join("daemon.toml"), "log-level = \"debug\"\n")?;
    lab.host(1).start_daemon()?;
    let (lab, dir) = prepared(lab)?;
    let host = lab.host(1);
    let _registry = Registry::start(host, REGISTRY, &RegistryOptions::default())?;
    write(
        &dir,
        &[
            ("compose.yaml", FILE),
            ("given", "a file\n"),
            ("Dockerfile", "FROM bb\nRUN echo built > /built\n"),
        ],
    )?;
    let image = format!("{REGISTRY}/cmd/web:1");
    let mut all = Vec::new();
    for client in [Client::Docker, Client::Skep] {
        // It is pushed, and comes back. The other service's image is in no registry.
        client.ok(host, &dir, &["build", "-q"])?;
        client.ok(host, &dir, &["push", "-q"])?;
        host.docker(&["rmi", &image])?;
        client.ok(host, &dir, &["pull", "-q", "web"])?;
        host.docker(&["image", "inspect", &image])?;
        // What is not built is not pushed.
        for (args, wanted) in [(&["pull", "-q", "side"][..], false), (&["push", "-q", "side"], true)] {
            let (code, out, err) = client.run(host, &dir, args)?;
            ensure!((code == 0) == wanted, "{client:?} {args:?}: {out}{err}");
        }
        client.ok(host, &dir, &["pull", "-q", "--ignore-pull-failures"])?;
        client.ok(host, &dir, &["up", "-d"])?;
        all.push(said(client, host, &dir)?);
        ensure!(std::fs::read_to_string(dir.join("back"))? == "a file\n", "{client:?}: cp");
        let exported = std::process::Command::new("tar").args(["-tf"]).arg(dir.join("web.tar")).output()?;
        ensure!(
            String::from_utf8_lossy(&exported.stdout).lines().any(|l| l == "taken"),
            "{client:?}: export"
        );
        let made = host.docker(&["image", "inspect", "-f", "{{.Config.Cmd}} {{.Comment}}", "made:1"])?;
        ensure!(made == "[made] by hand\n", "{client:?}: commit: {made}");
        for args in [&["version"][..], &["version", "--short"], &["version", "-f", "json"]] {
            let out = client.ok(host, &dir, args)?;
            ensure!(out.contains('.'), "{client:?} {args:?}: {out}");
        }
        let images: Value = serde_json::from_str(&client.ok(host, &dir, &["images", "--format", "json"])?)?;
        let shown: Vec<_> = images.as_array().into_iter().flatten().map(|i| &i["Repository"]).collect();
        ensure!(
            shown.len() == 2 && shown.contains(&&Value::from("127.0.0.1:5000/cmd/web")),
            "{client:?}: {images}"
        );
        followed(client, host, &dir)?;
        client.ok(host, &dir, &["down", "-v", "-t", "1"])?;
        host.docker(&["rmi", "made:1", &image])?;
        eventually("nothing is left", LONG, || {
            ensure!(super::containers(host)?.is_empty());
            Ok(())
        })?;
        for file in ["back", "web.tar"] {
            std::fs::remove_file(dir.join(file))?;
        }
    }
    super::alike(&all[0], &all[1])?;
    lab.down()
}

/// Each waits in its build for what only the build of the other makes.
const MEETING: &str = r#"
name: meet
services:
  one: {build: {context: ., args: {OWN: one, OTHER: two}}, command: cat /met}
  two: {build: {context: ., args: {OWN: two, OTHER: one}}, command: cat /met}
"#;
const MEETS: &str = "FROM bb\nARG OWN\nARG OTHER\nRUN --mount=type=cache,target=/c touch /c/$OWN; n=0; \
                     while [ ! -e /c/$OTHER ] && [ $n -lt 600 ]; do sleep 0.1; n=$((n+1)); done; \
                     ls /c > /met; test -e /c/$OTHER\n";

#[test]
fn services_are_built_side_by_side() -> Result<()> {
    let (lab, dir) = lab("cmeet")?;
    let host = lab.host(1);
    write(&dir, &[("compose.yaml", MEETING), ("Dockerfile", MEETS)])?;
    let out = Client::Skep.ok(host, &dir, &["build"])?;
    for name in ["one", "two"] {
        let line = format!("{name} | Step 1/4 : FROM bb");
        ensure!(out.lines().any(|l| l == line), "{line} is not in {out}");
        let met = host.docker(&["run", "--rm", &format!("meet-{name}"), "cat", "/met"])?;
        ensure!(met == "one\ntwo\n", "{met:?}: {out}");
    }
    lab.down()
}
