//! An image of 300 MB, pulled from a registry on loopback and unpacked: against Debian's dockerd and podman, from
//! the same blobs.

use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};
use serde_json::json;
use skep_e2e::registry::{Registry, RegistryOptions};

use super::docker::DockerLab;
use super::peers::{call, digest, podman};
use super::table::{Row, Target, timed};
use super::{Setup, go_on, hosts};
use crate::packages;

const REGISTRY: &str = "127.0.0.1:5000";
const IMAGE: &str = "127.0.0.1:5000/bench/big:1";
const LAYERS: usize = 6;
const LAYER: u64 = 50_000_000;
const TURNS: usize = 5;

pub fn run(setup: &Setup) -> Result<Vec<Row>> {
    packages::unpack(packages::UNPACKED)?;
    let lab = hosts::lab(setup, 1)?;
    let docker = DockerLab::up(setup, 1)?;
    let host = lab.host(1);
    let registry = Registry::start(host, REGISTRY, &RegistryOptions::default())?;
    let skep = || {
        let mut command = Command::new(&host.skep);
        command.env("DOCKER_HOST", host.docker_host());
        command
    };
    let archive = archive(&host.dir)?;
    call(skep().arg("load").arg("-i").arg(&archive))?;
    call(skep().args(["push", IMAGE]))?;
    call(skep().args(["rmi", IMAGE]))?;
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
        keep(&mut ours, timed(|| call(skep().args(["pull", IMAGE])))?);
        call(skep().args(["rmi", IMAGE]))?;
        if let Some(d) = &docker {
            keep(&mut dockers, timed(|| call(d.command(d.lab.host(1)).args(["pull", IMAGE])))?);
            call(d.command(d.lab.host(1)).args(["rmi", IMAGE]))?;
        }
        keep(&mut podmans, timed(|| call(podman(host)?.args(["pull", "--tls-verify=false", IMAGE])))?);
        call(podman(host)?.args(["rmi", IMAGE]))?;
        go_on()?;
    }
    drop((registry, far));
    let what =
        format!("pull and unpack of an image of {} MB in {LAYERS} layers", LAYERS as u64 * LAYER / 1_000_000);
    let row =
        |name, peer| Row::new(what.clone(), "s", ours.clone(), Target::RatioAtMost(1.0)).beside(name, peer);
    Ok(vec![row("docker pull", dockers), row("podman pull", podmans)])
}

/// An image in Docker's archive format, of real files: this machine's programs and libraries.
fn archive(dir: &Path) -> Result<PathBuf> {
    let mut files = Vec::new();
    for folder in
        ["/usr/lib/x86_64-linux-gnu", "/usr/lib/aarch64-linux-gnu", "/usr/bin", "/usr/lib", "/usr/share"]
    {
        collect(Path::new(folder), &mut files)?;
    }
    files.sort();
    files.dedup();
    let mut files = files.into_iter();
    let folder = dir.join("image");
    std::fs::create_dir_all(&folder)?;
    let (mut layers, mut diff_ids) = (Vec::new(), Vec::new());
    for number in 0..LAYERS {
        let name = format!("{number}.tar");
        let path = folder.join(&name);
        let mut out = tar::Builder::new(std::fs::File::create(&path)?);
        out.follow_symlinks(false);
        let mut size = 0;
        while size < LAYER {
            let file = files.next().context("this machine has too few files for an image of 300 MB")?;
            size += std::fs::metadata(&file)?.len();
            out.append_path_with_name(&file, file.strip_prefix("/")?)?;
        }
        out.into_inner()?.sync_all()?;
        diff_ids.push(digest(&path)?);
        layers.push(name);
    }
    let config = json!({
        "architecture": if cfg!(target_arch = "aarch64") { "arm64" } else { "amd64" },
        "os": "linux",
        "config": {},
        "rootfs": { "type": "layers", "diff_ids": diff_ids },
    });
    std::fs::write(folder.join("config.json"), serde_json::to_vec(&config)?)?;
    let manifest = json!([{ "Config": "config.json", "RepoTags": [IMAGE], "Layers": layers }]);
    std::fs::write(folder.join("manifest.json"), serde_json::to_vec(&manifest)?)?;
    let path = dir.join("image.tar");
    let mut out = tar::Builder::new(std::fs::File::create(&path)?);
    out.append_dir_all(".", &folder)?;
    out.into_inner()?;
    std::fs::remove_dir_all(&folder)?;
    Ok(path)
}

/// Regular files that an archive can hold without more ado: of one link, and with short names.
fn collect(folder: &Path, into: &mut Vec<PathBuf>) -> Result<()> {
    let Ok(entries) = std::fs::read_dir(folder) else { return Ok(()) };
    for entry in entries {
        let entry = entry?;
        let kind = entry.file_type()?;
        if kind.is_dir() {
            collect(&entry.path(), into)?;
        } else if kind.is_file() && entry.path().as_os_str().as_bytes().len() < 100 {
            into.push(entry.path());
        }
    }
    Ok(())
}
