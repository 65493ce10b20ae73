//! What a person at a terminal, or a program at the end of a pipe, does with a command that goes on.

use std::io::Read;
use std::os::unix::process::ExitStatusExt;
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use skep_e2e::eventually;

use crate::{busybox, docker, lab, skep};

const LONG: Duration = Duration::from_secs(60);

#[test]
fn waiting_for_a_service_can_be_left_and_a_closed_pipe_is_no_error() -> Result<()> {
    let lab = lab("cw")?;
    let host = lab.host(1);
    host.skep(&["swarm", "init", "--advertise-addr", &host.addr])?;
    let mut command = host.skep_command();
    // No node has this label, so the service never converges.
    command.args(["service", "create", "--name", "stuck", "--constraint", "node.labels.x==y", "whoami:1"]);
    let mut child = command.stdin(Stdio::null()).stdout(Stdio::piped()).spawn()?;
    let mut out = child.stdout.take().context("piped")?;
    let mut said = Vec::new();
    let mut buffer = [0; 4096];
    // The reason of the scheduler is part of the progress.
    while !String::from_utf8_lossy(&said).contains("1/1: ") {
        let n = out.read(&mut buffer)?;
        ensure!(n > 0, "ended: {}", String::from_utf8_lossy(&said));
        said.extend_from_slice(&buffer[..n]);
    }
    nix::sys::signal::kill(
        nix::unistd::Pid::from_raw(i32::try_from(child.id())?),
        nix::sys::signal::Signal::SIGINT,
    )?;
    out.read_to_end(&mut said)?;
    let said = String::from_utf8_lossy(&said);
    ensure!(child.wait()?.success(), "{said}");
    ensure!(
        said.contains("Operation continuing in background.") && said.contains("skep service ps "),
        "{said}"
    );
    ensure!(host.docker(&["service", "ls", "-q"])?.lines().count() == 1, "the service is gone");

    for args in [&["completion", "bash"][..], &["service", "ls"], &["--help"]] {
        let mut command = host.skep_command();
        let mut child =
            command.args(args).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn()?;
        drop(child.stdout.take());
        let out = child.wait_with_output()?;
        ensure!(out.stderr.is_empty(), "{args:?}: {}", String::from_utf8_lossy(&out.stderr));
        ensure!(out.status.signal().is_none(), "{args:?}: {}", out.status);
    }
    lab.down()
}

#[test]
fn a_terminal_is_handed_over_resized_and_left_by_its_keys() -> Result<()> {
    let lab = lab("ct")?;
    let host = lab.host(1);
    let pty = nix::pty::openpty(
        Some(&nix::pty::Winsize { ws_row: 33, ws_col: 77, ws_xpixel: 0, ws_ypixel: 0 }),
        None,
    )?;
    let mut command = host.skep_command();
    command.args(["run", "-it", "--name", "term", "whoami:1", "/skep", "whoami"]);
    command.stdin(pty.slave.try_clone()?).stdout(pty.slave.try_clone()?).stderr(pty.slave.try_clone()?);
    let mut child = command.spawn()?;
    drop(command);
    let mut master = std::fs::File::from(pty.master);
    eventually("it runs", LONG, || {
        let state = host.docker(&["inspect", "-f", "{{.State.Running}} {{.Config.Tty}}", "term"])?;
        ensure!(state.trim() == "true true", "{state}");
        Ok(())
    })?;
    let pid = host.docker(&["inspect", "-f", "{{.State.Pid}}", "term"])?;
    eventually("its terminal has our size", LONG, || {
        let size = host.exec(&["sh", "-c", &format!("stty size </proc/{}/fd/0", pid.trim())])?;
        ensure!(size.trim() == "33 77", "{size}");
        Ok(())
    })?;
    use std::io::Write;
    master.write_all(b"\x10\x11")?;
    let status = child.wait()?;
    ensure!(status.success(), "{status}");
    ensure!(
        host.docker(&["inspect", "-f", "{{.State.Running}}", "term"])?.trim() == "true",
        "it was stopped"
    );
    // Without a terminal of our own there is none to hand over.
    let refused = skep(host, &["run", "-it", "whoami:1"])?;
    if refused.code != Some(1) || !refused.stderr.contains("the input device is not a TTY") {
        bail!("{refused:?}");
    }
    lab.down()
}

#[test]
fn what_is_typed_reaches_a_container_attached_in_every_way() -> Result<()> {
    let lab = lab("ci")?;
    let host = lab.host(1);
    busybox(host)?;
    let typed = |mut command: Command, args: &[&str], text: &[u8]| -> Result<std::process::Output> {
        use std::io::Write;
        let mut child =
            command.args(args).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn()?;
        child.stdin.take().context("piped")?.write_all(text)?;
        Ok(child.wait_with_output()?)
    };
    let cat = ["busybox", "/bin/busybox", "sh", "-c", "/bin/busybox cat; exit 7"];
    for command in [host.docker_command(), host.skep_command()] {
        let out = typed(command, &[&["run", "-i", "--rm"][..], &cat].concat(), b"through a pipe\n")?;
        ensure!(out.stdout == b"through a pipe\n" && out.status.code() == Some(7), "{out:?}");
    }
    host.docker(&[&["create", "-i", "--name", "kept"][..], &cat].concat())?;
    for command in [host.docker_command(), host.skep_command()] {
        let out = typed(command, &["start", "-a", "-i", "kept"], b"once more\n")?;
        ensure!(out.stdout == b"once more\n" && out.status.code() == Some(7), "{out:?}");
    }
    // Without asking for a connection of its own, the request's body is the input.
    host.docker(&["start", "kept"])?;
    let url = "http://skep/containers/kept/attach?stream=1&stdin=1&stdout=1";
    let mut curl = Command::new("curl");
    curl.arg("--unix-socket").arg(host.socket());
    let out = typed(curl, &["-sS", "--max-time", "60", "-X", "POST", "-T", "-", url], b"as a body\n")?;
    ensure!(out.status.success() && out.stdout.ends_with(b"as a body\n"), "{out:?}");
    host.docker(&["rm", "-f", "kept"])?;

    crate::websocket::check(host)?;

    // Events are told in the same words.
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH)?.as_secs();
    let until = (now + 1).to_string();
    let past = ["events", "--since", "1", "--until", &until];
    let (theirs, ours) = (docker(host, &past)?, skep(host, &past)?);
    let zone = |text: &str| text.replace("+00:00", "Z");
    ensure!(
        zone(&theirs.stdout) == zone(&ours.stdout) && ours.stdout.contains("container die"),
        "{theirs:?} {ours:?}"
    );
    lab.down()
}
