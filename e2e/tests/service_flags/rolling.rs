//! Flags that say how tasks are replaced: seen by an update, or a rollback, that stands still half-way or fails.

use anyhow::{Context, Result, ensure};
use skep_e2e::swarm::LONG;
use skep_e2e::tally::{docker, prints};
use skep_e2e::{Host, eventually};

use crate::seen::{PLAIN, container, containers, tasks};

/// Who sets a flag.
#[derive(Clone, Copy, PartialEq)]
pub enum By {
    Create,
    Update,
}

type Check = fn(&Host, By) -> Result<()>;

/// Flag, what is looked at.
pub const FLAGS: &[(&str, Check)] = &[
    ("rollback-failure-action", |host, by| {
        falls_back(host, by, "--rollback-failure-action continue", all_replaced)
    }),
    ("rollback-max-failure-ratio", |host, by| {
        falls_back(host, by, "--rollback-max-failure-ratio 1", all_replaced)
    }),
    ("rollback-order", |host, by| stands(host, by, BACK, 1, "--rollback-order start-first", [1, 1])),
    ("rollback-parallelism", |host, by| stands(host, by, BACK, 3, "--rollback-parallelism 2", [2, 1])),
    ("stop-grace-period", |host, by| {
        stops(host, by, "trap 'sleep 5; exit 7' TERM", "--stop-signal TERM --stop-grace-period 1s", 137)
    }),
    ("stop-signal", |host, by| stops(host, by, "trap 'exit 7' USR1", "--stop-signal USR1", 7)),
    ("update-failure-action", |host, by| {
        fails(host, by, "--update-failure-action rollback", |host, name| {
            state(host, name, "rollback_completed")
        })
    }),
    ("update-max-failure-ratio", |host, by| fails(host, by, "--update-max-failure-ratio 1", all_replaced)),
    ("update-order", |host, by| stands(host, by, FORTH, 1, "--update-order start-first", [1, 1])),
    ("update-parallelism", |host, by| stands(host, by, FORTH, 3, "--update-parallelism 2", [2, 1])),
];

const NAME: &str = "rolled";
/// Nobody waits for what has happened already.
const QUICK: &str = "--update-monitor 1ms --rollback-monitor 1ms --restart-delay 0s";
/// A check that has not been made yet for ten minutes.
const UNKNOWN: &str = "--health-cmd false --health-interval 10m";
const IDLE: &str = "sleep 100000";

/// A service that is set up like this by `create`, or by an update of it that replaces no task.
fn made(host: &Host, by: By, replicas: u32, flags: &str, command: &[&str]) -> Result<()> {
    let create = format!("service create --name {NAME} --replicas {replicas} {PLAIN} {QUICK}");
    let at_once = if by == By::Create { flags } else { "" };
    let mut args = skep_e2e::tally::words(&format!("{create} {at_once} bb"));
    args.extend(command.iter().map(|c| (*c).to_owned()));
    host.docker(&args.iter().map(String::as_str).collect::<Vec<_>>())?;
    if by == By::Update {
        docker(host, &format!("service update -d {flags} {NAME}"))?;
    }
    Ok(())
}

fn removed(host: &Host, outcome: Result<()>) -> Result<()> {
    docker(host, &format!("service rm {NAME}"))?;
    outcome
}

/// Waits until the service's update has come to this.
pub fn state(host: &Host, name: &str, wanted: &str) -> Result<()> {
    eventually(&format!("its update is {wanted}"), LONG, || {
        prints(host, &format!("service inspect -f '{{{{.UpdateStatus.State}}}}' {name}"), wanted)
    })
}

/// How many tasks are about to start, and how many run.
fn counts(host: &Host, wanted: [usize; 2]) -> Result<()> {
    eventually("it stands half-way", LONG, || {
        let tasks = tasks(host, NAME)?;
        let of = |state: &str| tasks.iter().filter(|t| t.starts_with(state)).count();
        ensure!([of("Running Starting"), of("Running Running")] == wanted, "{tasks:?}");
        Ok(())
    })
}

/// What comes after the service was made, up to where tasks of unknown health take the place of others.
type Turn = fn(&Host, u32) -> Result<()>;

const FORTH: Turn = |host, replicas| {
    counts(host, [0, replicas as usize])?;
    docker(host, &format!("service update -d {UNKNOWN} {NAME}")).map(drop)
};

const BACK: Turn = |host, replicas| {
    // The check is of the specification before, then of none.
    docker(host, &format!("service update -d {UNKNOWN} --update-parallelism 0 {NAME}"))?;
    counts(host, [replicas as usize, 0])?;
    docker(host, &format!("service update -d --no-healthcheck {NAME}"))?;
    counts(host, [0, replicas as usize])?;
    state(host, NAME, "completed")?;
    docker(host, &format!("service rollback -d {NAME}")).map(drop)
};

fn stands(host: &Host, by: By, turn: Turn, replicas: u32, flags: &str, wanted: [usize; 2]) -> Result<()> {
    made(host, by, replicas, flags, &words(IDLE))?;
    let outcome = turn(host, replicas).and_then(|()| counts(host, wanted));
    removed(host, outcome)
}

fn words(line: &str) -> Vec<&str> {
    line.split(' ').collect()
}

/// Nothing is left of what ran, though what took its place fails: one failure did not stop the rest.
fn all_replaced(host: &Host, name: &str) -> Result<()> {
    eventually("all were replaced", LONG, || {
        let running = containers(host, name)?;
        let idle = running.iter().filter(|c| {
            let command = docker(host, &format!("inspect -f '{{{{json .Config.Cmd}}}}' {c}"));
            command.is_ok_and(|c| c.contains("sleep"))
        });
        ensure!(idle.count() == 0, "{:?}", tasks(host, name)?);
        Ok(())
    })
}

fn fails(host: &Host, by: By, flags: &str, then: fn(&Host, &str) -> Result<()>) -> Result<()> {
    made(host, by, 2, &format!("{flags} --update-monitor 10s"), &words(IDLE))?;
    let outcome = counts(host, [0, 2]).and_then(|()| {
        docker(host, &format!("service update -d --args false {NAME}"))?;
        then(host, NAME)
    });
    removed(host, outcome)
}

fn falls_back(host: &Host, by: By, flags: &str, then: fn(&Host, &str) -> Result<()>) -> Result<()> {
    made(host, by, 2, &format!("{flags} --rollback-monitor 10s"), &["false"])?;
    let outcome = (|| {
        docker(host, &format!("service update -d --args 'sleep 100000' --update-parallelism 0 {NAME}"))?;
        counts(host, [0, 2])?;
        state(host, NAME, "completed")?;
        docker(host, &format!("service rollback -d {NAME}"))?;
        then(host, NAME)
    })();
    removed(host, outcome)
}

/// What a task ends with that is stopped.
fn stops(host: &Host, by: By, trap: &str, flags: &str, code: i32) -> Result<()> {
    let script = format!("{trap}; touch /ready; while :; do sleep 0.1; done");
    made(host, by, 1, flags, &["sh", "-c", &script])?;
    let outcome = (|| {
        if by == By::Update {
            // The leader's own last word on it is in the way of the next.
            state(host, NAME, "completed")?;
        }
        eventually("it is ready", LONG, || {
            let container = container(host, NAME, &[])?;
            host.docker(&["exec", &container, "ls", "/ready"]).map(drop)
        })?;
        let task = docker(host, &format!("service ps -q --no-trunc --filter desired-state=running {NAME}"))?;
        docker(host, &format!("service update -d --force {NAME}"))?;
        let task = task.lines().next().context("a task")?.to_owned();
        eventually("it was stopped as it should be", LONG, || {
            let format = "{{.Status.State}} {{.Status.ContainerStatus.ExitCode}}";
            prints(host, &format!("inspect --type task -f '{format}' {task}"), &format!("shutdown {code}"))
        })
    })();
    removed(host, outcome)
}
