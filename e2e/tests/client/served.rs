//! Containers that serve whoami, as tests of networks have them.

use anyhow::{Result, ensure};
use skep_e2e::swarm::LONG;
use skep_e2e::{Host, eventually};

/// What they run.
pub const SERVE: [&str; 3] = ["whoami:1", "/skep", "whoami"];

/// Runs one of this name and host name, and waits until it listens.
pub fn run(host: &Host, name: &str, more: &[&str]) -> Result<()> {
    let first = ["run", "-d", "--name", name, "--hostname", name];
    host.docker(&[&first[..], more, &SERVE].concat())?;
    eventually(&format!("{name} listens"), LONG, || {
        let log = host.docker(&["logs", name])?;
        ensure!(log.contains("listening on port"), "{log}");
        Ok(())
    })
}

/// What a template makes of a container.
pub fn inspect(host: &Host, container: &str, template: &str) -> Result<String> {
    Ok(host.docker(&["inspect", "-f", template, container])?.trim().to_owned())
}
