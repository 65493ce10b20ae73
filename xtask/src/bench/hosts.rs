//! Skep's laboratory hosts, and what is asked of a swarm in the same words whether it is Skep's or Docker's.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use serde_json::{Value, json};
use skep_e2e::{Host, Lab, LabOptions, eventually};

use super::http::Client;
use super::{Setup, go_on, peers};

const LONG: Duration = Duration::from_secs(60);

/// A name for a laboratory of this process; there may be one per letter.
pub fn name(letter: &str) -> String {
    format!("{letter}{}", std::process::id() % 1_000_000)
}

/// Hosts with the release build.
pub fn lab(setup: &Setup, hosts: u32) -> Result<Lab> {
    Lab::up(LabOptions { name: name("s"), hosts, skep: setup.skep.clone(), init: setup.init.clone() })
}

/// The REST API of a host's skep.
pub fn client(host: &Host) -> Client {
    Client::new(&host.socket())
}

/// REST clients, one a host.
pub fn clients(lab: &Lab) -> Vec<Client> {
    lab.hosts().iter().map(client).collect()
}

/// A swarm in which every host is a manager and has the busybox image as `bb`.
pub fn swarm(clients: &mut [Client], lab: &Lab) -> Result<()> {
    let image = peers::busybox()?;
    let addrs: Vec<&str> = lab.hosts().iter().map(|h| h.addr.as_str()).collect();
    for (i, (client, addr)) in clients.iter_mut().zip(&addrs).enumerate() {
        client.import(&image, "bb")?;
        if i == 0 {
            let body = json!({ "ListenAddr": "0.0.0.0:2377", "AdvertiseAddr": addr });
            client.post("/swarm/init", Some(&body)).context("swarm init")?;
        }
    }
    let Some((first, others)) = clients.split_first_mut() else { return Ok(()) };
    let token = first.get("/swarm")?["JoinTokens"]["Manager"].clone();
    for (client, addr) in others.iter_mut().zip(&addrs[1..]) {
        let body = json!({
            "ListenAddr": "0.0.0.0:2377",
            "AdvertiseAddr": addr,
            "RemoteAddrs": [format!("{}:2377", addrs[0])],
            "JoinToken": token,
        });
        client.post("/swarm/join", Some(&body)).context("swarm join")?;
    }
    whole(first, addrs.len())
}

/// Waits until this many managers are ready, one of them the leader.
pub fn whole(client: &mut Client, managers: usize) -> Result<()> {
    eventually("all managers are ready", LONG, || {
        go_on()?;
        let nodes = client.get("/nodes")?;
        let nodes = nodes.as_array().context("no list of nodes")?;
        let ready =
            |n: &&Value| n["Status"]["State"] == "ready" && n["ManagerStatus"]["Reachability"] == "reachable";
        ensure!(nodes.iter().filter(ready).count() == managers, "{nodes:?}");
        ensure!(nodes.iter().any(|n| n["ManagerStatus"]["Leader"] == true), "no leader: {nodes:?}");
        Ok(())
    })
}

/// Number (from 0) of the leader's host, going by host names.
pub fn leader(client: &mut Client, lab: &Lab) -> Result<usize> {
    let nodes = client.get("/nodes")?;
    let list = nodes.as_array().context("no list of nodes")?;
    let leader = list.iter().find(|n| n["ManagerStatus"]["Leader"] == true).context("no leader")?;
    let at = lab.hosts().iter().position(|h| leader["Description"]["Hostname"] == h.name.as_str());
    at.with_context(|| format!("the leader is no host of the laboratory: {leader}"))
}

/// Creates a service of `sleep`; returns its ID.
pub fn create_service(client: &mut Client, name: &str, replicas: u32) -> Result<String> {
    let body = json!({
        "Name": name,
        "TaskTemplate": { "ContainerSpec": {
            "Image": "bb",
            "Args": ["sleep", "1000000"],
            "StopGracePeriod": 100_000_000,
        } },
        "Mode": { "Replicated": { "Replicas": replicas } },
    });
    let answer = client.post("/services/create", Some(&body))?;
    Ok(answer["ID"].as_str().context("an answer without an ID")?.to_owned())
}

/// Tasks of a service that shall run.
pub fn wanted(client: &mut Client, service: &str) -> Result<Vec<Value>> {
    let filters = json!({ "service": { service: true }, "desired-state": { "running": true } }).to_string();
    match client.get(&format!("/tasks?filters={}", encode(&filters)))? {
        Value::Array(tasks) => Ok(tasks),
        other => bail!("no list of tasks: {other}"),
    }
}

/// Tasks of a service that run and shall, but for those on node `without`.
pub fn running(client: &mut Client, service: &str, without: &str) -> Result<usize> {
    let tasks = wanted(client, service)?;
    Ok(tasks.iter().filter(|t| t["Status"]["State"] == "running" && t["NodeID"] != without).count())
}

/// Seconds until `replicas` tasks of a service run elsewhere than on `without`.
pub fn until_running(
    client: &mut Client,
    service: &str,
    replicas: usize,
    without: &str,
    since: Instant,
) -> Result<f64> {
    loop {
        go_on()?;
        let now = running(client, service, without)?;
        if now == replicas {
            return Ok(since.elapsed().as_secs_f64());
        }
        if since.elapsed() > LONG {
            let why = complaints(client, service)?;
            bail!("{now} of {replicas} tasks of {service} run after {LONG:?}: {why}");
        }
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// What the tasks of a service have to complain of, each once.
fn complaints(client: &mut Client, service: &str) -> Result<String> {
    let filters = encode(&json!({ "service": { service: true } }).to_string());
    let tasks = client.get(&format!("/tasks?filters={filters}"))?;
    let errors = tasks.as_array().into_iter().flatten().filter_map(|t| t["Status"]["Err"].as_str());
    let errors: std::collections::BTreeSet<&str> = errors.filter(|e| !e.is_empty()).take(50).collect();
    Ok(errors.into_iter().collect::<Vec<_>>().join("; "))
}

/// Removes a service and waits until its containers are gone, so that the next turn starts clean.
pub fn remove_service(client: &mut Client, service: &str) -> Result<()> {
    client.delete(&format!("/services/{service}"))?;
    eventually("the service's containers are gone", LONG, || {
        go_on()?;
        let containers = client.get("/containers/json?all=1")?;
        let left = containers.as_array().map_or(0, Vec::len);
        ensure!(left == 0, "{left} are left");
        Ok(())
    })
}

/// Percent-encodes a query value (RFC 3986).
fn encode(text: &str) -> String {
    let plain = |b: u8| b.is_ascii_alphanumeric() || b"-._~".contains(&b);
    text.bytes().map(|b| if plain(b) { char::from(b).to_string() } else { format!("%{b:02X}") }).collect()
}
