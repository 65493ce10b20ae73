//! What both clients refuse of what is typed, in the same words and with the same exit codes.

use anyhow::{Result, ensure};

use super::{docker, lab, skep};
use crate::compare::Compare;

#[test]
fn what_is_typed_wrong_is_refused_alike() -> Result<()> {
    let lab = lab("re")?;
    let host = lab.host(1);
    let mut c = Compare::new(host);
    let long = "0".repeat(64);
    for line in [
        "run busybox:bad:tag",
        "create busybox:bad:tag",
        "run busyBOX",
        "run a/B:1",
        "pull x:y:z",
        "push x:y:z",
        "tag x:y:z a",
        "tag whoami:1 X",
        "run -p foo whoami:1",
        "create -p foo whoami:1",
        "run -p 1:2:3:4 whoami:1",
        "run -p 80:foo whoami:1",
        "run -p 99999:80 whoami:1",
        "run -p 80:99999 whoami:1",
        "run -p 80/foo whoami:1",
        "run -p 1.2.3:80:80 whoami:1",
        "run -p [::1:80:80 whoami:1",
        "run -p 10-12:80-81 whoami:1",
        "run -p 1-x:80 whoami:1",
        "run -p 80:80-79 whoami:1",
        "run -p 82-80:80-82 whoami:1",
        "run -p : whoami:1",
        "run -p published=80 whoami:1",
        "run -p target=80,published=foo whoami:1",
        "run -p target=80,published whoami:1",
        "run --mac-address foo whoami:1",
        "create --mac-address 02:42:0a:5b:00 whoami:1",
        "run --network host --mac-address 02:42:0a:5b:00:01 whoami:1",
        "run --network none --mac-address 02:42:0a:5b:00:01 whoami:1",
        "run --pull foo whoami:1",
        "create --pull foo whoami:1",
        "rename a b c",
        "rename a",
        "port",
        "port a b c",
        "commit",
        "commit a b c",
        "logs a b",
        "version extra",
        "network create a b",
        "secret create a b c",
        "version --format '{{bad'",
        "version --format '{{'",
        "version --format '{{bad}}'",
        "info --format '{{bad'",
        "inspect --format '{{bad' whoami:1",
        "network inspect --format '{{.Name' bridge",
        "events --format '{{bad'",
        "ps --format '{{bad'",
        "rmi nosuch",
        "rmi nosuch:1",
        "image inspect nosuch",
        "history nosuch",
        "tag nosuch other",
        "save -o /tmp/skep-nosuch.tar nosuch",
        "run --pull never nosuch",
        "network create --config-only --internal conf",
        "network create --config-only --attachable conf",
        "network create --config-only --config-from conf conf2",
        "network create --config-from nosuch made",
        "network create --config-from nosuch --subnet 10.98.0.0/24 made",
        "network create --config-from nosuch --opt a=b made",
        "network create --ipam-driver nosuch made",
    ] {
        c.same(line)?;
    }
    c.same(&format!("rmi {long}"))?;
    // Docker's own words have a slip here.
    for line in ["volume create a b", "logout a b"] {
        let [ours, theirs] = [
            skep(host, &line.split(' ').collect::<Vec<_>>())?,
            docker(host, &line.split(' ').collect::<Vec<_>>())?,
        ];
        ensure!(
            ours.code == theirs.code && ours.stderr == theirs.stderr.replace("SRun", "Run"),
            "{line}: {ours:?}, {theirs:?}"
        );
    }
    // In the long form a port is published too.
    c.alike("run -d --name x-@ -p target=80,published=8210-8219,protocol=tcp whoami:1 /skep whoami")?;
    c.alike("rm -f x-@")?;
    c.end()?;
    lab.down()
}

/// Networks made from the settings of another.
#[test]
fn networks_are_made_from_configuration_networks() -> Result<()> {
    let lab = lab("rc")?;
    let host = lab.host(1);
    let mut c = Compare::new(host);
    host.docker(&[
        "network",
        "create",
        "--config-only",
        "--subnet",
        "10.97.0.0/24",
        "--gateway",
        "10.97.0.9",
        "--opt",
        "com.docker.network.driver.mtu=1400",
        "--label",
        "a=b",
        "conf",
    ])?;
    host.docker(&["network", "create", "--config-from", "conf", "made"])?;
    for line in [
        "network ls --filter name=conf --format '{{.Name}} {{.Driver}} {{.Scope}} {{.Labels}}'",
        "network ls --filter name=made --format '{{.Name}} {{.Driver}} {{.Scope}} {{.Labels}}'",
        "network inspect -f '{{.ConfigOnly}} {{.ConfigFrom.Network}} {{.Options}} {{range .IPAM.Config}}{{.Subnet}} {{.Gateway}}{{end}}' conf made",
        "network create conf",
        "network create --config-only made",
        "run --rm --network conf whoami:1 /skep whoami",
        "network create --config-from conf again",
    ] {
        c.same(line)?;
    }
    let shown = docker(
        host,
        &[
            "network",
            "inspect",
            "-f",
            "{{.Driver}} {{.ConfigOnly}} {{.ConfigFrom.Network}} {{range .IPAM.Config}}{{.Subnet}} {{.Gateway}}{{end}} {{.Options}} {{.Labels}}",
            "conf",
            "made",
        ],
    )?;
    ensure!(
        shown.stdout
            == "null true  10.97.0.0/24 10.97.0.9 map[com.skep.network.driver.mtu:1400] map[a:b]\nbridge false conf 10.97.0.0/24 10.97.0.9 map[com.skep.network.driver.mtu:1400] map[a:b]\n",
        "{shown:?}"
    );
    host.docker(&["run", "-d", "--name", "in", "--network", "made", "whoami:1", "/skep", "whoami"])?;
    let address = host.docker(&["inspect", "-f", "{{.NetworkSettings.Networks.made.IPAddress}}", "in"])?;
    ensure!(address.trim() == "10.97.0.1", "the lowest that is free, and not {address}");
    host.docker(&["rm", "-f", "in"])?;
    let in_use = docker(host, &["network", "rm", "conf"])?;
    ensure!(in_use.stderr.contains("configuration network \"conf\" is in use"), "{in_use:?}");
    // Settings outlive the daemon, and are no prune's business.
    host.stop_daemon("-TERM")?;
    host.start_daemon()?;
    ensure!(host.docker(&["network", "prune", "-f"])?.contains("made"));
    ensure!(host.docker(&["network", "ls", "-q", "--filter", "name=made"])?.is_empty());
    let skeps = skep(host, &["network", "create", "--config-from", "conf", "-d", "bridge", "made"])?;
    ensure!(skeps.code == Some(0), "{skeps:?}");
    host.skep(&["network", "rm", "made", "conf"])?;
    let skeps = skep(host, &["network", "create", "--config-only", "--subnet", "10.96.0.0/24", "other"])?;
    ensure!(skeps.code == Some(0), "{skeps:?}");
    c.same("network inspect -f '{{.ConfigOnly}}' other")?;
    c.end()?;
    lab.down()
}
