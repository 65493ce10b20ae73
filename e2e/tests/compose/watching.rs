//! `compose watch`, and one file for everything.

use std::process::Stdio;

use anyhow::{Result, ensure};
use skep_e2e::eventually;
use skep_e2e::swarm::begun;

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
    watch.kill()?;
    watch.wait()?;
    skep(host, &dir, &["-p", "w", "down", "-t", "1"])?;
    lab.down()
}

#[test]
fn one_file_is_a_project_and_a_stack() -> Result<()> {
    let (lab, dir) = prepared(begun("cone", 1)?)?;
    let host = lab.host(1);
    let file = "services:\n  web:\n    image: bb\n    init: true\n    command: sleep 1000000\n    environment: {A: \"1\"}\n    configs: [{source: app, target: /etc/app.conf}]\n    secrets: [key]\n    depends_on: [db]\n    stop_grace_period: 1s\n    deploy: {replicas: 2, update_config: {order: start-first}}\n  db: {image: bb, init: true, command: sleep 1000000, stop_grace_period: 1s}\nconfigs: {app: {content: \"conf\\n\"}}\nsecrets: {key: {file: ./key}}\n";
    write(&dir, &[("compose.yaml", file), ("key", "secret\n")])?;
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
    let task = host.docker(&["ps", "-q", "-f", "label=com.docker.swarm.service.name=two_web"])?;
    ensure!(task.lines().count() == 2, "{task}");
    let all = containers(host)?;
    ensure!(all.contains_key("one-web-1") && all.contains_key("one-web-2") && all.len() == 6, "{all:?}");
    for container in ["one-web-2", task.lines().next().unwrap_or_default()] {
        let inside =
            host.docker(&["exec", container, "sh", "-c", "cat /etc/app.conf /run/secrets/key; echo $A"])?;
        ensure!(inside == "conf\nsecret\n1\n", "{container}: {inside}");
    }
    skep(host, &dir, &["-p", "one", "down"])?;
    host.skep(&["stack", "rm", "two"])?;
    lab.down()
}
