//! `events` of images, networks, volumes, services and nodes, as both clients show them.

use std::time::{SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result, ensure};

use super::{docker, lab, skep};

#[test]
fn networks_services_and_nodes_have_events_with_their_scope() -> Result<()> {
    let lab = lab("ev")?;
    let host = lab.host(1);
    let since =
        (std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH)?.as_secs() - 1).to_string();
    host.docker(&["swarm", "init", "--advertise-addr", &host.addr])?;
    host.docker(&["network", "create", "local1"])?;
    host.docker(&["run", "-d", "--name", "web", "--network", "local1", "whoami:1", "/skep", "whoami"])?;
    host.docker(&["network", "create", "local2"])?;
    host.docker(&["network", "connect", "local2", "web"])?;
    host.docker(&["network", "disconnect", "local2", "web"])?;
    host.docker(&["rm", "-f", "web"])?;
    host.docker(&["network", "rm", "local1", "local2"])?;
    host.docker(&["volume", "create", "vol"])?;
    host.docker(&["volume", "rm", "vol"])?;
    host.docker(&["network", "create", "-d", "overlay", "over"])?;
    host.docker(&[
        "service",
        "create",
        "--detach",
        "--name",
        "svc",
        "--replicas",
        "1",
        "whoami:1",
        "/skep",
        "whoami",
    ])?;
    host.docker(&["service", "update", "--detach", "--replicas", "2", "svc"])?;
    host.docker(&["service", "rm", "svc"])?;
    host.docker(&["network", "rm", "over"])?;
    let node = host.docker(&["node", "ls", "-q"])?;
    host.docker(&["node", "update", "--availability", "drain", node.trim()])?;
    let until =
        (std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH)?.as_secs() + 1).to_string();
    let shown = |filters: &[&str], format: &str| -> Result<String> {
        let mut args = vec!["events", "--since", &since, "--until", &until, "--format", format];
        for f in filters {
            args.extend(["--filter", f]);
        }
        let (ours, theirs) = (skep(host, &args)?, docker(host, &args)?);
        ensure!(ours == theirs, "{ours:?} is not {theirs:?}");
        Ok(theirs.stdout)
    };
    let named = "{{.Type}} {{.Action}} {{.Actor.Attributes.name}} {{.Scope}}";
    for (filters, wanted) in [
        (
            &["type=network", "network=local1"][..],
            "network create local1 local\nnetwork connect local1 local\nnetwork disconnect local1 local\nnetwork destroy local1 local\n",
        ),
        (
            &["network=local2"],
            "network create local2 local\nnetwork connect local2 local\nnetwork disconnect local2 local\nnetwork destroy local2 local\n",
        ),
        (&["network=over", "event=create"], "network create over swarm\n"),
        (&["network=over", "event=remove"], "network remove over swarm\n"),
        (&["service=svc", "event=create"], "service create svc swarm\n"),
        (&["service=svc", "event=remove", "scope=swarm"], "service remove svc swarm\n"),
        (&["service=svc", "scope=local"], ""),
    ] {
        let got = shown(filters, named)?;
        ensure!(got == wanted, "{filters:?}: {got:?}");
    }
    let updates = shown(&["type=service", "event=update"], "{{json .Actor.Attributes}}")?;
    ensure!(
        updates.contains("\"replicas.new\":\"2\"") && updates.contains("\"replicas.old\":\"1\""),
        "{updates}"
    );
    let node = shown(&["type=node", "event=update"], "{{json .Actor.Attributes}}")?;
    ensure!(node.contains("\"availability.new\":\"drain\""), "{node}");
    let volume = shown(&["type=volume"], "{{.Action}} {{.Actor.ID}} {{.Scope}}")?;
    ensure!(volume == "create vol local\ndestroy vol local\n", "{volume}");
    lab.down()
}

#[test]
fn events_of_images_and_prunes_are_dockers() -> Result<()> {
    let lab = lab("ei")?;
    let host = lab.host(1);
    let now = || -> Result<String> {
        let now = SystemTime::now().duration_since(UNIX_EPOCH)?;
        Ok(format!("{}.{:09}", now.as_secs(), now.subsec_nanos()))
    };
    let since = now()?;
    let archive = host.dir.join("whoami.tar");
    let archive = archive.to_str().context("a UTF-8 path")?;
    let saved = host.dir.join("saved.tar");
    host.docker(&["import", "--change", "LABEL tier=front", archive, "img:1"])?;
    host.docker(&["tag", "img:1", "img:2"])?;
    host.docker(&["save", "-o", saved.to_str().context("a UTF-8 path")?, "img:1"])?;
    host.docker(&["rmi", "img:2"])?;
    host.docker(&["create", "--name", "made", "img:1", "/skep"])?;
    host.docker(&["commit", "made", "img:3"])?;
    host.docker(&["rmi", "img:3"])?;
    host.docker(&["load", "-i", saved.to_str().context("a UTF-8 path")?])?;
    let id = host.docker(&["inspect", "-f", "{{.Id}}", "img:1"])?;
    for kind in ["container", "volume", "network", "image", "builder"] {
        host.docker(&[kind, "prune", "-f"])?;
    }
    // What was answered has been told: no event is on its way any more.
    let until = now()?;
    let shown = |filters: &[&str], format: &str| -> Result<String> {
        let mut args = vec!["events", "--since", &since, "--until", &until, "--format", format];
        filters.iter().for_each(|f| args.extend(["--filter", f]));
        let (ours, theirs) = (skep(host, &args)?, docker(host, &args)?);
        ensure!(ours == theirs, "{ours:?} is not {theirs:?}");
        Ok(theirs.stdout)
    };
    let told = shown(&["type=image"], "{{.Action}} {{.Actor.Attributes.name}} {{.Actor.Attributes.tier}}")?;
    let id = id.trim();
    let mut told: Vec<&str> = told.lines().collect();
    let gone = told.iter().position(|l| l.starts_with("delete")).context("a deletion")?;
    let [untag, delete] = [told.remove(gone - 1), told.remove(gone - 1)];
    ensure!(untag.starts_with("untag sha256:") && untag.ends_with(" front"), "{untag}");
    ensure!(delete.starts_with("delete sha256:") && delete.ends_with(" <no value>"), "{delete}");
    let expected = [
        "tag img:1 front".to_owned(),
        format!("import {id} front"),
        "tag img:2 front".to_owned(),
        format!("save {id} front"),
        format!("untag {id} front"),
        "tag img:3 front".to_owned(),
        format!("load {id} front"),
        "prune <no value> <no value>".to_owned(),
    ];
    ensure!(told == expected, "{told:?}");
    let pruned = shown(&["event=prune"], "{{.Type}} {{json .Actor.Attributes}}")?;
    let freed = |line: &str| line.split(' ').next().unwrap_or_default().to_owned();
    let kinds: Vec<String> = pruned.lines().map(freed).collect();
    ensure!(kinds == ["container", "volume", "network", "image", "builder"], "{pruned}");
    ensure!(pruned.contains("network {\"reclaimed\":\"0\"}"), "{pruned}");
    // The last event is there, however soon one asks.
    for n in 0..10 {
        let name = format!("v{n}");
        host.docker(&["volume", "create", &name])?;
        let told = docker(
            host,
            &["events", "--since", &since, "--until", &now()?, "--filter", &format!("volume={name}")],
        )?;
        ensure!(told.stdout.contains("volume create"), "{name}: {told:?}");
    }
    lab.down()
}
