//! `compose stop`, `start`, `restart`, `top` and `rm` of a project that runs: what each client says, and what becomes of
//! the containers.

use std::path::Path;

use anyhow::{Context, Result, ensure};
use skep_e2e::{Host, eventually};

use super::{Client, LONG, containers, field, lab, write};

/// `deaf` is the first process of its container, to which a signal that it has no handler for means nothing
/// (pid_namespaces(7)); the others have an init that hands it on.
const FILE: &str = r#"
name: life
services:
  db: {image: bb, init: true, command: sleep 1001}
  web:
    image: bb
    init: true
    command: sleep 1002
    volumes: [/anonymous]
    depends_on: {db: {condition: service_started, restart: true}}
  deaf: {image: bb, command: sleep 1003, stop_grace_period: 120s}
"#;

const SERVICES: [&str; 3] = ["db", "deaf", "web"];

/// One client's turn: what it said to each command, the exit code with the words of its standard output.
struct Turn<'a> {
    client: Client,
    host: &'a Host,
    dir: &'a Path,
    said: Vec<(String, String)>,
}

impl Turn<'_> {
    fn ask(&mut self, args: &[&str]) -> Result<()> {
        let (code, out, err) = self.client.run(self.host, self.dir, args)?;
        ensure!((code == 0) != args.contains(&"nope"), "{:?} {args:?}: {code} {out}{err}", self.client);
        // Containers are told of in any order.
        let mut words: Vec<&str> = out.split([' ', ',', '\n']).filter(|w| !w.is_empty()).collect();
        words.sort_unstable();
        self.said.push((args.join(" "), format!("{code} {}", words.join(" "))));
        Ok(())
    }

    /// The states of the services' containers, with the exit codes of those that have ended; none = there is no such.
    fn states(&self) -> Result<[Option<String>; 3]> {
        let there = containers(self.host)?;
        let mut all = [None, None, None];
        for (service, state) in SERVICES.iter().zip(&mut all) {
            let name = format!("life-{service}-1");
            if there.contains_key(&name) {
                let code = "{{.State.Status}}{{if not .State.Running}} {{.State.ExitCode}}{{end}}";
                *state = Some(field(self.host, &name, code)?);
            }
        }
        Ok(all)
    }

    fn are(&self, when: &str, wanted: [Option<&str>; 3]) -> Result<()> {
        let states = self.states()?;
        let client = self.client;
        ensure!(
            states.each_ref().map(Option::as_deref) == wanted,
            "{client:?}, {when}: {SERVICES:?} are {states:?}"
        );
        Ok(())
    }

    fn began(&self) -> Result<[String; 3]> {
        let began = |s: &str| field(self.host, &format!("life-{s}-1"), "{{.State.StartedAt}}");
        Ok([began("db")?, began("deaf")?, began("web")?])
    }

    /// Restarts, and tells which have been started anew; none may have been made anew.
    fn restarted(&mut self, args: &[&str]) -> Result<Vec<&'static str>> {
        let (made, before) = (containers(self.host)?, self.began()?);
        self.ask(args)?;
        ensure!(containers(self.host)? == made, "{:?} {args:?} made containers", self.client);
        self.are("after restart", [Some("running"); 3])?;
        let after = self.began()?;
        Ok(SERVICES
            .into_iter()
            .enumerate()
            .filter(|(n, _)| before[*n] != after[*n])
            .map(|(_, s)| s)
            .collect())
    }

    /// `top` of services: what runs in which container, without what differs from one to the next.
    fn top(&mut self, args: &[&str]) -> Result<Vec<String>> {
        let out = self.client.ok(self.host, self.dir, &[&["top"], args].concat())?;
        let mut lines = out.lines();
        let Some(heads) = lines.next() else { return Ok(Vec::new()) };
        let heads: Vec<&str> = heads.split_whitespace().collect();
        let at = |title: &str| heads.iter().position(|h| *h == title).with_context(|| out.clone());
        let (service, number, uid, command) = (at("SERVICE")?, at("#")?, at("UID")?, at("CMD")?);
        let mut rows = Vec::new();
        for line in lines {
            let words: Vec<&str> = line.split_whitespace().collect();
            ensure!(words.len() > command, "{out}");
            let shown = [words[service], words[number], words[uid], &words[command..].join(" ")].join(" ");
            // What init is called is the daemon's.
            if !shown.contains("init") {
                rows.push(shown);
            }
        }
        rows.sort_unstable();
        self.said.push((format!("top {args:?}"), format!("{heads:?}")));
        Ok(rows)
    }

    fn volumes(&self) -> Result<usize> {
        Ok(self.host.docker(&["volume", "ls", "-q"])?.lines().count())
    }

    fn play(&mut self) -> Result<()> {
        let (running, terminated, killed) = (Some("running"), Some("exited 143"), Some("exited 137"));
        let host = self.host;
        self.ask(&["up", "-d"])?;
        eventually("the commands run", LONG, || {
            for service in SERVICES {
                let top = host.docker(&["top", &format!("life-{service}-1")])?;
                ensure!(top.lines().any(|l| l.trim_end().contains(" sleep 100")), "{top}");
            }
            Ok(())
        })?;
        let all = ["db 1 root sleep 1001", "deaf 1 root sleep 1003", "web 1 root sleep 1002"];
        for (args, wanted) in [(&[][..], &all[..]), (&["web"], &all[2..]), (&["db", "deaf"], &all[..2])] {
            let shown = self.top(args)?;
            ensure!(shown == wanted, "{:?} top {args:?}: {shown:?}", self.client);
        }
        // The one that is named, not what it needs; once stopped, it shows no process.
        self.ask(&["stop", "web"])?;
        self.are("after stop web", [running, running, terminated])?;
        ensure!(self.top(&["web"])?.is_empty() && self.top(&[])? == all[..2], "{:?}", self.client);
        self.ask(&["stop", "web"])?;
        self.ask(&["restart", "web"])?;
        self.are("after restart of what was stopped", [running; 3])?;
        self.ask(&["stop", "-t", "0", "deaf"])?;
        self.are("after stop -t 0", [running, killed, running])?;
        self.ask(&["start", "deaf"])?;
        self.are("after start", [running; 3])?;
        for (args, wanted) in [
            (&["restart", "web"][..], &["web"][..]),
            (&["restart", "db"], &["db", "web"]),
            (&["restart", "--no-deps", "db"], &["db"]),
            (&["restart", "-t", "0", "deaf"], &["deaf"]),
            (&["restart", "-t", "0"], &SERVICES),
        ] {
            let restarted = self.restarted(args)?;
            ensure!(restarted == wanted, "{:?} {args:?} has restarted {restarted:?}", self.client);
        }
        // What runs is not removed.
        let before = (containers(host)?, self.volumes()?);
        self.ask(&["rm", "-f"])?;
        ensure!((containers(host)?, self.volumes()?) == before, "{:?}: rm of what runs", self.client);
        self.ask(&["stop", "web"])?;
        self.ask(&["rm", "-f", "db"])?;
        self.are("after rm of another", [running, running, terminated])?;
        self.ask(&["rm", "--force"])?;
        self.are("after rm", [running, running, None])?;
        ensure!(self.volumes()? == before.1, "{:?}: rm took a volume", self.client);
        self.ask(&["up", "-d"])?;
        ensure!(self.volumes()? == before.1 + 1, "{:?}: a volume of its own", self.client);
        self.ask(&["rm", "-f", "-s", "-v", "web"])?;
        self.are("after rm -s", [running, running, None])?;
        ensure!(self.volumes()? == before.1, "{:?}: rm -v left the volume", self.client);
        for args in [&["stop", "nope"][..], &["restart", "nope"], &["rm", "-f", "nope"], &["start", "nope"]] {
            self.ask(args)?;
        }
        self.ask(&["up", "-d"])?;
        self.ask(&["stop", "-t", "0"])?;
        let states = self.states()?;
        ensure!(
            states.iter().flatten().filter(|s| s.starts_with("exited")).count() == 3,
            "{:?}: {states:?}",
            self.client
        );
        ensure!(self.top(&[])?.is_empty(), "{:?}: top of nothing", self.client);
        self.ask(&["rm", "-f"])?;
        self.are("after rm of all", [None; 3])
    }
}

#[test]
fn services_are_stopped_restarted_shown_and_removed_alike() -> Result<()> {
    let (lab, dir) = lab("clife")?;
    let host = lab.host(1);
    write(&dir, &[("compose.yaml", FILE)])?;
    let mut all = Vec::new();
    for client in [Client::Docker, Client::Skep] {
        let mut turn = Turn { client, host, dir: &dir, said: Vec::new() };
        turn.play()?;
        all.push(turn.said);
        client.ok(host, &dir, &["down", "-v"])?;
        host.docker(&["volume", "prune", "-af"])?;
    }
    super::alike(&all[0], &all[1])?;
    lab.down()
}
