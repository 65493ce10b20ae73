//! The default bridge network, and what other networks have that say nothing of it.

use anyhow::{Result, ensure};
use skep_e2e::Host;
use skep_e2e::swarm::{hostname, within};

use super::{logged, shown, told};
use crate::served::{inspect, run};
use crate::{busybox, docker, lab};

const ADDRESS: &str =
    "{{range .NetworkSettings.Networks}}{{.IPAddress}} {{.Gateway}} {{.GlobalIPv6Address}}{{end}}";
const RANGES: &str = "{{range .IPAM.Config}}{{.Subnet}} {{.Gateway}} {{.IPRange}}|{{end}}";
const CURL: [&str; 4] = ["curl", "-gsS", "--max-time", "3"];

fn asks(host: &Host, from: &str, url: &str) -> Result<String> {
    hostname(&within(host, from, &[&CURL[..], &[url]].concat())?)
}

fn ranges(network: &str) -> [&str; 5] {
    ["network", "inspect", "-f", RANGES, network]
}

#[test]
fn the_default_bridge_is_what_the_daemon_was_told() -> Result<()> {
    let lab = lab("sb")?;
    let host = lab.host(1);
    let usual = host.docker(&["network", "inspect", "-f", "{{.Id}}", "bridge"])?;
    told(
        host,
        r#"
        bip = "10.71.0.1/24"
        fixed-cidr = "10.71.0.128/25"
        mtu = 1400
        icc = false
        ip = "127.0.0.1"
        ip-masq = false
        ipv6 = true
        bip6 = "fd71::1/64"
        fixed-cidr-v6 = "fd71::80/121"
        default-address-pools = [{ base = "10.72.0.0/16", size = 24 }, { base = "fd72::/48", size = 64 }]
        [default-network-opts.bridge]
        "com.docker.network.driver.mtu" = "1300"
        "#,
    )?;
    host.docker(&["network", "create", "--ipv6", "one"])?;
    host.docker(&["network", "create", "-o", "com.docker.network.driver.mtu=1200", "two"])?;
    run(host, "aa", &["-p", "8071:80", "--expose", "80", "--expose", "82"])?;
    run(host, "bb", &[])?;
    run(host, "cc", &["--link", "aa:friend"])?;
    let mtu = |container: &str, name: &str| within(host, container, &["ip", "-o", "link", "show", name]);
    let option = r#"{{index .Options "com.docker.network.driver.mtu"}}"#;
    shown(
        host,
        &[
            ("the network stays one", &["network", "inspect", "-f", "{{.Id}}", "bridge"], usual.trim()),
            (
                "bip, fixed-cidr",
                &ranges("bridge"),
                "10.71.0.0/24 10.71.0.1 10.71.0.128/25|fd71::/64 fd71::1 fd71::80/121|",
            ),
            ("fixed-cidr", &["inspect", "-f", ADDRESS, "aa"], "10.71.0.128 10.71.0.1 fd71::80"),
            ("mtu", &["network", "inspect", "-f", option, "bridge"], "1400"),
            ("ip", &["port", "aa", "80"], "127.0.0.1:8071"),
            ("default-address-pools", &ranges("one"), "10.72.0.0/24 10.72.0.1 |fd72::/64 fd72::1 |"),
            ("default-address-pools", &ranges("two"), "10.72.1.0/24 10.72.1.1 |"),
            ("default-network-opts", &["network", "inspect", "-f", option, "one"], "1300"),
            ("default-network-opts", &["network", "inspect", "-f", option, "two"], "1200"),
        ],
    )?;
    ensure!(mtu("aa", "eth0")?.contains(" mtu 1400 "), "mtu: {}", mtu("aa", "eth0")?);
    host.docker(&["network", "connect", "one", "bb"])?;
    ensure!(mtu("bb", "eth1")?.contains(" mtu 1300 "), "default-network-opts: {}", mtu("bb", "eth1")?);

    // Of a published port, nobody but the host itself.
    ensure!(hostname(&host.exec(&[&CURL[..], &["http://127.0.0.1:8071/"]].concat())?)? == "aa", "ip");
    let outside = |url: &str| lab.outside(&[&CURL[..], &[url]].concat());
    ensure!(outside(&format!("http://{}:8071/", host.addr)).is_err(), "ip");

    // Containers are kept from each other, but for what a link opens.
    ensure!(asks(host, "bb", "http://10.71.0.128/").is_err(), "icc");
    ensure!(asks(host, "cc", "http://10.71.0.128/")? == "aa", "a link opens what is exposed");
    ensure!(asks(host, "cc", "http://[fd71::80]/").is_err(), "as with Docker, by IPv4 alone");
    ensure!(
        asks(host, "aa", &format!("http://{}/", inspect(host, "cc", "{{.NetworkSettings.IPAddress}}")?))
            .is_err()
    );
    let exposed = |port: &str| {
        within(host, "cc", &["curl", "-sS", "--max-time", "3", &format!("http://10.71.0.128:{port}/")])
    };
    let words = |port: &str| exposed(port).unwrap_or_else(|e| format!("{e:#}"));
    ensure!(
        words("82").contains("exit status: 7"),
        "an exposed port that nobody listens at: {}",
        words("82")
    );
    ensure!(words("83").contains("exit status: 28"), "a port that is not exposed: {}", words("83"));
    host.stop_daemon("-KILL")?;
    host.start_daemon()?;
    ensure!(
        asks(host, "cc", "http://10.71.0.128/")? == "aa" && asks(host, "bb", "http://10.71.0.128/").is_err()
    );
    let report = host.skep(&["system", "check"])?;
    ensure!(!report.contains("differs"), "{report}");
    // What a link opens is closed with it, at once.
    host.docker(&["rm", "--link", "cc/friend"])?;
    ensure!(asks(host, "cc", "http://10.71.0.128/").is_err(), "a link that is gone opens nothing");
    host.docker(&["rm", "-f", "cc"])?;
    run(host, "cc", &["--link", "aa:friend"])?;
    ensure!(asks(host, "cc", "http://10.71.0.128/")? == "aa", "a link opens what is exposed");
    // The address may be another's next.
    host.docker(&["rm", "-f", "aa"])?;
    run(host, "dd", &[])?;
    ensure!(inspect(host, "dd", ADDRESS)?.starts_with("10.71.0.128 "));
    ensure!(
        asks(host, "cc", "http://10.71.0.128/").is_err(),
        "a link leads to its container, not to an address"
    );

    // What leaves the host keeps its source: without a way back there is no answer.
    let ping = ["busybox", "ping", "-c", "1", "-W", "2", "10.99.0.254"];
    ensure!(within(host, "dd", &ping).is_err(), "ip-masq");
    lab.outside(&["ip", "route", "add", "10.71.0.0/24", "via", &host.addr])?;
    within(host, "dd", &ping)?;
    lab.down()
}

#[test]
fn a_default_bridge_in_use_stays_as_it_is_until_it_is_free() -> Result<()> {
    let lab = lab("sc")?;
    let host = lab.host(1);
    busybox(host)?;
    run(host, "aa", &[])?;
    let before = host.docker(&ranges("bridge"))?;
    told(host, "bip = \"10.73.0.1/24\"\nmtu = 1280\n")?;
    shown(host, &[("in use", &ranges("bridge"), before.trim())])?;
    logged(host, "start the daemon again for bip, mtu to take effect")?;
    ensure!(
        asks(host, "aa", &format!("http://{}/", inspect(host, "aa", "{{.NetworkSettings.IPAddress}}")?))?
            == "aa"
    );
    host.docker(&["stop", "-t", "0", "aa"])?;
    told(host, "bip = \"10.73.0.1/24\"\nmtu = 1280\ndefault-gateway = \"10.73.0.9\"\n")?;
    host.docker(&["start", "aa"])?;
    shown(
        host,
        &[
            ("bip", &ranges("bridge"), "10.73.0.0/24 10.73.0.1 |"),
            ("default-gateway", &["inspect", "-f", ADDRESS, "aa"], "10.73.0.2 10.73.0.9 "),
        ],
    )?;
    let way = within(host, "aa", &["ip", "route", "show", "default"])?;
    ensure!(way.contains("via 10.73.0.9"), "default-gateway: {way}");
    host.docker(&["rm", "-f", "aa"])?;

    // Of a pair of addresses (RFC 3021) one is the host's, the other a container's.
    told(host, "bip = \"10.73.8.1/31\"\n")?;
    run(host, "aa", &[])?;
    shown(
        host,
        &[
            ("bip of a pair", &ranges("bridge"), "10.73.8.0/31 10.73.8.1 |"),
            ("its other", &["inspect", "-f", ADDRESS, "aa"], "10.73.8.0 10.73.8.1 "),
        ],
    )?;
    host.docker(&["network", "create", "--subnet", "10.73.9.0/31", "pair"])?;
    shown(host, &[("a pair", &ranges("pair"), "10.73.9.0/31 10.73.9.0 |")])?;
    run(host, "bb", &["--network", "pair"])?;
    shown(host, &[("a pair's other", &["inspect", "-f", ADDRESS, "bb"], "10.73.9.1 10.73.9.0 ")])?;
    host.docker(&["rm", "-f", "aa", "bb"])?;
    host.docker(&["network", "rm", "pair"])?;

    // No such network at all: containers have their loopback.
    told(host, "bridge = \"none\"\n")?;
    let none = docker(host, &["network", "inspect", "bridge"])?;
    ensure!(none.code == Some(1), "bridge = none: {none:?}");
    let links =
        host.docker(&["run", "--rm", "-p", "80:80", "busybox", "/bin/busybox", "ip", "-o", "link"])?;
    ensure!(links.lines().count() == 1 && links.contains("lo:"), "bridge = none: {links}");

    // A bridge of the user's, which keeps what it has.
    host.exec(&[
        "sh",
        "-c",
        "ip link add br9 type bridge && ip addr add 10.74.0.7/24 dev br9 && ip link set br9 up",
    ])?;
    let settings =
        ["sh", "-c", "cd /proc/sys/net/ipv4/conf/br9 && cat route_localnet rp_filter send_redirects"];
    let before = host.exec(&settings)?;
    told(host, "bridge = \"br9\"\nfixed-cidr = \"10.74.0.32/27\"\n")?;
    shown(host, &[("bridge", &ranges("bridge"), "10.74.0.0/24 10.74.0.7 10.74.0.32/27|")])?;
    run(host, "aa", &["-p", "8074:80"])?;
    ensure!(inspect(host, "aa", ADDRESS)?.starts_with("10.74.0.32 10.74.0.7"));
    ensure!(host.exec(&["ip", "-o", "link", "show", "master", "br9"])?.lines().count() == 1);
    ensure!(
        hostname(&lab.outside(&[&CURL[..], &[&format!("http://{}:8074/", host.addr)]].concat())?)? == "aa"
    );
    host.docker(&["rm", "-f", "aa"])?;
    told(host, "")?;
    ensure!(host.exec(&["ip", "-o", "addr", "show", "br9"])?.contains("10.74.0.7/24"), "br9 is the user's");
    let after = host.exec(&settings)?;
    ensure!(after == before, "br9 is as it was before: {before:?}, {after:?}");
    let after = host.docker(&ranges("bridge"))?;
    ensure!(after.starts_with("172."), "{after}");

    // What cannot be is said at the start.
    host.stop_daemon("-TERM")?;
    std::fs::write(host.dir.join("daemon.toml"), "bridge = \"br8\"\n")?;
    let error = format!("{:#}", host.start_daemon().err().unwrap_or_else(|| anyhow::anyhow!("it started")));
    ensure!(error.contains("bridge device with non default name br8 must be created manually"), "{error}");
    told(host, "")?;
    lab.down()
}
