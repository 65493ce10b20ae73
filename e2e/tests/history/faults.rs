//! What goes wrong: at most one host at a time is out of reach, so that the others can go on.

use std::time::Duration;

use anyhow::{Context, Result};
use rand::Rng as _;
use rand::rngs::StdRng;
use rand::seq::IteratorRandom as _;
use skep_e2e::{Host, Lab};

use crate::locks;

/// A host that is out of reach.
pub enum Away {
    Cut(u32),
    Dead(u32),
    /// Its daemon was killed.
    Stopped(u32),
    /// It has started, and its manager waits for the unlock key.
    Locked(u32),
}

impl Away {
    pub fn host(&self) -> u32 {
        match self {
            Self::Cut(n) | Self::Dead(n) | Self::Stopped(n) | Self::Locked(n) => *n,
        }
    }

    /// Brings it back, or, where a manager that waits for a key may go on waiting, as far as that.
    pub fn back(self, lab: &mut Lab, keys: &[String], may_wait: bool) -> Result<(Option<Self>, String)> {
        let number = self.host();
        match self {
            Self::Cut(_) => lab.heal(number)?,
            Self::Dead(_) => lab.restart(number)?,
            Self::Stopped(_) => lab.host(number).start_daemon()?,
            Self::Locked(_) => {}
        }
        if may_wait && locks::is_locked(lab.host(number))? {
            return Ok((Some(Self::Locked(number)), format!("host {number} has started, and is locked")));
        }
        locks::started(lab.host(number), keys)?;
        Ok((None, format!("host {number} is back")))
    }
}

/// Takes a host away until further notice.
pub fn away(lab: &mut Lab, rng: &mut StdRng) -> Result<(Away, String)> {
    let number = rng.random_range(1..=lab.hosts().len() as u32);
    Ok(match rng.random_range(0..4) {
        0 => {
            lab.cut(number)?;
            (Away::Cut(number), format!("host {number} was cut off"))
        }
        1 => {
            lab.kill(number)?;
            (Away::Dead(number), format!("host {number} lost power"))
        }
        2 => {
            lab.host(number).stop_daemon("-KILL")?;
            (Away::Stopped(number), format!("the daemon of host {number} was killed"))
        }
        _ => {
            lab.host(number).stop_daemon("-TERM")?;
            (Away::Stopped(number), format!("the daemon of host {number} was stopped"))
        }
    })
}

/// Something that passes by itself.
pub fn passing(lab: &Lab, rng: &mut StdRng, keys: &[String]) -> Result<String> {
    let number = rng.random_range(1..=lab.hosts().len() as u32);
    let host = lab.host(number);
    match rng.random_range(0..4) {
        0 => {
            host.stop_daemon("-KILL")?;
            host.start_daemon()?;
            locks::started(host, keys)?;
            Ok(format!("the daemon of host {number} was killed and started"))
        }
        1 => {
            lab.cut(number)?;
            std::thread::sleep(Duration::from_millis(rng.random_range(200..3000)));
            lab.heal(number)?;
            Ok(format!("host {number} was cut off for a moment"))
        }
        kind => {
            let what = if kind == 2 { "main process" } else { "shim" };
            let Some(pid) = process(host, rng)? else { return Ok(format!("host {number} runs nothing")) };
            let script = if kind == 2 { "kill -9 $1" } else { "kill -9 $(cut -d' ' -f4 /proc/$1/stat)" };
            // It may have ended by itself since.
            drop(host.exec(&["sh", "-c", script, "sh", &pid]));
            Ok(format!("the {what} of a container on host {number} was killed"))
        }
    }
}

/// Main process of some container of the host.
fn process(host: &Host, rng: &mut StdRng) -> Result<Option<String>> {
    let ids = host.docker(&["ps", "-q"])?;
    let Some(id) = ids.lines().choose(rng) else { return Ok(None) };
    let pid =
        host.docker(&["inspect", "-f", "{{.State.Pid}}", id]).context("a container that has just run")?;
    Ok(Some(pid.trim().to_owned()).filter(|p| p != "0"))
}
