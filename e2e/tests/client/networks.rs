//! Networks of one host: containers connected, disconnected, linked and published, with both clients.

use anyhow::{Context, Result, ensure};
use skep_e2e::swarm::{LONG, hostname, refused, within};
use skep_e2e::{Host, eventually};

use crate::compare::Compare;
use crate::{docker, lab, skep};

const SERVE: [&str; 3] = ["whoami:1", "/skep", "whoami"];

fn run(host: &Host, name: &str, more: &[&str]) -> Result<()> {
    let first = ["run", "-d", "--name", name, "--hostname", name];
    host.docker(&[&first[..], more, &SERVE].concat())?;
    serves(host, name, 1)
}

/// Waits until the container listens for the `times`th time of its life.
fn serves(host: &Host, container: &str, times: usize) -> Result<()> {
    eventually(&format!("{container} listens"), LONG, || {
        let log = host.docker(&["logs", container])?;
        ensure!(log.matches("listening on port").count() == times, "{log}");
        Ok(())
    })
}

fn inspect(host: &Host, container: &str, template: &str) -> Result<String> {
    Ok(host.docker(&["inspect", "-f", template, container])?.trim().to_owned())
}

fn address(host: &Host, container: &str, network: &str) -> Result<String> {
    inspect(host, container, &format!("{{{{(index .NetworkSettings.Networks \"{network}\").IPAddress}}}}"))
}

/// Who answers at an address, asked from within a container.
fn ask(host: &Host, from: &str, at: &str) -> Result<String> {
    hostname(&within(host, from, &["curl", "-sS", "--max-time", "3", &format!("http://{at}/")])?)
}

fn resolve(host: &Host, container: &str, name: &str) -> Result<String> {
    let out = within(host, container, &["busybox", "nslookup", name, "127.0.0.11"])?;
    let mut found =
        out.lines().skip_while(|l| !l.starts_with("Name:")).filter_map(|l| l.strip_prefix("Address: "));
    Ok(found.next().with_context(|| format!("no address in {out:?}"))?.trim().to_owned())
}

/// A file as the container's process sees it.
fn file(host: &Host, container: &str, path: &str) -> Result<String> {
    let pid = inspect(host, container, "{{.State.Pid}}")?;
    host.exec(&["cat", &format!("/proc/{pid}/root{path}")])
}

#[test]
fn networks_of_running_and_stopped_containers_change() -> Result<()> {
    let lab = lab("nc")?;
    let host = lab.host(1);
    for (name, subnet) in [("blue", "10.81.0.0/24"), ("red", "10.82.0.0/24")] {
        host.docker(&["network", "create", "--subnet", subnet, name])?;
    }
    run(host, "aa", &["-p", "8080:80"])?;
    run(host, "bb", &["--network", "blue", "--network-alias", "bee"])?;
    // Several at the creation, each with its own settings.
    run(host, "cc", &["--network", "name=blue,alias=sea,ip=10.81.0.77", "--network", "red"])?;
    ensure!(address(host, "cc", "blue")? == "10.81.0.77");
    ensure!(resolve(host, "bb", "sea")? == "10.81.0.77");

    let b = address(host, "bb", "blue")?;
    ensure!(ask(host, "aa", &b).is_err(), "networks are apart");
    host.docker(&["network", "connect", "--alias", "aye", "--ip", "10.81.0.50", "blue", "aa"])?;
    ensure!(address(host, "aa", "blue")? == "10.81.0.50");
    ensure!(ask(host, "aa", &b)? == "bb" && resolve(host, "bb", "aye")? == "10.81.0.50");
    ensure!(resolve(host, "aa", "bee")? == b, "it has a name server now");
    ensure!(file(host, "aa", "/etc/resolv.conf")?.contains("127.0.0.11"));
    ensure!(file(host, "aa", "/etc/hosts")?.contains("10.81.0.50\taa"));
    ensure!(hostname(&host.exec(&["curl", "-sS", "http://127.0.0.1:8080/"])?)? == "aa", "still published");
    ensure!(host.docker(&["network", "inspect", "-f", "{{len .Containers}}", "blue"])?.trim() == "3");
    refused(
        host,
        &["network", "connect", "blue", "aa"],
        &["endpoint with name aa already exists in network blue"],
    )?;

    // Published by what is left, and reached no more by what was left.
    host.docker(&["network", "disconnect", "bridge", "aa"])?;
    ensure!(hostname(&host.exec(&["curl", "-sS", "http://127.0.0.1:8080/"])?)? == "aa");
    host.skep(&["network", "disconnect", "blue", "aa"])?;
    ensure!(resolve(host, "bb", "aye").is_err() && !file(host, "aa", "/etc/hosts")?.contains("10.81.0.50"));
    let none = within(host, "aa", &["ip", "-o", "-4", "addr", "show", "scope", "global"])?;
    ensure!(none.is_empty(), "no network is left: {none}");
    refused(host, &["network", "disconnect", "blue", "aa"], &["is not connected to network blue"])?;
    host.skep(&["network", "connect", "--link", "bb:bumble", "blue", "aa"])?;
    ensure!(resolve(host, "aa", "bumble")? == b && resolve(host, "cc", "bumble").is_err(), "its own name");

    // What a stopped container was told holds at its next start, and over a daemon's.
    host.docker(&["stop", "-t", "1", "aa"])?;
    host.docker(&["network", "connect", "--ip", "10.82.0.9", "red", "aa"])?;
    host.docker(&["network", "disconnect", "blue", "aa"])?;
    host.stop_daemon("-TERM")?;
    host.start_daemon()?;
    host.docker(&["start", "aa"])?;
    serves(host, "aa", 2)?;
    ensure!(
        inspect(host, "aa", "{{range $k, $v := .NetworkSettings.Networks}}{{$k}}={{$v.IPAddress}} {{end}}")?
            == "red=10.82.0.9"
    );
    ensure!(ask(host, "cc", "10.82.0.9")? == "aa");
    ensure!(ask(host, "bb", "10.82.0.9").is_err());

    refused(host, &["network", "connect", "nowhere", "aa"], &["network nowhere not found"])?;
    refused(host, &["network", "connect", "blue", "nobody"], &["No such container: nobody"])?;
    refused(host, &["network", "connect", "host", "aa"], &["host network"])?;
    refused(host, &["network", "rm", "red"], &["red"])?;
    let bridges = host.exec(&["ip", "-o", "link", "show", "type", "bridge"])?;
    let ours = bridges.split(": ").find(|name| name.starts_with("sk")).context("no bridge of ours")?;
    let option = format!("com.docker.network.bridge.name={}x", &ours[..10]);
    refused(host, &["network", "create", "-o", &option, "taken"], &["Skep's own"])?;

    host.docker(&["network", "create", "--label", "keep=1", "kept"])?;
    host.docker(&["network", "create", "unused"])?;
    let pruned = host.docker(&["network", "prune", "-f", "--filter", "label!=keep"])?;
    ensure!(pruned == "Deleted Networks:\nunused\n\n", "{pruned:?}");
    ensure!(host.docker(&["network", "prune", "-f", "--filter", "until=1h"])?.is_empty());
    ensure!(host.skep(&["network", "prune", "-f"])? == "Deleted Networks:\nkept\n\n");
    let left = host.docker(&["network", "ls", "-q", "--filter", "type=custom"])?;
    ensure!(left.lines().count() == 2, "{left}");
    lab.down()
}

#[test]
fn bridges_are_as_their_options_say() -> Result<()> {
    let lab = lab("no")?;
    let host = lab.host(1);
    host.docker(&[
        "network",
        "create",
        "--subnet",
        "10.83.0.0/24",
        "--gateway",
        "10.83.0.254",
        "--ip-range",
        "10.83.0.128/29",
        "--aux-address",
        "router=10.83.0.129",
        "-o",
        "com.docker.network.bridge.name=br-named",
        "-o",
        "com.docker.network.driver.mtu=1400",
        "-o",
        "com.docker.network.bridge.host_binding_ipv4=127.0.0.1",
        "named",
    ])?;
    run(host, "nn", &["--network", "named", "-p", "8083:80", "--mac-address", "02:00:00:00:00:83"])?;
    ensure!(address(host, "nn", "named")? == "10.83.0.128");
    run(host, "mm", &["--network", "named"])?;
    ensure!(address(host, "mm", "named")? == "10.83.0.130", "the auxiliary address is nobody's");
    let link = within(host, "nn", &["ip", "-o", "link", "show", "eth0"])?;
    ensure!(link.contains("02:00:00:00:00:83") && link.contains("mtu 1400"), "{link}");
    ensure!(host.exec(&["ip", "-o", "addr", "show", "br-named"])?.contains("10.83.0.254/24"));
    ensure!(hostname(&host.exec(&["curl", "-sS", "http://127.0.0.1:8083/"])?)? == "nn");
    let far = lab.outside(&["curl", "-sS", "--max-time", "2", &format!("http://{}:8083/", host.addr)]);
    ensure!(far.is_err(), "published on loopback only");
    within(host, "nn", &["busybox", "ping", "-c", "1", "-W", "2", "10.99.0.254"])?;
    host.docker(&["rm", "-f", "nn", "mm"])?;
    host.docker(&["network", "rm", "named"])?;
    ensure!(host.exec(&["ip", "link", "show", "br-named"]).is_err());

    // With and without our rules being shown what passes over bridges.
    for (name, shown) in [("quiet", "1"), ("still", "0")] {
        host.exec(&[
            "sh",
            "-c",
            &format!("echo {shown} > /proc/sys/net/bridge/bridge-nf-call-iptables || true"),
        ])?;
        let apart = "com.docker.network.bridge.enable_icc=false";
        host.docker(&["network", "create", "-o", apart, name])?;
        run(host, "pp", &["--network", name, "-p", "8084:80"])?;
        run(host, "qq", &["--network", name])?;
        let address = address(host, "pp", name)?;
        ensure!(ask(host, "qq", &address).is_err(), "they are kept apart");
        ensure!(ask(host, "qq", &format!("{}:8084", host.addr))? == "pp", "but for what is published");
        within(host, "qq", &["busybox", "ping", "-c", "1", "-W", "2", "10.99.0.254"])?;
        host.docker(&["rm", "-f", "pp", "qq"])?;
    }

    let plain = ["-o", "com.docker.network.bridge.enable_ip_masquerade=false"];
    host.docker(&[&["network", "create", "--subnet", "10.85.0.0/24"][..], &plain, &["plain"]].concat())?;
    run(host, "rr", &["--network", "plain"])?;
    let ping = ["busybox", "ping", "-c", "1", "-W", "1", "10.99.0.254"];
    ensure!(within(host, "rr", &ping).is_err(), "its own address, which nobody outside knows the way to");
    lab.outside(&["ip", "route", "add", "10.85.0.0/24", "via", &host.addr])?;
    within(host, "rr", &ping)?;

    refused(
        host,
        &["network", "create", "-o", "com.docker.network.bridge.gateway_mode_ipv4=x", "bad"],
        &["gateway_mode"],
    )?;
    refused(
        host,
        &["network", "create", "--subnet", "10.83.9.0/24", "--ip-range", "10.84.0.0/28", "bad"],
        &["10.84.0.0/28"],
    )?;
    for (subnet, words) in [
        ("10.83.9.5/24", "invalid network config:\ninvalid subnet 10.83.9.5/24: it should be 10.83.9.0/24"),
        ("10.85.0.0/16", "invalid pool request: Pool overlaps with other one on this address space"),
    ] {
        refused(host, &["network", "create", "--subnet", subnet, "bad"], &[words])?;
    }
    for (network, words) in [
        ("plain", "no configured subnet contains IP address 10.86.0.9"),
        (
            "quiet",
            "user specified IP address is supported only when connecting to networks with user configured subnets",
        ),
    ] {
        let words = format!("invalid config for network {network}: invalid endpoint settings:\n{words}");
        let run = ["run", "--rm", "--network", network, "--ip", "10.86.0.9", "whoami:1", "/skep"];
        refused(host, &run, &[&words])?;
    }
    refused(
        host,
        &["run", "--rm", "--ip", "172.17.0.9", "whoami:1", "/skep"],
        &["user specified IP address is supported on user defined networks only"],
    )?;
    lab.down()
}

#[test]
fn ports_and_links_are_dockers() -> Result<()> {
    let lab = lab("nl")?;
    let host = lab.host(1);
    host.docker(&["network", "create", "front"])?;
    // All that is exposed, by the image or the flag, on ports of our choice.
    run(host, "db", &["--expose", "80", "--expose", "53/udp", "-P", "-e", "SECRET=x"])?;
    let published = host.docker(&["port", "db", "80/tcp"])?;
    let port = published.trim().rsplit(':').next().context("a port")?.to_owned();
    ensure!(
        hostname(&host.exec(&["curl", "-sS", &format!("http://127.0.0.1:{port}/")])?)? == "db",
        "{published}"
    );
    ensure!(host.docker(&["port", "db"])?.contains("53/udp ->"));
    // The first free one of a range, and of the whole host.
    host.hold_port(8090)?;
    run(host, "range", &["-p", "8090-8095:80"])?;
    ensure!(host.docker(&["port", "range"])?.contains("0.0.0.0:8091"));
    refused(
        host,
        &[&["run", "--rm", "--name", "late", "-p", "8090:80"][..], &SERVE].concat(),
        &[
            "failed to set up container networking: driver failed programming external connectivity on endpoint late (",
            "failed to bind host port for 0.0.0.0:8090:172.",
            ":80/tcp: address already in use",
        ],
    )?;
    refused(
        host,
        &[&["run", "--rm", "-p", "8090-8091:80"][..], &SERVE].concat(),
        &["all ports are allocated"],
    )?;
    host.skep(&[&["run", "-d", "--name", "range2", "-p", "8090-8095:80"][..], &SERVE].concat())?;
    ensure!(host.docker(&["port", "range2"])?.contains("0.0.0.0:8092"));

    run(host, "app", &["--link", "db:store", "--link", "range"])?;
    let db = address(host, "db", "bridge")?;
    let hosts = file(host, "app", "/etc/hosts")?;
    ensure!(hosts.contains(&format!("{db}\tstore db\n")), "{hosts}");
    let pid = inspect(host, "app", "{{.State.Pid}}")?;
    let env = host.exec(&["cat", &format!("/proc/{pid}/environ")])?;
    for wanted in [
        format!("STORE_PORT=tcp://{db}:80"),
        format!("STORE_PORT_80_TCP_ADDR={db}"),
        "STORE_PORT_53_UDP_PROTO=udp".to_owned(),
        "STORE_NAME=/app/store".to_owned(),
        "STORE_ENV_SECRET=x".to_owned(),
        "RANGE_NAME=/app/range".to_owned(),
    ] {
        ensure!(env.split('\0').any(|v| v == wanted), "{wanted} in {env:?}");
    }
    ensure!(ask(host, "app", &db)? == "db");
    // Who is linked to it learns where it is after a restart.
    host.docker(&["stop", "-t", "0", "db"])?;
    run(host, "taker", &[])?;
    host.docker(&["start", "db"])?;
    let (before, db) = (db, address(host, "db", "bridge")?);
    let hosts = file(host, "app", "/etc/hosts")?;
    ensure!(before != db && hosts.contains(&format!("{db}\tstore db\n")), "{before} {db}: {hosts}");
    ensure!(!hosts.contains(&format!("{before}\tstore")), "{hosts}");
    // And after it has left the network and come back, where another has its address meanwhile.
    host.docker(&["network", "disconnect", "bridge", "db"])?;
    let hosts = file(host, "app", "/etc/hosts")?;
    ensure!(!hosts.contains("store"), "nobody is there now: {hosts}");
    run(host, "taker2", &[])?;
    ensure!(address(host, "taker2", "bridge")? == db);
    host.docker(&["network", "connect", "bridge", "db"])?;
    let db = address(host, "db", "bridge")?;
    let hosts = file(host, "app", "/etc/hosts")?;
    ensure!(hosts.matches("store").count() == 1 && hosts.contains(&format!("{db}\tstore db\n")), "{hosts}");
    host.docker(&["create", "--name", "gone", "whoami:1", "/skep", "whoami"])?;
    refused(
        host,
        &[&["run", "--rm", "--link", "gone:g"][..], &SERVE].concat(),
        &["Cannot link to a non running container: /gone"],
    )?;
    refused(host, &[&["run", "--rm", "--link", "nobody:g"][..], &SERVE].concat(), &["nobody"])?;

    // Another's namespace, and the host's.
    let shares = ["run", "-d", "--name", "side", "--network", "container:app"];
    refused(
        host,
        &[&shares[..], &["-p", "1:1"], &SERVE].concat(),
        &["port publishing and the container type network mode"],
    )?;
    host.docker(&[&shares[..], &["whoami:1", "/skep", "whoami", "81"]].concat())?;
    serves(host, "side", 1)?;
    ensure!(ask(host, "app", "127.0.0.1:81")?.len() >= 3);
    let warned = docker(
        host,
        &[
            "run",
            "-d",
            "--name",
            "open",
            "--network",
            "host",
            "-p",
            "1:1",
            "whoami:1",
            "/skep",
            "whoami",
            "8099",
        ],
    )?;
    ensure!(
        warned.stderr.contains("Published ports are discarded when using host network mode"),
        "{warned:?}"
    );
    host.exec(&[
        "curl",
        "-sS",
        "--retry",
        "20",
        "--retry-connrefused",
        "-o",
        "/dev/null",
        "http://127.0.0.1:8099/",
    ])?;
    refused(host, &["network", "connect", "front", "open"], &["host network"])?;
    refused(host, &["network", "connect", "front", "side"], &["cannot be connected to any other network"])?;

    let mut compare = Compare::new(host);
    for line in [
        "network inspect nothing",
        "network connect nothing db",
        "network connect front nobody",
        "network disconnect front db",
        "network disconnect -f front db",
        "network connect front",
        "network prune --filter x",
        "network prune -f --filter nonsense=1",
        "network ls --filter dangling=true",
        "network ls --filter dangling=false -q",
        "network ls --filter driver=bridge",
        "network ls --filter name=fro",
        "network ls --filter scope=local --format '{{.Name}} {{.Driver}}'",
        "network ls --filter type=builtin",
        "network ls --filter label=none",
        "port db",
        "ps -a --format '{{.Names}} {{.Ports}} {{.Networks}}'",
        "run --rm --network front --ip 10.1.1.1 whoami:1 /skep",
        "run --rm --network-alias x whoami:1 /skep",
    ] {
        compare.same(line)?;
    }
    for line in ["network inspect bridge", "network inspect front host", "inspect db", "inspect app"] {
        compare.same_json(line)?;
    }
    for line in [
        "network create x-@",
        "network connect --alias y --alias z x-@ db",
        "network disconnect x-@ db",
        "network rm x-@",
        "run -d --name x-@ -p 8200-8205:80 --mac-address 02:00:00:00:00:0@ whoami:1 /skep whoami",
        "rm -f x-@",
    ] {
        compare.alike(line)?;
    }
    compare.end()?;
    ensure!(skep(host, &["network", "prune", "-f"])?.stdout == "Deleted Networks:\nfront\n\n");
    lab.down()
}

#[test]
fn containers_sit_on_the_hosts_interface() -> Result<()> {
    let lab = lab("mv")?;
    let host = lab.host(1);
    let network = ["--subnet", "10.99.0.0/24", "--ip-range", "10.99.0.128/28", "--gateway", "10.99.0.254"];
    let create = ["network", "create", "-d", "macvlan", "-o", "parent=eth0"];
    host.docker(&[&create[..], &network, &["lan"]].concat())?;
    run(host, "aa", &["--network", "lan", "-p", "8080:80"])?;
    run(host, "bb", &["--network", "lan", "--ip", "10.99.0.77", "--mac-address", "02:42:0a:00:00:07"])?;
    ensure!(address(host, "aa", "lan")? == "10.99.0.128");
    ensure!(ask(host, "bb", "10.99.0.128")? == "aa" && resolve(host, "aa", "bb")? == "10.99.0.77");
    let link = within(host, "bb", &["ip", "-d", "-o", "link", "show", "eth0"])?;
    ensure!(link.contains("macvlan mode bridge") && link.contains("02:42:0a:00:00:07"), "{link}");
    let routes = within(host, "bb", &["ip", "route"])?;
    ensure!(routes.contains("default via 10.99.0.254 dev eth0"), "{routes}");
    ensure!(
        host.exec(&["curl", "-sS", "--max-time", "3", "http://127.0.0.1:8080/"]).is_err(),
        "no port of the host"
    );

    // Connected and disconnected while they run, and over a daemon's restart.
    host.docker(&["network", "create", "blue"])?;
    host.docker(&["network", "connect", "blue", "aa"])?;
    host.skep(&["network", "disconnect", "lan", "aa"])?;
    ensure!(ask(host, "bb", "10.99.0.128").is_err());
    host.skep(&["network", "connect", "--ip", "10.99.0.99", "lan", "aa"])?;
    host.stop_daemon("-TERM")?;
    host.start_daemon()?;
    ensure!(ask(host, "bb", "10.99.0.99")? == "aa" && resolve(host, "bb", "aa")? == "10.99.0.99");
    host.docker(&["restart", "-t", "1", "aa"])?;
    serves(host, "aa", 2)?;
    ensure!(ask(host, "bb", "10.99.0.99")? == "aa");
    ensure!(hostname(&host.exec(&["curl", "-sS", "http://127.0.0.1:8080/"])?)? == "aa", "by the bridge");

    let mut compare = Compare::new(host);
    // The way out and the names of interfaces are as asked.
    for line in [
        "run -d --name x-@ --network name=blue,gw-priority=2,driver-opt=com.docker.network.endpoint.ifname=web0,driver-opt=com.docker.network.endpoint.sysctls=net.ipv4.conf.IFNAME.log_martians=1 whoami:1 /skep whoami",
        "run --rm --network name=blue,driver-opt=com.docker.network.endpoint.sysctls=net.ipv4.conf.eth0.log_martians=1 whoami:1",
        "network connect --gw-priority -1 --driver-opt com.docker.network.endpoint.ifname=lan7 lan x-@",
        "inspect -f '{{range .NetworkSettings.Networks}}{{.GwPriority}} {{.DriverOpts}} {{end}}' x-@",
        "network connect --driver-opt nope=1 bridge x-@",
    ] {
        compare.alike(line)?;
    }
    for name in ["x-a", "x-b"] {
        let routes = within(host, name, &["ip", "route"])?;
        ensure!(routes.contains("dev web0") && routes.contains("dev lan7"), "{routes}");
        ensure!(!routes.contains("default via 10.99.0.254"), "{routes}");
        let setting = within(host, name, &["cat", "/proc/sys/net/ipv4/conf/web0/log_martians"])?;
        ensure!(setting.trim() == "1", "{setting}");
        host.docker(&["rm", "-f", name])?;
    }
    compare.same("network ls --filter driver=macvlan")?;
    compare.same_json("network inspect lan")?;
    compare.same_code("network rm lan")?;
    for line in [
        "network create -d macvlan -o parent=eth0 x-@",
        "network inspect -f '{{.Driver}} {{.Options}} {{len .IPAM.Config}}' x-@",
        "network create -d ipvlan -o parent=eth0 x-@2",
        "network create -d macvlan -o parent=eth0 -o macvlan_mode=no x-@3",
        "network create -d macvlan -o parent=lo x-@4",
        "network create -d ipvlan -o parent=eth9 -o ipvlan_mode=l4 x-@5",
        "network create -d macvlan -o parent=eth9 x-@6",
        "network rm x-@",
    ] {
        compare.alike(line)?;
    }
    compare.end()?;
    for name in ["aa", "bb"] {
        host.docker(&["rm", "-f", name])?;
    }
    host.docker(&["network", "rm", "lan"])?;
    ensure!(host.exec(&["ip", "-o", "link"])?.contains("eth0"));
    lab.down()
}
