//! Five hosts, all of them managers: two may be lost and the swarm goes on, with three lost it says why it waits, and
//! what it did on three hosts it does on five.

use anyhow::{Result, ensure};
use skep_e2e::swarm::{
    LONG, answers_to_client, begun, create, inside, join, nodes_are, refused, rotated, running, token,
    wait_empty, wait_running, wait_running_on,
};
use skep_e2e::{Host, Lab, eventually};

/// Five managers that are ready.
fn five(name: &str) -> Result<Lab> {
    let lab = begun(name, 5)?;
    let token = token(lab.host(1), "manager")?;
    for number in 2..=5 {
        join(lab.host(number), &token, "10.99.0.1:2377")?;
    }
    all_ready(lab.host(5))?;
    Ok(lab)
}

fn all_ready(host: &Host) -> Result<()> {
    let mut states = vec!["Ready Reachable"; 4];
    states.push("Ready Leader");
    nodes_are(host, "five managers are ready", &states)
}

/// Waits until each of these hosts leads clients to so many tasks, which see the clients' own address.
fn each_leads_to(lab: &Lab, hosts: &[u32], tasks: usize) -> Result<()> {
    for number in hosts {
        let url = format!("http://{}:8080/", lab.host(*number).addr);
        eventually(&format!("{tasks} tasks answer by host {number}"), LONG, || {
            let seen = answers_to_client(lab, &url, 12 * tasks)?;
            ensure!(seen.len() == tasks, "{seen:?}");
            Ok(())
        })?;
    }
    Ok(())
}

/// Waits until each host runs its task of the global service, which has the secret.
fn secrets_are_there(lab: &Lab) -> Result<()> {
    lab.hosts().iter().try_for_each(|host| {
        eventually(&format!("host {} has the secret", host.number), LONG, || {
            let filter = "label=com.docker.swarm.service.name=every";
            let id = host.docker(&["ps", "-q", "--filter", filter])?;
            let read = host.docker(&["cp", &format!("{}:/run/secrets/word", id.trim()), "-"])?;
            ensure!(read.contains("five of five"), "{read:?}");
            Ok(())
        })
    })
}

#[test]
fn five_managers_go_on_without_two_say_why_they_wait_without_three_and_come_back_whole() -> Result<()> {
    let mut lab = five("five")?;
    let one = lab.host(1);
    let word = one.dir.join("word");
    std::fs::write(&word, "five of five")?;
    one.docker(&["secret", "create", "word", skep_e2e::swarm::path(&word)])?;
    one.docker(&["network", "create", "-d", "overlay", "net1"])?;
    let every = ["service", "create", "-d", "--mode", "global", "--name", "every", "--secret", "word"];
    one.docker(&[&every[..], &["--network", "net1", "whoami:1", "/skep", "whoami"]].concat())?;
    create(one, "web", 5, &["--network", "net1", "-p", "8080:80", "--update-parallelism", "2"])?;

    let mut nodes = wait_running(one, "web", 5)?;
    nodes.dedup();
    ensure!(nodes.len() == 5, "one replica each: {nodes:?}");
    wait_running(one, "every", 5)?;
    secrets_are_there(&lab)?;
    each_leads_to(&lab, &[1, 2, 3, 4, 5], 5)?;
    let names = inside(lab.host(5), "every", &["busybox", "nslookup", "tasks.web", "127.0.0.11"])?;
    ensure!(names.matches("Address").count() == 6, "five addresses, and the server's: {names}");

    // The leader and another lose power at once: three of five are a quorum.
    lab.kill(1)?;
    lab.kill(2)?;
    let three = lab.host(3);
    eventually("a new leader takes an update", LONG, || {
        three.docker(&["service", "update", "-d", "--image", "whoami:2", "web"]).map(drop)
    })?;
    let left = [lab.host(3), lab.host(4), lab.host(5)];
    wait_running_on(three, "web", 5, &left)?;
    eventually("the update is over", LONG, || {
        let state = three.docker(&["service", "inspect", "-f", "{{.UpdateStatus.State}}", "web"])?;
        ensure!(state.trim() == "completed", "{state}");
        Ok(())
    })?;
    each_leads_to(&lab, &[3, 4, 5], 5)?;

    // Without a third there is none: nothing is written, and what runs goes on.
    lab.kill(3)?;
    let four = lab.host(4);
    eventually("a change is refused with its reason", LONG, || {
        refused(four, &["service", "scale", "-d", "web=9"], &["no leader"])
    })?;
    let here = four.docker(&["ps", "-q", "--filter", "label=com.docker.swarm.service.name=web"])?;
    ensure!(!here.trim().is_empty(), "host 4 runs its tasks on");

    // They come back as members that have everything.
    for number in 1..=3 {
        lab.restart(number)?;
    }
    let one = lab.host(1);
    all_ready(one)?;
    wait_running(one, "every", 5)?;
    wait_running(one, "web", 5)?;
    secrets_are_there(&lab)?;
    each_leads_to(&lab, &[1, 2, 3, 4, 5], 5)?;

    // A drained node's tasks go to the other four; its global task to nobody.
    one.docker(&["node", "update", "--availability", "drain", &lab.host(5).name])?;
    let others: Vec<&Host> = lab.hosts()[..4].iter().collect();
    wait_running_on(one, "web", 5, &others)?;
    wait_running_on(one, "every", 4, &others)?;
    eventually("nothing runs on host 5", LONG, || {
        let left = lab.host(5).docker(&["ps", "-q"])?;
        ensure!(left.is_empty(), "{left}");
        Ok(())
    })?;
    each_leads_to(&lab, &[5], 5)?;

    // Two are demoted, one at a time: three managers stay, and two workers; a new root reaches all five.
    for number in [4, 5] {
        one.docker(&["node", "demote", &lab.host(number).name])?;
    }
    nodes_are(
        one,
        "three managers and two workers",
        &["Ready Leader", "Ready Reachable", "Ready Reachable", "Ready", "Ready"],
    )?;
    one.docker(&["swarm", "ca", "--rotate", "-d"])?;
    rotated(one)?;
    one.docker(&["node", "update", "--availability", "active", &lab.host(5).name])?;
    wait_running(one, "every", 5)?;
    ensure!(running(one, "web")?.len() == 5, "and web runs on");

    one.docker(&["service", "rm", "web", "every"])?;
    lab.hosts().iter().try_for_each(wait_empty)?;
    lab.down()
}
