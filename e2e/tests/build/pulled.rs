//! `build --pull`: base images that are asked for anew.

use std::fs;
use std::process::Command;

use anyhow::{Result, ensure};
use skep_e2e::Host;
use skep_e2e::registry::{Registry, RegistryOptions};

use crate::{builder, docker_build, run};

const REGISTRY: &str = "127.0.0.1:5000";

#[test]
fn a_newer_base_is_taken_from_the_registry_where_that_is_asked_for() -> Result<()> {
    let (lab, context) = builder("bpull")?;
    let host = lab.host(1);
    let registry = Registry::start(host, REGISTRY, &RegistryOptions::default())?;
    let base = format!("{REGISTRY}/base:1");
    for which in ["older", "newer"] {
        fs::write(context.join("Dockerfile"), format!("FROM bb\nRUN echo {which} > /which\n"))?;
        let (ok, said) = run(docker_build(host, &["-t", which, "-t", &base], &context))?;
        ensure!(ok, "{said}");
        host.docker(&["push", "-q", &base])?;
    }
    host.docker(&["rmi", "newer", &base])?;
    fs::write(context.join("Dockerfile"), format!("FROM {base}\nRUN cat /which > /was\n"))?;
    let clients = [Host::docker_command as fn(&Host) -> Command, Host::skep_command];
    let builds = |client: fn(&Host) -> Command, flags: &[&str]| {
        let mut command = client(host);
        command.args(["build", "-t", "made"]).args(flags).arg(&context);
        run(command)
    };
    let was = || host.docker(&["run", "--rm", "made", "cat", "/was"]);
    for (client, name) in clients.into_iter().zip(["docker", "skep"]) {
        host.docker(&["tag", "older", &base])?;
        for (flags, wanted) in [(&[][..], "older\n"), (&["--pull"], "newer\n"), (&[], "newer\n")] {
            let (ok, said) = builds(client, flags)?;
            ensure!(ok && was()? == wanted, "{name} {flags:?}: {:?} {said}", was()?);
        }
        // Of what the name was before, nothing is lost.
        let older = host.docker(&["run", "--rm", "older", "cat", "/which"])?;
        ensure!(older == "older\n", "{name}: {older}");
    }
    // What cannot be asked for is no newer base, and not silently the one that is here.
    registry.kill(host)?;
    for (client, name) in clients.into_iter().zip(["docker", "skep"]) {
        let (ok, said) = builds(client, &["--pull"])?;
        ensure!(!ok && said.contains(REGISTRY), "{name}: {said}");
        let (ok, said) = builds(client, &[])?;
        ensure!(ok, "{name}: {said}");
    }
    lab.down()
}
