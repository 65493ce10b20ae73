//! Networks with IPv6 of one host, with both clients: made, joined, published, looked up, kept over a restart.

use anyhow::{Result, ensure};
use skep_e2e::Host;
use skep_e2e::swarm::{hostname, refused, within};

use crate::compare::Compare;
use crate::lab;
use crate::served::{SERVE, inspect, run};

fn answers(host: &Host, url: &str, name: &str) -> Result<()> {
    let who = hostname(&host.exec(&["curl", "-sS", "--max-time", "5", url])?)?;
    ensure!(who == name, "{who} at {url}");
    Ok(())
}

#[test]
fn networks_with_ipv6_are_as_docker_has_them() -> Result<()> {
    let lab = lab("n6")?;
    let host = lab.host(1);
    let subnets = ["--subnet", "10.86.0.0/24", "--subnet", "fd86::/64"];
    let more = ["--gateway", "fd86::fe", "--aux-address", "r=fd86::2"];
    host.skep(&[&["network", "create", "--ipv6"][..], &subnets, &more, &["x6"]].concat())?;
    let mut compare = Compare::new(host);
    compare.same_code("network create --ipv6 --gateway fd86::fe y6")?;
    compare.same_code("network create --ipv6 --subnet fd86:9::/64 --subnet fd86:9::/72 y6")?;
    compare.end()?;
    let address = "{{with index .NetworkSettings.Networks \"x6\"}}{{.GlobalIPv6Address}}/{{.GlobalIPv6PrefixLen}} {{.IPv6Gateway}}{{end}}";
    run(host, "aa", &["--network", "x6", "-p", "8086:80", "-p", "[::1]:8087:80"])?;
    ensure!(inspect(host, "aa", address)? == "fd86::1/64 fd86::fe");
    run(host, "bb", &["--network", "x6", "--ip6", "fd86::77", "--link-local-ip", "169.254.8.8"])?;
    ensure!(inspect(host, "bb", address)? == "fd86::77/64 fd86::fe");
    run(host, "old", &[])?;
    for line in [
        "network ls --format '{{.Name}} {{.IPv4}} {{.IPv6}}'",
        "network inspect -f '{{.EnableIPv6}} {{range .IPAM.Config}}{{.Subnet}} {{.Gateway}} {{end}}{{range .Containers}}{{.IPv6Address}} {{end}}' x6",
        "ps --format '{{.Names}} {{.Ports}}'",
        "port aa",
        "port aa 80",
    ] {
        let mut compare = Compare::new(host);
        compare.same(line)?;
        compare.end()?;
    }
    let ports = host.docker(&["ps", "--filter", "name=aa", "--format", "{{.Ports}}"])?;
    ensure!(ports.trim() == "0.0.0.0:8086->80/tcp, [::]:8086->80/tcp, [::1]:8087->80/tcp", "{ports}");
    for url in ["http://127.0.0.1:8086/", "http://[::1]:8086/", "http://[::1]:8087/"] {
        answers(host, url, "aa")?;
    }
    // Names: of both families, backwards too, and none of IPv6 where there is none.
    let found = within(host, "bb", &["busybox", "nslookup", "aa", "127.0.0.11"])?;
    ensure!(found.contains("Address: fd86::1"), "{found}");
    let back = within(host, "bb", &["busybox", "nslookup", "fd86::1", "127.0.0.11"])?;
    ensure!(back.contains("aa.x6"), "{back}");
    let pid = inspect(host, "bb", "{{.State.Pid}}")?;
    let hosts = host.exec(&["cat", &format!("/proc/{pid}/root/etc/hosts")])?;
    ensure!(hosts.contains("fd86::77\tbb\n"), "{hosts}");
    ensure!(
        inspect(host, "bb", "{{json (index .NetworkSettings.Networks \"x6\").IPAMConfig}}")?
            .contains("169.254.8.8")
    );

    host.skep(&["network", "connect", "--ip6", "fd86::99", "x6", "old"])?;
    ensure!(inspect(host, "old", address)? == "fd86::99/64 fd86::fe");
    let at = |addr: &str| format!("http://[{addr}]/");
    let seen = hostname(&within(host, "bb", &["curl", "-sS", "--max-time", "5", &at("fd86::99")])?)?;
    ensure!(seen == "old", "{seen}");

    // A container goes on over a daemon's restart, with its ports.
    host.stop_daemon("-KILL")?;
    answers(host, "http://[::1]:8086/", "aa")?;
    host.start_daemon()?;
    answers(host, "http://[::1]:8086/", "aa")?;
    ensure!(inspect(host, "aa", address)? == "fd86::1/64 fd86::fe");

    refused(
        host,
        &[&["run", "--rm", "--network", "x6", "-p", "[::]:8086:80"][..], &SERVE].concat(),
        &["[::]:8086", "port is already allocated"],
    )?;
    refused(
        host,
        &[&["run", "--rm", "--ip6", "fd86::7"][..], &SERVE].concat(),
        &["user specified IP address is supported on user defined networks only"],
    )?;
    refused(host, &["network", "create", "--subnet", "fd86:1::/64", "six"], &["--ipv6"])?;
    let bridged = "com.docker.network.bridge.gateway_mode_ipv6=bridged";
    refused(host, &["network", "create", "--ipv6", "-o", bridged, "six"], &["gateway_mode_ipv6"])?;
    host.docker(&["rm", "-f", "aa", "bb", "old"])?;
    host.docker(&["network", "rm", "x6"])?;
    let left = host.exec(&["ip", "-6", "-o", "addr", "show", "scope", "global"])?;
    ensure!(!left.contains("fd86"), "{left}");
    lab.down()
}
