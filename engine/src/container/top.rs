//! The processes of a container, in the columns of ps(1).

use super::processes::{Column, Host, Process, column};
use crate::config::ContainerState;
use crate::engine::Engine;
use crate::error::{Error, blocking};

const FULL: [&str; 8] = ["uid", "pid", "ppid", "c", "stime", "tname", "time", "cmd"];
const USER: [&str; 11] =
    ["user", "pid", "%cpu", "%mem", "vsz", "rss", "tname", "stat", "start_time", "bsdtime", "command"];
const PLAIN: [&str; 4] = ["pid", "tname", "time", "comm"];

/// A table of processes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Top {
    /// One a column.
    pub titles: Vec<String>,
    /// One row a process.
    pub processes: Vec<Vec<String>>,
}

impl Engine {
    /// The processes of a container that runs. `ps_args` are arguments as ps(1) takes them; empty is `-ef`.
    pub async fn top(&self, id: &str, ps_args: &str) -> Result<Top, Error> {
        let slot = self.table().find(id)?;
        let columns = columns(ps_args)?;
        match slot.container().state {
            ContainerState::Running | ContainerState::Paused => {}
            ContainerState::Restarting => {
                return Err(Error::Conflict(format!(
                    "Container {} is restarting, wait until the container is running",
                    slot.id
                )));
            }
            _ => return Err(Error::NotRunning { id: slot.id.clone() }),
        }
        let cgroup = self.cgroup(&slot)?;
        let of = slot.clone();
        let top = blocking(move || {
            let mut pids = cgroup
                .all_processes()
                .map_err(|e| Error::Shim { id: slot.id.clone(), reason: format!("read its cgroup: {e}") })?;
            pids.sort_unstable();
            let host = Host::read();
            let row = |p: &Process| columns.iter().map(|c| (c.cell)(p, &host)).collect();
            Ok(Top {
                titles: columns.iter().map(|c| c.title.clone()).collect(),
                processes: pids.into_iter().filter_map(Process::read).map(|p| row(&p)).collect(),
            })
        })
        .await?;
        self.emit(&of, "top", &[]);
        Ok(top)
    }
}

/// What arguments of ps mean for the columns. Which processes are shown is not theirs to say, so options for
/// that change nothing; all others that are not known are refused by name.
fn columns(ps_args: &str) -> Result<Vec<Column>, Error> {
    let bad = |what: &str| Error::Invalid(format!("ps: {what}: give -ef, aux, or -o with names of columns"));
    let mut names: Vec<String> = Vec::new();
    let mut preset: Option<&[&str]> = if ps_args.trim().is_empty() { Some(&FULL) } else { None };
    let mut words = ps_args.split_whitespace();
    while let Some(word) = words.next() {
        if let Some(long) = word.strip_prefix("--") {
            match long.split_once('=') {
                Some(("format", list)) => names.push(list.to_owned()),
                _ => return Err(bad(&format!("option --{long} is not supported"))),
            }
            continue;
        }
        let dashed = word.starts_with('-');
        let letters = word.trim_start_matches('-');
        for (i, letter) in letters.char_indices() {
            match (letter, dashed) {
                ('o', _) => {
                    let rest = &letters[i + 1..];
                    let list = if rest.is_empty() { words.next().unwrap_or_default() } else { rest };
                    if list.is_empty() {
                        return Err(bad("format specification must follow -o"));
                    }
                    names.push(list.to_owned());
                    break;
                }
                ('e' | 'A' | 'a' | 'd' | 'N', true) | ('a' | 'g' | 'w', false) | ('x' | 'w', _) => {}
                ('f', true) => preset = Some(&FULL),
                ('u', _) => preset = Some(&USER),
                _ => return Err(bad(&format!("option {letter:?} of {word:?} is not supported"))),
            }
        }
    }
    let chosen: Vec<&str> = match names.is_empty() {
        true => preset.unwrap_or(&PLAIN).to_vec(),
        false => names.iter().flat_map(|l| l.split(',')).filter(|n| !n.is_empty()).collect(),
    };
    let mut found = Vec::new();
    for name in chosen {
        let (name, title) = name.split_once('=').map_or((name, None), |(n, t)| (n, Some(t)));
        if name == "pid" && title.is_some() {
            return Err(Error::Invalid(format!(
                "specifying \"{name}={}\" is not allowed",
                title.unwrap_or_default()
            )));
        }
        let mut column = column(name).ok_or_else(|| bad(&format!("unknown column {name:?}")))?;
        if let Some(title) = title.filter(|t| !t.is_empty()) {
            column.title = title.to_owned();
        }
        found.push(column);
    }
    // `ps -f` calls the user's name so.
    if names.is_empty() && preset.is_some_and(|p| p == FULL) {
        let user = super::processes::column("user");
        if let (Some(first), Some(user)) = (found.first_mut(), user) {
            first.cell = user.cell;
        }
    }
    if !found.iter().any(|c| c.title == "PID") {
        return Err(Error::Several {
            operation: "top".into(),
            reasons: vec!["Couldn't find PID field in ps output".into()],
        });
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn arguments_of_ps_choose_columns() {
        let titles = |args: &str| {
            columns(args).map(|c| c.iter().map(|c| c.title.clone()).collect::<Vec<_>>().join(" "))
        };
        for (args, expected) in [
            ("", "UID PID PPID C STIME TTY TIME CMD"),
            ("-ef", "UID PID PPID C STIME TTY TIME CMD"),
            ("aux", "USER PID %CPU %MEM VSZ RSS TTY STAT START TIME COMMAND"),
            ("-o pid,comm", "PID COMMAND"),
            ("-eopid,cmd=WHAT", "PID WHAT"),
            ("o pid -o user", "PID USER"),
            ("-e", "PID TTY TIME COMMAND"),
        ] {
            assert_eq!(titles(args).expect(args), expected, "{args}");
        }
        for bad in ["-o comm", "-L", "-o", "-o pid,wchan", "--forest", "-o pid=X"] {
            assert!(columns(bad).is_err(), "{bad}");
        }
    }
}
