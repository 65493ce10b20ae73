//! The registry as a service of the swarm: an image of nothing but the binary, its content in a volume.

use std::time::Duration;

use anyhow::{Result, ensure};
use skep_e2e::eventually;
use skep_e2e::swarm::{begun, path};

use crate::clients::{context, pushed};

#[test]
fn a_service_of_the_swarm_serves_its_images() -> Result<()> {
    let lab = begun("regs", 1)?;
    let one = lab.host(1);
    let create = [
        "service",
        "create",
        "-d",
        "--name",
        "registry",
        "-p",
        "5000:5000",
        "--mount",
        "type=volume,src=images,dst=/data",
        "--stop-grace-period",
        "20s",
        "whoami:1",
        "/skep",
        "registry",
        "--listen",
        ":5000",
        "--plain-http",
        "--data-dir",
        "/data",
    ];
    one.docker(&create)?;
    let answers = || {
        eventually("the registry answers", Duration::from_secs(60), || {
            one.exec(&["curl", "-sS", "--fail", "http://127.0.0.1:5000/v2/"]).map(drop)
        })
    };
    answers()?;
    let image = "127.0.0.1:5000/team/app:1";
    let dir = one.dir.join("context");
    context(&dir, 1000)?;
    one.skep(&["build", "-q", "-t", image, path(&dir)])?;
    let digest = pushed(&one.skep(&["push", image])?)?;
    let id = one.docker(&["ps", "-q", "--filter", "label=com.docker.swarm.service.name=registry"])?;
    let found =
        one.docker(&["exec", id.trim(), "/skep", "registry", "gc", "--data-dir", "/data", "--dry-run"])?;
    ensure!(found.trim() == "0 blobs, 0B would be reclaimed", "{found}");
    // Another task has the same content.
    one.docker(&["service", "update", "--force", "-d", "registry"])?;
    eventually("another task runs", Duration::from_secs(90), || {
        let now = one.docker(&["ps", "-q", "--filter", "label=com.docker.swarm.service.name=registry"])?;
        ensure!(!now.is_empty() && now != id, "{now}");
        Ok(())
    })?;
    answers()?;
    let logs = one.docker(&["logs", id.trim()]);
    one.docker(&["rmi", image])?;
    let said = one.docker(&["pull", image])?;
    ensure!(said.contains(&digest), "{said} {logs:?}");
    lab.down()
}
