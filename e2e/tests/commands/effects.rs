//! Flags whose effect shows in a container of its own, or from outside: health checks, restarts, names, files of
//! variables and labels.

use anyhow::{Result, ensure};
use skep_e2e::swarm::LONG;
use skep_e2e::{Host, eventually};

use skep_e2e::tally::{Tally, docker, prints, refuses, says};

/// Flag, arguments beside `--health-cmd`, the check, the changes of health that are told of. Each would be otherwise with
/// the defaults: an interval of 30 s, unhealthy after three failures in a row.
const HEALTH: &[(&str, &str, &str, &[&str])] = &[
    ("health-cmd", "--health-interval 50ms", "touch /checked", &["healthy"]),
    ("health-interval", "--health-interval 50ms", "true", &["healthy"]),
    ("health-retries", "--health-interval 50ms --health-retries 4", AFTER_THREE, &["healthy"]),
    (
        "health-start-period",
        "--health-start-period 10m --health-start-interval 50ms --health-retries 1",
        AFTER_THREE,
        &["healthy"],
    ),
    (
        "health-start-interval",
        "--health-start-period 10m --health-start-interval 50ms --health-interval 10m",
        AFTER_THREE,
        &["healthy"],
    ),
    (
        "health-timeout",
        "--health-interval 50ms --health-timeout 100ms --health-retries 1",
        "sleep 100000",
        &["unhealthy"],
    ),
];

/// Fails three times, then never again.
const AFTER_THREE: &str = "echo >> /n; test $(wc -l < /n) -gt 3";

pub fn drive(tally: &mut Tally<'_>) {
    for (flag, args, check, told) in HEALTH {
        tally.drive(flag, |host| health(host, args, check, told));
    }
    tally.drive("no-healthcheck", |host| {
        docker(host, "create --name ill bb true")?;
        docker(host, "commit -c 'HEALTHCHECK --interval=50ms CMD touch /checked' ill checked")?;
        docker(host, "rm ill")?;
        docker(host, "run -d --name unasked --no-healthcheck checked sleep 100000")?;
        docker(host, "run -d --name asked checked sleep 100000")?;
        eventually("the image's check has run", LONG, || docker(host, "exec asked ls /checked").map(drop))?;
        prints(host, "exec unasked ls /", docker(host, "run --rm bb ls /")?.trim())?;
        prints(host, "inspect -f '{{json .State.Health}}' unasked", "null")?;
        docker(host, "rm -f asked unasked")?;
        docker(host, "rmi checked").map(drop)
    });
    tally.drive("annotation", annotation);
    tally.drive("expose", |host| {
        docker(host, "run -d --name exposed --expose 81-82 --expose 53/udp -P bb sleep 100000")?;
        let ports = docker(host, "port exposed")?;
        docker(host, "rm -f exposed")?;
        for port in ["81/tcp", "82/tcp", "53/udp"] {
            ensure!(ports.contains(&format!("{port} -> 0.0.0.0:")), "{port} of {ports}");
        }
        Ok(())
    });
    tally.drive("label", |host| {
        docker(host, "run -d --name labelled --label tier=front bb sleep 100000")?;
        prints(
            host,
            "ps --filter label=tier=front --format '{{.Names}} {{.Label \"tier\"}}'",
            "labelled front",
        )?;
        docker(host, "rm -f labelled").map(drop)
    });
    tally.drive("name", |host| {
        docker(host, "run -d --name named --network flags bb sleep 100000")?;
        let found = says(host, "run --rm --network flags bb nslookup named 127.0.0.11", "10.91.0.");
        prints(host, "exec named echo ran", "ran")?;
        refuses(host, "create --name named bb", "already in use")?;
        docker(host, "rm -f named")?;
        found
    });
    tally.drive("restart", |host| {
        docker(host, "run -d --name again --restart on-failure:2 bb sh -c 'echo run; exit 4'")?;
        eventually("it has been given up", LONG, || {
            prints(host, "inspect -f '{{.State.Status}} {{.RestartCount}}' again", "exited 2")
        })?;
        prints(host, "logs again", "run\nrun\nrun")?;
        docker(host, "rm again").map(drop)
    });
    tally.drive("stop-timeout", |host| {
        // Within the default's ten seconds it would end by itself.
        let script = "trap 'sleep 5; exit 7' TERM; echo ready; while :; do sleep 0.1; done";
        let mut run = host.docker_command();
        run.args(["run", "-d", "--name", "slow", "--stop-timeout", "1", "bb", "sh", "-c", script]);
        ensure!(run.output()?.status.success());
        eventually("it is ready", LONG, || says(host, "logs slow", "ready"))?;
        docker(host, "stop slow")?;
        prints(host, "inspect -f '{{.State.ExitCode}}' slow", "137")?;
        docker(host, "rm slow").map(drop)
    });
    tally.drive("env-file", |host| {
        let file = host.dir.join("env-file");
        std::fs::write(&file, "A=1\n# none\nB=two words\n")?;
        prints(host, &format!("run --rm --env-file {} bb sh -c 'echo $A $B'", file.display()), "1 two words")
    });
    tally.drive("label-file", |host| {
        let file = host.dir.join("label-file");
        std::fs::write(&file, "a=1\n# none\nb=two words\n")?;
        docker(host, &format!("create --name filed --label-file {} bb true", file.display()))?;
        prints(host, "ps -a --filter label=a=1 --format '{{.Names}} {{.Label \"b\"}}'", "filed two words")?;
        docker(host, "rm filed").map(drop)
    });
}

/// What is told of the health of such a container, up to the last that is expected.
fn health(host: &Host, args: &str, check: &str, told: &[&str]) -> Result<()> {
    docker(host, &format!("run -d --name checked {args} --health-cmd '{check}' bb sleep 100000"))?;
    let last = told.last().copied().unwrap_or_default();
    eventually("its health is known", LONG, || {
        prints(host, "inspect -f '{{.State.Health.Status}}' checked", last)
    })?;
    let id = docker(host, "inspect -f '{{.Id}}' checked")?;
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH)?;
    let until = format!("{}.{:09}", now.as_secs(), now.subsec_nanos());
    let filters = format!("--filter container={} --filter event=health_status", id.trim());
    let events =
        docker(host, &format!("events --since 1 --until {until} {filters} --format '{{{{.Action}}}}'"))?;
    let heard: Vec<&str> = events.lines().filter_map(|l| l.strip_prefix("health_status: ")).collect();
    let output = docker(host, "inspect -f '{{range .State.Health.Log}}{{.Output}}{{end}}' checked")?;
    if check.contains("/checked") {
        docker(host, "exec checked ls /checked")?;
    }
    docker(host, "rm -f checked")?;
    ensure!(heard == told, "{args}: {heard:?}, not {told:?}");
    ensure!(output.contains("exceeded timeout (100ms)") == args.contains("timeout"), "{args}: {output}");
    Ok(())
}

/// Other runtimes find annotations in the bundle: one that keeps it before runc makes the container.
fn annotation(host: &Host) -> Result<()> {
    docker(host, "run --rm --runtime spy --annotation a=b --annotation c=d bb true")?;
    let bundle = std::fs::read_to_string(host.dir.join("bundle.json"))?;
    let bundle: serde_json::Value = serde_json::from_str(&bundle)?;
    ensure!(bundle["annotations"] == serde_json::json!({ "a": "b", "c": "d" }), "{bundle}");
    Ok(())
}

/// The runtime that does so, for the daemon's configuration.
pub fn spy(host: &Host) -> Result<String> {
    use std::os::unix::fs::PermissionsExt;
    let path = host.dir.join("spy");
    let kept = host.dir.join("bundle.json");
    let script =
        format!("#!/bin/sh\ntest -e config.json && cp config.json {}\nexec runc \"$@\"\n", kept.display());
    std::fs::write(&path, script)?;
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755))?;
    Ok(format!("[runtimes.spy]\npath = {:?}\n", path.display().to_string()))
}
