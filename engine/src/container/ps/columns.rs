//! The columns of ps(1), by the names its `-o` takes: titles and cells, as procps has them.

use std::collections::HashMap;

use super::process::{HZ, Host, Process, Stat};

/// One column: its title, and what it says of a process.
#[derive(Clone)]
pub(in crate::container) struct Column {
    pub(in crate::container) title: String,
    pub(in crate::container) cell: fn(&Process, &Host) -> String,
}

/// What procps shows that no file of /proc says: systemd, LXC or its own scheduling groups do.
pub(super) const ELSEWHERE: &[&str] = &[
    "ag_id", "ag_nice", "lsession", "lxc", "machine", "numa", "ouid", "seat", "slice", "unit", "uunit",
    "zone",
];

/// The column ps knows by this name.
pub(super) fn column(name: &str) -> Option<Column> {
    let (title, cell) = identity(name).or_else(|| usage(name)).or_else(|| state(name))?;
    Some(Column { title: title.into(), cell })
}

type Cell = fn(&Process, &Host) -> String;

/// Who and what it is.
fn identity(name: &str) -> Option<(&'static str, Cell)> {
    Some(match name {
        "pid" => ("PID", |p, _| p.pid.to_string()),
        "tgid" => ("TGID", |p, _| p.pid.to_string()),
        "lwp" => ("LWP", |p, _| p.tid.to_string()),
        "spid" => ("SPID", |p, _| p.tid.to_string()),
        "tid" => ("TID", |p, _| p.tid.to_string()),
        "ppid" => ("PPID", |p, _| p.stat(Stat::Ppid).to_string()),
        "pgid" | "pgrp" => ("PGID", |p, _| p.stat(Stat::Pgrp).to_string()),
        "sid" => ("SID", |p, _| p.stat(Stat::Session).to_string()),
        "sess" | "session" => ("SESS", |p, _| p.stat(Stat::Session).to_string()),
        "tpgid" => ("TPGID", |p, _| p.stat(Stat::Foreground).to_string()),
        "user" | "uname" => ("USER", |p, h| named(&h.users, p.uids[1])),
        "uid_hack" => ("UID", |p, h| named(&h.users, p.uids[1])),
        "euser" => ("EUSER", |p, h| named(&h.users, p.uids[1])),
        "ruser" => ("RUSER", |p, h| named(&h.users, p.uids[0])),
        "suser" => ("SUSER", |p, h| named(&h.users, p.uids[2])),
        "svuser" => ("SVUSER", |p, h| named(&h.users, p.uids[2])),
        "fuser" => ("FUSER", |p, h| named(&h.users, p.uids[3])),
        "fsuser" => ("FSUSER", |p, h| named(&h.users, p.uids[3])),
        "uid" => ("UID", |p, _| p.uids[1].to_string()),
        "euid" => ("EUID", |p, _| p.uids[1].to_string()),
        "ruid" => ("RUID", |p, _| p.uids[0].to_string()),
        "suid" => ("SUID", |p, _| p.uids[2].to_string()),
        "svuid" => ("SVUID", |p, _| p.uids[2].to_string()),
        "fuid" => ("FUID", |p, _| p.uids[3].to_string()),
        "fsuid" => ("FSUID", |p, _| p.uids[3].to_string()),
        "group" => ("GROUP", |p, h| named(&h.groups, p.gids[1])),
        "egroup" => ("EGROUP", |p, h| named(&h.groups, p.gids[1])),
        "rgroup" => ("RGROUP", |p, h| named(&h.groups, p.gids[0])),
        "sgroup" => ("SGROUP", |p, h| named(&h.groups, p.gids[2])),
        "svgroup" => ("SVGROUP", |p, h| named(&h.groups, p.gids[2])),
        "fgroup" => ("FGROUP", |p, h| named(&h.groups, p.gids[3])),
        "fsgroup" => ("FSGROUP", |p, h| named(&h.groups, p.gids[3])),
        "gid" => ("GID", |p, _| p.gids[1].to_string()),
        "egid" => ("EGID", |p, _| p.gids[1].to_string()),
        "rgid" => ("RGID", |p, _| p.gids[0].to_string()),
        "sgid" => ("SGID", |p, _| p.gids[2].to_string()),
        "svgid" => ("SVGID", |p, _| p.gids[2].to_string()),
        "fgid" => ("FGID", |p, _| p.gids[3].to_string()),
        "fsgid" => ("FSGID", |p, _| p.gids[3].to_string()),
        "supgid" => ("SUPGID", |p, _| or_dash(p.told("Groups").replace(' ', ","))),
        "supgrp" => ("SUPGRP", |p, h| {
            let names = p.told("Groups").split(' ').filter_map(|g| g.parse().ok());
            or_dash(
                names
                    .map(|g| h.groups.get(&g).cloned().unwrap_or(g.to_string()))
                    .collect::<Vec<_>>()
                    .join(","),
            )
        }),
        "luid" => ("LUID", |p, _| or_dash(p.file("loginuid").replace("4294967295", ""))),
        "comm" | "ucomm" => ("COMMAND", |p, _| name_of(p)),
        "ucmd" => ("CMD", |p, _| name_of(p)),
        "fname" => ("COMMAND", |p, _| p.comm.chars().take(8).collect()),
        "args" | "command" => ("COMMAND", |p, _| p.args.clone()),
        "cmd" => ("CMD", |p, _| p.args.clone()),
        "exe" => ("EXE", |p, _| {
            let to = std::fs::read_link(format!("/proc/{}/exe", p.pid));
            to.map_or_else(|_| "-".into(), |to| to.display().to_string())
        }),
        "label" => ("LABEL", |p, _| or_dash(p.file("attr/current").replace('\0', ""))),
        "context" => ("CONTEXT", |p, _| or_dash(p.file("attr/current").replace('\0', ""))),
        "cgroup" => ("CGROUP", |p, _| or_dash(p.file("cgroup").trim_end().replace('\n', ","))),
        "cgname" => ("CGNAME", |p, _| {
            let all = p.file("cgroup");
            or_dash(all.lines().find_map(|l| l.split_once(":name=")).map_or("", |(_, n)| n).to_owned())
        }),
        "cgroupns" => ("CGROUPNS", |p, _| namespace(p, "cgroup")),
        "ipcns" => ("IPCNS", |p, _| namespace(p, "ipc")),
        "mntns" => ("MNTNS", |p, _| namespace(p, "mnt")),
        "netns" => ("NETNS", |p, _| namespace(p, "net")),
        "pidns" => ("PIDNS", |p, _| namespace(p, "pid")),
        "timens" => ("TIMENS", |p, _| namespace(p, "time")),
        "userns" => ("USERNS", |p, _| namespace(p, "user")),
        "utsns" => ("UTSNS", |p, _| namespace(p, "uts")),
        "tname" | "longtname" | "tty4" | "tty8" => ("TTY", |p, _| p.terminal()),
        "tty" | "tt" => ("TT", |p, _| p.terminal()),
        _ => return None,
    })
}

/// What it takes: processors, memory, the disk, and since when.
fn usage(name: &str) -> Option<(&'static str, Cell)> {
    Some(match name {
        "c" | "util" => ("C", |p, h| (p.permille(h) / 10).min(99).to_string()),
        "cp" => ("CP", |p, h| p.permille(h).min(999).to_string()),
        "pcpu" | "%cpu" => ("%CPU", |p, h| tenths(p.permille(h))),
        "cuu" => ("%CUU", |p, h| share(p.cpu_ticks(), p.age_s(h))),
        "cuc" => ("%CUC", |p, h| share(p.cpu_ticks() + children_ticks(p), p.age_s(h))),
        "pmem" | "%mem" => ("%MEM", |p, h| tenths(resident(p, h) * 1000 / h.memory_kib.max(1))),
        "rss" | "rssize" | "sgi_rss" => ("RSS", |p, h| resident(p, h).to_string()),
        "rsz" => ("RSZ", |p, h| resident(p, h).to_string()),
        "vsz" | "vsize" => ("VSZ", |p, _| (p.natural(Stat::Size) / 1024).to_string()),
        "sz" => ("SZ", |p, h| (p.natural(Stat::Size) / 1024 / h.page_kib.max(1)).to_string()),
        "size" => ("SIZE", |p, _| (kib(p.told("VmData")) + kib(p.told("VmStk"))).to_string()),
        "trs" => ("TRS", |p, _| code(p).to_string()),
        "trss" => ("TRSS", |p, _| code(p).to_string()),
        "tsiz" => ("TSIZ", |p, _| code(p).to_string()),
        "drs" => ("DRS", |p, _| (p.natural(Stat::Size) / 1024).saturating_sub(code(p)).to_string()),
        "dsiz" => ("DSIZ", |p, _| (p.natural(Stat::Size) / 1024).saturating_sub(code(p)).to_string()),
        "pss" => ("PSS", |p, _| kib_of(&p.file("smaps_rollup"), &["Pss"]).to_string()),
        "uss" => {
            ("USS", |p, _| kib_of(&p.file("smaps_rollup"), &["Private_Clean", "Private_Dirty"]).to_string())
        }
        "maj_flt" => ("MAJFL", |p, _| p.stat(Stat::MajorFaults).to_string()),
        "majflt" => ("MAJFLT", |p, _| p.stat(Stat::MajorFaults).to_string()),
        "pagein" => ("PAGEIN", |p, _| p.stat(Stat::MajorFaults).to_string()),
        "min_flt" => ("MINFL", |p, _| p.stat(Stat::MinorFaults).to_string()),
        "minflt" => ("MINFLT", |p, _| p.stat(Stat::MinorFaults).to_string()),
        "rchars" => ("RCHARS", |p, _| io(p, "rchar")),
        "wchars" => ("WCHARS", |p, _| io(p, "wchar")),
        "rops" => ("ROPS", |p, _| io(p, "syscr")),
        "wops" => ("WOPS", |p, _| io(p, "syscw")),
        "rbytes" => ("RBYTES", |p, _| io(p, "read_bytes")),
        "wbytes" => ("WBYTES", |p, _| io(p, "write_bytes")),
        "wcbytes" => ("WCBYTES", |p, _| io(p, "cancelled_write_bytes")),
        "stime" => ("STIME", |p, h| since(p.start(h))),
        "start_time" => ("START", |p, h| since(p.start(h))),
        "bsdstart" => ("START", |p, h| day(p.start(h), "%H:%M")),
        "start" => ("STARTED", |p, h| day(p.start(h), "%H:%M:%S")),
        "lstart" => ("STARTED", |p, h| local(p.start(h), "%a %b %e %H:%M:%S %Y")),
        "etime" => ("ELAPSED", |p, h| elapsed(p.age_s(h))),
        "etimes" => ("ELAPSED", |p, h| p.age_s(h).to_string()),
        "time" | "cputime" | "atime" => ("TIME", |p, _| clock(p.cpu_ticks() / HZ)),
        "bsdtime" => ("TIME", |p, _| {
            let s = p.cpu_ticks() / HZ;
            format!("{}:{:02}", s / 60, s % 60)
        }),
        "times" | "cputimes" => ("TIME", |p, _| (p.cpu_ticks() / HZ).to_string()),
        _ => return None,
    })
}

/// How it is doing, and how it is treated.
fn state(name: &str) -> Option<(&'static str, Cell)> {
    Some(match name {
        "stat" => ("STAT", |p, _| p.status()),
        "s" | "state" => ("S", |p, _| p.state.to_string()),
        "f" | "flag" | "flags" => ("F", |p, _| format!("{:o}", (p.natural(Stat::Flags) >> 6) & 7)),
        "ni" | "nice" => ("NI", |p, _| p.stat(Stat::Nice).to_string()),
        "pri" => ("PRI", |p, _| (39 - p.stat(Stat::Priority)).to_string()),
        "priority" => ("PRI", |p, _| p.stat(Stat::Priority).to_string()),
        "opri" | "intpri" => ("PRI", |p, _| (60 + p.stat(Stat::Priority)).to_string()),
        "pri_foo" => ("FOO", |p, _| (p.stat(Stat::Priority) - 20).to_string()),
        "pri_bar" => ("BAR", |p, _| (p.stat(Stat::Priority) + 1).to_string()),
        "pri_baz" => ("BAZ", |p, _| (p.stat(Stat::Priority) + 100).to_string()),
        "pri_api" => ("API", |p, _| (-1 - p.stat(Stat::Priority)).to_string()),
        "rtprio" => ("RTPRIO", |p, _| match p.stat(Stat::RealTimePriority) {
            0 => "-".into(),
            n => n.to_string(),
        }),
        "cls" | "class" => ("CLS", |p, _| class(p)),
        "policy" => ("POL", |p, _| class(p)),
        "sched" => ("SCH", |p, _| p.stat(Stat::Policy).to_string()),
        "psr" => ("PSR", |p, _| p.stat(Stat::Processor).to_string()),
        "cpuid" => ("CPUID", |p, _| p.stat(Stat::Processor).to_string()),
        "lastcpu" => ("C", |p, _| p.stat(Stat::Processor).to_string()),
        "sgi_p" => ("P", |p, _| match p.state {
            'R' => p.stat(Stat::Processor).to_string(),
            _ => "*".into(),
        }),
        "nlwp" => ("NLWP", |p, _| p.stat(Stat::Threads).to_string()),
        "thcount" => ("THCNT", |p, _| p.stat(Stat::Threads).to_string()),
        "oom" => ("OOM", |p, _| p.file("oom_score").trim().to_owned()),
        "oomadj" => ("OOMADJ", |p, _| p.file("oom_score_adj").trim().to_owned()),
        "wchan" | "wname" => ("WCHAN", |p, _| match p.file("wchan").trim() {
            "" | "0" => "-".into(),
            place => place.to_owned(),
        }),
        "blocked" | "sigmask" | "sig_block" => ("BLOCKED", |p, _| p.told("SigBlk").to_owned()),
        "caught" | "sigcatch" => ("CAUGHT", |p, _| p.told("SigCgt").to_owned()),
        "sig_catch" => ("CATCHED", |p, _| p.told("SigCgt").to_owned()),
        "ignored" | "sigignore" | "sig_ignore" => ("IGNORED", |p, _| p.told("SigIgn").to_owned()),
        "pending" | "sig" => ("PENDING", |p, _| p.told("ShdPnd").to_owned()),
        "sig_pend" => ("SIGNAL", |p, _| p.told("ShdPnd").to_owned()),
        "tsig" => ("PENDING", |p, _| p.told("SigPnd").to_owned()),
        "stackp" | "start_stack" => ("STACKP", |p, _| format!("{:016x}", p.natural(Stat::StackStart))),
        "esp" => ("ESP", |p, _| format!("{:016x}", p.natural(Stat::StackPointer))),
        "eip" => ("EIP", |p, _| format!("{:016x}", p.natural(Stat::InstructionPointer))),
        // What procps itself has no more than a place for.
        "tmout" => ("TMOUT", |_, _| "-".into()),
        "alarm" => ("ALARM", |_, _| "-".into()),
        "addr" => ("ADDR", |_, _| "-".into()),
        "lim" => ("LIM", |_, _| "xx".into()),
        _ => return None,
    })
}

fn named(names: &HashMap<u32, String>, id: u32) -> String {
    match names.get(&id) {
        // As wide as ps's column.
        Some(name) if name.chars().count() > 8 => name.chars().take(7).chain(['+']).collect(),
        Some(name) => name.clone(),
        None => id.to_string(),
    }
}

fn name_of(p: &Process) -> String {
    if p.state == 'Z' { format!("{} <defunct>", p.comm) } else { p.comm.clone() }
}

fn or_dash(text: String) -> String {
    match text.trim() {
        "" => "-".into(),
        text => text.to_owned(),
    }
}

/// The number of a namespace, which its link ends with: `net:[4026531840]`.
fn namespace(p: &Process, kind: &str) -> String {
    let to = std::fs::read_link(format!("/proc/{}/ns/{kind}", p.pid)).unwrap_or_default();
    let to = to.to_string_lossy();
    or_dash(to.split_once('[').map_or("", |(_, n)| n.trim_end_matches(']')).to_owned())
}

/// SCHED_OTHER and its like: sched(7).
fn class(p: &Process) -> String {
    match p.stat(Stat::Policy) {
        0 => "TS".into(),
        1 => "FF".into(),
        2 => "RR".into(),
        3 => "B".into(),
        4 => "ISO".into(),
        5 => "IDL".into(),
        6 => "DLN".into(),
        n => format!("#{n}"),
    }
}

fn resident(p: &Process, h: &Host) -> u64 {
    p.natural(Stat::ResidentPages) * h.page_kib
}

fn code(p: &Process) -> u64 {
    p.natural(Stat::CodeEnd).saturating_sub(p.natural(Stat::CodeStart)) / 1024
}

fn children_ticks(p: &Process) -> u64 {
    p.natural(Stat::ChildUserTicks) + p.natural(Stat::ChildSystemTicks)
}

/// The number of `12 kB`.
fn kib(text: &str) -> u64 {
    text.split_whitespace().next().and_then(|n| n.parse().ok()).unwrap_or(0)
}

fn kib_of(text: &str, keys: &[&str]) -> u64 {
    let line = |l: &str| l.split_once(':').filter(|(k, _)| keys.contains(k)).map(|(_, v)| kib(v));
    text.lines().filter_map(line).sum()
}

/// A count of proc_pid_io(5).
fn io(p: &Process, key: &str) -> String {
    let all = p.file("io");
    let line = all.lines().find_map(|l| l.split_once(": ").filter(|(k, _)| *k == key));
    line.map_or("0", |(_, n)| n.trim()).to_owned()
}

fn tenths(n: u64) -> String {
    format!("{}.{}", n / 10, n % 10)
}

/// Percent of a processor with three decimals, as far as the column goes.
fn share(ticks: u64, seconds: u64) -> String {
    let n = (ticks * 100_000 / HZ).checked_div(seconds).unwrap_or(0).min(99_999);
    format!("{}.{:03}", n / 1000, n % 1000)
}

pub(super) fn clock(s: u64) -> String {
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

/// The hour for a day's time, else the day.
fn day(at: i64, format: &str) -> String {
    let now = crate::events::now_ns() / 1_000_000_000;
    local(at, if now - at < 86_400 { format } else { "%b %d" })
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
        let status = "Name:\ta\nUid:\t1000\t0\t0\t0\nGid:\t5\t6\t5\t5\nVmLck:\t       0 kB\nVmData:\t 8 kB\nVmStk:\t 4 kB\nSigBlk:\t0000000000000200\n";
        let p = Process::parse(stat, status.to_owned()).expect("is one");
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
            ("f", "4"),
            ("cuu", "4.000"),
            ("opri", "80"),
            ("cls", "TS"),
            ("sz", "1000"),
            ("blocked", "0000000000000200"),
            ("size", "12"),
        ] {
            assert_eq!(of(name), expected, "{name}");
        }
        assert!(ELSEWHERE.iter().all(|name| column(name).is_none()));
        assert_eq!(clock(90_061), "1-01:01:01");
    }
}
