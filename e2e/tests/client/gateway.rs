//! How bridge networks stand to the outside: without IPv4, without translation, and by the options that say so; with both
//! clients.

use anyhow::{Context, Result, ensure};
use skep_e2e::swarm::{hostname, refused, within};
use skep_e2e::{Host, Lab};

use crate::compare::Compare;
use crate::served::{inspect, run};
use crate::{docker, lab, skep};

const CURL: [&str; 4] = ["curl", "-gsS", "--max-time", "3"];

/// Who answers the host itself.
fn here(host: &Host, url: &str) -> Result<String> {
    hostname(&host.exec(&[&CURL[..], &[url]].concat())?)
}

/// Who answers from outside.
fn outside(lab: &Lab, url: &str) -> Result<String> {
    hostname(&lab.outside(&[&CURL[..], &[url]].concat())?)
}

/// Who answers a container.
fn inside(host: &Host, from: &str, url: &str) -> Result<String> {
    hostname(&within(host, from, &[&CURL[..], &[url]].concat())?)
}

#[test]
fn networks_may_have_ipv6_alone() -> Result<()> {
    let lab = lab("g6")?;
    let host = lab.host(1);
    let create = ["network", "create", "--ipv4=false", "--ipv6", "--subnet", "fd87::/64", "six"];
    host.docker(&create)?;
    run(host, "aa", &["--network", "six", "-p", "8086:80", "-p", "5386:53/udp"])?;
    run(host, "bb", &["--network", "six", "--ip6", "fd87::77"])?;
    let place = "{{range .NetworkSettings.Networks}}{{.IPAddress}} {{.IPPrefixLen}} {{.Gateway}} {{.GlobalIPv6Address}}/{{.GlobalIPv6PrefixLen}} {{.IPv6Gateway}}{{end}}";
    ensure!(inspect(host, "aa", place)? == "0  fd87::2/64 fd87::1");
    let mut compare = Compare::new(host);
    for line in [
        "network inspect -f '{{.EnableIPv4}} {{.EnableIPv6}} {{range .IPAM.Config}}{{.Subnet}} {{.Gateway}} {{end}}{{range .Containers}}{{.IPv4Address}}|{{.IPv6Address}} {{end}}' six",
        "network ls --filter name=six",
        "ps --format '{{.Names}} {{.Ports}}'",
        "port aa",
        "inspect -f '{{json .NetworkSettings.Ports}}' aa",
        "run --rm --network six -p 127.0.0.1:8087:80 whoami:1 /skep",
        "run --rm --network six --ip 10.1.1.1 whoami:1 /skep",
    ] {
        compare.same(line)?;
    }
    compare.same_json("network inspect six")?;
    for line in [
        "network create --ipv4=false x-@",
        "network create --ipv4=false --ipv6 x-@",
        "network inspect -f '{{.EnableIPv4}} {{len .IPAM.Config}}' x-@",
        "network create --ipv4=false --ipv6 --subnet 10.87.0.0/24 x-@4",
        "network create -d overlay --attachable --ipv4=false --ipv6 x-@5",
        "network create -d macvlan -o parent=eth0 --ipv4=false --ipv6 x-@6",
        "network create -o com.docker.network.enable_ipv4=false --ipv6 x-@7",
        "network inspect -f '{{.EnableIPv4}}' x-@6 x-@7",
        "network rm x-@ x-@6 x-@7",
    ] {
        compare.alike(line)?;
    }
    compare.end()?;
    let words = docker(host, &["network", "create", "--ipv4=false", "neither"])?;
    ensure!(words.stderr.contains("IPv4 or IPv6 must be enabled"), "{words:?}");
    ensure!(
        inspect(host, "aa", "{{json .NetworkSettings.Ports}}")?
            .contains(r#""80/tcp":[{"HostIp":"::","HostPort":"8086"}]"#)
    );

    // Names, ways and ports.
    let found = within(host, "bb", &["busybox", "nslookup", "aa", "127.0.0.11"])?;
    ensure!(found.contains("Address: fd87::2"), "{found}");
    ensure!(inside(host, "bb", "http://[fd87::2]/")? == "aa");
    ensure!(here(host, "http://[::1]:8086/")? == "aa");
    ensure!(here(host, "http://127.0.0.1:8086/").is_err(), "nothing by IPv4");
    let pid = inspect(host, "bb", "{{.State.Pid}}")?;
    let hosts = host.exec(&["cat", &format!("/proc/{pid}/root/etc/hosts")])?;
    ensure!(hosts.ends_with("fd87::77\tbb\n"), "{hosts}");

    // Clients with a link-local address are served as well, and all of it without the daemon.
    let route = lab.outside(&["ip", "-o", "route", "show", "10.99.0.0/24"])?;
    let dev = route.split_whitespace().skip_while(|w| *w != "dev").nth(1).context("a device")?;
    lab.outside(&[
        "sh",
        "-c",
        &format!(
            "echo 0 >/proc/sys/net/ipv6/conf/{dev}/disable_ipv6; ip addr add fe80::254/64 dev {dev} nodad"
        ),
    ])?;
    host.exec(&["ip", "addr", "add", "fe80::87/64", "dev", "eth0", "nodad"])?;
    let near = format!("http://[fe80::87%25{dev}]:8086/");
    ensure!(outside(&lab, &near)? == "aa", "by a link-local address");
    host.stop_daemon("-KILL")?;
    ensure!(outside(&lab, &near)? == "aa" && here(host, "http://[::1]:8086/")? == "aa");
    host.start_daemon()?;
    ensure!(outside(&lab, &near)? == "aa" && here(host, "http://[::1]:8086/")? == "aa");
    ensure!(inspect(host, "aa", place)? == "0  fd87::2/64 fd87::1");
    ensure!(inside(host, "bb", "http://[fd87::2]/")? == "aa");

    // In a network of IPv4 too, a container has both.
    host.skep(&["network", "connect", "bridge", "bb"])?;
    ensure!(inspect(host, "bb", "{{.NetworkSettings.IPAddress}}")?.starts_with("172."));
    host.docker(&["network", "disconnect", "bridge", "bb"])?;
    host.docker(&["rm", "-f", "aa", "bb"])?;
    host.docker(&["network", "rm", "six"])?;
    ensure!(!host.exec(&["ip", "-6", "-o", "addr"])?.contains("fd87"));
    lab.down()
}

#[test]
fn networks_may_be_routed() -> Result<()> {
    let lab = lab("gr")?;
    let host = lab.host(1);
    let routed = ["-o", "com.docker.network.bridge.gateway_mode_ipv4=routed"];
    host.docker(&[&["network", "create", "--subnet", "10.88.0.0/24"][..], &routed, &["ways"]].concat())?;
    host.docker(&["network", "create", "plain"])?;
    run(host, "aa", &["--network", "ways", "--ip", "10.88.0.9", "-p", "80"])?;
    run(host, "bb", &["--network", "ways", "-p", "8080:80", "-p", "127.0.0.1:8081:81"])?;
    run(host, "cc", &["--network", "plain"])?;
    let mut compare = Compare::new(host);
    for line in [
        "ps --format '{{.Names}} {{.Ports}}'",
        "port aa",
        "port bb 80",
        "inspect -f '{{json .NetworkSettings.Ports}}' bb",
    ] {
        compare.same(line)?;
    }
    compare.same_json("network inspect ways")?;
    compare.same_json("inspect aa")?;
    for line in [
        "network create -o com.docker.network.bridge.gateway_mode_ipv4=isolated x-@",
        "network create -o com.docker.network.bridge.gateway_mode_ipv6=bridged x-@",
        "network create -o com.docker.network.bridge.default_bridge=true x-@",
        "network create -o com.docker.network.bridge.default_bridge=false x-@",
        "network inspect -f '{{.Options}}' x-@",
        "network rm x-@",
    ] {
        compare.alike(line)?;
    }
    compare.end()?;
    let ports = inspect(host, "aa", "{{json (index .NetworkSettings.Ports \"80/tcp\")}}")?;
    ensure!(ports.contains(r#"{"HostIp":"0.0.0.0","HostPort":""}"#), "{ports}");
    let warned = skep(host, &["network", "create", "-o", "org.example.colour=blue", "hued"])?;
    ensure!(warned.stderr.contains("org.example.colour means nothing to driver bridge"), "{warned:?}");
    let shown = host.docker(&["network", "inspect", "-f", "{{.Options}}", "hued"])?;
    ensure!(shown.trim() == "map[org.example.colour:blue]", "{shown}");

    lab.outside(&["ip", "route", "add", "10.88.0.0/24", "via", &host.addr])?;
    ensure!(outside(&lab, "http://10.88.0.9/")? == "aa", "by its own address");
    ensure!(inside(host, "cc", "http://10.88.0.9/")? == "aa", "from another network");
    ensure!(here(host, "http://127.0.0.1:8080/").is_err(), "by none of the host's");
    let seen = lab.outside(&[&CURL[..], &["http://10.88.0.9/"]].concat())?;
    ensure!(seen.contains("10.99.0.254"), "with the client's address: {seen}");
    host.stop_daemon("-KILL")?;
    ensure!(outside(&lab, "http://10.88.0.9/")? == "aa");
    host.start_daemon()?;
    ensure!(outside(&lab, "http://10.88.0.9/")? == "aa");
    host.docker(&["rm", "-f", "aa"])?;
    run(host, "dd", &["--network", "ways", "--ip", "10.88.0.9"])?;
    ensure!(outside(&lab, "http://10.88.0.9/").is_err(), "nothing is published there now");
    refused(host, &["network", "rm", "ways"], &["has active endpoints"])?;
    host.docker(&["rm", "-f", "bb", "cc", "dd"])?;
    host.docker(&["network", "rm", "ways", "plain", "hued"])?;
    lab.down()
}
