//! The flags of instructions: `--name`, `--name=value`.

use super::error::{SyntaxError, meant};
use super::lines::Line;

/// One flag as it was written.
#[derive(Clone, Debug)]
pub(super) struct Flag {
    pub(super) name: String,
    pub(super) value: Option<String>,
    pub(super) at: (usize, usize),
}

/// The flags at the beginning (each with where it begins), and the arguments after them.
pub(super) fn cut(text: &str, escape: char) -> (Vec<(usize, String)>, &str) {
    let mut flags = Vec::new();
    let mut rest = text;
    loop {
        rest = rest.trim_start();
        if !rest.starts_with("--") {
            return (flags, rest);
        }
        let (mut word, mut quote, mut end) = (String::new(), None, rest.len());
        let mut chars = rest.char_indices();
        while let Some((at, c)) = chars.next() {
            match (quote, c) {
                (Some(q), c) if c == q => quote = None,
                (None, '"' | '\'') => quote = Some(c),
                (q, c) if c == escape && q != Some('\'') => word.extend(chars.next().map(|(_, c)| c)),
                (None, c) if c.is_whitespace() => {
                    end = at;
                    break;
                }
                (_, c) => word.push(c),
            }
        }
        let began = text.len() - rest.len();
        rest = &rest[end..];
        if word == "--" {
            return (flags, rest.trim_start());
        }
        flags.push((began, word));
    }
}

/// The flags of an instruction, being taken one by one.
pub(super) struct Flags {
    keyword: &'static str,
    known: &'static [&'static str],
    flags: Vec<Flag>,
}

impl Flags {
    /// Reads them, and refuses those that the instruction does not have.
    pub(super) fn read<'a>(
        keyword: &'static str,
        line: &Line,
        rest: &'a str,
        escape: char,
        known: &'static [&'static str],
    ) -> Result<(Self, &'a str), SyntaxError> {
        let (written, arguments) = cut(rest, escape);
        let start = line.text.len() - rest.len();
        let mut flags = Vec::new();
        for (offset, word) in written {
            let at = line.at(start + offset);
            let body = &word[2..];
            let (name, value) = match body.split_once('=') {
                Some((n, v)) => (n.to_owned(), Some(v.to_owned())),
                None => (body.to_owned(), None),
            };
            if !known.contains(&name.as_str()) {
                let hint = meant(&name, known.iter().copied());
                return Err(SyntaxError::new(at, format!("unknown flag: --{name} of {keyword}{hint}")));
            }
            flags.push(Flag { name, value, at });
        }
        Ok((Self { keyword, known, flags }, arguments))
    }

    /// All values of a flag that may be given again.
    pub(super) fn all(&mut self, name: &str) -> Result<Vec<(String, (usize, usize))>, SyntaxError> {
        debug_assert!(self.known.contains(&name));
        let (mine, others) = std::mem::take(&mut self.flags).into_iter().partition(|f| f.name == name);
        self.flags = others;
        let mine: Vec<Flag> = mine;
        mine.into_iter()
            .map(|f| match f.value.filter(|v| !v.is_empty()) {
                Some(v) => Ok((v, f.at)),
                None => Err(SyntaxError::new(f.at, format!("missing a value on flag: --{name}"))),
            })
            .collect()
    }

    /// The value of a flag that is given once at most.
    pub(super) fn one(&mut self, name: &str) -> Result<Option<String>, SyntaxError> {
        let mut all = self.all(name)?;
        if let Some((_, at)) = all.get(1) {
            return Err(SyntaxError::new(*at, format!("duplicate flag specified: --{name}")));
        }
        Ok(all.pop().map(|(v, _)| v))
    }

    /// Whether a flag was given.
    pub(super) fn has(&self, name: &str) -> bool {
        self.flags.iter().any(|f| f.name == name)
    }

    /// Whether a switch is on.
    pub(super) fn switch(&mut self, name: &str) -> Result<bool, SyntaxError> {
        let Some(at) = self.flags.iter().position(|f| f.name == name) else { return Ok(false) };
        let flag = self.flags.remove(at);
        if self.flags.iter().any(|f| f.name == name) {
            return Err(SyntaxError::new(flag.at, format!("duplicate flag specified: --{name}")));
        }
        match flag.value.as_deref() {
            None | Some("true" | "1") => Ok(true),
            Some("false" | "0") => Ok(false),
            Some(v) => {
                let why = format!("expecting boolean value for flag --{name} of {}, not: {v}", self.keyword);
                Err(SyntaxError::new(flag.at, why))
            }
        }
    }
}
