//! What is wrong is refused with the status a client expects, by name, with what to do, and nothing is lost.

use std::io::{ErrorKind, Read, Write};
use std::os::unix::net::UnixStream;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use skep_e2e::swarm::{LONG, begun, create, join, nodes_are, path, refused, running, token, wait_running};
use skep_e2e::{Answer, Host, eventually};

#[test]
fn a_join_that_cannot_be_says_what_is_wrong_with_token_or_address() -> Result<()> {
    let lab = begun("badjoin", 3)?;
    let [one, two, three] = lab.hosts() else { bail!("three hosts") };
    let worker = token(one, "worker")?;
    let at = "10.99.0.1:2377";
    let joined = |token: &str, addr: &str, words: &[&str]| {
        refused(two, &["swarm", "join", "--token", token, addr], words)
    };
    joined("nonsense", at, &["invalid join token", "SWMTKN-1-"])?;
    joined(&worker[..worker.len() - 3], at, &["invalid join token"])?;
    let (stem, secret) = worker.rsplit_once('-').context("a secret")?;
    let wrong: String = secret.chars().rev().collect();
    joined(&format!("{stem}-{wrong}"), at, &["refused the join token", "docker swarm join-token"])?;
    three.docker(&["swarm", "init", "--advertise-addr", &three.addr])?;
    joined(&token(three, "worker")?, at, &["another swarm"])?;
    one.docker(&["swarm", "join-token", "-q", "--rotate", "manager"])?;

    joined(&worker, "10.99.0.1:9", &["cannot connect to 10.99.0.1:9", "manager"])?;
    joined(&worker, "not/an/address", &["not/an/address", "host name"])?;
    joined(&worker, "10.99.0.1:port", &["port is not a number"])?;
    let http = one.hold_port(8000)?;
    joined(&worker, "10.99.0.1:8000", &["10.99.0.1:8000 is not a swarm manager", "2377"])?;
    one.exec(&["kill", &http])?;

    // Nothing of the failed attempts is in the way; and a worker's address is no manager's.
    let state = two.docker(&["info", "-f", "{{.Swarm.LocalNodeState}}"])?;
    ensure!(state.trim() == "inactive", "{state}");
    three.docker(&["swarm", "leave", "--force"])?;
    join(three, &worker, at)?;
    joined(&worker, "10.99.0.3:2377", &["cannot connect to 10.99.0.3:2377"])?;
    join(two, &worker, at)?;
    nodes_are(one, "two workers", &["Ready Leader", "Ready", "Ready"])?;
    a_worker_may_not_do_a_managers_work(one, two)?;
    a_refusal_waits_for_the_body(one)?;
    lab.down()
}

/// A client that is answered while it writes gets to see a broken pipe, and not the answer.
fn a_refusal_waits_for_the_body(host: &Host) -> Result<()> {
    let mut api = UnixStream::connect(host.socket())?;
    api.write_all(
        b"POST /containers/create?platform=linux/s390x/no/such HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\
          Content-Type: application/json\r\nContent-Length: 2\r\n\r\n",
    )?;
    api.set_read_timeout(Some(Duration::from_millis(300)))?;
    let early = api.read(&mut [0]).map_err(|e| e.kind());
    ensure!(early == Err(ErrorKind::WouldBlock), "{early:?}");
    api.set_read_timeout(Some(LONG))?;
    api.write_all(b"{}")?;
    let mut answer = String::new();
    api.read_to_string(&mut answer)?;
    ensure!(answer.starts_with("HTTP/1.1 400 ") && answer.contains("linux/s390x/no/such"), "{answer}");
    Ok(())
}

/// A worker's certificate opens no manager's service.
fn a_worker_may_not_do_a_managers_work(manager: &Host, worker: &Host) -> Result<()> {
    let identity = worker.dir.join("data/swarm/identity");
    let pem: String = std::fs::read_dir(&identity)?
        .filter_map(|entry| std::fs::read_to_string(entry.ok()?.path()).ok())
        .collect();
    let part = |kind: &str| -> Result<String> {
        let (begin, end) = (format!("-----BEGIN {kind}-----"), format!("-----END {kind}-----"));
        let from = pem.find(&begin).with_context(|| format!("no {kind} in {}", identity.display()))?;
        let to = pem[from..].find(&end).context("its end")? + from + end.len();
        Ok(format!("{}\n", &pem[from..to]))
    };
    let (cert, key) = (worker.dir.join("cert.pem"), worker.dir.join("key.pem"));
    std::fs::write(&cert, part("CERTIFICATE")?)?;
    std::fs::write(&key, part("PRIVATE KEY")?)?;
    let url = format!("https://{}:2377/skep.v1.Control/ListNodes", manager.addr);
    let answer = worker.exec(&[
        "curl",
        "-sS",
        "-i",
        "-k",
        "--http2",
        "--tlsv1.3",
        "--max-time",
        "10",
        "--cert",
        path(&cert),
        "--key",
        path(&key),
        "-H",
        "content-type: application/grpc",
        "-H",
        "te: trailers",
        "--data",
        "",
        &url,
    ])?;
    ensure!(answer.contains("grpc-status: 7") && answer.contains("swarm-manager"), "{answer}");
    Ok(())
}

fn is(answer: &Answer, status: u16, words: &[&str]) -> Result<()> {
    ensure!(answer.status == status && words.iter().all(|w| answer.body.contains(w)), "{answer:?}");
    let message: serde_json::Value = serde_json::from_str(&answer.body)?;
    ensure!(message["message"].is_string(), "{}", answer.body);
    Ok(())
}

/// Body of a service with these replicas and ports.
fn service(name: &str, replicas: &str, image: &str, more: &str) -> String {
    format!(
        r#"{{"Name":"{name}","TaskTemplate":{{"ContainerSpec":{{"Image":"{image}"}}{more}}},"Mode":{{"Replicated":{{"Replicas":{replicas}}}}}}}"#
    )
}

#[test]
fn services_that_cannot_be_are_refused_or_say_what_they_wait_for() -> Result<()> {
    let lab = begun("badsvc", 1)?;
    let one = lab.host(1);
    create(one, "web", 1, &["-p", "8080:80"])?;
    wait_running(one, "web", 1)?;
    let create_raw = |body: &str| one.request("POST", "/v1.50/services/create", body);

    // Names.
    is(&create_raw(&service("web", "1", "whoami:1", ""))?, 409, &["web", "already exists"])?;
    for name in ["-web", "we b", "w/b", &"x".repeat(64)] {
        is(&create_raw(&service(name, "1", "whoami:1", ""))?, 400, &["name"])?;
    }
    refused(one, &["network", "create", "-d", "overlay", "ingress"], &["ingress", "already exists"])?;
    refused(one, &["network", "create", "-d", "overlay", "a b"], &["a b"])?;
    refused(one, &["network", "create", "-d", "overlay", "--subnet", "10.0.0.0/99", "n"], &["10.0.0.0/99"])?;
    is(&one.request("GET", "/v1.50/services/nothing", "")?, 404, &["nothing"])?;
    is(&one.request("DELETE", "/v1.50/services/nothing", "")?, 404, &["nothing"])?;
    is(&one.request("DELETE", "/v1.50/nodes/nobody", "")?, 404, &["nobody"])?;
    is(&one.request("DELETE", "/v1.50/networks/nowhere", "")?, 404, &["nowhere"])?;

    // Counts.
    is(&create_raw(&service("n", "-1", "whoami:1", ""))?, 400, &["Replicas"])?;
    is(&create_raw(&service("n", "1.5", "whoami:1", ""))?, 400, &["Replicas"])?;
    is(&create_raw(&service("n", "99999999999", "whoami:1", ""))?, 400, &["99999999999", "1000000"])?;
    is(&create_raw(&service("n", "99999999999999999999999", "whoami:1", ""))?, 400, &["Replicas"])?;
    refused(one, &["service", "scale", "web=-1"], &["-1"])?;
    create(one, "none", 0, &[])?;
    let none = one.docker(&["service", "ls", "--filter", "name=none", "--format", "{{.Replicas}}"])?;
    ensure!(none.trim() == "0/0", "{none}");

    // What is not there.
    is(
        &create_raw(&service("n", "1", "whoami:1", r#","Networks":[{"Target":"nowhere"}]"#))?,
        404,
        &["nowhere", "not found"],
    )?;
    create_absent(one)?;

    // Ports.
    let ports = r#","EndpointSpec":{"Ports":[{"TargetPort":80,"PublishedPort":8080}]}"#;
    let taken = service("n", "1", "whoami:1", "").replace(r#","Mode""#, &format!(r#"{ports},"Mode""#));
    is(&create_raw(&taken)?, 400, &["8080", "web"])?;
    is(&create_raw(&taken.replace("8080", "70000"))?, 400, &["70000"])?;
    a_port_of_the_host_is_taken(one)?;

    // A placement that nothing satisfies waits, and says what each node lacks.
    create(one, "lost", 1, &["--constraint", "node.labels.disk==ssd"])?;
    create(one, "huge", 1, &["--reserve-memory", "900g"])?;
    for (service, words) in [("lost", "does not match node.labels.disk==ssd"), ("huge", "900 GiB of memory")]
    {
        eventually("the reason is shown", LONG, || {
            let task = task(one, service)?;
            ensure!(task.starts_with("Pending") && task.contains(words) && task.contains("1 of 1"), "{task}");
            Ok(())
        })?;
    }
    is(
        &create_raw(&service("n", "1", "whoami:1", r#","Placement":{"Constraints":["nonsense"]}"#))?,
        400,
        &["nonsense"],
    )?;

    // Updates of something that changed meanwhile.
    let inspected = one.docker(&["service", "inspect", "-f", "{{.ID}} {{.Version.Index}}", "web"])?;
    let (id, version) = inspected.trim().split_once(' ').context("ID and version")?;
    one.docker(&["service", "update", "-d", "--label-add", "a=1", "web"])?;
    let update = format!("/v1.50/services/{id}/update?version={version}");
    let body = service("web", "9", "whoami:1", "");
    is(&one.request("POST", &update, &body)?, 409, &["update out of sequence", "web", version])?;
    is(&one.request("POST", &update.replace(version, "x"), &body)?, 400, &["version"])?;
    let inspected = one.docker(&["node", "inspect", "-f", "{{.ID}} {{.Version.Index}}", "self"])?;
    let (node, version) = inspected.trim().split_once(' ').context("ID and version")?;
    one.docker(&["node", "update", "--label-add", "a=1", node])?;
    let drain = r#"{"Role":"manager","Availability":"drain"}"#;
    for version in [version, "999999999"] {
        let update = format!("/v1.50/nodes/{node}/update?version={version}");
        is(&one.request("POST", &update, drain)?, 409, &["update out of sequence", node, version])?;
    }

    // Bodies that are no requests.
    for body in ["", "{", "[]", r#"{"Name":7}"#, r#"{"Nmae":"x"}"#] {
        let answer = create_raw(body)?;
        is(&answer, 400, &[])?;
    }
    is(
        &one.request("GET", "/v1.50/services?filters=%7B%22colour%22:%5B%22red%22%5D%7D", "")?,
        400,
        &["colour"],
    )?;
    ensure!(running(one, "web")?.len() == 1, "and web runs on");
    lab.down()
}

/// Everything that users have made.
fn made(host: &Host) -> Result<String> {
    let mut all = String::new();
    for kind in ["services", "secrets", "configs", "networks", "nodes"] {
        let listed: serde_json::Value =
            serde_json::from_str(&host.request("GET", &format!("/v1.50/{kind}"), "")?.body)?;
        // A node says of itself again and again; only what it is to be counts.
        let listed = listed.as_array().into_iter().flatten();
        listed.for_each(|o| all.push_str(&format!("{} {}\n", o["ID"], o["Spec"])));
    }
    Ok(all)
}

#[test]
fn what_contradicts_itself_or_is_too_large_is_refused_and_nothing_changes() -> Result<()> {
    let lab = begun("badset", 1)?;
    let one = lab.host(1);
    let file = |name: &str, size: usize| -> Result<std::path::PathBuf> {
        let file = one.dir.join(name);
        std::fs::write(&file, vec![b'x'; size])?;
        Ok(file)
    };
    let (largest, secret) = (file("largest", 500 * 1024 - 1)?, file("secret", 500 * 1024)?);
    let (full, config) = (file("full", 1000 * 1024)?, file("config", 1000 * 1024 + 1)?);
    one.docker(&["secret", "create", "pw", path(&largest)])?;
    one.docker(&["config", "create", "conf", path(&full)])?;
    one.docker(&["network", "create", "-d", "overlay", "--subnet", "10.77.0.0/24", "net1"])?;
    create(one, "web", 1, &["--network", "net1", "--secret", "pw", "--config", "conf"])?;
    wait_running(one, "web", 1)?;
    let before = made(one)?;
    let command = |line: &str, words: &[&str]| {
        let args = skep_e2e::tally::words(line);
        refused(one, &args.iter().map(String::as_str).collect::<Vec<_>>(), words)
    };
    command(&format!("secret create big {}", path(&secret)), &["secret data", "less than 512000 bytes"])?;
    command(&format!("config create big {}", path(&config)), &["config data", "less than 1024000 bytes"])?;
    for (line, words) in [
        ("secret rm pw", &["secret 'pw' is in use by the following service: web"][..]),
        ("config rm conf", &["config 'conf' is in use by the following service: web"]),
        ("network rm net1", &["network net1 is in use by service web"]),
        ("network create -d overlay --subnet 10.77.0.128/25 net2", &["10.77.0.128/25 overlaps", "net1"]),
        ("network create -d overlay --opt colour=red net2", &["colour"]),
        ("network create -d overlay --gateway 10.78.0.9 --subnet 10.78.0.0/24 net2", &["Gateway"]),
        ("node rm NODE", &["is a cluster manager"]),
        ("node update --availability asleep NODE", &["asleep"]),
        ("node demote NODE", &["last manager"]),
    ] {
        command(&line.replace("NODE", &one.name), words)?;
    }
    // Each for a service that is made, and for one that is there.
    for (flags, words) in [
        ("--endpoint-mode dnsrr --publish@ 80:80", &["dnsrr"][..]),
        ("--no-healthcheck --health-cmd true", &["--no-healthcheck", "conflicts with --health-*"]),
        ("--health-cmd true --health-interval 1us", &["1ms"]),
        ("--reserve-memory 64m --limit-memory 32m", &["memory reservation is above the memory limit"]),
        ("--reserve-cpu 2 --limit-cpu 1", &["cpu reservation is above the cpu limit"]),
        ("--limit-memory 1m", &["4 MiB"]),
        ("--limit-pids -1", &["-1", "negative"]),
        ("--update-max-failure-ratio 1.5", &["1.5", "between 0 and 1"]),
        ("--rollback-max-failure-ratio -0.5", &["-0.5", "between 0 and 1"]),
        ("--update-order sideways", &["sideways"]),
        ("--rollback-order sideways", &["sideways"]),
        ("--update-failure-action explode", &["explode"]),
        ("--rollback-failure-action rollback", &["rollback failure action cannot be rollback"]),
        ("--update-monitor -1s", &["Monitor", "negative"]),
        ("--update-delay -1s", &["Delay", "negative"]),
        ("--restart-delay -1s", &["Delay", "negative"]),
        ("--restart-window -1s", &["Window", "negative"]),
        ("--restart-condition sometimes", &["sometimes"]),
        ("--stop-grace-period -1s", &["StopGracePeriod", "negative"]),
        ("--constraint@ node.role==king", &["a role is manager or worker"]),
        ("--constraint@ node.colour==red", &["node.colour"]),
        ("--constraint@ nonsense", &["nonsense", "no operator"]),
        ("--placement-pref@ spread=rack", &["rack", "node.labels.NAME"]),
        ("--placement-pref@ pack=node.labels.rack", &["pack"]),
        ("--publish@ published=81,target=80 --publish@ published=81,target=90", &["81"]),
        ("--publish@ published=0,target=99999", &["99999"]),
        ("--publish@ 81:80/sctp", &["SCTP"]),
        ("--publish@ mode=anywhere,published=81,target=80", &["anywhere"]),
        ("--mount@ type=tmpfs,dst=/a --mount@ type=tmpfs,dst=/a", &["/a"]),
        ("--mount@ type=bind,src=a,dst=/a", &["absolute"]),
        ("--mount@ type=teleport,dst=/a", &["teleport"]),
        ("--secret@ source=pw,target=/a --secret@ source=pw,target=/a", &["/a"]),
        ("--secret@ absent", &["absent"]),
        ("--config@ absent", &["absent"]),
        ("--network@ nowhere", &["nowhere"]),
        ("--network@ host", &["host"]),
        ("--ulimit@ nofile=60:50", &["nofile"]),
        ("--oom-score-adj 2000", &["2000", "1000"]),
        ("--log-driver splunk", &["splunk"]),
        ("--log-driver json-file --log-opt colour=red", &["colour"]),
        ("--generic-resource@ gpu=one", &["gpu"]),
        ("--isolation hyperv", &["isolation"]),
        ("--dns@ nameserver", &["nameserver"]),
        ("--host@ nonsense", &["nonsense"]),
    ] {
        let create = format!("service create -d --name new {} whoami:1", flags.replace('@', ""));
        command(&create, words)?;
        command(&format!("service update -d {} web", flags.replace('@', "-add")), words)?;
    }
    for (flags, words) in [
        ("--mode global --replicas 2", &["replicas can only be used with replicated"][..]),
        ("--mode replicated-job --update-parallelism 2", &["update"]),
        ("--mode global --max-concurrent 2", &["max-concurrent"]),
        ("--mode sideways", &["sideways"]),
        ("--name a/b", &["a/b"]),
    ] {
        command(&format!("service create -d {flags} whoami:1"), words)?;
    }
    let after = made(one)?;
    ensure!(after == before, "something changed:\n{before}{after}");
    ensure!(running(one, "web")?.len() == 1, "and web runs on");
    lab.down()
}

/// State and reason of a service's newest task.
fn task(host: &Host, service: &str) -> Result<String> {
    let format = "{{.CurrentState}} {{.Error}}";
    let tasks = host.docker(&["service", "ps", "--no-trunc", "--format", format, service])?;
    Ok(tasks.lines().next().unwrap_or_default().to_owned())
}

fn create_absent(host: &Host) -> Result<()> {
    let args =
        ["service", "create", "-d", "--name", "absent", "--restart-condition", "none", "no-such-image:1"];
    host.docker(&args)?;
    eventually("the missing image is named", LONG, || {
        let task = task(host, "absent")?;
        ensure!(task.starts_with("Rejected") && task.contains("no-such-image:1"), "{task}");
        Ok(())
    })
}

fn a_port_of_the_host_is_taken(host: &Host) -> Result<()> {
    let holder = host.hold_port(7000)?;
    refused(
        host,
        &["run", "-d", "--name", "taken", "-p", "7000:80", "whoami:1", "/skep", "whoami"],
        &["7000"],
    )?;
    create(host, "hosted", 1, &["--publish", "mode=host,published=7000,target=80"])?;
    eventually("the task says which port", LONG, || {
        let tasks = host.docker(&[
            "service",
            "ps",
            "--no-trunc",
            "--format",
            "{{.CurrentState}} {{.Error}}",
            "hosted",
        ])?;
        ensure!(tasks.lines().any(|t| t.contains("7000") && t.contains("address already in use")), "{tasks}");
        Ok(())
    })?;
    host.exec(&["kill", &holder])?;
    host.docker(&["service", "rm", "hosted"]).map(drop)
}

/// A daemon that is refused must leave what the running one has alone.
#[test]
fn a_second_daemon_on_either_root_is_refused_and_touches_nothing() -> Result<()> {
    let lab = begun("second", 1)?;
    let one = lab.host(1);
    create(one, "web", 1, &["-p", "8080:80"])?;
    wait_running(one, "web", 1)?;
    let state = || -> Result<[String; 4]> {
        Ok([
            one.exec(&["nft", "list", "ruleset"])?,
            one.exec(&["ip", "-br", "link"])?,
            std::fs::read_to_string(one.dir.join("exec/skep.pid"))?,
            one.docker(&["ps", "-q", "--no-trunc"])?,
        ])
    };
    // Counters and statistics aside, nothing changes by itself once the port answers.
    eventually("the port answers", LONG, || {
        lab.outside(&["curl", "-sS", "--max-time", "2", "http://10.99.0.1:8080/"]).map(drop)
    })?;
    let before = state()?;
    let (data, exec, other) = (one.dir.join("data"), one.dir.join("exec"), one.dir.join("other"));
    for (data, exec, says) in
        [(&data, &exec, "--data-root"), (&data, &other, "--data-root"), (&other, &exec, "--exec-root")]
    {
        let second = [
            path(&one.skep),
            "daemon",
            "--data-root",
            path(data),
            "--exec-root",
            path(exec),
            "-H",
            "tcp://127.0.0.1:0",
        ];
        let error = one.exec(&second).map(drop).expect_err("a second daemon runs");
        let text = format!("{error:#}");
        ensure!(text.contains(says) && text.contains("in use by another skep daemon (pid"), "{text}");
        ensure!(state()? == before, "the refused daemon changed something");
    }
    lab.down()
}
