//! An image of 300 MB that was loaded, compressed and pushed to a registry on loopback that has nothing yet: against
//! Debian's dockerd and podman, each to a `docker-registry` of its own.

use std::io::ErrorKind;
use std::process::Command;

use anyhow::Result;
use skep_e2e::Host;
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
    let image = archive(&host.dir, IMAGE)?;
    let push = |at: &Host, client: &dyn Fn() -> Result<Command>, flags: &[&str]| {
        // Gone with each turn's `rmi`, with whatever was compressed of it.
        call(client()?.arg("load").arg("-i").arg(&image))?;
        let _registry = empty_registry(at)?;
        let ms = timed(|| call(client()?.arg("push").args(flags).arg(IMAGE)))?;
        call(client()?.args(["rmi", IMAGE]))?;
        Ok::<f64, anyhow::Error>(ms / 1e3)
    };
    let (mut ours, mut dockers, mut podmans) = (vec![], vec![], vec![]);
    for turn in 0..=TURNS {
        let keep = |list: &mut Vec<f64>, seconds: f64| {
            if turn > 0 {
                list.push(seconds);
            }
        };
        keep(&mut ours, push(host, &|| Ok(host.skep_command()), &[])?);
        if let Some(d) = &docker {
            let to = d.lab.host(1);
            keep(&mut dockers, push(to, &|| Ok(d.command(to)), &[])?);
        }
        keep(&mut podmans, push(host, &|| podman(host), &["--tls-verify=false"])?);
        go_on()?;
    }
    let what = format!("push of an image of {MEGABYTES} MB in {LAYERS} layers");
    let row =
        |name, peer| Row::new(what.clone(), "s", ours.clone(), Target::RatioAtMost(1.0)).beside(name, peer);
    Ok(vec![row("docker push", dockers), row("podman push", podmans)])
}

/// A registry that never heard of the image: the process, too, remembers blobs.
fn empty_registry(host: &Host) -> Result<Registry> {
    match std::fs::remove_dir_all(Registry::directory(host, REGISTRY)) {
        Err(e) if e.kind() != ErrorKind::NotFound => Err(e.into()),
        _ => Registry::start(host, REGISTRY, &RegistryOptions::default()),
    }
}
