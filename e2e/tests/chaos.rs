//! Daemons killed, cables cut, nodes drained and services scaled at random: at the end every host's kernel holds what it
//! should, all hosts know the same, and nothing is left of what is gone. `SKEP_SEED` chooses another history, `SKEP_ROUNDS`
//! a longer one.

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use rand::rngs::StdRng;
use rand::{Rng as _, SeedableRng as _};
use skep_e2e::swarm::{LONG, answers_to_client, create, managers, nodes_are, running};
use skep_e2e::{Host, Lab, eventually};

fn setting(name: &str, default: u64) -> Result<u64> {
    std::env::var(name).map_or(Ok(default), |text| text.parse().with_context(|| format!("{name}={text}")))
}

/// One thing that happens.
fn happen(lab: &mut Lab, rng: &mut StdRng, drained: &mut Option<u32>) -> Result<String> {
    let number = rng.random_range(1..=3);
    let other = number % 3 + 1;
    let what = match rng.random_range(0..6) {
        0 => {
            lab.host(number).stop_daemon("-KILL")?;
            std::thread::sleep(Duration::from_millis(rng.random_range(0..1500)));
            lab.host(number).start_daemon()?;
            format!("the daemon of host {number} was killed")
        }
        1 => {
            lab.cut(number)?;
            std::thread::sleep(Duration::from_millis(rng.random_range(200..9000)));
            lab.heal(number)?;
            format!("host {number} was cut off")
        }
        2 => {
            let (host, to) = match drained.take() {
                Some(host) => (host, "active"),
                None => (*drained.insert(number), "drain"),
            };
            let name = lab.host(host).name.clone();
            command(lab.host(other), &["node", "update", "--availability", to, &name])?;
            format!("host {host} became {to}")
        }
        3 => {
            let replicas = format!("web={}", rng.random_range(0..=6));
            command(lab.host(other), &["service", "scale", "-d", &replicas])?;
            replicas
        }
        4 => {
            command(lab.host(other), &["service", "update", "-d", "--force", "inner"])?;
            "inner was replaced".to_owned()
        }
        _ => {
            lab.kill(number)?;
            lab.restart(number)?;
            format!("host {number} lost power")
        }
    };
    Ok(what)
}

/// A command that may have to wait for a leader.
fn command(host: &Host, args: &[&str]) -> Result<()> {
    eventually(&format!("{args:?} is taken"), LONG, || host.docker(args).map(drop))
}

/// What `skep system check` says of each host: nothing differs, and all that have a network know the same of it.
fn in_order(lab: &Lab) -> Result<()> {
    let mut known: BTreeMap<String, String> = BTreeMap::new();
    for host in lab.hosts() {
        host.skep(&["system", "check"])?;
        let report: serde_json::Value =
            serde_json::from_str(&host.skep(&["system", "check", "--format", "json"])?)?;
        let networks = report["Networks"].as_object().context("networks")?;
        let all = networks.iter().map(|(name, digest)| (name.clone(), digest));
        for (name, digest) in all.chain([("ports".to_owned(), &report["Ports"])]) {
            let digest = digest.as_str().unwrap_or_default().to_owned();
            let first = known.entry(name.clone()).or_insert_with(|| digest.clone());
            ensure!(*first == digest, "host {} knows another {name} than those before it", host.number);
        }
    }
    Ok(())
}

#[test]
fn every_hosts_kernel_is_as_it_should_be_after_anything() -> Result<()> {
    let seed = setting("SKEP_SEED", 1)?;
    let rounds = setting("SKEP_ROUNDS", 8)?;
    println!("SKEP_SEED={seed} SKEP_ROUNDS={rounds}");
    let mut rng = StdRng::seed_from_u64(seed);
    let mut lab = managers("chaos")?;
    let one = lab.host(1);
    one.docker(&["network", "create", "-d", "overlay", "net1"])?;
    let quick = [
        "--stop-grace-period",
        "1s",
        "--restart-delay",
        "0s",
        "--update-monitor",
        "1s",
        "--update-parallelism",
        "0",
    ];
    create(
        one,
        "web",
        3,
        &[&quick[..], &["--network", "net1", "-p", "8080:80", "-p", "8081:81/udp"]].concat(),
    )?;
    create(one, "inner", 3, &[&quick[..], &["--network", "net1"]].concat())?;

    let mut drained = None;
    for round in 1..=rounds {
        let what = happen(&mut lab, &mut rng, &mut drained)
            .with_context(|| format!("round {round} of seed {seed}"))?;
        println!("{round}: {what}");
    }

    let one = lab.host(1);
    if let Some(number) = drained {
        command(one, &["node", "update", "--availability", "active", &lab.host(number).name])?;
    }
    let reachable = ["Ready Leader", "Ready Reachable", "Ready Reachable"];
    nodes_are(one, "all managers are ready", &reachable)?;
    command(one, &["service", "scale", "-d", "web=4"])?;
    eventually("all tasks run, and no others", LONG, || {
        let (web, inner) = (running(one, "web")?.len(), running(one, "inner")?.len());
        let mut containers = 0;
        for host in lab.hosts() {
            containers += host.docker(&["ps", "-q"])?.lines().count();
        }
        ensure!(
            (web, inner, containers) == (4, 3, 7),
            "{web} of web, {inner} of inner, {containers} containers"
        );
        Ok(())
    })?;
    eventually("every host is in order", LONG, || in_order(&lab))?;
    for host in lab.hosts() {
        let seen = answers_to_client(&lab, &format!("http://{}:8080/", host.addr), 40)?;
        ensure!(seen.len() == 4, "through host {}: {seen:?}", host.number);
    }

    one.docker(&["service", "rm", "web", "inner"])?;
    eventually("no container is left", LONG, || {
        for host in lab.hosts() {
            let left = host.docker(&["ps", "-aq"])?;
            ensure!(left.is_empty(), "host {}: {left}", host.number);
        }
        one.docker(&["network", "rm", "net1"]).map(drop)
    })?;
    for host in lab.hosts() {
        eventually("nothing is left", LONG, || {
            host.skep(&["system", "check"])?;
            nothing_left(host)
        })?;
    }
    lab.down()
}

/// No interface, route, rule, element or namespace of containers, networks and other hosts.
fn nothing_left(host: &Host) -> Result<()> {
    let instance = std::fs::read_to_string(host.dir.join("data/instance"))?;
    let instance = instance.trim();
    let links = host.exec(&["ip", "-o", "link"])?;
    let left: Vec<_> =
        links.lines().filter(|l| l.contains(&format!("sk{instance}o")) || l.contains("vx-")).collect();
    ensure!(left.is_empty(), "host {}: {left:?}", host.number);
    let routes = host.exec(&["ip", "route", "show", "table", "all"])?;
    let ours: Vec<_> = routes.lines().filter(|l| l.contains("proto 83")).collect();
    ensure!(ours.is_empty(), "host {}: {ours:?}", host.number);
    let rules = host.exec(&["ip", "rule"])?;
    ensure!(rules.lines().count() == 3, "host {}: {rules}", host.number);
    let pins = std::fs::read_dir(host.dir.join("exec/network/netns"))?.count();
    ensure!(pins == 0, "host {}: {pins} namespaces", host.number);
    for set in ["vip_few", "ingress_few", "mesh_nodes", "owned"] {
        let table = format!("skep_{instance}");
        let text = host
            .exec(&["nft", "list", "set", "ip", &table, set])
            .or_else(|_| host.exec(&["nft", "list", "map", "ip", &table, set]))?;
        ensure!(!text.contains("elements"), "host {}: {text}", host.number);
    }
    Ok(())
}
