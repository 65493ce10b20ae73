//! An image of 300 MB, pulled from a registry on loopback and unpacked: against Debian's dockerd and podman, from
//! the same blobs.

use std::process::Command;

use anyhow::Result;
use skep_e2e::registry::{Registry, RegistryOptions};

use super::docker::DockerLab;
use super::large_image::{LAYERS, MEGABYTES, archive};
use super::peers::{call, podman};
use super::table::{Row, Target, timed};
use super::{Setup, go_on, hosts};
use crate::packages;

const REGISTRY: &str = "127.0.0.1:5000";
const IMAGE: &str = "127.0.0.1:5000/bench/big:1";
const TURNS: usize = 5;

pub fn run(setup: &Setup) -> Result<Vec<Row>> {
    packages::unpack(packages::UNPACKED)?;
    let lab = hosts::lab(setup, 1)?;
    let docker = DockerLab::up(setup, 1)?;
    let host = lab.host(1);
    let registry = Registry::start(host, REGISTRY, &RegistryOptions::default())?;
    let archive = archive(&host.dir, IMAGE)?;
    call(host.skep_command().arg("load").arg("-i").arg(&archive))?;
    call(host.skep_command().args(["push", IMAGE]))?;
    call(host.skep_command().args(["rmi", IMAGE]))?;
    let far = match &docker {
        Some(d) => {
            let to = d.lab.host(1);
            call(Command::new("cp").arg("-a").arg(Registry::directory(host, REGISTRY)).arg(&to.dir))?;
            Some(Registry::start(to, REGISTRY, &RegistryOptions::default())?)
        }
        None => None,
    };
    let (mut ours, mut dockers, mut podmans) = (vec![], vec![], vec![]);
    for turn in 0..=TURNS {
        let keep = |list: &mut Vec<f64>, ms: f64| {
            if turn > 0 {
                list.push(ms / 1e3);
            }
        };
        keep(&mut ours, timed(|| call(host.skep_command().args(["pull", IMAGE])))?);
        call(host.skep_command().args(["rmi", IMAGE]))?;
        if let Some(d) = &docker {
            keep(&mut dockers, timed(|| call(d.command(d.lab.host(1)).args(["pull", IMAGE])))?);
            call(d.command(d.lab.host(1)).args(["rmi", IMAGE]))?;
        }
        keep(&mut podmans, timed(|| call(podman(host)?.args(["pull", "--tls-verify=false", IMAGE])))?);
        call(podman(host)?.args(["rmi", IMAGE]))?;
        go_on()?;
    }
    drop((registry, far));
    let what = format!("pull and unpack of an image of {MEGABYTES} MB in {LAYERS} layers");
    let row =
        |name, peer| Row::new(what.clone(), "s", ours.clone(), Target::RatioAtMost(1.0)).beside(name, peer);
    Ok(vec![row("docker pull", dockers), row("podman pull", podmans)])
}
