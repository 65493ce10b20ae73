//! What a service uses has changed in the file: a network, the content of a config or a secret, a volume. Only who uses it
//! is made anew.

use std::collections::BTreeMap;
use std::path::Path;

use anyhow::{Context, Result, ensure};
use skep_e2e::Host;

use super::{Client, containers, field, write};

const FILE: &str = r#"
name: parts
x-all: &all {image: bb, init: true, command: sleep 1000, stop_grace_period: 1s}
services:
  net: {<<: *all, networks: [one, two]}
  side: {<<: *all, networks: [two]}
  config: {<<: *all, configs: [{source: app, target: /app.conf}]}
  secret: {<<: *all, secrets: [key]}
  vol: {<<: *all, volumes: ["data:/data"]}
networks: {one: {labels: {said: "${NETWORK:-1}"}}, two: {labels: {said: "1"}}}
volumes: {data: {labels: {said: "${VOLUME:-1}"}}}
configs: {app: {content: "${CONFIG:-1}"}}
secrets: {key: {environment: SECRET}}
"#;

/// With one client, from nothing to nothing.
pub fn parts(client: Client, host: &Host, dir: &Path) -> Result<()> {
    write(dir, &[("compose.yaml", FILE)])?;
    let mut set = BTreeMap::from([("SECRET", "1")]);
    let up = |set: &BTreeMap<&str, &str>, more: &[&str]| -> Result<(BTreeMap<String, String>, String)> {
        let out = client.command(host, dir)?.args(["up", "-d"]).args(more).envs(set).output()?;
        let said = [out.stdout, out.stderr].concat();
        let said = String::from_utf8_lossy(&said).into_owned();
        ensure!(out.status.success(), "{client:?}: {said}");
        Ok((containers(host)?, said))
    };
    let exec = |service: &str, script: &str| {
        host.docker(&["exec", &format!("parts-{service}-1"), "sh", "-c", script])
    };
    let (mut before, _) = up(&set, &[])?;
    ensure!(before.len() == 5, "{client:?}: {before:?}");
    exec("vol", "echo kept > /data/file")?;
    // Which are others than before; all run.
    let mut changed = |set: &BTreeMap<&str, &str>, more: &[&str]| -> Result<(Vec<String>, String)> {
        let (now, said) = up(set, more)?;
        let new = now.iter().filter(|(name, id)| before.get(*name) != Some(id));
        let names = new.filter_map(|(n, _)| n.strip_prefix("parts-")?.strip_suffix("-1")).map(str::to_owned);
        let names = names.collect();
        for name in now.keys() {
            let state = field(host, name, "{{.State.Status}}")?;
            ensure!(state == "running", "{client:?}: {name} is {state}: {said}");
        }
        ensure!(now.len() == before.len(), "{client:?}: {now:?}");
        before = now;
        Ok((names, said))
    };
    let network = |name: &str| host.docker(&["network", "inspect", "-f", "{{.Id}} {{.Labels.said}}", name]);
    let two = network("parts_two")?;

    ensure!(changed(&set, &[])?.0.is_empty(), "{client:?}: nothing has changed");
    // Docker's client (2.40.3) starts what it has stopped for this without the network, until the next `up`.
    for (value, stopped) in [("2", false), ("3", true)].iter().filter(|_| client == Client::Skep) {
        if *stopped {
            host.docker(&["stop", "-t", "1", "parts-net-1"])?;
        }
        let old = network("parts_one")?;
        set.insert("NETWORK", value);
        let (new, said) = changed(&set, &[])?;
        ensure!(*stopped || new == ["net"], "{new:?}: {said}");
        ensure!(new.iter().all(|n| n == "net"), "{new:?}: {said}");
        let made = network("parts_one")?;
        ensure!(made != old && made.trim_end().ends_with(value) && network("parts_two")? == two, "{made}");
        let on = field(host, "parts-net-1", "{{range .NetworkSettings.Networks}}{{.NetworkID}} {{end}}")?;
        for id in [&made, &two] {
            let id = id.split(' ').next().context("an ID")?;
            ensure!(on.contains(id), "it is on {on}, not on {id}: {said}");
        }
    }
    // Docker's client does not look at what is in them.
    for (variable, service, file) in
        [("CONFIG", "config", "/app.conf"), ("SECRET", "secret", "/run/secrets/key")]
    {
        set.insert(variable, "2");
        if client == Client::Skep {
            let (new, said) = changed(&set, &[])?;
            ensure!(new == [service] && exec(service, &format!("cat {file}"))? == "2", "{new:?}: {said}");
        }
    }

    // Data stays unless it is said that it may go.
    set.insert("VOLUME", "2");
    let (new, said) = changed(&set, &[])?;
    ensure!(new.is_empty() && exec("vol", "cat /data/file")? == "kept\n", "{client:?}: {new:?}: {said}");
    ensure!(said.contains("parts_data") && said.contains("exists but"), "{client:?}: {said}");
    let (new, said) = changed(&set, &["--yes"])?;
    ensure!(new == ["vol"] && exec("vol", "ls /data")?.is_empty(), "{client:?}: {new:?}: {said}");
    let label = host.docker(&["volume", "inspect", "-f", "{{.Labels.said}}", "parts_data"])?;
    ensure!(label.trim() == "2", "{client:?}: {label}");
    ensure!(changed(&set, &["--yes"])?.0.is_empty(), "{client:?}: nothing has changed any more");
    let mut down = client.command(host, dir)?;
    let out = down.args(["down", "-v", "-t", "1"]).envs(&set).output()?;
    ensure!(out.status.success(), "{client:?}: {out:?}");
    Ok(())
}
