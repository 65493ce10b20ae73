//! Containers in another's network namespace: its host name, domain name and host files are theirs, as with Docker.

use anyhow::{Result, ensure};

use crate::compare::Compare;
use crate::{busybox, docker, lab};

const B: &str = "/bin/busybox";

#[test]
fn a_container_in_anothers_network_has_its_names() -> Result<()> {
    let lab = lab("jn")?;
    let host = lab.host(1);
    busybox(host)?;
    let options = ["--hostname", "web", "--domainname", "shop.example", "--dns", "192.0.2.53"];
    let sleep = ["busybox", B, "sleep", "infinity"];
    host.docker(&[&["run", "-d", "--init", "--name", "xx"], &options[..], &sleep[..]].concat())?;
    let own = |name: &str, script: &str| host.docker(&["exec", name, "sh", "-c", script]);
    let names = format!(
        "{B} hostname; {B} cat /proc/sys/kernel/domainname /etc/hostname /etc/hosts /etc/resolv.conf"
    );
    let of_x = own("xx", &names)?;
    ensure!(of_x.starts_with("web\nshop.example\nweb\n"), "{of_x}");
    // One of its own kind is followed to where the names come from.
    for (name, to) in [("yy", "xx"), ("zz", "yy")] {
        let network = format!("container:{to}");
        host.docker(&[&["run", "-d", "--init", "--name", name, "--network", &network], &sleep[..]].concat())?;
        let seen = own(name, &names)?;
        ensure!(seen == of_x, "{name}: {seen}");
        let files = "{{.Config.Hostname}} {{.Config.Domainname}} {{.HostsPath}} {{.ResolvConfPath}} {{.HostnamePath}}";
        let shown = |name: &str| host.docker(&["inspect", "-f", files, name]);
        ensure!(
            shown(name)? == shown("xx")? && shown(name)?.starts_with("web shop.example /"),
            "{}",
            shown(name)?
        );
    }
    // The namespace itself is where Docker's is told.
    let key = host.docker(&["inspect", "-f", "{{.NetworkSettings.SandboxKey}}", "xx"])?;
    let links = host.exec(&["nsenter", &format!("--net={}", key.trim()), "ip", "-o", "addr"])?;
    let address = host.docker(&["inspect", "-f", "{{.NetworkSettings.IPAddress}}", "xx"])?;
    ensure!(links.contains(address.trim()), "{key}: {links}");
    // What one of them writes there, all see.
    own("zz", "echo 192.0.2.1 added >> /etc/hosts")?;
    ensure!(own("xx", "/bin/busybox cat /etc/hosts")?.contains("192.0.2.1 added"), "xx does not see it");
    let copied = docker(host, &["cp", "zz:/etc/hostname", "-"])?;
    ensure!(copied.stdout.contains("web\n"), "{copied:?}");
    let mut compare = Compare::new(host);
    for option in [
        "--hostname h",
        "--link xx",
        "--dns 192.0.2.1",
        "--add-host a:192.0.2.1",
        "--mac-address 02:00:00:00:00:01",
        "-p 80",
        "-P",
        "--expose 80",
    ] {
        compare.same(&format!("create --network container:xx {option} busybox true"))?;
    }
    compare.end()?;
    // Docker lets the domain name through; it is X's once the container starts.
    host.docker(&[
        "create",
        "--name",
        "dd",
        "--network",
        "container:xx",
        "--domainname",
        "own",
        "busybox",
        "true",
    ])?;
    host.docker(&["rm", "-f", "xx", "yy", "zz", "dd"])?;
    lab.down()
}
