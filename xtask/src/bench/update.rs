//! A service as it changes: replicas until all run, a rolling update, a killed task; against Docker's swarm mode. Then an
//! update under 2,000 requests a second.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use serde_json::{Value, json};
use skep_e2e::{Lab, Load, eventually, whoami_image_with_busybox};

use super::docker::{self, DockerLab};
use super::http::Client;
use super::table::{Row, Target, quantile};
use super::{Setup, go_on, hosts};

/// Replicas, and how often they are started with Skep and with Docker.
const SIZES: [(u32, usize, usize); 3] = [(10, 5, 3), (50, 5, 2), (100, 3, 1)];
/// Replicas of the service that is updated and has tasks killed.
const UPDATED: u32 = 10;
const TURNS: usize = 5;
const DOCKER_TURNS: usize = 3;
const PER_SECOND: u32 = 2000;
/// How long a connection stays; the drain has room for it.
const KEPT: Duration = Duration::from_millis(500);
/// Load before an update, and after.
const BESIDE: Duration = Duration::from_secs(3);
const LONG: Duration = Duration::from_secs(120);

pub fn run(setup: &Setup) -> Result<Vec<Row>> {
    let lab = hosts::lab(setup, 1)?;
    let docker = DockerLab::up(setup, 1)?;
    let mut ours = hosts::client(lab.host(1));
    hosts::swarm(std::slice::from_mut(&mut ours), &lab)?;
    let mut theirs = None;
    if let Some(d) = &docker {
        let mut client = docker::client(d.lab.host(1));
        hosts::swarm(std::slice::from_mut(&mut client), &d.lab)?;
        theirs = Some(client);
    }
    let mut rows = Vec::new();
    for (replicas, turns, docker_turns) in SIZES {
        let (mut mine, mut his) = (Vec::new(), Vec::new());
        for turn in 0..turns {
            mine.push(converge(&mut ours, turn, replicas)?);
            if let Some(client) = theirs.as_mut().filter(|_| turn < docker_turns) {
                his.push(converge(client, turn, replicas)?);
            }
        }
        let what = format!("{replicas} replicas on one host, create to all running");
        rows.push(Row::new(what, "s", mine, Target::None).beside("docker swarm", his));
    }
    let [mut updates, mut kills] = [[Vec::new(), Vec::new()], [Vec::new(), Vec::new()]];
    for (which, client) in [Some(&mut ours), theirs.as_mut()].into_iter().enumerate() {
        let Some(client) = client else { continue };
        let turns = if which == 0 { TURNS } else { DOCKER_TURNS };
        let id = create(client, "changed", UPDATED)?;
        hosts::until_running(client, "changed", UPDATED as usize, "", Instant::now())?;
        for turn in 0..turns {
            updates[which].push(roll(client, &id, UPDATED as usize)?);
            kills[which].push(replace(client, "changed")?);
            println!("update {:.2} s, replacement {:.2} s", updates[which][turn], kills[which][turn]);
        }
        hosts::remove_service(client, &id)?;
    }
    for (what, [mine, his]) in [
        (format!("rolling update of {UPDATED} replicas, one at a time, stop first"), updates),
        ("task killed: until another runs in its place".to_owned(), kills),
    ] {
        rows.push(Row::new(what, "s", mine, Target::None).beside("docker swarm", his));
    }
    drop((ours, theirs, docker, lab));
    rows.extend(under_load(setup)?);
    Ok(rows)
}

fn converge(client: &mut Client, turn: usize, replicas: u32) -> Result<f64> {
    let name = format!("c{replicas}-{turn}");
    let began = Instant::now();
    let id = hosts::create_service(client, &name, replicas)?;
    let seconds = hosts::until_running(client, &name, replicas as usize, "", began)?;
    println!("{name}: {seconds:.2} s");
    hosts::remove_service(client, &id)?;
    Ok(seconds)
}

/// A service without waiting of its own: neither between the tasks of an update nor before a restart.
fn create(client: &mut Client, name: &str, replicas: u32) -> Result<String> {
    let body = json!({
        "Name": name,
        "TaskTemplate": {
            "ContainerSpec": {
                "Image": "bb",
                "Args": ["sleep", "1000000"],
                "StopGracePeriod": 100_000_000,
            },
            "RestartPolicy": { "Condition": "any", "Delay": 0 },
        },
        "Mode": { "Replicated": { "Replicas": replicas } },
        "UpdateConfig": { "Parallelism": 1, "Delay": 0, "Monitor": 1_000_000, "Order": "stop-first" },
    });
    let answer = client.post("/services/create", Some(&body))?;
    Ok(answer["ID"].as_str().context("an answer without an ID")?.to_owned())
}

/// Has every task made anew; the number of this update.
fn force(client: &mut Client, id: &str) -> Result<u64> {
    let service = client.get(&format!("/services/{id}"))?;
    let version = service["Version"]["Index"].as_u64().context("a service without a version")?;
    let mut spec = service["Spec"].clone();
    let round = spec["TaskTemplate"]["ForceUpdate"].as_u64().unwrap_or(0) + 1;
    spec["TaskTemplate"]["ForceUpdate"] = round.into();
    client.post(&format!("/services/{id}/update?version={version}"), Some(&spec))?;
    Ok(round)
}

/// Seconds from an update until all tasks run, each made by it, and no other is left.
fn roll(client: &mut Client, id: &str, replicas: usize) -> Result<f64> {
    let began = Instant::now();
    let round = force(client, id)?;
    until_rolled(client, id, replicas, round, began)
}

fn until_rolled(client: &mut Client, id: &str, replicas: usize, round: u64, began: Instant) -> Result<f64> {
    loop {
        go_on()?;
        let tasks = hosts::wanted(client, id)?;
        let made = |t: &&Value| t["Spec"]["ForceUpdate"] == round && t["Status"]["State"] == "running";
        if tasks.len() == replicas && tasks.iter().filter(made).count() == replicas {
            return Ok(began.elapsed().as_secs_f64());
        }
        ensure!(began.elapsed() < LONG, "{} of {replicas} are made anew", tasks.iter().filter(made).count());
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// Seconds from the death of a task's container until another runs in its place.
fn replace(client: &mut Client, name: &str) -> Result<f64> {
    let tasks = hosts::wanted(client, name)?;
    let victim =
        &tasks.first().context("a service without tasks")?["Status"]["ContainerStatus"]["ContainerID"];
    let victim = victim.as_str().context("a task without a container")?.to_owned();
    let began = Instant::now();
    client.post(&format!("/containers/{victim}/kill"), None)?;
    loop {
        go_on()?;
        let tasks = hosts::wanted(client, name)?;
        let runs = |t: &&Value| {
            t["Status"]["State"] == "running"
                && t["Status"]["ContainerStatus"]["ContainerID"] != victim.as_str()
        };
        if tasks.iter().filter(runs).count() == UPDATED as usize {
            return Ok(began.elapsed().as_secs_f64());
        }
        ensure!(began.elapsed() < LONG, "no other task runs in the place of {victim}");
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// Updates of four replicas on two hosts while both are asked, half of it by connections that stay.
fn under_load(setup: &Setup) -> Result<Vec<Row>> {
    let lab = hosts::lab(setup, 2)?;
    let mut clients = hosts::clients(&lab);
    hosts::swarm(&mut clients, &lab)?;
    let archive = lab.host(1).dir.join("web.tar");
    whoami_image_with_busybox(&setup.skep, &archive)?;
    let image = std::fs::read(&archive)?;
    for client in &mut clients {
        client.import(&image, "web")?;
    }
    let client = &mut clients[0];
    let body = json!({
        "Name": "web",
        "TaskTemplate": { "ContainerSpec": {
            "Image": "web",
            "Command": ["/skep", "whoami"],
            "StopGracePeriod": 1_000_000_000_i64,
            "Healthcheck": {
                "Test": ["CMD", "wget", "-qO-", "http://127.0.0.1/"], "Interval": 1_000_000_000_i64,
            },
        } },
        "Mode": { "Replicated": { "Replicas": 4 } },
        "UpdateConfig": { "Parallelism": 1, "Delay": 0, "Monitor": 1_000_000, "Order": "start-first" },
        "EndpointSpec": { "Ports": [{ "Protocol": "tcp", "TargetPort": 80, "PublishedPort": 8080 }] },
        "DrainTime": 4_000_000_000_i64,
    });
    let answer = client.post("/services/create", Some(&body))?;
    let id = answer["ID"].as_str().context("an answer without an ID")?.to_owned();
    hosts::until_running(client, "web", 4, "", Instant::now())?;
    served(&lab)?;
    let targets: Vec<SocketAddr> =
        lab.hosts().iter().map(|h| Ok(format!("{}:8080", h.addr).parse()?)).collect::<Result<_>>()?;
    let (mut failed, mut rate, mut middle, mut most) = (vec![], vec![], vec![], vec![]);
    for _ in 0..TURNS.min(3) {
        let load = Load::paced(lab.outside_netns(), targets.clone(), KEPT, PER_SECOND);
        let began = Instant::now();
        std::thread::sleep(BESIDE);
        let rolled = roll(client, &id, 4);
        std::thread::sleep(BESIDE);
        let seconds = began.elapsed().as_secs_f64();
        let outcome = load.outcome()?;
        let rolled = rolled?;
        if !outcome.failures.is_empty() {
            println!("failed: {:#?}", outcome.failures);
        }
        println!("{} answered in {seconds:.1} s, the update took {rolled:.1} s", outcome.answered);
        if outcome.micros.is_empty() {
            bail!("no request was answered");
        }
        let millis: Vec<f64> = outcome.micros.iter().map(|m| f64::from(*m) / 1e3).collect();
        failed.push(outcome.failed as f64);
        rate.push(outcome.answered as f64 / seconds);
        middle.push(quantile(&millis, 0.5));
        most.push(quantile(&millis, 0.99));
    }
    let what = format!("rolling update under {PER_SECOND} requests/s on two hosts");
    Ok(vec![
        Row::new(format!("{what}: failed"), "requests", failed, Target::Median(0.0)),
        Row::new(format!("{what}: answered"), "/s", rate, Target::None),
        Row::new(format!("{what}: median since a request was due"), "ms", middle, Target::None),
        Row::new(format!("{what}: 99 of 100"), "ms", most, Target::None),
    ])
}

/// Waits until every host serves the port.
fn served(lab: &Lab) -> Result<()> {
    eventually("every host serves the port", LONG, || {
        go_on()?;
        for host in lab.hosts() {
            let url = format!("http://{}:8080/", host.addr);
            lab.outside(&["curl", "-sS", "-o", "/dev/null", "--max-time", "5", &url])?;
        }
        Ok(())
    })
}
