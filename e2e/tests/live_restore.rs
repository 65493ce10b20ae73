//! The daemon is killed, replaced by another copy of the binary, and started again: containers, what they write,
//! their terminals, ports, names, health, commands and ends are as if it had been there all the time.

use std::io::{Read, Write};
use std::process::Child;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use skep_e2e::swarm::{hosts, path};
use skep_e2e::{Host, busybox_image, eventually};

const LONG: Duration = Duration::from_secs(60);

/// Waits for a file of the host, in a container that has `/x`.
fn until(file: &str, then: &str) -> String {
    format!("until test -e /x/{file}; do sleep 0.05; done; {then}")
}

fn inspect(host: &Host, format: &str, name: &str) -> Result<String> {
    Ok(host.docker(&["inspect", "-f", format, name])?.trim().to_owned())
}

/// `docker attach` at a terminal.
struct Terminal {
    client: Child,
    master: std::fs::File,
}

impl Terminal {
    fn attach(host: &Host, name: &str) -> Result<Self> {
        let pty = nix::pty::openpty(None, None)?;
        let mut command = host.docker_command();
        command.args(["attach", name]);
        command.stdin(pty.slave.try_clone()?).stdout(pty.slave.try_clone()?).stderr(pty.slave);
        Ok(Self { client: command.spawn()?, master: pty.master.into() })
    }

    /// Types a line, and reads until `answer` comes.
    fn ask(&mut self, line: &str, answer: &str) -> Result<()> {
        self.master.write_all(line.as_bytes())?;
        let (mut said, mut buffer) = (Vec::new(), [0; 4096]);
        while !String::from_utf8_lossy(&said).contains(answer) {
            let n =
                self.master.read(&mut buffer).with_context(|| String::from_utf8_lossy(&said).into_owned())?;
            said.extend_from_slice(&buffer[..n]);
        }
        Ok(())
    }
}

/// The numbers that a container counted in its log: none lost, none twice.
fn counted(host: &Host, name: &str) -> Result<usize> {
    let text = host.docker(&["logs", name])?;
    for (expected, line) in text.lines().enumerate() {
        ensure!(line == format!("line {expected}"), "{line:?} came where line {expected} was due");
    }
    Ok(text.lines().count())
}

fn exec(host: &Host, container: &str, script: &str) -> Result<String> {
    let body = serde_json::json!({"Cmd": ["sh", "-c", script]}).to_string();
    let made = host.request("POST", &format!("/v1.50/containers/{container}/exec"), &body)?;
    let json: serde_json::Value = serde_json::from_str(&made.body)?;
    let id = json["Id"].as_str().context("an ID")?.to_owned();
    let started = host.request("POST", &format!("/v1.50/exec/{id}/start"), r#"{"Detach":true}"#)?;
    ensure!(started.status == 200, "{started:?}");
    Ok(id)
}

fn exec_state(host: &Host, id: &str) -> Result<(bool, Option<i64>)> {
    let answer = host.request("GET", &format!("/v1.50/exec/{id}/json"), "")?;
    let json: serde_json::Value = serde_json::from_str(&answer.body).with_context(|| answer.body.clone())?;
    Ok((json["Running"].as_bool().context("Running")?, json["ExitCode"].as_i64()))
}

#[test]
fn a_killed_and_replaced_daemon_finds_all_as_it_should_be() -> Result<()> {
    let lab = hosts("live", 1)?;
    let host = lab.host(1);
    let archive = host.dir.join("busybox.tar");
    busybox_image(&["sh", "test", "sleep", "echo", "httpd", "nslookup", "wget", "cat"], &archive)?;
    host.docker(&["import", path(&archive), "bb"])?;
    let shared = host.dir.join("shared");
    std::fs::create_dir(&shared)?;
    let volume = format!("{}:/x", shared.display());
    let touch = |name: &str| std::fs::write(shared.join(name), "");
    host.docker(&["network", "create", "net"])?;
    host.docker(&["network", "create", "other"])?;
    let run = |name: &str, options: &[&str], script: &str| {
        let most = ["run", "-d", "--name", name, "-v", &volume];
        host.docker(&[&most[..], options, &["bb", "sh", "-c", script]].concat())
    };
    let net = ["--network", "net"];
    run(
        "web",
        &[&net[..], &["-p", "18080:80"]].concat(),
        "echo hello >/index.html; exec httpd -f -p 80 -h /",
    )?;
    run("ask", &net, "sleep 10000")?;
    run("count", &[], "i=0; while test $i -lt 100000; do echo line $i; i=$((i+1)); sleep 0.01; done")?;
    run("ends", &[], &until("go", "exit 7"))?;
    run("again", &["--restart", "always"], &until("go", "sleep 0.2; exit 1"))?;
    run("fails", &["--restart", "on-failure:2"], &until("go", "exit 5"))?;
    run("gone", &["--rm"], &until("go", "exit 0"))?;
    let health = ["--health-cmd", "test ! -e /x/sick", "--health-interval", "1s", "--health-retries", "1"];
    run("well", &health, "sleep 10000")?;
    host.docker(&["run", "-dit", "--name", "term", "bb", "sh"])?;
    let goes_on = exec(host, "ask", &until("later", "exit 4"))?;
    let ends = exec(host, "ask", &until("go", "exit 3"))?;
    let mut terminal = Terminal::attach(host, "term")?;
    terminal.ask("v=kept; echo is $((40+2))\n", "is 42")?;
    eventually("the healthy one is", LONG, || {
        ensure!(inspect(host, "{{.State.Health.Status}}", "well")? == "healthy");
        Ok(())
    })?;
    let names = ["web", "ask", "count", "well", "term"];
    let pids = |host: &Host| -> Result<Vec<String>> {
        names.iter().map(|n| inspect(host, "{{.State.Pid}} {{.State.StartedAt}}", n)).collect()
    };
    let before = pids(host)?;
    let fetch =
        |host: &Host| host.exec(&["curl", "-sS", "--max-time", "5", "http://127.0.0.1:18080/index.html"]);
    ensure!(fetch(host)? == "hello\n");
    let published = inspect(host, "{{json .NetworkSettings.Ports}}", "web")?;

    let pid = inspect(host, "{{.State.Pid}}", "ask")?;
    let names_of_ask = ["nsenter", "-t", &pid, "-n", "busybox", "nslookup", "web", "127.0.0.11"];
    host.exec(&names_of_ask)?;

    host.stop_daemon("-KILL")?;
    terminal.client.wait()?;
    ensure!(host.exec(&names_of_ask).is_err(), "the name server is the daemon's");
    let lines = counted_on_disk(host)?;
    touch("go")?;
    ensure!(fetch(host)? == "hello\n", "its port goes on without a daemon");
    eventually("lines are logged without a daemon", LONG, || {
        ensure!(counted_on_disk(host)? > lines + 20);
        Ok(())
    })?;

    // Another copy of the binary; the first one is gone, as after an upgrade.
    let mut host = host.clone();
    let copy = host.dir.join("skep-new");
    std::fs::copy(&host.skep, &copy)?;
    host.skep = copy;
    let host = &host;
    host.start_daemon()?;
    // The first thing that is asked once the API has answered, and of the name server alone.
    host.exec(&names_of_ask).context("names are not answered when the API is")?;
    ensure!(pids(host)? == before, "the same processes since the same time");
    ensure!(
        fetch(host)? == "hello\n" && inspect(host, "{{json .NetworkSettings.Ports}}", "web")? == published
    );
    ensure!(inspect(host, "{{.State.Health.Status}}", "well")? == "healthy", "health is remembered");
    eventually("what ended meanwhile is told of", LONG, || {
        let state = inspect(host, "{{.State.Status}} {{.State.ExitCode}} {{.State.Running}}", "ends")?;
        ensure!(state == "exited 7 false", "{state}");
        let state = inspect(host, "{{.State.Status}} {{.State.ExitCode}} {{.RestartCount}}", "fails")?;
        ensure!(state == "exited 5 2", "{state}");
        ensure!(inspect(host, "{{.State.Status}}", "gone").is_err(), "what was to be removed is there");
        Ok(())
    })?;
    eventually("what is to be started again is", LONG, || {
        let count = inspect(host, "{{.RestartCount}}", "again")?;
        ensure!(count.parse::<u32>()? > 0, "{count}");
        Ok(())
    })?;
    ensure!(exec_state(host, &goes_on)? == (true, None), "{:?}", exec_state(host, &goes_on)?);
    eventually("a command that ended meanwhile is told of", LONG, || {
        let state = exec_state(host, &ends)?;
        ensure!(state == (false, Some(3)), "{state:?}");
        Ok(())
    })?;
    touch("later")?;
    eventually("a command that went on ends", LONG, || {
        let state = exec_state(host, &goes_on)?;
        ensure!(state == (false, Some(4)), "{state:?}");
        Ok(())
    })?;
    touch("sick")?;
    eventually("health is watched again", LONG, || {
        ensure!(inspect(host, "{{.State.Health.Status}}", "well")? == "unhealthy");
        Ok(())
    })?;
    ensure!(counted(host, "count")? > lines, "the log goes on where it was");
    let mut terminal = Terminal::attach(host, "term")?;
    terminal.ask("echo v is $v\n", "v is kept")?;
    terminal.master.write_all(b"\x10\x11")?;
    terminal.client.wait()?;

    host.docker(&["network", "connect", "--alias", "counter", "net", "count"])?;
    host.docker(&["exec", "ask", "nslookup", "counter", "127.0.0.11"])?;
    host.docker(&["network", "disconnect", "net", "count"])?;
    host.docker(&["network", "disconnect", "net", "web"])?;
    host.docker(&["network", "connect", "other", "web"])?;
    ensure!(host.docker(&["exec", "ask", "nslookup", "web", "127.0.0.11"]).is_err(), "it has left");
    ensure!(fetch(host)? == "hello\n", "its port is published on what is left to it");
    let last = host.docker(&["rm", "-f", "web", "ask", "count", "ends", "again", "fails", "well", "term"])?;
    ensure!(last.lines().count() == 8, "{last}");
    host.docker(&["network", "rm", "net", "other"])?;
    lab.down()
}

/// Lines in the log of the container that counts, read where its shim writes them.
fn counted_on_disk(host: &Host) -> Result<usize> {
    let script = "cat $1/data/*/containers/*/*json*log* $1/data/containers/*/*json*log* 2>/dev/null | grep -c line; true";
    Ok(host.exec(&["sh", "-c", script, "sh", path(&host.dir)])?.trim().parse()?)
}

/// A container's record is written a moment after its start. A daemon that is killed before finds the container running,
/// and how it is connected.
#[test]
fn a_daemon_that_is_killed_before_it_writes_a_start_down_finds_how_it_is_connected() -> Result<()> {
    let lab = hosts("unwritten", 1)?;
    let host = lab.host(1);
    host.docker(&["network", "create", "back"])?;
    host.docker(&[
        "create",
        "--name",
        "web",
        "--network",
        "back",
        "-p",
        "8090:80",
        "whoami:1",
        "/skep",
        "whoami",
    ])?;
    host.stop_daemon("-TERM")?;
    let (records, before) = (host.dir.join("data/skep.redb"), host.dir.join("before"));
    std::fs::copy(&records, &before)?;
    host.start_daemon()?;
    host.docker(&["start", "web"])?;
    let format = "{{json .NetworkSettings.Networks.back.IPAddress}} {{json .NetworkSettings.Ports}}";
    let connected = inspect(host, format, "web")?;
    host.stop_daemon("-KILL")?;
    // What such a kill leaves: the record as it was before the start.
    std::fs::copy(&before, &records)?;
    host.start_daemon()?;
    let found = inspect(host, format, "web")?;
    ensure!(connected.contains("8090") && found == connected, "{connected}, and then {found}");
    let answer = lab.outside(&["curl", "-sS", "--max-time", "3", &format!("http://{}:8090/", host.addr)])?;
    ensure!(answer.contains("Hostname: "), "{answer}");
    lab.down()
}
