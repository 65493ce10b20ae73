//! The managers this node knows, kept on disk, and which to try next.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use rand::rngs::StdRng;
use rand::seq::IndexedRandom;
use skep_identity::Host;
use tokio::sync::watch;

/// Failures after which a manager is as unlikely to be picked as one can be.
const WORST: u32 = 6;

/// As many managers as no swarm has.
pub const MOST: usize = 64;

/// What is known of a manager.
#[derive(Clone, Copy, Debug, Default)]
struct Known {
    /// Recent ones.
    failures: u32,
    /// By a manager's word alone, while there was no session.
    told: bool,
}

/// Known managers by address (`host:port`).
pub struct Remotes {
    path: PathBuf,
    host: Host,
    known: Mutex<BTreeMap<String, Known>>,
    rng: Mutex<StdRng>,
    /// What a manager has said last of where managers are, while there was no session with it.
    told: watch::Sender<BTreeSet<String>>,
    /// Held while the list is written, so that the newest is written last.
    writing: tokio::sync::Mutex<()>,
}

impl std::fmt::Debug for Remotes {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Remotes").field(&self.all()).finish()
    }
}

impl Remotes {
    /// Reads the kept list and adds `more`.
    pub fn load(path: &Path, more: impl IntoIterator<Item = String>, host: Host) -> Self {
        let kept = std::fs::read_to_string(path).unwrap_or_default();
        let known = kept
            .lines()
            .map(str::to_owned)
            .chain(more)
            .filter(|a| !a.is_empty())
            .map(|a| (a, Known::default()));
        Self {
            path: path.to_owned(),
            known: Mutex::new(known.collect()),
            rng: Mutex::new(host.rng()),
            told: watch::Sender::default(),
            host,
            writing: tokio::sync::Mutex::default(),
        }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, BTreeMap<String, Known>> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// All managers in the order to try them: at random, the less one failed lately the likelier it is early.
    pub fn order(&self) -> Vec<String> {
        let mut known: Vec<_> = self.lock().iter().map(|(a, k)| (a.clone(), k.failures)).collect();
        let weight = |(_, failures): &(String, u32)| 1u32 << (WORST - (*failures).min(WORST));
        let mut rng = self.rng.lock().unwrap_or_else(PoisonError::into_inner);
        let mut order = Vec::with_capacity(known.len());
        while let Ok((addr, _)) = known.choose_weighted(&mut *rng, weight).cloned() {
            known.retain(|(a, _)| *a != addr);
            order.push(addr);
        }
        order
    }

    /// Every address known.
    pub fn all(&self) -> Vec<String> {
        self.lock().keys().cloned().collect()
    }

    /// Remembers that a manager answered.
    pub fn succeeded(&self, addr: &str) {
        if let Some(known) = self.lock().get_mut(addr) {
            known.failures = 0;
        }
    }

    /// Remembers that a manager did not answer.
    pub fn failed(&self, addr: &str) {
        if let Some(known) = self.lock().get_mut(addr) {
            known.failures = known.failures.saturating_add(1);
        }
    }

    /// Adds managers that nobody has told of yet, until one of them says who there are.
    pub fn add(&self, addrs: impl IntoIterator<Item = String>) {
        self.lock().extend(addrs.into_iter().map(|addr| (addr, Known::default())));
    }

    /// Adds where managers are by a manager's word, to be tried before all others. Of those, so many that more than [`MOST`]
    /// would be known are forgotten: those first that were told earlier.
    pub fn told(&self, addrs: BTreeSet<String>) {
        {
            let mut known = self.lock();
            let others = known.iter_mut().filter(|(addr, _)| !addrs.contains(*addr));
            others.for_each(|(_, known)| known.failures = WORST);
            let now = Known { failures: 0, told: true };
            for addr in &addrs {
                known.entry(addr.clone()).and_modify(|k| k.failures = 0).or_insert(now);
            }
            let others = known.iter().filter(|(addr, _)| !addrs.contains(*addr));
            let mut others: Vec<_> = others.map(|(addr, k)| (!k.told, addr.clone())).collect();
            others.sort_unstable();
            let surplus = known.len().saturating_sub(MOST);
            for (_, addr) in others.into_iter().take(surplus) {
                known.remove(&addr);
            }
        }
        self.told.send_replace(addrs);
    }

    /// Waits until a manager says that there is none at this address any more.
    pub async fn elsewhere_than(&self, addr: &str) {
        let mut told = self.told.subscribe();
        while told.changed().await.is_ok() {
            if !told.borrow_and_update().contains(addr) {
                return;
            }
        }
        std::future::pending().await
    }

    /// Replaces the list by what a manager says, and keeps it on disk. An empty list is ignored.
    pub async fn replace(&self, addrs: Vec<String>) {
        if addrs.is_empty() || !self.take(addrs) {
            return;
        }
        let _writing = self.writing.lock().await;
        let text: String = self.lock().keys().map(|a| format!("{a}\n")).collect();
        let path = self.path.clone();
        let written = self.host.blocking(move || write(&path, &text)).await;
        if let Err(e) = written {
            tracing::warn!(path = %self.path.display(), error = %e, "cannot keep the list of managers");
        }
    }

    /// Whether the new list differs from the one there was.
    fn take(&self, addrs: Vec<String>) -> bool {
        let mut known = self.lock();
        let fresh: BTreeMap<_, _> = addrs
            .into_iter()
            .map(|a| (a.clone(), Known { told: false, ..known.get(&a).copied().unwrap_or_default() }))
            .collect();
        let changed = !fresh.keys().eq(known.keys());
        *known = fresh;
        changed
    }
}

fn write(path: &Path, text: &str) -> std::io::Result<()> {
    let tmp = path.with_extension("new");
    let mut f = std::fs::File::create(&tmp)?;
    std::io::Write::write_all(&mut f, text.as_bytes())?;
    f.sync_data()?;
    std::fs::rename(&tmp, path)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_many_that_were_told_the_earlier_ones_are_forgotten_first() {
        let dir = tempfile::tempdir().expect("a directory");
        let own = ["10.0.0.1:2377".to_owned()];
        let remotes = Remotes::load(&dir.path().join("managers"), own, Host::system());
        let told = |net: u32| (0..40).map(|n| format!("10.{net}.0.{n}:2377")).collect::<BTreeSet<_>>();
        for net in 1..=5 {
            remotes.told(told(net));
        }
        let all = remotes.all();
        assert_eq!(all.len(), MOST);
        assert!(told(5).iter().all(|addr| all.contains(addr)));
        assert!(all.contains(&"10.0.0.1:2377".to_owned()));
        assert!(told(5).contains(&remotes.order()[0]));
    }
}
