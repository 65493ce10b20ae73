//! Three hosts, all managers: the leader's daemon is killed, then a host dies.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use skep_e2e::{Host, Lab};

use super::docker::DockerLab;
use super::http::Client;
use super::table::{Row, Target};
use super::{Setup, go_on, hosts};

/// Times that Docker's leader is killed: each takes it some 15 s.
const DOCKER_KILLS: usize = 3;
/// Hosts that die.
const DEATHS: usize = 3;
const REPLICAS: u32 = 6;

pub fn run(setup: &Setup) -> Result<Vec<Row>> {
    let mut lab = hosts::lab(setup, 3)?;
    let mut ours = hosts::clients(&lab);
    hosts::swarm(&mut ours, &lab)?;
    let mut writes = Vec::new();
    for turn in 0..setup.kills {
        let seconds = kill_leader(
            &mut ours,
            &lab,
            &format!("w{turn}"),
            |host| Ok(vec![host.daemon_pid()?]),
            Host::start_daemon,
        )?;
        println!("leader {turn}: {seconds:.2} s");
        writes.push(seconds);
    }
    let mut moves = Vec::new();
    for turn in 0..DEATHS {
        let (seconds, dead) = kill_host(&mut ours, &mut lab, &format!("m{turn}"))?;
        println!("host {turn}: {seconds:.2} s");
        moves.push(seconds);
        lab.restart(dead)?;
        hosts::whole(&mut ours[0], 3)?;
        hosts::remove_service(&mut ours[0], &format!("m{turn}"))?;
    }
    let (their_writes, their_moves) = docker(setup)?;
    Ok(vec![
        Row::new("leader killed: until a write succeeds", "s", writes, Target::P95(2.0))
            .beside("docker swarm", their_writes),
        Row::new("host dead: until its replicas run elsewhere", "s", moves, Target::Median(8.0))
            .beside("docker swarm", their_moves),
    ])
}

fn docker(setup: &Setup) -> Result<(Vec<f64>, Vec<f64>)> {
    let Some(mut docker) = DockerLab::up(setup, 3)? else { return Ok(Default::default()) };
    let mut clients = docker.clients();
    hosts::swarm(&mut clients, &docker.lab)?;
    let mut writes = Vec::new();
    for turn in 0..DOCKER_KILLS {
        let pid = |host: &Host| Ok(docker.pids(host)?[..1].to_vec());
        let start = |host: &Host| docker.start(host);
        let seconds = kill_leader(&mut clients, &docker.lab, &format!("w{turn}"), pid, start)?;
        println!("docker's leader {turn}: {seconds:.2} s");
        writes.push(seconds);
    }
    let (seconds, _) = kill_host(&mut clients, &mut docker.lab, "m")?;
    println!("docker's host: {seconds:.2} s");
    Ok((writes, vec![seconds]))
}

/// Seconds from the leader's SIGKILL until a write through one of the others succeeds.
fn kill_leader(
    clients: &mut [Client],
    lab: &Lab,
    name: &str,
    pids: impl Fn(&Host) -> Result<Vec<i32>>,
    start: impl Fn(&Host) -> Result<()>,
) -> Result<f64> {
    let at = hosts::leader(&mut clients[0], lab)?;
    let victim = lab.hosts()[at].clone();
    let pids: Vec<String> = pids(&victim)?.iter().map(ToString::to_string).collect();
    let others: Vec<usize> = (0..clients.len()).filter(|i| *i != at).collect();
    let mut asked: Vec<Client> =
        others.iter().map(|i| Client::new(clients[*i].socket()).within(Duration::from_secs(10))).collect();
    let mut kill = vec!["kill", "-9"];
    kill.extend(pids.iter().map(String::as_str));
    victim.exec(&kill)?;
    let killed = Instant::now();
    let mut last: Vec<String> = Vec::new();
    let seconds = 'writing: loop {
        for client in &mut asked {
            go_on()?;
            match hosts::create_service(client, name, 0) {
                Ok(_) => break 'writing killed.elapsed().as_secs_f64(),
                // The write whose answer was lost.
                Err(e) if format!("{e:#}").contains("409") => {
                    break 'writing killed.elapsed().as_secs_f64();
                }
                Err(e) => last.push(format!("{e:#}")),
            }
            ensure!(killed.elapsed() < Duration::from_secs(120), "no write succeeds: {:?}", last.last());
            std::thread::sleep(Duration::from_millis(10));
        }
    };
    asked[0]
        .delete(&format!("/services/{name}"))
        .or_else(|_| asked[1].delete(&format!("/services/{name}")))?;
    start(&victim)?;
    hosts::whole(&mut asked[0], clients.len())?;
    Ok(seconds)
}

/// Seconds from a host's death until its replicas run elsewhere, and the number of the host.
fn kill_host(clients: &mut [Client], lab: &mut Lab, name: &str) -> Result<(f64, u32)> {
    let client = &mut clients[0];
    hosts::create_service(client, name, REPLICAS)?;
    hosts::until_running(client, name, REPLICAS as usize, "", Instant::now())?;
    // Neither the one asked nor the leader: a host that only runs tasks.
    let leader = hosts::leader(client, lab)?;
    let victim = lab.hosts().iter().enumerate().skip(1).find(|(i, _)| *i != leader);
    let victim = victim.map(|(_, host)| host.clone()).context("no host to kill")?;
    let nodes = client.get("/nodes")?;
    let of = |n: &&serde_json::Value| n["Description"]["Hostname"] == victim.name.as_str();
    let node = nodes.as_array().and_then(|n| n.iter().find(of)).context("the host is no node")?;
    let id = node["ID"].as_str().context("a node without an ID")?.to_owned();
    let began = Instant::now();
    lab.kill(victim.number)?;
    let seconds = hosts::until_running(client, name, REPLICAS as usize, &id, began)?;
    Ok((seconds, victim.number))
}
