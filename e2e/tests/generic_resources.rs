//! Generic resources: what nodes say they have, who gets it, and what containers are told, with the real client.

use anyhow::{Result, bail, ensure};
use skep_e2e::swarm::{LONG, binaries, join, nodes_are, path, token, wait_running};
use skep_e2e::{Host, Lab, LabOptions, busybox_image, eventually};

/// Node and resources of each running task.
fn given(manager: &Host, service: &str) -> Result<Vec<String>> {
    let ids = manager.docker(&["service", "ps", "-q", "--filter", "desired-state=running", service])?;
    let mut all = Vec::new();
    for id in ids.lines() {
        all.push(
            manager
                .docker(&["inspect", "--type", "task", "-f", "{{json .GenericResources}}", id])?
                .trim()
                .to_owned(),
        );
    }
    all.sort();
    Ok(all)
}

/// The variable of a service's container on a host.
fn told(host: &Host, service: &str) -> Result<Vec<String>> {
    let filter = format!("label=com.docker.swarm.service.name={service}");
    let ids = host.docker(&["ps", "-q", "--filter", &filter])?;
    let mut all = Vec::new();
    for id in ids.lines() {
        let env = host.docker(&["exec", id, "env"])?;
        all.extend(env.lines().filter(|l| l.starts_with("DOCKER_RESOURCE_")).map(str::to_owned));
    }
    all.sort();
    Ok(all)
}

#[test]
fn nodes_have_them_tasks_get_them_and_containers_know() -> Result<()> {
    let (skep, init) = binaries()?;
    let name = format!("generic{}", std::process::id() % 10_000);
    let lab = Lab::bare(LabOptions { name, hosts: 2, skep, init })?;
    let [one, two, ..] = lab.hosts() else { bail!("two hosts") };
    std::fs::write(one.dir.join("daemon.toml"), "node-generic-resources = [\"gpu=UUID1\", \"gpu=UUID2\"]\n")?;
    std::fs::write(two.dir.join("daemon.toml"), "node-generic-resources = [\"gpu=UUID3\", \"apple=4\"]\n")?;
    let archive = one.dir.join("box.tar");
    busybox_image(&["sh", "sleep", "env"], &archive)?;
    for host in [one, two] {
        host.start_daemon()?;
        host.docker(&["import", path(&archive), "box:1"])?;
    }
    one.docker(&["swarm", "init", "--advertise-addr", &one.addr])?;
    join(two, &token(one, "worker")?, "10.99.0.1:2377")?;
    nodes_are(one, "both nodes are ready", &["Ready Leader", "Ready"])?;
    let has = "{{json .Description.Resources.GenericResources}}";
    let named = |name: &str| format!(r#"{{"NamedResourceSpec":{{"Kind":"gpu","Value":"{name}"}}}}"#);
    let apples = |n: u32| format!(r#"{{"DiscreteResourceSpec":{{"Kind":"apple","Value":{n}}}}}"#);
    let seen = one.docker(&["node", "inspect", "-f", has, &two.name])?;
    ensure!(seen.trim() == format!("[{},{}]", apples(4), named("UUID3")), "{seen}");
    let seen = one.docker(&["info", "-f", "{{json .GenericResources}}"])?;
    ensure!(seen.trim() == format!("[{},{}]", named("UUID1"), named("UUID2")), "{seen}");

    let asked = |name: &str, replicas: &str, resources: &[&str]| {
        let first = ["service", "create", "-d", "--no-resolve-image", "--name", name, "--replicas", replicas];
        let stop = ["--stop-grace-period", "1s"];
        let rest = ["box:1", "sleep", "1000000"];
        one.docker(&[&first[..], resources, &stop, &rest].concat())
    };
    asked("render", "3", &["--generic-resource", "gpu=1"])?;
    wait_running(one, "render", 3)?;
    let wanted: Vec<_> = ["UUID1", "UUID2", "UUID3"].map(|n| format!("[{}]", named(n))).into();
    ensure!(given(one, "render")? == wanted, "{:?}", given(one, "render")?);
    ensure!(told(one, "render")? == ["DOCKER_RESOURCE_GPU=UUID1", "DOCKER_RESOURCE_GPU=UUID2"]);
    ensure!(told(two, "render")? == ["DOCKER_RESOURCE_GPU=UUID3"]);

    // Nothing is left: who asks waits, is told what lacks, and gets what is given back.
    asked("both", "1", &["--generic-resource", "gpu=2"])?;
    eventually("a task waits for GPUs", LONG, || {
        let seen = one.docker(&["service", "ps", "--no-trunc", "--format", "{{.Error}}", "both"])?;
        ensure!(seen.contains("2 of 2 lack 2 gpu"), "{seen}");
        Ok(())
    })?;
    one.skep(&["service", "scale", "-d", "render=0"])?;
    wait_running(one, "both", 1)?;
    ensure!(told(one, "both")? == ["DOCKER_RESOURCE_GPU=UUID1,UUID2"], "{:?}", told(one, "both")?);

    asked("pie", "2", &["--generic-resource", "apple=1"])?;
    wait_running(one, "pie", 2)?;
    one.skep(&[
        "service",
        "update",
        "-d",
        "--generic-resource-add",
        "apple=2",
        "--update-monitor",
        "100ms",
        "pie",
    ])?;
    eventually("both have two apples", LONG, || {
        let seen = told(two, "pie")?;
        ensure!(seen == ["DOCKER_RESOURCE_APPLE=2", "DOCKER_RESOURCE_APPLE=2"], "{seen:?}");
        Ok(())
    })?;
    ensure!(given(one, "pie")? == [format!("[{}]", apples(2)), format!("[{}]", apples(2))]);

    // In a Compose file.
    let file = one.dir.join("c.yml");
    let text = "services:\n  one:\n    image: box:1\n    command: sleep 1000000\n    deploy:\n      resources:\n        reservations:\n          \
                generic_resources: [{discrete_resource_spec: {kind: gpu, value: 1}}]\n";
    std::fs::write(&file, text)?;
    one.docker(&["stack", "deploy", "--resolve-image", "never", "--detach=true", "-c", path(&file), "s"])?;
    wait_running(one, "s_one", 1)?;
    ensure!(told(two, "s_one")? == ["DOCKER_RESOURCE_GPU=UUID3"], "{:?}", told(two, "s_one")?);
    lab.down()
}
