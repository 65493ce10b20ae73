//! The life of a node: it joins as a worker, takes tasks, is drained, labelled, promoted, demoted, leaves, is
//! removed, and comes back.

use anyhow::{Result, bail, ensure};
use skep_e2e::swarm::{
    LONG, begun, create, join, managers, nodes_are, refused, running, token, wait_empty, wait_running,
    wait_running_on,
};
use skep_e2e::{Host, eventually};

const NO_MANAGER: &str = "This node is not a swarm manager. Worker nodes can't be used";

fn counts(host: &Host, service: &str, nodes: &[&Host]) -> Result<Vec<usize>> {
    let running = running(host, service)?;
    Ok(nodes.iter().map(|n| running.iter().filter(|r| **r == n.name).count()).collect())
}

fn availability(host: &Host, node: &Host, word: &str) -> Result<()> {
    host.docker(&["node", "update", "--availability", word, &node.name]).map(drop)
}

#[test]
fn workers_take_tasks_as_labels_and_availability_say_and_change_their_role() -> Result<()> {
    let lab = begun("work", 3)?;
    let [one, two, three] = lab.hosts() else { bail!("three hosts") };
    let worker = token(one, "worker")?;
    join(two, &worker, "10.99.0.1:2377")?;
    join(three, &worker, "10.99.0.1")?;
    nodes_are(one, "two workers joined", &["Ready Leader", "Ready", "Ready"])?;
    refused(two, &["node", "ls"], &[NO_MANAGER])?;
    refused(two, &["service", "ls"], &[NO_MANAGER])?;
    refused(two, &["swarm", "join", "--token", &worker, "10.99.0.1"], &["already part of a swarm"])?;

    create(one, "web", 3, &[])?;
    wait_running(one, "web", 3)?;
    ensure!(counts(one, "web", &[one, two, three])? == [1, 1, 1], "spread over workers and manager");
    one.docker(&["node", "update", "--label-add", "zone=a", "--label-add", "old=1", &three.name])?;
    one.docker(&["node", "update", "--label-rm", "old", &three.name])?;
    let labels = one.docker(&["node", "inspect", "-f", "{{json .Spec.Labels}}", &three.name])?;
    ensure!(labels.trim() == r#"{"zone":"a"}"#, "{labels}");
    create(one, "here", 2, &["--constraint", "node.labels.zone==a"])?;
    wait_running_on(one, "here", 2, &[three])?;

    // A paused node keeps what it has and gets nothing new; a drained one keeps nothing.
    availability(one, two, "pause")?;
    one.docker(&["service", "scale", "-d", "web=7"])?;
    wait_running(one, "web", 7)?;
    ensure!(counts(one, "web", &[two])? == [1], "the paused node has what it had");
    availability(one, two, "drain")?;
    wait_running_on(one, "web", 7, &[one, three])?;
    eventually("the drained node runs nothing", LONG, || {
        let left = two.docker(&["ps", "-q"])?;
        ensure!(left.is_empty(), "{left}");
        Ok(())
    })?;
    availability(one, two, "active")?;
    refused(one, &["node", "update", "--availability", "gone", &two.name], &["gone"])?;
    refused(one, &["node", "update", "--availability", "drain", "nobody"], &["nobody"])?;

    // A promoted worker has a vote and an API, and a demoted one neither.
    one.docker(&["node", "promote", &two.name])?;
    nodes_are(one, "host 2 is a manager", &["Ready Leader", "Ready Reachable", "Ready"])?;
    eventually("host 2 answers as a manager", LONG, || {
        two.docker(&["service", "scale", "-d", "web=2"]).map(drop)
    })?;
    one.docker(&["node", "demote", &two.name])?;
    nodes_are(one, "host 2 is a worker again", &["Ready Leader", "Ready", "Ready"])?;
    eventually("host 2 answers as a worker", LONG, || refused(two, &["node", "ls"], &[NO_MANAGER]))?;
    refused(one, &["node", "demote", &one.name], &["last manager"])?;
    wait_running(one, "web", 2)?;
    // A second promotion begins with nothing of the first.
    one.docker(&["node", "promote", &two.name])?;
    nodes_are(two, "host 2 is a manager again", &["Ready Leader", "Ready Reachable", "Ready"])?;
    lab.down()
}

#[test]
fn nodes_leave_are_removed_and_come_back() -> Result<()> {
    let mut lab = begun("leave", 3)?;
    let [one, two, three] = lab.hosts() else { bail!("three hosts") };
    let worker = token(one, "worker")?;
    for host in [two, three] {
        join(host, &worker, "10.99.0.1:2377")?;
    }
    nodes_are(one, "two workers joined", &["Ready Leader", "Ready", "Ready"])?;
    create(one, "web", 3, &["--stop-grace-period", "1s"])?;
    wait_running(one, "web", 3)?;

    // A worker that leaves takes its containers with it; only then may it be removed.
    refused(one, &["node", "rm", &three.name], &["is not down and can't be removed"])?;
    three.docker(&["swarm", "leave"])?;
    wait_empty(three)?;
    ensure!(three.docker(&["info", "-f", "{{.Swarm.LocalNodeState}}"])?.trim() == "inactive");
    refused(three, &["swarm", "leave"], &["not part of a swarm"])?;
    nodes_are(one, "host 3 is down", &["Ready Leader", "Ready", "Down"])?;
    wait_running_on(one, "web", 3, &[one, two])?;
    one.docker(&["node", "rm", &three.name])?;
    nodes_are(one, "host 3 is removed", &["Ready Leader", "Ready"])?;

    // With a rotated token it comes back only by the new one.
    let rotated = one.docker(&["swarm", "join-token", "-q", "--rotate", "worker"])?.trim().to_owned();
    ensure!(rotated != worker && rotated == token(one, "worker")?, "{rotated}");
    refused(
        three,
        &["swarm", "join", "--token", &worker, "10.99.0.1:2377"],
        &["join token", "rotated", "docker swarm join-token"],
    )?;
    join(three, &rotated, "10.99.0.1:2377")?;
    nodes_are(one, "host 3 is back", &["Ready Leader", "Ready", "Ready"])?;

    // A node removed by force finds out by itself, and runs nothing any more.
    one.docker(&["node", "rm", "--force", &two.name])?;
    wait_empty(two)?;
    eventually("host 2 knows it was removed", LONG, || {
        let info = two.docker(&["info", "-f", "{{.Swarm.LocalNodeState}}: {{.Swarm.Error}}"])?;
        ensure!(info.contains("error") && info.contains("removed") && info.contains("leave"), "{info}");
        Ok(())
    })?;
    wait_running_on(one, "web", 3, &[one, three])?;
    two.docker(&["swarm", "leave"])?;
    join(two, &rotated, "10.99.0.1:2377")?;
    nodes_are(one, "host 2 is back", &["Ready Leader", "Ready", "Ready"])?;

    // A worker that dies: its tasks run elsewhere.
    lab.kill(3)?;
    let [one, two, _] = lab.hosts() else { bail!("three hosts") };
    nodes_are(one, "host 3 is down", &["Ready Leader", "Ready", "Down"])?;
    wait_running_on(one, "web", 3, &[one, two])?;

    // The last manager takes the swarm with it, and says so first.
    refused(one, &["swarm", "leave"], &["Removing the last manager erases all current state", "--force"])?;
    one.docker(&["swarm", "leave", "--force"])?;
    wait_empty(one)?;
    lab.down()
}

#[test]
fn managers_become_workers_even_the_leader() -> Result<()> {
    let lab = managers("demote")?;
    let [one, two, three] = lab.hosts() else { bail!("three hosts") };
    create(one, "web", 3, &[])?;
    wait_running(one, "web", 3)?;
    let containers = |host: &Host| host.docker(&["ps", "-q", "--no-trunc"]);
    let before = containers(three)?;

    one.docker(&["node", "demote", &three.name])?;
    nodes_are(one, "host 3 is a worker", &["Ready Leader", "Ready Reachable", "Ready"])?;
    eventually("host 3 answers as a worker", LONG, || refused(three, &["node", "ls"], &[NO_MANAGER]))?;
    // Whose agent had its session with the leader does not matter either.
    one.docker(&["node", "demote", &one.name])?;
    nodes_are(two, "host 1 is a worker", &["Ready Leader", "Ready", "Ready"])?;
    eventually("host 1 answers as a worker", LONG, || refused(one, &["node", "ls"], &[NO_MANAGER]))?;
    wait_running(two, "web", 3)?;
    ensure!(containers(three)? == before, "a change of role moves no task");

    // A worker's leave, and a way back.
    three.docker(&["swarm", "leave"])?;
    nodes_are(two, "host 3 is down", &["Ready Leader", "Ready", "Down"])?;
    two.docker(&["node", "rm", &three.name])?;
    join(three, &token(two, "manager")?, "10.99.0.2:2377")?;
    nodes_are(two, "host 3 manages again", &["Ready Leader", "Ready Reachable", "Ready"])?;

    // Promoted again at once, and after a crash that cut the demotion off: it does not go on with the log it left.
    for crash in [false, true] {
        two.docker(&["node", "demote", &three.name])?;
        nodes_are(two, "host 3 is a worker again", &["Ready Leader", "Ready", "Ready"])?;
        if crash {
            three.stop_daemon("-KILL")?;
            three.start_daemon()?;
        }
        two.docker(&["node", "promote", &three.name])?;
        nodes_are(two, "host 3 manages once more", &["Ready Leader", "Ready Reachable", "Ready"])?;
        eventually("host 3 answers as a manager", LONG, || three.docker(&["node", "ls"]).map(drop))?;
    }
    lab.down()
}
