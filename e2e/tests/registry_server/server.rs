//! A `skep registry` that runs until it is dropped, and requests to it as no client sends them.

use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU16, Ordering};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use sha2::Digest;
use skep_e2e::swarm::binaries;
use skep_e2e::{Host, eventually_some};

/// A registry on loopback, of this machine or of a host.
#[derive(Debug)]
pub struct Served {
    child: Child,
    log: PathBuf,
    at: At,
}

/// Where a registry listens, to ask it.
#[derive(Clone, Copy, Debug)]
pub struct At(pub SocketAddr);

impl std::ops::Deref for Served {
    type Target = At;

    fn deref(&self) -> &At {
        &self.at
    }
}

/// An answer.
#[derive(Clone, Debug)]
pub struct Answer {
    pub status: u16,
    head: String,
    pub body: Vec<u8>,
}

impl Answer {
    /// A header's value.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.head.lines().find_map(|line| {
            let (key, value) = line.split_once(':')?;
            key.eq_ignore_ascii_case(name).then(|| value.trim())
        })
    }

    /// The body as JSON.
    pub fn json(&self) -> Result<serde_json::Value> {
        serde_json::from_slice(&self.body).with_context(|| format!("{self:?}"))
    }

    /// The code of the first error.
    pub fn code(&self) -> String {
        let json = self.json().unwrap_or_default();
        json["errors"][0]["code"].as_str().unwrap_or_default().to_owned()
    }
}

/// `sha256:...`
pub fn digest(bytes: &[u8]) -> String {
    let hash = sha2::Sha256::digest(bytes);
    format!("sha256:{}", hash.iter().map(|b| format!("{b:02x}")).collect::<String>())
}

/// So many bytes that do not compress.
pub fn random(bytes: usize) -> Vec<u8> {
    std::iter::repeat_with(rand::random::<u8>).take(bytes).collect()
}

/// A port of this machine's loopback that nobody has, below those that the kernel gives by itself (ip(7),
/// `ip_local_port_range`): one of those could be a client's own while a server that comes back wants it again.
fn free_port() -> Result<u16> {
    const FIRST: u16 = 20_000;
    const COUNT: u16 = 10_000;
    static TAKEN: AtomicU16 = AtomicU16::new(0);
    let own = std::process::id().wrapping_mul(37) as u16 % COUNT;
    for _ in 0..COUNT {
        let port = FIRST + (own + TAKEN.fetch_add(1, Ordering::Relaxed) % COUNT) % COUNT;
        if TcpListener::bind(("127.0.0.1", port)).is_ok() {
            return Ok(port);
        }
    }
    bail!("no port from {FIRST} on is free");
}

impl Served {
    /// On this machine's loopback.
    pub fn start(dir: &Path, more: &[&str]) -> Result<Self> {
        Self::spawn(Command::new(binaries()?.0), dir, &format!("127.0.0.1:{}", free_port()?), more)
    }

    /// Where another has been.
    pub fn start_at(dir: &Path, at: At, more: &[&str]) -> Result<Self> {
        Self::spawn(Command::new(binaries()?.0), dir, &at.0.to_string(), more)
    }

    /// On a host.
    pub fn start_on(host: &Host, listen: &str, more: &[&str]) -> Result<Self> {
        let dir = host.dir.join(format!("skep-registry-{}", listen.replace([':', '.'], "-")));
        Self::spawn(host.command(&host.skep)?, &dir, listen, more)
    }

    fn spawn(mut command: Command, dir: &Path, listen: &str, more: &[&str]) -> Result<Self> {
        std::fs::create_dir_all(dir)?;
        let log = dir.with_extension("log");
        let file = std::fs::File::create(&log)?;
        command.args(["registry", "--listen", listen, "--data-dir"]).arg(dir).args(more);
        command.stdin(Stdio::null()).stdout(file.try_clone()?).stderr(file).env("NO_COLOR", "1");
        let mut child = command.spawn().context("start skep registry")?;
        let ready = eventually_some("the registry is ready", Duration::from_secs(60), || {
            let text = std::fs::read_to_string(&log)?;
            if let Some(line) = text.lines().find(|l| l.contains("the registry is ready")) {
                let address = line.split("address=").nth(1).and_then(|t| t.split(' ').next());
                return Ok(Some(Some(address.context("an address")?.parse()?)));
            }
            Ok(child.try_wait()?.map(|_| None))
        });
        let Ok(Some(address)) = ready else {
            let _ = child.kill();
            let _ = child.wait();
            bail!("skep registry did not start: {}", std::fs::read_to_string(&log)?);
        };
        Ok(Self { child, log, at: At(address) })
    }

    /// What it has logged.
    pub fn log(&self) -> Result<String> {
        Ok(std::fs::read_to_string(&self.log)?)
    }

    /// Ends it at once.
    pub fn kill(&mut self) -> Result<()> {
        self.child.kill()?;
        self.child.wait()?;
        Ok(())
    }

    /// Ends it by a signal; how it ended.
    pub fn end(mut self, signal: nix::sys::signal::Signal) -> Result<std::process::ExitStatus> {
        nix::sys::signal::kill(nix::unistd::Pid::from_raw(i32::try_from(self.child.id())?), signal)?;
        Ok(self.child.wait()?)
    }
}

impl At {
    /// One request and its answer.
    pub fn ask(&self, method: &str, path: &str, headers: &[&str], body: &[u8]) -> Result<Answer> {
        let mut stream = self.send(method, path, headers, body.len(), body)?;
        let answer = read(&mut stream).with_context(|| format!("{method} {path}"))?;
        let told = answer.header("content-length").and_then(|l| l.parse::<usize>().ok());
        let whole = method == "HEAD" || told.is_none_or(|l| l == answer.body.len());
        ensure!(whole, "{method} {path}: {} bytes came of {told:?}", answer.body.len());
        Ok(answer)
    }

    /// Sends a request that says it has so many bytes, and this of it.
    pub fn send(
        &self,
        method: &str,
        path: &str,
        headers: &[&str],
        length: usize,
        body: &[u8],
    ) -> Result<TcpStream> {
        let mut stream = TcpStream::connect(self.0)?;
        stream.set_read_timeout(Some(Duration::from_secs(120)))?;
        let mut head = format!("{method} {path} HTTP/1.1\r\nHost: {}\r\nConnection: close\r\n", self.0);
        if length > 0 || ["POST", "PUT", "PATCH"].contains(&method) {
            head.push_str(&format!("Content-Length: {length}\r\n"));
        }
        for header in headers {
            head.push_str(&format!("{header}\r\n"));
        }
        head.push_str("\r\n");
        stream.write_all(head.as_bytes())?;
        // A refusal may come before all is sent.
        let _ = stream.write_all(body);
        Ok(stream)
    }

    /// Pushes a blob in one request.
    pub fn push_blob(&self, name: &str, bytes: &[u8]) -> Result<String> {
        let digest = digest(bytes);
        let answer = self.ask("POST", &format!("/v2/{name}/blobs/uploads/?digest={digest}"), &[], bytes)?;
        ensure!(answer.status == 201, "{answer:?}");
        Ok(digest)
    }

    /// Pushes a manifest of these blobs; the answer.
    pub fn push_manifest(&self, name: &str, reference: &str, manifest: &serde_json::Value) -> Result<Answer> {
        let kind = manifest["mediaType"].as_str().unwrap_or("application/vnd.oci.image.manifest.v1+json");
        let header = format!("Content-Type: {kind}");
        self.ask(
            "PUT",
            &format!("/v2/{name}/manifests/{reference}"),
            &[&header],
            manifest.to_string().as_bytes(),
        )
    }

    /// Begins an upload; where it goes on.
    pub fn begin(&self, name: &str) -> Result<String> {
        let answer = self.ask("POST", &format!("/v2/{name}/blobs/uploads/"), &[], b"")?;
        ensure!(answer.status == 202 && answer.header("range") == Some("0-0"), "{answer:?}");
        Ok(answer.header("location").context("a location")?.to_owned())
    }
}

/// Reads an answer to its end.
pub fn read(stream: &mut TcpStream) -> Result<Answer> {
    let mut all = Vec::new();
    // A connection that is reset after the answer has given it all the same.
    let ended = stream.read_to_end(&mut all);
    let at =
        all.windows(4).position(|w| w == b"\r\n\r\n").with_context(|| format!("no answer: {ended:?}"))?;
    let head = String::from_utf8_lossy(&all[..at]).into_owned();
    let status = head.split(' ').nth(1).and_then(|s| s.parse().ok()).with_context(|| head.clone())?;
    let _ = stream.shutdown(Shutdown::Both);
    Ok(Answer { status, head, body: all.split_off(at + 4) })
}

impl Drop for Served {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A descriptor.
pub fn part(kind: &str, bytes: &[u8]) -> serde_json::Value {
    serde_json::json!({ "mediaType": kind, "digest": digest(bytes), "size": bytes.len() })
}

/// A manifest of a configuration and one layer.
pub fn manifest(config: &[u8], layer: &[u8]) -> serde_json::Value {
    serde_json::json!({
        "schemaVersion": 2, "mediaType": "application/vnd.oci.image.manifest.v1+json",
        "config": part("application/vnd.oci.image.config.v1+json", config),
        "layers": [part("application/vnd.oci.image.layer.v1.tar", layer)],
    })
}
