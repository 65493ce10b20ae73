//! What the flags of `swarm init`, `join` and `update` set, seen in what the swarm does: pools of addresses, availability,
//! certificates' life, history of tasks, snapshots.

use std::path::PathBuf;

use anyhow::{Context, Result, bail, ensure};
use skep_e2e::swarm::{
    LONG, answers, create, hosts, join, nodes_are, path, refused, running, token, wait_running,
    wait_running_on,
};
use skep_e2e::{Host, eventually};

/// Files below a directory, however deep, of such a name.
fn files(dir: PathBuf, wanted: &dyn Fn(&str) -> bool) -> Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(&dir).with_context(|| format!("read {}", dir.display()))? {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            found.extend(files(entry.path(), wanted)?);
        } else if entry.file_name().to_str().is_some_and(wanted) {
            found.push(entry.path());
        }
    }
    Ok(found)
}

/// Whether the certificate of a node is valid for so many seconds more.
fn valid_for(host: &Host, seconds: u32) -> Result<bool> {
    let certificates = files(host.dir.join("data/swarm/identity"), &|_| true)?;
    let text = |p: &PathBuf| std::fs::read_to_string(p).is_ok_and(|t| t.contains("BEGIN CERTIFICATE"));
    let file = certificates.iter().find(|p| text(p)).context("a certificate")?;
    let file = host.dir.join(file);
    Ok(host
        .exec(&["openssl", "x509", "-noout", "-in", path(&file), "-checkend", &seconds.to_string()])
        .is_ok())
}

fn snapshots(host: &Host) -> Result<usize> {
    Ok(files(host.dir.join("data/swarm"), &|name| name.ends_with(".snap"))?.len())
}

/// The subnet of a network, once it has one.
fn subnet(host: &Host, network: &str) -> Result<String> {
    Ok(host
        .docker(&["network", "inspect", "-f", "{{(index .IPAM.Config 0).Subnet}}", network])?
        .trim()
        .to_owned())
}

/// `swarm init` with these flags, too.
fn init<'a>(host: &'a Host, more: &[&'a str]) -> Vec<&'a str> {
    [&["swarm", "init", "--advertise-addr", &host.addr][..], more].concat()
}

#[test]
fn a_swarm_is_as_the_flags_that_began_it_say() -> Result<()> {
    let lab = hosts("swflags", 3)?;
    let [one, two, three] = lab.hosts() else { bail!("three hosts") };
    for (more, words) in [
        (&["--default-addr-pool", "10.50.0.0/28"][..], &["10.50.0.0/28", "/24"][..]),
        (
            &["--default-addr-pool", "10.50.0.0/16", "--default-addr-pool", "10.50.1.0/24"],
            &["10.50.1.0/24", "overlap"],
        ),
        (&["--default-addr-pool", "10.50.0.0/16", "--default-addr-pool-mask-length", "31"], &["31"]),
        (&["--default-addr-pool", "nonsense"], &["nonsense"]),
        (&["--cert-expiry", "30m"], &["1h"]),
        (&["--dispatcher-heartbeat", "1ms"], &["100ms"]),
        (&["--data-path-port", "80"], &["80", "1024"]),
    ] {
        refused(one, &init(one, more), words)?;
        let state = one.docker(&["info", "-f", "{{.Swarm.LocalNodeState}}"])?;
        ensure!(state.trim() == "inactive", "{more:?}: {state}");
    }
    one.docker(&init(
        one,
        &[
            "--default-addr-pool",
            "10.50.0.0/25",
            "--default-addr-pool",
            "10.60.0.0/16",
            "--default-addr-pool-mask-length",
            "26",
            "--availability",
            "drain",
            "--cert-expiry",
            "48h",
            "--task-history-limit",
            "1",
            "--snapshot-interval",
            "5",
            "--max-snapshots",
            "2",
        ],
    ))?;

    // Networks come from the first pool while it has room (the ingress network was the first), then from the next.
    let mut subnets = vec![subnet(one, "ingress")?];
    for name in ["a", "b"] {
        one.docker(&["network", "create", "-d", "overlay", name])?;
        eventually("it has its subnet", LONG, || subnet(one, name).map(drop))?;
        subnets.push(subnet(one, name)?);
    }
    ensure!(subnets == ["10.50.0.0/26", "10.50.0.64/26", "10.60.0.0/26"], "{subnets:?}");

    // The node takes no tasks from the start; one that joins paused takes none either, and one that does takes them all.
    let worker = token(one, "worker")?;
    let paused = ["swarm", "join", "--availability", "pause", "--advertise-addr", &two.addr, "--token"];
    two.docker(&[&paused[..], &[&worker, "10.99.0.1:2377"]].concat())?;
    join(three, &worker, "10.99.0.1:2377")?;
    nodes_are(one, "all are there", &["Ready Leader", "Ready", "Ready"])?;
    let availability = one.docker(&["node", "ls", "--format", "{{.Hostname}} {{.Availability}}"])?;
    for (host, word) in [(one, "Drain"), (two, "Pause"), (three, "Active")] {
        ensure!(availability.lines().any(|l| l == format!("{} {word}", host.name)), "{availability}");
    }
    let web = ["--network", "a", "-p", "8080:80", "--update-monitor", "1ms", "--update-parallelism", "0"];
    create(one, "web", 2, &[&web[..], &["--stop-signal", "KILL"]].concat())?;
    wait_running_on(one, "web", 2, &[three])?;
    eventually("a drained and a paused node lead to them", LONG, || {
        for host in [one, two] {
            let seen = answers(&lab, &format!("http://{}:8080/", host.addr), 10)?;
            ensure!(seen.len() == 2, "{seen:?}");
        }
        Ok(())
    })?;

    for host in [one, two, three] {
        ensure!(
            valid_for(host, 40 * 3600)? && !valid_for(host, 49 * 3600)?,
            "host {}: two days",
            host.number
        );
    }

    // Each slot keeps one task that has ended; then none.
    let history = |host: &Host| -> Result<usize> {
        let all = host.docker(&["service", "ps", "-q", "--filter", "desired-state=shutdown", "web"])?;
        Ok(all.lines().count())
    };
    for round in 0..3 {
        one.docker(&["service", "update", "-d", "--env-add", &format!("ROUND={round}"), "web"])?;
        eventually("it is updated", LONG, || {
            let state = one.docker(&["service", "inspect", "-f", "{{.UpdateStatus.State}}", "web"])?;
            ensure!(state.trim() == "completed" && running(one, "web")?.len() == 2, "{state}");
            Ok(())
        })?;
    }
    eventually("one of each slot is kept", LONG, || {
        let kept = history(one)?;
        ensure!(kept == 2, "{kept} are kept");
        Ok(())
    })?;
    one.docker(&["swarm", "update", "--task-history-limit", "0", "--cert-expiry", "72h"])?;
    eventually("none is kept", LONG, || {
        let kept = history(one)?;
        ensure!(kept == 0, "{kept} are kept");
        Ok(())
    })?;
    wait_running(one, "web", 2)?;

    // So many writes made many snapshots, of which two old ones are kept beside the last.
    eventually("old snapshots are kept, and no more than asked", LONG, || {
        let kept = snapshots(one)?;
        ensure!(kept == 3, "{kept} snapshots");
        Ok(())
    })?;
    one.docker(&["swarm", "update", "--max-snapshots", "0"])?;
    for round in 0..10 {
        one.docker(&["node", "update", "--label-add", &format!("round={round}"), &three.name])?;
    }
    eventually("only the last is kept", LONG, || {
        let kept = snapshots(one)?;
        ensure!(kept == 1, "{kept} snapshots");
        Ok(())
    })?;

    // The next certificate lives as long as is said now.
    one.docker(&["swarm", "ca", "--rotate", "--detach"])?;
    skep_e2e::swarm::rotated(one)?;
    for host in [one, two, three] {
        ensure!(valid_for(host, 60 * 3600)?, "host {}: three days", host.number);
    }

    // What such a swarm was begun with holds after its manager was started anew.
    one.stop_daemon("-KILL")?;
    one.start_daemon()?;
    eventually("a network comes from the same pool", LONG, || {
        one.docker(&["network", "create", "-d", "overlay", "c"]).map(drop)
    })?;
    eventually("it has its subnet", LONG, || {
        let subnet = subnet(one, "c")?;
        ensure!(subnet == "10.60.0.64/26", "{subnet}");
        Ok(())
    })?;
    lab.down()
}
