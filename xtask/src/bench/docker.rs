//! Debian's dockerd on a laboratory host of its own: its directories, sockets, network and cgroups are
//! the host's, and go with it.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use skep_e2e::{Host, Lab, LabOptions, eventually};

use super::Setup;
use super::hosts::name;
use super::http::Client;

/// Hosts with a dockerd each.
pub struct DockerLab {
    // Before its cgroups, which are free only once its processes are gone.
    pub lab: Lab,
    _cgroups: Vec<Cgroups>,
    root: PathBuf,
}

impl DockerLab {
    /// Starts it; none when Docker is left out.
    pub fn up(setup: &Setup, hosts: u32) -> Result<Option<Self>> {
        let Some(root) = setup.docker.clone() else { return Ok(None) };
        let options =
            LabOptions { name: name("d"), hosts, skep: setup.skep.clone(), init: setup.init.clone() };
        let lab = Lab::bare(options)?;
        let cgroups = lab.hosts().iter().map(|h| Cgroups(cgroup(h))).collect();
        let docker = Self { lab, _cgroups: cgroups, root };
        for host in docker.lab.hosts() {
            docker.prepare(host)?;
            docker.start(host)?;
        }
        Ok(Some(docker))
    }

    /// dockerd writes to some fixed places whatever it is told: the host gets its own of those.
    fn prepare(&self, host: &Host) -> Result<()> {
        let place = place(host);
        for sub in ["etc", "opt", "var"] {
            let (upper, work) = (place.join(format!("{sub}-upper")), place.join(format!("{sub}-work")));
            std::fs::create_dir_all(&upper).with_context(|| format!("make {}", upper.display()))?;
            std::fs::create_dir_all(&work)?;
            if sub == "etc" {
                // Each task asks the registry for its image, local or not: let that fail at once, not after
                // the resolver's timeouts.
                std::fs::write(upper.join("resolv.conf"), "nameserver 127.0.0.1\n")?;
            }
            let options = format!("lowerdir=/{sub},upperdir={},workdir={}", upper.display(), work.display());
            host.exec(&["mount", "-t", "overlay", "overlay", "-o", &options, &format!("/{sub}")])?;
        }
        host.exec(&["mount", "-t", "tmpfs", "tmpfs", "/run"]).map(drop)
    }

    /// Starts the daemon of a host, for the first time or again, and waits until it answers.
    pub fn start(&self, host: &Host) -> Result<()> {
        let place = place(host);
        let log = std::fs::OpenOptions::new().create(true).append(true).open(place.join("log"))?;
        let path = std::env::var("PATH").unwrap_or_default();
        let mut command = host.command(self.root.join("usr/sbin/dockerd"))?;
        let own = self.root.display();
        command.env("PATH", format!("{own}/usr/sbin:{own}/usr/bin:{path}:/usr/sbin:/sbin"));
        for (flag, sub) in [("--data-root", "data"), ("--exec-root", "exec"), ("--pidfile", "pid")] {
            command.arg(flag).arg(place.join(sub));
        }
        command.args(["--storage-driver", "overlay2", "--log-level", "warn", "--cgroup-parent"]);
        command.arg(format!("/{}", cgroup(host)));
        command.arg("-H").arg(format!("unix://{}", socket(host).display()));
        command.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log);
        use std::os::unix::process::CommandExt;
        let mut child = command.process_group(0).spawn().context("start dockerd")?;
        let outcome = eventually("dockerd answers", Duration::from_secs(30), || {
            if let Some(status) = child.try_wait()? {
                let log = std::fs::read_to_string(place.join("log")).unwrap_or_default();
                bail!("dockerd ended with {status}: {log}");
            }
            client(host).within(Duration::from_secs(5)).get("/_ping").map(drop)
        });
        // Reaped when this process ends, or by this thread.
        std::thread::spawn(move || child.wait());
        outcome
    }

    /// PIDs of dockerd and its containerd, as the host sees them.
    pub fn pids(&self, host: &Host) -> Result<Vec<i32>> {
        let read = |sub: &str| -> Result<i32> {
            let path = place(host).join(sub);
            let text = std::fs::read_to_string(&path).with_context(|| format!("read {}", path.display()))?;
            Ok(text.trim().parse()?)
        };
        Ok(vec![read("pid")?, read("exec/containerd/containerd.pid")?])
    }

    /// Debian's own client, against a host.
    pub fn command(&self, host: &Host) -> Command {
        let mut command = Command::new(self.root.join("usr/bin/docker"));
        command.env("DOCKER_HOST", format!("unix://{}", socket(host).display()));
        command.env("DOCKER_CONFIG", host.dir.join("docker-config"));
        command
    }

    /// REST clients, one a host.
    pub fn clients(&self) -> Vec<Client> {
        self.lab.hosts().iter().map(client).collect()
    }
}

/// The REST API of a host's dockerd.
pub fn client(host: &Host) -> Client {
    Client::new(&socket(host))
}

fn place(host: &Host) -> PathBuf {
    host.dir.join("docker")
}

fn socket(host: &Host) -> PathBuf {
    place(host).join("docker.sock")
}

fn cgroup(host: &Host) -> String {
    format!("skep-bench-{}", host.name)
}

/// A cgroup in every hierarchy, removed with all below when dropped.
struct Cgroups(String);

impl Drop for Cgroups {
    fn drop(&mut self) {
        let Ok(hierarchies) = std::fs::read_dir("/sys/fs/cgroup") else { return };
        let tops = hierarchies.flatten().map(|h| h.path().join(&self.0));
        for top in tops.chain([Path::new("/sys/fs/cgroup").join(&self.0)]) {
            if let Err(e) = eventually("cgroup goes", Duration::from_secs(5), || remove(&top)) {
                eprintln!("{e:#}");
            }
        }
    }
}

fn remove(directory: &Path) -> Result<()> {
    let Ok(entries) = std::fs::read_dir(directory) else { return Ok(()) };
    for entry in entries.flatten().filter(|e| e.file_type().is_ok_and(|t| t.is_dir())) {
        remove(&entry.path())?;
    }
    std::fs::remove_dir(directory).with_context(|| format!("remove cgroup {}", directory.display()))
}
