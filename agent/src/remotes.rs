//! The managers this node knows, kept on disk, and which to try next.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use rand::rngs::StdRng;
use rand::seq::IndexedRandom;

/// Failures after which a manager is as unlikely to be picked as one can be.
const WORST: u32 = 6;

/// Known managers by address (`host:port`), each with its recent failures.
pub struct Remotes {
    path: PathBuf,
    known: Mutex<BTreeMap<String, u32>>,
    rng: Mutex<StdRng>,
}

impl Remotes {
    /// Reads the kept list and adds `more`.
    pub fn load(path: &Path, more: impl IntoIterator<Item = String>, rng: StdRng) -> Self {
        let kept = std::fs::read_to_string(path).unwrap_or_default();
        let known = kept.lines().map(str::to_owned).chain(more).filter(|a| !a.is_empty()).map(|a| (a, 0));
        Self { path: path.to_owned(), known: Mutex::new(known.collect()), rng: Mutex::new(rng) }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, BTreeMap<String, u32>> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A manager to try: at random, the less a manager failed lately the likelier.
    pub fn pick(&self) -> Option<String> {
        let known: Vec<_> = self.lock().iter().map(|(a, f)| (a.clone(), *f)).collect();
        let weight = |(_, failures): &(String, u32)| 1u32 << (WORST - (*failures).min(WORST));
        let mut rng = self.rng.lock().unwrap_or_else(PoisonError::into_inner);
        known.choose_weighted(&mut *rng, weight).ok().map(|(a, _)| a.clone())
    }

    /// Every address known.
    pub fn all(&self) -> Vec<String> {
        self.lock().keys().cloned().collect()
    }

    /// Adds one address.
    pub fn add(&self, addr: &str) {
        self.lock().entry(addr.to_owned()).or_insert(0);
    }

    /// Remembers that a manager answered.
    pub fn succeeded(&self, addr: &str) {
        if let Some(failures) = self.lock().get_mut(addr) {
            *failures = 0;
        }
    }

    /// Remembers that a manager did not answer.
    pub fn failed(&self, addr: &str) {
        if let Some(failures) = self.lock().get_mut(addr) {
            *failures = failures.saturating_add(1);
        }
    }

    /// Replaces the list by what a manager says, and keeps it on disk. An empty list is ignored.
    pub fn replace(&self, addrs: Vec<String>) {
        if addrs.is_empty() {
            return;
        }
        let mut known = self.lock();
        let fresh: BTreeMap<_, _> =
            addrs.into_iter().map(|a| (a.clone(), known.get(&a).copied().unwrap_or(0))).collect();
        let changed = !fresh.keys().eq(known.keys());
        *known = fresh;
        if changed {
            let text: String = known.keys().map(|a| format!("{a}\n")).collect();
            drop(known);
            let tmp = self.path.with_extension("new");
            let write = || {
                let mut f = std::fs::File::create(&tmp)?;
                std::io::Write::write_all(&mut f, text.as_bytes())?;
                f.sync_data()?;
                std::fs::rename(&tmp, &self.path)
            };
            if let Err(e) = write() {
                tracing::warn!(path = %self.path.display(), error = %e, "cannot keep the list of managers");
            }
        }
    }
}
