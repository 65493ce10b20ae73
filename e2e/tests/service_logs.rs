//! `service logs` with each of its flags, and with a node out of reach: what exists is returned, what is missing is said.

use std::io::{BufRead, BufReader};
use std::process::{Command, Stdio};
use std::sync::mpsc;

use anyhow::{Context, Result, bail, ensure};
use skep_e2e::swarm::{LONG, managers, nodes_are, path, wait_running};
use skep_e2e::{Host, Lab, busybox_image, eventually};

/// Three lines to standard output and one to standard error.
const SCRIPT: &str = "for i in 1 2 3; do echo out $i; done; echo err 1 >&2; exec sleep 100000";

/// Two managers and a worker, with a task of `talk` on each.
fn talking() -> Result<Lab> {
    let lab = managers("slogs")?;
    let [one, _, three] = lab.hosts() else { bail!("three hosts") };
    one.docker(&["node", "demote", &three.name])?;
    nodes_are(one, "host 3 is a worker", &["Ready Leader", "Ready Reachable", "Ready"])?;
    let archive = one.dir.join("busybox.tar");
    busybox_image(&["sh", "sleep"], &archive)?;
    for host in lab.hosts() {
        host.docker(&["import", path(&archive), "bb"])?;
    }
    let talk = ["service", "create", "-d", "--no-resolve-image", "--mode", "global", "--stop-signal", "KILL"];
    one.docker(&[&talk[..], &["--name", "talk", "bb", "sh", "-c", SCRIPT]].concat())?;
    wait_running(one, "talk", 3)?;
    eventually("all have spoken", LONG, || {
        let (out, err) = said(one, &["talk"])?;
        ensure!(out.lines().count() == 9 && err.lines().count() == 3, "{out}{err}");
        Ok(())
    })?;
    Ok(lab)
}

fn run(mut command: Command, args: &[&str]) -> Result<(bool, String, String)> {
    let done = command.args(["service", "logs"]).args(args).stdin(Stdio::null()).output()?;
    Ok((done.status.success(), String::from_utf8(done.stdout)?, String::from_utf8(done.stderr)?))
}

/// What `docker service logs` writes to both outputs; it must succeed.
fn said(host: &Host, args: &[&str]) -> Result<(String, String)> {
    let (ok, out, err) = run(host.docker_command(), args)?;
    ensure!(ok, "{args:?}: {out}{err}");
    Ok((out, err))
}

#[test]
fn every_flag_shows_what_it_is_for_and_what_is_out_of_reach_is_named() -> Result<()> {
    let mut lab = talking()?;
    every_flag(&lab)?;

    // Whoever is asked says what of the logs is missing once a node is down, after all that there is.
    let lost = lab.host(3).docker(&["info", "-f", "{{.Swarm.NodeID}}"])?.trim().to_owned();
    let following = Followed::begin(lab.host(2), &["--follow", "--tail", "0", "talk"])?;
    lab.kill(3)?;
    nodes_are(lab.host(1), "host 3 is down", &["Ready Leader", "Ready Reachable", "Down"])?;
    for host in [lab.host(1), lab.host(2)] {
        for (command, raw) in
            [(host.docker_command(), false), (host.skep_command(), false), (host.docker_command(), true)]
        {
            let args = if raw { &["--raw", "talk"][..] } else { &["talk"] };
            let (ok, out, err) = run(command, args)?;
            ensure!(!ok && out.lines().count() == 6, "what exists is there: {out}{err}");
            ensure!(err.contains("err 1") && err.contains("incomplete log stream"), "{err}");
            ensure!(err.contains(&format!("node {lost} is not reachable")), "{err}");
        }
    }
    // One that follows is told at once, and goes on; one that does so already hears of those to come.
    let late = Followed::begin(lab.host(1), &["--follow", "--tail", "0", "talk"])?;
    late.hears(&format!("warning: node {lost} is not reachable"))?;
    lab.host(1).docker(&["service", "update", "-d", "--force", "talk"])?;
    for followed in [following, late] {
        followed.hears("out 3")?;
    }
    // One whose log cannot be read says so to who follows, while it runs.
    let mute = ["service", "create", "-d", "--no-resolve-image", "--name", "mute", "--log-driver", "none"];
    lab.host(1).docker(&[&mute[..], &["--stop-signal", "KILL", "bb", "sh", "-c", SCRIPT]].concat())?;
    wait_running(lab.host(1), "mute", 1)?;
    let mute = Followed::begin(lab.host(2), &["--follow", "mute"])?;
    mute.hears("configured logging driver does not support reading")?;
    lab.down()
}

fn every_flag(lab: &Lab) -> Result<()> {
    let (one, two) = (lab.host(1), lab.host(2));
    let tasks = one.docker(&["service", "ps", "--no-trunc", "--format", "{{.ID}} {{.Node}}", "talk"])?;
    let (task, node) = tasks.lines().next().and_then(|l| l.split_once(' ')).context("a task")?;
    let id = one.docker(&["service", "inspect", "-f", "{{.ID}}", "talk"])?;
    let node_id = one.docker(&["node", "inspect", "-f", "{{.ID}}", node])?;
    let (id, node_id) = (id.trim(), node_id.trim());
    // A task of a global service has no slot.
    let short = &task[..12];
    for (args, line) in [
        (vec![task], format!("talk.0.{short}@{node}    | out 2")),
        (vec!["--no-trunc", task], format!("talk.0.{task}@{node}    | out 2")),
        (vec!["--no-task-ids", task], format!("talk.0@{node}    | out 2")),
        (vec!["--no-resolve", task], format!("{id}.0.{short}@{node_id}    | out 2")),
        (vec!["--details", task], format!("talk.0.{short}@{node}    |  out 2")),
        (vec!["--raw", task], "out 2".to_owned()),
    ] {
        // Any manager, for a task of any node.
        for host in [one, two] {
            let (out, err) = said(host, &args)?;
            let lines: Vec<&str> = out.lines().collect();
            ensure!(lines.len() == 3 && lines[1] == line, "{args:?}: {out:?}, not {line:?}");
            ensure!(err.contains("err 1") && err.lines().count() == 1, "{args:?}: {err}");
        }
    }
    let (out, err) = said(one, &["--tail", "1", "--raw", "talk"])?;
    ensure!(out.lines().count() + err.lines().count() == 3, "the last line of each task: {out}{err}");
    let (out, _) = said(one, &["--timestamps", "--raw", "--tail", "all", "talk"])?;
    let times: Vec<&str> = out.lines().filter_map(|l| l.split_once(' ').map(|(time, _)| time)).collect();
    ensure!(times.len() == 9 && times.iter().all(|t| t.len() == 30 && t.ends_with('Z')), "{out}");
    let last = times.iter().max().context("a time")?;
    let (out, _) = said(one, &["--since", last, "--raw", "talk"])?;
    ensure!((1..9).contains(&out.lines().count()), "since {last}: {out}");
    let (out, err) = said(one, &["--since", "2100-01-01T00:00:00Z", "talk"])?;
    ensure!(out.is_empty() && err.is_empty(), "{out}{err}");
    let (ok, _, err) = run(one.docker_command(), &["nothing"])?;
    ensure!(!ok && err.contains("no such task or service: nothing"), "{err}");
    Ok(())
}

/// `service logs --follow`, read as it comes.
struct Followed {
    child: std::process::Child,
    lines: mpsc::Receiver<String>,
}

impl Followed {
    fn begin(host: &Host, args: &[&str]) -> Result<Self> {
        let mut command = host.docker_command();
        command.args(["service", "logs"]).args(args).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn()?;
        let (tx, lines) = mpsc::channel();
        let outputs: [Box<dyn std::io::Read + Send>; 2] = [
            Box::new(child.stdout.take().context("its output")?),
            Box::new(child.stderr.take().context("its errors")?),
        ];
        for output in outputs {
            let tx = tx.clone();
            std::thread::spawn(move || {
                for line in BufReader::new(output).lines().map_while(Result::ok) {
                    if tx.send(line).is_err() {
                        return;
                    }
                }
            });
        }
        Ok(Self { child, lines })
    }

    fn hears(&self, words: &str) -> Result<()> {
        let mut heard = Vec::new();
        loop {
            let line = self.lines.recv_timeout(LONG).with_context(|| format!("{words:?} after {heard:?}"))?;
            if line.contains(words) {
                return Ok(());
            }
            heard.push(line);
        }
    }
}

impl Drop for Followed {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
