//! `skep dev`: one command, and a single-node swarm takes services; ctrl-C ends it and what it ran.

use std::path::PathBuf;
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use skep_e2e::{Lab, LabOptions, eventually, whoami_image};

const LONG: Duration = Duration::from_secs(60);

/// Ports that a host's sockets listen on, other than on the loopback.
fn open_ports(host: &skep_e2e::Host) -> Result<Vec<u16>> {
    const LISTEN: &str = "0A";
    let mut open = Vec::new();
    for table in ["tcp", "tcp6", "udp", "udp6"] {
        let sockets = host.exec(&["cat", &format!("/proc/net/{table}")])?;
        for line in sockets.lines().skip(1) {
            let fields: Vec<_> = line.split_whitespace().collect();
            let (Some(local), Some(state)) = (fields.get(1), fields.get(3)) else { continue };
            let (addr, port) = local.split_once(':').context("address and port")?;
            let loopback =
                addr == "00000000000000000000000001000000" || (addr.len() == 8 && addr.ends_with("7F"));
            if !loopback && (table.starts_with("udp") || *state == LISTEN) {
                open.push(u16::from_str_radix(port, 16)?);
            }
        }
    }
    Ok(open)
}

#[test]
fn a_single_node_swarm_runs_a_service_and_goes_without_a_trace() -> Result<()> {
    let init = PathBuf::from(env!("CARGO_BIN_EXE_skep-lab-init"));
    let skep = init.with_file_name("skep");
    let name = format!("dev{}", std::process::id() % 10_000);
    // The laboratory lends its first host's namespaces; that host's own daemon stays idle beside `dev`.
    let lab = Lab::up(LabOptions { name, hosts: 1, skep: skep.clone(), init })?;
    let host = lab.host(1);
    let dir = host.dir.join("dev");
    let kernel = || host.exec(&["sh", "-c", "nft list tables; ip -br link | cut -d' ' -f1"]);
    let before = kernel()?;
    let mut dev = host.command(&skep)?;
    dev.args(["dev", "--dir"]).arg(&dir).stdin(Stdio::null()).stdout(Stdio::null());
    let mut dev = dev.spawn()?;
    let socket = format!("unix://{}", dir.join("run/skep.sock").display());
    let skep = |args: &[&str]| -> Result<String> {
        let out = std::process::Command::new(&skep).env("DOCKER_HOST", &socket).args(args).output()?;
        if !out.status.success() {
            bail!("skep {}: {}", args.join(" "), String::from_utf8_lossy(&out.stderr));
        }
        Ok(String::from_utf8_lossy(&out.stdout).into_owned())
    };
    eventually("the node is ready", LONG, || {
        let nodes = skep(&["node", "ls", "--format", "{{.Status}} {{.ManagerStatus}}"])?;
        ensure!(nodes.trim() == "Ready Leader", "{nodes}");
        Ok(())
    })?;
    let archive = dir.join("whoami.tar");
    whoami_image(&host.skep, &archive)?;
    skep(&["import", archive.to_str().context("a UTF-8 path")?, "whoami"])?;
    // Not detached: the client itself waits until the service has converged.
    skep(&[
        "service",
        "create",
        "--name",
        "web",
        "--replicas",
        "3",
        "-p",
        "8080:80",
        "whoami",
        "/skep",
        "whoami",
    ])?;
    let body = host.exec(&["curl", "-sS", "--max-time", "3", "http://127.0.0.1:8080/"])?;
    ensure!(body.contains("Hostname: "), "{body}");

    // Nothing of it can be reached from outside but what was published.
    let open: Vec<_> = open_ports(host)?.into_iter().filter(|port| *port != 8080).collect();
    ensure!(open.is_empty(), "open beyond the loopback: {open:?}");

    let pid = std::fs::read_to_string(dir.join("run/skep.pid"))?;
    host.exec(&["kill", "-INT", pid.trim()])?;
    ensure!(dev.wait()?.success(), "skep dev ended badly");
    let left = host.exec(&["sh", "-c", "grep -lxz '[s]him' /proc/[0-9]*/cmdline || true"])?;
    ensure!(left.trim().is_empty(), "shims are left: {left}");
    let after = kernel()?;
    ensure!(after == before, "tables and links were {before}, and are {after}");
    lab.down()
}
