//! Processes as /proc shows them, and the columns that ps(1) makes of them.

use std::collections::HashMap;

/// Ticks in a second of /proc's clocks (USER_HZ).
const HZ: u64 = 100;

/// What columns need to know of the host.
pub(super) struct Host {
    boot_s: i64,
    uptime_s: u64,
    memory_kib: u64,
    page_kib: u64,
    users: HashMap<u32, String>,
    groups: HashMap<u32, String>,
}

impl Host {
    pub(super) fn read() -> Self {
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

/// A process.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Process {
    pid: u32,
    comm: String,
    args: String,
    state: char,
    ppid: u32,
    pgrp: i32,
    session: i32,
    tty: u32,
    foreground: i32,
    cpu_ticks: u64,
    priority: i64,
    nice: i64,
    threads: u64,
    start_ticks: u64,
    vsize: u64,
    rss_pages: u64,
    locked: bool,
    uids: [u32; 2],
    gids: [u32; 2],
}

impl Process {
    /// None when it is gone.
    pub(super) fn read(pid: i32) -> Option<Self> {
        let text = |name: &str| std::fs::read(format!("/proc/{pid}/{name}")).ok();
        let lossy = |bytes: Vec<u8>| String::from_utf8_lossy(&bytes).into_owned();
        let mut p = Self::parse(&lossy(text("stat")?), &lossy(text("status")?))?;
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

    /// proc_pid_stat(5): the name is in parentheses and may hold anything, parentheses too.
    fn parse(stat: &str, status: &str) -> Option<Self> {
        let (pid, rest) = stat.split_once(" (")?;
        let (comm, rest) = rest.rsplit_once(") ")?;
        let f: Vec<&str> = rest.split_whitespace().collect();
        let number = |i: usize| f.get(i).and_then(|w| w.parse::<i64>().ok()).unwrap_or(0);
        let natural = |i: usize| u64::try_from(number(i)).unwrap_or(0);
        let ids = |key: &str| {
            let line = status.lines().find_map(|l| l.strip_prefix(key)).unwrap_or_default();
            let mut n = line.split_whitespace().map(|w| w.parse().unwrap_or(0));
            [n.next().unwrap_or(0), n.next().unwrap_or(0)]
        };
        let locked = status.lines().find_map(|l| l.strip_prefix("VmLck:"));
        Some(Self {
            pid: pid.parse().ok()?,
            comm: comm.to_owned(),
            args: String::new(),
            state: f.first()?.chars().next()?,
            ppid: natural(1) as u32,
            pgrp: number(2) as i32,
            session: number(3) as i32,
            tty: number(4) as u32,
            foreground: number(5) as i32,
            cpu_ticks: natural(11) + natural(12),
            priority: number(15),
            nice: number(16),
            threads: natural(17),
            start_ticks: natural(19),
            vsize: natural(20),
            rss_pages: natural(21),
            locked: locked.is_some_and(|l| l.split_whitespace().next() != Some("0")),
            uids: ids("Uid:"),
            gids: ids("Gid:"),
        })
    }

    fn age_s(&self, h: &Host) -> u64 {
        h.uptime_s.saturating_sub(self.start_ticks / HZ)
    }

    /// Tenths of a percent of a processor over its whole life.
    fn permille(&self, h: &Host) -> u64 {
        (self.cpu_ticks * 1000 / HZ).checked_div(self.age_s(h)).unwrap_or(0)
    }

    fn start(&self, h: &Host) -> i64 {
        h.boot_s + i64::try_from(self.start_ticks / HZ).unwrap_or(0)
    }

    /// The terminal's name: proc_pid_stat(5), field `tty_nr`.
    fn terminal(&self) -> String {
        let (major, minor) = ((self.tty >> 8) & 0xfff, (self.tty & 0xff) | ((self.tty >> 12) & 0xf_ff00));
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
    fn status(&self) -> String {
        let mut out = self.state.to_string();
        for (is, letter) in [
            (self.nice < 0, '<'),
            (self.nice > 0, 'N'),
            (self.locked, 'L'),
            (i64::from(self.session) == i64::from(self.pid), 's'),
            (self.threads > 1, 'l'),
            (self.foreground > 0 && self.foreground == self.pgrp, '+'),
        ] {
            if is {
                out.push(letter);
            }
        }
        out
    }
}

/// One column: its title, and what it says of a process.
pub(super) struct Column {
    pub(super) title: String,
    pub(super) cell: fn(&Process, &Host) -> String,
}

/// The column ps knows by this name.
pub(super) fn column(name: &str) -> Option<Column> {
    let (title, cell): (&str, fn(&Process, &Host) -> String) = match name {
        "pid" | "tgid" => ("PID", |p, _| p.pid.to_string()),
        "ppid" => ("PPID", |p, _| p.ppid.to_string()),
        "pgid" | "pgrp" => ("PGID", |p, _| p.pgrp.to_string()),
        "sid" | "sess" | "session" => ("SID", |p, _| p.session.to_string()),
        "user" | "uname" => ("USER", |p, h| named(&h.users, p.uids[1])),
        "euser" => ("EUSER", |p, h| named(&h.users, p.uids[1])),
        "ruser" => ("RUSER", |p, h| named(&h.users, p.uids[0])),
        "uid" => ("UID", |p, _| p.uids[1].to_string()),
        "euid" => ("EUID", |p, _| p.uids[1].to_string()),
        "ruid" => ("RUID", |p, _| p.uids[0].to_string()),
        "group" | "egroup" => ("GROUP", |p, h| named(&h.groups, p.gids[1])),
        "rgroup" => ("RGROUP", |p, h| named(&h.groups, p.gids[0])),
        "gid" | "egid" => ("GID", |p, _| p.gids[1].to_string()),
        "rgid" => ("RGID", |p, _| p.gids[0].to_string()),
        "comm" | "ucmd" | "ucomm" => {
            ("COMMAND", |p, _| if p.state == 'Z' { format!("{} <defunct>", p.comm) } else { p.comm.clone() })
        }
        "args" | "command" => ("COMMAND", |p, _| p.args.clone()),
        "cmd" => ("CMD", |p, _| p.args.clone()),
        "c" => ("C", |p, h| (p.permille(h) / 10).min(99).to_string()),
        "pcpu" | "%cpu" => ("%CPU", |p, h| tenths(p.permille(h))),
        "pmem" | "%mem" => ("%MEM", |p, h| tenths(p.rss_pages * h.page_kib * 1000 / h.memory_kib.max(1))),
        "rss" | "rssize" | "rsz" => ("RSS", |p, h| (p.rss_pages * h.page_kib).to_string()),
        "vsz" | "vsize" => ("VSZ", |p, _| (p.vsize / 1024).to_string()),
        "stime" => ("STIME", |p, h| since(p.start(h))),
        "start_time" | "bsdstart" => ("START", |p, h| since(p.start(h))),
        "start" => ("STARTED", |p, h| local(p.start(h), "%H:%M:%S")),
        "lstart" => ("STARTED", |p, h| local(p.start(h), "%a %b %e %H:%M:%S %Y")),
        "etime" => ("ELAPSED", |p, h| elapsed(p.age_s(h))),
        "etimes" => ("ELAPSED", |p, h| p.age_s(h).to_string()),
        "time" | "cputime" => ("TIME", |p, _| clock(p.cpu_ticks / HZ)),
        "bsdtime" => ("TIME", |p, _| {
            let s = p.cpu_ticks / HZ;
            format!("{}:{:02}", s / 60, s % 60)
        }),
        "times" => ("TIME", |p, _| (p.cpu_ticks / HZ).to_string()),
        "tname" => ("TTY", |p, _| p.terminal()),
        "tty" | "tt" => ("TT", |p, _| p.terminal()),
        "stat" => ("STAT", |p, _| p.status()),
        "s" | "state" => ("S", |p, _| p.state.to_string()),
        "ni" | "nice" => ("NI", |p, _| p.nice.to_string()),
        "pri" => ("PRI", |p, _| (39 - p.priority).to_string()),
        "nlwp" | "thcount" => ("NLWP", |p, _| p.threads.to_string()),
        _ => return None,
    };
    Some(Column { title: title.into(), cell })
}

fn named(names: &HashMap<u32, String>, id: u32) -> String {
    match names.get(&id) {
        // As wide as ps's column.
        Some(name) if name.chars().count() > 8 => name.chars().take(7).chain(['+']).collect(),
        Some(name) => name.clone(),
        None => id.to_string(),
    }
}

fn tenths(n: u64) -> String {
    format!("{}.{}", n / 10, n % 10)
}

fn clock(s: u64) -> String {
    let text = format!("{:02}:{:02}:{:02}", s / 3600 % 24, s / 60 % 60, s % 60);
    if s >= 86_400 { format!("{}-{text}", s / 86_400) } else { text }
}

fn elapsed(s: u64) -> String {
    if s < 3600 { format!("{:02}:{:02}", s / 60, s % 60) } else { clock(s) }
}

/// The hour on the day itself, else the day, else the year.
fn since(at: i64) -> String {
    let now = crate::events::now_ns() / 1_000_000_000;
    let same = |format: &str| local(at, format) == local(now, format);
    match (same("%F"), same("%Y")) {
        (true, _) => local(at, "%H:%M"),
        (false, true) => local(at, "%b%d"),
        (false, false) => local(at, "%Y"),
    }
}

/// strftime(3) in the host's time zone.
fn local(at: i64, format: &str) -> String {
    let Ok(format) = std::ffi::CString::new(format) else { return String::new() };
    let mut buffer = [0u8; 64];
    // SAFETY: `tm` is filled in before it is read, and the buffer's length is told.
    let n = unsafe {
        let mut tm: libc::tm = std::mem::zeroed();
        libc::localtime_r(&raw const at, &raw mut tm);
        libc::strftime(buffer.as_mut_ptr().cast(), buffer.len(), format.as_ptr(), &raw const tm)
    };
    String::from_utf8_lossy(&buffer[..n]).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kernels_words_become_columns() {
        let stat = "42 (a) b (c) S 1 42 42 34817 42 4194560 1 2 3 4 150 250 0 0 20 0 3 0 1000 4096000 25 18446744073709551615";
        let status = "Name:\ta\nUid:\t1000\t0\t0\t0\nGid:\t5\t6\t5\t5\nVmLck:\t       0 kB\n";
        let p = Process::parse(stat, status).expect("is one");
        let host = Host {
            boot_s: 0,
            uptime_s: 110,
            memory_kib: 1000,
            page_kib: 4,
            users: [(0, "a-very-long-name".to_owned())].into(),
            groups: HashMap::new(),
        };
        let of = |name: &str| (column(name).expect(name).cell)(&p, &host);
        for (name, expected) in [
            ("pid", "42"),
            ("ppid", "1"),
            ("comm", "a) b (c"),
            ("user", "a-very-+"),
            ("ruid", "1000"),
            ("group", "6"),
            ("tname", "pts/1"),
            ("stat", "Ssl+"),
            ("time", "00:00:04"),
            ("c", "4"),
            ("%cpu", "4.0"),
            ("%mem", "10.0"),
            ("vsz", "4000"),
            ("etime", "01:40"),
        ] {
            assert_eq!(of(name), expected, "{name}");
        }
        assert!(column("wchan").is_none());
        assert_eq!(clock(90_061), "1-01:01:01");
    }
}
