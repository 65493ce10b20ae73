//! The whole path of a service across three hosts, where the kernel has WireGuard.

use std::collections::BTreeSet;

use anyhow::{Context, Result, bail, ensure};
use skep_e2e::swarm::{LONG, answers, answers_to_client, create, hostname, inside, managers, wait_running};
use skep_e2e::{Capture, eventually, eventually_some};

#[test]
fn a_service_across_hosts_is_carried_by_the_kernels_wireguard() -> Result<()> {
    let lab = managers("wg")?;
    let (one, two) = (lab.host(1), lab.host(2));
    one.docker(&["network", "create", "-d", "overlay", "net1"])?;
    create(one, "web", 3, &["--network", "net1", "-p", "8080:80"])?;
    let on = format!("node.hostname=={}", one.name);
    create(one, "client", 1, &["--network", "net1", "--constraint", &on])?;
    let mut nodes = wait_running(one, "web", 3)?;
    nodes.dedup();
    ensure!(nodes.len() == 3, "three replicas on {nodes:?}");
    wait_running(one, "client", 1)?;

    for host in lab.hosts() {
        let links = host.exec(&["ip", "-o", "-d", "link", "show", "type", "wireguard"])?;
        ensure!(links.lines().count() == 1 && links.contains("wg-"), "host {}: {links:?}", host.number);
        let processes = host.exec(&["busybox", "ps", "-o", "args"])?;
        ensure!(
            !processes.lines().any(|l| l.contains("skep") && l.contains(" wireguard")),
            "host {} encrypts in a process: {processes}",
            host.number
        );
        // Through the port of every node, to every replica.
        let url = format!("http://{}:8080/", host.addr);
        let mut seen = BTreeSet::new();
        eventually("all replicas answer", LONG, || {
            seen.extend(answers_to_client(&lab, &url, 3)?.into_keys());
            ensure!(seen.len() == 3, "{seen:?}");
            Ok(())
        })?;
    }

    let address = |name: &str| {
        let found = inside(one, "client", &["busybox", "nslookup", name, "127.0.0.11"])?;
        let all: Vec<_> = found.lines().filter_map(|l| l.strip_prefix("Address: ")).collect();
        all.last().map(|a| a.trim().to_owned()).with_context(|| format!("{name}: {found}"))
    };
    let vip = format!("http://{}/", address("web")?);
    address("tasks.web")?;
    let capture = Capture::start(two, "udp port 4789")?;
    let secret = "skep-secret-in-a-header";
    let header = format!("X-Secret: {secret}");
    let mut seen = BTreeSet::new();
    eventually_some("every replica answers at the virtual address", LONG, || {
        let body = inside(one, "client", &["curl", "-sS", "--max-time", "5", "-H", &header, &vip])?;
        ensure!(body.contains(secret), "{body}");
        seen.insert(hostname(&body)?);
        Ok((seen.len() == 3).then_some(()))
    })?;
    if capture.bytes()?.windows(secret.len()).any(|w| w == secret.as_bytes()) {
        bail!("the secret crossed the underlay in the clear");
    }

    // A daemon that comes back takes the interface as it is.
    two.stop_daemon("-KILL")?;
    let before = two.exec(&["ip", "-o", "link", "show", "type", "wireguard"])?;
    ensure!(!answers(&lab, &format!("http://{}:8080/", two.addr), 3)?.is_empty());
    two.start_daemon()?;
    let after = two.exec(&["ip", "-o", "link", "show", "type", "wireguard"])?;
    ensure!(before == after, "{before} became {after}");

    // One that leaves takes it away.
    one.docker(&["service", "rm", "web", "client"])?;
    let three = lab.host(3);
    three.docker(&["swarm", "leave", "--force"])?;
    eventually("the interface goes", LONG, || {
        let links = three.exec(&["ip", "-o", "link", "show", "type", "wireguard"])?;
        ensure!(links.is_empty(), "{links}");
        Ok(())
    })?;
    lab.down()
}
