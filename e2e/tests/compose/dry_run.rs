//! `compose --dry-run`: both clients tell the same, and nothing is done.

use std::collections::BTreeMap;
use std::path::Path;

use anyhow::{Result, ensure};
use skep_e2e::Host;

use super::{Client, containers, lab, skep, write};

const FILE: &str = "name: dry\nservices:\n  web: {image: bb, init: true, command: sleep 1000, depends_on: {db: {condition: service_healthy}}, volumes: [\"data:/d\"]}\n  db: {image: bb, init: true, command: sleep 1000, healthcheck: {test: [CMD, \"true\"], interval: 200ms}}\nvolumes: {data: {}}\n";

/// All that the daemon has of the project.
fn there(host: &Host) -> Result<Vec<String>> {
    let mut all: Vec<String> =
        containers(host)?.into_iter().map(|(name, id)| format!("{name} {id}")).collect();
    for (kind, format) in [("volume", "{{.Name}}"), ("network", "{{.Name}} {{.ID}}"), ("image", "{{.ID}}")] {
        all.push(host.docker(&[kind, "ls", "--format", format])?);
    }
    all.push(host.docker(&["ps", "-a", "--format", "{{.Names}} {{.State}}"])?);
    Ok(all)
}

/// What a client tells that it would do, in any order.
fn told(client: Client, host: &Host, dir: &Path, args: &[&str]) -> Result<(i32, Vec<String>)> {
    let (code, out, err) = client.run(host, dir, &[&["--dry-run", "--progress", "plain"], args].concat())?;
    let mut lines: Vec<String> = format!("{out}{err}").lines().map(str::to_owned).collect();
    lines.sort();
    Ok((code, lines))
}

#[test]
fn what_would_be_done_is_told_and_nothing_is_done() -> Result<()> {
    let (lab, dir) = lab("cdry")?;
    let host = lab.host(1);
    write(&dir, &[("compose.yaml", FILE)])?;
    let mut told_by = Vec::new();
    for client in [Client::Docker, Client::Skep] {
        let mut all = BTreeMap::new();
        let mut ask = |when: &str, args: &[&str]| -> Result<()> {
            let before = there(host)?;
            let (code, mut lines) = told(client, host, &dir, args)?;
            // Docker's own waits for what runs already, and finds networks in use that would not be.
            let kept = |line: &String| match (when, args[0]) {
                ("after", "up") => !line.ends_with("Waiting") && !line.ends_with("Healthy"),
                ("after", "down") => !line.contains(" Network "),
                _ => true,
            };
            lines.retain(kept);
            all.insert(format!("{when}: {}", args.join(" ")), (code, lines));
            let after = there(host)?;
            ensure!(after == before, "{client:?} {args:?} has done something: {before:?} {after:?}");
            Ok(())
        };
        for args in [&["up", "-d"][..], &["up"], &["create"], &["down", "-v"]] {
            ask("before", args)?;
        }
        client.ok(host, &dir, &["up", "-d", "--wait"])?;
        for args in
            [&["up", "-d"][..], &["stop"], &["restart", "web"], &["kill"], &["pause"], &["down", "-v"]]
        {
            ask("after", args)?;
        }
        // Docker's own tells of names that are nobody's.
        if client == Client::Skep {
            let (code, said) = told(client, host, &dir, &["up", "-d", "--force-recreate"])?;
            let line = " DRY-RUN MODE -  Container dry-db-1  Recreated";
            ensure!(code == 0 && said.iter().any(|l| l == line), "{code} {said:?}");
        }
        client.ok(host, &dir, &["down", "-v", "-t", "0"])?;
        told_by.push(all);
    }
    let pairs = told_by[0].iter().zip(&told_by[1]).filter(|(theirs, own)| theirs != own);
    let differ: Vec<String> = pairs
        .map(|(theirs, own)| {
            format!("{}\ndocker compose: {:#?}\nskep compose: {:#?}", own.0, theirs.1, own.1)
        })
        .collect();
    ensure!(differ.is_empty(), "{}", differ.join("\n\n"));
    skep(host, &dir, &["up", "-d", "--wait"])?;
    // What cannot be told without being done is refused.
    let before = there(host)?;
    for args in [&["exec", "-T", "web", "touch", "/x"][..], &["run", "--rm", "web", "true"]] {
        let (code, said) = told(Client::Skep, host, &dir, args)?;
        ensure!(code != 0 && said.iter().any(|l| l.contains("--dry-run")), "{args:?}: {code} {said:?}");
    }
    // What comes to this side is not written either.
    for (args, line) in [
        (&["export", "-o", "web.tar", "web"][..], " DRY-RUN MODE -  Container dry-web-1  Exported"),
        (&["cp", "web:/bin/busybox", "taken"], " DRY-RUN MODE -  Container dry-web-1  Copied"),
        (&["cp", "compose.yaml", "web:/given"], " DRY-RUN MODE -  Container dry-web-1  Copied"),
    ] {
        let (code, said) = told(Client::Skep, host, &dir, args)?;
        ensure!(code == 0 && said == [line], "{args:?}: {code} {said:?}");
    }
    ensure!(!dir.join("web.tar").exists() && !dir.join("taken").exists());
    ensure!(host.docker(&["exec", "dry-web-1", "ls", "/given"]).is_err());
    ensure!(there(host)? == before);
    skep(host, &dir, &["down", "-v", "-t", "0"])?;
    lab.down()
}
