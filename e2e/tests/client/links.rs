//! Links: further names of what they lead to, `rm --link`, and what an `exec` sees of them; with both clients.

use anyhow::{Context, Result, ensure};
use skep_e2e::busybox_image;

use crate::compare::Compare;
use crate::{docker, lab};

#[test]
fn links_are_names_that_can_be_removed() -> Result<()> {
    let lab = lab("li")?;
    let host = lab.host(1);
    let archive = host.dir.join("busybox.tar");
    busybox_image(&["sh", "sleep", "env", "grep", "sort", "cat", "true"], &archive)?;
    host.docker(&["import", archive.to_str().context("a UTF-8 path")?, "busybox"])?;
    let run = |name: &str, more: &[&str]| {
        let first = ["run", "-d", "--name", name];
        host.docker(&[&first[..], more, &["busybox", "sleep", "100000"]].concat())
    };
    run("store", &["--expose", "81", "-e", "SECRET=x"])?;
    run("x-a", &["--link", "store:db", "--link", "store:db2"])?;
    run("x-b", &["--link", "store:db", "--link", "store:db2"])?;
    let names = docker(host, &["ps", "--no-trunc", "--filter", "name=^/store$", "--format", "{{.Names}}"])?;
    ensure!(names.stdout == "store,x-a/db,x-a/db2,x-b/db,x-b/db2\n", "{names:?}");
    let mut c = Compare::new(host);
    for line in [
        "ps --format '{{.Names}}'",
        "ps --no-trunc --format '{{.Names}}'",
        "ps --filter name=x-a/db2 --format '{{.Names}}'",
        "inspect -f '{{.Name}} {{json .HostConfig.Links}}' x-a/db",
        "inspect -f '{{.Name}} {{json .HostConfig.Links}}' /x-b/db2",
        "inspect -f '{{.HostConfig.Links}}' x-a",
        "port x-a/db",
        "logs x-a/db",
        "inspect x-a/nosuch",
        "rm --link x-a",
        "rm --link nosuch/db",
    ] {
        c.same(line)?;
    }
    let seen = docker(host, &["inspect", "-f", "{{.Name}} {{json .HostConfig.Links}}", "x-a"])?;
    ensure!(seen.stdout == "/x-a [\"/store:/x-a/db\",\"/store:/x-a/db2\"]\n", "{seen:?}");
    // An exec is given what the container's command was.
    let wanted = "env | grep ^DB_ | sort";
    let env = docker(host, &["exec", "-e", "DB_NAME=own", "x-a", "sh", "-c", wanted])?;
    for variable in ["DB_PORT_81_TCP_PORT=81\n", "DB_ENV_SECRET=x\n", "DB_NAME=own\n"] {
        ensure!(env.stdout.contains(variable), "{variable} in {env:?}");
    }
    c.alike("exec x-@ sh -c 'env | grep ^DB2_NAME'")?;
    // Only the link goes: a name, a line of /etc/hosts and, from the next start on, variables.
    c.alike("rm --link x-@/db")?;
    c.alike("rm -l x-@/db")?;
    c.alike("exec x-@ sh -c 'grep -c store /etc/hosts; env | grep -c ^DB_'")?;
    c.alike("inspect -f '{{.HostConfig.Links}}' x-@")?;
    let hosts = docker(host, &["exec", "x-a", "cat", "/etc/hosts"])?;
    ensure!(hosts.stdout.contains("\tdb2 ") && !hosts.stdout.contains("\tdb "), "{hosts:?}");
    c.same("inspect -f '{{.State.Running}} {{.Name}}' store")?;
    // They follow both ends' names.
    host.docker(&["rename", "store", "shop"])?;
    host.docker(&["rename", "x-b", "y-b"])?;
    let names = docker(host, &["ps", "--no-trunc", "--filter", "name=^/shop$", "--format", "{{.Names}}"])?;
    ensure!(names.stdout == "shop,x-a/db2,y-b/db2\n", "{names:?}");
    host.docker(&["restart", "-t", "0", "x-a"])?;
    // As with Docker, whose exec asks for what is linked.
    host.docker(&["stop", "-t", "0", "shop"])?;
    c.same("exec x-a true")?;
    let refused = docker(host, &["exec", "x-a", "true"])?;
    ensure!(
        refused.stderr.contains("Cannot link to a non running container: /shop AS /x-a/db2"),
        "{refused:?}"
    );
    // Without --link what the name leads to goes.
    host.docker(&["rm", "x-a/db2"])?;
    ensure!(host.docker(&["ps", "-aq", "--filter", "name=shop"])?.is_empty());
    c.end()?;
    lab.down()
}
