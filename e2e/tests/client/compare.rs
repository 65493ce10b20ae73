//! Both clients, command by command: what they print, and what they end with.

use std::time::Instant;

use anyhow::{Result, ensure};
use skep_e2e::Host;
use skep_e2e::swarm::LONG;

use crate::{Outcome, docker, skep};

/// Compares many commands; tells of all that differ.
pub struct Compare<'a> {
    host: &'a Host,
    differences: Vec<String>,
}

impl<'a> Compare<'a> {
    pub fn new(host: &'a Host) -> Self {
        Self { host, differences: Vec::new() }
    }

    /// A command that changes nothing. Docker's runs before and after ours, since what is shown ages: what Docker's itself
    /// shows otherwise by then may have been a third thing meanwhile, and is looked at again.
    pub fn same(&mut self, line: &str) -> Result<()> {
        let args = words(line);
        let begun = Instant::now();
        loop {
            let (mut before, mut ours, mut after) =
                (docker(self.host, &args)?, skep(self.host, &args)?, docker(self.host, &args)?);
            if ["images", "image ls", "service logs"].iter().any(|c| line.starts_with(c)) {
                // An image's names come out of a Go map, tasks' lines as their readers answer: in any order.
                [&mut before, &mut ours, &mut after].into_iter().for_each(sort);
            }
            if ours == before || ours == after || between(&ours, &before, &after) {
                return Ok(());
            }
            if before == after || begun.elapsed() > LONG {
                self.differences.push(format!("{line}\n  docker: {before:?}\n  skep:   {ours:?}"));
                return Ok(());
            }
        }
    }

    /// The same of a JSON document: Docker's client makes it anew of the fields it knows and leaves empty ones out.
    pub fn same_json(&mut self, line: &str) -> Result<()> {
        let args = words(line);
        let (theirs, ours) = (docker(self.host, &args)?, skep(self.host, &args)?);
        let read = |o: &Outcome| serde_json::from_str::<serde_json::Value>(&o.stdout);
        if !holds(&read(&ours)?, &read(&theirs)?) || theirs.code != ours.code {
            self.differences.push(format!("{line}\n  docker: {theirs:?}\n  skep:   {ours:?}"));
        }
        Ok(())
    }

    /// Refused by both with the same exit code, where Docker's words are Go's or say less than ours.
    pub fn same_code(&mut self, line: &str) -> Result<()> {
        let args = words(line);
        let (theirs, ours) = (docker(self.host, &args)?, skep(self.host, &args)?);
        if theirs.code != ours.code
            || theirs.stdout.is_empty() != ours.stdout.is_empty()
            || ours.stderr.is_empty()
        {
            self.differences.push(format!("{line}\n  docker: {theirs:?}\n  skep:   {ours:?}"));
        }
        Ok(())
    }

    /// A command that changes something: Docker's runs on `a`, ours on `b`, wherever the line says `@`.
    pub fn alike(&mut self, line: &str) -> Result<()> {
        let (theirs, ours) = (line.replace('@', "a"), line.replace('@', "b"));
        let theirs_out = docker(self.host, &words(&theirs))?;
        let mut ours_out = skep(self.host, &words(&ours))?;
        for text in [&mut ours_out.stdout, &mut ours_out.stderr] {
            *text = text.replace("x-b", "x-a");
        }
        if theirs_out.code != ours_out.code
            || ids(&theirs_out.stdout) != ids(&ours_out.stdout)
            || ids(&theirs_out.stderr) != ids(&ours_out.stderr)
        {
            self.differences.push(format!("{line}\n  docker: {theirs_out:?}\n  skep:   {ours_out:?}"));
        }
        Ok(())
    }

    pub fn end(self) -> Result<()> {
        ensure!(
            self.differences.is_empty(),
            "{} commands differ:\n{}",
            self.differences.len(),
            self.differences.join("\n")
        );
        Ok(())
    }
}

fn sort(outcome: &mut Outcome) {
    let mut lines: Vec<&str> = outcome.stdout.lines().collect();
    lines.sort_unstable();
    outcome.stdout = lines.join("\n");
}

/// Whether each cell of a table is as before or as after: its rows age one by one, and with them the columns' widths.
fn between(ours: &Outcome, before: &Outcome, after: &Outcome) -> bool {
    let cells = |text: &str| -> Vec<Vec<String>> {
        let row =
            |line: &str| line.split("  ").map(|c| c.trim().to_owned()).filter(|c| !c.is_empty()).collect();
        text.lines().map(row).collect()
    };
    let (o, b, a) = (cells(&ours.stdout), cells(&before.stdout), cells(&after.stdout));
    let fits = |(i, row): (usize, &Vec<String>)| {
        row.len() == b[i].len()
            && row.len() == a[i].len()
            && row.iter().enumerate().all(|(j, cell)| *cell == b[i][j] || *cell == a[i][j])
    };
    [before, after].iter().all(|t| t.code == ours.code && t.stderr == ours.stderr)
        && o.len() == b.len()
        && o.len() == a.len()
        && o.iter().enumerate().all(fits)
}

/// Whether a document holds all that another says. What is empty says nothing.
fn holds(ours: &serde_json::Value, theirs: &serde_json::Value) -> bool {
    use serde_json::Value;
    match (ours, theirs) {
        (_, Value::Null | Value::Bool(false)) => true,
        (_, Value::String(s)) if s.is_empty() => true,
        (_, Value::Number(n)) if n.as_f64() == Some(0.0) => true,
        (_, Value::Array(a)) if a.is_empty() => true,
        (Value::Object(o), Value::Object(t)) => {
            t.iter().all(|(k, v)| holds(o.get(k).unwrap_or(&Value::Null), v))
        }
        (Value::Null, Value::Object(t)) => t.values().all(|v| holds(&Value::Null, v)),
        (Value::Array(o), Value::Array(t)) => o.len() == t.len() && o.iter().zip(t).all(|(o, t)| holds(o, t)),
        (ours, theirs) => ours == theirs,
    }
}

/// Words of a line; what stands between single quotes is one.
fn words(line: &str) -> Vec<&str> {
    line.split('\'')
        .enumerate()
        .flat_map(|(i, part)| if i % 2 == 1 { vec![part] } else { part.split_whitespace().collect() })
        .collect()
}

/// A text with IDs, which differ by nature, made alike: long hexadecimal ones and base-36 ones. Now and then one has no
/// digit, and is known by its length.
fn ids(text: &str) -> String {
    let id = |w: &str| {
        let digit = w.chars().any(|c| c.is_ascii_digit());
        let hexadecimal = w.chars().all(|c| c.is_ascii_hexdigit());
        w.len() >= 12
            && w.chars().all(|c| c.is_ascii_digit() || c.is_ascii_lowercase())
            && (digit || hexadecimal || w.len() == 25)
    };
    text.split_inclusive(|c: char| !c.is_ascii_alphanumeric())
        .map(|w| {
            let bare = w.trim_end_matches(|c: char| !c.is_ascii_alphanumeric());
            if id(bare) { w.replace(bare, "ID") } else { w.to_owned() }
        })
        .collect()
}
