//! Services' ports on one address of the hosts, through the mesh and of the hosts themselves, by flags and Compose files.

use anyhow::{Result, bail, ensure};
use skep_e2e::swarm::{LONG, begun, join, nodes_are, path, token, wait_running, workers};
use skep_e2e::{Host, eventually};

/// A second address of each host.
fn second(host: &Host) -> String {
    format!("10.98.0.{}", host.number)
}

fn opens(host: &Host, at: &str, port: u16) -> bool {
    let url = format!("http://{at}:{port}/");
    host.exec(&["curl", "-sS", "--max-time", "3", &url]).is_ok_and(|body| body.contains("Hostname: "))
}

/// Open on exactly these addresses of exactly these hosts, asked from the first host.
fn open_at(from: &Host, hosts: &[Host], port: u16, wanted: &[String]) -> Result<()> {
    eventually(&format!("port {port} is open where it should be"), LONG, || {
        for host in hosts {
            for at in [host.addr.clone(), second(host)] {
                let open = opens(from, &at, port);
                ensure!(
                    open == wanted.contains(&at),
                    "{at}:{port} is {}",
                    if open { "open" } else { "closed" }
                );
            }
        }
        Ok(())
    })
}

#[test]
fn ports_are_open_on_the_one_address_that_is_named() -> Result<()> {
    let lab = workers("hostip")?;
    let [one, two, three] = lab.hosts() else { bail!("three hosts") };
    for host in lab.hosts() {
        let dev =
            host.exec(&["sh", "-c", &format!("ip -o -4 addr show to {} | awk '{{print $2}}'", host.addr)])?;
        host.exec(&["ip", "addr", "add", &format!("{}/24", second(host)), "dev", dev.trim()])?;
    }
    let hosts = lab.hosts();
    let run = ["whoami:1", "/skep", "whoami"];
    let create = ["service", "create", "-d", "--no-resolve-image", "--stop-grace-period", "0s", "--name"];

    // Through the mesh: on the node that has the address, whichever runs the task; 17 tasks have another map.
    let flag = format!("published=8080,target=80,host_ip={}", second(two));
    let at_three = format!("node.hostname=={}", three.name);
    one.skep(&[&create[..], &["mesh", "--constraint", &at_three, "--publish", &flag], &run].concat())?;
    wait_running(one, "mesh", 1)?;
    open_at(one, hosts, 8080, &[second(two)])?;
    ensure!(opens(two, &second(two), 8080) && !opens(two, "127.0.0.1", 8080));
    let shown = one.skep(&["service", "inspect", "mesh"])?;
    ensure!(shown.contains(&format!("\"HostIP\": \"{}\"", second(two))), "{shown}");
    let listed = one.skep(&["service", "ls", "--format", "{{.Ports}}"])?;
    ensure!(listed.trim() == format!("{}:8080->80/tcp", second(two)), "{listed}");

    // Docker's client, which knows nothing of it, leaves it as it is.
    one.docker(&["service", "update", "-d", "--no-resolve-image", "--label-add", "a=b", "mesh"])?;
    open_at(one, hosts, 8080, &[second(two)])?;
    one.docker(&["service", "scale", "-d", "mesh=17"])?;
    wait_running(one, "mesh", 17)?;
    open_at(one, hosts, 8080, &[second(two)])?;
    // The other addresses of that port are free for programs of the hosts.
    let held = two.exec(&["sh", "-c", &format!("busybox nc -l -p 8080 -s {} -w 1; echo $?", two.addr)]);
    ensure!(!held.unwrap_or_default().contains("in use"), "the port is held on every address");
    // Every address again.
    one.skep(&[
        "service",
        "update",
        "-d",
        "--no-resolve-image",
        "--publish-add",
        "published=8080,target=80,host_ip=0.0.0.0",
        "mesh",
    ])?;
    let all: Vec<String> = hosts.iter().flat_map(|h| [h.addr.clone(), second(h)]).collect();
    open_at(one, hosts, 8080, &all)?;
    one.docker(&["service", "rm", "mesh"])?;

    // Of the host itself.
    let flag = format!("published=8081,target=80,mode=host,host_ip={}", second(three));
    one.skep(&[&create[..], &["own", "--constraint", &at_three, "--publish", &flag], &run].concat())?;
    wait_running(one, "own", 1)?;
    open_at(one, hosts, 8081, &[second(three)])?;

    // In a Compose file; a file that says nothing of it any more opens it.
    let file = one.dir.join("c.yml");
    let text = |port: &str| {
        format!(
            "services:\n  web:\n    image: whoami:1\n    entrypoint: [/skep, whoami]\n    stop_grace_period: 0s\n    ports: [{port}]\n    \
             deploy: {{placement: {{constraints: [\"{at_three}\"]}}}}\n"
        )
    };
    let deploy = ["stack", "deploy", "--resolve-image", "never", "--detach=true", "-c", path(&file), "s"];
    std::fs::write(&file, text(&format!("\"{}:8082:80\"", second(two))))?;
    one.skep(&deploy)?;
    wait_running(one, "s_web", 1)?;
    open_at(one, hosts, 8082, &[second(two)])?;
    std::fs::write(&file, text("\"8082:80\""))?;
    one.skep(&deploy)?;
    open_at(one, hosts, 8082, &all)?;

    // What is no address of a host.
    let bad = one.request(
        "POST",
        "/v1.50/services/create",
        r#"{"TaskTemplate":{"ContainerSpec":{"Image":"x"}},"EndpointSpec":{"Ports":[{"TargetPort":80,"HostIP":"::1"}]}}"#,
    )?;
    ensure!(bad.status == 400 && bad.body.contains("the ingress network has none"), "{bad:?}");
    lab.down()
}

/// The two ways to say it.
fn interface_file(host: &Host, door: &str) -> Result<std::path::PathBuf> {
    let file = host.dir.join("c.yml");
    let text = "services:\n  web:\n    image: whoami:1\n    entrypoint: [/skep, whoami]\n    stop_grace_period: 0s\n    ports:\n      - {target: 80, \
                published: 8083";
    std::fs::write(&file, format!("{text}, {door}}}\n"))?;
    Ok(file)
}

#[test]
fn ports_follow_the_addresses_of_an_interface() -> Result<()> {
    let lab = begun("hostif", 2)?;
    let [one, two] = lab.hosts() else { bail!("two hosts") };
    join(two, &token(one, "worker")?, "10.99.0.1:2377")?;
    nodes_are(one, "both nodes are ready", &["Ready Leader", "Ready"])?;
    let at = |addr: &'static str, port: u16, open: bool| {
        eventually(&format!("{addr}:{port} is open: {open}"), LONG, || {
            ensure!(opens(one, addr, port) == open);
            Ok(())
        })
    };
    let create = ["service", "create", "-d", "--no-resolve-image", "--stop-grace-period", "0s", "--name"];
    let run = ["whoami:1", "/skep", "whoami"];
    let door = "published=8080,target=80,host_ip=data0";
    one.skep(&[&create[..], &["web", "--replicas", "2", "--publish", door], &run].concat())?;
    wait_running(one, "web", 2)?;
    let shown = one.skep(&["service", "inspect", "web"])?;
    ensure!(shown.contains("\"HostIP\": \"data0\""), "{shown}");
    let listed = one.skep(&["service", "ls", "--format", "{{.Ports}}"])?;
    ensure!(listed.trim() == "data0:8080->80/tcp", "{listed}");

    // The same of a port of the host itself.
    let at_two = format!("node.hostname=={}", two.name);
    let door = "published=8081,target=80,mode=host,host_ip=data0";
    one.skep(&[&create[..], &["own", "--constraint", &at_two, "--publish", door], &run].concat())?;
    wait_running(one, "own", 1)?;
    let task = two.docker(&["ps", "-q", "--no-trunc", "--filter", "name=own"])?.trim().to_owned();
    let shown = two.docker(&["inspect", "-f", "{{json .HostConfig.PortBindings}}", &task])?;
    ensure!(shown.contains("\"HostIp\":\"data0\""), "{shown}");

    // No host has it: nowhere, and it says so.
    for (addr, port) in [("10.99.0.1", 8080), ("10.99.0.2", 8080), ("10.99.0.2", 8081)] {
        at(addr, port, false)?;
    }
    eventually("the log says so", LONG, || {
        let log = std::fs::read_to_string(two.log())?;
        ensure!(log.contains("no such interface") && log.contains("data0"));
        Ok(())
    })?;
    // It comes, gets another address, and goes.
    for addr in ["10.98.0.2", "10.98.0.22"] {
        one.exec(&["ip", "route", "add", addr, "via", "10.99.0.2"])?;
    }
    two.exec(&[
        "sh",
        "-c",
        "ip link add data0 type veth peer name data1 && ip link set data0 up && ip link set data1 up",
    ])?;
    two.exec(&["ip", "addr", "add", "10.98.0.2/24", "dev", "data0"])?;
    for port in [8080, 8081] {
        at("10.98.0.2", port, true)?;
        at("10.99.0.2", port, false)?;
        ensure!(opens(two, "10.98.0.2", port), "from the host itself");
    }
    // A container without IPv6 is served by its shim there, also under the next daemon.
    let six = ["[fd98::2]", "[fd98::22]"];
    let at_six = |addr: &'static str, open: bool| {
        eventually(&format!("{addr}:8081 is open: {open}"), LONG, || {
            ensure!(opens(two, addr, 8081) == open);
            Ok(())
        })
    };
    two.exec(&["ip", "addr", "add", "fd98::2/64", "dev", "data0", "nodad"])?;
    at_six(six[0], true)?;
    let ports = |wanted: &[&str]| {
        eventually(&format!("ports of the container are at {wanted:?}"), LONG, || {
            let shown =
                two.docker(&["ps", "--no-trunc", "--format", "{{.Ports}}", "--filter", "name=own"])?;
            let mut shown: Vec<_> = shown.trim().split(", ").filter(|p| !p.is_empty()).collect();
            shown.sort_unstable();
            let wanted: Vec<_> = wanted.iter().map(|w| format!("{w}:8081->80/tcp")).collect();
            ensure!(shown == wanted, "{shown:?}");
            Ok(())
        })
    };
    ports(&["10.98.0.2", "[fd98::2]"])?;
    two.stop_daemon("-KILL")?;
    two.exec(&["ip", "addr", "add", "fd98::22/64", "dev", "data0", "nodad"])?;
    two.exec(&["ip", "addr", "del", "fd98::2/64", "dev", "data0"])?;
    two.start_daemon()?;
    at_six(six[1], true)?;
    ports(&["10.98.0.2", "[fd98::22]"])?;
    at("10.98.0.2", 8081, true)?;
    // Only that address is taken: a program may have the port on another.
    let held = two.exec(&["sh", "-c", "busybox nc -l -p 8081 -s 10.99.0.2 -w 1; echo $?"]);
    ensure!(!held.unwrap_or_default().contains("in use"), "the port is held on every address");
    one.docker(&["service", "update", "-d", "--no-resolve-image", "--label-add", "a=b", "web"])?;
    two.exec(&["ip", "addr", "add", "10.98.0.22/24", "dev", "data0"])?;
    at("10.98.0.22", 8080, true)?;
    at("10.98.0.2", 8080, true)?;
    two.exec(&["ip", "addr", "del", "10.98.0.2/24", "dev", "data0"])?;
    two.exec(&["ip", "addr", "add", "10.98.0.22/24", "dev", "data0"])?;
    two.exec(&["ip", "addr", "add", "10.98.0.2/32", "dev", "lo"])?;
    for port in [8080, 8081] {
        at("10.98.0.2", port, false)?;
        at("10.98.0.22", port, true)?;
    }
    for host in lab.hosts() {
        host.skep(&["system", "check"])?;
    }
    let file = interface_file(one, "host_ip: data0")?;
    one.skep(&["stack", "deploy", "--resolve-image", "never", "--detach=true", "-c", path(&file), "s"])?;
    wait_running(one, "s_web", 1)?;
    at("10.98.0.22", 8083, true)?;
    at("10.99.0.2", 8083, false)?;
    two.exec(&["ip", "link", "del", "data0"])?;
    two.exec(&["ip", "addr", "add", "10.98.0.22/32", "dev", "lo"])?;
    at("10.98.0.22", 8080, false)?;
    at("10.98.0.22", 8081, false)?;
    ports(&[])?;
    let same = two.docker(&["ps", "-q", "--no-trunc", "--filter", "name=own"])?;
    ensure!(same.trim() == task, "the same container");

    // What cannot be.
    for (flags, why) in [
        ("target=80,mode=host,host_ip=data0", "needs a number"),
        ("published=8084,target=80,host_ip=no/such", "name of an interface"),
    ] {
        let refused = one.skep(&[&create[..], &["bad", "--publish", flags], &run].concat());
        ensure!(format!("{refused:?}").contains(why), "{refused:?}");
    }
    let file = interface_file(one, "host_ip: 10.98.0")?;
    let refused = one.skep(&["stack", "deploy", "-c", path(&file), "s"]);
    ensure!(format!("{refused:?}").contains("c.yml:7:"), "{refused:?}");
    lab.down()
}
