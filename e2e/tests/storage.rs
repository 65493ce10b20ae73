//! What the disk does to a manager: its log is cut short or flipped, or there is no room under it.

use std::path::PathBuf;

use anyhow::{Context, Result, bail, ensure};
use skep_e2e::swarm::{LONG, create, hosts, join, managers, nodes_are, path, refused, token, wait_running};
use skep_e2e::{Host, eventually};

/// The segments of a manager's log, oldest first.
fn segments(host: &Host) -> Result<Vec<PathBuf>> {
    let found =
        host.exec(&["find", path(&host.dir.join("data/swarm/manager")), "-type", "f", "-name", "wal-*.seg"])?;
    let mut found: Vec<PathBuf> = found.lines().map(PathBuf::from).collect();
    found.sort();
    ensure!(!found.is_empty(), "no log under {}", host.dir.display());
    Ok(found)
}

/// Where the records of a segment end: what follows was only made room for.
fn end(bytes: &[u8]) -> usize {
    bytes.iter().rposition(|b| *b != 0).map_or(0, |last| last + 1)
}

#[test]
fn a_log_that_was_cut_or_flipped_is_noticed_and_the_others_go_on() -> Result<()> {
    let lab = managers("damage")?;
    let [one, two, three] = lab.hosts() else { bail!("three hosts") };
    create(one, "web", 3, &[])?;
    wait_running(one, "web", 3)?;

    // The end of the log is lost, as by a power cut: the manager takes what is there, and catches up.
    three.stop_daemon("-KILL")?;
    let last = segments(three)?.pop().context("a segment")?;
    let bytes = std::fs::read(&last)?;
    let end_of_records = end(&bytes);
    std::fs::OpenOptions::new().write(true).open(&last)?.set_len(end_of_records as u64 - 40)?;
    one.docker(&["service", "scale", "-d", "web=4"])?;
    three.start_daemon()?;
    nodes_are(three, "it is a manager again", &["Ready Leader", "Ready Reachable", "Ready Reachable"])?;
    wait_running(three, "web", 4)?;
    let log = std::fs::read_to_string(three.log())?;
    ensure!(
        log.contains("a crash interrupted the last write"),
        "the log says that its end was cut: {}",
        three.log_tail()
    );

    // A record in the middle is not what was written: nothing may be built on it.
    three.stop_daemon("-KILL")?;
    let first = segments(three)?.remove(0);
    let mut bytes = std::fs::read(&first)?;
    let middle = end(&bytes) / 2;
    bytes[middle] ^= 0x40;
    std::fs::write(&first, &bytes)?;
    three.start_daemon()?;
    let info = three.docker(&["info", "-f", "{{.Swarm.LocalNodeState}}: {{.Swarm.Error}}"])?;
    ensure!(info.starts_with("error") && info.contains("damaged") && info.contains("node demote"), "{info}");
    refused(three, &["node", "ls"], &["not a swarm manager", "damaged"])?;
    one.docker(&["service", "scale", "-d", "web=5"])?;
    nodes_are(one, "the others go on", &["Ready Leader", "Ready Reachable", "Down Unreachable"])?;
    wait_running(one, "web", 5)?;

    // The remedy it names.
    one.docker(&["node", "demote", &three.name])?;
    eventually("it is a manager no more", LONG, || one.docker(&["node", "rm", &three.name]).map(drop))?;
    three.docker(&["swarm", "leave", "--force"])?;
    join(three, &token(one, "manager")?, "10.99.0.1:2377")?;
    nodes_are(two, "three managers again", &["Ready Leader", "Ready Reachable", "Ready Reachable"])?;
    lab.down()
}

/// A service with a label of this many bytes, so that the log grows.
fn fat(name: &str, bytes: usize) -> String {
    let label = "x".repeat(bytes);
    format!(
        r#"{{"Name":"{name}","Labels":{{"fat":"{label}"}},"TaskTemplate":{{"ContainerSpec":{{"Image":"whoami:1"}}}},"Mode":{{"Replicated":{{"Replicas":0}}}}}}"#
    )
}

#[test]
fn a_full_disk_under_the_log_refuses_writes_and_loses_nothing() -> Result<()> {
    let lab = hosts("full", 1)?;
    let one = lab.host(1);
    one.stop_daemon("-TERM")?;
    let dir = one.dir.join("data/swarm");
    one.exec(&["mount", "-t", "tmpfs", "-o", "size=100m", "skep-lab", path(&dir)])?;
    one.start_daemon()?;
    one.docker(&["swarm", "init", "--advertise-addr", &one.addr])?;
    create(one, "web", 1, &[])?;
    wait_running(one, "web", 1)?;
    let ballast = dir.join("ballast");
    let fill = format!("head -c 200M /dev/zero > {} || true", path(&ballast));
    one.exec(&["sh", "-c", &fill])?;

    let mut written = Vec::new();
    let refusal = loop {
        ensure!(written.len() < 40, "the disk never filled");
        let name = format!("fat{}", written.len());
        let answer = one.request("POST", "/v1.50/services/create", &fat(&name, 1 << 20))?;
        if answer.status != 201 {
            break answer;
        }
        written.push(name);
    };
    ensure!(
        (500..=507).contains(&refusal.status)
            && refusal.body.contains("disk")
            && refusal.body.contains("full"),
        "{refusal:?}"
    );
    ensure!(one.docker(&["service", "ls", "-q"])?.lines().count() == written.len() + 1, "reads go on");
    ensure!(one.docker(&["ps", "-q"])?.lines().count() == 1, "the task goes on");

    one.exec(&["rm", path(&ballast)])?;
    eventually("writes go on", LONG, || {
        one.docker(&["service", "update", "-d", "--label-add", "after=1", "web"]).map(drop)
    })?;
    one.stop_daemon("-KILL")?;
    one.start_daemon()?;
    eventually("everything acknowledged is there", LONG, || {
        let services = one.docker(&["service", "ls", "--format", "{{.Name}}"])?;
        ensure!(written.iter().all(|name| services.lines().any(|s| s == name)), "{services}");
        let label = one.docker(&["service", "inspect", "-f", "{{.Spec.Labels.after}}", "web"])?;
        ensure!(label.trim() == "1", "{label}");
        Ok(())
    })?;
    one.stop_daemon("-TERM")?;
    one.exec(&["umount", path(&dir)])?;
    lab.down()
}
