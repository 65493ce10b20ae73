//! The `skep` client beside Docker's own, against the same daemon: the same tables, the same results of
//! `--format`, the same exit codes, the same words on what went wrong.

mod compare;
mod containers;
mod contexts;
mod create;
mod defaults;
mod devices;
mod events;
mod exec;
mod gateway;
mod images;
mod interactive;
mod ipv6;
mod joined;
mod lifecycle;
mod links;
mod networks;
mod ports6;
mod refused;
mod runtimes;
mod saved;
mod served;
mod settings;
mod start_errors;
mod storage;
mod swarm;
mod usage;
mod userns;
mod websocket;

use std::path::PathBuf;
use std::process::{Command, Stdio};

use anyhow::{Context, Result, ensure};
use skep_e2e::{Host, Lab, LabOptions, whoami_image};

/// One host with the whoami image.
fn lab(name: &str) -> Result<Lab> {
    let init = PathBuf::from(env!("CARGO_BIN_EXE_skep-lab-init"));
    let skep = init.with_file_name("skep");
    let name = format!("{name}{}", std::process::id() % 10_000);
    let lab = Lab::up(LabOptions { name, hosts: 1, skep: skep.clone(), init })?;
    let host = lab.host(1);
    let archive = host.dir.join("whoami.tar");
    whoami_image(&skep, &archive)?;
    host.docker(&["import", archive.to_str().context("a UTF-8 path")?, "whoami:1"])?;
    host.docker(&["tag", "whoami:1", "registry.example:5000/team/whoami:two"])?;
    Ok(lab)
}

/// An image of Debian's static busybox.
fn busybox(host: &Host) -> Result<()> {
    let archive = host.dir.join("busybox.tar");
    let mut tar = tar::Builder::new(std::fs::File::create(&archive)?);
    tar.append_path_with_name("/bin/busybox", "bin/busybox").context("busybox-static is installed")?;
    let mut link = tar::Header::new_gnu();
    link.set_entry_type(tar::EntryType::Symlink);
    link.set_size(0);
    for applet in ["bin/sh", "bin/true"] {
        tar.append_link(&mut link, applet, "busybox")?;
    }
    tar.into_inner()?.sync_all()?;
    host.docker(&["import", archive.to_str().context("a UTF-8 path")?, "busybox"])?;
    Ok(())
}

/// What a command came to.
#[derive(Debug, PartialEq, Eq)]
struct Outcome {
    code: Option<i32>,
    stdout: String,
    stderr: String,
}

fn outcome(command: &mut Command, args: &[&str]) -> Result<Outcome> {
    let out = command.args(args).stdin(Stdio::null()).output()?;
    // The two clients call themselves by their own names.
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).replace("docker", "skep");
    Ok(Outcome { code: out.status.code(), stdout: text(&out.stdout), stderr: text(&out.stderr) })
}

/// What a command that must succeed has written.
fn ok(out: Outcome) -> Result<String> {
    ensure!(out.code == Some(0), "{out:?}");
    Ok(out.stdout)
}

fn docker(host: &Host, args: &[&str]) -> Result<Outcome> {
    outcome(&mut host.docker_command(), args)
}

fn skep(host: &Host, args: &[&str]) -> Result<Outcome> {
    outcome(&mut host.skep_command(), args)
}
