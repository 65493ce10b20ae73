//! What users do with autolock: the swarm is locked, its key replaced, and unlocked; a manager that starts again waits for
//! a key, which is the one that its disk was last sealed with.

use anyhow::{Context, Result, ensure};
use rand::Rng as _;
use skep_e2e::swarm::{LONG, unlock};
use skep_e2e::{Host, eventually};

use crate::operations::Users;

impl Users<'_> {
    pub fn autolock(&mut self) -> Result<Option<String>> {
        if !self.model.locked {
            self.acknowledged(&["swarm", "update", "--autolock=true"], "\0")?;
            self.learn_key()?;
            self.model.locked = true;
            return Ok(Some("the swarm was locked".into()));
        }
        if self.rng.random_bool(0.5) {
            self.acknowledged(&["swarm", "unlock-key", "--rotate", "-q"], "\0")?;
            self.learn_key()?;
            return Ok(Some("the unlock key was replaced".into()));
        }
        self.acknowledged(&["swarm", "update", "--autolock=false"], "\0")?;
        self.model.locked = false;
        Ok(Some("the swarm was unlocked".into()))
    }

    /// An attempt whose answer was lost may have made the key.
    fn learn_key(&mut self) -> Result<()> {
        let key = self.acknowledged(&["swarm", "unlock-key", "-q"], "\0")?;
        ensure!(key.starts_with("SWMKEY-1-"), "the unlock key is {key:?}");
        self.model.keys.push(key);
        Ok(())
    }
}

/// A daemon that was started: if its manager waits for a key, one of those that the swarm has had opens it, for it may have
/// missed the last ones.
pub fn started(host: &Host, keys: &[String]) -> Result<()> {
    if !is_locked(host)? {
        return Ok(());
    }
    let mut said = None;
    for key in keys.iter().rev() {
        match unlock(host, key) {
            Ok(()) => {
                said = None;
                break;
            }
            Err(e) if format!("{e:#}").contains("invalid key") => said = Some(e),
            Err(e) => return Err(e).with_context(|| format!("unlock host {}", host.number)),
        }
    }
    if let Some(e) = said {
        return Err(e).with_context(|| format!("no key of the swarm's opens host {}", host.number));
    }
    eventually(&format!("host {} is unlocked", host.number), LONG, || {
        let state = state(host)?;
        ensure!(state == "active", "{state}");
        Ok(())
    })
}

/// Whether a manager waits for a key there.
pub fn is_locked(host: &Host) -> Result<bool> {
    Ok(state(host)? == "locked")
}

fn state(host: &Host) -> Result<String> {
    Ok(host.docker(&["info", "-f", "{{.Swarm.LocalNodeState}}"])?.trim().to_owned())
}
