//! What every story about a swarm begins with and asks again and again, with the real `docker` client.

use std::collections::{BTreeMap, BTreeSet};
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};

use crate::lab::SWITCH_ADDR;
use crate::{Host, Lab, LabOptions, eventually, eventually_some, whoami_image};

/// Longest wait for anything on a busy machine.
pub const LONG: Duration = Duration::from_secs(60);

/// `skep` and `skep-lab-init`. Binaries of one workspace lie side by side; tests lie one folder deeper.
pub fn binaries() -> Result<(PathBuf, PathBuf)> {
    let mut dir = std::env::current_exe()?;
    dir.pop();
    if dir.ends_with("deps") {
        dir.pop();
    }
    let (skep, init) = (dir.join("skep"), dir.join("skep-lab-init"));
    for binary in [&skep, &init] {
        ensure!(binary.exists(), "{} is not there: run `cargo build -p skep -p skep-e2e`", binary.display());
    }
    Ok((skep, init))
}

/// A laboratory's name that no other of this process has, also where two tests at once ask for the same.
fn unique(name: &str) -> String {
    static GIVEN: Mutex<BTreeSet<String>> = Mutex::new(BTreeSet::new());
    let mut given = GIVEN.lock().unwrap_or_else(PoisonError::into_inner);
    let mut own = format!("{name}{}", std::process::id() % 10_000);
    while !given.insert(own.clone()) {
        own.push('x');
    }
    own
}

/// Hosts with no image, in no swarm.
pub fn plain(name: &str, hosts: u32) -> Result<Lab> {
    let (skep, init) = binaries()?;
    Lab::up(LabOptions { name: unique(name), hosts, skep, init })
}

/// A host whose daemon has its data on a disk of a size as mount(8) takes it; and where.
pub fn on_small_disk(name: &str, size: &str) -> Result<(Lab, PathBuf)> {
    let lab = plain(name, 1)?;
    let host = lab.host(1);
    host.stop_daemon("-TERM")?;
    let data = host.dir.join("data");
    let options = format!("size={size},mode=711");
    host.exec(&["mount", "-t", "tmpfs", "-o", &options, "skep-lab", path(&data)])?;
    host.start_daemon()?;
    Ok((lab, data))
}

/// A host without a daemon, for one with settings of its own.
pub fn bare(name: &str) -> Result<Lab> {
    let (skep, init) = binaries()?;
    Lab::bare(LabOptions { name: unique(name), hosts: 1, skep, init })
}

/// Hosts with the images `whoami:1` and `whoami:2`, in no swarm.
pub fn hosts(name: &str, hosts: u32) -> Result<Lab> {
    let lab = plain(name, hosts)?;
    let archive = lab.host(1).dir.join("whoami.tar");
    whoami_image(&lab.host(1).skep, &archive)?;
    for host in lab.hosts() {
        host.docker(&["import", path(&archive), "whoami:1"])?;
        host.docker(&["tag", "whoami:1", "whoami:2"])?;
    }
    Ok(lab)
}

/// The same with a swarm begun on host 1.
pub fn begun(name: &str, number: u32) -> Result<Lab> {
    let lab = hosts(name, number)?;
    lab.host(1).docker(&["swarm", "init", "--advertise-addr", &lab.host(1).addr])?;
    Ok(lab)
}

/// A three-host swarm: every host a manager.
pub fn managers(name: &str) -> Result<Lab> {
    let lab = begun(name, 3)?;
    let token = token(lab.host(1), "manager")?;
    for number in [2, 3] {
        join(lab.host(number), &token, "10.99.0.1:2377")?;
    }
    nodes_are(
        lab.host(3),
        "three managers are ready",
        &["Ready Leader", "Ready Reachable", "Ready Reachable"],
    )?;
    Ok(lab)
}

/// A three-host swarm: host 1 its manager, the others workers.
pub fn workers(name: &str) -> Result<Lab> {
    let lab = begun(name, 3)?;
    let token = token(lab.host(1), "worker")?;
    for number in [2, 3] {
        join(lab.host(number), &token, "10.99.0.1:2377")?;
    }
    nodes_are(lab.host(1), "three nodes are ready", &["Ready Leader", "Ready", "Ready"])?;
    Ok(lab)
}

/// The present join token of a role.
pub fn token(manager: &Host, role: &str) -> Result<String> {
    Ok(manager.docker(&["swarm", "join-token", "-q", role])?.trim().to_owned())
}

/// `swarm join`.
pub fn join(host: &Host, token: &str, remote: &str) -> Result<()> {
    host.docker(&["swarm", "join", "--token", token, "--advertise-addr", &host.addr, remote]).map(drop)
}

/// `swarm unlock` with the key on standard input; what it says when it fails.
pub fn unlock(host: &Host, key: &str) -> Result<()> {
    let mut command = host.docker_command();
    command.args(["swarm", "unlock"]).stdin(Stdio::piped()).stderr(Stdio::piped()).stdout(Stdio::piped());
    let mut child = command.spawn()?;
    child.stdin.take().context("its input")?.write_all(format!("{key}\n").as_bytes())?;
    let done = child.wait_with_output()?;
    ensure!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
    Ok(())
}

/// Waits until `node ls` shows exactly these states and manager states ("Ready ", "Down Unreachable"), in any
/// order.
pub fn nodes_are(host: &Host, what: &str, wanted: &[&str]) -> Result<()> {
    let mut wanted: Vec<_> = wanted.iter().map(|w| w.trim()).collect();
    wanted.sort_unstable();
    eventually(what, LONG, || {
        let nodes = host.docker(&["node", "ls", "--format", "{{.Status}} {{.ManagerStatus}}"])?;
        let mut seen: Vec<_> = nodes.lines().map(str::trim).collect();
        seen.sort_unstable();
        ensure!(seen == wanted, "{seen:?}");
        Ok(())
    })
}

/// A path as text.
pub fn path(p: &Path) -> &str {
    p.to_str().expect("the lab's paths are UTF-8")
}

/// `service create` of whoami; returns at once.
pub fn create(host: &Host, name: &str, replicas: u32, more: &[&str]) -> Result<()> {
    let replicas = replicas.to_string();
    let first = ["service", "create", "-d", "--name", name, "--replicas", &replicas];
    host.docker(&[&first[..], more, &["whoami:1", "/skep", "whoami"]].concat())?;
    Ok(())
}

/// Node of every running task of a service that is wanted running.
pub fn running(host: &Host, service: &str) -> Result<Vec<String>> {
    let format = "{{.Node}} {{.CurrentState}}";
    let out =
        host.docker(&["service", "ps", service, "--filter", "desired-state=running", "--format", format])?;
    Ok(out.lines().filter_map(|l| l.split_once(" Running").map(|(node, _)| node.to_owned())).collect())
}

/// Waits until so many tasks run; their nodes, sorted.
pub fn wait_running(host: &Host, service: &str, replicas: usize) -> Result<Vec<String>> {
    eventually_some(&format!("{replicas} tasks of {service} run"), LONG, || {
        let mut nodes = running(host, service)?;
        ensure!(
            nodes.len() == replicas,
            "{nodes:?}; {}",
            host.docker(&["service", "ps", "--no-trunc", service])?
        );
        nodes.sort();
        Ok(Some(nodes))
    })
}

/// Waits until so many tasks run, all of them on these hosts.
pub fn wait_running_on(host: &Host, service: &str, replicas: usize, on: &[&Host]) -> Result<()> {
    eventually(&format!("{replicas} tasks of {service} run where they may"), LONG, || {
        let nodes = running(host, service)?;
        ensure!(
            nodes.len() == replicas && nodes.iter().all(|n| on.iter().any(|h| h.name == *n)),
            "{nodes:?}"
        );
        Ok(())
    })
}

/// Waits until no container is left on a host.
pub fn wait_empty(host: &Host) -> Result<()> {
    eventually(&format!("no container is left on host {}", host.number), LONG, || {
        let left = host.docker(&["ps", "-aq"])?;
        ensure!(left.is_empty(), "{left}");
        Ok(())
    })
}

/// A docker command that must fail, and say all of these.
pub fn refused(host: &Host, args: &[&str], words: &[&str]) -> Result<()> {
    let Err(e) = host.docker(args) else { bail!("{args:?} was not refused") };
    let text = format!("{e:#}");
    ensure!(words.iter().all(|w| text.contains(w)), "{args:?} should say {words:?}: {text}");
    Ok(())
}

/// Who answered, by host name, over `n` requests from outside. Each must have seen the address they came from.
pub fn answers_to_client(lab: &Lab, url: &str, n: usize) -> Result<BTreeMap<String, usize>> {
    let mut seen = BTreeMap::new();
    for _ in 0..n {
        let body = lab.outside(&["curl", "-sS", "--max-time", "3", url])?;
        ensure!(body.contains(&format!("RemoteAddr: {SWITCH_ADDR}:")), "not from {SWITCH_ADDR}: {body}");
        *seen.entry(hostname(&body)?).or_insert(0) += 1;
    }
    Ok(seen)
}

/// Who answered, by host name, over `n` requests from outside.
pub fn answers(lab: &Lab, url: &str, n: usize) -> Result<BTreeMap<String, usize>> {
    let mut seen = BTreeMap::new();
    for _ in 0..n {
        let body = lab.outside(&["curl", "-sS", "--max-time", "3", url])?;
        *seen.entry(hostname(&body)?).or_insert(0) += 1;
    }
    Ok(seen)
}

/// The host name in an answer of whoami.
pub fn hostname(body: &str) -> Result<String> {
    let line = body.lines().find_map(|l| l.strip_prefix("Hostname: "));
    Ok(line.with_context(|| format!("no host name in {body:?}"))?.to_owned())
}

/// Runs a command of the host inside the network of a container there.
pub fn within(host: &Host, container: &str, argv: &[&str]) -> Result<String> {
    let pid = host.docker(&["inspect", "-f", "{{.State.Pid}}", container])?;
    host.exec(&[&["nsenter", "-t", pid.trim(), "-n", "--"], argv].concat())
}

/// Runs a command of the host inside the network of the service's one container there.
pub fn inside(host: &Host, service: &str, argv: &[&str]) -> Result<String> {
    let filter = format!("label=com.docker.swarm.service.name={service}");
    let id = host.docker(&["ps", "-q", "--filter", &filter])?;
    let pid = host.docker(&["inspect", "-f", "{{.State.Pid}}", id.trim()])?;
    host.exec(&[&["nsenter", "-t", pid.trim(), "-n", "--"], argv].concat())
}

/// Waits until a rotation of the root that was asked for is over.
pub fn rotated(manager: &Host) -> Result<()> {
    eventually("the rotation of the root is over", LONG, || {
        let answer = manager.request("GET", "/v1.50/swarm", "")?;
        let nodes = manager.docker(&["node", "ls", "--format", "{{.Hostname}} {{.TLSStatus}}"])?;
        ensure!(answer.status == 200 && answer.body.contains(r#""RootRotationInProgress":false"#), "{nodes}");
        ensure!(nodes.lines().all(|l| l.ends_with(" Ready")), "{nodes}");
        Ok(())
    })
}

/// Runs a client to its end, which must come in time; what it wrote.
pub fn in_time(mut command: Command) -> Result<String> {
    let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn()?;
    let ended = eventually(&format!("{command:?} ends"), LONG, || {
        ensure!(child.try_wait()?.is_some(), "it runs");
        Ok(())
    });
    if ended.is_err() {
        child.kill()?;
    }
    let done = child.wait_with_output()?;
    let (out, err) = (String::from_utf8_lossy(&done.stdout), String::from_utf8_lossy(&done.stderr));
    ended.with_context(|| format!("{out}{err}"))?;
    ensure!(done.status.success(), "{command:?}: {out}{err}");
    Ok(out.into_owned())
}
