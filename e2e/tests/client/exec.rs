//! Further commands in a container: both clients, a terminal, and connections taken over without asking.

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::process::{Command, Stdio};

use anyhow::{Context, Result, ensure};
use skep_e2e::{Host, Terminal};

use crate::compare::Compare;
use crate::{busybox, docker, lab, ok};

const SHELL: &str = "/bin/busybox sh -c";

#[test]
fn commands_run_in_containers_as_docker_runs_them() -> Result<()> {
    let lab = lab("xe")?;
    let host = lab.host(1);
    busybox(host)?;
    host.docker(&["run", "-d", "--name", "up", "busybox", "/bin/busybox", "sleep", "100000"])?;
    host.docker(&["create", "--name", "made", "busybox", "/bin/busybox", "true"])?;
    let mut compare = Compare::new(host);
    for line in [
        "exec up /bin/busybox echo hello",
        &format!("exec up {SHELL} 'echo out; echo err >&2; exit 3'"),
        &format!("exec -e A=1 --env B=2 up {SHELL} 'echo $A$B'"),
        "exec -u 5:6 up /bin/busybox id -u",
        "exec -w /bin up /bin/busybox pwd",
        "exec -t up /bin/busybox echo on a terminal",
        "exec --privileged up /bin/busybox grep CapEff /proc/self/status",
        "container exec up /bin/busybox echo hello",
        "exec up nope",
        "exec -d up nope",
        "exec up /bin",
        "exec -w /nope up /bin/busybox true",
        "exec -u nobody up /bin/busybox true",
        "exec -d up /bin/busybox true",
        "exec made /bin/busybox true",
        "exec gone /bin/busybox true",
        "exec up",
        "exec",
        "exec -it up /bin/busybox true",
        "inspect -f '{{json .ExecIDs}}' up",
        "cp up:/proc/version -",
        "cp up:/sys/kernel/notes -",
        "cp up:/proc/self/status -",
    ] {
        compare.same(line)?;
    }
    compare.end()?;
    // The kernel's own files have no size to copy.
    let gone = docker(host, &["cp", "up:/proc/version", "-"])?;
    ensure!(
        gone.code == Some(1) && gone.stderr.contains("Could not find the file /proc/version"),
        "{gone:?}"
    );
    let empty = ok(docker(host, &["cp", "up:/proc", "-"])?)?;
    ensure!(empty.contains("proc/") && !empty.contains("version"), "{empty:?}");
    let nameless = docker(host, &["exec", "up", ""])?;
    let said = "exec: \"\": executable file not found in $PATH";
    ensure!(nameless.code == Some(127) && nameless.stdout.contains(said), "{nameless:?}");

    for mut command in [host.docker_command(), host.skep_command()] {
        command.args(["exec", "-i", "up", "/bin/busybox", "sh", "-c", "/bin/busybox cat; exit 7"]);
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn()?;
        child.stdin.take().context("piped")?.write_all(b"through a pipe\n")?;
        let out = child.wait_with_output()?;
        ensure!(out.stdout == b"through a pipe\n" && out.status.code() == Some(7), "{out:?}");
    }
    for command in [host.docker_command(), host.skep_command()] {
        on_a_terminal(command)?;
    }
    bare(host)?;
    host.docker(&["rm", "-f", "up"])?;
    lab.down()
}

/// The terminal of an exec follows the size of ours, and can be left.
fn on_a_terminal(mut command: Command) -> Result<()> {
    command.args(["exec", "-it", "up", "/bin/busybox", "sh"]);
    let mut terminal = Terminal::start(command)?;
    // It may be asked before the size has arrived.
    terminal.write(b"while ! /bin/busybox stty size | /bin/busybox grep '33 77'; do :; done\n")?;
    terminal.until("\r\n33 77\r\n")?;
    terminal.write(b"while ! /bin/busybox stty size | /bin/busybox grep '44 99'; do :; done\n")?;
    terminal.resize(44, 99, "\r\n44 99\r\n")?;
    terminal.write(b"echo still $((40+2)); \n")?;
    terminal.until("still 42")?;
    terminal.write(b"\x10\x11")?;
    let code = terminal.wait()?;
    ensure!(code == Some(1), "left by its keys: {code:?}");
    Ok(())
}

/// Sends a request and no `Upgrade`, and at once what is input already; the connection after the head of the answer.
fn taken(host: &Host, path: &str, body: &str, early: &str) -> Result<UnixStream> {
    let mut stream = UnixStream::connect(host.socket())?;
    let length = if body.is_empty() {
        String::new()
    } else {
        format!("Content-Type: application/json\r\nContent-Length: {}\r\n", body.len())
    };
    write!(stream, "POST {path} HTTP/1.1\r\nHost: skep\r\n{length}\r\n{body}{early}")?;
    let (mut head, mut byte) = (Vec::new(), [0]);
    while !head.ends_with(b"\r\n\r\n") {
        stream.read_exact(&mut byte)?;
        head.push(byte[0]);
    }
    let head = String::from_utf8(head)?;
    ensure!(
        head.starts_with("HTTP/1.1 200 OK\r\n") && !head.contains("Transfer-Encoding"),
        "not bare: {head}"
    );
    Ok(stream)
}

/// What is written to a bare connection is input, to its half-close; what comes back are frames.
fn bare(host: &Host) -> Result<()> {
    let answers = |mut stream: UnixStream, early: &str, text: &str| -> Result<()> {
        write!(stream, "{text}")?;
        stream.shutdown(std::net::Shutdown::Write)?;
        let mut out = Vec::new();
        stream.read_to_end(&mut out)?;
        let (mut said, mut rest) = (Vec::new(), out.as_slice());
        while let [1, 0, 0, 0, 0, 0, 0, length, after @ ..] = rest {
            let (frame, after) = after.split_at_checked((*length).into()).context("a whole frame")?;
            said.extend_from_slice(frame);
            rest = after;
        }
        ensure!(rest.is_empty() && said == format!("{early}{text}").as_bytes(), "{out:?}");
        Ok(())
    };
    let mut curl = Command::new("curl");
    curl.arg("--unix-socket").arg(host.socket()).args(["-sS", "-H", "Content-Type: application/json", "-d"]);
    curl.arg(r#"{"Cmd":["/bin/busybox","cat"],"AttachStdin":true,"AttachStdout":true}"#);
    let made = curl.arg("http://skep/v1.50/containers/up/exec").output()?;
    let made: serde_json::Value = serde_json::from_slice(&made.stdout)?;
    let id = made["Id"].as_str().context("an ID")?;
    // What looks like a request is none.
    let early = "GET /\"{} HTTP/1.1\r\n";
    answers(taken(host, &format!("/v1.50/exec/{id}/start"), "{}", early)?, early, "typed in\n")?;

    host.docker(&["create", "-i", "--name", "cat", "busybox", "/bin/busybox", "cat"])?;
    let stream = taken(host, "/v1.50/containers/cat/attach?stream=1&stdin=1&stdout=1", "", "")?;
    host.docker(&["start", "cat"])?;
    // StdinOnce is not set: the input ends with the container only.
    let mut stream = stream;
    stream.write_all(b"typed in\n")?;
    let mut frame = [0; 17];
    stream.read_exact(&mut frame)?;
    ensure!(&frame[8..] == b"typed in\n", "{frame:?}");
    host.docker(&["rm", "-f", "cat"])?;
    ensure!(stream.read(&mut frame)? == 0, "the end of the container is that of its streams");
    Ok(())
}
