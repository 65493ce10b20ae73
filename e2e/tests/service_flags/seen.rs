//! How a flag is seen to work, and what every service of these tests is made with.

use anyhow::{Context, Result, ensure};
use skep_e2e::swarm::LONG;
use skep_e2e::tally::{docker, prints};
use skep_e2e::{Host, eventually, eventually_some};

/// How a flag is seen to work.
pub enum Seen {
    /// A shell script in the task's container prints this. `NAME` stands for the service.
    Says(&'static str, &'static str),
    /// `inspect` of the task's container on its node prints this: what the engine goes by, whose own tests say that it does.
    Container(&'static str, &'static str),
    /// `service inspect` prints this: what the leader goes by, whose scenarios say that it does.
    Service(&'static str, &'static str),
    /// No task runs, and the newest one says so in these words.
    Waits(&'static str),
}

/// What a service is made with: no registry is asked, tasks are on the manager and are stopped at once.
pub const PLAIN: &str = "-d --no-resolve-image --constraint node.role==manager --stop-signal KILL";

/// Makes a service with these flags that does nothing.
pub fn idle(host: &Host, name: &str, flags: &str) -> Result<()> {
    docker(host, &format!("service create --name {name} {PLAIN} {flags} bb sleep 100000")).map(drop)
}

/// The service's one container on the host, once it runs and is not one of these.
pub fn container(host: &Host, service: &str, but: &[String]) -> Result<String> {
    eventually_some(&format!("{service} has one new container"), LONG, || {
        let all = containers(host, service)?;
        ensure!(
            all.len() == 1 && !but.contains(&all[0]),
            "{all:?}: {}",
            docker(host, &format!("service ps --no-trunc {service}"))?
        );
        Ok(all.into_iter().next())
    })
}

/// The service's containers that run on the host.
pub fn containers(host: &Host, service: &str) -> Result<Vec<String>> {
    let filter = format!("label=com.docker.swarm.service.name={service}");
    let ids = docker(host, &format!("ps -q --no-trunc --filter {filter}"))?;
    Ok(ids.lines().map(str::to_owned).collect())
}

/// States and errors of the service's tasks, newest first.
pub fn tasks(host: &Host, service: &str) -> Result<Vec<String>> {
    let format = "{{.DesiredState}} {{.CurrentState}} {{.Error}}";
    let all = docker(host, &format!("service ps --no-trunc --format '{format}' {service}"))?;
    Ok(all.lines().map(str::to_owned).collect())
}

/// Whether it is seen of the service; `but` are containers of before.
pub fn see(host: &Host, service: &str, but: &[String], seen: &Seen) -> Result<()> {
    match seen {
        Seen::Says(script, expected) => {
            let (script, expected) = (script.replace("NAME", service), expected.replace("NAME", service));
            let container = container(host, service, but)?;
            // A container is there before what is done in it is.
            eventually("it is seen", LONG, || {
                // Where nothing is counted, grep fails.
                let output = host.docker(&["exec", &container, "sh", "-c", &format!("{script}; true")])?;
                ensure!(output.trim() == expected, "{script}: {output:?}, not {expected:?}");
                Ok(())
            })
        }
        Seen::Container(format, expected) => {
            let container = container(host, service, but)?;
            prints(host, &format!("inspect -f '{format}' {container}"), expected)
        }
        Seen::Service(format, expected) => {
            prints(host, &format!("service inspect -f '{format}' {service}"), expected)
        }
        Seen::Waits(words) => eventually("it says what it waits for", LONG, || {
            let tasks = tasks(host, service)?;
            let newest = tasks.first().context("a task")?;
            ensure!(newest.contains(" Pending ") && newest.contains(words), "{newest}: no word of {words:?}");
            Ok(())
        }),
    }
}

/// A script that prints a limit of the container's cgroup, of whichever version.
macro_rules! limit {
    ($v1:literal, $v2:literal) => {
        concat!("cat /sys/fs/cgroup/", $v1, " /sys/fs/cgroup/", $v2, " 2>/dev/null | cut -d ' ' -f 1")
    };
}
pub(crate) use limit;

/// A script that prints whether a name leads anywhere.
macro_rules! finds {
    ($name:literal) => {
        concat!("nslookup ", $name, " 127.0.0.11 | grep -q ^Name && echo found || echo lost")
    };
}
pub(crate) use finds;
