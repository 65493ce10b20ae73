//! The daemon's own process, by the names all of Prometheus' libraries use (proc(5)).

use std::io;

use prometheus::proto::MetricFamily;

use super::Snapshot;

pub(super) fn read() -> Result<Vec<MetricFamily>, prometheus::Error> {
    let s = Snapshot::default();
    let figures = Figures::read().map_err(prometheus::Error::Io)?;
    s.counter(
        "process_cpu_seconds_total",
        "Total user and system CPU time spent in seconds.",
        figures.cpu_seconds,
    )?;
    s.gauge("process_open_fds", "Number of open file descriptors.", figures.open as f64)?;
    s.gauge("process_max_fds", "Maximum number of open file descriptors.", figures.most as f64)?;
    s.gauge("process_resident_memory_bytes", "Resident memory size in bytes.", figures.resident)?;
    s.gauge("process_virtual_memory_bytes", "Virtual memory size in bytes.", figures.virtually)?;
    s.gauge(
        "process_start_time_seconds",
        "Start time of the process since unix epoch in seconds.",
        figures.began,
    )?;
    s.gauge("process_threads", "Number of OS threads in the process.", figures.threads)?;
    Ok(s.families())
}

struct Figures {
    cpu_seconds: f64,
    open: usize,
    most: u64,
    resident: f64,
    virtually: f64,
    began: f64,
    threads: f64,
}

impl Figures {
    fn read() -> io::Result<Self> {
        let stat = std::fs::read_to_string("/proc/self/stat")?;
        // The name, in parentheses, may hold anything; the state after it is field 3.
        let after = stat.rsplit_once(')').map_or("", |(_, rest)| rest);
        let fields: Vec<f64> = after.split_whitespace().map(|f| f.parse().unwrap_or(0.0)).collect();
        let field = |number: usize| fields.get(number - 3).copied().unwrap_or(0.0);
        let size = |name| nix::unistd::sysconf(name).ok().flatten().unwrap_or(1) as f64;
        let ticks = size(nix::unistd::SysconfVar::CLK_TCK);
        let most = nix::sys::resource::getrlimit(nix::sys::resource::Resource::RLIMIT_NOFILE);
        let booted = std::fs::read_to_string("/proc/stat")?;
        let booted = booted.lines().find_map(|l| l.strip_prefix("btime ")?.parse::<f64>().ok());
        Ok(Self {
            cpu_seconds: (field(14) + field(15)) / ticks,
            threads: field(20),
            began: booted.unwrap_or(0.0) + field(22) / ticks,
            virtually: field(23),
            resident: field(24) * size(nix::unistd::SysconfVar::PAGE_SIZE),
            // The one that reads them is none of them.
            open: std::fs::read_dir("/proc/self/fd")?.count().saturating_sub(1),
            most: most?.0,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_process_is_known() {
        let f = Figures::read().expect("figures");
        assert!(f.open > 2 && f.most as usize >= f.open, "{} of {}", f.open, f.most);
        assert!(f.resident > 100e3 && f.virtually >= f.resident && f.threads >= 1.0);
        let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).expect("time");
        assert!((now.as_secs_f64() - f.began).abs() < 3600.0, "began {}", f.began);
    }
}
