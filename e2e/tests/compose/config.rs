//! `compose config`: what both clients print of one file, and what digests are put into it.

use std::path::Path;

use anyhow::{Context, Result, ensure};
use serde_json::Value;
use skep_e2e::Host;
use skep_e2e::registry::{Registry, RegistryOptions};

use super::{Client, containers, lab, skep, write};

const FILE: &str = r#"
name: cfg
services:
  web:
    image: "bb:${TAG:-1}"
    command: echo "$WHO"
    ports: ["8080:80"]
    volumes: ["data:/d", "./src:/s:ro", "/anon"]
    environment: {A: "${NEED:?must}", B: "${ALT:+x}", C: }
    env_file: [v.env]
    depends_on: [db]
    healthcheck: {test: curl x, interval: 5s}
    deploy: {replicas: 2, resources: {limits: {cpus: "0.5", memory: 64M}}}
    secrets: [key]
    configs: [{source: app, mode: 0440}]
    profiles: []
  db: {image: bb, networks: [back], tmpfs: /t, ulimits: {nofile: 5}, labels: [a=b], cpus: "1.5"}
  off: {image: "bb:${OFF:-1}", profiles: [p1]}
networks: {back: {internal: true}, unused: {labels: {a: "${UNUSED:-u}"}}}
volumes: {data: , other: {}}
secrets: {key: {file: ./key}}
configs: {app: {content: "hi $$x"}}
"#;

#[test]
fn both_clients_print_the_same_of_a_file() -> Result<()> {
    let (lab, dir) = lab("ccfg")?;
    let host = lab.host(1);
    write(&dir, &[("compose.yaml", FILE), ("v.env", "E=1\n"), ("key", "k")])?;
    let ask = |client: Client, args: &[&str]| -> Result<(i32, String)> {
        let out = client.command(host, &dir)?.env("NEED", "yes").args(args).output()?;
        Ok((out.status.code().unwrap_or(-1), String::from_utf8_lossy(&out.stdout).into_owned()))
    };
    let both = |args: &[&str]| Ok::<_, anyhow::Error>((ask(Client::Docker, args)?, ask(Client::Skep, args)?));
    for args in [
        &["config"][..],
        &["config", "db"],
        &["config", "--no-normalize"],
        &["config", "--no-path-resolution"],
        &["--profile", "p1", "config"],
        &["config", "-q"],
        &["config", "-q", "nope"],
        &["config", "--format", "xml"],
        &["config", "--services", "nope"],
        &["config", "--profiles"],
        &["config", "--volumes"],
        &["config", "--images", "db"],
        &["config", "--hash", "nope"],
    ] {
        let (theirs, own) = both(args)?;
        ensure!(theirs == own, "{args:?}: docker compose: {theirs:?}\nskep compose: {own:?}");
    }
    // Docker's order is another each time.
    for args in [
        &["config", "--networks"][..],
        &["config", "--images"],
        &["config", "--variables"],
        &["config", "--variables", "db"],
        &["--all-resources", "config", "--volumes"],
        &["--all-resources", "config", "--networks"],
    ] {
        let sorted = |(code, text): (i32, String)| {
            let mut lines: Vec<String> = text.lines().map(|l| l.trim_end().to_owned()).collect();
            lines.sort();
            (code, lines)
        };
        let (theirs, own) = both(args)?;
        let (theirs, own) = (sorted(theirs), sorted(own));
        ensure!(theirs == own, "{args:?}: docker compose: {theirs:?}\nskep compose: {own:?}");
    }
    for args in [
        &["config", "--format", "json"][..],
        &["config", "--format", "json", "--no-normalize"],
        &["config", "--variables", "--format", "json"],
    ] {
        let (theirs, own) = both(args)?;
        let json = |(_, text): (i32, String)| serde_json::from_str::<Value>(&text);
        let (theirs, own) = (json(theirs)?, json(own)?);
        ensure!(theirs == own, "{args:?}: docker compose: {theirs:#}\nskep compose: {own:#}");
    }
    // Variables and env files stay where they are to stay.
    let (_, kept) = ask(Client::Skep, &["config", "--no-interpolate"])?;
    ensure!(kept.contains("bb:${TAG:-1}") && kept.contains("/v.env"), "{kept}");
    let (_, kept) = ask(Client::Skep, &["config", "--no-env-resolution"])?;
    ensure!(kept.contains("/v.env") && !kept.contains("E: \"1\""), "{kept}");
    let (theirs, own) = (made_of_all(Client::Docker, host, &dir)?, made_of_all(Client::Skep, host, &dir)?);
    ensure!(theirs == own, "docker compose: {theirs:?}\nskep compose: {own:?}");
    lab.down()
}

/// What `up` makes of several files, one that another includes, a profile and a file of variables, said by flags and by variables:
/// names of containers, each with what it is told.
fn made_of_all(client: Client, host: &Host, dir: &Path) -> Result<Vec<Vec<String>>> {
    let dir = dir.join("all");
    let service = |more: &str| {
        format!(
            "{{image: bb, init: true, command: sleep 1000, stop_grace_period: 1s, environment: {{SAID: \"{more}\"}}}}"
        )
    };
    let first = format!(
        "name: all\ninclude: [part/more.yaml]\nservices:\n  web: {}\n  extra: {{extends: {{service: web}}, profiles: [side]}}\n  never: {{image: none, profiles: [other]}}\n",
        service("first $WORD")
    );
    let second = "services: {web: {environment: {SAID: second $WORD, ADDED: here}}}\n";
    write(
        &dir,
        &[
            ("first.yaml", &first),
            ("second.yaml", second),
            ("part/more.yaml", &format!("services:\n  inner: {}\n", service("included $WORD"))),
            ("words.env", "WORD=word\n"),
            ("part/.env", "WORD=inner\n"),
        ],
    )?;
    let mut all = Vec::new();
    for (flags, variables) in [
        (
            &["-f", "first.yaml", "-f", "second.yaml", "--env-file", "words.env", "--profile", "side"][..],
            &[][..],
        ),
        (
            &[],
            &[
                ("COMPOSE_FILE", "first.yaml:second.yaml"),
                ("COMPOSE_ENV_FILES", "words.env"),
                ("COMPOSE_PROFILES", "side"),
            ],
        ),
        (&["-f", "first.yaml"], &[("WORD", "environment")]),
    ] {
        let run = |args: &[&str]| -> Result<()> {
            let mut command = client.command(host, &dir)?;
            let out = command.args(flags).args(args).envs(variables.iter().copied()).output()?;
            ensure!(out.status.success(), "{client:?} {flags:?} {args:?}: {out:?}");
            Ok(())
        };
        run(&["up", "-d"])?;
        let mut made = Vec::new();
        for name in containers(host)?.into_keys() {
            let told = host.docker(&["exec", &name, "sh", "-c", "echo $SAID $ADDED"])?;
            made.push(format!("{name}: {}", told.trim()));
        }
        run(&["down", "--remove-orphans"])?;
        all.push(made);
    }
    let whole = ["all-extra-1: first word", "all-inner-1: included word", "all-web-1: second word here"];
    let bare = ["all-inner-1: included environment", "all-web-1: first environment"];
    ensure!(all == [&whole[..], &whole, &bare], "{client:?}: {all:?}");
    Ok(all)
}

#[test]
fn images_are_pinned_by_what_their_registry_has() -> Result<()> {
    let (lab, dir) = lab("cdig")?;
    let host = lab.host(1);
    let _registry = Registry::start(host, "127.0.0.1:5000", &RegistryOptions::default())?;
    host.docker(&["tag", "bb", "127.0.0.1:5000/own:1"])?;
    host.docker(&["push", "-q", "127.0.0.1:5000/own:1"])?;
    write(
        &dir,
        &[(
            "compose.yaml",
            "name: dig\nservices: {a: {image: \"127.0.0.1:5000/own:1\", command: [\"true\"]}}\n",
        )],
    )?;
    for args in
        [&["config", "--resolve-image-digests", "--images"][..], &["config", "--resolve-image-digests"]]
    {
        let (theirs, own) = (Client::Docker.ok(host, &dir, args)?, skep(host, &dir, args)?);
        ensure!(theirs == own, "{args:?}: docker compose: {theirs}\nskep compose: {own}");
    }
    // What is printed is a file to be laid over the other.
    let lock = skep(host, &dir, &["config", "--lock-image-digests"])?;
    std::fs::write(dir.join("lock.yaml"), &lock)?;
    let merged = skep(host, &dir, &["-f", "compose.yaml", "-f", "lock.yaml", "config", "--format", "json"])?;
    let merged: Value = serde_json::from_str(&merged)?;
    let image = merged["services"]["a"]["image"].as_str().context("an image")?;
    ensure!(
        image.starts_with("127.0.0.1:5000/own:1@sha256:") && merged["services"]["a"]["command"][0] == "true",
        "{lock}{merged}"
    );
    write(&dir, &[("none.yaml", "name: none\nservices: {a: {image: \"127.0.0.1:5000/none:1\"}}\n")])?;
    let (code, _, err) =
        Client::Skep.run(host, &dir, &["-f", "none.yaml", "config", "--resolve-image-digests"])?;
    ensure!(code != 0 && err.contains("127.0.0.1:5000/none:1"), "{err}");
    lab.down()
}
