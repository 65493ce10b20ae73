//! A long random history: what users do and what goes wrong, drawn from a seed; at the end every acknowledged change is
//! there, every service has converged, every host's kernel holds what was computed for it, and once all is removed nothing
//! is left on any host.
//!
//! `SKEP_SEED` chooses another history, `SKEP_ROUNDS` a longer one: 1,200 rounds take ten minutes, 6,000 about an hour.

mod faults;
mod locks;
mod members;
mod model;
mod operations;
mod outcome;
mod remains;
mod services;
mod singles;
mod stacks;

use anyhow::{Context, Result, ensure};
use faults::Away;
use model::Model;
use operations::Users;
use rand::rngs::StdRng;
use rand::{Rng as _, SeedableRng as _};
use skep_e2e::swarm::{LONG, join, nodes_are, path, plain, rotated, token, wait_empty, wait_running};
use skep_e2e::{Host, Lab, eventually, whoami_image_with_busybox};

fn setting(name: &str, default: u64) -> Result<u64> {
    std::env::var(name).map_or(Ok(default), |text| text.parse().with_context(|| format!("{name}={text}")))
}

/// Three managers and a worker, each with the images `whoami:1` and `whoami:2`.
fn four_hosts() -> Result<Lab> {
    let lab = plain("history", 4)?;
    let one = lab.host(1);
    let archive = one.dir.join("whoami.tar");
    whoami_image_with_busybox(&one.skep, &archive)?;
    for host in lab.hosts() {
        host.docker(&["import", path(&archive), "whoami:1"])?;
        host.docker(&["tag", "whoami:1", "whoami:2"])?;
    }
    one.docker(&["swarm", "init", "--advertise-addr", &one.addr])?;
    let (manager, worker) = (token(one, "manager")?, token(one, "worker")?);
    for (number, token) in [(2, &manager), (3, &manager), (4, &worker)] {
        join(lab.host(number), token, "10.99.0.1:2377")?;
    }
    all_ready(one)?;
    Ok(lab)
}

fn all_ready(host: &Host) -> Result<()> {
    nodes_are(host, "all nodes are ready", &["Ready Leader", "Ready Reachable", "Ready Reachable", "Ready"])
}

/// What a host makes at its first task, and keeps: the tunnel, the parent of all cgroups.
fn first_use(lab: &Lab) -> Result<()> {
    let one = lab.host(1);
    one.docker(&["network", "create", "-d", "overlay", "--attachable", "first"])?;
    let service = [
        "service",
        "create",
        "-d",
        "--name",
        "first",
        "--mode",
        "global",
        "--network",
        "first",
        "-p",
        "80:80",
    ];
    one.docker(&[&service[..], &["whoami:1", "/skep", "whoami"]].concat())?;
    wait_running(one, "first", lab.hosts().len())?;
    one.docker(&["service", "rm", "first"])?;
    for host in lab.hosts() {
        wait_empty(host)?;
    }
    eventually("the first network is removed", LONG, || one.docker(&["network", "rm", "first"]).map(drop))?;
    for host in lab.hosts() {
        eventually("the first network is gone", LONG, || host.skep(&["system", "check"]).map(drop))?;
    }
    Ok(())
}

#[test]
fn everything_acknowledged_is_there_and_nothing_is_left_behind() -> Result<()> {
    let (seed, rounds) = (setting("SKEP_SEED", 1)?, setting("SKEP_ROUNDS", 60)?);
    println!("SKEP_SEED={seed} SKEP_ROUNDS={rounds}");
    let mut rng = StdRng::seed_from_u64(seed);
    let mut lab = four_hosts()?;
    first_use(&lab)?;
    let before = lab.hosts().iter().map(remains::holdings).collect::<Result<Vec<_>>>()?;
    let mut model = Model { managers: [1, 2, 3].into(), ..Model::default() };

    let mut gone: Option<Away> = None;
    for round in 1..=rounds {
        let what = go_on(&mut lab, &mut rng, &mut model, &mut gone)
            .with_context(|| format!("round {round} of seed {seed}"))?;
        println!("{round}: {what}");
    }
    if let Some(host) = gone {
        println!("{}", host.back(&mut lab, &model.keys, false)?.1);
    }

    let manager = lab.host(*model.managers.first().context("a manager")?).clone();
    if let Some(number) = model.drained.take() {
        let node = &lab.host(number).name;
        eventually("it is active", LONG, || {
            manager.docker(&["node", "update", "--availability", "active", node]).map(drop)
        })?;
    }
    all_ready(&manager)?;
    rotated(&manager)?;
    eventually("everything that was acknowledged is there", LONG, || outcome::acknowledged(&lab, &model))?;
    eventually("every service has converged", 2 * LONG, || outcome::converged(&lab, &model))?;
    eventually("every host is in order", LONG, || outcome::in_order(&lab))?;
    eventually("every port is answered", LONG, || outcome::reachable(&lab, &model))?;

    remove_all(&lab, &manager, &model)?;
    for (host, before) in lab.hosts().iter().zip(&before) {
        eventually("nothing is left", LONG, || {
            host.skep(&["system", "check"])?;
            remains::nothing_new(before, host)
        })?;
    }
    lab.down()
}

/// One more thing happens.
fn go_on(lab: &mut Lab, rng: &mut StdRng, model: &mut Model, gone: &mut Option<Away>) -> Result<String> {
    match gone.take() {
        Some(host) if rng.random_bool(0.25) => {
            let may_wait = !matches!(host, Away::Locked(_)) && rng.random_bool(0.5);
            let (still, what) = host.back(lab, &model.keys, may_wait)?;
            *gone = still;
            Ok(what)
        }
        None if rng.random_bool(0.12) => {
            let (host, what) = faults::away(lab, rng)?;
            *gone = Some(host);
            Ok(what)
        }
        None if rng.random_bool(0.12) => faults::passing(lab, rng, &model.keys),
        host => {
            let away = host.as_ref().map(Away::host);
            *gone = host;
            Users { lab, away, rng, model }.operate()
        }
    }
}

/// What a user has made is removed by the user.
fn remove_all(lab: &Lab, manager: &Host, model: &Model) -> Result<()> {
    for name in &model.stacks {
        manager.docker(&["stack", "rm", name])?;
    }
    for (name, _) in model.services.iter().filter(|(_, s)| s.stack.is_none()) {
        manager.docker(&["service", "rm", name])?;
    }
    for (name, single) in &model.singles {
        lab.host(single.host).docker(&["rm", "-f", name])?;
    }
    for host in lab.hosts() {
        eventually("no container is left", LONG, || {
            let left = host.docker(&["ps", "-aq"])?;
            let named =
                || host.docker(&["ps", "-a", "--no-trunc"]).unwrap_or_else(|e| format!("{left}: {e:#}"));
            ensure!(left.is_empty(), "host {}: {}", host.number, named());
            Ok(())
        })?;
        let volumes = host.docker(&["volume", "ls", "-q"])?;
        for volume in volumes.lines() {
            ensure!(model.volumes.contains(volume), "host {}: nobody asked for volume {volume}", host.number);
            host.docker(&["volume", "rm", volume])?;
        }
    }
    for name in &model.networks {
        eventually("it is removed", LONG, || manager.docker(&["network", "rm", name]).map(drop))?;
    }
    for name in model.secrets.keys() {
        manager.docker(&["secret", "rm", name])?;
    }
    for name in model.configs.keys() {
        manager.docker(&["config", "rm", name])?;
    }
    Ok(())
}
