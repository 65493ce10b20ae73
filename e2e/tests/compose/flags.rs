//! Flags that stand before the command.

use std::io::Write;
use std::path::Path;

use anyhow::{Result, ensure};
use skep_e2e::{Host, eventually};

use super::{Client, LONG, containers, lab, skep, write};

#[test]
fn names_are_those_of_old_in_compatibility_mode() -> Result<()> {
    let (lab, dir) = lab("ccompat")?;
    let host = lab.host(1);
    let file = "services:\n  web: {build: ., init: true, command: sleep 1000, stop_grace_period: 1s}\n  one: {image: bb, init: true, command: sleep 1000, container_name: mine, stop_grace_period: 1s}\n";
    write(&dir, &[("compose.yaml", file), ("Dockerfile", "FROM bb\nRUN true\n")])?;
    let seen = |client: Client, compatible: bool| -> Result<(Vec<String>, String)> {
        let ask = |args: &[&str]| {
            let mut command = client.command(host, &dir)?;
            match client {
                // One by the flag, the other by the variable: they are the same.
                Client::Skep if compatible => command.arg("--compatibility"),
                _ if compatible => command.env("COMPOSE_COMPATIBILITY", "true"),
                _ => &mut command,
            };
            let out = command.args(["-p", "old"]).args(args).output()?;
            ensure!(out.status.success(), "{client:?} {args:?}: {out:?}");
            Ok(String::from_utf8_lossy(&out.stdout).into_owned())
        };
        ask(&["up", "-d", "--scale", "web=2"])?;
        let names = containers(host)?.into_keys().collect();
        let images = ask(&["config", "--images"])?;
        let mut images: Vec<&str> = images.lines().collect();
        images.sort_unstable();
        let run = ask(&["run", "--rm", "-T", "web", "hostname"])?;
        ensure!(!run.is_empty(), "a container of its own");
        ask(&["down", "-t", "1", "--rmi", "local"])?;
        Ok((names, images.join(" ")))
    };
    for (compatible, names, image) in [
        (true, ["mine", "old_web_1", "old_web_2"], "old_web"),
        (false, ["mine", "old-web-1", "old-web-2"], "old-web"),
    ] {
        let (theirs, own) = (seen(Client::Docker, compatible)?, seen(Client::Skep, compatible)?);
        ensure!(theirs == own, "docker compose: {theirs:?}\nskep compose: {own:?}");
        ensure!(own.0 == names && own.1 == format!("bb {image}"), "{own:?}");
        // Docker's leaves the image with the old name.
        let left = host.docker(&["images", "--format", "{{.Repository}}"])?;
        ensure!(!left.contains(image), "{left}");
    }
    // What one has made the other finds.
    skep(host, &dir, &["--compatibility", "-p", "old", "up", "-d"])?;
    ensure!(skep(host, &dir, &["-p", "old", "ps", "-q"])?.lines().count() == 2);
    skep(host, &dir, &["-p", "old", "down", "-t", "1"])?;
    ensure!(containers(host)?.is_empty());
    lab.down()
}

#[test]
fn logs_are_coloured_where_that_is_asked_for() -> Result<()> {
    let (lab, dir) = lab("ccolour")?;
    let host = lab.host(1);
    write(&dir, &[("compose.yaml", "services:\n  one: {image: bb, command: echo said}\n")])?;
    skep(host, &dir, &["-p", "col", "up", "-d"])?;
    host.docker(&["wait", "col-one-1"])?;
    for client in [Client::Docker, Client::Skep] {
        for (before, after, coloured) in [
            (&["--ansi", "always"][..], &[][..], true),
            (&["--ansi", "always"], &["--no-color"], false),
            (&["--ansi", "never"], &[], false),
            // No terminal.
            (&[], &[], false),
        ] {
            let said = client.ok(host, &dir, &[&["-p", "col"], before, &["logs"], after].concat())?;
            ensure!(
                said.contains("said") && said.contains("\x1b[") == coloured,
                "{client:?} {before:?}: {said:?}"
            );
        }
    }
    for client in [Client::Docker, Client::Skep] {
        two_speak_in_turn(client, host, &dir)?;
    }
    // Said by a variable, of the environment or of the project; the flag has the last word.
    let mut command = Client::Skep.command(host, &dir)?;
    let out = command.env("COMPOSE_ANSI", "always").args(["-p", "col", "logs"]).output()?;
    ensure!(String::from_utf8_lossy(&out.stdout).contains("\x1b["), "{out:?}");
    write(&dir, &[(".env", "COMPOSE_ANSI=always\nCOMPOSE_PROGRESS=json\nCOMPOSE_IGNORE_ORPHANS=true\n")])?;
    ensure!(skep(host, &dir, &["-p", "col", "logs"])?.contains("\x1b["));
    ensure!(!skep(host, &dir, &["-p", "col", "--ansi", "never", "logs"])?.contains("\x1b["));
    write(&dir, &[("compose.yaml", "services:\n  two: {image: bb, command: echo said}\n")])?;
    let (code, _, err) = Client::Skep.run(host, &dir, &["-p", "col", "up", "-d"])?;
    ensure!(code == 0 && err.lines().all(|line| line.starts_with('{')), "{err}");
    ensure!(!err.contains("orphan"), "{err}");
    let (_, _, err) = Client::Skep.run(host, &dir, &["-p", "col", "--progress", "plain", "up", "-d"])?;
    ensure!(!err.contains('{'), "{err}");
    write(&dir, &[(".env", "COMPOSE_ANSI=green\nCOMPOSE_MENU=perhaps\n")])?;
    let (code, _, err) = Client::Skep.run(host, &dir, &["-p", "col", "logs"])?;
    ensure!(code != 0 && err.contains("COMPOSE_ANSI") && err.contains("green"), "{err}");
    let (code, _, err) = Client::Skep.run(host, &dir, &["-p", "col", "--ansi", "auto", "up"])?;
    ensure!(code != 0 && err.contains("COMPOSE_MENU") && err.contains("perhaps"), "{err}");
    skep(host, &dir, &["-p", "col", "--ansi", "auto", "down", "--remove-orphans"])?;
    lab.down()
}

/// `logs -f` of two services that speak each after the other, when the test says so.
fn two_speak_in_turn(client: Client, host: &Host, dir: &Path) -> Result<()> {
    let turns = dir.join("turns");
    std::fs::create_dir_all(&turns)?;
    // Each says what is handed to it, line by line.
    let file = "name: turns\nx-all: &all {image: bb, stop_grace_period: 0s, volumes: [./turns:/turns]}\nservices:\n  left: {<<: *all, command: sh -c 'echo begun; exec cat /turns/left'}\n  right: {<<: *all, command: sh -c 'echo begun; exec cat /turns/right'}\n";
    write(dir, &[("turns.yaml", file)])?;
    let mut pipes = Vec::new();
    for name in ["left", "right"] {
        let path = turns.join(name);
        nix::unistd::mkfifo(&path, nix::sys::stat::Mode::from_bits_truncate(0o666))?;
        // Open for reading too, so that neither side waits for the other, and none comes to an end.
        pipes.push(std::fs::OpenOptions::new().read(true).write(true).open(&path)?);
    }
    client.ok(host, dir, &["-f", "turns.yaml", "up", "-d"])?;
    let log = host.dir.join("turns.log");
    let mut logs = client.command(host, dir)?;
    logs.args(["--ansi", "always", "-f", "turns.yaml", "logs", "-f"]);
    let mut logs = logs.stdout(std::fs::File::create(&log)?).spawn()?;
    let seen = |line: &str, times: usize| {
        eventually(&format!("{line:?} is shown"), LONG, || {
            let said = std::fs::read_to_string(&log)?;
            ensure!(said.lines().filter(|l| l.ends_with(line)).count() == times, "{client:?}: {said:?}");
            Ok(())
        })
    };
    seen("begun", 2)?;
    for turn in ["1", "2"] {
        for (pipe, name) in pipes.iter_mut().zip(["left", "right"]) {
            writeln!(pipe, "{name}-{turn}")?;
            seen(&format!("{name}-{turn}"), 1)?;
        }
    }
    logs.kill()?;
    logs.wait()?;
    let said = std::fs::read_to_string(&log)?;
    let own = |line: &&str| {
        let text = line.rsplit('m').next().unwrap_or_default();
        ["left-", "right-"].iter().any(|name| text.starts_with(name) && !text.contains(' '))
    };
    let spoken: Vec<&str> = said.lines().filter(own).collect();
    let taken = ["left-1", "right-1", "left-2", "right-2"];
    ensure!(
        spoken.len() == taken.len() && spoken.iter().zip(taken).all(|(line, end)| line.ends_with(end)),
        "{client:?}: {said:?}"
    );
    // One colour for each, and another for the other.
    let colour = |line: &&str| line.split_once('m').map(|(code, _)| code.to_owned());
    let colours: Vec<_> = spoken.iter().map(colour).collect();
    ensure!(
        colours[0].as_ref().is_some_and(|c| c.starts_with("\x1b[")) && colours[0] != colours[1],
        "{client:?}: {said:?}"
    );
    ensure!(colours[0] == colours[2] && colours[1] == colours[3], "{client:?}: {said:?}");
    client.ok(host, dir, &["-f", "turns.yaml", "down"])?;
    Ok(std::fs::remove_dir_all(&turns)?)
}

#[test]
fn no_more_is_built_at_once_than_was_asked_for() -> Result<()> {
    let (lab, dir) = lab("cparallel")?;
    let host = lab.host(1);
    let file = "services:\n  one: {build: .}\n  two: {build: .}\n  three: {build: .}\n";
    // Each would find the other's directory.
    let text =
        "FROM bb\nRUN --mount=type=cache,target=/c mkdir /c/busy && sleep 1 && ls /c && rm -r /c/busy\n";
    write(&dir, &[("compose.yaml", file), ("Dockerfile", text)])?;
    skep(host, &dir, &["-p", "par", "--parallel", "1", "build", "--no-cache"])?;
    let mut command = Client::Skep.command(host, &dir)?;
    let out =
        command.env("COMPOSE_PARALLEL_LIMIT", "1").args(["-p", "par", "build", "--no-cache"]).output()?;
    ensure!(out.status.success(), "{out:?}");
    let images = host.docker(&["images", "-q", "--filter", "reference=par-*"])?;
    ensure!(images.lines().count() == 3, "{images}");
    // Or a variable of the project's.
    write(&dir, &[(".env", "COMPOSE_PARALLEL_LIMIT=1\n")])?;
    skep(host, &dir, &["-p", "par", "build", "--no-cache"])?;
    write(&dir, &[(".env", "COMPOSE_PARALLEL_LIMIT=few\n")])?;
    for client in [Client::Docker, Client::Skep] {
        let (code, _, err) = client.run(host, &dir, &["-p", "par", "build"])?;
        let words = "COMPOSE_PARALLEL_LIMIT must be an integer (found: \"few\")";
        ensure!(code != 0 && err.contains(words), "{client:?}: {err}");
    }
    let (code, _, err) = Client::Skep.run(host, &dir, &["--parallel", "many", "build"])?;
    ensure!(code != 0 && err.contains("--parallel") && err.contains("many"), "{err}");
    lab.down()
}
