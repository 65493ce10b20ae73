//! Idle timeouts of services, by flags and Compose files: what is asked for, on every node, and kept by clients that know
//! nothing of it.

use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::time::Duration;

use anyhow::{Result, bail, ensure};
use skep_e2e::swarm::{LONG, path, wait_running, workers};
use skep_e2e::{Host, eventually};

/// What of a kind the host's rules have, such as `tcp_3600`.
fn timeouts(host: &Host) -> Result<Vec<String>> {
    let rules = host.exec(&["nft", "list", "ruleset", "ip"])?;
    let names = rules.lines().filter_map(|l| l.trim().strip_prefix("ct timeout ")?.strip_suffix(" {"));
    let mut names: Vec<String> = names.map(str::to_owned).collect();
    names.sort_unstable();
    Ok(names)
}

fn all_have(hosts: &[Host], wanted: &[&str]) -> Result<()> {
    eventually(&format!("timeouts are {wanted:?}"), LONG, || {
        for host in hosts {
            let held = timeouts(host)?;
            ensure!(held == wanted, "{held:?}");
        }
        Ok(())
    })
}

/// Who answers a request on a connection that is kept.
fn ask(stream: &mut TcpStream) -> std::io::Result<String> {
    stream.write_all(b"GET / HTTP/1.1\r\nHost: web\r\nConnection: keep-alive\r\n\r\n")?;
    let mut text = String::new();
    let mut bytes = [0; 4096];
    loop {
        let n = stream.read(&mut bytes)?;
        text.push_str(&String::from_utf8_lossy(&bytes[..n]));
        if n == 0 {
            return Err(std::io::ErrorKind::UnexpectedEof.into());
        }
        if let Some(name) = text.split_once("Hostname: ").and_then(|(_, rest)| rest.split_once('\n')) {
            return Ok(name.0.trim().to_owned());
        }
    }
}

#[test]
fn connections_may_be_idle_for_as_long_as_their_service_says() -> Result<()> {
    let lab = workers("idle")?;
    let [one, _, three] = lab.hosts() else { bail!("three hosts") };
    for host in lab.hosts() {
        let set = "echo 1 > /proc/sys/net/netfilter/nf_conntrack_tcp_timeout_established";
        host.exec(&["sh", "-c", set])?;
    }
    let create = [
        "service",
        "create",
        "-d",
        "--no-resolve-image",
        "--stop-grace-period",
        "0s",
        "--replicas",
        "3",
        "--publish",
        "8080:80",
        "--name",
    ];
    let run = ["whoami:1", "/skep", "whoami"];
    one.skep(&[&create[..], &["web", "--idle-timeout", "tcp=1h,udp=5m"], &run].concat())?;
    wait_running(one, "web", 3)?;
    all_have(lab.hosts(), &["tcp_3600", "udp_300"])?;
    let shown = one.skep(&["service", "inspect", "web"])?;
    ensure!(shown.contains("\"TCP\": 3600000000000") && shown.contains("\"UDP\": 300000000000"), "{shown}");
    let shown = one.skep(&["service", "inspect", "--pretty", "web"])?;
    ensure!(shown.contains("tcp=3600s udp=300s"), "{shown}");

    // By every node, to tasks on all of them, for longer than the hosts keep any other.
    let held = three.at(None, || {
        let mut all = Vec::new();
        for number in (1..=3).cycle().take(9) {
            let mut stream = TcpStream::connect(format!("10.99.0.{number}:8080"))?;
            stream.set_read_timeout(Some(LONG))?;
            all.push((ask(&mut stream)?, stream));
        }
        std::thread::sleep(Duration::from_secs(3));
        all.into_iter()
            .map(|(name, mut stream)| Ok((name, ask(&mut stream)?)))
            .collect::<std::io::Result<Vec<_>>>()
    })?;
    ensure!(held.iter().all(|(before, after)| before == after), "{held:?}");

    // Docker's client leaves it as it is; another one is in force with no other task.
    let tasks = one.docker(&["service", "ps", "-q", "web"])?;
    one.docker(&["service", "update", "-d", "--no-resolve-image", "--label-add", "a=b", "web"])?;
    all_have(lab.hosts(), &["tcp_3600", "udp_300"])?;
    one.skep(&["service", "update", "-d", "--no-resolve-image", "--idle-timeout", "tcp=1s", "web"])?;
    all_have(lab.hosts(), &["tcp_1"])?;
    ensure!(one.docker(&["service", "ps", "-q", "web"])? == tasks, "the same tasks");
    let mut stream = three.at(None, || {
        let mut stream = TcpStream::connect("10.99.0.1:8080")?;
        stream.set_read_timeout(Some(LONG))?;
        ask(&mut stream)?;
        Ok(stream)
    })?;
    let from = format!("sport={}", stream.local_addr()?.port());
    eventually("the connection is forgotten", LONG, || {
        for host in lab.hosts() {
            let kept = host.exec(&["cat", "/proc/net/nf_conntrack"])?;
            ensure!(!kept.split_whitespace().any(|w| w == from), "host {}: {kept}", host.number);
        }
        Ok(())
    })?;
    let ended = ask(&mut stream).err().map(|e| e.kind());
    ensure!(ended == Some(std::io::ErrorKind::ConnectionReset), "{ended:?}");
    for host in lab.hosts() {
        host.skep(&["system", "check"])?;
    }
    one.skep(&["service", "update", "-d", "--no-resolve-image", "--idle-timeout", "", "web"])?;
    all_have(lab.hosts(), &[])?;

    // In a Compose file, which says it no more in the end.
    let file = one.dir.join("c.yml");
    let text = |more: &str| {
        format!(
            "services:\n  web:\n    image: whoami:1\n    entrypoint: [/skep, whoami]\n    ports: [\"8082:80\"]\n{more}"
        )
    };
    let deploy = ["stack", "deploy", "--resolve-image", "never", "--detach=true", "-c", path(&file), "s"];
    std::fs::write(&file, text("    x-idle-timeout: {tcp: 2h}\n"))?;
    one.skep(&deploy)?;
    wait_running(one, "s_web", 1)?;
    all_have(lab.hosts(), &["tcp_7200"])?;
    std::fs::write(&file, text("    x-idle-timeout: 90s\n"))?;
    one.skep(&deploy)?;
    all_have(lab.hosts(), &["tcp_90", "udp_90"])?;
    std::fs::write(&file, text(""))?;
    one.skep(&deploy)?;
    all_have(lab.hosts(), &[])?;

    // What cannot be.
    for (flag, why) in [
        ("500ms", "whole seconds"),
        ("1000h", "24 days"),
        ("sctp=1h", "neither tcp nor udp"),
        ("soon", "not a duration"),
    ] {
        let refused = one.skep(&[&create[..], &["bad", "--idle-timeout", flag], &run].concat());
        ensure!(format!("{refused:?}").contains(why), "{flag}: {refused:?}");
    }
    std::fs::write(&file, text("    x-idle-timeout: soon\n"))?;
    let refused = one.skep(&deploy);
    ensure!(format!("{refused:?}").contains("x-idle-timeout"), "{refused:?}");
    lab.down()
}
