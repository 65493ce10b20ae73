//! Where a node listens and is reached: interfaces, host names, a data path apart, another port; and published
//! ports that change under a running service.

use anyhow::{Context, Result, bail, ensure};
use skep_e2e::swarm::{LONG, answers, begun, create, hosts, nodes_are, refused, token, wait_running};
use skep_e2e::{Host, eventually};

/// Gives a host a second address, for the data path.
fn second_network(host: &Host) -> Result<()> {
    let addr = format!("10.99.1.{}", host.number);
    host.exec(&["ip", "addr", "add", &format!("{addr}/24"), "dev", "eth0"]).map(drop)
}

/// Local ports a host's UDP sockets are bound to.
fn udp_ports(host: &Host) -> Result<Vec<u16>> {
    let sockets = host.exec(&["cat", "/proc/net/udp", "/proc/net/udp6"])?;
    let port = |line: &str| u16::from_str_radix(line.split_whitespace().nth(1)?.rsplit(':').next()?, 16).ok();
    Ok(sockets.lines().filter_map(port).collect())
}

#[test]
fn nodes_are_reached_by_interface_name_host_name_and_a_data_path_of_their_own() -> Result<()> {
    let lab = hosts("addr", 2)?;
    let [one, two] = lab.hosts() else { bail!("two hosts") };
    for host in [one, two] {
        second_network(host)?;
    }
    refused(one, &["swarm", "init", "--advertise-addr", "eth9"], &["eth9"])?;
    refused(
        one,
        &["swarm", "init", "--data-path-addr", "data9", "--advertise-addr", "10.99.0.1"],
        &["data9"],
    )?;
    refused(one, &["swarm", "init", "--data-path-port", "80"], &["1024", "49151"])?;
    refused(
        one,
        &["swarm", "init", "--listen-addr", "10.99.0.77:2377", "--advertise-addr", "10.99.0.1"],
        &["10.99.0.77:2377", "--listen-addr"],
    )?;
    one.docker(&[
        "swarm",
        "init",
        "--listen-addr",
        "10.99.0.1:3377",
        "--advertise-addr",
        "10.99.0.1:3377",
        "--data-path-addr",
        "10.99.1.1",
        "--data-path-port",
        "5789",
    ])?;
    // By a name from the joiner's own /etc/hosts.
    let names = two.dir.join("hosts");
    std::fs::write(&names, "127.0.0.1 localhost\n10.99.0.1 manager.lab\n")?;
    let names = names.to_str().context("a UTF-8 path")?;
    two.exec(&["mount", "--bind", names, "/etc/hosts"])?;
    let worker = token(one, "worker")?;
    refused(
        two,
        &["swarm", "join", "--token", &worker, "nobody.lab:3377"],
        &["nobody.lab", "cannot be resolved"],
    )?;
    two.docker(&[
        "swarm",
        "join",
        "--token",
        &worker,
        "--advertise-addr",
        "10.99.0.2",
        "--data-path-addr",
        "10.99.1.2",
        "manager.lab:3377",
    ])?;
    nodes_are(one, "both nodes are ready", &["Ready Leader", "Ready"])?;
    let shown = one.docker(&["node", "inspect", "-f", "{{.Status.Addr}}", &two.name])?;
    ensure!(shown.trim() == "10.99.0.2", "{shown}");

    // No port at first, so no task has a place in the ingress network.
    create(one, "web", 2, &["--update-monitor", "1s", "--stop-grace-period", "1s"])?;
    wait_running(one, "web", 2)?;
    one.docker(&["service", "update", "--publish-add", "8080:80", "web"])?;
    let capture = two
        .command("tcpdump")?
        .args([
            "-n",
            "-i",
            "eth0",
            "-c",
            "1",
            "udp port 5789 and src net 10.99.1.0/24 and dst net 10.99.1.0/24",
        ])
        .stdout(std::process::Stdio::null())
        .stderr(std::process::Stdio::null())
        .spawn();
    let mut capture = capture.context("start tcpdump")?;
    for host in [one, two] {
        eventually("both replicas answer", LONG, || {
            let seen = answers(&lab, &format!("http://{}:8080/", host.addr), 10)?;
            ensure!(seen.len() == 2, "{seen:?}");
            Ok(())
        })?;
        let ports = udp_ports(host)?;
        ensure!(ports.contains(&5789) && !ports.contains(&4789), "{ports:?}");
    }
    eventually("the tunnel uses the data path", LONG, || {
        answers(&lab, &format!("http://{}:8080/", one.addr), 4)?;
        ensure!(capture.try_wait()?.is_some(), "no packet between the data path addresses yet");
        Ok(())
    })?;

    // Another port needs no other tasks; the old one is closed.
    let tasks = one.docker(&["service", "ps", "-q", "web"])?;
    one.docker(&["service", "update", "-d", "--publish-rm", "80", "--publish-add", "9090:80", "web"])?;
    eventually("the new port answers", LONG, || answers(&lab, "http://10.99.0.1:9090/", 2).map(drop))?;
    eventually("the old port is closed", LONG, || {
        let old = lab.outside(&["curl", "-sS", "--max-time", "2", "http://10.99.0.1:8080/"]);
        ensure!(old.is_err(), "{old:?}");
        Ok(())
    })?;
    ensure!(one.docker(&["service", "ps", "-q", "web"])? == tasks, "the same tasks");
    lab.down()
}

#[test]
fn a_worker_whose_address_changes_is_reached_at_the_new_one() -> Result<()> {
    let lab = begun("moved", 2)?;
    let [one, two] = lab.hosts() else { bail!("two hosts") };
    two.docker(&["swarm", "join", "--token", &token(one, "worker")?, "10.99.0.1:2377"])?;
    nodes_are(one, "both nodes are ready", &["Ready Leader", "Ready"])?;
    create(one, "web", 2, &["-p", "8080:80"])?;
    wait_running(one, "web", 2)?;
    let both = || {
        let seen = answers(&lab, "http://10.99.0.1:8080/", 10)?;
        ensure!(seen.len() == 2, "{seen:?}");
        Ok(())
    };
    eventually("both replicas answer", LONG, both)?;
    let containers = two.docker(&["ps", "-q", "--no-trunc"])?;

    two.exec(&["ip", "addr", "del", "10.99.0.2/24", "dev", "eth0"])?;
    two.exec(&["ip", "addr", "add", "10.99.0.22/24", "dev", "eth0"])?;
    eventually("the swarm knows the new address", LONG, || {
        let shown =
            one.docker(&["node", "inspect", "-f", "{{.Status.Addr}} {{.Status.State}}", &two.name])?;
        ensure!(shown.trim() == "10.99.0.22 ready", "{shown}");
        Ok(())
    })?;
    eventually("both replicas answer again", LONG, both)?;
    let known = two.docker(&["info", "-f", "{{.Swarm.NodeAddr}}"])?;
    ensure!(known.trim() == "10.99.0.22", "{known}");
    ensure!(two.docker(&["ps", "-q", "--no-trunc"])? == containers, "the same container runs");
    lab.down()
}

/// Takes a host from one address to another.
fn moves(host: &Host, from: &str, to: &str) -> Result<()> {
    host.exec(&["ip", "addr", "del", &format!("{from}/24"), "dev", "eth0"])?;
    host.exec(&["ip", "addr", "add", &format!("{to}/24"), "dev", "eth0"]).map(drop)
}

/// Every manager is in reach, at these addresses.
fn managers_are(asked: &Host, wanted: &[&str]) -> Result<()> {
    let wanted: Vec<String> = wanted.iter().map(|w| format!("{w}:2377")).collect();
    eventually(&format!("managers are at {wanted:?}"), LONG, || {
        let nodes = asked.docker(&["node", "ls", "-q"])?;
        let format = "{{if .ManagerStatus}}{{.ManagerStatus.Reachability}} {{.ManagerStatus.Addr}} {{.Status.State}}{{end}}";
        let nodes: Vec<&str> = nodes.lines().collect();
        let shown = asked.docker(&[&["node", "inspect", "-f", format][..], &nodes].concat())?;
        let mut seen: Vec<_> = shown.lines().filter(|l| !l.is_empty()).collect();
        seen.sort_unstable();
        let wanted: Vec<String> = wanted.iter().map(|w| format!("reachable {w} ready")).collect();
        ensure!(seen == wanted, "{seen:?}");
        Ok(())
    })
}

#[test]
fn managers_whose_addresses_change_find_each_other() -> Result<()> {
    let lab = hosts("remanage", 3)?;
    let [one, two, three] = lab.hosts() else { bail!("three hosts") };
    one.docker(&["swarm", "init"])?;
    // Nobody is held for dead on a busy machine.
    one.docker(&["swarm", "update", "--dispatcher-heartbeat", "10s"])?;
    let manager = token(one, "manager")?;
    for host in [two, three] {
        host.docker(&["swarm", "join", "--token", &manager, "10.99.0.1:2377"])?;
    }
    managers_are(one, &["10.99.0.1", "10.99.0.2", "10.99.0.3"])?;
    create(one, "web", 3, &["-p", "8080:80"])?;
    wait_running(one, "web", 3)?;
    let all = |at: &str| {
        eventually("all replicas answer", LONG, || {
            let seen = answers(&lab, &format!("http://{at}:8080/"), 12)?;
            ensure!(seen.len() == 3, "{seen:?}");
            Ok(())
        })
    };
    all("10.99.0.1")?;
    let before = one.docker(&["service", "ps", "-q", "web"])?;

    // One that follows, then the one that leads, each with the others asked.
    moves(three, "10.99.0.3", "10.99.0.33")?;
    managers_are(one, &["10.99.0.1", "10.99.0.2", "10.99.0.33"])?;
    moves(one, "10.99.0.1", "10.99.0.11")?;
    managers_are(two, &["10.99.0.11", "10.99.0.2", "10.99.0.33"])?;
    all("10.99.0.11")?;

    // More than a quorum can lack: the one that stays is what the others have in common.
    moves(one, "10.99.0.11", "10.99.0.12")?;
    moves(three, "10.99.0.33", "10.99.0.34")?;
    managers_are(two, &["10.99.0.12", "10.99.0.2", "10.99.0.34"])?;
    all("10.99.0.34")?;

    // All of them at once know nothing of each other, until somebody names one.
    moves(one, "10.99.0.12", "10.99.0.13")?;
    moves(two, "10.99.0.2", "10.99.0.23")?;
    moves(three, "10.99.0.34", "10.99.0.35")?;
    for host in [two, three] {
        host.skep(&["swarm", "readdress", "--manager", "10.99.0.13"])?;
    }
    managers_are(three, &["10.99.0.13", "10.99.0.23", "10.99.0.35"])?;
    all("10.99.0.23")?;
    ensure!(one.docker(&["service", "ps", "-q", "web"])? == before, "the same tasks");

    // What was moved makes up the quorum, also with daemons that start anew.
    two.stop_daemon("-TERM")?;
    one.docker(&["service", "update", "-d", "--label-add", "a=b", "web"])?;
    three.stop_daemon("-TERM")?;
    two.start_daemon()?;
    three.start_daemon()?;
    managers_are(three, &["10.99.0.13", "10.99.0.23", "10.99.0.35"])?;
    let kept = three.docker(&["service", "inspect", "-f", "{{.Spec.Labels}}", "web"])?;
    ensure!(kept.trim() == "map[a:b]", "{kept}");
    lab.down()
}

#[test]
fn an_address_that_was_named_changes_by_command() -> Result<()> {
    let lab = hosts("readdress", 2)?;
    let [one, two] = lab.hosts() else { bail!("two hosts") };
    let bare = |host: &Host, args: &[&str], why: &str| -> Result<()> {
        let error = host.skep(&[&["swarm", "readdress"][..], args].concat()).expect_err("refused");
        ensure!(format!("{error:#}").contains(why), "{error:#}");
        Ok(())
    };
    bare(one, &["--manager", "10.99.0.1"], "not part of a swarm")?;
    one.docker(&["swarm", "init", "--advertise-addr", "10.99.0.1", "--listen-addr", "10.99.0.1:2377"])?;
    let worker = token(one, "worker")?;
    two.docker(&["swarm", "join", "--token", &worker, "--advertise-addr", "10.99.0.2", "10.99.0.1:2377"])?;
    nodes_are(one, "both nodes are ready", &["Ready Leader", "Ready"])?;
    create(one, "web", 2, &["-p", "8080:80"])?;
    wait_running(one, "web", 2)?;
    bare(one, &[], "nothing is to change")?;
    bare(one, &["--advertise-addr", "eth9"], "eth9")?;
    bare(two, &["--manager", "10.99.0.1:x"], "10.99.0.1:x")?;

    // A worker.
    moves(two, "10.99.0.2", "10.99.0.22")?;
    two.skep(&["swarm", "readdress", "--advertise-addr", "eth0"])?;
    eventually("the swarm knows the new address", LONG, || {
        let shown =
            one.docker(&["node", "inspect", "-f", "{{.Status.Addr}} {{.Status.State}}", &two.name])?;
        ensure!(shown.trim() == "10.99.0.22 ready", "{shown}");
        Ok(())
    })?;
    // The only manager, which listened on that address alone: its workers are told where it is.
    moves(one, "10.99.0.1", "10.99.0.11")?;
    one.skep(&["swarm", "readdress", "--advertise-addr", "10.99.0.11"])?;
    managers_are(one, &["10.99.0.11"])?;
    two.skep(&["swarm", "readdress", "--manager", "10.99.0.11"])?;
    nodes_are(one, "both nodes are ready again", &["Ready Leader", "Ready"])?;
    for at in ["10.99.0.11", "10.99.0.22"] {
        eventually("both replicas answer", LONG, || {
            let seen = answers(&lab, &format!("http://{at}:8080/"), 10)?;
            ensure!(seen.len() == 2, "{seen:?}");
            Ok(())
        })?;
    }
    let token = one.docker(&["swarm", "join-token", "worker"])?;
    ensure!(token.contains("10.99.0.11:2377"), "{token}");
    lab.down()
}

/// Says to the node at `to` where a manager is, with the certificate of `as_whom`; what gRPC answers with.
fn tell(from: &Host, as_whom: Option<&Host>, to: &str, manager: &str) -> Result<String> {
    let field = [&[0x0a, u8::try_from(manager.len())?], manager.as_bytes()].concat();
    let frame = [&[0][..], &u32::try_from(field.len())?.to_be_bytes(), &field].concat();
    let body = from.dir.join("whereabouts");
    std::fs::write(&body, frame)?;
    let (body, url) =
        (format!("@{}", body.display()), format!("https://{to}:7946/skep.v1.Whereabouts/Managers"));
    let own = as_whom.map(|host| host.dir.join("data/swarm/identity/node.pem").display().to_string());
    let certificate = own.iter().flat_map(|own| ["--cert", own, "--key", own]);
    let rest = ["-H", "content-type: application/grpc", "-H", "te: trailers", "--data-binary", &body, &url];
    let curl = ["curl", "-sSk", "--http2", "--max-time", "5", "-D", "-", "-o", "/dev/null"];
    let curl: Vec<&str> = curl.into_iter().chain(certificate).chain(rest).collect();
    let headers = from.exec(&curl)?;
    let status = headers.lines().find_map(|l| l.strip_prefix("grpc-status: "));
    Ok(status.with_context(|| headers.clone())?.trim().to_owned())
}

#[test]
fn workers_of_the_only_manager_are_told_its_new_address_by_it_and_by_nobody_else() -> Result<()> {
    let lab = hosts("alone", 4)?;
    let [one, two, three, four] = lab.hosts() else { bail!("four hosts") };
    one.docker(&["swarm", "init"])?;
    // Nobody is held for dead on a busy machine: all are told before that.
    one.docker(&["swarm", "update", "--dispatcher-heartbeat", "10s"])?;
    let worker = token(one, "worker")?;
    for host in [two, three] {
        host.docker(&["swarm", "join", "--token", &worker, "10.99.0.1:2377"])?;
    }
    let ready = ["Ready Leader", "Ready", "Ready"];
    nodes_are(one, "three nodes are ready", &ready)?;
    four.docker(&["swarm", "init"])?;
    create(one, "web", 2, &["-p", "8080:80", "--constraint", "node.role==worker"])?;
    wait_running(one, "web", 2)?;
    let tasks = one.docker(&["service", "ps", "-q", "web"])?;

    // Whoever has no certificate, another swarm's, or a worker's, is not heard.
    let (to, wrong) = ("10.99.0.3", "10.99.0.4:2377");
    for (who, as_whom) in [("nobody", None), ("another swarm's manager", Some(four))] {
        let told = tell(four, as_whom, to, wrong);
        ensure!(!told.as_ref().is_ok_and(|status| status == "0"), "{who}: {told:?}");
    }
    ensure!(tell(two, Some(two), to, wrong)? == "7", "a worker: permission denied");
    ensure!(tell(one, Some(one), to, "nowhere")? == "3", "no address: invalid argument");
    // A manager that errs leads nobody astray: who is found there has another swarm's certificate.
    ensure!(tell(one, Some(one), to, wrong)? == "0", "a manager");

    moves(one, "10.99.0.1", "10.99.0.11")?;
    managers_are(one, &["10.99.0.11"])?;
    let knows = |host: &Host, manager: &str| {
        eventually("the worker knows where the manager is", LONG, || {
            let known = host.docker(&["info", "-f", "{{range .Swarm.RemoteManagers}}{{.Addr}} {{end}}"])?;
            ensure!(known.trim() == manager, "{known}");
            Ok(())
        })
    };
    for host in [two, three] {
        knows(host, "10.99.0.11:2377")?;
    }
    nodes_are(one, "three nodes are ready again", &ready)?;
    ensure!(one.docker(&["service", "ps", "-q", "web"])? == tasks, "the same tasks");
    one.docker(&["service", "scale", "-d", "web=4"])?;
    wait_running(one, "web", 4)?;

    // And under a daemon that was not running when its address changed.
    one.stop_daemon("-TERM")?;
    moves(one, "10.99.0.11", "10.99.0.12")?;
    one.start_daemon()?;
    for host in [two, three] {
        knows(host, "10.99.0.12:2377")?;
    }
    nodes_are(one, "three nodes are ready once more", &ready)?;
    eventually("all replicas answer", LONG, || {
        let seen = answers(&lab, "http://10.99.0.12:8080/", 16)?;
        ensure!(seen.len() == 4, "{seen:?}");
        Ok(())
    })?;
    lab.down()
}
