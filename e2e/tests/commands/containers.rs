//! `docker container ...`, by its short forms.

use std::time::{SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result, ensure};
use skep_e2e::eventually;
use skep_e2e::swarm::LONG;
use skep_e2e::tally::{Tally, docker, prints, refuses, says};

pub fn drive(tally: &mut Tally<'_>) -> Result<()> {
    let host = tally.host;
    let file = |name: &str| host.dir.join(name).display().to_string();
    tally.drive("container create", |h| {
        docker(
            h,
            "create --name one -l tier=front bb sh -c 'echo out; echo err >&2; touch /made; sleep 100000'",
        )?;
        prints(h, "inspect -f '{{.State.Status}}' one", "created")?;
        refuses(h, "create --name one bb", "already in use")?;
        // A name is made up where none is given.
        let id = docker(h, "create bb true")?;
        let name = docker(h, &format!("inspect -f '{{{{.Name}}}}' {id}"))?;
        ensure!(name.trim().trim_start_matches('/').contains('_'), "{name}");
        docker(h, &format!("rm {id}")).map(drop)
    });
    tally.drive("container start", |h| {
        prints(h, "start one", "one")?;
        prints(h, "inspect -f '{{.State.Running}}' one", "true")?;
        refuses(h, "start nosuch", "no such container: nosuch")
    });
    tally.drive("container logs", |h| {
        eventually("it has written", LONG, || {
            let output = h.docker_command().args(["logs", "-t", "--details", "one"]).output()?;
            let (out, err) = (String::from_utf8(output.stdout)?, String::from_utf8(output.stderr)?);
            ensure!(out.ends_with(" out\n") && err.ends_with(" err\n") && out.contains('T'), "{out}{err}");
            Ok(())
        })?;
        prints(h, "logs -n 0 one", "")?;
        prints(h, "logs --until 1h one", "")?;
        says(h, "logs --since 1h one", "out")
    });
    tally.drive("container ls", |h| {
        let line =
            docker(h, "ps --no-trunc --filter label=tier=front --format '{{.Names}} {{.Image}} {{.State}}'")?;
        ensure!(line == "one bb running\n", "{line}");
        let table = docker(h, "ps")?;
        ensure!(table.starts_with("CONTAINER ID   IMAGE") && table.contains(" Up "), "{table}");
        let id = docker(h, "inspect -f '{{.Id}}' one")?;
        ensure!(docker(h, "ps -q --no-trunc")? == id && docker(h, "ps -lq --no-trunc")? == id, "{id}");
        says(h, "ps -as --format '{{.Size}}'", "virtual")?;
        for (filter, there) in [
            ("ancestor=bb", true),
            ("name=on", true),
            ("status=exited", false),
            ("exited=3", false),
            ("network=bridge", true),
            ("volume=/nosuch", false),
            ("publish=80", false),
            ("expose=80", false),
            ("health=none", true),
            ("is-task=false", true),
            ("since=one", false),
            ("before=one", false),
        ] {
            let shown = docker(h, &format!("ps -a --filter {filter} --format '{{{{.Names}}}}'"))?;
            ensure!(shown.contains("one") == there, "--filter {filter}: {shown:?}");
        }
        refuses(h, "ps --filter colour=red", "invalid filter")
    });
    tally.drive("container inspect", |h| {
        prints(h, "inspect -f '{{.Config.Image}} {{index .Config.Labels \"tier\"}}' one", "bb front")?;
        prints(h, "inspect -s -f '{{if .SizeRootFs}}true{{end}}' one", "true")?;
        refuses(h, "container inspect nosuch", "no such container: nosuch")
    });
    tally.drive("container exec", |h| {
        prints(h, "exec -e A=1 -w /tmp -u 5:6 one sh -c 'echo $A; pwd; id -u'", "1\n/tmp\n5")?;
        prints(h, "exec -d one touch /detached", "")?;
        eventually("the detached one has run", LONG, || docker(h, "exec one ls /detached").map(drop))?;
        let code =
            |args: &[&str]| Ok::<_, anyhow::Error>(h.docker_command().args(args).output()?.status.code());
        ensure!(code(&["exec", "one", "sh", "-c", "exit 9"])? == Some(9), "the exit code of an exec");
        ensure!(code(&["exec", "one", "nosuch"])? == Some(127), "the exit code of no program");
        ensure!(code(&["exec", "one", "/tmp"])? == Some(126), "the exit code of no executable");
        says(h, "exec --privileged one grep CapEff /proc/self/status", "CapEff")
    });
    tally.drive("container top", |h| {
        let table = docker(h, "top one")?;
        ensure!(table.starts_with("UID") && table.contains("sleep 100000"), "{table}");
        says(h, "top one -o pid,args", "COMMAND")
    });
    tally.drive("container stats", |h| {
        prints(h, "stats --no-stream --format '{{.Name}} {{.PIDs}}' one", "one 1")?;
        says(h, "stats --no-stream", "MEM USAGE / LIMIT")
    });
    tally.drive("container diff", |h| says(h, "diff one", "A /made"));
    tally.drive("container cp", |h| {
        std::fs::write(file("in"), "carried")?;
        docker(h, &format!("cp {} one:/tmp/in", file("in")))?;
        prints(h, "exec one cat /tmp/in", "carried")?;
        docker(h, &format!("cp one:/tmp/in {}", file("out")))?;
        ensure!(std::fs::read_to_string(file("out"))? == "carried");
        refuses(h, &format!("cp one:/nosuch {}", file("out")), "could not find the file /nosuch")
    });
    tally.drive("container export", |h| {
        docker(h, &format!("export -o {} one", file("one.tar")))?;
        let mut tar = tar::Archive::new(std::fs::File::open(file("one.tar"))?);
        let made = tar
            .entries()?
            .flatten()
            .any(|e| e.path().is_ok_and(|p| p.as_ref() == std::path::Path::new("made")));
        ensure!(made, "the archive lacks what the container made");
        Ok(())
    });
    tally.drive("container commit", |h| {
        says(h, "commit -a me -m why -c 'ENV A=1' one committed", "sha256:")?;
        prints(h, "run --rm committed sh -c 'ls /made; echo $A'", "/made\n1")
    });
    tally.drive("container rename", |h| {
        docker(h, "rename one two")?;
        prints(h, "inspect -f '{{.Name}}' two", "/two")?;
        docker(h, "rename two one").map(drop)
    });
    tally.drive("container pause", |h| {
        prints(h, "pause one", "one")?;
        prints(h, "inspect -f '{{.State.Status}}' one", "paused")?;
        refuses(h, "pause one", "already paused")
    });
    tally.drive("container unpause", |h| {
        prints(h, "unpause one", "one")?;
        prints(h, "inspect -f '{{.State.Status}}' one", "running")?;
        refuses(h, "unpause one", "is not paused")
    });
    tally.drive("container update", |h| {
        prints(h, "update --memory 100m --memory-swap 200m --restart on-failure:2 --cpus 0.5 one", "one")?;
        prints(h, "inspect -f '{{.HostConfig.Memory}} {{.HostConfig.RestartPolicy.Name}} {{.HostConfig.NanoCpus}}' one", "104857600 on-failure 500000000")
    });
    tally.drive("container restart", |h| {
        let before = docker(h, "inspect -f '{{.State.Pid}}' one")?;
        prints(h, "restart -t 0 one", "one")?;
        ensure!(docker(h, "inspect -f '{{.State.Pid}}' one")? != before, "it is the same process");
        Ok(())
    });
    tally.drive("container kill", |h| {
        docker(
            h,
            "run -d --name trapped bb sh -c 'trap \"exit 3\" USR1; echo ready; while :; do sleep 0.1; done'",
        )?;
        eventually("it is ready", LONG, || says(h, "logs trapped", "ready"))?;
        prints(h, "kill -s USR1 trapped", "trapped")?;
        prints(h, "wait trapped", "3")?;
        refuses(h, "kill trapped", "is not running")
    });
    tally.drive("container wait", |h| {
        prints(h, "wait trapped", "3")?;
        refuses(h, "wait nosuch", "no such container: nosuch")
    });
    tally.drive("container stop", |h| {
        prints(h, "stop -t 0 one", "one")?;
        prints(h, "inspect -f '{{.State.Status}} {{.State.ExitCode}}' one", "exited 137")
    });
    tally.drive("container attach", |h| {
        docker(h, "run -di --name attached bb sh -c 'read line; echo got $line; exit 4'")?;
        let mut client = h.docker_command();
        client
            .args(["attach", "attached"])
            .stdin(std::process::Stdio::piped())
            .stdout(std::process::Stdio::piped());
        let mut client = client.spawn()?;
        std::io::Write::write_all(&mut client.stdin.take().context("its input")?, b"this\n")?;
        let output = client.wait_with_output()?;
        ensure!(output.stdout == b"got this\n" && output.status.code() == Some(4), "{output:?}");
        refuses(h, "attach one", "cannot attach to a stopped container")
    });
    tally.drive("container port", |h| {
        docker(h, "run -d --name ported -p 127.0.0.1:8085:85 bb sleep 100000")?;
        prints(h, "port ported", "85/tcp -> 127.0.0.1:8085")?;
        prints(h, "port ported 85", "127.0.0.1:8085")?;
        refuses(h, "port ported 86", "no public port")
    });
    tally.drive("container run", |h| {
        for (args, code) in [
            (&["run", "--rm", "bb", "sh", "-c", "exit 5"][..], 5),
            (&["run", "--rm", "bb", "nosuch"], 127),
            (&["run", "--rm", "bb", "/tmp"], 126),
            (&["run", "--rm", "--network", "nosuch", "bb"], 125),
        ] {
            let output = h.docker_command().args(args).output()?;
            ensure!(output.status.code() == Some(code), "{args:?}: {output:?}");
        }
        Ok(())
    });
    tally.drive("container rm", |h| {
        refuses(h, "rm ported", "cannot remove")?;
        prints(h, "rm -f ported", "ported")?;
        prints(h, "rm attached", "attached")?;
        refuses(h, "rm attached", "no such container: attached")
    });
    tally.drive("container prune", |h| {
        docker(h, "run -d --name kept bb sleep 100000")?;
        says(h, "container prune -f", "Total reclaimed space: ")?;
        prints(h, "ps -a --format '{{.Names}}'", "kept")?;
        docker(h, "rm -f kept").map(drop)
    });
    // The client cuts a time off at its second.
    let until = SystemTime::now().duration_since(UNIX_EPOCH)?.as_secs() + 1;
    tally.drive("system events", |h| {
        let told = docker(
            h,
            &format!("events --since 1 --until {until} --filter container=one --format '{{{{.Action}}}}'"),
        )?;
        let told: Vec<_> = told.lines().collect();
        for action in [
            "create",
            "start",
            "pause",
            "unpause",
            "update",
            "kill",
            "die",
            "stop",
            "restart",
            "rename",
            "destroy",
            "export",
            "commit",
            "top",
            "exec_start: touch /detached",
        ] {
            ensure!(told.iter().any(|t| t.trim() == action), "no {action:?} among {told:?}");
        }
        refuses(h, "events --since 1 --until 2 --filter colour=red", "invalid filter")
    });
    Ok(())
}
