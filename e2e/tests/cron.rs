//! Jobs with a schedule, with a real daemon and the time there is: they begin when they are due, at a user's word, and
//! not while they are suspended.

use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use serde_json::Value;
use skep_e2e::swarm::{LONG, begun, path};
use skep_e2e::{Host, busybox_image, eventually};

/// A run a minute: one is due within this, on a busy machine.
const MINUTES: Duration = Duration::from_secs(150);

fn inspect(host: &Host) -> Result<Value> {
    let shown = host.request("GET", "/v1.50/services/tick", "")?;
    ensure!(shown.status == 200, "{shown:?}");
    Ok(serde_json::from_str(&shown.body)?)
}

/// How the runs so far came out, newest first.
fn runs(host: &Host) -> Result<Vec<String>> {
    let seen = inspect(host)?;
    let runs = seen["ScheduleStatus"]["Runs"].as_array().with_context(|| format!("runs in {seen}"))?;
    Ok(runs.iter().map(|r| r["Outcome"].as_str().unwrap_or_default().to_owned()).collect())
}

#[test]
fn jobs_begin_by_their_schedule() -> Result<()> {
    let lab = begun("cron", 1)?;
    let host = lab.host(1);
    let archive = host.dir.join("box.tar");
    busybox_image(&["sh", "sleep"], &archive)?;
    host.docker(&["import", path(&archive), "box:1"])?;
    let create = |mode: &str, flags: &[&str]| {
        let first = ["service", "create", "-d", "--no-resolve-image", "--name", "tick", "--mode", mode];
        host.skep(&[&first[..], flags, &["box:1", "sh", "-c", "exit 0"]].concat())
    };
    for (mode, flags, words) in [
        ("replicated", &["--schedule", "@hourly"][..], "only jobs have a schedule"),
        ("replicated-job", &["--schedule", "* * * *"], "want five fields"),
        ("replicated-job", &["--schedule", "0 25 * * *"], "\"25\" cannot be the hour"),
        ("replicated-job", &["--schedule", "0 0 31 2 *"], "never comes"),
        ("replicated-job", &["--schedule", "@daily", "--schedule-time-zone", "Moon/Sea"], "not a time zone"),
        ("replicated-job", &["--schedule-suspend"], "a schedule is set by --schedule"),
    ] {
        let Err(e) = create(mode, flags) else { bail!("{flags:?} was not refused") };
        let text = format!("{e:#}");
        ensure!(text.contains(words), "{flags:?} should say {words:?}: {text}");
    }

    create("replicated-job", &["--schedule", "* * * * *", "--schedule-time-zone", "Europe/Berlin"])?;
    let made = inspect(host)?;
    ensure!(made["Spec"]["Schedule"]["Cron"] == "* * * * *", "{made}");
    ensure!(made["Spec"]["Schedule"]["TimeZone"] == "Europe/Berlin", "{made}");
    eventually("a run is due and has come to its end", MINUTES, || {
        let (seen, next) = (runs(host)?, inspect(host)?["ScheduleStatus"]["NextRun"].clone());
        ensure!(seen.contains(&"complete".to_owned()) && next.is_string(), "{seen:?}, next {next}");
        Ok(())
    })?;

    // Suspended: only a user begins it, and neither Docker's client nor a new leader changes anything.
    host.skep(&["service", "update", "-d", "--schedule-suspend", "tick"])?;
    eventually("what ran is over", LONG, || {
        let seen = runs(host)?;
        ensure!(!seen.contains(&"running".to_owned()), "{seen:?}");
        Ok(())
    })?;
    let before = runs(host)?.len();
    host.docker(&["service", "update", "-d", "--label-add", "a=b", "tick"])?;
    host.stop_daemon("-KILL")?;
    host.start_daemon()?;
    eventually("the swarm is led again, and a user begins a run", LONG, || {
        host.skep(&["service", "update", "-d", "--force", "tick"]).map(drop)
    })?;
    eventually("that run is complete", LONG, || {
        let seen = runs(host)?;
        ensure!(seen.len() == before + 1 && seen[0] == "complete", "{before} and then {seen:?}");
        Ok(())
    })?;
    ensure!(inspect(host)?["ScheduleStatus"]["NextRun"].is_null(), "no run is to come");

    host.skep(&["service", "update", "-d", "--schedule", "", "tick"])?;
    let after = inspect(host)?;
    ensure!(after["Spec"]["Schedule"].is_null() && after["ScheduleStatus"].is_null(), "{after}");
    lab.down()
}
