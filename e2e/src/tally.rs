//! Counts what was driven and was right, of all that there is: commands and flags of the `docker` client.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::{Context, Result, bail, ensure};

use crate::Host;

/// What is found out about one host.
pub struct Tally<'a> {
    /// The host.
    pub host: &'a Host,
    right: BTreeSet<String>,
    wrong: BTreeMap<String, String>,
}

/// What came of a tally.
pub struct Outcome {
    /// `N/M` and what is not right.
    pub count: String,
    /// What is wrong, and not known to be.
    pub unexpected: Vec<String>,
}

impl<'a> Tally<'a> {
    /// Nothing yet.
    pub fn new(host: &'a Host) -> Self {
        Self { host, right: BTreeSet::new(), wrong: BTreeMap::new() }
    }

    /// Drives something. What is driven twice is right only if it is right both times.
    pub fn drive(&mut self, name: &str, check: impl FnOnce(&Host) -> Result<()>) {
        match check(self.host) {
            Ok(()) => drop(self.right.insert(name.to_owned())),
            Err(e) => drop(self.wrong.insert(name.to_owned(), format!("{e:#}"))),
        }
    }

    /// Holds what was driven against all there is, and what is wrong against what is known to be.
    pub fn end(&mut self, of: &str, all: &str, not_yet: &[(&str, &str)]) -> Outcome {
        let all = names(all);
        self.right.retain(|name| !self.wrong.contains_key(name));
        let mut unexpected = Vec::new();
        for name in self.right.iter().chain(self.wrong.keys()).filter(|n| !all.contains(*n)) {
            unexpected.push(format!("{name} is not in the list of {of}"));
        }
        let mut count = format!("{of} driven and right: {}/{}", self.right.len(), all.len());
        for name in all.iter().filter(|n| !self.right.contains(*n)) {
            let why = self.wrong.get(name).map_or("it is not driven", String::as_str);
            match not_yet.iter().find(|(known, _)| known == name) {
                Some((_, reason)) => count.push_str(&format!("\n  not yet: {name}: {reason}")),
                None => unexpected.push(format!("{name}: {why}")),
            }
        }
        for (name, _) in not_yet.iter().filter(|(name, _)| self.right.contains(*name)) {
            count.push_str(&format!("\n  {name} is right: take it out of what is not yet"));
        }
        Outcome { count, unexpected }
    }
}

/// `group: a b` read as `group a`, `group b`; of the group `-`, and without a group, the names themselves.
fn names(text: &str) -> BTreeSet<String> {
    let mut group = String::new();
    let mut names = BTreeSet::new();
    for word in text.split_whitespace() {
        match word.strip_suffix(':') {
            Some("-") => group.clear(),
            Some(name) => group = format!("{name} "),
            None => drop(names.insert(format!("{group}{word}"))),
        }
    }
    names
}

/// Words of a line; what stands between single quotes is one.
pub fn words(line: &str) -> Vec<String> {
    line.split('\'')
        .enumerate()
        .flat_map(|(i, part)| {
            if i % 2 == 1 {
                vec![part.to_owned()]
            } else {
                part.split_whitespace().map(str::to_owned).collect()
            }
        })
        .collect()
}

/// Runs the client with the words of a line.
pub fn docker(host: &Host, line: &str) -> Result<String> {
    let client = host.docker_command();
    // What hangs is one failure, not the end of all.
    let mut command = std::process::Command::new("timeout");
    command.args(["-k", "5", "120"]).arg(client.get_program());
    command.envs(client.get_envs().filter_map(|(k, v)| Some((k, v?))));
    let output = command.args(words(line)).stdin(std::process::Stdio::null()).output()?;
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    if !output.status.success() {
        let said = format!("{}{}", text(&output.stdout), text(&output.stderr));
        bail!("`docker {line}` ended with {}: {said}", output.status);
    }
    Ok(text(&output.stdout))
}

/// Runs it and expects these words in what it prints.
pub fn says(host: &Host, line: &str, expected: &str) -> Result<()> {
    let said = docker(host, line)?;
    ensure!(said.contains(expected), "`docker {line}` printed {said:?}, without {expected:?}");
    Ok(())
}

/// Runs it and expects exactly this, but for blanks at the ends.
pub fn prints(host: &Host, line: &str, expected: &str) -> Result<()> {
    let said = docker(host, line)?;
    ensure!(said.trim() == expected, "`docker {line}` printed {said:?}, not {expected:?}");
    Ok(())
}

/// Runs it and expects it to fail with these words, whatever their case.
pub fn refuses(host: &Host, line: &str, expected: &str) -> Result<()> {
    match docker(host, line) {
        Ok(said) => bail!("`docker {line}` succeeded: {said}"),
        Err(e) => {
            let said = format!("{e:#}");
            let (_, answer) = said.split_once("ended with").context("an exit status")?;
            ensure!(answer.to_lowercase().contains(expected), "{said}: no word of {expected:?}");
            Ok(())
        }
    }
}
