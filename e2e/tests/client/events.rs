//! `events` of networks, volumes, services and nodes, as both clients show them.

use anyhow::{Result, ensure};

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
