//! `attach` over a websocket, as a browser's terminal does it: the library of another project is the client.

use std::os::unix::net::UnixStream;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use skep_e2e::Host;
use tungstenite::{Message, WebSocket};

fn attach(host: &Host, path: &str) -> Result<WebSocket<UnixStream>> {
    let stream = UnixStream::connect(host.socket())?;
    stream.set_read_timeout(Some(Duration::from_secs(60)))?;
    match tungstenite::client(format!("ws://skep{path}"), stream) {
        Ok((socket, _)) => Ok(socket),
        Err(tungstenite::HandshakeError::Failure(tungstenite::Error::Http(answer))) => {
            let said = String::from_utf8_lossy(answer.body().as_deref().unwrap_or_default()).into_owned();
            bail!("{}: {said}", answer.status())
        }
        Err(e) => bail!("{e}"),
    }
}

/// Binary messages until `end` has come, or the connection is closed.
fn read(socket: &mut WebSocket<UnixStream>, end: &str) -> Result<String> {
    let mut got = Vec::new();
    while !String::from_utf8_lossy(&got).contains(end) {
        match socket.read().context("the daemon's message")? {
            Message::Binary(bytes) => got.extend_from_slice(&bytes),
            Message::Close(_) => break,
            Message::Ping(_) | Message::Pong(_) => {}
            other => bail!("{other:?} is no binary message"),
        }
    }
    Ok(String::from_utf8_lossy(&got).into_owned())
}

pub fn check(host: &Host) -> Result<()> {
    let script = "echo begun; while read line; do echo got $line; done; echo over >&2; exit 3";
    host.docker(&["run", "-d", "-i", "--name", "ws", "busybox", "/bin/busybox", "sh", "-c", script])?;
    // What it said before, then both ways; stdout and stderr are not framed.
    let mut socket =
        attach(host, "/v1.50/containers/ws/attach/ws?logs=1&stream=1&stdin=1&stdout=1&stderr=1")?;
    ensure!(read(&mut socket, "begun\n")? == "begun\n");
    socket.send(Message::Binary(b"one\n".as_slice().into()))?;
    ensure!(read(&mut socket, "one\n")? == "got one\n");
    socket.send(Message::Text("two\n".into()))?;
    ensure!(read(&mut socket, "two\n")? == "got two\n");
    socket.send(Message::Ping(b"?".as_slice().into()))?;
    // A second one sees what comes from then on; an older client did not choose what.
    let mut other = attach(host, "/v1.41/containers/ws/attach/ws?stream=1")?;
    other.send(Message::Binary(b"three\n".as_slice().into()))?;
    for socket in [&mut socket, &mut other] {
        ensure!(read(socket, "three\n")? == "got three\n");
    }
    // Who leaves ends only itself.
    other.close(None)?;
    while other.read().is_ok() {}
    socket.send(Message::Binary(b"four\n".as_slice().into()))?;
    ensure!(read(&mut socket, "four\n")? == "got four\n");
    host.docker(&["kill", "ws"])?;
    ensure!(read(&mut socket, "never")?.is_empty());
    host.docker(&["rm", "ws"])?;

    // A terminal is left by its keys.
    host.docker(&["run", "-dit", "--name", "ws", "busybox", "/bin/busybox", "sh"])?;
    let path = "/containers/ws/attach/ws?stream=1&stdin=1&stdout=1&detachKeys=ctrl-a,x";
    let mut socket = attach(host, path)?;
    socket.send(Message::Binary(b"echo $((6*7))\n".as_slice().into()))?;
    read(&mut socket, "42")?;
    socket.send(Message::Binary(b"\x01x".as_slice().into()))?;
    read(&mut socket, "never")?;
    ensure!(host.docker(&["inspect", "-f", "{{.State.Running}}", "ws"])?.trim() == "true");
    host.docker(&["rm", "-f", "ws"])?;

    for (path, told) in [
        (
            "/containers/nothing/attach/ws?stream=1",
            "404 Not Found: {\"message\":\"No such container: nothing\"}",
        ),
        ("/containers/ws/attach/ws?detachKeys=ctrl-", "400 Bad Request"),
    ] {
        let error = attach(host, path).err().context("it is refused")?.to_string();
        ensure!(error.starts_with(told), "{error}");
    }
    Ok(())
}
