//! Files of variables as `docker compose` reads them (`.env`, `--env-file`, `env_file`): quotes, comments, several lines
//! within quotes, and variables within values.
//! <https://docs.docker.com/compose/how-tos/environment-variables/variable-interpolation/#env-file-syntax>

use std::path::Path;

use super::interpolate::{Bad, Variables, expand};
use super::node::{At, Problem};

/// Bytes of all values of a file, at most: each may repeat those before it.
const MOST: usize = 4 << 20;

/// A variable, where it is given, and its value; none if it is to come from outside.
pub type Entry = (String, At, Option<String>);

/// A file's variables; those without a value have that of `outer`, or are left out. `named_at` is who names the file.
pub fn file(path: &Path, named_at: &At, outer: &Variables) -> Result<Variables, Problem> {
    let name = path.display().to_string();
    let text =
        std::fs::read_to_string(path).map_err(|e| Problem::new(named_at, format!("open {name}: {e}")))?;
    let held = |(key, _, value): Entry| value.or_else(|| outer.get(&key).cloned()).map(|v| (key, v));
    Ok(parse(&name, &text, outer)?.into_iter().filter_map(held).collect())
}

/// Reads a text; variables within values are those of `outer`, then those of the lines before.
pub fn parse(file: &str, text: &str, outer: &Variables) -> Result<Vec<Entry>, Problem> {
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    let mut reader = Reader { file: file.into(), rest: text, line: 1 };
    let (mut known, mut out, mut room) = (outer.clone(), Vec::new(), MOST);
    while let Some(at) = reader.next_line() {
        let name = reader.name(&at)?;
        let Some(raw) = reader.value(&at)? else {
            out.push((name, at, None));
            continue;
        };
        let value = match raw {
            Raw::Plain(text) => text,
            Raw::Variables(text) => expand(&text, &known, 0, &mut Vec::new()).map_err(|e| {
                let what = match e {
                    Bad::Missing(missing, why) => {
                        format!("{name}: required variable {missing} is missing a value: {why}")
                    }
                    Bad::Format | Bad::TooLong => format!("{name}: invalid variable in {text:?}"),
                };
                Problem::new(&at, what)
            })?,
        };
        room = room
            .checked_sub(value.len())
            .ok_or_else(|| Problem::new(&at, format!("the values come to more than {MOST} bytes")))?;
        // What is set outside wins where a value asks for it.
        if !outer.contains_key(&name) {
            known.insert(name.clone(), value.clone());
        }
        out.push((name, at, Some(value)));
    }
    Ok(out)
}

enum Raw {
    Plain(String),
    /// Variables are to be put in.
    Variables(String),
}

struct Reader<'a> {
    file: std::sync::Arc<str>,
    rest: &'a str,
    line: usize,
}

impl<'a> Reader<'a> {
    /// Goes to the next line that says something; where it begins.
    fn next_line(&mut self) -> Option<At> {
        loop {
            let trimmed = self.rest.trim_start_matches([' ', '\t', '\r']);
            if let Some(rest) = trimmed.strip_prefix('\n') {
                self.rest = rest;
                self.line += 1;
            } else if trimmed.starts_with('#') {
                self.rest = &trimmed[trimmed.find('\n').unwrap_or(trimmed.len())..];
            } else if trimmed.is_empty() {
                return None;
            } else {
                let column = self.rest.len() - trimmed.len() + 1;
                self.rest = trimmed;
                return Some(At { file: self.file.clone(), line: self.line, column });
            }
        }
    }

    /// `[export] NAME`.
    fn name(&mut self, at: &At) -> Result<String, Problem> {
        if let Some(rest) = self.rest.strip_prefix("export")
            && rest.starts_with([' ', '\t'])
        {
            self.rest = rest.trim_start_matches([' ', '\t']);
        }
        let end = self.rest.find(['=', ':', '\n']).unwrap_or(self.rest.len());
        let name = self.rest[..end].trim_end();
        let good = |c: char| c.is_alphanumeric() || "_.-[]".contains(c);
        if name.is_empty() || !name.chars().all(good) {
            return Err(Problem::new(at, format!("want NAME=VALUE; {name:?} cannot be a variable's name")));
        }
        self.rest = &self.rest[end..];
        Ok(name.to_owned())
    }

    /// What follows the name; none if nothing does.
    fn value(&mut self, at: &At) -> Result<Option<Raw>, Problem> {
        let Some(rest) = self.rest.strip_prefix(['=', ':']) else { return Ok(None) };
        self.rest = rest.trim_start_matches([' ', '\t']);
        match self.rest.chars().next() {
            Some(quote @ ('\'' | '"')) => self.quoted(at, quote).map(Some),
            _ => {
                let line = &self.rest[..self.rest.find('\n').unwrap_or(self.rest.len())];
                self.rest = &self.rest[line.len()..];
                let end = match line.find(" #").or_else(|| line.find("\t#")) {
                    Some(at) => at,
                    None if line.starts_with('#') => 0,
                    None => line.len(),
                };
                Ok(Some(Raw::Variables(line[..end].trim_end().to_owned())))
            }
        }
    }

    fn quoted(&mut self, at: &At, quote: char) -> Result<Raw, Problem> {
        let inner = &self.rest[1..];
        let (mut out, mut escaped) = (String::new(), false);
        for (i, c) in inner.char_indices() {
            if escaped {
                escaped = false;
                match (quote, c) {
                    ('\'', '\'') => out.push('\''),
                    ('\'', c) => out.extend(['\\', c]),
                    (_, 'n') => out.push('\n'),
                    (_, 'r') => out.push('\r'),
                    (_, 't') => out.push('\t'),
                    // A dollar sign that is none of a variable.
                    (_, '$') => out.push_str("$$"),
                    (_, '"' | '\\') => out.push(c),
                    (_, c) => out.extend(['\\', c]),
                }
            } else if c == '\\' {
                escaped = true;
            } else if c == quote {
                self.line += inner[..i].matches('\n').count();
                let rest = &inner[i + 1..];
                let line = rest[..rest.find('\n').unwrap_or(rest.len())].trim();
                if !line.is_empty() && !line.starts_with('#') {
                    return Err(Problem::new(at, format!("unexpected {line:?} after the closing quote")));
                }
                self.rest = &rest[rest.find('\n').unwrap_or(rest.len())..];
                return Ok(if quote == '\'' { Raw::Plain(out) } else { Raw::Variables(out) });
            } else {
                out.push(c);
            }
        }
        Err(Problem::new(at, "a quote is not closed"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> String {
        let outer = [("OUT".to_owned(), "o".to_owned())].into();
        match parse("f", text, &outer) {
            Ok(found) => found
                .into_iter()
                .map(|(k, _, v)| v.map_or(format!("{k};"), |v| format!("{k}={v:?};")))
                .collect(),
            Err(e) => e.to_string(),
        }
    }

    #[test]
    fn values_are_read_as_compose_reads_them() {
        for (given, wanted) in [
            ("A=1\nB = two words # c\n\n# x\nexport C=3", r#"A="1";B="two words";C="3";"#),
            ("A='$OUT \\n'\nB=\"$OUT\\n\\\"x\\$\"", r#"A="$OUT \\n";B="o\n\"x$";"#),
            ("A=x\nB=${A}y${OUT:-n}${NO:-d}", r#"A="x";B="xyod";"#),
            ("A='one\ntwo' # c\nB=3", r#"A="one\ntwo";B="3";"#),
            ("A\nB=\nC: 4", r#"A;B="";C="4";"#),
            ("OUT=mine\nB=$OUT", r#"OUT="mine";B="o";"#),
            ("A=#x\nB=a#b", r#"A="";B="a#b";"#),
            ("A=1\n  2x y=1", "f:2:3: want NAME=VALUE; \"2x y\" cannot be a variable's name"),
            ("A=1\nB=\"x", "f:2:1: a quote is not closed"),
            ("A='x' y", "f:1:1: unexpected \"y\" after the closing quote"),
            ("A=${", "f:1:1: A: invalid variable in \"${\""),
        ] {
            assert_eq!(read(given), wanted, "{given}");
        }
        let mut bomb = "A0=xxxxxxxxxxxxxxxx\n".to_owned();
        for i in 1..40 {
            bomb += &format!("A{i}=$A{}$A{}\n", i - 1, i - 1);
        }
        assert!(read(&bomb).contains("more than 4194304 bytes"), "{}", &read(&bomb)[..100]);
    }
}
