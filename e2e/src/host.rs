//! One laboratory host: its namespaces, its daemon, and running commands in it or against it.

use std::net::TcpListener;
use std::path::PathBuf;
use std::process::{Command, Output, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, anyhow, bail, ensure};
use serde::{Deserialize, Serialize};

use crate::swarm::LONG;
use crate::wait::{eventually, eventually_some};

/// A host of a laboratory.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Host {
    /// From 1.
    pub number: u32,
    /// Host name.
    pub name: String,
    /// Address on the switch.
    pub addr: String,
    /// PID of its init as seen from outside; none while the host is dead.
    pub init: Option<i32>,
    /// Directory of its data, run-time state and daemon log.
    pub dir: PathBuf,
    /// The skep binary.
    pub skep: PathBuf,
}

impl Host {
    /// Its API socket.
    pub fn socket(&self) -> PathBuf {
        self.dir.join("exec/skep.sock")
    }

    /// Value for DOCKER_HOST.
    pub fn docker_host(&self) -> String {
        format!("unix://{}", self.socket().display())
    }

    /// A command inside the host's namespaces.
    pub fn command(&self, program: impl AsRef<std::ffi::OsStr>) -> Result<Command> {
        let init = self.init.with_context(|| format!("host {} is dead", self.number))?;
        let mut command = Command::new("nsenter");
        command.arg("-t").arg(init.to_string()).args(["-n", "-u", "-m", "-p", "--"]).arg(program);
        Ok(command)
    }

    /// Runs a command inside the host; its output, or an error with what it wrote.
    pub fn exec(&self, argv: &[&str]) -> Result<String> {
        let (program, args) = argv.split_first().context("an empty command")?;
        finish(self.command(program)?.args(args), argv)
    }

    /// Has another program answer HTTP on a TCP port of the host; its PID inside.
    pub fn hold_port(&self, port: u16) -> Result<String> {
        let pid = self.dir.join(format!("port-{port}.pid"));
        let script = "busybox httpd -p $1 -h / -f </dev/null >/dev/null 2>&1 & echo $! > $2";
        let text = pid.display().to_string();
        self.exec(&["sh", "-c", script, "sh", &port.to_string(), &text])?;
        let url = format!("http://127.0.0.1:{port}/");
        eventually("the port is held", LONG, || {
            self.exec(&["curl", "-sS", "-o", "/dev/null", &url]).map(drop)
        })?;
        Ok(std::fs::read_to_string(pid)?.trim().to_owned())
    }

    /// A listener on a TCP port of the host, for a server in this process.
    pub fn listen(&self, port: u16) -> Result<TcpListener> {
        self.at(None, move || TcpListener::bind(("0.0.0.0", port)))
    }

    /// Does something in the host's network, or in that of a container of it, named by its ID; sockets stay there.
    pub fn at<T: Send + 'static>(
        &self,
        container: Option<&str>,
        act: impl FnOnce() -> std::io::Result<T> + Send + 'static,
    ) -> Result<T> {
        let init = self.init.with_context(|| format!("host {} is dead", self.number))?;
        let netns = match container {
            None => format!("/proc/{init}/ns/net"),
            Some(id) => format!("/proc/{init}/root{}/exec/network/netns/{id}", self.dir.display()),
        };
        let done = std::thread::spawn(move || -> Result<T> {
            crate::registry::enter(&netns)?;
            Ok(act()?)
        });
        done.join().map_err(|_| anyhow::anyhow!("a thread on host {} panicked", self.number))?
    }

    /// Runs the real docker client against the host.
    pub fn docker(&self, args: &[&str]) -> Result<String> {
        finish(self.docker_command().args(args), args)
    }

    /// The real docker client against the host, to be given arguments.
    pub fn docker_command(&self) -> Command {
        let mut command = Command::new("docker");
        command.env("DOCKER_HOST", self.docker_host()).env("DOCKER_CONFIG", self.dir.join("docker-config"));
        command
    }

    /// Runs the skep client against the host.
    pub fn skep(&self, args: &[&str]) -> Result<String> {
        finish(self.skep_command().args(args), args)
    }

    /// The skep client against the host, to be given arguments.
    pub fn skep_command(&self) -> Command {
        let mut command = Command::new(&self.skep);
        command.env("DOCKER_HOST", self.docker_host());
        command
    }

    /// Starts the daemon and waits until it answers.
    pub fn start_daemon(&self) -> Result<()> {
        let log = std::fs::OpenOptions::new().create(true).append(true).open(self.log())?;
        let mut command = self.command(&self.skep)?;
        command.args(["daemon", "--data-root"]).arg(self.dir.join("data"));
        command.arg("--exec-root").arg(self.dir.join("exec"));
        // A test that wants the daemon configured leaves it this before the start.
        let config = self.dir.join("daemon.toml");
        if config.exists() {
            command.arg("--config-file").arg(&config);
        }
        let asked = std::env::var("SKEP_LAB_LOG").ok();
        // A flag would be held against the file's.
        if asked.is_some() || !std::fs::read_to_string(config).is_ok_and(|c| c.contains("log-level")) {
            command.args(["--log-level", asked.as_deref().unwrap_or("info")]);
        }
        command.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log);
        use std::os::unix::process::CommandExt;
        command.process_group(0);
        let mut child = command.spawn().context("start skep daemon")?;
        let outcome = eventually_some("daemon answers", LONG, || match child.try_wait()? {
            Some(status) => {
                Ok(Some(Err(anyhow!("skep daemon ended with {status}; its log: {}", self.log_tail()))))
            }
            None => self.ping().map(|()| Some(Ok(()))),
        });
        // Not waited for: it is reaped when this process ends, or by a later call.
        std::thread::spawn(move || child.wait());
        outcome.and_then(|answered| answered).with_context(|| format!("host {}", self.number))
    }

    fn ping(&self) -> Result<()> {
        use std::io::{Read, Write};
        let mut stream = std::os::unix::net::UnixStream::connect(self.socket())?;
        stream.set_read_timeout(Some(Duration::from_secs(2)))?;
        stream.write_all(b"GET /_ping HTTP/1.1\r\nHost: lab\r\nConnection: close\r\n\r\n")?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer)?;
        if !answer.starts_with("HTTP/1.1 200") {
            bail!("ping: {}", answer.lines().next().unwrap_or_default());
        }
        Ok(())
    }

    /// PID of the daemon inside the host.
    pub fn daemon_pid(&self) -> Result<i32> {
        let path = self.dir.join("exec/skep.pid");
        let text = std::fs::read_to_string(&path).with_context(|| format!("read {}", path.display()))?;
        Ok(text.trim().parse()?)
    }

    /// Sends the daemon a signal and waits until it is gone. Containers stay.
    pub fn stop_daemon(&self, signal: &str) -> Result<()> {
        let pid = self.daemon_pid()?.to_string();
        self.exec(&["kill", signal, &pid])?;
        eventually("daemon is gone", LONG, || match self.exec(&["kill", "-0", &pid]) {
            Ok(_) => bail!("daemon {pid} still runs"),
            Err(_) => Ok(()),
        })
    }

    /// The daemon's log file.
    pub fn log(&self) -> PathBuf {
        self.dir.join("daemon.log")
    }

    /// The end of the daemon's log, for messages.
    pub fn log_tail(&self) -> String {
        let text = std::fs::read_to_string(self.log()).unwrap_or_default();
        let lines: Vec<_> = text.lines().collect();
        lines[lines.len().saturating_sub(60)..].join("\n")
    }

    /// Kills every process of the host at once, as a power cut would.
    pub fn kill(&mut self) -> Result<()> {
        let Some(init) = self.init.take() else { return Ok(()) };
        nix::sys::signal::kill(nix::unistd::Pid::from_raw(init), nix::sys::signal::Signal::SIGKILL)
            .with_context(|| format!("kill init {init} of host {}", self.number))?;
        eventually("host is dead", LONG, || {
            ensure!(ended(init)?, "init {init} still runs");
            Ok(())
        })
    }
}

/// Whether a process has come to its end: of the first one of a namespace, whether all others there have, too. It may
/// stay as a zombie where nobody reaps it (`proc_pid_stat(5)`).
fn ended(pid: i32) -> Result<bool> {
    match std::fs::read_to_string(format!("/proc/{pid}/stat")) {
        Ok(stat) => Ok(stat.rsplit(')').next().is_some_and(|rest| rest.trim_start().starts_with(['Z', 'X']))),
        Err(e) if e.kind() == std::io::ErrorKind::NotFound || e.raw_os_error() == Some(libc::ESRCH) => {
            Ok(true)
        }
        Err(e) => Err(e).with_context(|| format!("read the state of process {pid}")),
    }
}

/// Runs to the end; standard output, or an error with everything it wrote.
pub(crate) fn finish(command: &mut Command, shown: &[impl AsRef<str>]) -> Result<String> {
    let output: Output = command.stdin(Stdio::null()).output().with_context(|| format!("run {command:?}"))?;
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    if !output.status.success() {
        let words: Vec<_> = shown.iter().map(AsRef::as_ref).collect();
        bail!(
            "`{}` ended with {}: {}{}",
            words.join(" "),
            output.status,
            text(&output.stdout),
            text(&output.stderr)
        );
    }
    Ok(text(&output.stdout))
}
