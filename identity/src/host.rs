//! What a process takes from its host beside the network: the time of day, randomness, and threads for work
//! that blocks. Simulations give their own, so that a run replays from its seed.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use rand::SeedableRng;
use rand::rngs::StdRng;
use rustls::pki_types::UnixTime;
use rustls::time_provider::TimeProvider;

/// A host's time, randomness and threads. Cheap to clone.
#[derive(Clone, Default)]
pub struct Host {
    /// None on a real host.
    simulated: Option<Arc<Simulated>>,
}

struct Simulated {
    clock: Box<dyn Fn() -> SystemTime + Send + Sync>,
    random: Mutex<StdRng>,
}

impl Host {
    /// The host this process runs on.
    pub fn system() -> Self {
        Self::default()
    }

    /// A host of a simulation: its time is `clock`'s (which may differ from other hosts'), all its randomness
    /// comes from `seed`, and it has one thread only, in which everything is done.
    pub fn simulated(seed: u64, clock: impl Fn() -> SystemTime + Send + Sync + 'static) -> Self {
        let random = Mutex::new(StdRng::seed_from_u64(seed));
        Self { simulated: Some(Arc::new(Simulated { clock: Box::new(clock), random })) }
    }

    /// Whether this is a host of a simulation.
    pub fn is_simulated(&self) -> bool {
        self.simulated.is_some()
    }

    /// The time of day.
    pub fn now(&self) -> SystemTime {
        self.simulated.as_ref().map_or_else(SystemTime::now, |host| (host.clock)())
    }

    fn since_epoch(&self) -> Duration {
        self.now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default()
    }

    /// The time of day in milliseconds since the epoch.
    pub fn now_ms(&self) -> i64 {
        i64::try_from(self.since_epoch().as_millis()).unwrap_or(i64::MAX)
    }

    /// A new source of randomness.
    pub fn rng(&self) -> StdRng {
        match &self.simulated {
            None => StdRng::from_rng(&mut rand::rng()),
            Some(host) => StdRng::from_rng(&mut *host.random.lock().unwrap_or_else(PoisonError::into_inner)),
        }
    }

    /// Does work that blocks (files, large computations) where it holds up nothing else.
    pub async fn blocking<T: Send + 'static>(&self, work: impl FnOnce() -> T + Send + 'static) -> T {
        if self.is_simulated() {
            return work();
        }
        match tokio::task::spawn_blocking(work).await {
            Ok(done) => done,
            Err(error) => match error.try_into_panic() {
                Ok(panic) => std::panic::resume_unwind(panic),
                // The runtime is shutting down, and this future with it.
                Err(_) => std::future::pending().await,
            },
        }
    }
}

impl TimeProvider for Host {
    fn current_time(&self) -> Option<UnixTime> {
        Some(UnixTime::since_unix_epoch(self.since_epoch()))
    }
}

impl std::fmt::Debug for Host {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(if self.is_simulated() { "simulated host" } else { "host" })
    }
}
