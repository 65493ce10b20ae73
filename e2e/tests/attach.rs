//! Containers outside services in an attachable overlay network, on workers as on managers, with both clients.

use anyhow::{Context, Result, ensure};
use skep_e2e::swarm::{LONG, create, hostname, refused, wait_running, within, workers};
use skep_e2e::{Host, eventually, eventually_some};

const SERVE: [&str; 3] = ["whoami:1", "/skep", "whoami"];

/// The one address a name has inside a container.
fn resolve(host: &Host, container: &str, name: &str) -> Result<String> {
    let out = within(host, container, &["busybox", "nslookup", name, "127.0.0.11"])?;
    let mut found =
        out.lines().skip_while(|l| !l.starts_with("Name:")).filter_map(|l| l.strip_prefix("Address: "));
    Ok(found.next().with_context(|| format!("no address in {out:?}"))?.trim().to_owned())
}

/// Who answers a container at a name.
fn ask(host: &Host, container: &str, name: &str) -> Result<String> {
    let url = format!("http://{}/", resolve(host, container, name)?);
    hostname(&within(host, container, &["curl", "-sS", "--max-time", "3", &url])?)
}

fn answers_as(host: &Host, container: &str, name: &str, expected: &str) -> Result<()> {
    eventually(&format!("{container} reaches {name}"), LONG, || {
        let who = ask(host, container, name)?;
        ensure!(who == expected, "{who}");
        Ok(())
    })
}

#[test]
fn plain_containers_of_different_hosts_and_a_service_find_each_other() -> Result<()> {
    let mut lab = workers("att")?;
    let (one, two, three) = (lab.host(1).clone(), lab.host(2).clone(), lab.host(3).clone());
    one.docker(&["network", "create", "-d", "overlay", "--attachable", "--label", "tier=back", "open"])?;
    one.docker(&["network", "create", "-d", "overlay", "closed"])?;

    let run = ["run", "-d", "--network", "open"];
    two.docker(
        &[&run[..], &["--name", "aa", "--hostname", "host-a", "--network-alias", "alpha"], &SERVE].concat(),
    )?;
    three.skep(&[&run[..], &["--name", "bb", "--hostname", "host-b"], &SERVE].concat())?;
    one.docker(
        &[&run[..], &["--name", "cc", "--hostname", "host-c", "--restart", "always"], &SERVE].concat(),
    )?;
    create(&one, "web", 2, &["--network", "open", "--hostname", "web"])?;
    wait_running(&one, "web", 2)?;

    answers_as(&two, "aa", "bb", "host-b")?;
    answers_as(&three, "bb", "alpha", "host-a")?;
    answers_as(&three, "bb", "host-a", "host-a")?;
    answers_as(&three, "bb", "cc", "host-c")?;
    answers_as(&one, "cc", "aa", "host-a")?;
    for (host, container) in [(&two, "aa"), (&three, "bb")] {
        answers_as(host, container, "web", "web")?;
    }
    let b = resolve(&two, "aa", "bb")?;
    within(&two, "aa", &["busybox", "ping", "-c", "1", "-W", "3", &b])?;
    let shown = three.docker(&["inspect", "-f", "{{.NetworkSettings.Networks.open.IPAddress}}", "bb"])?;
    ensure!(shown.trim() == b, "{shown} {b}");

    // A running container joins later, and leaves again.
    two.docker(&[&["run", "-d", "--name", "later", "--hostname", "host-later"][..], &SERVE].concat())?;
    two.docker(&["network", "connect", "--alias", "lately", "open", "later"])?;
    answers_as(&three, "bb", "lately", "host-later")?;
    answers_as(&two, "later", "bb", "host-b")?;
    two.docker(&["network", "disconnect", "open", "later"])?;
    eventually("it has no name there any more", LONG, || {
        ensure!(resolve(&three, "bb", "lately").is_err());
        Ok(())
    })?;
    within(&two, "later", &["busybox", "ping", "-c", "1", "-W", "3", "10.99.0.254"])?;

    // What is refused, what is shown.
    let closed = [&["run", "-d", "--rm", "--network", "closed"][..], &SERVE].concat();
    for host in [&one, &two] {
        let words = "Could not attach to network closed: rpc error: code = PermissionDenied desc = network closed not manually attachable";
        refused(host, &closed, &[words])?;
    }
    refused(
        &two,
        &[&["run", "-d", "--rm", "--network", "nowhere"][..], &SERVE].concat(),
        &["network nowhere not found"],
    )?;
    for (host, name) in [(&one, "cc"), (&two, "aa"), (&three, "bb")] {
        let seen = host.docker(&[
            "network",
            "inspect",
            "-f",
            "{{range .Containers}}{{.Name}} {{end}}{{.Attachable}}",
            "open",
        ])?;
        ensure!(seen.contains(name) && seen.contains("true"), "{seen}");
    }
    refused(&one, &["network", "rm", "open"], &["network open is in use by"])?;
    let listed = one.docker(&["service", "ls", "-q"])?;
    ensure!(listed.lines().count() == 1, "{listed}");
    let node = one.docker(&["node", "ps", "--format", "{{.Name}}", &two.name, &three.name])?;
    ensure!(node.lines().all(|l| l.starts_with("web.")), "{node}");

    // A daemon comes back under its containers.
    let address = resolve(&three, "bb", "aa")?;
    two.stop_daemon("-KILL")?;
    ensure!(ask(&three, "bb", "aa")? == "host-a", "it goes on without a daemon");
    two.start_daemon()?;
    answers_as(&two, "aa", "bb", "host-b")?;
    ensure!(resolve(&three, "bb", "aa")? == address, "it keeps its address");

    one.docker(&["rename", "cc", "see"])?;
    answers_as(&three, "bb", "see", "host-c")?;
    eventually("the old name is nobody's", LONG, || {
        ensure!(resolve(&three, "bb", "cc").is_err());
        Ok(())
    })?;
    one.docker(&["rename", "see", "cc"])?;

    // A container started again has a place again; one that is stopped has none.
    one.docker(&["restart", "-t", "1", "cc"])?;
    answers_as(&three, "bb", "cc", "host-c")?;
    two.docker(&["stop", "-t", "1", "aa"])?;
    eventually("the stopped container has no name", LONG, || {
        ensure!(resolve(&three, "bb", "aa").is_err());
        Ok(())
    })?;
    two.docker(&["start", "aa"])?;
    answers_as(&three, "bb", "aa", "host-a")?;

    // No manager in reach: said in time, and taken up when one is back.
    lab.cut(1)?;
    refused(
        &two,
        &[&run[..], &["--name", "late"], &SERVE].concat(),
        &["Could not attach to network open", "manager"],
    )?;
    two.docker(&["rm", "-f", "aa", "late"])?;
    lab.heal(1)?;
    eventually("what was removed meanwhile is given back", LONG, || {
        let tasks = one.exec(&[
            "curl",
            "-sS",
            "-G",
            "--unix-socket",
            skep_e2e::swarm::path(&one.socket()),
            "--data-urlencode",
            r#"filters={"runtime":["attachment"]}"#,
            "http://d/tasks",
        ])?;
        ensure!(tasks.matches("NetworkAttachmentSpec").count() == 2, "{tasks}");
        Ok(())
    })?;

    // A host that is lost, and then removed, takes its containers' places with it.
    one.docker(&["rm", "-f", "cc"])?;
    one.docker(&["service", "rm", "web"])?;
    lab.kill(3)?;
    eventually_some("the lost node is removed", LONG, || {
        one.docker(&["node", "rm", "--force", &three.name]).map(Some)
    })?;
    eventually("the network is free", LONG, || one.docker(&["network", "rm", "open"]).map(drop))?;
    lab.down()
}
