//! The arguments of ps(1), in both of their traditions: with a dash they are System V's, without one BSD's.

use super::columns::{Column, ELSEWHERE, column};
use super::layout::{SystemV, bsd};
use super::process::{Host, Process};
use crate::error::Error;

/// What to show of which processes.
pub(in crate::container) struct Asked {
    /// From left to right.
    pub(in crate::container) columns: Vec<Column>,
    /// A row for each thread.
    pub(in crate::container) threads: bool,
    /// Lists of what is shown; none = all.
    selected: Vec<Selected>,
    /// Show what was not selected.
    negated: bool,
    /// By these columns, the first counts most; the flag means downwards.
    sorted: Vec<(Column, bool)>,
}

/// One list, of what any is enough.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum By {
    Pid,
    Parent,
    Session,
    EffectiveUser,
    RealUser,
    RealGroup,
    Command,
    Terminal,
}

struct Selected {
    by: By,
    words: Vec<String>,
}

/// What the arguments say, before it is made columns of.
#[derive(Default)]
struct Parsed {
    named: Vec<String>,
    /// Of `-O`: columns between the ones that such a listing begins and ends with.
    between: Vec<String>,
    system_v: SystemV,
    bsd: Option<char>,
    plain_bsd: bool,
    short_commands: bool,
    threads: bool,
    negated: bool,
    selected: Vec<Selected>,
    sorted: Vec<String>,
}

fn bad(what: impl std::fmt::Display) -> Error {
    Error::Invalid(format!("ps: {what}"))
}

impl Asked {
    /// Empty is `-ef`. Letters that say which processes are shown change nothing, as with Docker: all are the container's.
    /// What ps can and we cannot is refused by its name.
    pub(in crate::container) fn parse(ps_args: &str) -> Result<Self, Error> {
        let ps_args = if ps_args.trim().is_empty() { "-ef" } else { ps_args };
        // `-aux` is meant as BSD's `aux`, where there is no user called x.
        let parsed = Parsed::read(ps_args).or_else(|e| match ps_args.trim().strip_prefix('-') {
            Some(rest) if rest.starts_with("aux") => Parsed::read(rest).map_err(|_| e),
            _ => Err(e),
        })?;
        parsed.finish()
    }

    /// The processes that are shown, in their order.
    pub(in crate::container) fn choose(&self, mut all: Vec<Process>, host: &Host) -> Vec<Process> {
        if !self.selected.is_empty() {
            all.retain(|p| self.selected.iter().any(|s| s.has(p, host)) != self.negated);
        }
        if !self.sorted.is_empty() {
            // Looked up once: what /proc says changes meanwhile.
            let cells = |p: &Process| self.sorted.iter().map(|(c, _)| (c.cell)(p, host)).collect::<Vec<_>>();
            let mut keyed: Vec<_> = all.into_iter().map(|p| (cells(&p), p)).collect();
            keyed.sort_by(|(a, _), (b, _)| {
                let orders = self.sorted.iter().zip(a.iter().zip(b)).map(|((_, down), (a, b))| {
                    let order = compared(a, b);
                    if *down { order.reverse() } else { order }
                });
                orders.fold(std::cmp::Ordering::Equal, std::cmp::Ordering::then)
            });
            all = keyed.into_iter().map(|(_, p)| p).collect();
        }
        all
    }
}

/// Numbers by their size and before all else, which is sorted as text.
fn compared(a: &str, b: &str) -> std::cmp::Ordering {
    match (a.parse::<f64>(), b.parse::<f64>()) {
        (Ok(a), Ok(b)) => a.total_cmp(&b),
        (Ok(_), Err(_)) => std::cmp::Ordering::Less,
        (Err(_), Ok(_)) => std::cmp::Ordering::Greater,
        (Err(_), Err(_)) => a.cmp(b),
    }
}

impl Selected {
    fn has(&self, p: &Process, host: &Host) -> bool {
        let cell = |name: &str| column(name).map(|c| (c.cell)(p, host)).unwrap_or_default();
        let one_of = |names: &[&str]| names.iter().any(|n| self.words.contains(&cell(n)));
        match self.by {
            By::Pid => one_of(&["pid"]),
            By::Parent => one_of(&["ppid"]),
            By::Session => one_of(&["sid"]),
            By::EffectiveUser => one_of(&["euid", "euser"]),
            By::RealUser => one_of(&["ruid", "ruser"]),
            By::RealGroup => one_of(&["rgid", "rgroup"]),
            By::Command => one_of(&["comm"]),
            By::Terminal => one_of(&["tname"]),
        }
    }
}

impl Parsed {
    fn read(ps_args: &str) -> Result<Self, Error> {
        let mut p = Parsed::default();
        let mut words = ps_args.split_whitespace();
        while let Some(word) = words.next() {
            if let Some(long) = word.strip_prefix("--") {
                p.long(long, &mut words)?;
                continue;
            }
            let dashed = word.starts_with('-');
            let letters = word.trim_start_matches('-');
            if !dashed && letters.starts_with(|c: char| c.is_ascii_digit()) {
                p.select(By::Pid, letters);
                continue;
            }
            for (i, letter) in letters.char_indices() {
                if !takes_value(letter, dashed) {
                    p.letter(letter, dashed, word)?;
                    continue;
                }
                let rest = &letters[i + letter.len_utf8()..];
                let value = if rest.is_empty() { words.next().unwrap_or_default() } else { rest };
                if value.is_empty() {
                    return Err(bad(format!("option {letter:?} of {word:?} wants a list")));
                }
                p.valued(letter, dashed, value)?;
                break;
            }
        }
        Ok(p)
    }

    fn letter(&mut self, letter: char, dashed: bool, word: &str) -> Result<(), Error> {
        let v = &mut self.system_v;
        match (letter, dashed) {
            ('e' | 'A' | 'a' | 'd' | 'w', true) | ('a' | 'g' | 'r' | 'T' | 'w' | 'x', false) => {}
            ('N', true) => self.negated = true,
            ('f', true) => v.full = true,
            ('F', true) => v.extra = true,
            ('l', true) => v.long = true,
            ('y', true) => v.no_flags = true,
            ('j', true) => v.jobs = true,
            ('c', true) => v.classes = true,
            ('M', true) | ('Z', _) => v.label = true,
            ('L', true) => (v.lwp, self.threads) = (true, true),
            ('T', true) => (v.spid, self.threads) = (true, true),
            ('H', false) => self.threads = true,
            ('c', false) => self.short_commands = true,
            ('u' | 'v' | 'l' | 'j' | 's' | 'X', false) if self.bsd.is_some_and(|b| b != letter) => {
                return Err(bad("conflicting format options"));
            }
            ('u' | 'v' | 'l' | 'j' | 's' | 'X', false) => self.bsd = Some(letter),
            _ => return Err(bad(format!("option {letter:?} of {word:?} is not supported"))),
        }
        self.plain_bsd |= !dashed;
        Ok(())
    }

    fn valued(&mut self, letter: char, dashed: bool, value: &str) -> Result<(), Error> {
        match (letter, dashed) {
            ('o', _) => self.named.push(value.to_owned()),
            ('O', _) => self.between.push(value.to_owned()),
            ('k', false) => self.sorted.push(value.to_owned()),
            ('p', _) => self.select(By::Pid, value),
            ('u', true) | ('U', false) => self.select_users(By::EffectiveUser, value)?,
            ('U', true) => self.select_users(By::RealUser, value)?,
            ('G', true) => self.select(By::RealGroup, value),
            ('C', true) => self.select(By::Command, value),
            ('t', _) => self.select(By::Terminal, value),
            _ => self.select(By::Session, value),
        }
        Ok(())
    }

    fn long<'a>(&mut self, long: &'a str, words: &mut impl Iterator<Item = &'a str>) -> Result<(), Error> {
        let (name, value) = long.split_once('=').map_or((long, None), |(n, v)| (n, Some(v)));
        match name {
            "deselect" => {
                self.negated = true;
                return Ok(());
            }
            "context" => {
                self.system_v.label = true;
                return Ok(());
            }
            _ => {}
        }
        let by = match name {
            "format" | "sort" => None,
            "pid" => Some(By::Pid),
            "ppid" => Some(By::Parent),
            "sid" => Some(By::Session),
            "user" => Some(By::EffectiveUser),
            "User" => Some(By::RealUser),
            "Group" => Some(By::RealGroup),
            "tty" => Some(By::Terminal),
            _ => return Err(bad(format!("option --{name} is not supported"))),
        };
        let value = value.or_else(|| words.next()).filter(|v| !v.is_empty());
        let value = value.ok_or_else(|| bad(format!("option --{name} wants a list")))?;
        match (by, name) {
            (Some(by @ (By::EffectiveUser | By::RealUser)), _) => self.select_users(by, value)?,
            (Some(by), _) => self.select(by, value),
            (None, "sort") => self.sorted.push(value.to_owned()),
            (None, _) => self.named.push(value.to_owned()),
        }
        Ok(())
    }

    fn select_users(&mut self, by: By, list: &str) -> Result<(), Error> {
        let users = std::fs::read_to_string("/etc/passwd").unwrap_or_default();
        let known = |name: &str| users.lines().any(|l| l.split(':').next() == Some(name));
        if list.split(',').any(|w| w.parse::<u32>().is_err() && !known(w)) {
            return Err(bad("error: user name does not exist"));
        }
        self.select(by, list);
        Ok(())
    }

    fn select(&mut self, by: By, list: &str) {
        let words =
            list.split(',').filter(|w| !w.is_empty()).map(|w| w.trim_start_matches("/dev/").to_owned());
        self.selected.push(Selected { by, words: words.collect() });
    }

    fn finish(self) -> Result<Asked, Error> {
        let v = self.system_v;
        let lists = SystemV { lwp: false, spid: false, label: false, ..v } != SystemV::default();
        let formats = [!self.named.is_empty(), !self.between.is_empty(), self.bsd.is_some(), lists];
        if formats.iter().filter(|f| **f).count() > 1 {
            return Err(bad("conflicting format options"));
        }
        if v.no_flags && !v.long {
            return Err(bad("modifier -y without format -l makes no sense"));
        }
        let names: Vec<String> = if !self.named.is_empty() {
            split(&self.named)
        } else if !self.between.is_empty() {
            let ends = |names: &[&str]| names.iter().map(|n| (*n).to_owned()).collect::<Vec<_>>();
            [ends(&["pid"]), split(&self.between), ends(&["state", "tname", "time", "command"])].concat()
        } else {
            let bsd_only = self.bsd.is_some() || (self.plain_bsd && !lists);
            let label: &[&str] = if v.label { &["label"] } else { &[] };
            let names = if bsd_only { [label, bsd(self.bsd)].concat() } else { v.columns() };
            names.into_iter().map(str::to_owned).collect()
        };
        let mut columns = Vec::new();
        for name in &names {
            let (name, title) = name.split_once('=').map_or((name.as_str(), None), |(n, t)| (n, Some(t)));
            if let Some(title) = title.filter(|t| name != "pid" && t.starts_with("PID")) {
                return Err(Error::Missing(format!("specifying \"{name}={title}\" is not allowed")));
            }
            let mut column = known(name)?;
            if self.short_commands && matches!(name, "args" | "command" | "cmd") {
                column.cell = known("comm")?.cell;
            }
            if let Some(title) = title.filter(|t| !t.is_empty()) {
                title.clone_into(&mut column.title);
            }
            columns.push(column);
        }
        let mut sorted = Vec::new();
        for key in split(&self.sorted) {
            let (name, down) = match key.strip_prefix('-') {
                Some(name) => (name, true),
                None => (key.strip_prefix('+').unwrap_or(&key), false),
            };
            sorted.push((known(name)?, down));
        }
        if !columns.iter().any(|c| c.title == "PID") {
            return Err(Error::Missing("Couldn't find PID field in ps output".into()));
        }
        let Parsed { threads, negated, selected, .. } = self;
        Ok(Asked { columns, threads, selected, negated, sorted })
    }
}

/// The words of lists, parted by commas.
fn split(lists: &[String]) -> Vec<String> {
    lists.iter().flat_map(|l| l.split(',')).filter(|n| !n.is_empty()).map(str::to_owned).collect()
}

fn takes_value(letter: char, dashed: bool) -> bool {
    match dashed {
        true => "oOpuUgGCts".contains(letter),
        false => "oOkpUt".contains(letter),
    }
}

/// A column, with or without the width it is to have, which our table does not need.
fn known(name: &str) -> Result<Column, Error> {
    let bare = name.split_once(':').filter(|(_, w)| w.parse::<u16>().is_ok()).map_or(name, |(n, _)| n);
    column(bare).ok_or_else(|| match ELSEWHERE.contains(&bare) {
        true => bad(format!("column {bare:?} is not supported: /proc does not have it")),
        false => bad(format!("error: unknown user-defined format specifier \"{bare}\"")),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// As procps 4.0.2 prints them.
    #[test]
    fn arguments_choose_columns() {
        let titles = |args: &str| {
            Asked::parse(args)
                .map(|a| a.columns.iter().map(|c| c.title.clone()).collect::<Vec<_>>().join(" "))
        };
        for (args, expected) in [
            ("", "UID PID PPID C STIME TTY TIME CMD"),
            ("-ef", "UID PID PPID C STIME TTY TIME CMD"),
            ("-F", "UID PID PPID C SZ RSS PSR STIME TTY TIME CMD"),
            ("-l", "F S UID PID PPID C PRI NI ADDR SZ WCHAN TTY TIME CMD"),
            ("-ly", "S UID PID PPID C PRI NI RSS SZ WCHAN TTY TIME CMD"),
            ("-Fl", "F S UID PID PPID C PRI NI ADDR SZ WCHAN RSS PSR STIME TTY TIME CMD"),
            ("-j", "PID PGID SID TTY TIME CMD"),
            ("-jf", "UID PID PPID PGID SID C STIME TTY TIME CMD"),
            ("-j -l", "F S UID PID PPID PGID SID C PRI NI ADDR SZ WCHAN TTY TIME CMD"),
            ("-c", "PID CLS PRI TTY TIME CMD"),
            ("-lc", "F S UID PID PPID CLS PRI ADDR SZ WCHAN TTY TIME CMD"),
            ("-M", "LABEL PID TTY TIME CMD"),
            ("-eLf", "UID PID PPID LWP C NLWP STIME TTY TIME CMD"),
            ("-L", "PID LWP TTY TIME CMD"),
            ("-lT", "F S UID PID SPID PPID C PRI NI ADDR SZ WCHAN TTY TIME CMD"),
            ("-e", "PID TTY TIME CMD"),
            ("aux", "USER PID %CPU %MEM VSZ RSS TTY STAT START TIME COMMAND"),
            ("-aux", "USER PID %CPU %MEM VSZ RSS TTY STAT START TIME COMMAND"),
            ("ax", "PID TTY STAT TIME COMMAND"),
            ("axl", "F UID PID PPID PRI NI VSZ RSS WCHAN STAT TTY TIME COMMAND"),
            ("v", "PID TTY STAT TIME MAJFL TRS DRS RSS %MEM COMMAND"),
            ("j", "PPID PID PGID SID TTY TPGID STAT UID TIME COMMAND"),
            ("s", "UID PID PENDING BLOCKED IGNORED CAUGHT STAT TTY TIME COMMAND"),
            ("X", "PID STACKP ESP EIP TMOUT ALARM STAT TTY TIME COMMAND"),
            ("Z", "LABEL PID TTY STAT TIME COMMAND"),
            ("-o pid,comm", "PID COMMAND"),
            ("-eopid,cmd=WHAT", "PID WHAT"),
            ("axo pid,user,args", "PID USER COMMAND"),
            ("o pid -o user", "PID USER"),
            ("-o pid:10,comm:20", "PID COMMAND"),
            ("-O comm", "PID COMMAND S TTY TIME COMMAND"),
            ("-u root -o pid --sort=-rss,comm", "PID"),
        ] {
            assert_eq!(titles(args).expect(args), expected, "{args}");
        }
        for (args, why) in [
            ("-o comm", "Couldn't find PID field in ps output"),
            ("-o pid=X", "Couldn't find PID field in ps output"),
            ("-o pid,comm=PID", "specifying \"comm=PID\" is not allowed"),
            ("-o", "wants a list"),
            ("-o pid,nope", "unknown user-defined format specifier \"nope\""),
            ("-o pid,zone", "\"zone\" is not supported"),
            ("--forest", "--forest is not supported"),
            ("-H", "'H' of \"-H\" is not supported"),
            ("-f u", "conflicting format options"),
            ("lj", "conflicting format options"),
            ("-y", "modifier -y without format -l"),
        ] {
            let said = titles(args).expect_err(args).to_string();
            assert!(said.contains(why), "{args}: {said}");
        }
    }

    #[test]
    fn lists_select_and_keys_sort() {
        let process = |pid: u32, comm: &str, ppid: u32| {
            let status = "Uid:\t0\t7\t0\t0\nGid:\t1\t1\t1\t1\n".to_owned();
            Process::parse(&format!("{pid} ({comm}) S {ppid} 1 1 0"), status).expect("is one")
        };
        let all = || vec![process(9, "b", 1), process(10, "a", 9), process(11, "b", 9)];
        let shown = |args: &str| {
            let chosen = Asked::parse(args).expect(args).choose(all(), &Host::read());
            chosen.iter().map(|p| p.pid).collect::<Vec<_>>()
        };
        for (args, expected) in [
            ("-ef", &[9, 10, 11][..]),
            ("-p 9,11 -f", &[9, 11]),
            ("-f --ppid 9", &[10, 11]),
            ("-f -C b", &[9, 11]),
            ("-f -C b -N", &[10]),
            ("-f -C a -p 9", &[9, 10]),
            ("-f -u 7", &[9, 10, 11]),
            ("-f -U 7", &[]),
            ("-f --sort=-pid", &[11, 10, 9]),
            ("-o pid,comm --sort=comm,-pid", &[10, 11, 9]),
            ("ax k -pid", &[11, 10, 9]),
        ] {
            assert_eq!(shown(args), expected, "{args}");
        }
    }
}
