//! Every flag of `service create` and of `service update`, each by what comes of it on three hosts, with the `docker`
//! client. Counts those that are right: `N/M`.

mod create;
mod rolling;
mod seen;
mod update;

use std::io::Write;

use anyhow::{Context, Result, ensure};
use skep_e2e::busybox_image;
use skep_e2e::swarm::{join, nodes_are, path, plain, token};
use skep_e2e::tally::{Tally, docker};
use skep_e2e::{Host, Lab};

const APPLETS: &[&str] = &[
    "sh", "echo", "true", "false", "cat", "grep", "ls", "id", "pwd", "hostname", "sleep", "env", "tr", "cut",
    "head", "df", "tail", "mkdir", "touch", "mount", "ip", "nslookup", "stat", "wc", "readlink", "sed",
    "test", "httpd",
];

/// A manager in rack `a` with three apples, a worker there and one in rack `b`; the image `bb` on each; a network, a
/// secret and a config, all called `flags`.
fn orchard() -> Result<Lab> {
    let lab = plain("sf", 3)?;
    let [one, two, three] = lab.hosts() else { anyhow::bail!("three hosts") };
    one.stop_daemon("-TERM")?;
    std::fs::write(one.dir.join("daemon.toml"), "node-generic-resources = [\"apple=3\"]\n")?;
    one.start_daemon()?;
    let archive = one.dir.join("busybox.tar");
    busybox_image(APPLETS, &archive)?;
    for host in lab.hosts() {
        host.docker(&["import", path(&archive), "bb"])?;
        host.docker(&["tag", "bb", "other"])?;
    }
    one.docker(&["swarm", "init", "--advertise-addr", &one.addr])?;
    let worker = token(one, "worker")?;
    for host in [two, three] {
        join(host, &worker, "10.99.0.1:2377")?;
    }
    nodes_are(one, "two workers joined", &["Ready Leader", "Ready", "Ready"])?;
    for (host, rack) in [(one, "a"), (two, "a"), (three, "b")] {
        docker(one, &format!("node update --label-add rack={rack} {}", host.name))?;
    }
    docker(one, "network create -d overlay flags")?;
    let file = one.dir.join("content");
    std::fs::write(&file, "content\n")?;
    for kind in ["secret", "config"] {
        docker(one, &format!("{kind} create flags {}", path(&file)))?;
    }
    Ok(lab)
}

#[test]
fn every_flag_of_service_create_and_update_does_what_it_is_for() -> Result<()> {
    let lab = orchard()?;
    let one: &Host = lab.host(1);
    let mut tally = Tally::new(one);
    create::drive(&mut tally, &lab).context("service create")?;
    let create = tally.end("flags of service create", create::ALL, create::NOT_YET);
    let mut tally = Tally::new(one);
    update::drive(&mut tally, &lab).context("service update")?;
    let update = tally.end("flags of service update", update::ALL, update::NOT_YET);
    // Not through `print!`, which the test harness keeps to itself when all is well.
    for outcome in [&create, &update] {
        writeln!(std::io::stderr(), "{}", outcome.count)?;
    }
    let unexpected = [create.unexpected, update.unexpected].concat();
    ensure!(unexpected.is_empty(), "{}", unexpected.join("\n"));
    lab.down()
}
