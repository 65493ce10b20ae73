//! One host's engine under a load of containers: many started at once, commands in running ones, long logs,
//! long listings; each against Debian's dockerd.

use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Instant;

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};

use super::docker::{self, DockerLab};
use super::http::Client;
use super::table::{Row, Target, timed};
use super::{Setup, go_on, hosts, peers, restart};

/// Containers of the start bench, and how many are started at a time.
const STARTS: usize = 200;
const AT_A_TIME: usize = 8;
/// Containers of the listing bench.
const LISTED: usize = 1000;
/// Lines of 100 bytes that make a gigabyte.
const LINES: usize = 10_000_000;

/// A daemon and its client.
struct Side<'a> {
    api: Box<dyn Fn() -> Client + Sync + 'a>,
    cli: Box<dyn Fn() -> Command + Sync + 'a>,
}

pub fn run(setup: &Setup) -> Result<Vec<Row>> {
    let lab = hosts::lab(setup, 1)?;
    let docker = DockerLab::up(setup, 1)?;
    let host = lab.host(1);
    let ours = Side { api: Box::new(|| hosts::client(host)), cli: Box::new(|| host.skep_command()) };
    let theirs = docker.as_ref().map(|d| Side {
        api: Box::new(|| docker::client(d.lab.host(1))),
        cli: Box::new(|| d.command(d.lab.host(1))),
    });
    let image = peers::busybox()?;
    for side in theirs.iter().chain([&ours]) {
        (side.api)().import(&image, "bb")?;
    }
    let mut rows = Vec::new();
    for bench in [starts, exec, logs, listing] {
        rows.push(bench(setup, &ours, theirs.as_ref())?);
        go_on()?;
    }
    rows.push(restart::names(host)?);
    Ok(rows)
}

fn starts(_: &Setup, ours: &Side<'_>, theirs: Option<&Side<'_>>) -> Result<Row> {
    let (mut mine, mut his) = (vec![], vec![]);
    for turn in 0..3 {
        mine.push(start_many(ours)?);
        if let Some(side) = theirs.filter(|_| turn == 0) {
            his.push(start_many(side)?);
        }
    }
    let what = format!("{STARTS} containers started, {AT_A_TIME} at a time, bridge");
    Ok(Row::new(what, "/s", mine, Target::RatioAtLeast(10.0)).beside("docker", his))
}

/// Containers a second, created and started.
fn start_many(side: &Side<'_>) -> Result<f64> {
    let next = AtomicUsize::new(0);
    let began = Instant::now();
    let ids: Vec<String> = std::thread::scope(|scope| {
        let workers: Vec<_> = (0..AT_A_TIME)
            .map(|_| {
                scope.spawn(|| {
                    let (mut api, mut ids) = ((side.api)(), Vec::new());
                    while next.fetch_add(1, Ordering::Relaxed) < STARTS {
                        ids.push(start(&mut api, &["sleep", "1000000"], &json!({}))?);
                        go_on()?;
                    }
                    Ok(ids)
                })
            })
            .collect();
        let all = workers.into_iter().map(|w| w.join().unwrap_or_else(|_| Ok(Vec::new())));
        all.collect::<Result<Vec<Vec<String>>>>().map(|all| all.concat())
    })?;
    let rate = STARTS as f64 / began.elapsed().as_secs_f64();
    ensure!(ids.len() == STARTS, "only {} containers were started", ids.len());
    println!("{rate:.1} containers a second");
    let mut api = (side.api)();
    for id in &ids {
        api.delete(&format!("/containers/{id}?force=1"))?;
    }
    Ok(rate)
}

fn create(api: &mut Client, command: &[&str], host_config: &Value) -> Result<String> {
    let body = json!({ "Image": "bb", "Cmd": command, "HostConfig": host_config });
    let created = api.post("/containers/create", Some(&body))?;
    Ok(created["Id"].as_str().context("no ID")?.to_owned())
}

fn start(api: &mut Client, command: &[&str], host_config: &Value) -> Result<String> {
    let id = create(api, command, host_config)?;
    api.post(&format!("/containers/{id}/start"), None)?;
    Ok(id)
}

/// Milliseconds of a command of the client whose output nobody reads.
fn client(side: &Side<'_>, args: &[&str]) -> Result<f64> {
    let mut command = (side.cli)();
    command.args(args).stdin(Stdio::null()).stdout(Stdio::null());
    timed(|| {
        let status = command.status().with_context(|| format!("run {command:?}"))?;
        ensure!(status.success(), "{command:?} ended with {status}");
        Ok(())
    })
}

/// A command by turns with both clients; the first turn warms up.
fn by_turns(turns: usize, sides: [Option<(&Side<'_>, &[&str])>; 2]) -> Result<[Vec<f64>; 2]> {
    let mut all = [vec![], vec![]];
    for turn in 0..=turns {
        for (times, side) in all.iter_mut().zip(&sides) {
            let Some((side, args)) = side else { continue };
            let time = client(side, args)?;
            if turn > 0 {
                times.push(time);
            }
        }
        go_on()?;
    }
    Ok(all)
}

fn exec(setup: &Setup, ours: &Side<'_>, theirs: Option<&Side<'_>>) -> Result<Row> {
    let mine = start(&mut (ours.api)(), &["sleep", "1000000"], &json!({}))?;
    let his = theirs.map(|s| start(&mut (s.api)(), &["sleep", "1000000"], &json!({}))).transpose()?;
    let args = |id: &str| ["exec".to_owned(), id.to_owned(), "true".to_owned()];
    let (mine, his) = (args(&mine), args(his.as_deref().unwrap_or_default()));
    let (mine, his) = (mine.each_ref().map(String::as_str), his.each_ref().map(String::as_str));
    let times = by_turns(
        setup.rounds.min(20),
        [Some((ours, mine.as_slice())), theirs.map(|side| (side, his.as_slice()))],
    )?;
    for (side, args) in [(Some(ours), mine), (theirs, his)] {
        if let Some(side) = side {
            (side.api)().delete(&format!("/containers/{}?force=1", args[1]))?;
        }
    }
    let [mine, his] = times;
    Ok(Row::new("`exec true` in a running container", "ms", mine, Target::RatioAtMost(1.0))
        .beside("docker exec", his))
}

fn logs(_: &Setup, ours: &Side<'_>, theirs: Option<&Side<'_>>) -> Result<Row> {
    let mut all = [vec![], vec![]];
    for (times, side) in all.iter_mut().zip([Some(ours), theirs]) {
        let Some(side) = side else { continue };
        let mut api = (side.api)().within(std::time::Duration::from_secs(600));
        let script = format!("yes $(printf %099d 7) | head -n {LINES}");
        let id = start(&mut api, &["sh", "-c", &script], &json!({ "NetworkMode": "none" }))?;
        let wrote = timed(|| api.post(&format!("/containers/{id}/wait"), None))?;
        println!("1 GB of output was taken in {:.1} s", wrote / 1e3);
        for _ in 0..3 {
            times.push(client(side, &["logs", &id])? / 1e3);
            go_on()?;
        }
        api.delete(&format!("/containers/{id}"))?;
    }
    let [mine, his] = all;
    Ok(Row::new("`logs` of 1 GB (lines of 100 bytes)", "s", mine, Target::RatioAtMost(1.0))
        .beside("docker logs", his))
}

fn listing(setup: &Setup, ours: &Side<'_>, theirs: Option<&Side<'_>>) -> Result<Row> {
    for side in theirs.iter().copied().chain([ours]) {
        let mut api = (side.api)();
        for _ in 0..LISTED {
            create(&mut api, &["true"], &json!({}))?;
            go_on()?;
        }
    }
    let args = ["ps", "-a"].as_slice();
    let [mine, his] = by_turns(setup.rounds.min(20), [Some((ours, args)), theirs.map(|side| (side, args))])?;
    Ok(Row::new(format!("`ps -a` with {LISTED} containers"), "ms", mine, Target::Median(50.0))
        .beside("docker ps -a", his))
}
