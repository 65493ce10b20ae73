//! What users do with stacks: deployed from a file and by files that it names, changed and deployed again, pruned, removed.

use anyhow::{Context, Result};
use rand::Rng as _;
use rand::seq::IteratorRandom as _;
use skep_e2e::swarm::path;

use crate::model::{Mode, Service, Spec};
use crate::operations::Users;

impl Users<'_> {
    /// A new stack, or the same with another file. Its services change with the file alone.
    pub fn deploy(&mut self) -> Result<Option<String>> {
        let known = self.model.stacks.iter().cloned().choose(self.rng);
        let name = match known {
            Some(name) => name,
            None => self.model.name("k"),
        };
        let content = format!("{name} {}", self.rng.random::<u64>());
        let (round, tag) = (self.rng.random_range(1..1000), self.rng.random_range(1..=2));
        let replicas = self.rng.random_range(1..=3);
        let spec = |mode, files: Option<&String>| Spec {
            mode,
            tag,
            round,
            port: None,
            networks: [format!("{name}_default")].into(),
            secret: None,
            config: None,
            files: files.cloned(),
            volume: false,
        };
        let mut services = vec![("a", spec(Mode::Replicated(replicas), Some(&content)))];
        // What a later file has no more is pruned.
        if self.rng.random_bool(0.5) {
            services.push(("b", spec(Mode::Replicated(1), None)));
        }
        let dir = self.lab.host(1).dir.join(&name);
        std::fs::create_dir_all(&dir).with_context(|| format!("make {}", dir.display()))?;
        let file = dir.join("stack.yml");
        std::fs::write(dir.join("content"), &content)?;
        std::fs::write(&file, compose(&services))?;
        let args = ["stack", "deploy", "--prune", "--resolve-image", "never", "-c", path(&file), &name];
        self.acknowledged_by_skep(&args)?;
        self.model.services.retain(|_, s| s.stack.as_ref() != Some(&name));
        for (service, spec) in services {
            let service_name = format!("{name}_{service}");
            let service = Service { spec, previous: None, stack: Some(name.clone()) };
            self.model.services.insert(service_name, service);
        }
        self.model.stacks.insert(name.clone());
        Ok(Some(format!("{name} was deployed: {replicas} of whoami:{tag}, ROUND={round}, {content:?}")))
    }

    pub fn remove_stack(&mut self) -> Result<Option<String>> {
        let Some(name) = self.model.stacks.iter().cloned().choose(self.rng) else { return Ok(None) };
        if self.rng.random_bool(0.5) {
            self.acknowledged(&["stack", "rm", &name], "Nothing found")?;
        } else {
            self.acknowledged_by_skep(&["stack", "rm", &name])?;
        }
        self.model.stacks.remove(&name);
        self.model.services.retain(|_, s| s.stack.as_ref() != Some(&name));
        Ok(Some(format!("stack {name} was removed")))
    }
}

fn compose(services: &[(&str, Spec)]) -> String {
    let mut text = String::from("services:\n");
    for (name, spec) in services {
        let replicas = match spec.mode {
            Mode::Replicated(n) => n,
            Mode::Global | Mode::Job(_) => 1,
        };
        text += &format!(
            "  {name}:\n    image: whoami:{}\n    command: [/skep, whoami]\n    environment: {{ROUND: \"{}\"}}\n    \
             stop_grace_period: 1s\n    deploy:\n      replicas: {replicas}\n      \
             update_config: {{parallelism: 0, monitor: 1s, failure_action: continue}}\n      \
             restart_policy: {{delay: 0s}}\n",
            spec.tag, spec.round
        );
        if spec.files.is_some() {
            text += "    secrets: [secret]\n    configs: [{source: config, target: /config}]\n";
        }
    }
    text + "secrets:\n  secret: {file: ./content}\nconfigs:\n  config: {file: ./content}\n"
}
