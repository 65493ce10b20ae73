//! What users do: every operation goes to some manager in reach, is repeated until one acknowledges it, and is only then
//! written into the model.

use std::collections::BTreeSet;

use anyhow::{Context, Result, ensure};
use rand::Rng as _;
use rand::rngs::StdRng;
use rand::seq::IteratorRandom as _;
use skep_e2e::swarm::{LONG, path};
use skep_e2e::{Host, Lab, eventually_some};

use crate::model::{Mode, Model, Service, Single, Spec};

/// Where an operation can be sent to, and what it is drawn from.
pub struct Users<'a> {
    pub lab: &'a Lab,
    /// The host that is out of reach.
    pub away: Option<u32>,
    pub rng: &'a mut StdRng,
    pub model: &'a mut Model,
}

/// Settings that make a service quick to change. An update goes on where a fault hits its tasks.
const QUICK: [&str; 10] = [
    "--stop-grace-period",
    "1s",
    "--restart-delay",
    "0s",
    "--update-monitor",
    "1s",
    "--update-failure-action",
    "continue",
    "--update-parallelism",
    "0",
];

impl<'a> Users<'a> {
    /// One operation; what it was.
    pub fn operate(&mut self) -> Result<String> {
        loop {
            let done = match self.rng.random_range(0..32) {
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
                _ => self.root()?,
            };
            // Not everything can be done at all times.
            if let Some(what) = done {
                return Ok(what);
            }
        }
    }

    fn manager(&mut self) -> &'a Host {
        let reachable = self.model.managers.iter().filter(|m| Some(**m) != self.away);
        let number = reachable.choose(self.rng).copied().unwrap_or(1);
        self.lab.host(number)
    }

    /// Until a manager says yes. That which was done by an attempt whose answer was lost is in its way: `done` says
    /// by which words.
    fn acknowledged(&mut self, args: &[&str], done: &str) -> Result<String> {
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

    fn service(&mut self, like: impl Fn(&Service) -> bool) -> Option<String> {
        self.model.services.iter().filter(|(_, s)| like(s)).map(|(n, _)| n.clone()).choose(self.rng)
    }

    fn change(&mut self, name: &str, act: impl FnOnce(&mut Spec)) {
        if let Some(service) = self.model.services.get_mut(name) {
            service.change(act);
        }
    }

    fn create(&mut self) -> Result<Option<String>> {
        if self.model.services.len() >= 5 {
            return Ok(None);
        }
        let name = self.model.name("s");
        let mode = match self.rng.random_range(0..8) {
            0 => Mode::Global,
            1 => Mode::Job(self.rng.random_range(1..=4)),
            _ => Mode::Replicated(self.rng.random_range(1..=4)),
        };
        let job = matches!(mode, Mode::Job(_));
        let volume = mode == Mode::Replicated(1);
        let port = if !job && self.rng.random_bool(0.5) { self.model.free_port() } else { None };
        let count = self.rng.random_range(0..=2);
        let networks: BTreeSet<_> =
            self.model.networks.iter().cloned().choose_multiple(self.rng, count).into_iter().collect();
        let secret = self.model.secrets.keys().cloned().choose(self.rng);
        let config = self.model.configs.keys().cloned().choose(self.rng);
        let spec = Spec { mode, tag: 1, round: 0, port, networks, secret, config, volume };

        let mut args =
            vec!["service".to_owned(), "create".into(), "-d".into(), "--name".into(), name.clone()];
        let mut add = |flag: &str, value: String| args.extend([flag.to_owned(), value]);
        match mode {
            Mode::Replicated(n) => add("--replicas", n.to_string()),
            Mode::Global => add("--mode", "global".into()),
            Mode::Job(n) => {
                add("--mode", "replicated-job".into());
                add("--replicas", n.to_string());
                add("--max-concurrent", "2".into());
            }
        }
        if !job {
            let order = if self.rng.random_bool(0.5) { "start-first" } else { "stop-first" };
            add("--update-order", order.into());
            QUICK.chunks(2).for_each(|pair| add(pair[0], pair[1].into()));
        }
        add("--env", "ROUND=0".into());
        port.into_iter().for_each(|p| add("--publish", format!("{p}:80")));
        spec.networks.iter().for_each(|n| add("--network", n.clone()));
        spec.secret.iter().for_each(|s| add("--secret", format!("source={s},target=secret")));
        spec.config.iter().for_each(|c| add("--config", format!("source={c},target=/config")));
        if volume {
            add("--mount", format!("type=volume,source={name},target=/data"));
        }
        let command: &[&str] = if job { &["/bin/busybox", "true"] } else { &["/skep", "whoami"] };
        args.push("whoami:1".into());
        args.extend(command.iter().map(|c| (*c).to_owned()));
        let args: Vec<&str> = args.iter().map(String::as_str).collect();
        self.acknowledged(&args, "already exists")?;
        if volume {
            self.model.volumes.insert(name.clone());
        }
        let what = format!("{name} was created: {spec:?}");
        self.model.services.insert(name, Service { spec, previous: None });
        Ok(Some(what))
    }

    fn scale(&mut self) -> Result<Option<String>> {
        let scalable = |s: &Service| matches!(s.spec.mode, Mode::Replicated(_)) && !s.spec.volume;
        let Some(name) = self.service(scalable) else { return Ok(None) };
        let replicas = self.rng.random_range(0..=5);
        let what = format!("{name}={replicas}");
        let sure = self.once_or_again(&["service", "scale", "-d", &what])?;
        self.change(&name, |s| s.mode = Mode::Replicated(replicas));
        if !sure {
            self.forget_previous(&name);
        }
        Ok(Some(format!("scaled {what}")))
    }

    fn update(&mut self) -> Result<Option<String>> {
        let Some(name) = self.service(|s| !matches!(s.spec.mode, Mode::Job(_))) else { return Ok(None) };
        let (round, tag) = (self.rng.random_range(1..1000), self.rng.random_range(1..=2));
        let (env, image) = (format!("ROUND={round}"), format!("whoami:{tag}"));
        let sure =
            self.once_or_again(&["service", "update", "-d", "--env-add", &env, "--image", &image, &name])?;
        self.change(&name, |s| (s.round, s.tag) = (round, tag));
        if !sure {
            self.forget_previous(&name);
        }
        Ok(Some(format!("{name} was updated to {env}, {image}")))
    }

    /// Whether the first attempt was acknowledged, so that nothing was done twice.
    fn once_or_again(&mut self, args: &[&str]) -> Result<bool> {
        if self.manager().docker(args).is_ok() {
            return Ok(true);
        }
        self.acknowledged(args, "\0")?;
        Ok(false)
    }

    fn forget_previous(&mut self, name: &str) {
        if let Some(service) = self.model.services.get_mut(name) {
            service.previous = None;
        }
    }

    fn publish(&mut self) -> Result<Option<String>> {
        let Some(name) = self.service(|s| !matches!(s.spec.mode, Mode::Job(_))) else { return Ok(None) };
        let had = self.model.services[&name].spec.port;
        let (flag, value, port) = match (had, self.model.free_port()) {
            (Some(_), _) => ("--publish-rm", "80".to_owned(), None),
            (None, Some(port)) => ("--publish-add", format!("{port}:80"), Some(port)),
            (None, None) => return Ok(None),
        };
        self.once_or_again(&["service", "update", "-d", flag, &value, &name])?;
        self.change(&name, |s| s.port = port);
        // The old port is free for others now, which a rollback could not have again.
        self.forget_previous(&name);
        Ok(Some(format!("{name}: {flag} {value}")))
    }

    fn rollback(&mut self) -> Result<Option<String>> {
        let Some(name) = self.service(|s| s.previous.is_some()) else { return Ok(None) };
        let answer = self.manager().docker(&["service", "rollback", "-d", &name]);
        let Some(service) = self.model.services.get_mut(&name) else { return Ok(None) };
        let previous = service.previous.take();
        if answer.is_ok() {
            service.spec = previous.context("what it was before")?;
            return Ok(Some(format!("{name} was rolled back")));
        }
        // Whether it was is not known, and a second one would undo the first: everything that it may have changed is set.
        let spec = service.spec.clone();
        let (env, image) = (format!("ROUND={}", spec.round), format!("whoami:{}", spec.tag));
        let mut args = vec!["service", "update", "-d", "--env-add", &env, "--image", &image];
        let replicas;
        if let Mode::Replicated(n) = spec.mode {
            replicas = n.to_string();
            args.extend(["--replicas", &replicas]);
        }
        args.push(&name);
        self.acknowledged(&args, "\0")?;
        Ok(Some(format!("{name} was rolled back, perhaps, and set again")))
    }

    fn remove(&mut self) -> Result<Option<String>> {
        let Some(name) = self.service(|_| true) else { return Ok(None) };
        self.acknowledged(&["service", "rm", &name], "not found")?;
        self.model.services.remove(&name);
        Ok(Some(format!("{name} was removed")))
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

    fn label(&mut self) -> Result<Option<String>> {
        let number = self.rng.random_range(1..=self.lab.hosts().len() as u32);
        let value = self.rng.random_range(0..1000);
        let node = self.lab.host(number).name.clone();
        self.acknowledged(&["node", "update", "--label-add", &format!("k={value}"), &node], "\0")?;
        self.model.labels.insert(number, value);
        Ok(Some(format!("host {number} has the label k={value}")))
    }

    fn availability(&mut self) -> Result<Option<String>> {
        let (number, to) = match self.model.drained.take() {
            Some(number) => (number, "active"),
            None => (self.rng.random_range(1..=self.lab.hosts().len() as u32), "drain"),
        };
        let node = self.lab.host(number).name.clone();
        self.acknowledged(&["node", "update", "--availability", to, &node], "\0")?;
        self.model.drained = (to == "drain").then_some(number);
        Ok(Some(format!("host {number} became {to}")))
    }

    fn start_single(&mut self) -> Result<Option<String>> {
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

    fn remove_single(&mut self) -> Result<Option<String>> {
        let reachable = self.model.singles.iter().filter(|(_, s)| Some(s.host) != self.away);
        let single = reachable.map(|(n, s)| (n.clone(), s.host));
        let Some((name, host)) = single.choose(self.rng) else { return Ok(None) };
        let host = self.lab.host(host);
        eventually_some(&format!("{name} is removed"), LONG, || host.docker(&["rm", "-f", &name]).map(Some))?;
        self.model.singles.remove(&name);
        Ok(Some(format!("{name} was removed")))
    }

    fn token(&mut self) -> Result<Option<String>> {
        if self.model.rooted {
            return Ok(None);
        }
        let token = self.acknowledged(&["swarm", "join-token", "--rotate", "-q", "worker"], "\0")?;
        self.model.token = Some(token);
        Ok(Some("the worker's token was replaced".into()))
    }

    /// One more manager, and one of the others is none any more: the quorum is never at stake.
    fn roles(&mut self) -> Result<Option<String>> {
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

    fn root(&mut self) -> Result<Option<String>> {
        self.acknowledged(&["swarm", "ca", "--rotate", "-d"], "\0")?;
        self.model.rooted = true;
        self.model.token = None;
        Ok(Some("the root is replaced".into()))
    }
}
