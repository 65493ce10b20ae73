//! Managers come and go: they leave, a quorum of them is lost, and the last one goes on alone.

use std::time::Instant;

use anyhow::{Result, bail, ensure};
use skep_e2e::eventually;
use skep_e2e::swarm::{
    LONG, create, join, managers, nodes_are, refused, running, token, wait_empty, wait_running,
};

#[test]
fn a_lost_quorum_says_so_and_the_last_manager_goes_on_alone() -> Result<()> {
    let mut lab = managers("alone")?;
    let [one, _, three] = lab.hosts() else { bail!("three hosts") };
    one.docker(&["network", "create", "-d", "overlay", "net1"])?;
    create(one, "web", 3, &["--network", "net1"])?;
    wait_running(one, "web", 3)?;

    // A manager leaves by force, and comes back as one.
    refused(three, &["swarm", "leave"], &["participating as a manager", "docker node demote", "--force"])?;
    three.docker(&["swarm", "leave", "--force"])?;
    wait_empty(three)?;
    nodes_are(one, "two managers are left", &["Ready Leader", "Ready Reachable", "Down"])?;
    one.docker(&["node", "rm", &three.name])?;
    join(three, &token(one, "manager")?, "10.99.0.1:2377")?;
    nodes_are(one, "three managers again", &["Ready Leader", "Ready Reachable", "Ready Reachable"])?;
    wait_running(one, "web", 3)?;

    // The two others die: nothing can be changed, what is known is still told, and tasks go on.
    lab.kill(2)?;
    lab.kill(3)?;
    let one = lab.host(1);
    let before = one.docker(&["ps", "-q", "--no-trunc"])?;
    eventually("the loss is noticed", LONG, || {
        let answer = one.request("GET", "/v1.50/services", "")?;
        ensure!(answer.status == 200 && answer.body.contains("\"web\""), "{answer:?}");
        let warning = answer.headers.lines().find(|l| l.to_ascii_lowercase().starts_with("warning:"));
        ensure!(warning.is_some_and(|w| w.contains("out of date")), "{}", answer.headers);
        Ok(())
    })?;
    // What its leader has taken by then may be done yet, which it says: nothing is asked for before it has resigned.
    eventually("nobody leads", LONG, || {
        let nodes = one.docker(&["node", "ls", "--format", "{{.ManagerStatus}}"])?;
        ensure!(!nodes.contains("Leader"), "{nodes}");
        Ok(())
    })?;
    let told = std::process::Command::new(&one.skep)
        .env("DOCKER_HOST", one.docker_host())
        .args(["service", "ls"])
        .output()?;
    let (shown, warned) = (String::from_utf8_lossy(&told.stdout), String::from_utf8_lossy(&told.stderr));
    ensure!(shown.contains("web") && warned.matches("out of date").count() == 1, "{shown}{warned}");
    let started = Instant::now();
    refused(one, &["service", "scale", "-d", "web=5"], &["no leader", "--force-new-cluster"])?;
    ensure!(started.elapsed() < LONG, "the refusal took {:?}", started.elapsed());
    let answer = one.request("POST", "/v1.50/networks/create", r#"{"Name":"n2","Driver":"overlay"}"#)?;
    ensure!(answer.status == 503 && answer.body.contains("no leader"), "{answer:?}");
    ensure!(one.docker(&["ps", "-q", "--no-trunc"])? == before, "the same containers run");
    refused(one, &["swarm", "init"], &["already part of a swarm"])?;

    // It goes on alone, with all that was there.
    one.docker(&["swarm", "init", "--force-new-cluster", "--advertise-addr", "eth0"])?;
    nodes_are(one, "one manager is left", &["Ready Leader", "Down", "Down"])?;
    ensure!(one.docker(&["ps", "-q", "--no-trunc"])?.contains(before.trim()), "the same container runs");
    wait_running(one, "web", 3)?;
    one.docker(&["service", "scale", "-d", "web=4"])?;
    wait_running(one, "web", 4)?;
    ensure!(one.docker(&["network", "ls", "--format", "{{.Name}}"])?.lines().any(|n| n == "net1"));
    // It comes back as that when its daemon does.
    lab.restart(1)?;
    let one = lab.host(1);
    nodes_are(one, "one manager after a restart", &["Ready Leader", "Down", "Down"])?;

    // The dead are removed, and new managers join.
    for number in [2, 3] {
        one.docker(&["node", "rm", &lab.host(number).name])?;
    }
    let token = token(one, "manager")?;
    for number in [2, 3] {
        lab.restart(number)?;
        let host = lab.host(number);
        host.docker(&["swarm", "leave", "--force"])?;
        wait_empty(host)?;
        join(host, &token, "10.99.0.1:2377")?;
    }
    let two = lab.host(2);
    nodes_are(two, "three managers", &["Ready Leader", "Ready Reachable", "Ready Reachable"])?;
    two.docker(&["service", "scale", "-d", "web=6"])?;
    wait_running(two, "web", 6)?;
    ensure!(running(lab.host(3), "web")?.len() == 6);
    lab.down()
}
