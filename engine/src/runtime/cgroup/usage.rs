//! What a cgroup has used: processor time, memory, processes, block I/O.

use std::collections::BTreeMap;
use std::path::Path;

use super::v1::Directory;
use super::{Cgroup, Kind};

/// Nanoseconds a clock tick lasts: USER_HZ is 100 on every architecture we run on.
const TICK_NS: u64 = 10_000_000;

/// What a cgroup has used and may use. What the kernel does not count is 0 or empty.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Usage {
    /// Processor time.
    pub cpu: CpuUsage,
    /// Memory.
    pub memory: MemoryUsage,
    /// Processes and threads.
    pub pids: u64,
    /// Most processes and threads; none = no limit.
    pub pids_limit: Option<u64>,
    /// Bytes by device and operation.
    pub io_bytes: Vec<IoUsage>,
    /// Operations by device and operation.
    pub io_operations: Vec<IoUsage>,
}

/// Processor time in nanoseconds.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct CpuUsage {
    /// All.
    pub total_ns: u64,
    /// On each processor (v1 only).
    pub per_cpu_ns: Vec<u64>,
    /// In the kernel.
    pub kernel_ns: u64,
    /// In user space.
    pub user_ns: u64,
    /// Periods in which a limit applied.
    pub periods: u64,
    /// Periods in which the limit was reached.
    pub throttled_periods: u64,
    /// Time spent held back by the limit.
    pub throttled_ns: u64,
}

/// Memory in bytes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct MemoryUsage {
    /// Now, with the page cache.
    pub usage: u64,
    /// The most there was (v1 only).
    pub max_usage: u64,
    /// Limit; none = no limit.
    pub limit: Option<u64>,
    /// Times the limit was reached.
    pub failures: u64,
    /// `memory.stat` as the kernel writes it.
    pub stat: BTreeMap<String, u64>,
}

/// Block I/O of one device.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct IoUsage {
    /// Major number.
    pub major: u64,
    /// Minor number.
    pub minor: u64,
    /// `Read`, `Write`, ... on v1, `read` and `write` on v2.
    pub operation: String,
    /// How much.
    pub value: u64,
}

impl Cgroup {
    /// What it has used. A group that is gone has used nothing.
    pub fn usage(&self) -> Usage {
        match &self.kind {
            Kind::V1(directories) => v1(directories),
            Kind::V2 { directory, .. } => v2(directory),
        }
    }
}

fn text(directory: &Path, file: &str) -> String {
    std::fs::read_to_string(directory.join(file)).unwrap_or_default()
}

fn number(directory: &Path, file: &str) -> u64 {
    text(directory, file).trim().parse().unwrap_or(0)
}

/// `max`, and the largest number of pages v1 knows, are no limit.
fn limit(directory: &Path, file: &str) -> Option<u64> {
    text(directory, file).trim().parse().ok().filter(|n| *n < (i64::MAX as u64) & !0xffff)
}

/// Lines of `name number`.
fn table(text: &str) -> BTreeMap<String, u64> {
    let pair = |l: &str| l.split_once(' ').and_then(|(k, v)| Some((k.to_owned(), v.trim().parse().ok()?)));
    text.lines().filter_map(pair).collect()
}

fn v1(directories: &[Directory]) -> Usage {
    let mut usage = Usage::default();
    for d in directories {
        let path = d.path.as_path();
        if d.has("cpuacct") {
            let stat = table(&text(path, "cpuacct.stat"));
            let of = |key: &str| stat.get(key).copied().unwrap_or(0) * TICK_NS;
            usage.cpu.total_ns = number(path, "cpuacct.usage");
            usage.cpu.per_cpu_ns = text(path, "cpuacct.usage_percpu")
                .split_whitespace()
                .filter_map(|n| n.parse().ok())
                .collect();
            (usage.cpu.kernel_ns, usage.cpu.user_ns) = (of("system"), of("user"));
        }
        if d.has("cpu") {
            let stat = table(&text(path, "cpu.stat"));
            let of = |key: &str| stat.get(key).copied().unwrap_or(0);
            usage.cpu.periods = of("nr_periods");
            usage.cpu.throttled_periods = of("nr_throttled");
            usage.cpu.throttled_ns = of("throttled_time");
        }
        if d.has("memory") {
            usage.memory = MemoryUsage {
                usage: number(path, "memory.usage_in_bytes"),
                max_usage: number(path, "memory.max_usage_in_bytes"),
                limit: limit(path, "memory.limit_in_bytes"),
                failures: number(path, "memory.failcnt"),
                stat: table(&text(path, "memory.stat")),
            };
        }
        if d.has("pids") {
            usage.pids = number(path, "pids.current");
            usage.pids_limit = limit(path, "pids.max");
        }
        if d.has("blkio") {
            usage.io_bytes = v1_io(&text(path, "blkio.throttle.io_service_bytes_recursive"));
            usage.io_operations = v1_io(&text(path, "blkio.throttle.io_serviced_recursive"));
        }
    }
    usage
}

/// Lines of `major:minor Operation number`; the last, `Total number`, is not of a device.
fn v1_io(text: &str) -> Vec<IoUsage> {
    let one = |l: &str| {
        let mut words = l.split_whitespace();
        let (major, minor) = words.next()?.split_once(':')?;
        Some(IoUsage {
            major: major.parse().ok()?,
            minor: minor.parse().ok()?,
            operation: words.next()?.to_owned(),
            value: words.next()?.parse().ok()?,
        })
    };
    text.lines().filter_map(one).collect()
}

fn v2(directory: &Path) -> Usage {
    let cpu = table(&text(directory, "cpu.stat"));
    let of = |key: &str| cpu.get(key).copied().unwrap_or(0);
    let events = table(&text(directory, "memory.events"));
    let io = text(directory, "io.stat");
    Usage {
        cpu: CpuUsage {
            total_ns: of("usage_usec") * 1000,
            per_cpu_ns: Vec::new(),
            kernel_ns: of("system_usec") * 1000,
            user_ns: of("user_usec") * 1000,
            periods: of("nr_periods"),
            throttled_periods: of("nr_throttled"),
            throttled_ns: of("throttled_usec") * 1000,
        },
        memory: MemoryUsage {
            usage: number(directory, "memory.current"),
            max_usage: 0,
            limit: limit(directory, "memory.max"),
            failures: events.get("max").copied().unwrap_or(0),
            stat: table(&text(directory, "memory.stat")),
        },
        pids: number(directory, "pids.current"),
        pids_limit: limit(directory, "pids.max"),
        io_bytes: v2_io(&io, &[("rbytes", "read"), ("wbytes", "write")]),
        io_operations: v2_io(&io, &[("rios", "read"), ("wios", "write")]),
    }
}

/// Lines of `major:minor key=number ...`.
fn v2_io(text: &str, keys: &[(&str, &str)]) -> Vec<IoUsage> {
    let mut found = Vec::new();
    for line in text.lines() {
        let mut words = line.split_whitespace();
        let Some((major, minor)) = words.next().and_then(|n| n.split_once(':')) else { continue };
        let (Ok(major), Ok(minor)) = (major.parse(), minor.parse()) else { continue };
        for (key, value) in words.filter_map(|w| w.split_once('=')) {
            let known = keys.iter().find(|(k, _)| *k == key);
            if let (Some((_, operation)), Ok(value)) = (known, value.parse()) {
                found.push(IoUsage { major, minor, operation: (*operation).to_owned(), value });
            }
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_versions_io_is_read() {
        let v1 = v1_io("8:0 Read 4096\n8:0 Write 0\n8:0 Total 4096\nTotal 4096\n");
        assert_eq!(v1.len(), 3);
        assert_eq!((v1[0].major, v1[0].operation.as_str(), v1[0].value), (8, "Read", 4096));
        let keys = [("rbytes", "read"), ("wbytes", "write")];
        let v2 = v2_io("259:0 rbytes=10 wbytes=20 rios=1 wios=2\nnonsense\n", &keys);
        let found: Vec<_> = v2.iter().map(|e| (e.major, e.operation.as_str(), e.value)).collect();
        assert_eq!(found, [(259, "read", 10), (259, "write", 20)]);
    }
}
