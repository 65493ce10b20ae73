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
