//! A service under a steady load over three hosts: no request fails when it is updated, scaled down or drained.

use std::net::SocketAddr;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use skep_e2e::swarm::{LONG, managers, path, running, wait_running};
use skep_e2e::{Lab, Load, eventually, whoami_image_with_busybox};

/// How long a connection stays; the drain has room for it on a busy machine.
const KEPT: Duration = Duration::from_millis(500);
const DRAIN: &str = "4s";

fn load(lab: &Lab) -> Result<Load> {
    let targets: Result<Vec<SocketAddr>> =
        lab.hosts().iter().map(|h| Ok(format!("{}:8080", h.addr).parse()?)).collect();
    Ok(Load::start(lab.outside_netns(), targets?, KEPT))
}

#[test]
fn no_request_fails_over_an_update_a_scale_down_and_a_drain() -> Result<()> {
    let lab = managers("steady")?;
    let one = lab.host(1);
    let archive = one.dir.join("web.tar");
    whoami_image_with_busybox(&one.skep, &archive)?;
    for host in lab.hosts() {
        host.docker(&["import", path(&archive), "web:1"])?;
        host.docker(&["tag", "web:1", "web:2"])?;
    }
    // A task counts once it listens, which it says by its health check.
    let health = ["--health-cmd", "wget -qO- http://127.0.0.1/", "--health-interval", "1s"];
    let update = ["--update-parallelism", "1", "--update-delay", "0s", "--update-monitor", "1s"];
    let rest = ["--replicas", "3", "-p", "8080:80", "--stop-grace-period", "1s", "web:1", "/skep", "whoami"];
    let create = ["service", "create", "-d", "--name", "web", "--drain-time", DRAIN];
    one.skep(&[&create[..], &health, &update, &rest].concat())?;
    wait_running(one, "web", 3)?;
    let shown = one.docker(&["service", "inspect", "web"])?;
    ensure!(shown.contains("\"Name\": \"web\""), "Docker's client passes over what is Skep's own: {shown}");
    eventually("every host serves the port", LONG, || {
        for host in lab.hosts() {
            lab.outside(&[
                "curl",
                "-sS",
                "-o",
                "/dev/null",
                "--max-time",
                "5",
                &format!("http://{}:8080/", host.addr),
            ])?;
        }
        Ok(())
    })?;

    let load = load(&lab)?;
    load.wait_for(100)?;
    one.docker(&["service", "update", "--image", "web:2", "--env-add", "ROUND=2", "web"])?;
    // Docker's client sent the specification back without the drain time: it is kept.
    let drain = one.skep(&["service", "inspect", "--format", "{{.Spec.DrainTime}}", "web"])?;
    ensure!(drain.trim() == "4000000000", "{drain:?}");
    one.docker(&["service", "scale", "web=2"])?;
    wait_stopped(&lab, 2)?;
    one.docker(&["service", "scale", "web=3"])?;
    let nodes = running(one, "web")?;
    let drained = lab.hosts().iter().find(|h| nodes.contains(&h.name)).context("a host with a task")?;
    one.docker(&["node", "update", "--availability", "drain", &drained.name])?;
    eventually("the drained node is empty", LONG, || {
        let nodes = running(one, "web")?;
        ensure!(nodes.len() == 3 && !nodes.contains(&drained.name), "{nodes:?}");
        ensure!(drained.docker(&["ps", "-q"])?.is_empty());
        Ok(())
    })?;
    load.wait_for(100)?;
    let answered = load.finish()?;
    println!("{answered} requests, none failed");
    lab.down()
}

/// Waits until so many containers are left on all hosts.
fn wait_stopped(lab: &Lab, left: usize) -> Result<()> {
    eventually(&format!("{left} containers run"), LONG, || {
        let mut containers = 0;
        for host in lab.hosts() {
            containers += host.docker(&["ps", "-q"])?.lines().count();
        }
        ensure!(containers == left, "{containers} containers");
        Ok(())
    })
}
