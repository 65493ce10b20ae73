//! What users do with services.

use std::collections::BTreeSet;

use anyhow::{Context, Result, ensure};
use rand::Rng as _;
use rand::seq::IteratorRandom as _;
use skep_e2e::eventually;
use skep_e2e::swarm::LONG;

use crate::model::{Mode, Service, Spec};
use crate::operations::Users;

/// Settings that make a service quick to change. An update goes on where a fault hits its tasks.
const QUICK: [&str; 18] = [
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
    "--rollback-monitor",
    "0s",
    "--rollback-failure-action",
    "continue",
    "--rollback-parallelism",
    "0",
    "--rollback-max-failure-ratio",
    "1",
];

impl Users<'_> {
    fn service(&mut self, like: impl Fn(&Service) -> bool) -> Option<String> {
        let own = self.model.services.iter().filter(|(_, s)| s.stack.is_none());
        own.filter(|(_, s)| like(s)).map(|(n, _)| n.clone()).choose(self.rng)
    }

    fn change(&mut self, name: &str, act: impl FnOnce(&mut Spec)) {
        if let Some(service) = self.model.services.get_mut(name) {
            service.change(act);
        }
    }

    pub fn create(&mut self) -> Result<Option<String>> {
        if self.model.services.values().filter(|s| s.stack.is_none()).count() >= 5 {
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
        let spec = Spec { mode, tag: 1, round: 0, port, networks, secret, config, files: None, volume };

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
        self.model.services.insert(name, Service { spec, previous: None, stack: None });
        Ok(Some(what))
    }

    pub fn scale(&mut self) -> Result<Option<String>> {
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

    pub fn update(&mut self) -> Result<Option<String>> {
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

    pub fn publish(&mut self) -> Result<Option<String>> {
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

    pub fn rollback(&mut self) -> Result<Option<String>> {
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

    /// An update to what cannot run: the swarm takes it back by itself, or stops there for the user to take it back.
    pub fn fail(&mut self) -> Result<Option<String>> {
        // A task whose data is on a drained node waits for it: its update neither fails nor ends meanwhile.
        let drained = self.model.drained.is_some();
        let runs = |s: &Service| match s.spec.mode {
            Mode::Replicated(n) => n > 0 && !(s.spec.volume && drained),
            Mode::Global => true,
            Mode::Job(_) => false,
        };
        let Some(name) = self.service(runs).filter(|_| self.away.is_none()) else { return Ok(None) };
        let (action, comes_to) = match self.rng.random_bool(0.5) {
            true => ("rollback", "rollback_completed"),
            false => ("pause", "paused"),
        };
        let bad = ["--args", "/bin/busybox false", "--update-failure-action", action];
        let good = ["--args", "/skep whoami", "--update-failure-action", "continue"];
        let update = ["service", "update", "-d"];
        // What a rollback leads to is the failing one after it, and after a second attempt was before it.
        self.forget_previous(&name);
        if self.manager().docker(&[&update[..], &bad, &[name.as_str()]].concat()).is_err() {
            self.acknowledged(&[&update[..], &good, &[name.as_str()]].concat(), "\0")?;
            return Ok(Some(format!(
                "{name} was to fail, but nobody knows whether it did: it was set again"
            )));
        }
        self.comes_to(&name, comes_to)?;
        if action == "pause" {
            if self.manager().docker(&["service", "rollback", "-d", &name]).is_err() {
                self.acknowledged(&[&update[..], &good, &[name.as_str()]].concat(), "\0")?;
                return Ok(Some(format!("an update of {name} failed and was paused; it was set again")));
            }
            self.comes_to(&name, "rollback_completed")?;
        }
        Ok(Some(format!("an update of {name} failed ({action}) and was rolled back")))
    }

    fn comes_to(&mut self, name: &str, wanted: &str) -> Result<()> {
        eventually(&format!("the update of {name} is {wanted}"), LONG, || {
            let args =
                ["service", "inspect", "-f", "{{.UpdateStatus.State}} {{.UpdateStatus.Message}}", name];
            let state = self.manager().docker(&args)?;
            ensure!(state.split(' ').next() == Some(wanted), "{state}");
            Ok(())
        })
    }

    pub fn remove(&mut self) -> Result<Option<String>> {
        let Some(name) = self.service(|_| true) else { return Ok(None) };
        self.acknowledged(&["service", "rm", &name], "not found")?;
        self.model.services.remove(&name);
        Ok(Some(format!("{name} was removed")))
    }
}
