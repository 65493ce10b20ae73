//! What `info` says of the host.

use std::path::Path;

/// The host as the engine sees it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct HostInfo {
    /// CPUs this process may use.
    pub ncpu: usize,
    /// Bytes of memory.
    pub mem_total: u64,
    /// Kernel release.
    pub kernel: String,
    /// Operating system's pretty name.
    pub os: String,
    /// Machine name as the kernel says it (`x86_64`).
    pub arch: String,
    /// Host name.
    pub hostname: String,
    /// 1 or 2.
    pub cgroup_version: u8,
    /// Who makes cgroups: always the engine itself.
    pub cgroup_driver: String,
    /// How layers are stacked.
    pub storage_driver: String,
    /// Containers of any state.
    pub containers: usize,
    /// Containers that run.
    pub running: usize,
    /// Containers that are paused.
    pub paused: usize,
    /// Containers in any other state.
    pub stopped: usize,
    /// Images.
    pub images: usize,
}

/// Everything but the counts, which the caller fills in.
pub(crate) fn read() -> HostInfo {
    let (kernel, arch, hostname) = match nix::sys::utsname::uname() {
        Ok(u) => (text(u.release()), text(u.machine()), text(u.nodename())),
        Err(_) => Default::default(),
    };
    HostInfo {
        ncpu: std::thread::available_parallelism().map_or(1, usize::from),
        mem_total: memory(),
        kernel,
        os: std::fs::read_to_string("/etc/os-release")
            .ok()
            .and_then(|t| pretty_name(&t))
            .unwrap_or_else(|| "Linux".into()),
        arch,
        hostname,
        cgroup_version: if Path::new("/sys/fs/cgroup/cgroup.controllers").exists() { 2 } else { 1 },
        cgroup_driver: "cgroupfs".into(),
        storage_driver: "overlayfs".into(),
        ..HostInfo::default()
    }
}

/// Bytes of memory.
pub(crate) fn memory() -> u64 {
    std::fs::read_to_string("/proc/meminfo").map_or(0, |m| mem_total(&m))
}

fn text(s: &std::ffi::OsStr) -> String {
    s.to_string_lossy().into_owned()
}

fn mem_total(meminfo: &str) -> u64 {
    meminfo
        .lines()
        .find_map(|l| l.strip_prefix("MemTotal:"))
        .and_then(|l| l.trim().trim_end_matches("kB").trim().parse::<u64>().ok())
        .map_or(0, |kib| kib.saturating_mul(1024))
}

fn pretty_name(os_release: &str) -> Option<String> {
    let line = os_release.lines().find_map(|l| l.strip_prefix("PRETTY_NAME="))?;
    Some(line.trim_matches('"').to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parses_what_the_kernel_and_the_distribution_say() {
        assert_eq!(mem_total("MemTotal:       2048 kB\nMemFree: 1 kB\n"), 2 << 20);
        assert_eq!(mem_total("nonsense"), 0);
        assert_eq!(pretty_name("A=b\nPRETTY_NAME=\"Debian 12\"\n").as_deref(), Some("Debian 12"));
    }
}
