//! Ports of a container that has IPv4 only answer by the host's IPv6 addresses as well: by the container's shim, also
//! while no daemon runs, and wherever the container's networks take it.

use std::io::{ErrorKind, Read, Write};
use std::net::{Ipv6Addr, Shutdown, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use skep_e2e::swarm::{LONG, hostname, refused};
use skep_e2e::{Host, eventually};

use crate::compare::Compare;
use crate::lab;
use crate::served::{SERVE, run};

const HERE: &str = "fd99::1";

fn get(host: &Host, addr: &str, port: u16) -> Result<String> {
    hostname(&host.exec(&["curl", "-sS", "--max-time", "10", &format!("http://[{addr}]:{port}/")])?)
}

fn answers(host: &Host, addr: &str, port: u16, name: &str) -> Result<()> {
    let who = get(host, addr, port)?;
    ensure!(who == name, "{who} at {addr}, port {port}");
    Ok(())
}

fn ports(host: &Host, name: &str) -> Result<String> {
    let shown = host.docker(&["ps", "--filter", &format!("name={name}"), "--format", "{{.Ports}}"])?;
    Ok(shown.trim().to_owned())
}

/// Sends back, in another thread, all that it is sent, once the sender has ended.
fn echo(listener: TcpListener) {
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let mut all = Vec::new();
            let mut stream = stream.expect("a connection");
            stream.read_to_end(&mut all).expect("all of it");
            stream.write_all(&all).expect("and back");
        }
    });
}

/// Sends back datagrams, turned round.
fn turn_round(socket: UdpSocket) {
    std::thread::spawn(move || {
        let mut buffer = vec![0; 65_535];
        while let Ok((n, from)) = socket.recv_from(&mut buffer) {
            buffer[..n].reverse();
            socket.send_to(&buffer[..n], from).expect("an answer");
        }
    });
}

/// Both directions at their own pace, each ended by itself.
fn converse(host: &Host, port: u16) -> Result<()> {
    let addr = SocketAddr::from((Ipv6Addr::LOCALHOST, port));
    let stream = host.at(None, move || TcpStream::connect(addr))?;
    stream.set_read_timeout(Some(LONG))?;
    let sent: Vec<u8> = (0..3_000_001u32).flat_map(|n| n.to_be_bytes()).collect();
    let writer = {
        let (mut stream, sent) = (stream.try_clone()?, sent.clone());
        std::thread::spawn(move || stream.write_all(&sent).and_then(|()| stream.shutdown(Shutdown::Write)))
    };
    let mut got = Vec::new();
    (&stream).read_to_end(&mut got)?;
    writer.join().expect("the writer ends")?;
    ensure!(got == sent, "{} bytes came back of {}", got.len(), sent.len());
    Ok(())
}

fn ask(socket: &UdpSocket, port: u16, text: &[u8]) -> Result<()> {
    for to in [HERE.parse()?, Ipv6Addr::LOCALHOST] {
        socket.send_to(text, (to, port))?;
        let mut buffer = vec![0; 65_535];
        let (n, from) = socket.recv_from(&mut buffer).with_context(|| format!("asked {to}"))?;
        let turned: Vec<u8> = text.iter().rev().copied().collect();
        ensure!(buffer[..n] == turned && from == SocketAddr::from((to, port)), "{n} bytes from {from}");
    }
    Ok(())
}

#[test]
fn ports_of_a_container_with_ipv4_only_answer_by_ipv6() -> Result<()> {
    let lab = lab("p6")?;
    let host = lab.host(1);
    host.exec(&["ip", "addr", "add", &format!("{HERE}/64"), "dev", "lo", "nodad"])?;
    let more =
        ["-p", "8080:80", "-p", "[::1]:8081:80", "-p", "8082:82", "-p", "5300:53/udp", "-p", "5301:54/sctp"];
    run(host, "one", &more)?;
    for line in [
        "ps --format '{{.Names}} {{.Ports}}'",
        "port one",
        "inspect -f '{{json .NetworkSettings.Ports}}' one",
    ] {
        let mut compare = Compare::new(host);
        compare.same(line)?;
        compare.end()?;
    }
    let shown = ports(host, "one")?;
    for part in ["[::]:5300->53/udp", "0.0.0.0:8080->80/tcp, [::]:8080->80/tcp", "[::1]:8081->80/tcp"] {
        ensure!(shown.contains(part), "{part} is not in {shown}");
    }
    ensure!(!shown.contains("[::]:5301"), "{shown}: no shim serves SCTP");
    for (addr, port) in [("::1", 8080), ("::1", 8081), (HERE, 8080)] {
        answers(host, addr, port, "one")?;
    }
    ensure!(get(host, HERE, 8081).is_err(), "published on [::1] only");
    ensure!(get(host, "::1", 8082).is_err(), "nobody listens there");

    let one = host.docker(&["inspect", "-f", "{{.Id}}", "one"])?;
    echo(host.at(Some(one.trim()), || TcpListener::bind("0.0.0.0:82"))?);
    turn_round(host.at(Some(one.trim()), || UdpSocket::bind("0.0.0.0:53"))?);
    let client = host.at(None, || UdpSocket::bind("[::]:0"))?;
    client.set_read_timeout(Some(LONG))?;
    converse(host, 8082)?;
    for text in [&b"x"[..], &b"another"[..], &vec![7; 40_000]] {
        ask(&client, 5300, text)?;
    }

    // Taken is what others have, on either family.
    let taken = |words: &str, publish: &str| {
        refused(host, &[&["run", "--rm", "-p", publish][..], &SERVE].concat(), &[words])
    };
    let program = host.at(None, || TcpListener::bind("[::1]:8090"))?;
    taken("failed to bind host port for [::]:8090:172.", "8090:80")?;
    drop(program);
    refused(
        host,
        &[&["run", "--rm", "-p", "[::1]:8080:80"][..], &SERVE].concat(),
        &["Bind for [::1]:8080 failed: port is already allocated"],
    )?;

    // Nothing of this needs a daemon.
    host.stop_daemon("-KILL")?;
    answers(host, "::1", 8080, "one")?;
    converse(host, 8082)?;
    ask(&client, 5300, b"alone")?;
    host.start_daemon()?;
    answers(host, HERE, 8080, "one")?;
    ensure!(ports(host, "one")?.contains("[::]:8080->80/tcp"));
    taken("Bind for [::]:8080 failed: port is already allocated", "[::]:8080:80")?;
    let kept = host.at(None, || TcpListener::bind("[::]:8080")).expect_err("it is the shim's");
    ensure!(kept.to_string().contains("in use"), "{kept}");

    // Ports follow the container from network to network, with IPv6 and without.
    host.docker(&["network", "create", "four"])?;
    host.docker(&["network", "create", "--ipv6", "--subnet", "fd87::/64", "six"])?;
    host.docker(&["network", "connect", "four", "one"])?;
    host.docker(&["network", "disconnect", "bridge", "one"])?;
    answers(host, "::1", 8080, "one")?;
    ask(&client, 5300, b"moved")?;
    host.docker(&["network", "disconnect", "four", "one"])?;
    ensure!(get(host, "::1", 8080).is_err(), "it is in no network");
    host.docker(&["network", "connect", "six", "one"])?;
    answers(host, "::1", 8080, "one")?;
    host.docker(&["network", "connect", "four", "one"])?;
    host.docker(&["network", "disconnect", "six", "one"])?;
    answers(host, HERE, 8080, "one")?;
    // One that had IPv6 when it started.
    run(host, "two", &["--network", "six", "-p", "8085:80"])?;
    answers(host, "::1", 8085, "two")?;
    host.docker(&["network", "connect", "four", "two"])?;
    host.docker(&["network", "disconnect", "six", "two"])?;
    answers(host, "::1", 8085, "two")?;
    host.stop_daemon("-KILL")?;
    host.start_daemon()?;
    answers(host, "::1", 8085, "two")?;

    // With the container all of it goes.
    host.docker(&["rm", "-f", "one", "two"])?;
    for port in [8080, 8082, 8085] {
        host.at(None, move || TcpListener::bind(("::", port))).context("given back")?;
    }
    host.at(None, || UdpSocket::bind("[::]:5300")).context("given back")?;

    // A host without IPv6 shows none.
    host.exec(&["sh", "-c", "echo 1 >/proc/sys/net/ipv6/conf/lo/disable_ipv6"])?;
    run(host, "three", &["-p", "8080:80"])?;
    ensure!(ports(host, "three")? == "0.0.0.0:8080->80/tcp");
    refused(
        host,
        &[&["run", "--rm", "-p", "[::1]:8099:80"][..], &SERVE].concat(),
        &["host address ::1 is IPv6"],
    )?;
    host.docker(&["rm", "-f", "three"])?;
    lab.down()
}

/// A client that goes on sending, while the container it talks to ends.
#[test]
fn the_end_of_a_container_is_the_end_of_its_connections() -> Result<()> {
    let lab = lab("p6e")?;
    let host = lab.host(1);
    run(host, "one", &["-p", "8080:80"])?;
    let addr = SocketAddr::from((Ipv6Addr::LOCALHOST, 8080));
    let mut idle = host.at(None, move || TcpStream::connect(addr))?;
    idle.set_read_timeout(Some(Duration::from_secs(60)))?;
    idle.write_all(b"GET ")?;
    host.docker(&["kill", "one"])?;
    let end = idle.read(&mut [0; 16]);
    ensure!(
        matches!(&end, Ok(0)) || end.as_ref().is_err_and(|e| e.kind() == ErrorKind::ConnectionReset),
        "{end:?}"
    );
    host.docker(&["start", "one"])?;
    eventually("it answers again", LONG, || answers(host, "::1", 8080, "one"))?;
    host.docker(&["rm", "-f", "one"])?;
    lab.down()
}
