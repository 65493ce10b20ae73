//! Reads the corpus: see the tops of `corpus.txt` and `projects.txt` for its form.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use anyhow::{Context, Result, bail, ensure};
use serde_json::Value;
use skep_e2e::Host;

use crate::image::Image;

/// One Dockerfile and what is to come of it.
#[derive(Debug, Default)]
pub struct Case {
    pub name: String,
    files: Vec<(String, String, u32)>,
    links: Vec<(String, String)>,
    tars: Vec<(String, String)>,
    pub flags: Vec<String>,
    /// What is read of the image; all of it if empty.
    pub look: Vec<String>,
    pub expected: Vec<Expected>,
}

/// One thing that is to be seen.
#[derive(Debug)]
pub enum Expected {
    Config(String, Value),
    File(String, String),
    Stat(String, u32, String),
    Link(String, String),
    Absent(String),
    Says(String),
    Fails(String),
    History(usize, String),
    Layers(usize),
    Tree(String, Vec<String>),
    Runs(Vec<String>, String),
}

/// All cases.
pub fn read(text: &str) -> Result<Vec<Case>> {
    let mut cases: Vec<Case> = Vec::new();
    let mut section: Vec<String> = Vec::new();
    for line in text.lines() {
        if let Some(name) = line.strip_prefix("=== ") {
            cases.push(Case { name: name.to_owned(), ..Case::default() });
            section.clear();
            continue;
        }
        let Some(case) = cases.last_mut() else { continue };
        if let Some(head) = line.strip_prefix("--- ") {
            section = head.split(' ').map(unescape).collect();
            match section[0].as_str() {
                "Dockerfile" => case.files.push(("Dockerfile".into(), String::new(), 0o644)),
                "file" => {
                    let mode = section.get(2).map_or(Ok(0o644), |m| u32::from_str_radix(m, 8))?;
                    case.files.push((section[1].clone(), String::new(), mode));
                }
                "tar" => case.tars.push((section[1].clone(), String::new())),
                "link" => case.links.push((section[1].clone(), section[2].clone())),
                "build" => case.flags = section[1..].to_vec(),
                "look" => case.look = section[1..].to_vec(),
                "expect" => {}
                other => bail!("{}: no such section: {other}", case.name),
            }
            continue;
        }
        match section.first().map(String::as_str) {
            Some("Dockerfile" | "file") => push(&mut case.files.last_mut().context("a file")?.1, line),
            Some("tar") => push(&mut case.tars.last_mut().context("a tar")?.1, line),
            Some("expect") if !line.trim().is_empty() => {
                let expected = expected(line).with_context(|| format!("{}: {line}", case.name))?;
                case.expected.push(expected);
            }
            _ => {}
        }
    }
    for case in &mut cases {
        // The blank line before the next section is none of the file.
        for (_, text, _) in &mut case.files {
            while text.ends_with("\n\n") {
                text.pop();
            }
        }
        ensure!(!case.expected.is_empty(), "{} expects nothing", case.name);
    }
    Ok(cases)
}

fn push(text: &mut String, line: &str) {
    text.push_str(line);
    text.push('\n');
}

/// Blanks in names are written `\x20`.
fn unescape(text: &str) -> String {
    text.replace("\\x20", " ")
}

fn expected(line: &str) -> Result<Expected> {
    let (kind, rest) = line.split_once(' ').context("an argument")?;
    let (first, second) = rest.split_once(' ').unwrap_or((rest, ""));
    Ok(match kind {
        "config" => Expected::Config(first.into(), serde_json::from_str(second)?),
        "file" => Expected::File(unescape(first), serde_json::from_str(second)?),
        "stat" => {
            let (mode, owner) = second.split_once(' ').context("a mode and an owner")?;
            Expected::Stat(unescape(first), u32::from_str_radix(mode, 8)?, owner.into())
        }
        "link" => Expected::Link(unescape(first), second.into()),
        "absent" => Expected::Absent(unescape(first)),
        "says" => Expected::Says(rest.into()),
        "fails" => Expected::Fails(rest.into()),
        "history" => Expected::History(first.parse()?, second.into()),
        "layers" => Expected::Layers(first.parse()?),
        "tree" => Expected::Tree(first.into(), serde_json::from_str(second)?),
        "runs" => {
            let mut values = serde_json::Deserializer::from_str(rest).into_iter::<Value>();
            let mut next =
                || values.next().context("a command and what it says")?.map_err(anyhow::Error::from);
            Expected::Runs(serde_json::from_value(next()?)?, serde_json::from_value(next()?)?)
        }
        other => bail!("nothing is called {other}"),
    })
}

impl Case {
    /// Makes its context.
    pub fn write(&self, dir: &Path) -> Result<()> {
        let place = |name: &str| -> Result<_> {
            let path = dir.join(name);
            fs::create_dir_all(path.parent().context("a parent")?)?;
            Ok(path)
        };
        for (name, text, mode) in &self.files {
            let path = place(name)?;
            fs::write(&path, text)?;
            fs::set_permissions(&path, fs::Permissions::from_mode(*mode))?;
        }
        for (name, to) in &self.links {
            std::os::unix::fs::symlink(to, place(name)?)?;
        }
        for (name, lines) in &self.tars {
            let mut tar = tar::Builder::new(fs::File::create(place(name)?)?);
            for (name, text) in lines.lines().filter_map(|l| l.split_once(' ')) {
                let mut header = tar::Header::new_gnu();
                header.set_mode(0o644);
                header.set_size(text.len() as u64);
                tar.append_data(&mut header, name, text.as_bytes())?;
            }
            tar.finish()?;
        }
        Ok(())
    }
}

impl Expected {
    /// Whether it is so.
    pub fn check(&self, host: &Host, image: Option<&Image>, said: &str, base: usize) -> Result<()> {
        match self {
            Self::Says(words) => ensure!(said.contains(words), "it did not say so"),
            Self::Fails(words) => {
                let last = said.trim_end().lines().rev().take(3).collect::<Vec<_>>().join("\n");
                ensure!(last.contains(words), "its last words are others");
            }
            _ => {
                let image = image.context("there is no image")?;
                match self {
                    Self::Config(key, value) => {
                        let found = &image.config[key.as_str()];
                        let same = found == value || (found.is_null() && is_empty(value));
                        ensure!(same, "it is {found}");
                    }
                    Self::File(path, text) => {
                        let found = image.file(path)?;
                        let content = String::from_utf8_lossy(&found.content);
                        ensure!(content == *text, "it has {content:?}");
                    }
                    Self::Stat(path, mode, owner) => {
                        let found = image.file(path)?;
                        ensure!(
                            (found.mode, &found.owner) == (*mode, owner),
                            "{:o} {}",
                            found.mode,
                            found.owner
                        );
                    }
                    Self::Link(path, to) => {
                        let found = image.file(path)?;
                        ensure!(found.link.as_ref() == Some(to), "it is {:?}", found.link);
                    }
                    Self::Absent(path) => ensure!(image.file(path).is_err(), "it is there"),
                    Self::History(n, words) => {
                        let found = image.history.get(*n).context("there is no such step")?;
                        ensure!(found.starts_with(words.as_str()), "it is {found:?}");
                    }
                    Self::Tree(dir, names) => {
                        let found = image.tree(dir);
                        ensure!(found == *names, "there is {found:?}");
                    }
                    Self::Runs(words, text) => {
                        let mut command = host.docker_command();
                        let output = command.args(["run", "--rm", &image.name]).args(words).output()?;
                        ensure!(String::from_utf8_lossy(&output.stdout) == *text, "{output:?}");
                    }
                    Self::Layers(n) => {
                        let more = image.layers.saturating_sub(base);
                        ensure!(more == *n, "there are {more}");
                    }
                    _ => {}
                }
            }
        }
        Ok(())
    }
}

fn is_empty(value: &Value) -> bool {
    match value {
        Value::Null => true,
        Value::Array(a) => a.is_empty(),
        Value::Object(o) => o.is_empty(),
        _ => false,
    }
}
