//! The columns that ps shows when nobody names any: those that the letters of its two traditions stand for.

/// The letters of System V that add columns.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct SystemV {
    /// `-f`
    pub(super) full: bool,
    /// `-F`
    pub(super) extra: bool,
    /// `-l`
    pub(super) long: bool,
    /// `-y`
    pub(super) no_flags: bool,
    /// `-j`
    pub(super) jobs: bool,
    /// `-c`
    pub(super) classes: bool,
    /// `-M`, and `Z` of BSD
    pub(super) label: bool,
    /// `-L`
    pub(super) lwp: bool,
    /// `-T`
    pub(super) spid: bool,
}

impl SystemV {
    pub(super) fn columns(self) -> Vec<&'static str> {
        let full = self.full || self.extra;
        [
            ("label", self.label),
            ("f", self.long && !self.no_flags),
            ("s", self.long),
            ("uid_hack", full),
            ("uid", self.long && !full),
            ("pid", true),
            ("spid", self.spid),
            ("ppid", full || self.long),
            ("pgid", self.jobs),
            ("sid", self.jobs),
            ("lwp", self.lwp),
            ("c", (full || self.long) && !self.classes),
            ("nlwp", self.lwp && full),
            ("cls", self.classes),
            ("pri", self.classes),
            ("opri", self.long && !self.classes),
            ("ni", self.long && !self.classes),
            ("addr", self.long && !self.no_flags),
            ("rss", self.long && self.no_flags),
            ("sz", self.long || self.extra),
            ("wchan", self.long),
            ("rss", self.extra && !self.no_flags),
            ("psr", self.extra),
            ("stime", full),
            ("tname", true),
            ("time", true),
            (if full { "cmd" } else { "ucmd" }, true),
        ]
        .into_iter()
        .filter_map(|(name, there)| there.then_some(name))
        .collect()
    }
}

/// The columns of a format of BSD; of none, those of its plain listing.
pub(super) fn bsd(letter: Option<char>) -> &'static [&'static str] {
    match letter {
        Some('u') => &[
            "user",
            "pid",
            "%cpu",
            "%mem",
            "vsz",
            "rss",
            "tname",
            "stat",
            "start_time",
            "bsdtime",
            "command",
        ],
        Some('v') => &["pid", "tname", "stat", "bsdtime", "maj_flt", "trs", "drs", "rss", "%mem", "command"],
        Some('l') => &[
            "f", "uid", "pid", "ppid", "priority", "ni", "vsz", "rss", "wchan", "stat", "tname", "bsdtime",
            "command",
        ],
        Some('j') => &["ppid", "pid", "pgid", "sid", "tname", "tpgid", "stat", "uid", "bsdtime", "command"],
        Some('s') => {
            &["uid", "pid", "pending", "blocked", "ignored", "caught", "stat", "tname", "bsdtime", "command"]
        }
        Some('X') => {
            &["pid", "stackp", "esp", "eip", "tmout", "alarm", "stat", "tname", "bsdtime", "command"]
        }
        _ => &["pid", "tname", "stat", "bsdtime", "command"],
    }
}
