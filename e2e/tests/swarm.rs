//! Three hosts, the real docker client, and what the swarm must survive.

use std::collections::BTreeMap;

use anyhow::{Context, Result, bail, ensure};
use skep_e2e::swarm::{
    LONG, answers, answers_to_client, create, hostname, inside, managers, refused, running, wait_running,
};
use skep_e2e::{Capture, Host, eventually, eventually_some};

/// Waits until four tasks of `web` run, none of them on `lost`.
fn four_without(host: &Host, lost: &Host) -> Result<()> {
    eventually(&format!("four tasks run without host {}", lost.number), LONG, || {
        let nodes = running(host, "web")?;
        ensure!(nodes.len() == 4 && !nodes.contains(&lost.name), "{nodes:?}");
        Ok(())
    })
}

#[test]
fn a_service_spreads_is_found_by_name_and_answers_on_every_host() -> Result<()> {
    let lab = managers("path")?;
    let one = lab.host(1);
    one.docker(&["network", "create", "-d", "overlay", "net1"])?;
    create(one, "web", 3, &["--network", "net1", "-p", "8080:80"])?;
    let mut nodes = wait_running(one, "web", 3)?;
    nodes.sort();
    nodes.dedup();
    ensure!(nodes.len() == 3, "three replicas on {nodes:?}");

    for host in lab.hosts() {
        let url = format!("http://{}:8080/", host.addr);
        let seen = eventually_some("all replicas answer", LONG, || {
            let seen = answers_to_client(&lab, &url, 60)?;
            ensure!(seen.len() == 3, "{seen:?}");
            Ok(Some(seen))
        })?;
        ensure!(seen.values().all(|n| *n >= 5), "balanced over {seen:?} through host {}", host.number);
    }

    create(
        one,
        "client",
        1,
        &["--network", "net1", "--constraint", &format!("node.hostname=={}", one.name)],
    )?;
    wait_running(one, "client", 1)?;
    let vip = inside(one, "client", &["busybox", "nslookup", "web", "127.0.0.11"])?;
    ensure!(vip.matches("Address").count() == 2, "one virtual address: {vip}");
    let tasks = inside(one, "client", &["busybox", "nslookup", "tasks.web", "127.0.0.11"])?;
    ensure!(tasks.matches("Address").count() == 4, "three task addresses: {tasks}");
    let addr =
        vip.lines().rev().find_map(|l| l.strip_prefix("Address: ")).context("an address")?.trim().to_owned();
    let mut seen = BTreeMap::new();
    for _ in 0..60 {
        let body = inside(one, "client", &["curl", "-sS", "--max-time", "3", &format!("http://{addr}/")])?;
        *seen.entry(hostname(&body)?).or_insert(0) += 1;
    }
    ensure!(seen.len() == 3 && seen.values().all(|n| *n >= 5), "the virtual address balances: {seen:?}");

    // A port on a host without a replica, after a scale-down.
    one.docker(&["service", "scale", "-d", "web=1"])?;
    wait_running(one, "web", 1)?;
    eventually("one replica answers everywhere", LONG, || {
        for host in lab.hosts() {
            let seen = answers(&lab, &format!("http://{}:8080/", host.addr), 5)?;
            ensure!(seen.len() == 1, "{seen:?}");
        }
        Ok(())
    })?;

    let logs = one.docker(&["service", "logs", "web"])?;
    ensure!(logs.contains("whoami listening on port 80"), "{logs}");
    one.docker(&["service", "rm", "web", "client"])?;
    eventually("no container is left", LONG, || {
        for host in lab.hosts() {
            let left = host.docker(&["ps", "-aq"])?;
            ensure!(left.is_empty(), "host {}: {left}", host.number);
        }
        Ok(())
    })?;
    lab.down()
}

#[test]
fn the_swarm_heals_when_hosts_die_are_cut_off_and_come_back() -> Result<()> {
    let mut lab = managers("heal")?;
    create(lab.host(1), "web", 3, &[])?;
    wait_running(lab.host(1), "web", 3)?;

    // The leader, which is also a worker, loses power.
    lab.kill(1)?;
    eventually("a new leader takes writes", LONG, || {
        lab.host(2).docker(&["service", "scale", "-d", "web=4"]).map(drop)
    })?;
    four_without(lab.host(2), lab.host(1))?;

    // It comes back: as a member again, with none of the tasks that were given to others.
    lab.restart(1)?;
    eventually("host 1 is ready again", LONG, || {
        let nodes = lab.host(1).docker(&["node", "ls", "--format", "{{.Status}}"])?;
        ensure!(nodes.lines().all(|l| l == "Ready"), "{nodes}");
        Ok(())
    })?;

    lab.cut(3)?;
    four_without(lab.host(2), lab.host(3))?;
    lab.heal(3)?;
    eventually("no task runs twice after the heal", LONG, || {
        let mut containers = 0;
        for host in lab.hosts() {
            containers += host.docker(&["ps", "-q"])?.lines().count();
        }
        ensure!(containers == 4, "{containers} containers");
        ensure!(running(lab.host(3), "web")?.len() == 4);
        Ok(())
    })?;
    lab.down()
}

#[test]
fn a_service_is_updated_and_a_node_drained_and_a_daemon_restarted_under_it() -> Result<()> {
    let lab = managers("upd")?;
    let one = lab.host(1);
    create(
        one,
        "web",
        3,
        &["-p", "8080:80", "--update-delay", "0s", "--update-monitor", "1s", "--stop-grace-period", "2s"],
    )?;
    wait_running(one, "web", 3)?;
    one.docker(&["service", "update", "--image", "whoami:2", "--env-add", "ROUND=2", "web"])?;
    let images =
        one.docker(&["service", "ps", "web", "--filter", "desired-state=running", "--format", "{{.Image}}"])?;
    ensure!(images.lines().count() == 3 && images.lines().all(|i| i == "whoami:2"), "{images}");

    one.docker(&["node", "update", "--availability", "drain", &lab.host(2).name])?;
    eventually("the drained node is empty", LONG, || {
        let nodes = running(one, "web")?;
        ensure!(nodes.len() == 3 && !nodes.contains(&lab.host(2).name), "{nodes:?}");
        ensure!(lab.host(2).docker(&["ps", "-q"])?.is_empty());
        Ok(())
    })?;
    one.docker(&["node", "update", "--availability", "active", &lab.host(2).name])?;

    let three = lab.host(3);
    let before = three.docker(&["ps", "-q", "--no-trunc"])?;
    ensure!(!before.is_empty(), "host 3 runs a replica");
    let address = format!("http://{}:8080/", three.addr);
    let since = || -> Result<String> {
        let ids = one.docker(&["service", "ps", "-q", "web"])?;
        let format = "{{.ID}} {{.Status.State}} {{.Status.Timestamp}}";
        one.docker(
            &[&["inspect", "--type", "task", "--format", format][..], &ids.lines().collect::<Vec<_>>()]
                .concat(),
        )
    };
    eventually("what was stopped has said so", LONG, || {
        let filter = ["--filter", "desired-state=shutdown", "--format", "{{.CurrentState}}"];
        let states = one.docker(&[&["service", "ps", "web"][..], &filter].concat())?;
        let over = |s: &str| ["Shutdown ", "Complete ", "Failed "].iter().any(|word| s.starts_with(word));
        ensure!(states.lines().all(over), "{states}");
        Ok(())
    })?;
    let began = since()?;
    // As a daemon leaves it that is killed while it removes a container of a task, and as an earlier membership does.
    let own = three.docker(&["node", "inspect", "self", "--format", "{{.ID}}"])?;
    for (name, node) in [("left", own.trim()), ("kept", "another")] {
        let (node, task) =
            (format!("com.docker.swarm.node.id={node}"), format!("com.docker.swarm.task.id={name}"));
        three.docker(&["create", "--name", name, "--label", &node, "--label", &task, "whoami:2", "/skep"])?;
    }
    three.stop_daemon("-KILL")?;
    ensure!(!answers(&lab, &address, 10)?.is_empty(), "traffic flows without a daemon");
    three.start_daemon()?;
    let same = |when: &str| -> Result<()> {
        let after = three.docker(&["ps", "-q", "--no-trunc"])?;
        let all = three.docker(&["ps", "-a", "--no-trunc", "--format", "{{.ID}} {{.Names}} {{.Status}}"])?;
        let tasks = one.docker(&["service", "ps", "--no-trunc", "web"])?;
        ensure!(
            after == before,
            "{when} others run: before\n{before}after\n{after}of\n{all}\ntasks:\n{tasks}"
        );
        Ok(())
    };
    same("after its restart")?;
    eventually("host 3 is ready again", LONG, || {
        let nodes = one.docker(&["node", "ls", "--format", "{{.Status}}"])?;
        ensure!(nodes.lines().all(|l| l == "Ready"), "{nodes}");
        Ok(())
    })?;
    same("after it is back in the swarm")?;
    eventually("what was left of a task that nobody knows is removed", LONG, || {
        let names = three.docker(&["ps", "-a", "--format", "{{.Names}}"])?;
        ensure!(!names.lines().any(|n| n == "left"), "{names}");
        ensure!(names.lines().any(|n| n == "kept"), "{names}");
        Ok(())
    })?;
    ensure!(since()? == began, "tasks run since their node's daemon is back: {}instead of {began}", since()?);
    lab.down()
}

#[test]
fn networks_are_apart_and_the_underlay_shows_nothing() -> Result<()> {
    let lab = managers("net")?;
    let (one, two) = (lab.host(1), lab.host(2));
    for net in ["red", "blue"] {
        one.docker(&["network", "create", "-d", "overlay", net])?;
    }
    let on = |host: &Host| format!("node.hostname=={}", host.name);
    create(one, "server", 1, &["--network", "red", "--constraint", &on(two)])?;
    create(one, "friend", 1, &["--network", "red", "--constraint", &on(one)])?;
    create(one, "stranger", 1, &["--network", "blue", "--constraint", &on(one)])?;
    for service in ["server", "friend", "stranger"] {
        wait_running(one, service, 1)?;
    }
    let found = inside(one, "friend", &["busybox", "nslookup", "tasks.server", "127.0.0.11"])?;
    let addr = found
        .lines()
        .rev()
        .find_map(|l| l.strip_prefix("Address: "))
        .context("an address")?
        .trim()
        .to_owned();
    let url = format!("http://{addr}/");

    let capture = Capture::start(one, "udp port 4789")?;
    let secret = "skep-secret-in-a-header";
    eventually("the friend reaches the server", LONG, || {
        let body = inside(
            one,
            "friend",
            &["curl", "-sS", "--max-time", "3", "-H", &format!("X-Secret: {secret}"), &url],
        )?;
        ensure!(body.contains(secret), "{body}");
        Ok(())
    })?;
    let bytes = capture.bytes()?;
    ensure!(
        !bytes.windows(secret.len()).any(|w| w == secret.as_bytes()),
        "the secret crossed the underlay in the clear"
    );

    if inside(one, "stranger", &["curl", "-sS", "--max-time", "2", &url]).is_ok() {
        bail!("a container of another network reached {url}");
    }
    if inside(one, "stranger", &["busybox", "nslookup", "server", "127.0.0.11"]).is_ok() {
        bail!("a container of another network found the server by name");
    }
    lab.down()
}

#[test]
fn what_is_wrong_is_refused_by_name() -> Result<()> {
    let lab = managers("bad")?;
    let one = lab.host(1);
    create(one, "web", 1, &["-p", "8080:80"])?;
    refused(one, &["service", "create", "-d", "--name", "web", "whoami:1"], &["web"])?;
    refused(
        one,
        &["service", "create", "-d", "--name", "web2", "-p", "8080:80", "whoami:1"],
        &["8080", "web"],
    )?;
    refused(one, &["service", "create", "-d", "--network", "nowhere", "whoami:1"], &["nowhere"])?;
    refused(one, &["service", "create", "-d", "--replicas", "99999999999", "whoami:1"], &["replicas"])?;
    refused(one, &["service", "inspect", "nothing"], &["nothing"])?;
    let clash = ["network", "create", "-d", "overlay", "--subnet", "10.99.0.0/24", "clash"];
    refused(one, &clash, &["10.99.0.0/24", "10.99.0.", &one.name[..one.name.len() - 1]])?;
    let misspelt = ["service", "create", "-d", "--replica", "2", "whoami:1"];
    ensure!(
        one.skep(&misspelt).is_err_and(|e| format!("{e:#}").contains("unknown flag: --replica")),
        "an unknown flag is no image"
    );
    ensure!(
        !one.docker(&["service", "create", "-d", "--replicas", "0", "whoami:1"])?.is_empty(),
        "a name is made up"
    );
    one.docker(&["network", "create", "-d", "overlay", "used"])?;
    create(one, "user", 1, &["--network", "used"])?;
    refused(one, &["network", "rm", "used"], &["used", "user"])?;
    refused(one, &["load", "-i", "/etc/hostname"], &["archive"])?;

    one.docker(&[
        "service",
        "create",
        "-d",
        "--name",
        "lost",
        "--constraint",
        "node.labels.disk==ssd",
        "whoami:1",
    ])?;
    one.docker(&[
        "service",
        "create",
        "-d",
        "--name",
        "absent",
        "--restart-condition",
        "none",
        "no-such-image:1",
    ])?;
    eventually("the reasons are shown", LONG, || {
        let lost =
            one.docker(&["service", "ps", "--no-trunc", "--format", "{{.CurrentState}} {{.Error}}", "lost"])?;
        ensure!(lost.contains("Pending") && lost.contains("3"), "{lost}");
        let absent = one.docker(&[
            "service",
            "ps",
            "--no-trunc",
            "--format",
            "{{.CurrentState}} {{.Error}}",
            "absent",
        ])?;
        ensure!(absent.contains("Rejected") && absent.contains("no-such-image"), "{absent}");
        Ok(())
    })?;
    lab.down()
}
