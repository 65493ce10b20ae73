//! A REST client as thin as can be: HTTP/1.1 over a Unix socket, one connection kept open. It must not
//! add to what it measures, and it speaks to Docker and Skep alike.

use std::io::{BufRead, BufReader, Write};
use std::os::fd::AsRawFd;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use nix::errno::Errno;
use nix::sys::socket::{MsgFlags, recv};
use serde_json::Value;

/// The version both daemons speak.
const VERSION: &str = "/v1.41";

/// A client of one daemon.
pub struct Client {
    socket: PathBuf,
    timeout: Duration,
    stream: Option<BufReader<UnixStream>>,
}

impl Client {
    /// For the daemon at this socket; connects at the first call.
    pub fn new(socket: &Path) -> Self {
        Self { socket: socket.to_owned(), timeout: Duration::from_secs(60), stream: None }
    }

    /// With no call longer than this.
    pub fn within(self, timeout: Duration) -> Self {
        Self { timeout, ..self }
    }

    /// Where it connects to.
    pub fn socket(&self) -> &Path {
        &self.socket
    }

    /// GET.
    pub fn get(&mut self, path: &str) -> Result<Value> {
        self.json("GET", path, None)
    }

    /// POST.
    pub fn post(&mut self, path: &str, body: Option<&Value>) -> Result<Value> {
        self.json("POST", path, body)
    }

    /// DELETE.
    pub fn delete(&mut self, path: &str) -> Result<Value> {
        self.json("DELETE", path, None)
    }

    /// Imports a tar as an image.
    pub fn import(&mut self, tar: &[u8], name: &str) -> Result<()> {
        let path = format!("/images/create?fromSrc=-&repo={name}");
        let (status, answer) = self.send("POST", &path, "application/x-tar", tar)?;
        let text = String::from_utf8_lossy(&answer);
        if status != 200 || text.contains("\"error\"") {
            bail!("import {name}: {status} {text}");
        }
        Ok(())
    }

    fn json(&mut self, method: &str, path: &str, body: Option<&Value>) -> Result<Value> {
        let body = body.map(serde_json::to_vec).transpose()?.unwrap_or_default();
        let (status, answer) = self.send(method, path, "application/json", &body)?;
        if status >= 400 {
            bail!("{method} {path}: {status} {}", String::from_utf8_lossy(&answer));
        }
        if answer.is_empty() {
            return Ok(Value::Null);
        }
        serde_json::from_slice(&answer).or_else(|_| Ok(Value::String(String::from_utf8(answer)?)))
    }

    fn send(&mut self, method: &str, path: &str, kind: &str, body: &[u8]) -> Result<(u16, Vec<u8>)> {
        // After a failure the connection is in no known state.
        let mut stream = match self.stream.take().filter(|open| !hung_up(open.get_ref())) {
            Some(open) => open,
            None => {
                let stream = UnixStream::connect(&self.socket)
                    .with_context(|| format!("connect to {}", self.socket.display()))?;
                stream.set_read_timeout(Some(self.timeout))?;
                BufReader::new(stream)
            }
        };
        let mut request = format!(
            "{method} {VERSION}{path} HTTP/1.1\r\nHost: bench\r\nContent-Type: {kind}\r\nContent-Length: {}\r\n\r\n",
            body.len()
        )
        .into_bytes();
        request.extend_from_slice(body);
        stream.get_mut().write_all(&request)?;
        let answer = receive(&mut stream).with_context(|| format!("{method} {path}"))?;
        self.stream = Some(stream);
        Ok(answer)
    }
}

/// Whether the daemon has closed this idle connection: it was restarted meanwhile.
fn hung_up(stream: &UnixStream) -> bool {
    let flags = MsgFlags::MSG_PEEK | MsgFlags::MSG_DONTWAIT;
    recv(stream.as_raw_fd(), &mut [0], flags) != Err(Errno::EAGAIN)
}

fn line(from: &mut impl BufRead) -> Result<String> {
    let mut line = String::new();
    if from.read_line(&mut line)? == 0 {
        bail!("the daemon closed the connection");
    }
    Ok(line.trim_end().to_owned())
}

/// An answer: its status and its body (RFC 9112).
fn receive(from: &mut impl BufRead) -> Result<(u16, Vec<u8>)> {
    let first = line(from)?;
    let status = first.split(' ').nth(1).and_then(|s| s.parse().ok());
    let status: u16 = status.with_context(|| format!("no status in {first:?}"))?;
    let (mut length, mut chunked) = (0, false);
    loop {
        let header = line(from)?.to_ascii_lowercase();
        match header.split_once(':') {
            None => break,
            Some(("content-length", value)) => length = value.trim().parse()?,
            Some(("transfer-encoding", value)) => chunked = value.contains("chunked"),
            Some(_) => {}
        }
    }
    let mut body = Vec::new();
    if !chunked {
        body.resize(length, 0);
        from.read_exact(&mut body)?;
        return Ok((status, body));
    }
    loop {
        let size = usize::from_str_radix(line(from)?.split(';').next().unwrap_or_default(), 16)?;
        let start = body.len();
        body.resize(start + size, 0);
        from.read_exact(&mut body[start..])?;
        line(from)?;
        if size == 0 {
            return Ok((status, body));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_with_a_length_in_chunks_and_without_a_body() {
        let parse = |text: &str| receive(&mut text.as_bytes()).expect("an answer");
        assert_eq!(parse("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhi"), (200, b"hi".to_vec()));
        let chunks = "HTTP/1.1 201 C\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nab\r\n1;x\r\nc\r\n0\r\n\r\n";
        assert_eq!(parse(chunks), (201, b"abc".to_vec()));
        assert_eq!(parse("HTTP/1.1 204 N\r\n\r\n"), (204, Vec::new()));
    }
}
