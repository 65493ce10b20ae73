//! What users do: every operation goes to some manager in reach, is repeated until one acknowledges it, and is only then
//! written into the model.

use anyhow::{Context, Result, ensure};
use rand::Rng as _;
use rand::rngs::StdRng;
use rand::seq::IteratorRandom as _;
use skep_e2e::swarm::{LONG, path};
use skep_e2e::{Host, Lab, eventually_some};

use crate::model::Model;

/// Where an operation can be sent to, and what it is drawn from.
pub struct Users<'a> {
    pub lab: &'a Lab,
    /// The host that is out of reach.
    pub away: Option<u32>,
    pub rng: &'a mut StdRng,
    pub model: &'a mut Model,
}

impl<'a> Users<'a> {
    /// One operation; what it was.
    pub fn operate(&mut self) -> Result<String> {
        loop {
            let done = match self.rng.random_range(0..38) {
                0..=4 => self.create()?,
                5..=7 => self.scale()?,
                8..=10 => self.update()?,
                11 => self.publish()?,
                12 => self.rollback()?,
                13..=15 => self.remove()?,
                16..=17 => self.create_network()?,
                18 => self.remove_network()?,
                19..=20 => self.create_secret()?,
                21 => self.remove_secret()?,
                22 => self.create_config()?,
                23 => self.remove_config()?,
                24 => self.label()?,
                25 => self.availability()?,
                26..=27 => self.start_single()?,
                28 => self.remove_single()?,
                29 => self.token()?,
                30 => self.roles()?,
                31 => self.root()?,
                32 => self.autolock()?,
                33..=34 => self.deploy()?,
                35 => self.remove_stack()?,
                _ => self.fail()?,
            };
            // Not everything can be done at all times.
            if let Some(what) = done {
                return Ok(what);
            }
        }
    }

    pub fn manager(&mut self) -> &'a Host {
        let reachable = self.model.managers.iter().filter(|m| Some(**m) != self.away);
        let number = reachable.choose(self.rng).copied().unwrap_or(1);
        self.lab.host(number)
    }

    /// Until a manager says yes. That which was done by an attempt whose answer was lost is in its way: `done` says
    /// by which words.
    pub fn acknowledged(&mut self, args: &[&str], done: &str) -> Result<String> {
        let mut attempts = 0;
        eventually_some(&format!("{args:?} is acknowledged"), LONG, || {
            attempts += 1;
            match self.manager().docker(args) {
                Ok(out) => Ok(Some(out.trim().to_owned())),
                Err(e) if attempts > 1 && format!("{e:#}").contains(done) => Ok(Some(String::new())),
                Err(e) => Err(e),
            }
        })
    }

    /// The same of Skep's client, for what comes to the same however often it is done.
    pub fn acknowledged_by_skep(&mut self, args: &[&str]) -> Result<()> {
        let what = format!("{args:?} is acknowledged");
        eventually_some(&what, LONG, || self.manager().skep(args).map(Some)).map(drop)
    }

    fn create_network(&mut self) -> Result<Option<String>> {
        if self.model.networks.len() >= 3 {
            return Ok(None);
        }
        let name = self.model.name("n");
        // Small, so that addresses which are not given back run out, and one of few, so that they come again.
        let subnets = self.subnets()?;
        let subnet = (0..3).map(|i| format!("10.77.{i}.0/27")).find(|s| !subnets.contains(s));
        let Some(subnet) = subnet else { return Ok(None) };
        let args = ["network", "create", "-d", "overlay", "--attachable", "--subnet", &subnet, &name];
        self.acknowledged(&args, "already exists")?;
        self.model.networks.insert(name.clone());
        Ok(Some(format!("network {name} was made with {subnet}")))
    }

    fn subnets(&mut self) -> Result<Vec<String>> {
        let mut subnets = Vec::new();
        for network in self.model.networks.clone() {
            let format = "{{(index .IPAM.Config 0).Subnet}}";
            subnets.push(self.acknowledged(&["network", "inspect", "-f", format, &network], "\0")?);
        }
        Ok(subnets)
    }

    fn remove_network(&mut self) -> Result<Option<String>> {
        let used = self
            .model
            .networks
            .iter()
            .find(|n| self.model.services.values().any(|s| s.spec.networks.contains(*n)));
        if let Some(used) = used.cloned() {
            let refused = self.manager().docker(&["network", "rm", &used]);
            ensure!(refused.is_err(), "network {used} is in use, and was removed");
        }
        let Some(name) = self.model.idle_networks().into_iter().choose(self.rng) else { return Ok(None) };
        // Its last tasks may be on their way out.
        self.acknowledged(&["network", "rm", &name], "not found")?;
        self.model.networks.remove(&name);
        Ok(Some(format!("network {name} was removed")))
    }

    /// A file on the first host, which lives through everything.
    fn content(&mut self, name: &str) -> Result<(String, String)> {
        let content = format!("{name} {}", self.rng.random::<u64>());
        let file = self.lab.host(1).dir.join(name);
        std::fs::write(&file, &content).with_context(|| format!("write {}", file.display()))?;
        Ok((path(&file).to_owned(), content))
    }

    fn create_secret(&mut self) -> Result<Option<String>> {
        if self.model.secrets.len() >= 3 {
            return Ok(None);
        }
        let name = self.model.name("secret");
        let (file, content) = self.content(&name)?;
        self.acknowledged(&["secret", "create", &name, &file], "already exists")?;
        self.model.secrets.insert(name.clone(), content);
        Ok(Some(format!("{name} was made")))
    }

    fn remove_secret(&mut self) -> Result<Option<String>> {
        let Some(name) = self.model.secrets.keys().cloned().choose(self.rng) else { return Ok(None) };
        if self.model.services.values().any(|s| s.spec.secret.as_ref() == Some(&name)) {
            let refused = self.manager().docker(&["secret", "rm", &name]);
            ensure!(refused.is_err(), "{name} is in use, and was removed");
            return Ok(Some(format!("{name} is in use: its removal was refused")));
        }
        self.acknowledged(&["secret", "rm", &name], "not found")?;
        self.model.secrets.remove(&name);
        Ok(Some(format!("{name} was removed")))
    }

    fn create_config(&mut self) -> Result<Option<String>> {
        if self.model.configs.len() >= 3 {
            return Ok(None);
        }
        let name = self.model.name("config");
        let (file, content) = self.content(&name)?;
        self.acknowledged(&["config", "create", &name, &file], "already exists")?;
        self.model.configs.insert(name.clone(), content);
        Ok(Some(format!("{name} was made")))
    }

    fn remove_config(&mut self) -> Result<Option<String>> {
        let free =
            |name: &&String| !self.model.services.values().any(|s| s.spec.config.as_ref() == Some(*name));
        let Some(name) = self.model.configs.keys().filter(free).cloned().choose(self.rng) else {
            return Ok(None);
        };
        self.acknowledged(&["config", "rm", &name], "not found")?;
        self.model.configs.remove(&name);
        Ok(Some(format!("{name} was removed")))
    }
}
