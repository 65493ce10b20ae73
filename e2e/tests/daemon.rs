//! A daemon as its operator sees it: TLS with client certificates on its TCP socket, metrics for Prometheus, and its
//! configuration read again on SIGHUP.

use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};
use skep_e2e::{Exposition, Host, Lab, LabOptions, busybox_image, eventually};

const LONG: Duration = Duration::from_secs(60);
const METRICS: &str = "127.0.0.1:9323";
const ADDRESS: &str = "tcp://127.0.0.1:2376";

/// A CA, and a certificate of it for a daemon and for a client, under the names Docker gives them.
fn certificates(dir: &Path) -> Result<()> {
    let mut authority = CertificateParams::new(Vec::<String>::new())?;
    authority.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let ca_key = KeyPair::generate()?;
    let ca = authority.self_signed(&ca_key)?;
    let issuer = Issuer::new(authority, ca_key);
    for (name, prefix) in [("server", "server-"), ("client", "")] {
        let key = KeyPair::generate()?;
        let names = vec!["127.0.0.1".to_owned(), name.to_owned()];
        let certificate = CertificateParams::new(names)?.signed_by(&key, &issuer)?;
        std::fs::write(dir.join(format!("{prefix}cert.pem")), certificate.pem())?;
        std::fs::write(dir.join(format!("{prefix}key.pem")), key.serialize_pem())?;
    }
    std::fs::write(dir.join("ca.pem"), ca.pem())?;
    Ok(())
}

/// A client inside the host, with no settings but these.
fn ask(host: &Host, client: &Path, certs: Option<&Path>, args: &[&str]) -> Result<Output> {
    let mut command = host.command(client)?;
    for name in ["DOCKER_HOST", "SKEP_HOST", "DOCKER_TLS_VERIFY", "DOCKER_CERT_PATH"] {
        command.env_remove(name);
    }
    command.env("DOCKER_CONFIG", host.dir.join("docker-config"));
    if let Some(certs) = certs {
        command.env("DOCKER_TLS_VERIFY", "1").env("DOCKER_CERT_PATH", certs);
    }
    Ok(command.args(["-H", ADDRESS]).args(args).stdin(Stdio::null()).output()?)
}

/// The daemon, now a manager, in figures.
fn metrics(host: &Host, docker: impl Fn(&[&str]) -> Result<Output>) -> Result<()> {
    let archive = host.dir.join("busybox.tar");
    busybox_image(&["sh", "sleep", "true", "false"], &archive)?;
    for args in [
        &["import", &archive.display().to_string(), "busybox"] as &[&str],
        &[
            "run",
            "-d",
            "--name",
            "mm",
            "--health-cmd=false",
            "--health-interval=100ms",
            "busybox",
            "sleep",
            "1000",
        ],
        &["create", "busybox", "true"],
        &["service", "create", "-d", "--name", "s", "--no-resolve-image", "busybox", "sleep", "1000"],
    ] {
        let out = docker(args)?;
        ensure!(out.status.success(), "{args:?}: {out:?}");
    }
    let curl = |path: &str, more: &[&str]| {
        let url = format!("http://{METRICS}{path}");
        host.exec(&[&["curl", "-sS", "--max-time", "30", &url], more].concat())
    };
    let head = curl("/metrics", &["-I"])?;
    ensure!(head.contains("content-type: text/plain; version=0.0.4"), "{head}");
    ensure!(curl("/", &["-i"])?.starts_with("HTTP/1.1 404"));
    ensure!(curl("/metrics", &["-i", "-X", "POST"])?.starts_with("HTTP/1.1 405"));
    eventually("all is counted", LONG, || {
        let text = curl("/metrics", &[])?;
        let all = Exposition::parse(&text).with_context(|| text.clone())?;
        let is = |name: &str, labels: &[(&str, &str)], wanted: f64| {
            let value = all.value(name, labels)?;
            ensure!(value == wanted, "{name} {labels:?} is {value}, not {wanted}");
            Ok(())
        };
        is("engine_daemon_container_states_containers", &[("state", "running")], 2.0)?;
        is("engine_daemon_container_states_containers", &[("state", "stopped")], 1.0)?;
        is("engine_daemon_container_actions_seconds_count", &[("action", "create")], 3.0)?;
        is("engine_daemon_container_actions_seconds_count", &[("action", "start")], 2.0)?;
        is("engine_daemon_network_actions_seconds_count", &[("action", "allocate")], 2.0)?;
        is("engine_daemon_engine_info", &[("os_type", "linux")], 1.0)?;
        is("swarm_manager_leader", &[], 1.0)?;
        is("swarm_node_manager", &[], 1.0)?;
        is("skep_node_session", &[], 1.0)?;
        is("swarm_manager_nodes", &[("state", "ready")], 1.0)?;
        is("swarm_manager_tasks_total", &[("state", "running")], 1.0)?;
        is("swarm_manager_services_total", &[], 1.0)?;
        is("swarm_dispatcher_scheduling_delay_seconds_count", &[], 1.0)?;
        is("skep_raft_members", &[("part", "voter")], 1.0)?;
        is("skep_raft_has_leader", &[], 1.0)?;
        is("skep_network_reconciliations_failed_total", &[], 0.0)?;
        for (name, least) in [
            ("engine_daemon_engine_cpus_cpus", 1.0),
            ("engine_daemon_engine_memory_bytes", 1e6),
            ("engine_daemon_events_total", 5.0),
            ("engine_daemon_health_checks_failed_total", 1.0),
            ("engine_daemon_health_check_start_duration_seconds_count", 1.0),
            ("swarm_raft_transaction_latency_seconds_count", 3.0),
            ("swarm_store_write_tx_latency_seconds_count", 3.0),
            ("skep_raft_applied_index", 3.0),
            ("process_open_fds", 5.0),
            ("process_resident_memory_bytes", 1e6),
        ] {
            let value = all.value(name, &[])?;
            ensure!(value >= least, "{name} is {value}, less than {least}");
        }
        let checks = all.value("engine_daemon_health_checks_total", &[])?;
        ensure!(checks >= all.value("engine_daemon_health_checks_failed_total", &[])?);
        Ok(())
    })?;
    let out = docker(&["service", "rm", "s"])?;
    ensure!(out.status.success(), "{out:?}");
    let out = docker(&["rm", "-f", "mm"])?;
    ensure!(out.status.success(), "{out:?}");
    eventually("the service's container is gone", LONG, || {
        let out = docker(&["ps", "-q"])?;
        ensure!(out.stdout.is_empty(), "{out:?}");
        Ok(())
    })
}

#[test]
fn tcp_is_for_clients_with_a_certificate_and_sighup_reads_the_configuration_again() -> Result<()> {
    let init = PathBuf::from(env!("CARGO_BIN_EXE_skep-lab-init"));
    let skep = init.with_file_name("skep");
    let name = format!("da{}", std::process::id() % 10_000);
    // The laboratory lends its host's namespaces; that host's own daemon stays idle beside ours.
    let lab = Lab::up(LabOptions { name, hosts: 1, skep: skep.clone(), init })?;
    let host = lab.host(1);
    let dir = host.dir.join("tls");
    std::fs::create_dir(&dir)?;
    certificates(&dir)?;
    let (at, file) = (|name: &str| dir.join(name).display().to_string(), dir.join("daemon.toml"));
    std::fs::write(&file, "labels = [\"zone=a\"]\n")?;
    let mut command: Command = host.command(&skep)?;
    command.args([
        "daemon",
        "--tlsverify",
        "-H",
        ADDRESS,
        "--metrics-addr",
        METRICS,
        "--data-root",
        &at("data"),
        "--exec-root",
        &at("exec"),
    ]);
    command.args([
        "--tlscacert",
        &at("ca.pem"),
        "--tlscert",
        &at("server-cert.pem"),
        "--tlskey",
        &at("server-key.pem"),
    ]);
    let log = std::fs::File::create(dir.join("daemon.log"))?;
    command.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log);
    let mut daemon = command.arg("--config-file").arg(&file).spawn()?;

    let clients = [Path::new("docker"), skep.as_path()];
    eventually("it answers", LONG, || {
        let out = ask(host, clients[0], Some(&dir), &["version", "-f", "{{.Server.Version}}"])?;
        ensure!(out.status.success(), "{out:?}");
        Ok(())
    })?;
    let labels = |client: &Path| -> Result<String> {
        let out = ask(host, client, Some(&dir), &["info", "-f", "{{json .Labels}}"])?;
        ensure!(out.status.success(), "{out:?}");
        Ok(String::from_utf8_lossy(&out.stdout).trim().to_owned())
    };
    for client in clients {
        ensure!(labels(client)? == "[\"zone=a\"]", "{}", labels(client)?);
        let out = ask(host, client, None, &["ps"])?;
        let said = String::from_utf8_lossy(&out.stderr).into_owned();
        ensure!(
            !out.status.success() && said.contains("Client sent an HTTP request to an HTTPS server"),
            "{out:?}"
        );
        // Encrypted, but nobody known.
        let ca = at("ca.pem");
        for args in [&["ps"][..], &["version", "-f", "{{.Server.Version}}"]] {
            let out = ask(host, client, None, &[&["--tls", "--tlscacert", &ca][..], args].concat())?;
            let said = String::from_utf8_lossy(&out.stderr).to_lowercase();
            ensure!(!out.status.success() && out.stdout.trim_ascii().is_empty(), "{out:?}");
            ensure!(said.contains("tls: certificate required") && !said.contains("template"), "{out:?}");
        }
    }
    // A daemon that this CA does not know.
    let other = host.dir.join("other");
    std::fs::create_dir(&other)?;
    certificates(&other)?;
    for client in clients {
        let out = ask(host, client, Some(&other), &["ps"])?;
        ensure!(!out.status.success() && out.stdout.is_empty(), "{out:?}");
    }

    // A context has the files of its own, made by either client.
    for (by, name) in clients.iter().zip(["theirs", "ours"]) {
        let files =
            format!("host={ADDRESS},ca={},cert={},key={}", at("ca.pem"), at("cert.pem"), at("key.pem"));
        let context = |client: &Path, args: &[&str]| -> Result<Output> {
            let mut command = host.command(client)?;
            for name in ["DOCKER_HOST", "SKEP_HOST", "DOCKER_TLS_VERIFY", "DOCKER_CERT_PATH"] {
                command.env_remove(name);
            }
            Ok(command.env("DOCKER_CONFIG", host.dir.join("docker-config")).args(args).output()?)
        };
        let out = context(by, &["context", "create", name, "--docker", &files])?;
        ensure!(out.status.success(), "{out:?}");
        for client in clients {
            let out = context(client, &["--context", name, "info", "-f", "{{json .Labels}}"])?;
            ensure!(out.stdout == b"[\"zone=a\"]\n", "{out:?}");
        }
    }

    let pid = std::fs::read_to_string(dir.join("exec/skep.pid"))?;
    std::fs::write(&file, "labels = [\"zone=b\"]\nlog-level = \"debug\"\n")?;
    host.exec(&["kill", "-HUP", pid.trim()])?;
    eventually("the new label is shown", LONG, || {
        let shown = labels(&skep)?;
        ensure!(shown == "[\"zone=b\"]", "{shown}");
        let out = ask(host, clients[0], Some(&dir), &["info", "-f", "{{.Debug}}"])?;
        ensure!(out.stdout == b"true\n", "{out:?}");
        Ok(())
    })?;
    // Registries too, and what the swarm knows of this engine.
    let out = ask(host, clients[0], Some(&dir), &["swarm", "init", "--advertise-addr", "127.0.0.1"])?;
    ensure!(out.status.success(), "{out:?}");
    let more = "labels = [\"zone=c\"]\ninsecure-registries = [\"reg.example:5000\"]\nregistry-mirrors = [\"http://mirror.example\"]\n";
    std::fs::write(&file, more)?;
    host.exec(&["kill", "-HUP", pid.trim()])?;
    eventually("the new registries are shown", LONG, || {
        let format = "{{json .RegistryConfig.Mirrors}} {{json .RegistryConfig.IndexConfigs}}";
        let out = ask(host, clients[0], Some(&dir), &["info", "-f", format])?;
        let shown = String::from_utf8_lossy(&out.stdout).into_owned();
        ensure!(shown.contains("http://mirror.example/") && shown.contains("reg.example:5000"), "{shown}");
        Ok(())
    })?;
    eventually("the swarm knows the new label", LONG, || {
        let format = "{{json .Description.Engine.Labels}}";
        let out = ask(host, clients[0], Some(&dir), &["node", "inspect", "self", "-f", format])?;
        let shown = String::from_utf8_lossy(&out.stdout).into_owned();
        ensure!(shown.trim() == "{\"zone\":\"c\"}", "{shown}");
        Ok(())
    })?;
    metrics(host, |args| ask(host, clients[0], Some(&dir), args))?;
    // What cannot be read changes nothing and ends nothing.
    std::fs::write(&file, "colour = \"red\"\n")?;
    host.exec(&["kill", "-HUP", pid.trim()])?;
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH)?.as_secs();
    let until = (now + 1).to_string();
    let events = ask(host, clients[0], Some(&dir), &["events", "--since", "1", "--until", &until])?;
    ensure!(String::from_utf8_lossy(&events.stdout).contains("daemon reload"), "{events:?}");
    ensure!(labels(&skep)? == "[\"zone=c\"]");
    host.exec(&["kill", pid.trim()])?;
    ensure!(daemon.wait().context("the daemon")?.success());
    lab.down()
}
