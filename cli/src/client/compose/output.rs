//! The coloured lines of containers.

use std::io::{IsTerminal, Write};

use anyhow::Result;

use super::super::output;
use super::Session;
use super::progress::Report;

/// The colours of containers' names, in this order.
const COLOURS: &[&str] = &["36", "33", "32", "35", "34", "36;1", "33;1", "32;1", "35;1", "34;1"];

/// Prints containers' lines, each with its name.
pub struct Printer {
    width: usize,
    colour: bool,
    prefix: bool,
    report: Report,
}

impl Printer {
    /// For containers of these names.
    pub fn new<'a>(
        names: impl Iterator<Item = &'a str>,
        s: &Session<'_>,
        no_colour: bool,
        prefix: bool,
    ) -> Self {
        let ansi = s.ansi;
        let width = names.map(|n| n.chars().count()).max().unwrap_or(0);
        let terminal = std::io::stdout().is_terminal() && std::env::var_os("NO_COLOR").is_none();
        let colour = !no_colour && (ansi == "always" || ansi == "auto" && terminal);
        Self { width, colour, prefix, report: s.report.clone() }
    }

    /// A container's line, without its end; `index` chooses the colour.
    pub fn line(&self, name: &str, index: usize, error: bool, line: &[u8]) -> Result<()> {
        let mut out = Vec::with_capacity(line.len() + 32);
        if self.prefix {
            let text = format!("{name:w$}  | ", w = self.width);
            match self.colour {
                true => write!(out, "\x1b[{}m{text}\x1b[0m", COLOURS[index % COLOURS.len()])?,
                false => out.extend_from_slice(text.as_bytes()),
            }
        }
        out.extend_from_slice(line);
        out.push(b'\n');
        self.report.write(|| match error {
            true => output::bytes(&mut std::io::stderr(), &out),
            false => output::bytes(&mut std::io::stdout(), &out),
        })
    }
}

/// Whole lines out of a stream of pieces.
#[derive(Default)]
pub struct Lines(Vec<u8>);

/// Longest line that is kept together.
const LONGEST: usize = 1 << 20;

impl Lines {
    /// The lines that are whole with this piece.
    pub fn push(&mut self, data: &[u8]) -> Vec<Vec<u8>> {
        let mut out = Vec::new();
        for part in data.split_inclusive(|b| *b == b'\n') {
            self.0.extend_from_slice(part);
            if self.0.ends_with(b"\n") || self.0.len() > LONGEST {
                let mut line = std::mem::take(&mut self.0);
                while line.ends_with(b"\n") || line.ends_with(b"\r") {
                    line.pop();
                }
                out.push(line);
            }
        }
        out
    }

    /// What has no end.
    pub fn rest(&mut self) -> Option<Vec<u8>> {
        (!self.0.is_empty()).then(|| std::mem::take(&mut self.0))
    }
}

/// All that went wrong of several things, as one.
pub fn gathered(outcomes: Vec<Result<()>>) -> Result<()> {
    let errors: Vec<String> =
        outcomes.into_iter().filter_map(Result::err).map(|e| format!("{e:#}")).collect();
    if errors.is_empty() { Ok(()) } else { anyhow::bail!(errors.join("\n")) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_come_whole_however_they_are_cut() {
        let mut lines = Lines::default();
        assert!(lines.push(b"one").is_empty());
        assert_eq!(lines.push(b" more\r\ntwo\nth"), [b"one more".to_vec(), b"two".to_vec()]);
        assert_eq!(lines.rest(), Some(b"th".to_vec()));
        assert_eq!(lines.rest(), None);
    }
}
