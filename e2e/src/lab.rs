//! The laboratory: making hosts, breaking them, mending them, removing every trace.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};
use serde::{Deserialize, Serialize};

use crate::host::{Host, finish};

/// What a laboratory is made of.
#[derive(Clone, Debug)]
pub struct LabOptions {
    /// Names its directory and its interfaces; at most 8 characters.
    pub name: String,
    /// How many hosts.
    pub hosts: u32,
    /// The skep binary.
    pub skep: PathBuf,
    /// The skep-lab-init binary.
    pub init: PathBuf,
}

/// A laboratory. Kept in a file, so that later commands find it.
#[derive(Debug, Serialize, Deserialize)]
pub struct Lab {
    name: String,
    dir: PathBuf,
    init: PathBuf,
    skep: PathBuf,
    switch: i32,
    hosts: Vec<Host>,
    /// Taken down when dropped (tests), or left for later commands (`cargo xtask lab`).
    #[serde(skip)]
    ephemeral: bool,
}

/// Address of the switch itself: the outside world of the hosts.
pub(crate) const SWITCH_ADDR: &str = "10.99.0.254";

impl Lab {
    /// Makes the switch and the hosts and starts their daemons. The lab is removed when dropped unless
    /// [`keep`](Self::keep) is called.
    pub fn up(options: LabOptions) -> Result<Self> {
        let lab = Self::bare(options)?;
        for host in &lab.hosts {
            host.start_daemon()?;
        }
        Ok(lab)
    }

    /// As [`up`](Self::up), with no daemon on any host.
    pub fn bare(options: LabOptions) -> Result<Self> {
        let dir = directory(&options.name);
        if dir.exists() {
            bail!("laboratory {:?} is up already ({}): take it down first", options.name, dir.display());
        }
        std::fs::create_dir_all(&dir).with_context(|| format!("make {}", dir.display()))?;
        let switch = spawn_init(&options.init, &format!("{}-switch", options.name))?;
        let mut lab = Self {
            name: options.name,
            dir,
            init: options.init,
            skep: options.skep,
            switch,
            hosts: Vec::new(),
            ephemeral: true,
        };
        lab.on_switch(&["ip", "link", "set", "lo", "up"])?;
        lab.on_switch(&["ip", "link", "add", "br0", "type", "bridge"])?;
        lab.on_switch(&["ip", "addr", "add", &format!("{SWITCH_ADDR}/24"), "dev", "br0"])?;
        lab.on_switch(&["ip", "link", "set", "br0", "up"])?;
        for number in 1..=options.hosts {
            lab.add_host(number)?;
        }
        lab.save()?;
        Ok(lab)
    }

    /// Finds a laboratory that an earlier command left up.
    pub fn open(name: &str) -> Result<Self> {
        let path = directory(name).join("lab.json");
        let text = std::fs::read(&path)
            .with_context(|| format!("laboratory {name:?} is not up (no {})", path.display()))?;
        Ok(serde_json::from_slice(&text)?)
    }

    /// Leaves the laboratory up when this value goes.
    pub fn keep(mut self) -> Result<()> {
        self.ephemeral = false;
        self.save()
    }

    fn save(&self) -> Result<()> {
        std::fs::write(self.dir.join("lab.json"), serde_json::to_vec_pretty(self)?)?;
        Ok(())
    }

    fn on_switch(&self, argv: &[&str]) -> Result<String> {
        finish(Command::new("nsenter").args(["-t", &self.switch.to_string(), "-n", "--"]).args(argv), argv)
    }

    /// Runs a command outside of every host, on the network they are joined by.
    pub fn outside(&self, argv: &[&str]) -> Result<String> {
        self.on_switch(argv)
    }

    /// The same, to be given arguments.
    pub fn outside_command(&self, program: &str) -> Command {
        let mut command = Command::new("nsenter");
        command.args(["-t", &self.switch.to_string(), "-n", "--", program]);
        command
    }

    /// The network namespace outside of every host.
    pub fn outside_netns(&self) -> PathBuf {
        format!("/proc/{}/ns/net", self.switch).into()
    }

    fn add_host(&mut self, number: u32) -> Result<()> {
        let dir = self.dir.join(format!("h{number}"));
        for sub in ["data", "exec", "docker-config"] {
            std::fs::create_dir_all(dir.join(sub))?;
        }
        let mut host = Host {
            number,
            name: format!("{}-h{number}", self.name),
            addr: format!("10.99.0.{number}"),
            init: None,
            dir,
            skep: self.skep.clone(),
        };
        self.boot(&mut host)?;
        self.hosts.push(host);
        Ok(())
    }

    /// Gives a host its namespaces and its place on the switch.
    fn boot(&self, host: &mut Host) -> Result<()> {
        let init = spawn_init(&self.init, &host.name)?;
        host.init = Some(init);
        let port = format!("p{}", host.number);
        // That of the host before it goes in the kernel's own time; mostly it is gone.
        let _ = self.on_switch(&["ip", "link", "del", &port]);
        self.on_switch(&[
            "ip",
            "link",
            "add",
            &port,
            "type",
            "veth",
            "peer",
            "name",
            "eth0",
            "netns",
            &init.to_string(),
        ])?;
        self.on_switch(&["ip", "link", "set", &port, "master", "br0", "up"])?;
        host.exec(&["ip", "link", "set", "lo", "up"])?;
        host.exec(&["ip", "addr", "add", &format!("{}/24", host.addr), "dev", "eth0"])?;
        host.exec(&["ip", "link", "set", "eth0", "up"])?;
        host.exec(&["ip", "route", "add", "default", "via", SWITCH_ADDR])?;
        // A laboratory has no name servers: this machine's would be asked in vain, and waited for.
        if Path::new("/etc/resolv.conf").exists() {
            let none = host.dir.join("resolv.conf");
            std::fs::write(&none, "")?;
            host.exec(&["mount", "--bind", &none.display().to_string(), "/etc/resolv.conf"])?;
        }
        Ok(())
    }

    /// The hosts, number 1 first.
    pub fn hosts(&self) -> &[Host] {
        &self.hosts
    }

    /// Host by number, from 1.
    pub fn host(&self, number: u32) -> &Host {
        &self.hosts[number as usize - 1]
    }

    fn find(&self, number: u32) -> Result<usize> {
        let index = self.hosts.iter().position(|h| h.number == number);
        index.with_context(|| {
            format!("there is no host {number}: the laboratory has 1 to {}", self.hosts.len())
        })
    }

    /// Pulls a host's plug: every process of it dies at once.
    pub fn kill(&mut self, number: u32) -> Result<()> {
        let index = self.find(number)?;
        self.hosts[index].kill()?;
        self.save()
    }

    /// Unplugs a host's network cable.
    pub fn cut(&self, number: u32) -> Result<()> {
        self.find(number)?;
        self.on_switch(&["ip", "link", "set", &format!("p{number}"), "down"]).map(drop)
    }

    /// Plugs it in again.
    pub fn heal(&self, number: u32) -> Result<()> {
        self.find(number)?;
        self.on_switch(&["ip", "link", "set", &format!("p{number}"), "up"]).map(drop)
    }

    /// Boots a dead host again, or restarts the daemon of one that lives.
    pub fn restart(&mut self, number: u32) -> Result<()> {
        let index = self.find(number)?;
        let mut host = self.hosts[index].clone();
        if host.init.is_some() {
            host.stop_daemon("-TERM")?;
        } else {
            self.boot(&mut host)?;
            self.hosts[index] = host.clone();
            self.save()?;
        }
        host.start_daemon()
    }

    /// Removes every trace. Goes on past errors and reports all of them.
    pub fn down(mut self) -> Result<()> {
        self.ephemeral = false;
        self.remove()
    }

    fn remove(&mut self) -> Result<()> {
        let mut errors = Vec::new();
        for host in &mut self.hosts {
            if let Err(e) = host.kill() {
                errors.push(format!("{e:#}"));
            }
        }
        for host in &self.hosts {
            errors.extend(remove_cgroups(&host.dir).err().map(|e| format!("{e:#}")));
            errors.extend(remove_sockets(&host.dir).err().map(|e| format!("{e:#}")));
        }
        let switch = nix::unistd::Pid::from_raw(self.switch);
        if let Err(e) = nix::sys::signal::kill(switch, nix::sys::signal::Signal::SIGKILL) {
            errors.push(format!("kill the switch: {e}"));
        }
        if let Err(e) = std::fs::remove_dir_all(&self.dir) {
            errors.push(format!("remove {}: {e}", self.dir.display()));
        }
        if errors.is_empty() { Ok(()) } else { bail!("laboratory {}: {}", self.name, errors.join("; ")) }
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        if self.ephemeral {
            // A test that went well has taken it down: this one failed, or ended early.
            for host in &self.hosts {
                eprintln!("--- daemon log of host {} (end)\n{}", host.number, host.log_tail());
            }
            if let Err(e) = self.remove() {
                eprintln!("{e:#}");
            }
        }
    }
}

fn directory(name: &str) -> PathBuf {
    std::env::temp_dir().join(format!("skep-lab-{name}"))
}

fn spawn_init(init: &Path, hostname: &str) -> Result<i32> {
    let out = finish(Command::new(init).arg(hostname), &["skep-lab-init", hostname])?;
    out.trim().parse().with_context(|| format!("skep-lab-init printed {out:?}"))
}

/// A dead host leaves its cgroups behind, which a machine that lost power would not.
fn remove_cgroups(host_dir: &Path) -> Result<()> {
    let data = host_dir.join("data");
    let marker = data.join("instance");
    let Ok(instance) = std::fs::read_to_string(&marker) else { return Ok(()) };
    let name = format!("skep-{}", instance.trim());
    for root in std::fs::read_dir("/sys/fs/cgroup")?.flatten() {
        remove_tree(&root.path().join(&name))?;
    }
    remove_tree(&Path::new("/sys/fs/cgroup").join(&name))
}

/// Likewise the control socket of its WireGuard, which lies outside its directory.
fn remove_sockets(host_dir: &Path) -> Result<()> {
    let Ok(instance) = std::fs::read_to_string(host_dir.join("data/instance")) else { return Ok(()) };
    let path = format!("/var/run/wireguard/wg-{}.sock", instance.trim());
    match std::fs::remove_file(&path) {
        Err(e) if e.kind() != std::io::ErrorKind::NotFound => {
            Err(e).with_context(|| format!("remove {path}"))
        }
        _ => Ok(()),
    }
}

fn remove_tree(dir: &Path) -> Result<()> {
    let Ok(entries) = std::fs::read_dir(dir) else { return Ok(()) };
    for entry in entries.flatten() {
        if entry.file_type().is_ok_and(|t| t.is_dir()) {
            remove_tree(&entry.path())?;
        }
    }
    crate::wait::eventually("cgroup goes", crate::swarm::LONG, || {
        std::fs::remove_dir(dir).with_context(|| format!("remove cgroup {}", dir.display()))
    })
}
