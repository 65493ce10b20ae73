//! A real registry (Debian's `docker-registry`) on a laboratory host, and a proxy before it that cuts connections.

use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, AtomicUsize, Ordering};
use std::time::Duration;

use anyhow::{Context, Result, bail};

use crate::{Host, eventually};

/// `me:secret`, as `htpasswd -B` writes it.
const HTPASSWD: &str = "me:$2b$04$xjudlm5TvbK6Vx7YtQ3QweHmThhPkC.KMXD1enOMw4P0MrXtMWXCG\n";

/// How a registry serves.
#[derive(Clone, Debug, Default)]
pub struct RegistryOptions {
    /// Certificate and key in PEM; none = plain HTTP.
    pub tls: Option<(PathBuf, PathBuf)>,
    /// Whether it wants user `me` with password `secret`.
    pub password: bool,
}

/// A registry that runs until it is dropped.
#[derive(Debug)]
pub struct Registry {
    child: Child,
    /// `address:port`.
    pub name: String,
}

impl Registry {
    /// Where a registry of this name on this host keeps what it has.
    pub fn directory(host: &Host, name: &str) -> PathBuf {
        host.dir.join(format!("registry-{}", name.replace([':', '.'], "-")))
    }

    /// Starts one on a host and waits until it answers.
    pub fn start(host: &Host, name: &str, options: &RegistryOptions) -> Result<Self> {
        let dir = Self::directory(host, name);
        std::fs::create_dir_all(&dir)?;
        let mut config = format!(
            "version: 0.1\nlog:\n  level: error\n  accesslog:\n    disabled: true\nstorage:\n  filesystem:\n    rootdirectory: {}\n  delete:\n    enabled: true\nhttp:\n  addr: {name}\n",
            dir.join("data").display()
        );
        if let Some((cert, key)) = &options.tls {
            config.push_str(&format!(
                "  tls:\n    certificate: {}\n    key: {}\n",
                cert.display(),
                key.display()
            ));
        }
        if options.password {
            let file = dir.join("htpasswd");
            std::fs::write(&file, HTPASSWD)?;
            config.push_str(&format!("auth:\n  htpasswd:\n    realm: test\n    path: {}\n", file.display()));
        }
        let path = dir.join("config.yml");
        std::fs::write(&path, config)?;
        let log = std::fs::File::create(dir.join("log"))?;
        let mut command = host.command("sh")?;
        command
            .args(["-c", "echo $$ > \"$0\" && exec \"$@\""])
            .arg(dir.join("pid"))
            .arg(unpacked("docker-registry")?);
        command.arg("serve").arg(&path).env("OTEL_TRACES_EXPORTER", "none");
        command.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log);
        let child = command.spawn().context("start docker-registry")?;
        let mut registry = Self { child, name: name.to_owned() };
        let url = format!("{}://{name}/v2/", if options.tls.is_some() { "https" } else { "http" });
        eventually("the registry answers", Duration::from_secs(60), || {
            if let Some(status) = registry.child.try_wait()? {
                bail!(
                    "docker-registry ended with {status}: {}",
                    std::fs::read_to_string(dir.join("log")).unwrap_or_default()
                );
            }
            host.exec(&["curl", "-skS", "-o", "/dev/null", &url]).map(drop)
        })?;
        Ok(registry)
    }

    /// Ends it at once, as a crash would. (Dropped, it may go on until its host ends.)
    pub fn kill(mut self, host: &Host) -> Result<()> {
        let pid = std::fs::read_to_string(Self::directory(host, &self.name).join("pid"))?;
        host.exec(&["kill", "-9", pid.trim()])?;
        self.child.wait()?;
        Ok(())
    }
}

impl Drop for Registry {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Where `cargo xtask test` unpacks a package's program, or wherever it is installed.
pub fn unpacked(name: &str) -> Result<PathBuf> {
    let mut dir = std::env::current_exe()?;
    while dir.pop() {
        let unpacked = dir.join("tools/usr/bin").join(name);
        if unpacked.exists() {
            return Ok(unpacked);
        }
    }
    let installed = Path::new("/usr/bin").join(name);
    if installed.exists() {
        return Ok(installed);
    }
    bail!(
        "{name} is not there: run `cargo xtask test` once, which unpacks it, or install Debian's package of that name"
    )
}

/// Passes connections on, and cuts some of them after so many bytes of answers.
#[derive(Debug)]
pub struct CutProxy {
    /// Connections still to be cut.
    cuts: Arc<AtomicI64>,
    /// Requests for the rest of a blob that went through.
    ranges: Arc<AtomicUsize>,
}

impl CutProxy {
    /// Listens on a host's port, and passes on to another of its ports.
    pub fn start(host: &Host, listen: &str, to: &str, after: usize) -> Result<Self> {
        let init = host.init.context("the host is dead")?;
        let (listen, to) = (listen.to_owned(), to.to_owned());
        let proxy = Self { cuts: Arc::default(), ranges: Arc::default() };
        let (cuts, ranges) = (proxy.cuts.clone(), proxy.ranges.clone());
        let (ready, started) = std::sync::mpsc::channel();
        std::thread::spawn(move || {
            let bound = enter(&format!("/proc/{init}/ns/net")).and_then(|()| Ok(TcpListener::bind(&listen)?));
            let listener = match bound {
                Ok(listener) => {
                    let _ = ready.send(Ok(()));
                    listener
                }
                Err(e) => {
                    let _ = ready.send(Err(e));
                    return;
                }
            };
            for client in listener.incoming().flatten() {
                // From this thread: only it is on the host.
                let Ok(server) = TcpStream::connect(&to) else { continue };
                let (cuts, ranges) = (cuts.clone(), ranges.clone());
                std::thread::spawn(move || pass(client, server, after, &cuts, &ranges));
            }
        });
        started.recv()??;
        Ok(proxy)
    }

    /// Cuts the next so many connections that carry enough.
    pub fn cut(&self, connections: i64) {
        self.cuts.store(connections, Ordering::SeqCst);
    }

    /// Requests with a `Range` that went through.
    pub fn ranges(&self) -> usize {
        self.ranges.load(Ordering::SeqCst)
    }
}

/// Takes this thread to another network.
pub(crate) fn enter(netns: &str) -> Result<()> {
    let file = std::fs::File::open(netns).with_context(|| format!("open {netns}"))?;
    Ok(nix::sched::setns(file, nix::sched::CloneFlags::CLONE_NEWNET)?)
}

fn pass(client: TcpStream, server: TcpStream, after: usize, cuts: &AtomicI64, ranges: &Arc<AtomicUsize>) {
    let (Ok(mut from), Ok(mut to)) = (client.try_clone(), server.try_clone()) else { return };
    let ranges = ranges.clone();
    std::thread::spawn(move || {
        let mut buffer = [0; 16 << 10];
        while let Ok(n @ 1..) = from.read(&mut buffer) {
            if String::from_utf8_lossy(&buffer[..n]).to_ascii_lowercase().contains("\r\nrange: bytes=") {
                ranges.fetch_add(1, Ordering::SeqCst);
            }
            if to.write_all(&buffer[..n]).is_err() {
                break;
            }
        }
        let _ = to.shutdown(Shutdown::Write);
    });
    let (mut server, mut client) = (server, client);
    let mut buffer = [0; 16 << 10];
    let mut passed = 0;
    while let Ok(n @ 1..) = server.read(&mut buffer) {
        if client.write_all(&buffer[..n]).is_err() {
            break;
        }
        passed += n;
        if passed > after && cuts.fetch_sub(1, Ordering::SeqCst) > 0 {
            break;
        }
    }
    let _ = client.shutdown(Shutdown::Both);
    let _ = server.shutdown(Shutdown::Both);
}

impl Host {
    /// Gives the host an `/etc` of its own, which begins as this machine's.
    pub fn own_etc(&self) -> Result<PathBuf> {
        let upper = self.dir.join("etc");
        std::fs::create_dir_all(&upper)?;
        let script = "mount -t tmpfs tmpfs $1 && mkdir $1/u $1/w && : > $1/u/resolv.conf && mount -t overlay overlay -o lowerdir=/etc,upperdir=$1/u,workdir=$1/w /etc";
        self.exec(&["sh", "-c", script, "sh", &upper.display().to_string()])?;
        Ok("/etc".into())
    }

    /// Writes a file as the host sees it.
    pub fn write(&self, path: &str, content: &[u8]) -> Result<()> {
        let script = "mkdir -p \"$(dirname $1)\" && cat > $1";
        let mut command = self.command("sh")?;
        let mut child = command.args(["-c", script, "sh", path]).stdin(Stdio::piped()).spawn()?;
        child.stdin.take().context("its input")?.write_all(content)?;
        let status = child.wait()?;
        if !status.success() {
            bail!("write {path} on host {}: {status}", self.number);
        }
        Ok(())
    }

    /// The real docker client run on the host itself, which needs its network for `manifest`.
    pub fn docker_inside(&self) -> Result<Command> {
        let mut command = self.command("env")?;
        command.arg(format!("DOCKER_HOST={}", self.docker_host()));
        command.arg(format!("DOCKER_CONFIG={}", self.dir.join("docker-config").display()));
        command.arg("docker");
        Ok(command)
    }
}
