//! `compose` at a terminal: what is made is drawn over itself, and keys do something while containers run.

use anyhow::{Result, ensure};
use skep_e2e::Terminal;

use super::{Client, field, lab, skep, write};

const FILE: &str = "services:\n  web:\n    image: bb\n    init: true\n    command: sh -c 'echo it runs; sleep 1000'\n    stop_grace_period: 1s\n    develop:\n      watch: [{action: sync, path: ./src, target: /app}]\n  side: {image: bb, init: true, command: sleep 1000, stop_grace_period: 1s}\n";

#[test]
fn keys_watch_and_detach_while_containers_run() -> Result<()> {
    let (lab, dir) = lab("cterm")?;
    let host = lab.host(1);
    write(&dir, &[("compose.yaml", FILE), ("src/a", "1")])?;
    let mut up = Client::Skep.command(host, &dir)?;
    up.args(["-p", "t", "up"]);
    let mut up = Terminal::start(up)?;
    up.until("Enable Watch")?;
    up.write(b"w")?;
    up.until("Watch enabled")?;
    std::fs::write(dir.join("src/a"), "2")?;
    up.until("Syncing service \"web\"")?;
    up.write(b"w")?;
    up.until("Watch disabled")?;
    up.write(b"d")?;
    ensure!(up.wait()? == Some(0));
    ensure!(field(host, "t-web-1", "{{.State.Running}}")? == "true", "it goes on without us");
    // Where nothing is to be watched, the key says so and nothing ends.
    let mut up = Client::Skep.command(host, &dir)?;
    up.args(["-p", "t", "up", "side"]);
    let mut up = Terminal::start(up)?;
    up.until("Enable Watch")?;
    up.write(b"w")?;
    up.until("none of the selected services is configured for watch")?;
    up.write(b"d")?;
    ensure!(up.wait()? == Some(0));
    // Left while services wait for others: what was asked for is started before the command ends.
    let slow = "services:\n  late: {image: bb, init: true, command: sleep 1000, depends_on: {slow: {condition: service_healthy}}}\n  slow: {image: bb, init: true, command: sh -c 'sleep 2; touch /ready; sleep 1000', healthcheck: {test: ls /ready, interval: 100ms, retries: 300}}\n";
    write(&dir, &[("slow.yaml", slow)])?;
    let mut up = Client::Skep.command(host, &dir)?;
    up.args(["-f", "slow.yaml", "-p", "s", "up"]);
    let mut up = Terminal::start(up)?;
    up.until("Enable Watch")?;
    up.write(b"d")?;
    ensure!(up.wait()? == Some(0));
    ensure!(field(host, "s-late-1", "{{.State.Running}}")? == "true", "it was asked for");
    skep(host, &dir, &["-f", "slow.yaml", "-p", "s", "down", "-t", "0"])?;
    // Without a menu keys mean nothing.
    let mut up = Client::Skep.command(host, &dir)?;
    up.args(["-p", "t", "up", "--menu=false", "--abort-on-container-exit", "side"]);
    let mut up = Terminal::start(up)?;
    up.until("Attaching to side-1")?;
    up.write(b"d")?;
    host.docker(&["kill", "t-side-1"])?;
    up.until("exited with code 137")?;
    ensure!(up.wait()? == Some(137));
    skep(host, &dir, &["-p", "t", "down", "-t", "0"])?;
    lab.down()
}

#[test]
fn progress_is_told_as_it_is_asked_for() -> Result<()> {
    let (lab, dir) = lab("cprog")?;
    let host = lab.host(1);
    write(&dir, &[("compose.yaml", "services: {web: {image: bb, init: true, command: sleep 1000}}\n")])?;
    for (flags, words) in [
        (&["--progress", "json"][..], "{\"id\":\"Container g-web-1\",\"status\":\"Creating\"}\n"),
        (&["--progress", "plain"], " Container g-web-1  Creating\n"),
        (&["--progress", "tty"], "[+] Running 0/1\n"),
    ] {
        let (code, out, err) = Client::Skep.run(host, &dir, &[flags, &["-p", "g", "up", "-d"]].concat())?;
        ensure!(code == 0 && err.contains(words), "{flags:?}: {code} {out}{err}");
        let (code, out, err) =
            Client::Skep.run(host, &dir, &["--progress", "quiet", "-p", "g", "down", "-t", "0"])?;
        ensure!(code == 0 && out.is_empty() && err.is_empty(), "{code} {out}{err}");
    }
    // A variable that is set to nothing says nothing; a word that is none of those there are is named.
    let mut unset = Client::Skep.command(host, &dir)?;
    let status = unset.args(["-p", "g", "ps"]).env("COMPOSE_PROGRESS", "").output()?;
    ensure!(status.status.success(), "{status:?}");
    for (args, words) in [
        (&["--progress", "odd", "ps"][..], "unsupported --progress value \"odd\""),
        (&["up", "--menu=flase"], "invalid argument \"flase\" for \"--menu\""),
    ] {
        let (code, _, err) = Client::Skep.run(host, &dir, args)?;
        ensure!(code != 0 && err.contains(words), "{args:?}: {code} {err}");
    }
    for (flags, words) in [
        (
            &["--ansi", "never", "--progress", "tty"][..],
            "can't use --progress tty while ANSI support is disabled",
        ),
        (
            &["--ansi", "always", "--progress", "plain"],
            "can't use --progress plain while ANSI support is forced",
        ),
    ] {
        for client in [Client::Docker, Client::Skep] {
            let (code, _, err) = client.run(host, &dir, &[flags, &["ps"]].concat())?;
            ensure!(code != 0 && err.contains(words), "{client:?} {flags:?}: {code} {err}");
        }
    }
    lab.down()
}
