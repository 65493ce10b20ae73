//! The cluster's time. Everything that waits (restart delays, update delays, time to give a lost node's tasks
//! up) compares the time of day with times an earlier leader wrote, and hosts' clocks differ: with a new leader
//! whose clock is minutes behind, every wait would take minutes more. So the cluster's time never runs
//! backward: a leader whose clock is behind goes on from the last batch's time, and lets the difference go
//! slowly.

use std::sync::{Arc, Mutex, PoisonError};

use skep_identity::Host;

use crate::store::Store;

/// A difference of `n` ms is gone after `n` times this many.
const SLEW: i64 = 16;

/// Cheap to clone.
#[derive(Clone)]
pub(crate) struct ClusterClock {
    inner: Arc<Inner>,
}

struct Inner {
    host: Host,
    store: Store,
    ahead: Mutex<Ahead>,
}

/// By how much the cluster's time is ahead of the host's.
#[derive(Default)]
struct Ahead {
    ms: i64,
    /// The host's time when that was true.
    at: i64,
}

impl Ahead {
    fn now(&mut self, host: i64, seen: i64) -> i64 {
        let passed = host.saturating_sub(self.at).max(0);
        self.ms = (self.ms - passed / SLEW).max(seen.saturating_sub(host)).max(0);
        // What does not make up a millisecond yet counts the next time.
        self.at = if self.ms == 0 { host } else { host.min(self.at.max(host - passed % SLEW)) };
        host.saturating_add(self.ms)
    }
}

impl ClusterClock {
    /// The time by which batches for `store` are stamped on `host`.
    pub fn new(host: Host, store: Store) -> Self {
        Self { inner: Arc::new(Inner { host, store, ahead: Mutex::default() }) }
    }

    /// Milliseconds since the epoch, never before the last batch.
    pub fn now_ms(&self) -> i64 {
        let seen = self.inner.store.view().at_ms;
        let mut ahead = self.inner.ahead.lock().unwrap_or_else(PoisonError::into_inner);
        ahead.now(self.inner.host.now_ms(), seen)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_leader_whose_clock_is_behind_goes_on_from_the_last_batch() {
        let mut ahead = Ahead::default();
        assert_eq!(ahead.now(1_000_000, 1_600_000), 1_600_000);
        assert_eq!(ahead.now(1_001_600, 1_600_000), 1_601_500, "time goes on, a little slower");
        // A clock set back by an hour, too.
        assert_eq!(ahead.now(1_002_000 - 3_600_000, 1_601_900), 1_601_900);
    }

    #[test]
    fn a_difference_is_let_go_slowly_and_time_never_runs_back() {
        let mut ahead = Ahead::default();
        let (mut last, mut host) = (ahead.now(0, 1_000), 0);
        while ahead.ms > 0 {
            host += 7;
            let now = ahead.now(host, last);
            assert!(now >= last, "{now} after {last}");
            last = now;
        }
        assert!((16_000..20_000).contains(&host), "gone after {host} ms");
        assert_eq!(ahead.now(host + 5, last), host + 5);
    }
}
