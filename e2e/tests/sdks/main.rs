//! The SDKs that others wrote for Docker, docker-py and dockerode, each through all that one host does: images,
//! containers, networks, volumes, the swarm, events, and errors by their status.

use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context, Result, ensure};
use skep_e2e::swarm::{path, plain};
use skep_e2e::{Host, Lab, busybox_image};

const APPLETS: &[&str] =
    &["sh", "echo", "cat", "sleep", "true", "id", "pwd", "stty", "grep", "nslookup", "ulimit", "test"];

/// What `cargo xtask packages` has unpacked for them.
fn unpacked(part: &str) -> Result<PathBuf> {
    let exe = std::env::current_exe()?;
    let found = exe.ancestors().map(|dir| dir.join("tools/sdks").join(part)).find(|p| p.exists());
    found.with_context(|| format!("target/tools/sdks/{part} is not there: run `cargo xtask packages`"))
}

fn prepared(name: &str) -> Result<(Lab, PathBuf)> {
    let lab = plain(name, 1)?;
    let archive = lab.host(1).dir.join("busybox.tar");
    busybox_image(APPLETS, &archive)?;
    Ok((lab, archive))
}

fn script(name: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/sdks").join(name)
}

/// Runs a script that tells `1..N`, and then each of its steps as `ok NAME` or `not ok NAME: why`.
fn passes(host: &Host, command: &mut Command) -> Result<()> {
    let out = command.env("DOCKER_HOST", host.docker_host()).output()?;
    let (said, trouble) = (String::from_utf8_lossy(&out.stdout), String::from_utf8_lossy(&out.stderr));
    let steps = said.lines().find_map(|line| line.strip_prefix("1..")?.parse::<usize>().ok());
    let passed = said.lines().filter(|line| line.starts_with("ok ")).count();
    ensure!(
        out.status.success() && steps == Some(passed) && passed > 0,
        "{said}{trouble}the daemon's log: {}",
        host.log_tail()
    );
    Ok(())
}

#[test]
fn docker_py_finds_all_that_docker_has() -> Result<()> {
    let (lab, archive) = prepared("py")?;
    let mut command = Command::new("python3");
    command
        .env("PYTHONPATH", unpacked("python")?)
        .arg(script("docker_py.py"))
        .arg(path(&archive))
        .arg(&lab.host(1).addr);
    passes(lab.host(1), &mut command)?;
    lab.down()
}

#[test]
fn dockerode_finds_all_that_docker_has() -> Result<()> {
    let (lab, archive) = prepared("js")?;
    let mut command = Command::new("node");
    command
        .env("NODE_PATH", unpacked("node/node_modules")?)
        .arg(script("dockerode.js"))
        .arg(path(&archive))
        .arg(&lab.host(1).addr);
    passes(lab.host(1), &mut command)?;
    lab.down()
}
