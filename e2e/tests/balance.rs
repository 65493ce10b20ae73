//! Services that are spread and scaled by themselves, with real containers: over a node that takes tasks again, and by what
//! the tasks use.

use anyhow::{Result, bail, ensure};
use serde_json::{Value, json};
use skep_e2e::swarm::{
    LONG, begun, create, join, nodes_are, path, refused, running, token, wait_running, wait_running_on,
};
use skep_e2e::{Host, busybox_image, eventually};

fn inspect(host: &Host, service: &str) -> Result<Value> {
    let shown = host.request("GET", &format!("/v1.50/services/{service}"), "")?;
    ensure!(shown.status == 200, "{shown:?}");
    Ok(serde_json::from_str(&shown.body)?)
}

/// Waits until a rebalance has come to this state.
fn rebalanced(host: &Host, service: &str, state: &str) -> Result<Value> {
    let mut status = Value::Null;
    eventually(&format!("the rebalance of {service} is {state}"), LONG, || {
        status = inspect(host, service)?["RebalanceStatus"].clone();
        ensure!(status["State"] == state, "{status}");
        Ok(())
    })?;
    Ok(status)
}

#[test]
fn tasks_are_moved_to_a_node_that_takes_them_again() -> Result<()> {
    let lab = begun("balance", 2)?;
    let [one, two, ..] = lab.hosts() else { bail!("two hosts") };
    join(two, &token(one, "worker")?, "10.99.0.1:2377")?;
    nodes_are(one, "both nodes are ready", &["Ready Leader", "Ready"])?;
    one.docker(&["node", "update", "--availability", "drain", &two.name])?;
    create(one, "web", 4, &[])?;
    create(one, "db", 2, &["--mount", "type=volume,source=data,target=/data"])?;
    wait_running_on(one, "web", 4, &[one])?;
    wait_running_on(one, "db", 2, &[one])?;
    one.skep(&["service", "update", "-d", "--rebalance", "--rebalance-delay", "100ms", "db"])?;
    one.docker(&["node", "update", "--availability", "active", &two.name])?;

    // Nobody asked for web: a plan says what would come of it, and nothing moves.
    let plan = one.skep(&["service", "rebalance", "--dry-run", "web"])?;
    let starts = plan.lines().filter(|l| l.contains("start") && l.contains(&two.name)).count();
    let stops = plan.lines().filter(|l| l.contains("stop") && l.contains(&one.name)).count();
    ensure!((starts, stops) == (2, 2), "{plan}");
    ensure!(running(one, "web")?.iter().all(|n| *n == one.name), "something has moved");
    ensure!(inspect(one, "web")?["RebalanceStatus"].is_null(), "something was begun");

    one.skep(&["service", "update", "-d", "--rebalance", "--rebalance-delay", "100ms", "web"])?;
    let status = rebalanced(one, "web", "completed")?;
    ensure!(status["Moved"] == 2 && status["Message"] == "2 tasks were moved", "{status}");
    let nodes = wait_running(one, "web", 4)?;
    ensure!(nodes.iter().filter(|n| **n == two.name).count() == 2, "{nodes:?}");
    let said = one.skep(&["service", "explain", "web"])?;
    let moved = format!("runs on node {}, where it was moved to from node {}", two.name, one.name);
    ensure!(said.contains(&moved), "{said}");
    // What holds data stays with it.
    ensure!(running(one, "db")? == [one.name.as_str(), one.name.as_str()], "the data was left behind");

    // Docker's client knows nothing of it, and leaves it alone.
    one.docker(&["service", "update", "-d", "--label-add", "a=b", "web"])?;
    let kept = inspect(one, "web")?["Spec"]["Rebalance"].clone();
    ensure!(kept == json!({ "Enabled": true, "Delay": 100_000_000 }), "{kept}");
    one.skep(&["service", "update", "-d", "--rebalance=false", "web"])?;
    ensure!(inspect(one, "web")?["Spec"]["Rebalance"].is_null(), "it is turned off");

    // Once, because somebody asks.
    one.docker(&["node", "update", "--availability", "drain", &two.name])?;
    wait_running_on(one, "web", 4, &[one])?;
    one.docker(&["node", "update", "--availability", "active", &two.name])?;
    one.skep(&["service", "rebalance", "web"])?;
    let status = rebalanced(one, "web", "completed")?;
    ensure!(status["Moved"] == 2, "{status}");
    one.docker(&[
        "service", "create", "-d", "--name", "all", "--mode", "global", "whoami:1", "/skep", "whoami",
    ])?;
    let Err(e) = one.skep(&["service", "rebalance", "all"]) else { bail!("a global service is moved") };
    ensure!(format!("{e:#}").contains("only tasks of replicated services are moved"), "{e:#}");
    lab.down()
}

/// Waits until the service has so many replicas, and that many run.
fn scaled(host: &Host, service: &str, replicas: u64) -> Result<()> {
    eventually(&format!("{service} has {replicas} replicas"), LONG, || {
        let seen = inspect(host, service)?;
        let asked = &seen["Spec"]["Mode"]["Replicated"]["Replicas"];
        ensure!(*asked == replicas, "{asked}: {}", seen["AutoscaleStatus"]);
        let now = running(host, service)?.len() as u64;
        ensure!(now == replicas, "{now} run");
        Ok(())
    })
}

#[test]
fn replicas_follow_what_the_tasks_use() -> Result<()> {
    let lab = begun("autoscale", 1)?;
    let host = lab.host(1);
    let archive = host.dir.join("box.tar");
    busybox_image(&["sh", "sleep", "httpd"], &archive)?;
    host.docker(&["import", path(&archive), "box:1"])?;
    let said = host.dir.join("said");
    std::fs::create_dir_all(&said)?;
    let mount = format!("type=bind,source={},target=/said", path(&said));
    let create = |name: &str, autoscale: &str, flags: &[&str], command: &[&str]| {
        let first =
            ["service", "create", "-d", "--no-resolve-image", "--name", name, "--autoscale", autoscale];
        let more = ["--mount", &mount, "--stop-grace-period", "1s"];
        host.skep(&[&first[..], &more, flags, &["box:1"], command].concat())
    };
    for (autoscale, flags, words) in [
        ("min=2,max=1,cpu=50%", &[][..], "1 <= min <= max"),
        ("min=1,max=2", &[], "there is no target"),
        ("min=1,max=2,memory=50%", &[], "--reserve-memory"),
        ("min=1,max=2,cpu=50%", &["--mode", "global"], "only replicated services"),
        ("min=1,max=2,cpu=50", &[], "invalid --autoscale"),
    ] {
        let Err(e) = create("no", autoscale, flags, &["sleep", "1"]) else { bail!("{autoscale} is taken") };
        ensure!(format!("{e:#}").contains(words), "{autoscale} should say {words:?}: {e:#}");
    }

    // A loop that keeps a processor busy while there is a file that says so.
    let busy = said.join("busy");
    std::fs::write(&busy, "")?;
    let work = "while :; do [ -e /said/busy ] || sleep 1; done";
    let cpu = ["--reserve-cpu", "0.1", "--limit-cpu", "0.2", "--restart-delay", "1s"];
    create("work", "min=1,max=3,cpu=50%,cooldown=1s,window=2s", &cpu, &["sh", "-c", work])?;
    scaled(host, "work", 3)?;
    let status = inspect(host, "work")?["AutoscaleStatus"].clone();
    let why = status["Events"][0]["Reason"].as_str().unwrap_or_default();
    ensure!(why.starts_with("cpu is at ") && status["Events"][0]["To"] == 3, "{status}");
    let explained = host.skep(&["service", "explain", "work"])?;
    ensure!(explained.contains("autoscale: scaled from ") && explained.contains(why), "{explained}");
    // Nobody sets a number beyond the bounds.
    refused(
        host,
        &["service", "scale", "work=9"],
        &["scaled by what its tasks use, to 1 to 3 replicas: 9 are outside"],
    )?;
    std::fs::remove_file(&busy)?;
    scaled(host, "work", 1)?;

    // By a metric that the tasks tell: each says 60, where 20 are meant.
    let metric =
        |value: u32| std::fs::write(said.join("metrics"), format!("# TYPE queue gauge\nqueue {value}\n"));
    metric(60)?;
    let asked = "min=1,max=3,metric=queue,metric-port=8000,metric-target=20,cooldown=1s,window=2s";
    create("told", asked, &[], &["httpd", "-f", "-p", "8000", "-h", "/said"])?;
    scaled(host, "told", 3)?;
    metric(5)?;
    scaled(host, "told", 1)?;
    // Docker's client knows nothing of it, and leaves it alone.
    host.docker(&["service", "update", "-d", "--label-add", "a=b", "told"])?;
    ensure!(inspect(host, "told")?["Spec"]["Autoscale"]["Metric"]["Target"] == 20.0, "it is gone");
    host.skep(&["service", "update", "-d", "--autoscale", "", "told"])?;
    let off = inspect(host, "told")?;
    ensure!(off["Spec"]["Autoscale"].is_null() && off["AutoscaleStatus"].is_null(), "{off}");
    host.docker(&["service", "scale", "-d", "told=4"])?;

    // In a file.
    let file = host.dir.join("c.yml");
    let web = "services:\n  web:\n    image: whoami:1\n    command: [/skep, whoami]\n";
    let auto = "    x-autoscale: { min: 2, max: 4, cpu: 80%, metric: { name: q, port: 80, target: 5 }, cooldown: 10s }\n";
    let even = "    x-rebalance: { parallelism: 2, delay: 1s }\n";
    let deploy = |text: String| {
        std::fs::write(&file, text)?;
        host.skep(&["stack", "deploy", "--resolve-image", "never", "-d", "-c", path(&file), "s"])
    };
    deploy(format!("{web}{auto}{even}"))?;
    let spec = inspect(host, "s_web")?["Spec"].clone();
    let metric = json!({ "Name": "q", "Path": "", "Port": 80, "Target": 5.0 });
    let wanted =
        json!({ "Min": 2, "Max": 4, "CPUPercent": 80.0, "Metric": metric, "Cooldown": 10_000_000_000_i64 });
    ensure!(spec["Autoscale"] == wanted && spec["Mode"]["Replicated"]["Replicas"] == 2, "{spec}");
    let wanted = json!({ "Enabled": true, "Parallelism": 2, "Delay": 1_000_000_000 });
    ensure!(spec["Rebalance"] == wanted, "{spec}");
    // Another deploy leaves the replicas there are; without the keys all is as asked again.
    host.docker(&["service", "scale", "-d", "s_web=3"])?;
    deploy(format!("{web}{auto}{even}"))?;
    let replicas =
        || Ok::<_, anyhow::Error>(inspect(host, "s_web")?["Spec"]["Mode"]["Replicated"]["Replicas"].clone());
    ensure!(replicas()? == 3, "the deploy has set {}", replicas()?);
    deploy(web.to_owned())?;
    let spec = inspect(host, "s_web")?["Spec"].clone();
    ensure!(spec["Autoscale"].is_null() && spec["Rebalance"].is_null(), "{spec}");
    lab.down()
}
