//! The swarm's root is replaced under load: every node gets a certificate of the new one while connections go on, and
//! what happens to managers and nodes meanwhile delays it at most.

use std::io::Read as _;
use std::process::{Child, Command, Stdio};

use anyhow::{Context, Result, bail, ensure};
use skep_e2e::swarm::{
    LONG, begun, create, in_time, join, managers, nodes_are, path, refused, rotated, token, unlock,
    wait_running,
};
use skep_e2e::{Host, Lab, eventually};

const READY: &[&str] = &["Ready Leader", "Ready Reachable", "Ready Reachable"];

fn inspect(host: &Host, format: &str) -> Result<String> {
    let answer = host.request("GET", "/v1.50/swarm", "")?;
    let swarm: serde_json::Value = serde_json::from_str(&answer.body)?;
    let value = swarm.pointer(format).with_context(|| format!("no {format} in {swarm}"))?;
    Ok(value.as_str().map_or_else(|| value.to_string(), str::to_owned))
}

fn rotates(host: &Host) -> Result<bool> {
    Ok(inspect(host, "/RootRotationInProgress")? == "true")
}

/// Waits until `node ls` says of every node whether its certificate and trust are as they should be.
fn tls_is(host: &Host, wanted: &[&str]) -> Result<()> {
    let mut wanted = wanted.to_vec();
    wanted.sort_unstable();
    eventually(&format!("the nodes are {wanted:?}"), LONG, || {
        let out = host.docker(&["node", "ls", "--format", "{{.TLSStatus}}"])?;
        let mut seen: Vec<_> = out.lines().collect();
        seen.sort_unstable();
        ensure!(seen == wanted, "{seen:?}");
        Ok(())
    })
}

/// How many certificates a host's identity file holds, and its text.
fn identity(host: &Host) -> Result<(usize, String)> {
    let text = std::fs::read_to_string(host.dir.join("data/swarm/identity/node.pem"))?;
    Ok((text.matches("BEGIN CERTIFICATE").count(), text))
}

fn with(mut command: Command, args: &[&str]) -> Command {
    command.args(args);
    command
}

/// Requests from outside, one after the other, until it is ended.
struct Traffic(Child);

fn traffic(lab: &Lab, addr: &str) -> Result<Traffic> {
    let ask = format!("curl -sS --max-time 5 -o /dev/null http://{addr}:8080/ && echo ok || echo failed");
    let script = format!("while :; do {ask}; sleep 0.05; done");
    let mut command = lab.outside_command("sh");
    let child = command.args(["-c", &script]).stdout(Stdio::piped()).stderr(Stdio::null()).spawn()?;
    Ok(Traffic(child))
}

impl Traffic {
    fn end(mut self) -> Result<(usize, usize)> {
        self.0.kill()?;
        let mut out = String::new();
        self.0.stdout.take().context("its output")?.read_to_string(&mut out)?;
        self.0.wait()?;
        Ok((out.matches("ok").count(), out.matches("failed").count()))
    }
}

impl Drop for Traffic {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn the_root_is_replaced_under_load() -> Result<()> {
    let lab = begun("rotate", 3)?;
    let [one, two, three] = lab.hosts() else { bail!("three hosts") };
    join(two, &token(one, "manager")?, "10.99.0.1:2377")?;
    join(three, &token(one, "worker")?, "10.99.0.1:2377")?;
    nodes_are(one, "all are ready", &["Ready Leader", "Ready Reachable", "Ready"])?;
    one.docker(&["network", "create", "-d", "overlay", "net1"])?;
    create(one, "web", 3, &["--network", "net1", "-p", "8080:80"])?;
    wait_running(one, "web", 3)?;
    tls_is(one, &["Ready"; 3])?;
    let (first, worker) = (one.docker(&["swarm", "ca"])?, token(one, "worker")?);
    let containers = three.docker(&["ps", "-q", "--no-trunc"])?;
    let load = traffic(&lab, &two.addr)?;

    // The client waits until all nodes are through, and prints the new root.
    let said = in_time(with(one.docker_command(), &["swarm", "ca", "--rotate"]))?;
    let second = one.docker(&["swarm", "ca"])?;
    ensure!(second != first && said.ends_with(&second), "{said}");
    ensure!(second.matches("BEGIN CERTIFICATE").count() == 1 && !rotates(two)?, "{second}");
    tls_is(two, &["Ready"; 3])?;
    let info = three.docker(&["node", "ls"]).err().map(|e| format!("{e:#}")).unwrap_or_default();
    ensure!(info.contains("not a swarm manager"), "{info}");
    for host in [one, two, three] {
        let (certificates, text) = identity(host)?;
        ensure!(text.contains(second.trim()) && !text.contains(first.trim()), "{text}");
        // Its own, the new root signed by the old one, the new root.
        ensure!(certificates == 3, "{text}");
    }

    // `skep` does the same, and with a root that somebody brings.
    let said = in_time(with(two.skep_command(), &["swarm", "ca", "--rotate"]))?;
    let third = one.skep(&["swarm", "ca"])?;
    ensure!(said.ends_with(&third) && said.contains("desired root digest: sha256:"), "{said}");
    ensure!(said.contains("rotated TLS certificates:  [") && said.contains("3/3 nodes"), "{said}");
    let (cert, key) = (one.dir.join("ca.pem"), one.dir.join("ca.key"));
    one.exec(&["openssl", "ecparam", "-name", "prime256v1", "-genkey", "-out", path(&key)])?;
    let subject = ["-subj", "/O=Example/CN=Its own"];
    let make = ["openssl", "req", "-x509", "-new", "-key", path(&key), "-days", "800", "-out", path(&cert)];
    one.exec(&[&make[..], &subject].concat())?;
    let own = ["swarm", "ca", "--rotate", "--ca-cert", path(&cert), "--ca-key", path(&key), "-q"];
    ensure!(in_time(with(one.docker_command(), &own))?.is_empty(), "quiet");
    ensure!(one.docker(&["swarm", "ca"])?.trim() == std::fs::read_to_string(&cert)?.trim(), "it is the root");
    tls_is(one, &["Ready"; 3])?;
    refused(one, &["swarm", "ca", "--rotate", "--ca-cert", path(&cert)], &["--ca-key"])?;
    refused(
        one,
        &["swarm", "ca", "--rotate", "--ca-key", path(&key)],
        &["signing CA cert must also be provided"],
    )?;
    let other = one.dir.join("other.key");
    one.exec(&["openssl", "genpkey", "-algorithm", "ed25519", "-out", path(&other)])?;
    let wrong = ["swarm", "ca", "--rotate", "--ca-cert", path(&cert), "--ca-key", path(&other)];
    refused(one, &wrong, &["not the key of the root certificate"])?;
    refused(one, &["swarm", "ca", "--cert-expiry", "5h"], &["requires the `--rotate` flag"])?;

    let (ok, failed) = load.end()?;
    ensure!(failed == 0 && ok > 20, "{ok} requests were answered, {failed} failed");
    ensure!(three.docker(&["ps", "-q", "--no-trunc"])? == containers, "the same containers run");
    wait_running(one, "web", 3)?;

    // Tokens pin the root: the old one is of no use, and a new one is.
    three.docker(&["swarm", "leave"])?;
    let stale = ["swarm", "join", "--token", &worker, "--advertise-addr", &three.addr, "10.99.0.1:2377"];
    refused(three, &stale, &["belongs to another swarm than the join token"])?;
    let fresh = token(two, "worker")?;
    ensure!(fresh != worker, "it was rotated");
    join(three, &fresh, "10.99.0.1:2377")?;
    nodes_are(one, "it is back", &["Ready Leader", "Ready Reachable", "Ready", "Down"])?;
    lab.down()
}

#[test]
fn a_rotation_outlives_its_leader_and_waits_for_nodes_that_are_away() -> Result<()> {
    let mut lab = managers("rotaway")?;
    let [one, _, three] = lab.hosts() else { bail!("three hosts") };
    let first = one.docker(&["swarm", "ca"])?;
    let away = three.name.clone();
    lab.kill(3)?;
    let one = lab.host(1);
    nodes_are(one, "one is away", &["Ready Leader", "Ready Reachable", "Down Unreachable"])?;

    // It does not end without the node that is away, and both roots are trusted.
    one.docker(&["swarm", "ca", "--rotate", "-d"])?;
    tls_is(one, &["Ready", "Ready", "Needs Rotation"])?;
    let both = one.docker(&["swarm", "ca"])?;
    ensure!(rotates(one)? && both.starts_with(first.trim()) && both.matches("BEGIN").count() == 2, "{both}");

    // Another one asked for meanwhile takes its place.
    one.docker(&["swarm", "ca", "--rotate", "-d"])?;
    eventually("another root is on its way", LONG, || {
        let now = one.docker(&["swarm", "ca"])?;
        ensure!(now != both && now.starts_with(first.trim()) && now.matches("BEGIN").count() == 2, "{now}");
        Ok(())
    })?;
    tls_is(one, &["Ready", "Ready", "Needs Rotation"])?;

    // The leader dies in the middle of it. Its disk holds one identity, whole.
    let two = lab.host(2);
    let leader = one.docker(&["node", "ls", "--format", "{{.Hostname}} {{.ManagerStatus}}"])?;
    let leads = if leader.contains(&format!("{} Leader", two.name)) { 2 } else { 1 };
    lab.host(leads).stop_daemon("-KILL")?;
    lab.restart(3)?;
    lab.host(leads).start_daemon()?;
    let one = lab.host(1);
    nodes_are(one, "all are back", READY)?;
    rotated(one)?;
    let last = one.docker(&["swarm", "ca"])?;
    ensure!(!last.contains(first.trim()) && last.matches("BEGIN").count() == 1, "{last}");
    for host in lab.hosts() {
        let text = identity(host)?.1;
        ensure!(text.contains(last.trim()) && !text.contains(first.trim()), "{text}");
    }

    // With sealed keys, and every daemon killed while certificates are renewed.
    let one = lab.host(1);
    one.docker(&["swarm", "update", "--autolock=true"])?;
    let unlock_key = one.docker(&["swarm", "unlock-key", "-q"])?.trim().to_owned();
    eventually("keys are sealed", LONG, || {
        for host in lab.hosts() {
            ensure!(identity(host)?.1.contains("SEALED KEY"), "host {}", host.number);
        }
        Ok(())
    })?;
    one.docker(&["swarm", "ca", "--rotate", "-d"])?;
    for host in lab.hosts() {
        host.stop_daemon("-KILL")?;
    }
    for host in lab.hosts() {
        host.start_daemon()?;
        let (_, text) = identity(host)?;
        ensure!(text.contains("SEALED KEY") && !text.contains("PRIVATE KEY"), "{text}");
    }
    for host in lab.hosts() {
        unlock(host, &unlock_key)?;
    }
    let one = lab.host(1);
    nodes_are(one, "all are back", READY)?;
    rotated(one)?;
    ensure!(one.docker(&["swarm", "ca"])? != last, "the root is another one");
    for host in lab.hosts() {
        let (_, text) = identity(host)?;
        ensure!(text.contains("SEALED KEY") && !text.contains("PRIVATE KEY"), "{text}");
    }
    one.docker(&["swarm", "update", "--autolock=false"])?;

    // A node that is gone for good holds a rotation up until it is removed.
    one.docker(&["node", "demote", &away])?;
    nodes_are(one, "it is a worker", &["Ready Leader", "Ready Reachable", "Ready"])?;
    lab.kill(3)?;
    let one = lab.host(1);
    nodes_are(one, "it is away", &["Ready Leader", "Ready Reachable", "Down"])?;
    one.docker(&["swarm", "ca", "--rotate", "-d"])?;
    tls_is(one, &["Ready", "Ready", "Needs Rotation"])?;
    ensure!(rotates(one)?, "it waits");
    one.docker(&["node", "rm", &away])?;
    rotated(one)?;
    // It comes back with a certificate that nobody knows any more.
    lab.restart(3)?;
    eventually("it says why it is out", LONG, || {
        let log = std::fs::read_to_string(lab.host(3).log())?;
        ensure!(
            log.contains("does not know the authority of this node's certificate"),
            "{}",
            lab.host(3).log_tail()
        );
        Ok(())
    })?;
    lab.host(3).docker(&["swarm", "leave", "--force"])?;
    join(lab.host(3), &token(lab.host(1), "worker")?, "10.99.0.1:2377")?;
    lab.down()
}
