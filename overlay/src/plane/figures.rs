//! What an operator wants to count of the data plane.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use super::DataPlane;
use crate::error::Result;
use crate::wireguard::PeerState;

/// Counted since the daemon's start.
#[derive(Debug, Default)]
pub(super) struct Counters {
    comparisons: AtomicU64,
    failures: AtomicU64,
    repairs: AtomicU64,
}

impl Counters {
    /// The whole was compared with the kernel.
    pub(super) fn compared(&self, in_order: bool) {
        self.comparisons.fetch_add(1, Relaxed);
        self.failures.fetch_add(u64::from(!in_order), Relaxed);
    }

    /// A link, an address or a route was put right.
    pub(super) fn repaired(&self) {
        self.repairs.fetch_add(1, Relaxed);
    }
}

/// The data plane in figures.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Figures {
    /// Comparisons of the whole with the kernel.
    pub comparisons: u64,
    /// Those that could not be finished, or not put everything right.
    pub failures: u64,
    /// Links, addresses and routes that were put right.
    pub repairs: u64,
    /// Bridge networks.
    pub bridges: usize,
    /// Containers that are connected.
    pub containers: usize,
}

impl DataPlane {
    /// What is counted.
    pub fn figures(&self) -> Figures {
        let state = self.inner.state();
        let counters = &self.inner.figures;
        Figures {
            comparisons: counters.comparisons.load(Relaxed),
            failures: counters.failures.load(Relaxed),
            repairs: counters.repairs.load(Relaxed),
            bridges: state.bridges.len(),
            containers: state.containers.len(),
        }
    }

    /// The tunnel's peers as it has them; none without a tunnel.
    pub async fn peers(&self) -> Result<Vec<PeerState>> {
        let device = self.inner.tunnel.lock().await.clone();
        match device {
            Some(device) => device.peers().await.map_err(|e| self.tunnel_error(&e)),
            None => Ok(Vec::new()),
        }
    }
}
