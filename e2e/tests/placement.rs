//! Where tasks go, and why, with real hosts: those with local volumes go back to their data, and what is foretold comes.

use anyhow::{Result, bail, ensure};
use skep_e2e::swarm::{LONG, begun, create, join, nodes_are, path, running, token, wait_running};
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

#[test]
fn explanations_and_plans_say_what_will_be() -> Result<()> {
    let lab = pair("explain")?;
    let [one, two, ..] = lab.hosts() else { bail!("two hosts") };
    create(one, "web", 2, &["--update-monitor", "100ms", "--reserve-memory", "8m"])?;
    wait_running(one, "web", 2)?;
    // From any manager's view: which nodes fit, and in which order they would be taken.
    let seen = one.skep(&["service", "explain", "web.1"])?;
    ensure!(seen.contains("runs on node") && seen.contains("it would go to node"), "{seen}");
    ensure!(seen.contains(&one.name) && seen.contains(&two.name), "{seen}");
    create(one, "far", 1, &["--constraint", "node.labels.zone==moon"])?;
    eventually("the task waits", LONG, || {
        let seen = one.skep(&["service", "explain", "far"])?;
        ensure!(seen.contains("2 of 2 do not match node.labels.zone==moon"), "{seen}");
        ensure!(seen.contains("it would go nowhere"), "{seen}");
        Ok(())
    })?;
    let id = one.docker(&["service", "ps", "-q", "--no-trunc", "far"])?;
    let json = one.skep(&["service", "explain", "--format", "json", id.trim()])?;
    let json: serde_json::Value = serde_json::from_str(&json)?;
    ensure!(json["Tasks"][0]["Placement"]["Nodes"][0]["Fits"] == false, "{json}");
    refused_skep(one, &["service", "explain", "nope"], "no such service or task: nope")?;

    // Plans: nothing changes by them, and then it comes as they say.
    let before = one.docker(&["service", "ps", "-q", "--no-trunc", "web"])?;
    let plan = one.skep(&["node", "update", "--availability", "drain", "--dry-run", &two.name])?;
    ensure!(has(&plan, &["stop", &two.name]) && has(&plan, &["start", &one.name]), "{plan}");
    let plan =
        one.skep(&["service", "update", "--dry-run", "--image", "whoami:2", "--no-resolve-image", "web"])?;
    for task in ["web.1", "web.2"] {
        ensure!(has(&plan, &["stop", task]) && has(&plan, &["start", task]), "{plan}");
    }
    let plan = one.skep(&["service", "update", "--dry-run", "--label-add", "a=b", "web"])?;
    ensure!(!plan.contains("web."), "a label moves no task: {plan}");
    let plan = one.skep(&["service", "update", "--dry-run", "--reserve-memory", "900g", "web"])?;
    ensure!(has(&plan, &["wait", "web.1", "900 GiB of memory"]), "{plan}");
    refused_skep(one, &["service", "create", "--dry-run", "--name", "web", "whoami:1"], "already exists")?;
    let file = one.dir.join("plan.yml");
    std::fs::write(
        &file,
        "services:\n  a:\n    image: whoami:1\n    command: /skep whoami\n    networks: [n]\n    secrets: [s]\n    \
         deploy: {replicas: 2}\nnetworks:\n  n:\nsecrets:\n  s:\n    file: ./plan.yml\n",
    )?;
    let deploy = ["stack", "deploy", "--resolve-image", "never", "-c", path(&file)];
    let plan = one.skep(&[&deploy[..], &["--dry-run", "s"]].concat())?;
    ensure!(has(&plan, &["start", "s_a.1"]) && has(&plan, &["start", "s_a.2"]), "{plan}");
    ensure!(one.docker(&["service", "ps", "-q", "--no-trunc", "web"])? == before, "a plan changed tasks");
    let there = one.docker(&["service", "ls", "--format", "{{.Name}}"])?;
    let secrets = one.docker(&["secret", "ls", "-q"])?;
    ensure!(!there.contains("s_a") && secrets.is_empty(), "a plan made {there} {secrets}");
    one.skep(&[&deploy[..], &["s"]].concat())?;
    wait_running(one, "s_a", 2)?;
    let plan = one.skep(&[&deploy[..], &["--dry-run", "s"]].concat())?;
    ensure!(!plan.contains("s_a."), "the same file moves no task: {plan}");
    lab.down()
}

/// Whether a line has all of these words.
fn has(text: &str, words: &[&str]) -> bool {
    text.lines().any(|l| words.iter().all(|w| l.contains(w)))
}
