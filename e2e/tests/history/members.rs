//! What users do with nodes and with the swarm as a whole.

use anyhow::{Result, ensure};
use rand::Rng as _;
use rand::seq::IteratorRandom as _;
use skep_e2e::eventually_some;
use skep_e2e::swarm::LONG;

use crate::operations::Users;

impl Users<'_> {
    pub fn label(&mut self) -> Result<Option<String>> {
        let number = self.rng.random_range(1..=self.lab.hosts().len() as u32);
        let value = self.rng.random_range(0..1000);
        let node = self.lab.host(number).name.clone();
        self.acknowledged(&["node", "update", "--label-add", &format!("k={value}"), &node], "\0")?;
        self.model.labels.insert(number, value);
        Ok(Some(format!("host {number} has the label k={value}")))
    }

    pub fn availability(&mut self) -> Result<Option<String>> {
        let (number, to) = match self.model.drained.take() {
            Some(number) => (number, "active"),
            None => (self.rng.random_range(1..=self.lab.hosts().len() as u32), "drain"),
        };
        let node = self.lab.host(number).name.clone();
        self.acknowledged(&["node", "update", "--availability", to, &node], "\0")?;
        self.model.drained = (to == "drain").then_some(number);
        Ok(Some(format!("host {number} became {to}")))
    }

    pub fn token(&mut self) -> Result<Option<String>> {
        if self.model.rooted {
            return Ok(None);
        }
        let token = self.acknowledged(&["swarm", "join-token", "--rotate", "-q", "worker"], "\0")?;
        self.model.token = Some(token);
        Ok(Some("the worker's token was replaced".into()))
    }

    /// One more manager, and one of the others is none any more: the quorum is never at stake.
    pub fn roles(&mut self) -> Result<Option<String>> {
        let all = 1..=self.lab.hosts().len() as u32;
        let Some(up) = all.filter(|n| !self.model.managers.contains(n)).choose(self.rng) else {
            return Ok(None);
        };
        if self.away.is_some() {
            return Ok(None);
        }
        let node = self.lab.host(up).name.clone();
        self.acknowledged(&["node", "promote", &node], "\0")?;
        eventually_some(&format!("host {up} is a manager"), LONG, || {
            let state = self.manager().docker(&[
                "node",
                "inspect",
                "-f",
                "{{.ManagerStatus.Reachability}}",
                &node,
            ])?;
            ensure!(state.trim() == "reachable", "{state}");
            Ok(Some(()))
        })?;
        let Some(down) = self.model.managers.iter().copied().choose(self.rng) else { return Ok(None) };
        let node = self.lab.host(down).name.clone();
        self.acknowledged(&["node", "demote", &node], "\0")?;
        self.model.managers.insert(up);
        self.model.managers.remove(&down);
        eventually_some(&format!("host {down} is a worker"), LONG, || {
            let state = self.lab.host(down).docker(&["info", "-f", "{{.Swarm.ControlAvailable}}"])?;
            ensure!(state.trim() == "false", "{state}");
            Ok(Some(()))
        })?;
        Ok(Some(format!("host {up} became a manager, host {down} a worker")))
    }

    pub fn root(&mut self) -> Result<Option<String>> {
        self.acknowledged(&["swarm", "ca", "--rotate", "-d"], "\0")?;
        self.model.rooted = true;
        self.model.token = None;
        Ok(Some("the root is replaced".into()))
    }
}
