//! Where tasks go, and why, with real hosts: those with local volumes go back to their data.

use anyhow::{Result, bail, ensure};
use skep_e2e::swarm::{LONG, begun, create, join, nodes_are, running, token, wait_running};
use skep_e2e::{Host, Lab, eventually};

/// A manager and a worker.
fn pair(name: &str) -> Result<Lab> {
    let lab = begun(name, 2)?;
    join(lab.host(2), &token(lab.host(1), "worker")?, "10.99.0.1:2377")?;
    nodes_are(lab.host(1), "both nodes are ready", &["Ready Leader", "Ready"])?;
    Ok(lab)
}

/// Why the tasks of a service that are wanted do not run.
fn errors(manager: &Host, service: &str) -> Result<String> {
    let format = "{{.Error}}";
    manager.docker(&[
        "service",
        "ps",
        "--no-trunc",
        "--filter",
        "desired-state=running",
        "--format",
        format,
        service,
    ])
}

#[test]
fn tasks_go_back_to_their_data() -> Result<()> {
    let lab = pair("data")?;
    let [one, two, ..] = lab.hosts() else { bail!("two hosts") };
    let more = ["--mount", "type=volume,source=data,target=/data", "--constraint", "node.role==worker"];
    create(one, "db", 1, &more)?;
    wait_running(one, "db", 1)?;
    // From here on anything but the data speaks for the other host.
    one.docker(&[
        "service",
        "update",
        "-d",
        "--constraint-rm",
        "node.role==worker",
        "--update-monitor",
        "100ms",
        "db",
    ])?;
    create(one, "busy", 2, &["--constraint", "node.role==worker"])?;
    wait_running(one, "busy", 2)?;
    let on_two = |what: &str| {
        eventually(what, LONG, || {
            let nodes = running(one, "db")?;
            let converged = one.docker(&["service", "inspect", "-f", "{{.UpdateStatus.State}}", "db"])?;
            ensure!(nodes == [two.name.as_str()] && converged.trim() == "completed", "{nodes:?} {converged}");
            Ok(())
        })
    };
    on_two("the updated task is where its data is")?;
    let shown = one.request("GET", "/v1.50/services/db", "")?;
    let shown: serde_json::Value = serde_json::from_str(&shown.body)?;
    let id = one.docker(&["node", "inspect", "-f", "{{.ID}}", &two.name])?;
    ensure!(shown["DataNodes"][0]["NodeID"] == id.trim(), "{shown}");
    ensure!(shown["DataNodes"][0]["Volumes"] == serde_json::json!(["data"]), "{shown}");

    one.docker(&["node", "update", "--availability", "drain", &two.name])?;
    let waits = format!("its data (volume data) is on node {}, which is drained", two.name);
    eventually("the task waits for its data", LONG, || {
        let seen = errors(one, "db")?;
        ensure!(seen.contains(&waits), "{seen}");
        Ok(())
    })?;
    one.docker(&["node", "update", "--availability", "active", &two.name])?;
    on_two("the task is back")?;

    // Docker's client knows nothing of it, and leaves it alone.
    refused_skep(one, &["service", "update", "--data-placement", "far", "db"], "stay, prefer, ignore")?;
    one.skep(&["service", "update", "-d", "--data-placement", "prefer", "db"])?;
    one.docker(&["service", "update", "-d", "--label-add", "a=b", "db"])?;
    let placement = one.skep(&["service", "inspect", "--format", "{{.Spec.DataPlacement}}", "db"])?;
    ensure!(placement.trim() == "prefer", "{placement}");
    one.docker(&["node", "update", "--availability", "drain", &two.name])?;
    eventually("the task has moved", LONG, || {
        let nodes = running(one, "db")?;
        ensure!(nodes == [one.name.as_str()], "{nodes:?}");
        Ok(())
    })?;
    lab.down()
}

/// A skep command that must fail and say this.
fn refused_skep(host: &Host, args: &[&str], word: &str) -> Result<()> {
    let Err(e) = host.skep(args) else { bail!("{args:?} was not refused") };
    let text = format!("{e:#}");
    ensure!(text.contains(word), "{args:?} should say {word}: {text}");
    Ok(())
}
