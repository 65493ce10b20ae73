//! Secrets and configs: in the containers that need them, on the nodes that run those, and on no disk.

use std::io::{Read, Seek, SeekFrom, Write};
use std::path::Path;
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail, ensure};
use skep_e2e::swarm::{LONG, begun, join, nodes_are, path, refused, token, wait_running, wait_running_on};
use skep_e2e::{Host, Lab, busybox_image, eventually, eventually_some};

/// What nobody but the containers may hold; each test makes it unlike anything else.
fn plain_text(what: &str) -> String {
    format!("{what}-kept-from-disks-{}", std::process::id())
}

/// A docker command with input; its output.
fn fed(host: &Host, args: &[&str], input: &str) -> Result<String> {
    let mut command = host.docker_command();
    let mut child = command.args(args).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn()?;
    child.stdin.take().context("stdin")?.write_all(input.as_bytes())?;
    let out = child.wait_with_output()?;
    ensure!(out.status.success(), "{args:?}: {out:?}");
    Ok(String::from_utf8(out.stdout)?.trim().to_owned())
}

/// A manager and two workers that have `box:1`.
fn lab(name: &str) -> Result<Lab> {
    let lab = begun(name, 3)?;
    let archive = lab.host(1).dir.join("box.tar");
    busybox_image(&["sh", "sleep", "cat", "stat", "touch", "mount"], &archive)?;
    let worker = token(lab.host(1), "worker")?;
    for host in lab.hosts() {
        host.docker(&["import", path(&archive), "box:1"])?;
        if host.number > 1 {
            join(host, &worker, "10.99.0.1:2377")?;
        }
    }
    nodes_are(lab.host(1), "two workers joined", &["Ready Leader", "Ready", "Ready"])?;
    Ok(lab)
}

/// `service create` of a container that sleeps, on one host.
fn sleeper(manager: &Host, name: &str, on: &Host, more: &[&str]) -> Result<()> {
    let place = format!("node.hostname=={}", on.name);
    let first =
        ["service", "create", "-d", "--name", name, "--constraint", &place, "--stop-grace-period", "1s"];
    manager.docker(&[&first[..], more, &["box:1", "sleep", "1000000"]].concat())?;
    wait_running_on(manager, name, 1, &[on])
}

/// The service's one running container on a host.
fn container(host: &Host, service: &str) -> Result<String> {
    eventually_some(&format!("one container of {service}"), LONG, || {
        let filter = format!("label=com.docker.swarm.service.name={service}");
        let ids = host.docker(&["ps", "-q", "--filter", &filter])?;
        ensure!(ids.lines().count() == 1, "{ids:?}");
        Ok(Some(ids.trim().to_owned()))
    })
}

fn in_it(host: &Host, service: &str, argv: &[&str]) -> Result<String> {
    let id = container(host, service)?;
    Ok(host.docker(&[&["exec", &id], argv].concat())?.trim().to_owned())
}

/// Files below a directory that hold any of these texts.
fn holding(dir: &Path, texts: &[&str]) -> Result<String> {
    let mut grep = Command::new("grep");
    grep.args(["--recursive", "--files-with-matches", "--text", "--fixed-strings"]);
    grep.args(texts.iter().flat_map(|t| ["-e", t])).arg("--").arg(dir);
    let out = grep.output()?;
    // 2: files went away meanwhile, and sockets are none to read.
    Ok(String::from_utf8(out.stdout)?)
}

/// Whether the daemon's memory holds a text.
fn remembers(host: &Host, text: &str) -> Result<bool> {
    let init = host.init.context("a live host")?;
    let process = format!("/proc/{init}/root/proc/{}", host.daemon_pid()?);
    let maps = std::fs::read_to_string(format!("{process}/maps"))?;
    let mut memory = std::fs::File::open(format!("{process}/mem"))?;
    let mut bytes = Vec::new();
    for line in maps.lines().filter(|l| l.contains(" rw")) {
        let range = line.split(' ').next().and_then(|r| r.split_once('-')).context("a range")?;
        let (from, to) = (u64::from_str_radix(range.0, 16)?, u64::from_str_radix(range.1, 16)?);
        memory.seek(SeekFrom::Start(from))?;
        // A range may have gone since the list was read.
        let _ = (&mut memory).take(to - from).read_to_end(&mut bytes);
    }
    ensure!(!bytes.is_empty(), "nothing of the daemon's memory could be read");
    let mut grep = Command::new("grep")
        .args(["--count", "--text", "--fixed-strings", "-e", text])
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .spawn()?;
    grep.stdin.take().context("stdin")?.write_all(&bytes)?;
    Ok(grep.wait()?.success())
}

#[test]
fn they_are_in_their_containers_and_on_no_disk() -> Result<()> {
    let mut lab = lab("secret")?;
    let [one, two, three] = lab.hosts() else { bail!("three hosts") };
    let (password, settings) = (plain_text("password"), plain_text("settings"));
    let id = fed(one, &["secret", "create", "-l", "tier=db", "pw", "-"], &password)?;
    fed(one, &["config", "create", "conf", "-"], &settings)?;
    let template = "{{.Service.Name}} on {{.Node.Hostname}}: {{secret \"pw\"}}";
    fed(one, &["config", "create", "--template-driver", "golang", "note", "-"], template)?;
    let spec = one.docker(&["secret", "inspect", "-f", "{{json .Spec}}", "pw"])?;
    ensure!(spec.trim() == r#"{"Name":"pw","Labels":{"tier":"db"}}"#, "{spec}");
    let shown = one.docker(&["config", "inspect", "--pretty", "conf"])?;
    ensure!(shown.contains(&settings), "{shown}");

    sleeper(
        one,
        "db",
        two,
        &[
            "--secret",
            "pw",
            "--secret",
            "source=pw,target=/etc/own/pw,uid=33,gid=44,mode=0440",
            "--config",
            "source=conf,target=/etc/app.conf",
            "--config",
            "note",
            "--read-only",
        ],
    )?;
    sleeper(one, "other", three, &[])?;
    ensure!(in_it(two, "db", &["cat", "/run/secrets/pw"])? == password);
    ensure!(in_it(two, "db", &["cat", "/etc/own/pw"])? == password);
    ensure!(in_it(two, "db", &["cat", "/etc/app.conf"])? == settings);
    let note = in_it(two, "db", &["cat", "/note"])?;
    ensure!(note == format!("db on {}: {password}", two.name), "{note}");
    let stat = ["stat", "-c", "%a %u %g", "/run/secrets/pw", "/etc/own/pw", "/etc/app.conf"];
    let stat = in_it(two, "db", &stat)?;
    ensure!(stat == "444 0 0\n440 33 44\n444 0 0", "{stat}");
    ensure!(in_it(two, "db", &["touch", "/run/secrets/pw"]).is_err(), "it is read-only");
    let mounts = in_it(two, "db", &["mount"])?;
    ensure!(mounts.lines().any(|l| l.contains("/run/secrets/pw type tmpfs (ro")), "{mounts}");

    // Nowhere else: not on a disk, the manager's log included, and only one worker knows it at all.
    for host in lab.hosts() {
        let found = holding(&host.dir, &[&password, &settings])?;
        ensure!(found.is_empty(), "{found}");
        let mounts = host.exec(&["cat", "/proc/mounts"])?;
        ensure!(!mounts.contains("/files "), "host {}: {mounts}", host.number);
    }
    ensure!(remembers(two, &password)? && !remembers(three, &password)?, "only who needs it has it");

    // It stays as long as a service names it.
    refused(one, &["secret", "rm", "pw"], &["secret 'pw' is in use by the following service: db"])?;
    refused(one, &["config", "rm", "conf"], &["config 'conf' is in use by the following service: db"])?;
    refused(one, &["secret", "create", "pw", "/etc/hostname"], &["secret pw already exists"])?;
    refused(one, &["service", "create", "--secret", "nope", "box:1"], &["secret not found: nope"])?;

    // A daemon that is killed leaves the running container as it was.
    let before = container(two, "db")?;
    two.stop_daemon("-KILL")?;
    two.start_daemon()?;
    ensure!(in_it(two, "db", &["cat", "/run/secrets/pw"])? == password && container(two, "db")? == before);

    // Another one in its place rolls the tasks; the old one may go then, and goes from the node too.
    let next = plain_text("next");
    fed(one, &["secret", "create", "pw2", "-"], &next)?;
    let (gone, came) = ("--secret-rm=pw", "--secret-add=source=pw2,target=pw");
    one.docker(&["service", "update", "-q", gone, came, "--config-rm", "note", "db"])?;
    ensure!(in_it(two, "db", &["cat", "/run/secrets/pw"])? == next && container(two, "db")? != before);
    one.docker(&["secret", "rm", "pw"])?;
    let events = ["events", "--since", "1h", "--until", "0s", "--filter", "type=secret", "--format"];
    eventually("events of the secret", LONG, || {
        let events = one.docker(&[&events[..], &["{{.Action}} {{.Actor.ID}}"]].concat())?;
        for action in ["create", "remove"] {
            ensure!(events.contains(&format!("{action} {id}")), "{events}");
        }
        Ok(())
    })?;

    // A node that loses everything it had in memory gets it again.
    lab.kill(2)?;
    nodes_are(lab.host(1), "the worker is gone", &["Ready Leader", "Down", "Ready"])?;
    lab.restart(2)?;
    let two = lab.host(2);
    wait_running(lab.host(1), "db", 1)?;
    eventually("the secret is back after a power cut", LONG, || {
        ensure!(in_it(two, "db", &["cat", "/run/secrets/pw"])? == next);
        Ok(())
    })?;
    lab.host(1).docker(&["service", "rm", "db", "other"])?;
    lab.host(1).docker(&["secret", "rm", "pw2"])?;
    lab.down()
}
