//! What a container uses of processors, memory, disks and network, at one moment.

use std::collections::BTreeMap;
use std::path::Path;

use crate::config::{ContainerState, NetworkMode};
use crate::engine::Engine;
use crate::error::{Error, blocking};
use crate::events::now_ns;
pub use crate::runtime::cgroup::{CpuUsage, IoUsage, MemoryUsage, Usage};

/// Nanoseconds a clock tick of /proc/stat lasts (USER_HZ is 100).
const TICK_NS: u64 = 10_000_000;

/// One look at a container.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Stats {
    /// The container's.
    pub id: String,
    /// Its name.
    pub name: String,
    /// Nanoseconds since the Unix epoch; 0 = it does not run, and nothing else is known.
    pub read_ns: i64,
    /// What its cgroup has used.
    pub usage: Usage,
    /// Processor time of the whole host in nanoseconds, idle time included.
    pub system_cpu_ns: u64,
    /// Processors of the host.
    pub online_cpus: u32,
    /// Bytes of memory of the host.
    pub host_memory: u64,
    /// Counters of its interfaces; empty on the host's network.
    pub networks: BTreeMap<String, InterfaceCounters>,
}

/// Counters of a network interface, as seen from inside the container.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct InterfaceCounters {
    /// Bytes received.
    pub rx_bytes: u64,
    /// Packets received.
    pub rx_packets: u64,
    /// Receive errors.
    pub rx_errors: u64,
    /// Received and dropped.
    pub rx_dropped: u64,
    /// Bytes sent.
    pub tx_bytes: u64,
    /// Packets sent.
    pub tx_packets: u64,
    /// Send errors.
    pub tx_errors: u64,
    /// Not sent but dropped.
    pub tx_dropped: u64,
}

impl Engine {
    /// Takes a look.
    pub async fn stats(&self, id: &str) -> Result<Stats, Error> {
        let slot = self.table().find(id)?;
        let c = slot.container();
        let base = Stats { id: slot.id.clone(), name: c.name.clone(), ..Stats::default() };
        let runs = matches!(c.state, ContainerState::Running | ContainerState::Paused);
        let Some(pid) = c.pid.filter(|_| runs) else { return Ok(base) };
        let cgroup = self.cgroup(&slot)?;
        let own_network = c.config.network != NetworkMode::Host;
        blocking(move || {
            let stat = read("/proc/stat");
            let interfaces = if own_network { read(format!("/proc/{pid}/net/dev")) } else { String::new() };
            let (system_cpu_ns, online_cpus) = system(&stat);
            Ok(Stats {
                read_ns: now_ns(),
                usage: cgroup.usage(),
                system_cpu_ns,
                online_cpus,
                host_memory: crate::host::memory(),
                networks: counters(&interfaces),
                ..base
            })
        })
        .await
    }
}

/// What is not there any more counts nothing.
fn read(path: impl AsRef<Path>) -> String {
    std::fs::read_to_string(path).unwrap_or_default()
}

/// Time of all processors since the boot, and how many there are: proc_stat(5).
fn system(stat: &str) -> (u64, u32) {
    let mut total = 0;
    let mut count = 0;
    for line in stat.lines().filter(|l| l.starts_with("cpu")) {
        let mut words = line.split_whitespace();
        if words.next() == Some("cpu") {
            // Without guest time, which is within user time.
            total = words.take(7).filter_map(|w| w.parse::<u64>().ok()).sum::<u64>() * TICK_NS;
        } else {
            count += 1;
        }
    }
    (total, count)
}

/// proc_pid_net(5): `name: ` and sixteen numbers.
fn counters(dev: &str) -> BTreeMap<String, InterfaceCounters> {
    let one = |l: &str| {
        let (name, rest) = l.split_once(':')?;
        let n: Vec<u64> = rest.split_whitespace().filter_map(|w| w.parse().ok()).collect();
        let [
            rx_bytes,
            rx_packets,
            rx_errors,
            rx_dropped,
            _,
            _,
            _,
            _,
            tx_bytes,
            tx_packets,
            tx_errors,
            tx_dropped,
            ..,
        ] = n.as_slice()
        else {
            return None;
        };
        let counters = InterfaceCounters {
            rx_bytes: *rx_bytes,
            rx_packets: *rx_packets,
            rx_errors: *rx_errors,
            rx_dropped: *rx_dropped,
            tx_bytes: *tx_bytes,
            tx_packets: *tx_packets,
            tx_errors: *tx_errors,
            tx_dropped: *tx_dropped,
        };
        Some((name.trim().to_owned(), counters)).filter(|(name, _)| name != "lo")
    };
    dev.lines().filter_map(one).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kernels_tables_are_read() {
        let stat = "cpu  1 2 3 4 5 6 7 8 9 10\ncpu0 1 2\ncpu1 1 2\nintr 5\n";
        assert_eq!(system(stat), (28 * TICK_NS, 2));
        let dev = "Inter-|   Receive |  Transmit\n face |bytes\n    lo: 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16\n  eth0: 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16\n";
        let found = counters(dev);
        assert_eq!(found.keys().collect::<Vec<_>>(), ["eth0"]);
        assert_eq!((found["eth0"].rx_bytes, found["eth0"].tx_bytes, found["eth0"].tx_dropped), (1, 9, 12));
    }
}
