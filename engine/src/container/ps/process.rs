//! Processes and their threads as /proc shows them.

use std::collections::HashMap;

/// Ticks in a second of /proc's clocks (USER_HZ).
pub(super) const HZ: u64 = 100;

/// What columns need to know of the host.
pub(in crate::container) struct Host {
    pub(super) boot_s: i64,
    pub(super) uptime_s: u64,
    pub(super) memory_kib: u64,
    pub(super) page_kib: u64,
    pub(super) users: HashMap<u32, String>,
    pub(super) groups: HashMap<u32, String>,
}

impl Host {
    pub(in crate::container) fn read() -> Self {
        let text = |path: &str| std::fs::read_to_string(path).unwrap_or_default();
        let names = |path: &str| {
            let one = |l: &str| {
                let mut f = l.split(':');
                let name = f.next()?.to_owned();
                Some((f.nth(1)?.parse().ok()?, name))
            };
            // Of several names for a number the first counts.
            text(path).lines().rev().filter_map(one).collect()
        };
        let stat = text("/proc/stat");
        let boot = stat.lines().find_map(|l| l.strip_prefix("btime "));
        let uptime = text("/proc/uptime");
        // SAFETY: a plain integer argument.
        let page = unsafe { libc::sysconf(libc::_SC_PAGESIZE) };
        Self {
            boot_s: boot.and_then(|b| b.trim().parse().ok()).unwrap_or(0),
            uptime_s: uptime.split('.').next().and_then(|s| s.parse().ok()).unwrap_or(0),
            memory_kib: crate::host::memory() / 1024,
            page_kib: u64::try_from(page).unwrap_or(4096) / 1024,
            users: names("/etc/passwd"),
            groups: names("/etc/group"),
        }
    }
}

/// A process, or one of its threads.
#[derive(Debug, Default, PartialEq, Eq)]
pub(in crate::container) struct Process {
    /// Of the process.
    pub(super) pid: u32,
    /// Of the thread; of the first one it is the process's.
    pub(super) tid: u32,
    pub(super) comm: String,
    pub(super) args: String,
    pub(super) state: char,
    pub(super) uids: [u32; 4],
    pub(super) gids: [u32; 4],
    /// Fields of `stat` from the state on: proc_pid_stat(5), where it is number 3.
    stat: Vec<i128>,
    /// `status`: proc_pid_status(5).
    status: String,
}

/// Fields of proc_pid_stat(5), by their number there.
#[derive(Clone, Copy, Debug)]
pub(super) enum Stat {
    Ppid = 4,
    Pgrp = 5,
    Session = 6,
    Terminal = 7,
    Foreground = 8,
    Flags = 9,
    MinorFaults = 10,
    MajorFaults = 12,
    UserTicks = 14,
    SystemTicks = 15,
    ChildUserTicks = 16,
    ChildSystemTicks = 17,
    Priority = 18,
    Nice = 19,
    Threads = 20,
    StartTicks = 22,
    Size = 23,
    ResidentPages = 24,
    CodeStart = 26,
    CodeEnd = 27,
    StackStart = 28,
    StackPointer = 29,
    InstructionPointer = 30,
    Processor = 39,
    RealTimePriority = 40,
    Policy = 41,
}

impl Process {
    /// None when it is gone. With `thread`, that one of its threads.
    pub(in crate::container) fn read(pid: i32, thread: Option<i32>) -> Option<Self> {
        let dir = thread.map_or_else(|| format!("/proc/{pid}"), |t| format!("/proc/{pid}/task/{t}"));
        let text = |name: &str| std::fs::read(format!("{dir}/{name}")).ok();
        let lossy = |bytes: Vec<u8>| String::from_utf8_lossy(&bytes).into_owned();
        let mut p = Self::parse(&lossy(text("stat")?), lossy(text("status")?))?;
        p.pid = u32::try_from(pid).ok()?;
        let raw = text("cmdline").unwrap_or_default();
        let words = raw.split(|b| *b == 0).map(|w| String::from_utf8_lossy(w).into_owned());
        let args = words.collect::<Vec<_>>().join(" ").trim_end().to_owned();
        p.args = match (p.state, args.is_empty()) {
            ('Z', _) => format!("[{}] <defunct>", p.comm),
            (_, true) => format!("[{}]", p.comm),
            (_, false) => args,
        };
        Some(p)
    }

    /// Its threads, itself among them.
    pub(in crate::container) fn read_threads(pid: i32) -> Vec<Self> {
        let entries = std::fs::read_dir(format!("/proc/{pid}/task")).into_iter().flatten().flatten();
        let mut threads: Vec<i32> = entries.filter_map(|e| e.file_name().to_str()?.parse().ok()).collect();
        threads.sort_unstable();
        threads.into_iter().filter_map(|t| Self::read(pid, Some(t))).collect()
    }

    /// The name is in parentheses and may hold anything, parentheses too.
    pub(super) fn parse(stat: &str, status: String) -> Option<Self> {
        let (pid, rest) = stat.split_once(" (")?;
        let (comm, rest) = rest.rsplit_once(") ")?;
        let words = rest.split_whitespace();
        let ids = |key: &str| {
            let line = status.lines().find_map(|l| l.strip_prefix(key)).unwrap_or_default();
            let mut n = line.split_whitespace().map(|w| w.parse().unwrap_or(0));
            std::array::from_fn(|_| n.next().unwrap_or(0))
        };
        let pid = pid.parse().ok()?;
        Some(Self {
            pid,
            tid: pid,
            comm: comm.to_owned(),
            args: String::new(),
            state: rest.chars().next()?,
            uids: ids("Uid:"),
            gids: ids("Gid:"),
            stat: words.map(|w| w.parse().unwrap_or(0)).collect(),
            status,
        })
    }

    pub(super) fn stat(&self, field: Stat) -> i128 {
        self.stat.get(field as usize - 3).copied().unwrap_or(0)
    }

    /// Of a field that is never negative.
    pub(super) fn natural(&self, field: Stat) -> u64 {
        u64::try_from(self.stat(field)).unwrap_or(0)
    }

    /// What `status` says behind a key.
    pub(super) fn told(&self, key: &str) -> &str {
        let line = |l: &'_ str| l.split_once(':').is_some_and(|(k, _)| k == key);
        self.status.lines().find(|l| line(l)).and_then(|l| l.split_once(':')).map_or("", |(_, v)| v.trim())
    }

    /// A file of its directory in /proc; nothing where it cannot be read.
    pub(super) fn file(&self, name: &str) -> String {
        std::fs::read_to_string(format!("/proc/{}/{name}", self.pid)).unwrap_or_default()
    }

    pub(super) fn cpu_ticks(&self) -> u64 {
        self.natural(Stat::UserTicks) + self.natural(Stat::SystemTicks)
    }

    pub(super) fn age_s(&self, h: &Host) -> u64 {
        h.uptime_s.saturating_sub(self.natural(Stat::StartTicks) / HZ)
    }

    /// Tenths of a percent of a processor over its whole life.
    pub(super) fn permille(&self, h: &Host) -> u64 {
        (self.cpu_ticks() * 1000 / HZ).checked_div(self.age_s(h)).unwrap_or(0)
    }

    pub(super) fn start(&self, h: &Host) -> i64 {
        h.boot_s + i64::try_from(self.natural(Stat::StartTicks) / HZ).unwrap_or(0)
    }

    /// The terminal's name: proc_pid_stat(5), field `tty_nr`.
    pub(super) fn terminal(&self) -> String {
        let tty = self.natural(Stat::Terminal);
        let (major, minor) = ((tty >> 8) & 0xfff, (tty & 0xff) | ((tty >> 12) & 0xf_ff00));
        match (major, minor) {
            (0, _) => "?".into(),
            (136..=143, _) => format!("pts/{}", (major - 136) * 256 + minor),
            (4, 0..64) => format!("tty{minor}"),
            (4, _) => format!("ttyS{}", minor - 64),
            (5, 1) => "console".into(),
            _ => format!("{major}:{minor}"),
        }
    }

    /// STAT of ps: the state, and what else is remarkable.
    pub(super) fn status(&self) -> String {
        let mut out = self.state.to_string();
        for (is, letter) in [
            (self.stat(Stat::Nice) < 0, '<'),
            (self.stat(Stat::Nice) > 0, 'N'),
            (!matches!(self.told("VmLck").split(' ').next(), Some("0" | "")), 'L'),
            (self.natural(Stat::Session) == u64::from(self.pid), 's'),
            (self.natural(Stat::Threads) > 1, 'l'),
            (self.stat(Stat::Foreground) > 0 && self.stat(Stat::Foreground) == self.stat(Stat::Pgrp), '+'),
        ] {
            if is {
                out.push(letter);
            }
        }
        out
    }
}
