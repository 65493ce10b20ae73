//! What happened in a run, in order, with the simulated time: shown when a run fails, and compared between runs
//! of one seed.

use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// Lines shown of a run that failed.
const TAIL: usize = 250;

/// The trace, and the time of the simulation.
#[derive(Default)]
pub struct Trace {
    inner: Mutex<Inner>,
}

#[derive(Default)]
struct Inner {
    /// Time at the end of the last step; within a step the hosts' own clocks know better.
    now: Duration,
    lines: Vec<String>,
}

impl Trace {
    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The time since the simulation began.
    pub fn now(&self) -> Duration {
        turmoil::sim_elapsed().unwrap_or_else(|| self.lock().now)
    }

    /// Sets the time between steps.
    pub fn advance(&self, now: Duration) {
        self.lock().now = now;
    }

    /// Notes an event.
    pub fn add(&self, what: String) {
        let line = format!("{:>9.3} {what}", self.now().as_secs_f64());
        if std::env::var_os("SKEP_TRACE").is_some() {
            eprintln!("{line}");
        }
        self.lock().lines.push(line);
    }

    /// A digest of all lines.
    pub fn hash(&self) -> u64 {
        let mut hasher = DefaultHasher::new();
        self.lock().lines.hash(&mut hasher);
        hasher.finish()
    }

    /// The last lines.
    pub fn tail(&self) -> String {
        let inner = self.lock();
        inner.lines[inner.lines.len().saturating_sub(TAIL)..].join("\n")
    }
}
