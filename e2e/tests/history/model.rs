//! What has been acknowledged so far: whatever is here must be there at the end, and nothing else.

use std::collections::{BTreeMap, BTreeSet};

/// How many tasks of a service there are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    Replicated(u32),
    Global,
    /// Completions.
    Job(u32),
}

/// What was asked for of a service.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Spec {
    pub mode: Mode,
    /// Tag of the image `whoami`.
    pub tag: u32,
    /// Value of ROUND in the environment.
    pub round: u64,
    /// Published, and not host mode.
    pub port: Option<u16>,
    pub networks: BTreeSet<String>,
    pub secret: Option<String>,
    pub config: Option<String>,
    /// What the secret and the config of its stack hold.
    pub files: Option<String>,
    /// Volume of the service's name.
    pub volume: bool,
}

#[derive(Clone, Debug)]
pub struct Service {
    pub spec: Spec,
    /// What a rollback leads to; none where that is not known for sure.
    pub previous: Option<Spec>,
    /// The stack it is of, whose file alone changes it.
    pub stack: Option<String>,
}

impl Service {
    /// An update was acknowledged.
    pub fn change(&mut self, act: impl FnOnce(&mut Spec)) {
        self.previous = Some(self.spec.clone());
        act(&mut self.spec);
    }
}

/// A container outside services, with a restart policy, on an attachable network.
#[derive(Clone, Debug)]
pub struct Single {
    pub host: u32,
    pub network: String,
}

#[derive(Debug, Default)]
pub struct Model {
    pub services: BTreeMap<String, Service>,
    pub singles: BTreeMap<String, Single>,
    pub networks: BTreeSet<String>,
    /// With their content.
    pub secrets: BTreeMap<String, String>,
    pub configs: BTreeMap<String, String>,
    /// Value of the label `k` of each node, by number of its host.
    pub labels: BTreeMap<u32, u64>,
    /// The worker's join token, once it has been replaced.
    pub token: Option<String>,
    /// The root was replaced, and the tokens with it.
    pub rooted: bool,
    /// Managers that start again have to be unlocked.
    pub locked: bool,
    /// Every unlock key there was, the present one last.
    pub keys: Vec<String>,
    pub stacks: BTreeSet<String>,
    /// Hosts that are managers.
    pub managers: BTreeSet<u32>,
    pub drained: Option<u32>,
    /// Volumes that a service has had.
    pub volumes: BTreeSet<String>,
    /// Names are used once.
    pub names: u64,
}

impl Model {
    pub fn name(&mut self, kind: &str) -> String {
        self.names += 1;
        format!("{kind}{}", self.names)
    }

    /// A port that no service publishes.
    pub fn free_port(&self) -> Option<u16> {
        let taken: BTreeSet<u16> = self
            .services
            .values()
            .flat_map(|s| [s.spec.port, s.previous.as_ref().and_then(|p| p.port)])
            .flatten()
            .collect();
        (8080..8086).find(|p| !taken.contains(p))
    }

    /// Networks that nothing is in, nor comes back to by a rollback.
    pub fn idle_networks(&self) -> Vec<String> {
        self.networks
            .iter()
            .filter(|n| {
                !self.uses(|s| s.networks.contains(*n)) && !self.singles.values().any(|s| s.network == **n)
            })
            .cloned()
            .collect()
    }

    /// Whether a service is like this, or would be after a rollback.
    pub fn uses(&self, like: impl Fn(&Spec) -> bool) -> bool {
        self.services.values().any(|s| like(&s.spec) || s.previous.as_ref().is_some_and(&like))
    }
}
