//! One container, from create to remove, against raw runc and crun, `docker run --rm` and `podman run --rm`.

use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Instant;

use anyhow::{Context, Result, ensure};
use serde_json::json;
use skep_e2e::Host;

use super::docker::{self, DockerLab};
use super::http::Client;
use super::table::{Row, Target, median, timed};
use super::{Setup, go_on, hosts, peers};

/// Containers that are weighed, and those before them.
const WEIGHED: usize = 50;
const FIRST: usize = 4;

pub fn run(setup: &Setup) -> Result<Vec<Row>> {
    let lab = hosts::lab(setup, 1)?;
    let docker = DockerLab::up(setup, 1)?;
    let host = lab.host(1);
    let image = peers::busybox()?;
    let mut api = hosts::client(host);
    api.import(&image, "bb")?;
    let bundle = peers::bundle(&host.dir)?;
    let mut rows = bare(setup, &mut api, &bundle)?;
    if let Some(docker) = &docker {
        docker::client(docker.lab.host(1)).import(&image, "bb")?;
    }
    rows.extend(clients(setup, host, docker.as_ref())?);
    rows.extend(memory(host, &mut api, docker.as_ref())?);
    Ok(rows)
}

/// The REST API against the runtimes.
fn bare(setup: &Setup, api: &mut Client, bundle: &Path) -> Result<Vec<Row>> {
    let (mut none, mut bridge, mut runc, mut crun) = (vec![], vec![], vec![], vec![]);
    let mut phases: [Vec<f64>; 4] = Default::default();
    // crun 1.8 refuses the mixed cgroups that some machines have.
    let has_crun = runtime("crun", bundle, "try").is_ok();
    for turn in 0..setup.rounds + 2 {
        go_on()?;
        // The first two turns warm caches up, for everybody.
        let counts = turn > 1;
        let keep = |list: &mut Vec<f64>, value: f64| {
            if counts {
                list.push(value);
            }
        };
        keep(&mut none, timed(|| cycle(api, "none", None))?);
        keep(&mut runc, timed(|| runtime("runc", bundle, &format!("{turn}")))?);
        keep(&mut bridge, timed(|| cycle(api, "bridge", counts.then_some(&mut phases)))?);
        if has_crun {
            keep(&mut crun, timed(|| runtime("crun", bundle, &format!("{turn}")))?);
        }
    }
    let parts: Vec<String> = ["create", "start", "wait", "remove"]
        .iter()
        .zip(&phases)
        .map(|(name, times)| format!("{name} {:.2}", median(times)))
        .collect();
    println!("of these with a bridge, medians in ms: {}", parts.join(", "));
    if !has_crun {
        println!("crun refuses this machine's cgroups and is left out");
    }
    let row = |network: &str, times: &[f64]| {
        let what = format!("API create+start+wait+remove of `true`, network {network}");
        Row::new(what, "ms", times.to_vec(), Target::RatioAtMost(1.0)).beside("runc run", runc.clone())
    };
    let mut rows = vec![row("none", &none), row("bridge", &bridge)];
    if has_crun {
        rows.push(Row { target: Target::None, ..row("none", &none).beside("crun run", crun) });
    }
    Ok(rows)
}

/// One container through the API; keeps what each call took.
fn cycle(api: &mut Client, network: &str, phases: Option<&mut [Vec<f64>; 4]>) -> Result<()> {
    let body = json!({ "Image": "bb", "Cmd": ["true"], "HostConfig": { "NetworkMode": network } });
    let began = Instant::now();
    let id = api.post("/containers/create", Some(&body))?["Id"].as_str().context("no ID")?.to_owned();
    let created = Instant::now();
    api.post(&format!("/containers/{id}/start"), None)?;
    let started = Instant::now();
    let exit = api.post(&format!("/containers/{id}/wait"), None)?;
    let ended = Instant::now();
    ensure!(exit["StatusCode"] == 0, "the container ended with {exit}");
    api.delete(&format!("/containers/{id}"))?;
    let removed = Instant::now();
    for (list, (from, to)) in phases.into_iter().flatten().zip([
        (began, created),
        (created, started),
        (started, ended),
        (ended, removed),
    ]) {
        list.push((to - from).as_secs_f64() * 1e3);
    }
    Ok(())
}

fn runtime(program: &str, bundle: &Path, turn: &str) -> Result<()> {
    let id = format!("skep-bench-{}-{turn}", std::process::id());
    let mut command = Command::new(program);
    peers::call(command.arg("run").arg("-b").arg(bundle).arg(id).stdin(Stdio::null())).map(drop)
}

/// The clients: `skep run --rm` against `docker run --rm` and `podman run --rm`.
fn clients(setup: &Setup, host: &Host, docker: Option<&DockerLab>) -> Result<Vec<Row>> {
    let run = ["run", "--rm", "bb", "true"];
    let (mut ours, mut theirs, mut podmans) = (vec![], vec![], vec![]);
    let image = host.dir.join("busybox.tar");
    std::fs::write(&image, peers::busybox()?)?;
    peers::call(peers::podman(host)?.arg("import").arg(&image).arg("bb"))?;
    // Its own limits are above what this machine's root may raise; crun refuses mixed cgroups.
    let podman = ["--runtime", "runc", "--cgroup-manager", "cgroupfs", "--events-backend", "file"];
    let rm = ["run", "--rm", "--ulimit", "nofile=1024:1024", "--ulimit", "nproc=1024:1024", "bb", "true"];
    for turn in 0..setup.rounds.min(20) + 1 {
        go_on()?;
        let mut skep = host.skep_command();
        skep.args(run).stdin(Stdio::null());
        let mine = timed(|| peers::call(&mut skep))?;
        if turn > 0 {
            ours.push(mine);
        }
        if let Some(docker) = docker {
            let mut command = docker.command(docker.lab.host(1));
            let his = timed(|| peers::call(command.args(run).stdin(Stdio::null())))?;
            if turn > 0 {
                theirs.push(his);
            }
        }
        let mut command = peers::podman(host)?;
        let its = timed(|| peers::call(command.args(podman).args(rm).stdin(Stdio::null())))?;
        if turn > 0 {
            podmans.push(its);
        }
    }
    let row = |target| Row::new("`run --rm busybox true`, bridge", "ms", ours.clone(), target);
    Ok(vec![
        row(Target::RatioAtMost(0.1)).beside("docker run --rm", theirs),
        row(Target::None).beside("podman run --rm", podmans),
    ])
}

/// Memory that an idle container on the bridge network costs: its shim, and what the daemons grow by.
fn memory(host: &Host, api: &mut Client, docker: Option<&DockerLab>) -> Result<Vec<Row>> {
    let ours = weigh(host, api, &[host.daemon_pid()?])?;
    let theirs = match docker {
        Some(docker) => {
            let host = docker.lab.host(1);
            weigh(host, &mut docker::client(host), &docker.pids(host)?)?
        }
        None => Weights::default(),
    };
    let row = |what: &str, ours, target| Row::new(format!("{what}, {WEIGHED} idle"), "MB", ours, target);
    Ok(vec![
        row("Pss of a shim", ours.shims, Target::Median(1.5)).beside("containerd-shim", theirs.shims),
        row("growth of the daemon's own memory by a container", ours.growth, Target::None)
            .beside("dockerd + containerd", theirs.growth),
        row("growth of all Pss by a container", ours.whole, Target::Median(1.5))
            .beside("dockerd + containerd + shim", theirs.whole),
    ])
}

/// In MB.
#[derive(Default)]
struct Weights {
    /// Each with its share of what it has in common with others.
    shims: Vec<f64>,
    /// Of what is the daemons' alone, by container: with each shim their share of the program becomes less.
    growth: Vec<f64>,
    /// Of daemons and shims together, by container.
    whole: Vec<f64>,
}

fn weigh(host: &Host, api: &mut Client, daemons: &[i32]) -> Result<Weights> {
    // What the first ones have the daemons make, they make once.
    let mut ids = start(api, FIRST)?;
    let before = (of_daemons(host, daemons)?, shims(host, api, &ids)?);
    ids.extend(start(api, WEIGHED)?);
    let after = (of_daemons(host, daemons)?, shims(host, api, &ids)?);
    for id in &ids {
        api.delete(&format!("/containers/{id}?force=1"))?;
    }
    let ((own, pss), (own_now, pss_now)) = (before.0, after.0);
    let sum = |list: &[f64]| list.iter().sum::<f64>();
    Ok(Weights {
        growth: vec![(own_now - own) / WEIGHED as f64],
        whole: vec![(pss_now + sum(&after.1) - pss - sum(&before.1)) / WEIGHED as f64],
        shims: after.1,
    })
}

fn start(api: &mut Client, count: usize) -> Result<Vec<String>> {
    let body = json!({ "Image": "bb", "Cmd": ["sleep", "1000000"] });
    let mut ids = Vec::new();
    for _ in 0..count {
        go_on()?;
        let id = api.post("/containers/create", Some(&body))?["Id"].as_str().context("no ID")?.to_owned();
        api.post(&format!("/containers/{id}/start"), None)?;
        ids.push(id);
    }
    Ok(ids)
}

/// Written memory of their own, and Pss.
fn of_daemons(host: &Host, pids: &[i32]) -> Result<(f64, f64)> {
    let mut sum = (0.0, 0.0);
    for pid in pids {
        let pid = pid.to_string();
        sum = (sum.0 + memory_of(host, &pid, "Private_Dirty:")?, sum.1 + memory_of(host, &pid, "Pss:")?);
    }
    Ok(sum)
}

fn shims(host: &Host, api: &mut Client, ids: &[String]) -> Result<Vec<f64>> {
    let mut weights = Vec::new();
    for id in ids {
        let pid = api.get(&format!("/containers/{id}/json"))?["State"]["Pid"].to_string();
        let status = host.exec(&["cat", &format!("/proc/{pid}/status")])?;
        weights.push(memory_of(host, &field(&status, "PPid:")?.to_string(), "Pss:")?);
    }
    Ok(weights)
}

/// One of the sums over a process's memory (proc(5), `smaps_rollup`), in MB.
fn memory_of(host: &Host, pid: &str, which: &str) -> Result<f64> {
    Ok(field(&host.exec(&["cat", &format!("/proc/{pid}/smaps_rollup")])?, which)? / 1024.0)
}

/// The number after a key in one of /proc's files.
pub fn field(text: &str, key: &str) -> Result<f64> {
    let value = text.lines().find_map(|l| l.strip_prefix(key)?.split_whitespace().next()?.parse().ok());
    value.with_context(|| format!("no {key} in {text:?}"))
}
