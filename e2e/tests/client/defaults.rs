//! What the daemon gives containers that say nothing of it themselves, told by dockerd's own `daemon.json`'s keys.

use anyhow::{Result, ensure};
use skep_e2e::Host;

use crate::{busybox, docker, lab, ok};

const B: &str = "/bin/busybox";

fn run(host: &Host, flags: &[&str], script: &str) -> Result<String> {
    ok(docker(host, &[&["run", "--rm"], flags, &["busybox", "sh", "-c", script]].concat())?)
}

#[test]
fn containers_have_what_the_daemon_gives_unless_they_say_otherwise() -> Result<()> {
    let lab = lab("df")?;
    let host = lab.host(1);
    busybox(host)?;
    let plain = format!(
        "{B} cat /proc/1/comm; {B} grep NoNewPrivs /proc/self/status; {B} df -m /dev/shm | {B} tail -1"
    );
    let before = run(host, &[], &plain)?;
    ensure!(before.starts_with("busybox\n") || before.starts_with("sh\n"), "{before}");
    ensure!(before.contains("NoNewPrivs:\t0") && before.contains(" 64 "), "{before}");
    // Made before the daemon was told, and started after it.
    ok(docker(host, &["create", "--name", "old", "busybox", B, "cat", "/etc/resolv.conf"])?)?;

    host.stop_daemon("-TERM")?;
    let file = r#"
        init = true
        no-new-privileges = true
        default-shm-size = "8m"
        dns = ["192.0.2.53"]
        dns-search = ["corp.example"]
        dns-opts = ["ndots:3"]
        live-restore = true
        [default-ulimits.nofile]
        Name = "nofile"
        Soft = 500
        Hard = 500
    "#;
    std::fs::write(host.dir.join("daemon.toml"), file)?;
    host.start_daemon()?;
    let after = run(host, &[], &plain)?;
    ensure!(!after.starts_with("busybox\n") && !after.starts_with("sh\n"), "no init is process 1: {after}");
    ensure!(after.contains("NoNewPrivs:\t1") && after.contains(" 8 "), "{after}");
    ensure!(run(host, &[], "ulimit -n")? == "500\n");
    ensure!(ok(docker(host, &["info", "-f", "{{.SecurityOptions}}"])?)?.contains("name=no-new-privileges"));
    // By their own words.
    let own = [
        "--init=false",
        "--security-opt",
        "no-new-privileges=false",
        "--shm-size",
        "16m",
        "--ulimit",
        "nofile=700",
    ];
    let said = run(host, &own, &format!("{plain}; ulimit -n"))?;
    ensure!(said.contains("NoNewPrivs:\t0") && said.contains(" 16 ") && said.ends_with("700\n"), "{said}");
    ensure!(said.starts_with("busybox\n") || said.starts_with("sh\n"), "{said}");

    let resolv = format!("{B} cat /etc/resolv.conf");
    let lines = ["search corp.example", "options ndots:3"];
    for network in ["bridge", "host", "none"] {
        let said = run(host, &["--network", network], &resolv)?;
        ensure!(lines.iter().all(|l| said.contains(l)), "{network}: {said}");
        ensure!(network == "bridge" || said.contains("nameserver 192.0.2.53\n"), "{network}: {said}");
    }
    let said = ok(docker(host, &["start", "-a", "old"])?)?;
    ensure!(lines.iter().all(|l| said.contains(l)), "{said}");
    let said =
        run(host, &["--network", "host", "--dns", "192.0.2.9", "--dns-search", "own.example"], &resolv)?;
    ensure!(said.contains("nameserver 192.0.2.9\n") && said.contains("search own.example"), "{said}");
    ensure!(!said.contains("192.0.2.53") && said.contains("ndots:3"), "{said}");
    // What is shown is what was asked for; the size is decided when a container is made.
    ok(docker(host, &["create", "--name", "new", "busybox", "true"])?)?;
    let shown = ok(docker(host, &["inspect", "-f", "{{json .HostConfig}}", "new"])?)?;
    ensure!(shown.contains("\"Dns\":[]") && shown.contains("\"ShmSize\":8388608"), "{shown}");
    ensure!(!shown.contains("\"Init\":"), "{shown}");
    lab.down()
}
