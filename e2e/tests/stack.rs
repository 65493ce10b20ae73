//! Stacks: a Compose file deployed, changed, pruned and removed, by the real client and by `skep`, each of which sees
//! what the other has made.

use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};
use skep_e2e::swarm::{LONG, begun, path, wait_empty, wait_running};
use skep_e2e::{Host, Lab, busybox_image, eventually, eventually_some};

const FILE: &str = r#"
version: "3.13"
services:
  web:
    image: box:1
    command: sh -c "cat /run/secrets/key /etc/app.conf; exec sleep 1000000"
    hostname: "{{.Service.Name}}-{{.Task.Slot}}"
    environment: {COLOUR: "${COLOUR:-red}"}
    networks: {front: {aliases: [www]}}
    extra_hosts: ["host.docker.internal:host-gateway"]
    secrets: [key]
    configs: [{source: app, target: /etc/app.conf, mode: 0440}]
    ports: ["8085:80"]
    volumes: ["data:/data"]
    stop_grace_period: 1s
    healthcheck: {test: ["CMD", "/bin/cat", "/etc/app.conf"], interval: 1s, retries: 3}
    deploy:
      replicas: 2
      labels: {tier: front}
      update_config: {parallelism: 1, order: start-first, monitor: 500ms}
      restart_policy: {condition: on-failure, delay: 1s}
      resources: {limits: {memory: 64M}}
  side:
    image: box:1
    command: sleep 1000000
    stop_grace_period: 1s
    build: .
    container_name: nothing
    x-drain-time: 2s
    deploy: {update_config: {monitor: 500ms}}
networks:
  front: {driver: overlay, attachable: true}
volumes: {data: {labels: {kept: "yes"}}}
secrets: {key: {file: ./key.txt}}
configs: {app: {file: ./app.conf}}
"#;

/// A single manager with `box:1`, and the file with all it names in a directory.
fn lab(name: &str) -> Result<(Lab, std::path::PathBuf)> {
    let lab = begun(name, 1)?;
    let host = lab.host(1);
    let archive = host.dir.join("box.tar");
    busybox_image(&["sh", "sleep", "cat"], &archive)?;
    host.docker(&["import", path(&archive), "box:1"])?;
    let dir = host.dir.join("stack");
    std::fs::create_dir_all(&dir)?;
    std::fs::write(dir.join("c.yml"), FILE)?;
    std::fs::write(dir.join("key.txt"), "first key\n")?;
    std::fs::write(dir.join("app.conf"), "conf\n")?;
    Ok((lab, dir))
}

fn rewrite(dir: &Path, file: &str, from: &str, to: &str) -> Result<()> {
    let text = std::fs::read_to_string(dir.join(file))?;
    ensure!(text.contains(from), "{from:?} is not in {file}");
    Ok(std::fs::write(dir.join(file), text.replace(from, to))?)
}

/// What a command said on both outputs; it must succeed.
fn said(command: &mut Command, args: &[&str]) -> Result<(String, String)> {
    let out = command.args(args).output()?;
    let (stdout, stderr) = (String::from_utf8(out.stdout)?, String::from_utf8(out.stderr)?);
    ensure!(out.status.success(), "{args:?}: {stdout}{stderr}");
    Ok((stdout, stderr))
}

fn skep(host: &Host) -> Command {
    let mut command = Command::new(&host.skep);
    command.env("DOCKER_HOST", host.docker_host());
    command
}

/// IDs of the containers of a service, sorted.
fn containers(host: &Host, service: &str) -> Result<Vec<String>> {
    let filter = format!("label=com.docker.swarm.service.name={service}");
    let ids = host.docker(&["ps", "-q", "--filter", &filter])?;
    let mut ids: Vec<String> = ids.lines().map(str::to_owned).collect();
    ids.sort();
    Ok(ids)
}

/// Waits until an update of a service is done and others run in place of these containers; those others.
fn rolled(host: &Host, service: &str, old: &[String]) -> Result<Vec<String>> {
    eventually_some(&format!("{service} is rolled"), LONG, || {
        let state = host.docker(&["service", "inspect", "-f", "{{.UpdateStatus.State}}", service])?;
        let now = containers(host, service)?;
        let others = now.len() == old.len() && now.iter().all(|c| !old.contains(c));
        ensure!(others && state.trim() == "completed", "{state}: {old:?} {now:?}");
        Ok(Some(now))
    })
}

fn lines(text: &str) -> Vec<String> {
    let mut lines: Vec<String> = text
        .lines()
        .map(|l| l.split(" (id:").next().unwrap_or(l).to_owned())
        .filter(|l| !l.is_empty())
        .collect();
    lines.sort();
    lines
}

fn names(host: &Host, kind: &str) -> Result<Vec<String>> {
    let out = host.docker(&[kind, "ls", "--format", "{{.Name}}"])?;
    Ok(lines(&out))
}

#[test]
fn dockers_client_deploys_changes_prunes_and_removes_a_stack() -> Result<()> {
    let (lab, dir) = lab("stackd")?;
    let host = lab.host(1);
    let file = dir.join("c.yml");
    let deploy = ["stack", "deploy", "-c", path(&file), "shop"];
    let (out, err) = said(&mut host.docker_command(), &deploy)?;
    let made = [
        "Creating config shop_app",
        "Creating network shop_default",
        "Creating network shop_front",
        "Creating secret shop_key",
        "Creating service shop_side",
        "Creating service shop_web",
    ];
    ensure!(lines(&out) == made, "{out}{err}");
    wait_running(host, "shop_web", 2)?;
    wait_running(host, "shop_side", 1)?;
    ensure!(host.docker(&["stack", "ls", "--format", "{{.Name}} {{.Services}}"])?.trim() == "shop 2");
    let ps = host.docker(&["stack", "ps", "shop", "--format", "{{.Name}} {{.DesiredState}}"])?;
    ensure!(lines(&ps) == ["shop_side.1 Running", "shop_web.1 Running", "shop_web.2 Running"], "{ps}");
    eventually("the services are at full strength", LONG, || {
        let services = host.docker(&["stack", "services", "shop", "--format", "{{.Name}} {{.Replicas}}"])?;
        ensure!(lines(&services) == ["shop_side 1/1", "shop_web 2/2"], "{services}");
        Ok(())
    })?;
    let (web, side) = (containers(host, "shop_web")?, containers(host, "shop_side")?);
    let seen = host.docker(&[
        "exec",
        &web[0],
        "/bin/cat",
        "/run/secrets/key",
        "/etc/app.conf",
        "/etc/hostname",
        "/etc/hosts",
    ])?;
    ensure!(seen.starts_with("first key\nconf\nshop_web-"), "{seen}");
    let gateway =
        host.docker(&["network", "inspect", "-f", "{{(index .IPAM.Config 0).Gateway}}", "bridge"])?;
    ensure!(seen.contains(&format!("{}\thost.docker.internal\n", gateway.trim())), "{seen}");
    let volume = host.docker(&["volume", "inspect", "-f", "{{json .Labels}}", "shop_data"])?;
    ensure!(volume.contains(r#""kept":"yes""#) && volume.contains("stack.namespace"), "{volume}");

    // The same again changes nothing; one service changed is the only one rolled.
    said(&mut host.docker_command(), &deploy)?;
    rewrite(&dir, "c.yml", "COLOUR:-red", "COLOUR:-blue")?;
    let (out, _) = said(&mut host.docker_command(), &deploy)?;
    ensure!(lines(&out) == ["Updating service shop_side", "Updating service shop_web"], "{out}");
    let now = rolled(host, "shop_web", &web)?;
    ensure!(containers(host, "shop_side")? == side, "what did not change is not rolled");
    let env = host.docker(&["exec", &now[0], "/bin/sh", "-c", "echo $COLOUR"])?;
    ensure!(env.trim() == "blue", "{env}");

    // Skep's client sees it, and prunes what the file has no more.
    ensure!(host.skep(&["stack", "ls", "--format", "{{.Name}} {{.Services}}"])?.trim() == "shop 2");
    let text = std::fs::read_to_string(&file)?;
    let from = text.find("  side:").context("side")?;
    let to = text.find("networks:\n  front: {d").context("networks")?;
    std::fs::write(&file, format!("{}{}", &text[..from], &text[to..]))?;
    let (out, _) =
        said(&mut host.docker_command(), &["stack", "deploy", "--prune", "-c", path(&file), "shop"])?;
    ensure!(lines(&out) == ["Removing service shop_side", "Updating service shop_web"], "{out}");
    ensure!(names(host, "service")? == ["shop_web"]);

    host.docker(&["stack", "rm", "shop"])?;
    wait_empty(host)?;
    for kind in ["service", "secret", "config"] {
        ensure!(names(host, kind)?.is_empty(), "{kind}");
    }
    ensure!(!names(host, "network")?.iter().any(|n| n.starts_with("shop")));
    lab.down()
}

#[test]
fn skep_deploys_by_content_and_rolls_what_a_changed_file_is_in() -> Result<()> {
    let (lab, dir) = lab("stacks")?;
    let host = lab.host(1);
    let file = dir.join("c.yml");
    let deploy = ["stack", "deploy", "--detach=false", "-q", "-c", path(&file), "shop"];
    let (out, err) = said(&mut skep(host), &deploy)?;
    ensure!(
        out.contains("Creating service shop_web\n") && out.contains("Creating secret shop_key_"),
        "{out}"
    );
    ensure!(err.contains("Ignoring unsupported options: build\n\n"), "{err}");
    ensure!(err.contains("container_name: Setting the container name is not supported.\n"), "{err}");
    wait_running(host, "shop_web", 2)?;
    let (web, side) = (containers(host, "shop_web")?, containers(host, "shop_side")?);
    let first = names(host, "secret")?;
    ensure!(first.len() == 1 && first[0].len() == "shop_key_".len() + 12, "{first:?}");

    // Docker's client takes the same things for the same stack.
    let listed =
        host.docker(&["stack", "services", "shop", "--format", "{{.Name}} {{.Replicas}} {{.Ports}}"])?;
    ensure!(lines(&listed) == ["shop_side 1/1 ", "shop_web 2/2 *:8085->80/tcp"], "{listed}");
    let drain = host.skep(&["service", "inspect", "--format", "{{.Spec.DrainTime}}", "shop_side"])?;
    ensure!(drain.trim() == "2000000000", "{drain}");
    for line in [
        &["stack", "ls"][..],
        &["stack", "services", "shop"],
        &["stack", "services", "nope"],
        &["stack", "ps", "nope"],
    ] {
        let run = |mut command: Command| -> Result<_> {
            let out = command.args(line).output()?;
            Ok((
                out.status.code(),
                String::from_utf8(out.stdout)?,
                String::from_utf8(out.stderr)?.to_lowercase(),
            ))
        };
        let (theirs, ours) = (run(host.docker_command())?, run(skep(host))?);
        ensure!(theirs == ours, "{line:?}: {theirs:?} {ours:?}");
    }

    // A changed file is another secret, and rolls its service alone; a rollback would still find the old one.
    std::fs::write(dir.join("key.txt"), "second key\n")?;
    let (out, _) = said(&mut skep(host), &deploy)?;
    ensure!(out.contains("Creating secret shop_key_") && !out.contains("Creating service"), "{out}");
    let now = rolled(host, "shop_web", &web)?;
    let key = host.docker(&["exec", &now[0], "/bin/cat", "/run/secrets/key"])?;
    ensure!(key.trim() == "second key", "{key}");
    ensure!(
        now.iter().all(|c| !web.contains(c)) && containers(host, "shop_side")? == side,
        "{web:?} {now:?}"
    );
    ensure!(names(host, "secret")?.len() == 2);
    let (out, _) = said(
        &mut skep(host),
        &["stack", "deploy", "--prune", "--detach=false", "-q", "-c", path(&file), "shop"],
    )?;
    ensure!(out.contains(&format!("Removing secret {}\n", first[0])), "{out}");
    ensure!(names(host, "secret")?.len() == 1);
    ensure!(containers(host, "shop_web")? == now, "nothing changed");

    // What is wrong is told with its place, and nothing is changed.
    rewrite(&dir, "c.yml", "    image: box:1\n    command: sleep", "    imgae: box:1\n    command: sleep")?;
    let out = skep(host).args(deploy).output()?;
    let err = String::from_utf8(out.stderr)?;
    let place =
        format!("{}:24:5: services.side: unknown key \"imgae\": did you mean \"image\"?\n", path(&file));
    ensure!(!out.status.success() && err == place, "{err}");

    let (out, _) = said(&mut skep(host), &["stack", "rm", "--detach=false", "shop"])?;
    ensure!(
        out.starts_with("Removing service shop_side\nRemoving service shop_web\nRemoving secret shop_key_"),
        "{out}"
    );
    wait_empty(host)?;
    ensure!(
        names(host, "secret")?.is_empty() && !names(host, "network")?.iter().any(|n| n.starts_with("shop"))
    );
    lab.down()
}

const OWN: &str = r#"
services:
  night:
    image: box:1
    command: sh -c "exit 0"
    x-schedule: "30 2 1 1 *"
    deploy: {mode: replicated-job}
  often:
    image: box:1
    command: sh -c "exit 0"
    x-schedule:
      cron: "0 4 * * *"
      time_zone: Europe/Berlin
      concurrency: replace
      starting_deadline: 5m
      history: 3
      suspend: true
    deploy: {mode: replicated-job}
  db:
    image: box:1
    command: sleep 1000000
    stop_grace_period: 1s
    volumes: ["data:/data"]
    x-data-placement: prefer
volumes: {data: {}}
"#;

/// Keys that Docker's client passes over: what they say is in the service, follows the file, and is refused by its place.
#[test]
fn a_schedule_and_the_placement_of_data_are_what_the_file_says() -> Result<()> {
    let (lab, dir) = lab("stackx")?;
    let host = lab.host(1);
    let file = dir.join("own.yml");
    std::fs::write(&file, OWN)?;
    let deploy = ["stack", "deploy", "--resolve-image", "never", "-c", path(&file), "own"];
    let shown = |service: &str| -> Result<Value> {
        let answer = host.request("GET", &format!("/v1.50/services/own_{service}"), "")?;
        ensure!(answer.status == 200, "{answer:?}");
        Ok(serde_json::from_str(&answer.body)?)
    };
    said(&mut skep(host), &deploy)?;
    let night = shown("night")?;
    let wanted = json!({ "Cron": "30 2 1 1 *", "Concurrency": "forbid", "Suspend": false });
    ensure!(night["Spec"]["Schedule"] == wanted, "{night}");
    ensure!(night["ScheduleStatus"]["NextRun"].is_string(), "it waits for its time: {night}");
    ensure!(containers(host, "own_night")?.is_empty(), "and is not begun before");
    let often = shown("often")?;
    let wanted = json!({
        "Cron": "0 4 * * *", "TimeZone": "Europe/Berlin", "Concurrency": "replace", "Suspend": true,
        "StartingDeadline": 300_000_000_000_u64, "History": 3,
    });
    ensure!(often["Spec"]["Schedule"] == wanted, "{often}");
    wait_running(host, "own_db", 1)?;
    let db = shown("db")?;
    ensure!(db["Spec"]["DataPlacement"] == "prefer", "{db}");

    // What the file has no more, the services have no more.
    rewrite(&dir, "own.yml", "    x-schedule: \"30 2 1 1 *\"\n", "")?;
    rewrite(&dir, "own.yml", "suspend: true", "suspend: false")?;
    rewrite(&dir, "own.yml", "x-data-placement: prefer", "x-data-placement: stay")?;
    said(&mut skep(host), &deploy)?;
    let (night, often, db) = (shown("night")?, shown("often")?, shown("db")?);
    ensure!(night["Spec"]["Schedule"].is_null() && night["ScheduleStatus"].is_null(), "{night}");
    ensure!(often["Spec"]["Schedule"]["Suspend"] == false, "{often}");
    ensure!(db["Spec"]["DataPlacement"] == "stay", "{db}");

    for (from, to, says) in [
        (
            "x-data-placement: stay",
            "x-data-placement: away",
            "services.db.x-data-placement: want stay, prefer or ignore",
        ),
        ("history: 3", "history: many", "services.often.x-schedule: want an expression such as"),
        ("concurrency: replace", "concurency: replace", "services.often.x-schedule: want an expression"),
        ("concurrency: replace", "concurrency: maybe", "maybe"),
        ("cron: \"0 4 * * *\"", "cron: \"0 4 * *\"", "want five fields"),
    ] {
        rewrite(&dir, "own.yml", from, to)?;
        let out = skep(host).args(deploy).output()?;
        let err = String::from_utf8(out.stderr)?;
        ensure!(!out.status.success() && err.contains(says), "{to:?} should say {says:?}: {err}");
        rewrite(&dir, "own.yml", to, from)?;
    }
    ensure!(shown("often")?["Spec"] == often["Spec"], "nothing of it changed anything");
    said(&mut skep(host), &["stack", "rm", "--detach=false", "own"])?;
    wait_empty(host)?;
    lab.down()
}

const SHORT: &str = r#"
services:
  web:
    image: box:1
    command: sleep 1000000
    stop_grace_period: 1s
    scale: 2
    cpus: 0.5
    mem_limit: 64m
    pids_limit: 33
    domainname: corp.example
    annotations: {tier: front}
    deploy: {resources: {limits: {memory: 64M}}}
"#;

/// Keys that a container of one host has, and a service by other words.
#[test]
fn short_keys_of_a_container_hold_for_tasks_too() -> Result<()> {
    let (lab, dir) = lab("stackk")?;
    let host = lab.host(1);
    let file = dir.join("short.yml");
    std::fs::write(&file, SHORT)?;
    let deploy = ["stack", "deploy", "--resolve-image", "never", "-c", path(&file), "short"];
    let (_, err) = said(&mut skep(host), &deploy)?;
    ensure!(!err.contains("Ignoring"), "{err}");
    wait_running(host, "short_web", 2)?;
    let shown: Value = serde_json::from_str(&host.request("GET", "/v1.50/services/short_web", "")?.body)?;
    let task = &shown["Spec"]["TaskTemplate"];
    let limits = json!({ "NanoCPUs": 500_000_000, "MemoryBytes": 64 << 20, "Pids": 33 });
    ensure!(task["Resources"]["Limits"] == limits, "{task}");
    let run = json!({ "Domainname": "corp.example", "Annotations": { "tier": "front" } });
    ensure!(task["ContainerSpec"]["RunOptions"] == run, "{task}");
    let own = &containers(host, "short_web")?[0];
    let seen = host.docker(&["exec", own, "/bin/cat", "/proc/sys/kernel/domainname"])?;
    ensure!(seen.trim() == "corp.example", "{seen}");

    for (from, to, says) in [
        ("cpus: 0.5", "cpus: half", "short.yml:8:11: services.web.cpus: want a number of CPUs like 0.5"),
        ("mem_limit: 64m", "mem_limit: much", "services.web.mem_limit: want a size like 64m"),
        ("scale: 2", "scale: -1", "services.web.scale: want a whole number from zero"),
        (
            "deploy: {",
            "deploy: {mode: global, ",
            "services.web.scale: replicas can only be used with replicated",
        ),
        (
            "memory: 64M",
            "memory: 32M",
            "9:16: services.web: can't set distinct values on 'mem_limit' and 'deploy.resources.limits.memory'",
        ),
        ("deploy: {", "deploy: {replicas: 3, ", "can't set distinct values on 'scale' and 'deploy.replicas'"),
    ] {
        rewrite(&dir, "short.yml", from, to)?;
        let out = skep(host).args(deploy).output()?;
        let err = String::from_utf8(out.stderr)?;
        ensure!(!out.status.success() && err.contains(says), "{to:?} should say {says:?}: {err}");
        rewrite(&dir, "short.yml", to, from)?;
    }
    said(&mut skep(host), &["stack", "rm", "--detach=false", "short"])?;
    wait_empty(host)?;
    lab.down()
}
