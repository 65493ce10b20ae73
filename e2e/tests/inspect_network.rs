//! `network inspect` of the swarm's networks: their nodes, and with `--verbose` their services and who serves them.

use anyhow::{Context, Result, ensure};
use serde_json::Value;
use skep_e2e::swarm::{LONG, create, wait_running, within, workers};
use skep_e2e::{Host, eventually};

fn inspect(host: &Host, name: &str, flags: &[&str]) -> Result<Value> {
    let shown = host.docker(&[&["network", "inspect"][..], flags, &[name]].concat())?;
    let shown: Value = serde_json::from_str(&shown)?;
    Ok(shown[0].clone())
}

/// Addresses of the nodes with a part in it.
fn peers(shown: &Value) -> Vec<&str> {
    let mut peers: Vec<_> =
        shown["Peers"].as_array().into_iter().flatten().filter_map(|p| p["IP"].as_str()).collect();
    peers.sort_unstable();
    peers
}

#[test]
fn a_network_tells_of_its_nodes_and_of_the_endpoints_of_its_services() -> Result<()> {
    let lab = workers("netins")?;
    let (one, two) = (lab.host(1), lab.host(2));
    one.docker(&["network", "create", "-d", "overlay", "--ipv6", "--attachable", "back"])?;
    let only = |n: u32| format!("node.hostname!={}", lab.host(n).name);
    create(one, "web", 2, &["--network", "back", "-p", "8080:80", "--constraint", &only(3)])?;
    create(one, "direct", 0, &["--network", "back", "--endpoint-mode", "dnsrr"])?;
    wait_running(one, "web", 2)?;
    one.docker(&["run", "-d", "--name", "guest", "--network", "back", "whoami:1", "/skep", "whoami"])?;

    // By a manager, and by a worker that has a part in it.
    for host in [one, two] {
        eventually("all is told", LONG, || {
            let shown = inspect(host, "back", &["--verbose"])?;
            ensure!(peers(&shown) == ["10.99.0.1", "10.99.0.2"], "{shown}");
            let services = &shown["Services"];
            let web = &services["web"];
            let vip = web["VIP"].as_str().context("a VIP")?;
            ensure!(web["Ports"] == serde_json::json!([]), "ports are the ingress network's: {web}");
            let tasks = web["Tasks"].as_array().context("tasks")?;
            ensure!(tasks.len() == 2, "{web}");
            for task in tasks {
                ensure!(task["Name"].as_str().is_some_and(|n| n.starts_with("web.")), "{task}");
                let at = task["EndpointIP"].as_str().context("its address")?;
                ensure!(at != vip && at.starts_with("10.") && task["EndpointIP6"].is_string(), "{task}");
                let node = task["Info"]["Host IP"].as_str().context("its node")?;
                ensure!(["10.99.0.1", "10.99.0.2"].contains(&node), "{task}");
            }
            ensure!(services["direct"]["VIP"] == "<nil>", "{services}");
            let outside = services[""]["Tasks"].as_array().context("containers outside services")?;
            ensure!(outside.len() == 1 && outside[0]["Name"] == "guest", "{services}");
            Ok(())
        })?;
    }
    // A task of a service that has one on each node is called after its node, and found by that from elsewhere.
    let each = ["service", "create", "-d", "--name", "each", "--mode", "global", "--network", "back"];
    one.docker(&[&each[..], &["whoami:1", "/skep", "whoami"]].concat())?;
    wait_running(one, "each", 3)?;
    eventually("its tasks are told, and found by their names", LONG, || {
        let shown = inspect(one, "back", &["--verbose"])?;
        let tasks = shown["Services"]["each"]["Tasks"].as_array().context("tasks")?;
        ensure!(tasks.len() == 3, "{shown}");
        for task in tasks {
            let (name, at) =
                (task["Name"].as_str().context("name")?, task["EndpointIP"].as_str().context("IP")?);
            let found = within(one, "guest", &["busybox", "nslookup", name, "127.0.0.11"])?;
            ensure!(found.contains(at), "{name}: {found}");
            let named = lab.hosts().iter().any(|h| h.docker(&["inspect", "-f", "{{.Id}}", name]).is_ok());
            ensure!(named, "{name} is a container's name");
        }
        Ok(())
    })?;
    one.docker(&["service", "rm", "each"])?;
    eventually("its node is out again", LONG, || {
        let shown = inspect(one, "back", &[])?;
        ensure!(peers(&shown).len() == 2, "{shown}");
        Ok(())
    })?;
    let shown = inspect(one, "back", &[])?;
    ensure!(shown["Services"].is_null() && peers(&shown).len() == 2, "without --verbose: {shown}");

    // Each node is in the ingress network, where the ports are.
    let shown = inspect(one, "ingress", &["-v"])?;
    ensure!(peers(&shown) == ["10.99.0.1", "10.99.0.2", "10.99.0.3"], "{shown}");
    let ports = &shown["Services"]["web"]["Ports"];
    ensure!(*ports == serde_json::json!(["Target: 80, Publish: 8080"]), "{shown}");
    ensure!(shown["Services"]["direct"].is_null(), "{shown}");

    one.docker(&["rm", "-f", "guest"])?;
    one.docker(&["service", "rm", "web"])?;
    eventually("nobody is left", LONG, || {
        let shown = inspect(one, "back", &["-v"])?;
        ensure!(peers(&shown).is_empty() && shown["Services"]["web"].is_null(), "{shown}");
        Ok(())
    })?;
    let ours: Value = serde_json::from_str(&one.skep(&["network", "inspect", "--verbose", "ingress"])?)?;
    ensure!(peers(&ours[0]).len() == 3, "{ours}");
    lab.down()
}
