//! An idle swarm of three managers: how much of a core and how much memory a manager takes.

use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use skep_e2e::Host;

use super::container::field;
use super::docker::DockerLab;
use super::table::{Row, Target};
use super::{Setup, go_on, hosts};

/// For elections, joins and first reports to be over.
const SETTLE: Duration = Duration::from_secs(10);
const WATCHED: Duration = Duration::from_secs(60);

pub fn run(setup: &Setup) -> Result<Vec<Row>> {
    let lab = hosts::lab(setup, 3)?;
    hosts::swarm(&mut hosts::clients(&lab), &lab)?;
    let docker = DockerLab::up(setup, 3)?;
    if let Some(docker) = &docker {
        hosts::swarm(&mut docker.clients(), &docker.lab)?;
    }
    let mut ours = Vec::new();
    for host in lab.hosts() {
        ours.push(Watched { host, pids: vec![host.daemon_pid()?], began: 0.0 });
    }
    let mut theirs = Vec::new();
    if let Some(docker) = &docker {
        for host in docker.lab.hosts() {
            theirs.push(Watched { host, pids: docker.pids(host)?, began: 0.0 });
        }
    }
    rest(SETTLE)?;
    for watched in ours.iter_mut().chain(&mut theirs) {
        watched.began = watched.cpu()?;
    }
    let began = Instant::now();
    rest(WATCHED)?;
    let share = |list: &[Watched<'_>]| -> Result<Vec<f64>> {
        list.iter().map(|w| Ok((w.cpu()? - w.began) / began.elapsed().as_secs_f64() * 100.0)).collect()
    };
    let memory = |list: &[Watched<'_>]| -> Result<Vec<f64>> { list.iter().map(Watched::memory).collect() };
    let peer = "dockerd + containerd";
    Ok(vec![
        Row::new("idle manager of three: CPU over 60 s", "% of a core", share(&ours)?, Target::Median(1.0))
            .beside(peer, share(&theirs)?),
        Row::new("idle manager of three: resident memory", "MB", memory(&ours)?, Target::Median(60.0))
            .beside(peer, memory(&theirs)?),
    ])
}

fn rest(time: Duration) -> Result<()> {
    let until = Instant::now() + time;
    while Instant::now() < until {
        go_on()?;
        std::thread::sleep(Duration::from_millis(200));
    }
    Ok(())
}

/// The processes of one manager.
struct Watched<'a> {
    host: &'a Host,
    pids: Vec<i32>,
    began: f64,
}

impl Watched<'_> {
    /// Seconds of CPU so far (proc_pid_stat(5): utime and stime, in ticks).
    fn cpu(&self) -> Result<f64> {
        let mut ticks = 0.0;
        for pid in &self.pids {
            let stat = self.host.exec(&["cat", &format!("/proc/{pid}/stat")])?;
            let (_, after) = stat.rsplit_once(") ").context("no name in stat")?;
            for at in [11, 12] {
                let value = after.split(' ').nth(at).context("a short stat")?;
                ticks += value.parse::<f64>()?;
            }
        }
        // SAFETY: asks for a constant of the system.
        Ok(ticks / unsafe { libc::sysconf(libc::_SC_CLK_TCK) } as f64)
    }

    /// Resident megabytes.
    fn memory(&self) -> Result<f64> {
        let mut kilobytes = 0.0;
        for pid in &self.pids {
            let status = self.host.exec(&["cat", &format!("/proc/{pid}/status")])?;
            kilobytes += field(&status, "VmRSS:")?;
        }
        Ok(kilobytes / 1024.0)
    }
}
