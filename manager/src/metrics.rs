//! What a manager times, under the names and with the help texts of Docker's swarm. What can be read off the store or
//! off raft's status is read there when somebody asks.

use prometheus::{Histogram, HistogramOpts, Registry};

/// A manager's timers. Cheap to clone; clones count together.
#[derive(Clone, Debug)]
pub struct Metrics {
    registry: Registry,
    /// From a proposal to its application here.
    pub(crate) transaction: Histogram,
    /// Making a snapshot and writing it.
    pub(crate) snapshot: Histogram,
    /// A write of one of the services, its wait for others and its repetitions included.
    pub(crate) write: Histogram,
    /// From a task's creation to its node's word that it runs.
    pub(crate) scheduling_delay: Histogram,
}

impl Metrics {
    pub(crate) fn new() -> Result<Self, prometheus::Error> {
        let registry = Registry::new();
        let timer = |name: &str, help: &str| {
            let timer = Histogram::with_opts(HistogramOpts::new(format!("swarm_{name}_seconds"), help))?;
            registry.register(Box::new(timer.clone()))?;
            Ok::<_, prometheus::Error>(timer)
        };
        Ok(Self {
            transaction: timer("raft_transaction_latency", "Raft transaction latency.")?,
            snapshot: timer("raft_snapshot_latency", "Raft snapshot create latency.")?,
            write: timer("store_write_tx_latency", "Raft store write tx latency.")?,
            scheduling_delay: timer(
                "dispatcher_scheduling_delay",
                "Scheduling delay is the time a task takes to go from NEW to RUNNING state.",
            )?,
            registry: registry.clone(),
        })
    }

    /// All of it, to be gathered.
    pub fn registry(&self) -> &Registry {
        &self.registry
    }
}
