//! Overlay networks with IPv6 beside IPv4 over several hosts: services and containers by names and addresses, apart from
//! other networks, under a daemon that is killed, and by published ports; and in the end nothing is left.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use skep_e2e::swarm::{
    LONG, begun, create, hostname, join, nodes_are, refused, token, wait_running, within, workers,
};
use skep_e2e::{Host, Load, eventually};

const SERVE: [&str; 3] = ["whoami:1", "/skep", "whoami"];

/// The addresses that a name has inside a container.
fn lookup(host: &Host, container: &str, kind: &str, name: &str) -> Result<BTreeSet<String>> {
    let kind = format!("-type={kind}");
    let out = within(host, container, &["busybox", "nslookup", &kind, name, "127.0.0.11"])?;
    let answer = out.lines().skip_while(|l| !l.starts_with("Name:"));
    Ok(answer.filter_map(|l| l.strip_prefix("Address: ")).map(|a| a.trim().to_owned()).collect())
}

/// The one IPv6 address of a name inside a container.
fn six(host: &Host, container: &str, name: &str) -> Result<String> {
    let all = lookup(host, container, "aaaa", name)?;
    let one = all.iter().next().filter(|_| all.len() == 1);
    Ok(one.with_context(|| format!("{name}: {all:?}"))?.clone())
}

/// Who answers a container at an IPv6 address, and which client it saw.
fn ask(host: &Host, container: &str, addr: &str) -> Result<(String, String)> {
    let url = format!("http://[{addr}]/");
    let body = within(host, container, &["curl", "-6", "-gsS", "--max-time", "3", &url])?;
    let client = body.lines().find_map(|l| l.strip_prefix("RemoteAddr: "));
    Ok((hostname(&body)?, client.with_context(|| body.clone())?.to_owned()))
}

fn in_order(host: &Host) -> Result<()> {
    eventually("its kernel is as it should be", LONG, || host.skep(&["system", "check"]).map(drop))
}

/// What of IPv6 overlays leave on a host.
fn traces(host: &Host) -> Result<String> {
    let routes = host.exec(&["ip", "-6", "route", "show", "proto", "83"])?;
    let neighbours = host.exec(&["ip", "-6", "neigh", "show", "nud", "permanent"])?;
    Ok(routes + &neighbours)
}

#[test]
fn services_and_containers_reach_each_other_by_ipv6() -> Result<()> {
    let lab = workers("six")?;
    let (one, two, three) = (lab.host(1), lab.host(2), lab.host(3));
    for host in lab.hosts() {
        let addr = format!("2001:db8:99::{}/64", host.number);
        host.exec(&["ip", "addr", "add", &addr, "dev", "eth0", "nodad"])?;
    }

    // Made, shown, refused.
    let overlay = ["network", "create", "-d", "overlay", "--ipv6"];
    let given = ["--attachable", "--subnet", "fd66:1::/64", "--subnet", "10.66.0.0/24", "both"];
    one.docker(&[&overlay[..], &given].concat())?;
    one.skep(&[&overlay[..], &["chosen"]].concat())?;
    for (more, words) in [
        (&["--subnet", "fd66:1:0:0:8::/80", "no"][..], &["overlaps with fd66:1::/64 of network both"][..]),
        (&["--subnet", "fd67::/64", "--gateway", "fd67::1", "no"], &["Gateway", "overlay"]),
        (&["--subnet", "fd67::/120", "no"], &["at most 116"]),
    ] {
        refused(one, &[&overlay[..], more].concat(), words)?;
    }
    refused(one, &["network", "create", "-d", "overlay", "--subnet", "fd67::/64", "no"], &["--ipv6"])?;
    let format = "{{.EnableIPv6}} {{range .IPAM.Config}}{{.Subnet}} {{.Gateway}} {{end}}";
    let shown = one.docker(&["network", "inspect", "-f", format, "both"])?;
    ensure!(shown.trim() == "true 10.66.0.0/24 10.66.0.1 fd66:1::/64 fd66:1::1", "{shown}");
    let spread = ["--network", "both", "--replicas-max-per-node", "1", "--hostname", "{{.Node.Hostname}}"];
    create(one, "web", 3, &spread)?;
    create(one, "dns", 2, &["--network", "both", "--endpoint-mode", "dnsrr", "--network", "chosen"])?;
    create(one, "apart", 1, &["--network", "chosen"])?;
    for (service, replicas) in [("web", 3), ("dns", 2), ("apart", 1)] {
        wait_running(one, service, replicas)?;
    }
    let run = ["run", "-d", "--network", "both"];
    two.docker(
        &[
            &run[..],
            &["--name", "aa", "--hostname", "a", "--ip6", "fd66:1::beef", "--network-alias", "al"],
            &SERVE,
        ]
        .concat(),
    )?;
    three.skep(&[&run[..], &["--name", "bb", "--hostname", "b"], &SERVE].concat())?;
    refused(three, &[&run[..], &["--rm", "--ip6", "fd66:1::beef"], &SERVE].concat(), &["already in use"])?;
    refused(
        three,
        &[&run[..], &["--rm", "--ip6", "fd77::1"], &SERVE].concat(),
        &["not in subnet fd66:1::/64"],
    )?;

    // Addresses, of both families everywhere.
    let vips =
        one.docker(&["service", "inspect", "-f", "{{range .Endpoint.VirtualIPs}}{{.Addr}} {{end}}", "web"])?;
    ensure!(vips.trim() == "10.66.0.192/32 fd66:1::c0/128", "{vips}");
    let id = one.docker(&["service", "ps", "-q", "--no-trunc", "apart"])?;
    let format = "{{range .NetworksAttachments}}{{range .Addresses}}{{.}} {{end}}{{end}}";
    let addresses = one.docker(&["inspect", "--type", "task", "-f", format, id.trim()])?;
    let apart = addresses.split_whitespace().find(|a| a.contains(':')).context(addresses.clone())?.to_owned();
    ensure!(apart.starts_with("fd"), "the swarm's own: {addresses}");
    let format = "{{with index .NetworkSettings.Networks \"both\"}}{{.GlobalIPv6Address}}/{{.GlobalIPv6PrefixLen}}{{end}}";
    let shown = two.docker(&["inspect", "-f", format, "aa"])?;
    ensure!(shown.trim() == "fd66:1::beef/64", "{shown}");
    let format = "{{.EnableIPv6}} {{range .Containers}}{{.IPv6Address}} {{end}}";
    let shown = two.docker(&["network", "inspect", "-f", format, "both"])?;
    ensure!(shown.starts_with("true") && shown.contains("fd66:1::beef/64"), "{shown}");

    // Names.
    eventually("all names are known", LONG, || {
        ensure!(six(two, "aa", "web")? == "fd66:1::c0");
        ensure!(lookup(two, "aa", "a", "web")?.len() == 1);
        ensure!(lookup(two, "aa", "aaaa", "tasks.web")?.len() == 3);
        ensure!(lookup(two, "aa", "aaaa", "dns")?.len() == 2);
        ensure!(six(three, "bb", "al")? == "fd66:1::beef");
        Ok(())
    })?;
    let b = six(two, "aa", "bb")?;
    let names = within(two, "aa", &["busybox", "nslookup", &b, "127.0.0.11"])?;
    ensure!(names.contains("bb.both"), "{names}");

    // Across hosts, by virtual address and directly.
    let everywhere = |host: &Host, container: &str| {
        eventually(&format!("{container} reaches every task by the virtual address"), LONG, || {
            let asked = (0..12).map(|_| Ok(ask(host, container, "fd66:1::c0")?.0));
            let seen = asked.collect::<Result<BTreeSet<String>>>()?;
            ensure!(seen.len() == 3, "{seen:?}");
            Ok(())
        })
    };
    everywhere(two, "aa")?;
    everywhere(three, "bb")?;
    ensure!(ask(two, "aa", &b)?.0 == "b", "a container of another host");
    let (name, client) = ask(three, "bb", "fd66:1::beef")?;
    ensure!(name == "a" && client.starts_with(&format!("[{b}]:")), "{name} {client}");
    for addr in lookup(two, "aa", "aaaa", "tasks.web")? {
        within(two, "aa", &["busybox", "ping", "-6", "-c", "1", "-W", "3", &addr])?;
    }
    // Large ones, too: the tunnel's MTU is the container's.
    within(two, "aa", &["busybox", "ping", "-6", "-c", "1", "-W", "3", "-s", "4000", &b])?;
    // Out of the host, as the host.
    within(two, "aa", &["busybox", "ping", "-6", "-c", "1", "-W", "3", "2001:db8:99::3"])?;
    // And nowhere else.
    ensure!(ask(two, "aa", &apart).is_err(), "another network");
    ensure!(ask(three, "bb", &apart).is_err(), "another network");
    ensure!(lookup(two, "aa", "aaaa", "apart").map_or(true, |all| all.is_empty()));
    lab.hosts().iter().try_for_each(in_order)?;

    // A killed daemon changes nothing, nor does the next one.
    two.stop_daemon("-KILL")?;
    ensure!(ask(three, "bb", "fd66:1::beef")?.0 == "a", "it goes on without a daemon");
    two.start_daemon()?;
    everywhere(two, "aa")?;
    ensure!(ask(three, "bb", "fd66:1::beef")?.0 == "a");
    in_order(two)?;

    // Nothing is left.
    one.docker(&["service", "rm", "web", "dns", "apart"])?;
    two.docker(&["rm", "-f", "aa"])?;
    three.docker(&["rm", "-f", "bb"])?;
    for network in ["both", "chosen"] {
        eventually("the network is free", LONG, || one.docker(&["network", "rm", network]).map(drop))?;
    }
    for host in lab.hosts() {
        eventually("nothing of it is left", LONG, || {
            let left = traces(host)?;
            ensure!(left.trim().is_empty(), "{left}");
            Ok(())
        })?;
        in_order(host)?;
    }
    lab.down()
}

#[test]
fn published_ports_answer_by_ipv6_where_the_ingress_network_has_it() -> Result<()> {
    let lab = begun("sixp", 2)?;
    let (one, two) = (lab.host(1), lab.host(2));
    join(two, &token(one, "worker")?, "10.99.0.1:2377")?;
    nodes_are(one, "two nodes are ready", &["Ready Leader", "Ready"])?;
    lab.outside(&["ip", "addr", "add", "2001:db8:99::fe/64", "dev", "br0", "nodad"])?;
    for host in lab.hosts() {
        let addr = format!("2001:db8:99::{}/64", host.number);
        host.exec(&["ip", "addr", "add", &addr, "dev", "eth0", "nodad"])?;
    }
    let answer = one.request("DELETE", "/v1.50/networks/ingress", "")?;
    ensure!(answer.status == 204, "{} {}", answer.status, answer.body);
    eventually("the ingress network is made anew", LONG, || {
        one.docker(&["network", "create", "-d", "overlay", "--ingress", "--ipv6", "ingress"]).map(drop)
    })?;
    one.docker(&["network", "create", "-d", "overlay", "plain"])?;
    let service = ["service", "create", "-d", "--no-resolve-image", "--name", "web", "--replicas", "2"];
    let more = ["--network", "plain", "--replicas-max-per-node", "1", "-p", "8080:80", "--drain-time", "4s"];
    let rest = ["--hostname", "{{.Node.Hostname}}", "whoami:1", "/skep", "whoami"];
    one.skep(&[&service[..], &more, &rest].concat())?;
    wait_running(one, "web", 2)?;

    // From outside: whichever node is asked, each task sees the client.
    let url = |addr: &str| format!("http://[{addr}]:8080/");
    let curl = |url: &str| ["curl", "-6", "-gsS", "--max-time", "3", url].map(str::to_owned);
    let both = |what: &str, ask: &dyn Fn() -> Result<String>| {
        eventually(&format!("both tasks answer {what}"), LONG, || {
            let mut seen = BTreeSet::new();
            for _ in 0..10 {
                seen.insert(hostname(&ask()?)?);
            }
            ensure!(seen.len() == 2, "{seen:?}");
            Ok(())
        })
    };
    for (host, other) in [(one, two), (two, one)] {
        let at = |host: &Host| format!("2001:db8:99::{}", host.number);
        let outside = curl(&url(&at(host)));
        let outside: Vec<&str> = outside.iter().map(String::as_str).collect();
        both("from outside", &|| {
            let body = lab.outside(&outside)?;
            ensure!(body.contains("RemoteAddr: [2001:db8:99::fe]:"), "{body}");
            Ok(body)
        })?;
        // A process of a node reaches also the task of its own node by the other one, which sees that.
        let around = curl(&url(&at(other)));
        let around: Vec<&str> = around.iter().map(String::as_str).collect();
        both("by the other node", &|| {
            let body = host.exec(&around)?;
            let seen = body.contains(&format!("RemoteAddr: [{}]:", at(host)));
            ensure!(seen != (hostname(&body)? == host.name), "{body}");
            Ok(body)
        })?;
        let loopback = curl(&url("::1"));
        let loopback: Vec<&str> = loopback.iter().map(String::as_str).collect();
        both("by the loopback", &|| host.exec(&loopback))?;
        let four = ["curl", "-sS", "--max-time", "3", "http://127.0.0.1:8080/"];
        both("by IPv4", &|| host.exec(&four))?;
        in_order(host)?;
    }

    // On one address of the second host only, of a task that the first one runs.
    let flag = format!("published=8081,target=80,host_ip=2001:db8:99::{}", two.number);
    let at_one = format!("node.hostname=={}", one.name);
    let create = ["service", "create", "-d", "--no-resolve-image", "--name", "own", "--constraint", &at_one];
    let more = ["--idle-timeout", "1h", "--publish", &flag, "whoami:1", "/skep", "whoami"];
    one.skep(&[&create[..], &more].concat())?;
    wait_running(one, "own", 1)?;
    let asked = |host: &Host| {
        let url = format!("http://[2001:db8:99::{}]:8081/", host.number);
        lab.outside(&["curl", "-6", "-gsS", "--max-time", "3", &url])
    };
    eventually("the address that is named answers, across hosts", LONG, || {
        let body = asked(two)?;
        ensure!(body.contains("RemoteAddr: [2001:db8:99::fe]:"), "{body}");
        Ok(())
    })?;
    ensure!(asked(one).is_err(), "no other address does");
    lab.hosts().iter().try_for_each(in_order)?;
    one.docker(&["service", "rm", "own"])?;

    // Connections outlive the drain of their task's node.
    let doors = lab.hosts().iter().map(|h| format!("[2001:db8:99::{}]:8080", h.number).parse());
    let doors = doors.collect::<Result<Vec<SocketAddr>, _>>()?;
    let load = Load::start(lab.outside_netns(), doors, Duration::from_millis(500));
    load.wait_for(100)?;
    one.docker(&["node", "update", "--availability", "drain", &two.name])?;
    eventually("the drained node is empty", LONG, || {
        let left = two.docker(&["ps", "-q"])?;
        ensure!(left.is_empty(), "{left}");
        Ok(())
    })?;
    load.wait_for(100)?;
    println!("{} requests, none failed", load.finish()?);
    one.docker(&["service", "rm", "web"])?;
    for host in lab.hosts() {
        eventually("nobody answers any more", LONG, || {
            let url = url(&format!("2001:db8:99::{}", host.number));
            ensure!(lab.outside(&["curl", "-6", "-gsS", "--max-time", "3", &url]).is_err());
            Ok(())
        })?;
        in_order(host)?;
    }
    lab.down()
}
