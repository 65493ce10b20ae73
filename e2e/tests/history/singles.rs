//! What users do with containers outside services.

use anyhow::Result;
use rand::seq::IteratorRandom as _;
use skep_e2e::eventually_some;
use skep_e2e::swarm::LONG;

use crate::model::Single;
use crate::operations::Users;

impl Users<'_> {
    pub fn start_single(&mut self) -> Result<Option<String>> {
        let Some(network) = self.model.networks.iter().choose(self.rng).cloned() else { return Ok(None) };
        let hosts = self.lab.hosts().iter().filter(|h| Some(h.number) != self.away);
        let Some(host) = hosts.choose(self.rng).cloned() else { return Ok(None) };
        if self.model.singles.len() >= 3 {
            return Ok(None);
        }
        let name = self.model.name("c");
        let args = [
            "run",
            "-d",
            "--restart",
            "always",
            "--name",
            &name,
            "--network",
            &network,
            "whoami:1",
            "/skep",
            "whoami",
        ];
        let mut attempts = 0;
        eventually_some(&format!("{name} runs on host {}", host.number), LONG, || {
            attempts += 1;
            if attempts > 1 {
                // What an attempt before this left: made, but not started.
                drop(host.docker(&["rm", "-f", &name]));
            }
            host.docker(&args).map(Some)
        })?;
        let what = format!("{name} runs on host {} in {network}", host.number);
        self.model.singles.insert(name, Single { host: host.number, network });
        Ok(Some(what))
    }

    pub fn remove_single(&mut self) -> Result<Option<String>> {
        let reachable = self.model.singles.iter().filter(|(_, s)| Some(s.host) != self.away);
        let single = reachable.map(|(n, s)| (n.clone(), s.host));
        let Some((name, host)) = single.choose(self.rng) else { return Ok(None) };
        let host = self.lab.host(host);
        eventually_some(&format!("{name} is removed"), LONG, || host.docker(&["rm", "-f", &name]).map(Some))?;
        self.model.singles.remove(&name);
        Ok(Some(format!("{name} was removed")))
    }
}
