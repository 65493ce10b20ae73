//! A service of 100 replicas on one host: from its creation until all of them run.

use std::time::Instant;

use anyhow::Result;
use skep_e2e::Lab;

use super::docker::{self, DockerLab};
use super::http::Client;
use super::table::{Row, Target};
use super::{Setup, hosts};

const REPLICAS: u32 = 100;
const TURNS: usize = 5;

pub fn run(setup: &Setup) -> Result<Vec<Row>> {
    let lab = hosts::lab(setup, 1)?;
    let docker = DockerLab::up(setup, 1)?;
    let mut ours = ready(hosts::client(lab.host(1)), &lab)?;
    let mut theirs = match &docker {
        Some(d) => Some(ready(docker::client(d.lab.host(1)), &d.lab)?),
        None => None,
    };
    let (mut mine, mut his) = (Vec::new(), Vec::new());
    for turn in 0..TURNS {
        mine.push(measure(&mut ours, &format!("s{turn}"))?);
        // One turn of Docker's takes as long as all of ours.
        if let Some(client) = theirs.as_mut().filter(|_| turn % 2 == 0) {
            his.push(measure(client, &format!("s{turn}"))?);
        }
    }
    let what = format!("service of {REPLICAS} replicas on one host, create to all running");
    Ok(vec![Row::new(what, "s", mine, Target::RatioAtMost(0.2)).beside("docker swarm", his)])
}

fn ready(mut client: Client, lab: &Lab) -> Result<Client> {
    hosts::swarm(std::slice::from_mut(&mut client), lab)?;
    Ok(client)
}

fn measure(client: &mut Client, name: &str) -> Result<f64> {
    let began = Instant::now();
    let id = hosts::create_service(client, name, REPLICAS)?;
    let seconds = hosts::until_running(client, name, REPLICAS as usize, "", began)?;
    println!("{name}: {seconds:.2} s");
    hosts::remove_service(client, &id)?;
    Ok(seconds)
}
