//! `compose watch`, and one file for everything.

use std::path::Path;
use std::process::Stdio;

use anyhow::{Result, ensure};
use skep_e2e::swarm::workers;
use skep_e2e::{Host, eventually};

use super::{Client, LONG, containers, field, lab, prepared, skep, write};

#[test]
fn files_that_change_are_copied_or_built_or_have_a_service_restarted() -> Result<()> {
    let (lab, dir) = lab("cwatch")?;
    let host = lab.host(1);
    let file = "services:\n  web:\n    build: .\n    init: true\n    command: sleep 1000\n    develop:\n      watch:\n        - {action: sync, path: ./src, target: /app, ignore: [\"*.tmp\"]}\n        - {action: sync+restart, path: ./conf, target: /conf}\n        - {action: rebuild, path: ./Dockerfile}\n";
    write(
        &dir,
        &[
            ("compose.yaml", file),
            ("Dockerfile", "FROM bb\nCOPY src /app\n"),
            (".dockerignore", "src/skipped\n"),
            ("src/a", "1"),
            ("conf/c", "1"),
        ],
    )?;
    let mut watch = Client::Skep.command(host, &dir)?;
    let log = host.dir.join("watch.log");
    let mut watch = watch
        .args(["-p", "w", "watch"])
        .stdout(Stdio::null())
        .stderr(std::fs::File::create(&log)?)
        .spawn()?;
    let told = || std::fs::read_to_string(&log).unwrap_or_default();
    eventually("it watches", LONG, || {
        ensure!(told().contains("Watch enabled"), "{}", told());
        Ok(())
    })?;
    let cat = |path: &str| skep(host, &dir, &["-p", "w", "exec", "-T", "web", "cat", path]);
    write(&dir, &[("src/skipped/x", "1"), ("src/b.tmp", "1"), ("src/deep/er/n", "new"), ("src/a", "2")])?;
    eventually("files are copied", LONG, || {
        ensure!(cat("/app/a")? == "2" && cat("/app/deep/er/n")? == "new");
        Ok(())
    })?;
    for gone in ["/app/skipped/x", "/app/b.tmp"] {
        ensure!(cat(gone).is_err(), "{gone} is not copied");
    }
    std::fs::remove_file(dir.join("src/a"))?;
    eventually("what is gone is removed", LONG, || {
        ensure!(cat("/app/a").is_err());
        Ok(())
    })?;
    let began = field(host, "w-web-1", "{{.State.StartedAt}}")?;
    write(&dir, &[("conf/c", "2")])?;
    eventually("it is started anew with the file", LONG, || {
        ensure!(field(host, "w-web-1", "{{.State.StartedAt}}")? != began && cat("/conf/c")? == "2");
        Ok(())
    })?;
    let before = containers(host)?;
    write(&dir, &[("Dockerfile", "FROM bb\nRUN echo new > /made\n")])?;
    eventually("it is built anew", LONG, || {
        ensure!(containers(host)? != before && cat("/made")? == "new\n", "{}", told());
        Ok(())
    })?;
    // What the image was before goes, unless it is to stay.
    let nameless = || host.docker(&["images", "-q", "-f", "dangling=true"]).map(|i| i.lines().count());
    eventually("the old image is gone", LONG, || {
        ensure!(nameless()? == 0, "{}", told());
        Ok(())
    })?;
    watch.kill()?;
    watch.wait()?;
    let mut watch = Client::Skep.command(host, &dir)?;
    let mut watch = watch
        .args(["-p", "w", "watch", "--no-up", "--prune=false"])
        .stdout(Stdio::null())
        .stderr(std::fs::File::create(&log)?)
        .spawn()?;
    eventually("it watches again", LONG, || {
        ensure!(told().contains("Watch enabled"), "{}", told());
        Ok(())
    })?;
    write(&dir, &[("Dockerfile", "FROM bb\nRUN echo newer > /made\n")])?;
    eventually("it is built once more", LONG, || {
        ensure!(told().contains("successfully built") && cat("/made")? == "newer\n", "{}", told());
        Ok(())
    })?;
    ensure!(nameless()? == 1);
    watch.kill()?;
    watch.wait()?;
    skep(host, &dir, &["-p", "w", "down", "-t", "1"])?;
    lab.down()
}

#[test]
fn files_that_change_have_a_service_restarted_or_a_command_run_in_it() -> Result<()> {
    let (lab, dir) = lab("cwatchrun")?;
    let host = lab.host(1);
    let file = "services:\n  web:\n    image: bb\n    init: true\n    command: sleep 1000\n    develop:\n      watch:\n        - {action: restart, path: ./conf}\n        - {action: sync+exec, path: ./src, target: /app, exec: {command: [sh, -c, 'cat /app/a > $$NAME'], user: \"3:4\", working_dir: /app, environment: {NAME: seen}}}\n  other: {image: bb, init: true, command: sleep 1000}\n";
    for client in [Client::Docker, Client::Skep] {
        write(&dir, &[("compose.yaml", file), ("conf/c", "1"), ("src/a", "1")])?;
        client.ok(host, &dir, &["-p", "w", "up", "-d"])?;
        // Whoever runs the command may write there.
        host.docker(&["exec", "w-web-1", "sh", "-c", "busybox mkdir -m 777 /app"])?;
        let log = host.dir.join("watch.log");
        let out = std::fs::File::create(&log)?;
        let mut watch = client.command(host, &dir)?;
        watch.args(["-p", "w", "watch", "--no-up"]).stdout(out.try_clone()?).stderr(out);
        let mut watch = watch.spawn()?;
        let told = || std::fs::read_to_string(&log).unwrap_or_default();
        eventually("it watches", LONG, || {
            ensure!(told().contains("Watch enabled"), "{client:?}: {}", told());
            Ok(())
        })?;
        let began = |name: &str| field(host, name, "{{.State.StartedAt}}");
        let (made, web, other) = (containers(host)?, began("w-web-1")?, began("w-other-1")?);
        let sh = |script: &str| host.docker(&["exec", "w-web-1", "sh", "-c", script]);
        // In one event, so that nothing is done twice.
        let change = |name: &str| -> Result<()> {
            write(&dir, &[("changed", "2")])?;
            Ok(std::fs::rename(dir.join("changed"), dir.join(name))?)
        };
        change("src/a")?;
        eventually("the command has run with the file", LONG, || {
            ensure!(sh("cat /app/a /app/seen")? == "22", "{client:?}: {}", told());
            Ok(())
        })?;
        let owner = sh("busybox stat -c %u:%g /app/seen")?;
        ensure!(owner == "3:4\n", "{client:?}: {owner}");
        ensure!(began("w-web-1")? == web, "{client:?}: what runs a command is not started anew");
        change("conf/c")?;
        eventually("it is started anew", LONG, || {
            let state = field(host, "w-web-1", "{{.State.Running}}")?;
            ensure!(began("w-web-1")? != web && state == "true", "{client:?}: {}", told());
            Ok(())
        })?;
        // As the same container, with nothing copied; the other service is left alone.
        ensure!(containers(host)? == made && began("w-other-1")? == other, "{client:?}: {}", told());
        ensure!(sh("cat /app/seen; ls /conf /app/c 2> /dev/null; true")? == "2", "{client:?}: {}", told());
        watch.kill()?;
        watch.wait()?;
        client.ok(host, &dir, &["-p", "w", "down", "-t", "1"])?;
    }
    lab.down()
}

#[test]
fn up_watches_too_and_shows_what_the_new_containers_say() -> Result<()> {
    let (lab, dir) = lab("cupwatch")?;
    let host = lab.host(1);
    let file = "services:\n  web:\n    build: .\n    init: true\n    command: sh -c 'cat /made; sleep 1000'\n    develop:\n      watch:\n        - {action: sync, path: ./src, target: /app}\n        - {action: rebuild, path: ./Dockerfile}\n";
    let dockerfile = |text: &str| format!("FROM bb\nRUN echo {text} > /made\n");
    write(&dir, &[("compose.yaml", file), ("Dockerfile", &dockerfile("old-one")), ("src/a", "1")])?;
    for (flags, words) in [
        (&["up", "--watch", "-d"][..], "--watch and --detach are incompatible"),
        (&["-f", "-", "up", "-w"], "none of the selected services is configured for watch"),
    ] {
        let mut up = Client::Skep.command(host, &dir)?;
        let plain = host.dir.join("plain.yaml");
        std::fs::write(&plain, "name: x\nservices: {a: {image: bb}}")?;
        let out = up.args(flags).stdin(std::fs::File::open(&plain)?).output()?;
        ensure!(!out.status.success() && String::from_utf8_lossy(&out.stderr).contains(words), "{out:?}");
    }
    let log = host.dir.join("up.log");
    let mut up = Client::Skep.command(host, &dir)?;
    up.args(["-p", "w", "up", "--watch", "-t", "1"]);
    let mut up = up
        .stdout(std::fs::File::create(&log)?)
        .stderr(std::fs::File::create(host.dir.join("err"))?)
        .spawn()?;
    let told = |name: &str| std::fs::read_to_string(host.dir.join(name)).unwrap_or_default();
    let until = |what: &str, name: &str, words: &str| {
        eventually(what, LONG, || {
            ensure!(told(name).contains(words), "{}{}", told("up.log"), told("err"));
            Ok(())
        })
    };
    until("it watches", "err", "Watch enabled")?;
    until("what it says is shown", "up.log", "old-one")?;
    write(&dir, &[("src/a", "2")])?;
    eventually("files are copied", LONG, || {
        ensure!(skep(host, &dir, &["-p", "w", "exec", "-T", "web", "cat", "/app/a"])? == "2");
        Ok(())
    })?;
    write(&dir, &[("Dockerfile", &dockerfile("new-one"))])?;
    until("the new one is shown", "up.log", "new-one")?;
    nix::sys::signal::kill(
        nix::unistd::Pid::from_raw(i32::try_from(up.id())?),
        nix::sys::signal::Signal::SIGINT,
    )?;
    ensure!(up.wait()?.code() == Some(130), "{}", told("err"));
    ensure!(field(host, "w-web-1", "{{.State.Running}}")? == "false");
    lab.down()
}

/// What the file and its build put into a container of `web`, asked for there, and as it should be.
const INSIDE: &str = "cat /made /etc/app.conf /run/secrets/key; echo $A";
const SEEN: &str = "built\nconf\nsecret\n1\n";

#[test]
fn one_file_is_a_project_and_a_stack_of_a_swarm_and_of_dev() -> Result<()> {
    let (lab, dir) = prepared(workers("cone")?)?;
    let host = lab.host(1);
    let file = "services:\n  web:\n    build: .\n    image: one/web:1\n    init: true\n    command: sleep 1000000\n    environment: {A: \"1\"}\n    configs: [{source: app, target: /etc/app.conf}]\n    secrets: [key]\n    depends_on: [db]\n    stop_grace_period: 1s\n    deploy: {replicas: 3, update_config: {order: start-first}}\n  db: {image: bb, init: true, command: sleep 1000000, stop_grace_period: 1s}\nconfigs: {app: {content: \"conf\\n\"}}\nsecrets: {key: {file: ./key}}\n";
    let dockerfile = "FROM bb\nRUN echo built > /made\n";
    write(&dir, &[("compose.yaml", file), ("key", "secret\n"), ("Dockerfile", dockerfile)])?;
    skep(host, &dir, &["-p", "one", "build"])?;
    let built = host.docker(&["inspect", "-f", "{{.Id}}", "one/web:1"])?;
    skep(host, &dir, &["-p", "one", "up", "-d"])?;
    host.skep_command()
        .current_dir(&dir)
        .args(["stack", "deploy", "-c", "compose.yaml", "--detach=false", "two"])
        .output()
        .map_err(Into::into)
        .and_then(|out| {
            ensure!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
            Ok(())
        })?;
    // What was built here runs on every node, and no registry has it.
    for on in lab.hosts() {
        let task = on.docker(&["ps", "-q", "-f", "label=com.docker.swarm.service.name=two_web"])?;
        ensure!(task.lines().count() == 1, "host {}: {task}", on.number);
        let image = on.docker(&["inspect", "-f", "{{.Image}}", task.trim()])?;
        ensure!(image == built, "host {}: {image}, not {built}", on.number);
        let inside = on.docker(&["exec", task.trim(), "sh", "-c", INSIDE])?;
        ensure!(inside == SEEN, "host {}: {inside}", on.number);
    }
    for number in 1..=3 {
        let inside = host.docker(&["exec", &format!("one-web-{number}"), "sh", "-c", INSIDE])?;
        ensure!(inside == SEEN, "container {number}: {inside}");
    }
    ensure!(containers(host)?.contains_key("one-db-1"));
    skep(host, &dir, &["-p", "one", "down"])?;
    host.skep(&["stack", "rm", "two"])?;
    in_dev(host, &dir)?;
    lab.down()
}

/// The same file under `skep dev`, beside the host's own daemon.
fn in_dev(host: &Host, dir: &Path) -> Result<()> {
    let home = host.dir.join("dev");
    let mut dev = host.command(&host.skep)?;
    let mut dev = dev.args(["dev", "--dir"]).arg(&home).stdin(Stdio::null()).stdout(Stdio::null()).spawn()?;
    let said = |args: &[&str]| -> Result<String> {
        let mut command = std::process::Command::new(&host.skep);
        command.env("DOCKER_HOST", format!("unix://{}", home.join("run/skep.sock").display()));
        let out = command.current_dir(dir).args(args).output()?;
        ensure!(out.status.success(), "{args:?}: {}", String::from_utf8_lossy(&out.stderr));
        Ok(String::from_utf8_lossy(&out.stdout).into_owned())
    };
    eventually("the node is ready", LONG, || {
        let nodes = said(&["node", "ls", "--format", "{{.Status}}"])?;
        ensure!(nodes.trim() == "Ready", "{nodes}");
        Ok(())
    })?;
    let archive = host.dir.join("busybox.tar").display().to_string();
    said(&["import", "-c", r#"CMD ["sh"]"#, &archive, "bb"])?;
    said(&["compose", "build"])?;
    said(&["stack", "deploy", "-c", "compose.yaml", "--detach=false", "three"])?;
    let tasks = said(&["ps", "-q", "-f", "label=com.docker.swarm.service.name=three_web"])?;
    ensure!(tasks.lines().count() == 3, "{tasks}");
    for task in tasks.lines() {
        let inside = said(&["exec", task, "sh", "-c", INSIDE])?;
        ensure!(inside == SEEN, "{inside}");
    }
    // And as a project of the same daemon.
    said(&["compose", "-p", "four", "up", "-d"])?;
    ensure!(said(&["compose", "-p", "four", "ps", "-q"])?.lines().count() == 4, "three and one");
    said(&["compose", "-p", "four", "down", "-t", "1"])?;
    let pid = std::fs::read_to_string(home.join("run/skep.pid"))?;
    host.exec(&["kill", "-INT", pid.trim()])?;
    ensure!(dev.wait()?.success(), "skep dev ended badly");
    Ok(())
}
