//! Jobs: tasks that come to their end, over three hosts, by the real client and by `skep`.

use anyhow::{Result, bail, ensure};
use skep_e2e::swarm::{LONG, begun, join, nodes_are, path, refused, token};
use skep_e2e::{Host, Lab, busybox_image, eventually};

/// A manager with `box:1`, and hosts that have it too.
fn lab(name: &str, hosts: u32) -> Result<Lab> {
    let lab = begun(name, hosts)?;
    let archive = lab.host(1).dir.join("box.tar");
    busybox_image(&["sh", "sleep", "true", "false", "touch", "test"], &archive)?;
    for host in lab.hosts() {
        host.docker(&["import", path(&archive), "box:1"])?;
    }
    Ok(lab)
}

/// `service create` of a job, which returns when it is complete.
fn create(host: &Host, flags: &[&str], argv: &[&str]) -> Result<String> {
    host.docker(
        &[&["service", "create", "--no-resolve-image", "--restart-delay", "100ms"], flags, &["box:1"], argv]
            .concat(),
    )
}

fn replicas(host: &Host, service: &str) -> Result<String> {
    let filter = format!("name={service}");
    Ok(host
        .docker(&["service", "ls", "--filter", &filter, "--format", "{{.Mode}} {{.Replicas}}"])?
        .trim()
        .to_owned())
}

fn shows(host: &Host, service: &str, wanted: &str) -> Result<()> {
    eventually(&format!("{service} is {wanted}"), LONG, || {
        let seen = replicas(host, service)?;
        ensure!(seen == wanted, "{seen}; {}", host.docker(&["service", "ps", "--no-trunc", service])?);
        Ok(())
    })
}

/// Desired and current state, without the time, and node of each task.
fn tasks(host: &Host, service: &str) -> Result<Vec<(String, String, String)>> {
    let out = host.docker(&[
        "service",
        "ps",
        "--format",
        "{{.DesiredState}}|{{.CurrentState}}|{{.Node}}",
        service,
    ])?;
    let row = |line: &str| {
        let mut fields = line.split('|');
        let mut next = || fields.next().unwrap_or_default().to_owned();
        let (desired, state, node) = (next(), next(), next());
        (desired, state.split(' ').next().unwrap_or_default().to_owned(), node)
    };
    Ok(out.lines().map(row).collect())
}

#[test]
fn jobs_run_to_completion_wherever_there_is_a_node() -> Result<()> {
    let mut lab = lab("jobs", 3)?;
    let worker = token(lab.host(1), "worker")?;
    join(lab.host(2), &worker, "10.99.0.1:2377")?;
    nodes_are(lab.host(1), "a worker joined", &["Ready Leader", "Ready"])?;
    let one = lab.host(1);

    let flags = ["--name", "count", "--mode", "replicated-job", "--replicas", "5", "--max-concurrent", "2"];
    let out = create(one, &flags, &["true"])?;
    ensure!(out.contains("active tasks: 0 out of 0 tasks\njob complete"), "{out}");
    ensure!(replicas(one, "count")? == "replicated job 0/2 (5/5 completed)", "{}", replicas(one, "count")?);
    let complete = |t: &(String, String, String)| t.0 == "Complete" && t.1 == "Complete";
    let ended = tasks(one, "count")?;
    ensure!(ended.len() == 5 && ended.iter().all(complete), "{ended:?}");

    // Another iteration, by each client; what is not a job's is refused.
    let out = one.skep(&["service", "update", "--force", "count"])?;
    ensure!(
        out.contains("job progress: 5 out of 5 complete") && out.trim_end().ends_with("job complete"),
        "{out}"
    );
    let status = "{{.JobStatus.JobIteration.Index}} {{.JobStatus.LastExecution.IsZero}}";
    let seen = one.docker(&["service", "inspect", "-f", status, "count"])?;
    ensure!(seen.trim() == "1 false", "{seen}");
    one.docker(&["service", "scale", "count=3"])?;
    ensure!(replicas(one, "count")? == "replicated job 0/2 (3/3 completed)", "{}", replicas(one, "count")?);
    let seen = one.docker(&[
        "service",
        "inspect",
        "-f",
        "{{json .Spec.Mode}} {{.JobStatus.JobIteration.Index}}",
        "count",
    ])?;
    ensure!(seen.trim() == r#"{"ReplicatedJob":{"MaxConcurrent":2,"TotalCompletions":3}} 2"#, "{seen}");
    // Docker's client has no flag for it that does anything.
    one.skep(&["service", "update", "-d", "--replicas", "2", "--max-concurrent", "1", "count"])?;
    shows(one, "count", "replicated job 0/1 (2/2 completed)")?;
    refused(one, &["service", "rollback", "count"], &["count", "rollback is not supported for jobs"])?;
    refused(
        one,
        &["service", "update", "--update-parallelism", "2", "count"],
        &["Jobs may not have an update config"],
    )?;
    let version = one.docker(&["service", "inspect", "-f", "{{.Version.Index}}", "count"])?;
    let other =
        r#"{"Name":"count","TaskTemplate":{"ContainerSpec":{"Image":"box:1"}},"Mode":{"Replicated":{}}}"#;
    let answer =
        one.request("POST", &format!("/v1.50/services/count/update?version={}", version.trim()), other)?;
    ensure!(answer.status == 501 && answer.body.contains("service mode change is not allowed"), "{answer:?}");

    // A global job is for the nodes of its time, as its constraints have it.
    let out = create(one, &["--name", "all", "--mode", "global-job"], &["true"])?;
    ensure!(out.contains("job complete"), "{out}");
    let place = format!("node.hostname=={}", one.name);
    let out = one.skep(&[
        "service",
        "create",
        "--no-resolve-image",
        "--name",
        "here",
        "--mode",
        "global-job",
        "--constraint",
        &place,
        "box:1",
        "true",
    ])?;
    ensure!(out.contains("job progress: 1 out of 1 complete"), "{out}");
    join(lab.host(3), &worker, "10.99.0.1:2377")?;
    nodes_are(one, "another worker joined", &["Ready Leader", "Ready", "Ready"])?;
    ensure!(replicas(one, "all")? == "global job 0/0 (2/2 completed)", "{}", replicas(one, "all")?);
    one.docker(&["service", "update", "--force", "all"])?;
    ensure!(replicas(one, "all")? == "global job 0/0 (3/3 completed)", "{}", replicas(one, "all")?);

    // What fails is tried again, in another container that finds what the first has left.
    let tries = "test -e /kept/once || { touch /kept/once; exit 3; }";
    let flags =
        ["--name", "flaky", "--mode", "replicated-job", "--mount", "type=volume,source=kept,target=/kept"];
    create(
        one,
        &[&flags[..], &["--restart-condition", "on-failure", "--constraint", &place]].concat(),
        &["sh", "-c", tries],
    )?;
    let mut states: Vec<_> = tasks(one, "flaky")?.into_iter().map(|t| t.1).collect();
    states.sort();
    ensure!(states == ["Complete", "Failed"], "{states:?}");
    // Once only where nothing is restarted. The real client would wait for ever.
    let never = [
        "service",
        "create",
        "--no-resolve-image",
        "--name",
        "never",
        "--mode",
        "replicated-job",
        "--restart-condition",
        "none",
    ];
    let out = one.skep(&[&never[..], &["box:1", "false"]].concat());
    ensure!(
        out.is_err_and(|e| format!("{e:#}").contains("is over and not complete")),
        "a job that failed is an error"
    );
    ensure!(replicas(one, "never")? == "replicated job 0/1 (0/1 completed)", "{}", replicas(one, "never")?);

    // A drained node's tasks go elsewhere, as do those of one that dies.
    let flags =
        ["-d", "--name", "long", "--mode", "replicated-job", "--replicas", "3", "--stop-grace-period", "1s"];
    create(one, &[&flags[..], &["--constraint", "node.role==worker"]].concat(), &["sleep", "1000000"])?;
    shows(one, "long", "replicated job 3/3 (0/3 completed)")?;
    let on = |host: &Host| -> Result<usize> {
        let seen = tasks(one, "long")?;
        Ok(seen.iter().filter(|t| t.0 == "Complete" && t.1 == "Running" && t.2 == host.name).count())
    };
    let (two, three) = (lab.host(2), lab.host(3));
    one.docker(&["node", "update", "--availability", "drain", &two.name])?;
    eventually("all tasks run on the third host", LONG, || {
        ensure!(on(three)? == 3, "{:?}", tasks(one, "long")?);
        Ok(())
    })?;
    one.docker(&["node", "update", "--availability", "active", &two.name])?;
    lab.kill(3)?;
    let one = lab.host(1);
    let two = lab.host(2).name.clone();
    eventually("all tasks run on the second host", LONG, || {
        let seen = tasks(one, "long")?;
        let there = seen.iter().filter(|t| t.0 == "Complete" && t.1 == "Running" && t.2 == two).count();
        ensure!(there == 3, "{seen:?}");
        Ok(())
    })?;
    for name in ["count", "all", "here", "flaky", "never", "long"] {
        one.docker(&["service", "rm", name])?;
    }
    for number in [1, 2] {
        skep_e2e::swarm::wait_empty(lab.host(number))?;
    }
    lab.down()
}

/// What has ended is kept for its logs, and is in no network: a host keeps none for it.
#[test]
fn a_network_leaves_a_host_with_the_last_task_that_runs_there() -> Result<()> {
    let lab = lab("jobsn", 1)?;
    let one = lab.host(1);
    let gone = |network: &str| {
        eventually(&format!("{network} is gone from the host"), LONG, || {
            let report = one.skep(&["system", "check", "--format", "json"])?;
            ensure!(
                report.contains("\"Networks\"") && !report.contains(&format!("\"{network}\"")),
                "{report}"
            );
            Ok(())
        })
    };
    one.docker(&["network", "create", "-d", "overlay", "back"])?;
    let flags = ["--name", "job", "--mode", "replicated-job", "--network", "back"];
    create(one, &flags, &["sh", "-c", "echo said"])?;
    gone("back")?;
    // With a restart of the daemon it does not come back.
    one.stop_daemon("-KILL")?;
    one.start_daemon()?;
    gone("back")?;
    let container = one.docker(&["ps", "-aq", "--filter", "label=com.docker.swarm.service.name=job"])?;
    ensure!(one.docker(&["logs", container.trim()])?.trim() == "said");
    let state = one.docker(&["inspect", "-f", "{{.State.Status}} {{.State.ExitCode}}", container.trim()])?;
    ensure!(state.trim() == "exited 0", "{state}");
    ensure!(one.docker(&["service", "logs", "--raw", "job"])?.trim() == "said");

    // One that was scaled down, and one beside it that goes on.
    let flags = ["-d", "--network", "back", "--stop-grace-period", "1s"];
    create(one, &[&flags[..], &["--name", "some"]].concat(), &["sleep", "1000000"])?;
    create(one, &[&flags[..], &["--name", "more"]].concat(), &["sleep", "1000000"])?;
    shows(one, "some", "replicated 1/1")?;
    shows(one, "more", "replicated 1/1")?;
    one.docker(&["service", "scale", "some=0"])?;
    let report = one.skep(&["system", "check", "--format", "json"])?;
    ensure!(report.contains("\"back\""), "more is in it: {report}");
    one.docker(&["service", "scale", "more=0"])?;
    gone("back")?;
    // And back with the next task.
    one.docker(&["service", "scale", "more=1"])?;
    let report = one.skep(&["system", "check", "--format", "json"])?;
    ensure!(report.contains("\"back\""), "more is in it again: {report}");
    lab.down()
}

const FILE: &str = r#"
services:
  once:
    image: box:1
    command: "true"
    deploy: {mode: replicated-job, replicas: 2, restart_policy: {condition: on-failure, delay: 100ms}}
  each:
    image: box:1
    command: "true"
    deploy: {mode: global-job}
"#;

#[test]
fn jobs_of_a_stack_and_what_is_refused_of_jobs() -> Result<()> {
    let lab = lab("jobst", 1)?;
    let one = lab.host(1);
    let file = one.dir.join("jobs.yml");
    std::fs::write(&file, FILE)?;
    for (stack, client) in [("a", "docker"), ("b", "skep")] {
        let args =
            ["stack", "deploy", "--detach=false", "--resolve-image", "never", "-c", path(&file), stack];
        let Ok(_) = (if client == "docker" { one.docker(&args) } else { one.skep(&args) }) else {
            bail!("{client} deploys no jobs");
        };
        shows(one, &format!("{stack}_once"), "replicated job 0/2 (2/2 completed)")?;
        shows(one, &format!("{stack}_each"), "global job 0/0 (1/1 completed)")?;
    }
    for (flags, why) in [
        (
            &["--mode", "replicated-job", "--update-delay", "1s"][..],
            "update and rollback configuration is not supported for jobs",
        ),
        (
            &["--mode", "global-job", "--replicas", "2"],
            "replicas can only be used with replicated or replicated-job mode",
        ),
        (&["--max-concurrent", "2"], "max-concurrent can only be used with replicated-job mode"),
    ] {
        let args = [&["service", "create"][..], flags, &["box:1"]].concat();
        refused(one, &args, &[why])?;
        let ours = one.skep(&args);
        ensure!(ours.is_err_and(|e| format!("{e:#}").contains(why)), "{flags:?} is refused for {why:?}");
    }
    lab.down()
}
