//! Words of a Dockerfile's instructions: lines joined, words split, quotes taken off and variables put in.

/// The instructions of a text: lines that end with a backslash go on in the next, comments are left out.
pub(super) fn instructions(text: &str) -> Vec<String> {
    let (mut out, mut open) = (Vec::new(), None::<String>);
    for line in text.lines() {
        let bare = line.trim();
        if bare.starts_with('#') || bare.is_empty() {
            continue;
        }
        let begun = open.get_or_insert_default();
        match line.trim_end().strip_suffix('\\') {
            Some(more) => begun.push_str(more),
            None => {
                begun.push_str(line);
                out.extend(open.take().map(|l| l.trim().to_owned()));
            }
        }
    }
    out.extend(open.map(|l| l.trim().to_owned()).filter(|l| !l.is_empty()));
    out
}

/// Splits at white space outside quotes; quotes and backslashes stay.
pub(super) fn split(text: &str) -> Vec<String> {
    let (mut out, mut word, mut quote) = (Vec::new(), String::new(), None);
    let mut chars = text.chars();
    while let Some(c) = chars.next() {
        match (quote, c) {
            (None, c) if c.is_whitespace() => {
                if !word.is_empty() {
                    out.push(std::mem::take(&mut word));
                }
                continue;
            }
            (None, '"' | '\'') => quote = Some(c),
            (Some(q), c) if c == q => quote = None,
            (None | Some('"'), '\\') => {
                word.push(c);
                word.extend(chars.next());
                continue;
            }
            _ => {}
        }
        word.push(c);
    }
    if !word.is_empty() {
        out.push(word);
    }
    out
}

/// Takes quotes and backslashes off and puts in `$NAME`, `${NAME}`, `${NAME:-else}` and `${NAME:+instead}` from an
/// environment of `NAME=value`. The reason why it cannot, else.
pub(super) fn expand(word: &str, env: &[String]) -> Result<String, String> {
    let mut reader = Reader { chars: word.chars().collect(), at: 0, env, depth: 0 };
    reader.until(None)
}

/// How deep `${A:-${B:-...}}` may go.
const DEEPEST: u8 = 16;

struct Reader<'a> {
    chars: Vec<char>,
    at: usize,
    env: &'a [String],
    depth: u8,
}

impl Reader<'_> {
    fn next(&mut self) -> Option<char> {
        let c = self.chars.get(self.at).copied();
        self.at += 1;
        c
    }

    fn peek(&self) -> Option<char> {
        self.chars.get(self.at).copied()
    }

    fn until(&mut self, stop: Option<char>) -> Result<String, String> {
        let mut out = String::new();
        while let Some(c) = self.next() {
            match c {
                c if Some(c) == stop => return Ok(out),
                '\'' => loop {
                    match self.next() {
                        None => return Err(open("matching single-quote")),
                        Some('\'') => break,
                        Some(c) => out.push(c),
                    }
                },
                '"' => self.quoted(&mut out)?,
                '\\' => out.extend(self.next()),
                '$' => out.push_str(&self.variable()?),
                c => out.push(c),
            }
        }
        match stop {
            Some(stop) => Err(open(&format!("{stop:?}"))),
            None => Ok(out),
        }
    }

    fn quoted(&mut self, out: &mut String) -> Result<(), String> {
        loop {
            match self.next() {
                None => return Err(open("matching double-quote")),
                Some('"') => return Ok(()),
                Some('$') => out.push_str(&self.variable()?),
                Some('\\') => match self.peek() {
                    Some(c @ ('"' | '$' | '\\')) => {
                        self.at += 1;
                        out.push(c);
                    }
                    _ => out.push('\\'),
                },
                Some(c) => out.push(c),
            }
        }
    }

    /// What comes after a dollar sign.
    fn variable(&mut self) -> Result<String, String> {
        if self.peek() != Some('{') {
            let name = self.name();
            return Ok(if name.is_empty() { "$".into() } else { self.value(&name).unwrap_or_default() });
        }
        self.at += 1;
        let name = self.name();
        if name.is_empty() {
            return Err("bad substitution".into());
        }
        let value = self.value(&name);
        let (colon, modifier) = match self.next() {
            Some('}') => return Ok(value.unwrap_or_default()),
            Some(':') => (true, self.next()),
            other => (false, other),
        };
        let Some(modifier @ ('-' | '+')) = modifier else {
            return Err(match modifier {
                Some(m) => format!("unsupported modifier ({m}) in substitution of {name}"),
                None => open("'}'"),
            });
        };
        if self.depth == DEEPEST {
            return Err(format!("the substitution of {name} is nested too deep"));
        }
        self.depth += 1;
        let word = self.until(Some('}'))?;
        self.depth -= 1;
        let set = value.as_ref().is_some_and(|v| !colon || !v.is_empty());
        Ok(match modifier {
            '-' if set => value.unwrap_or_default(),
            '+' if !set => String::new(),
            _ => word,
        })
    }

    fn name(&mut self) -> String {
        let begin = self.at;
        while self.peek().is_some_and(|c| c == '_' || c.is_ascii_alphanumeric()) {
            // `$1a` is the parameter 1 and an `a`, as with a shell.
            let digit = self.chars[begin].is_ascii_digit();
            self.at += 1;
            if digit {
                break;
            }
        }
        self.chars[begin.min(self.chars.len())..self.at.min(self.chars.len())].iter().collect()
    }

    fn value(&self, name: &str) -> Option<String> {
        self.env.iter().filter_map(|e| e.split_once('=')).find(|(k, _)| *k == name).map(|(_, v)| v.to_owned())
    }
}

fn open(what: &str) -> String {
    format!("unexpected end of statement while looking for {what}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_are_expanded_as_dockerfiles_have_them() {
        let env = ["PATH=/bin".to_owned(), "EMPTY=".to_owned()];
        for (word, expanded) in [
            ("$PATH:/x", "/bin:/x"),
            ("${PATH}x", "/binx"),
            ("'$PATH'", "$PATH"),
            ("\"$PATH y\"", "/bin y"),
            ("\\$PATH", "$PATH"),
            ("\"\\$PATH\\n\"", "$PATH\\n"),
            ("${NONE:-a$PATH}", "a/bin"),
            ("${NONE:-${PATH:+b}}", "b"),
            ("${EMPTY:-c}${EMPTY-c}", "c"),
            ("$NONE$", "$"),
            ("a\\ b", "a b"),
        ] {
            assert_eq!(expand(word, &env).as_deref(), Ok(expanded), "{word}");
        }
        let deep = format!("{}{}", "${A:-".repeat(100), "}".repeat(100));
        for word in ["\"a", "'a", "${PATH", "${}", "${PATH:", "${PATH#x}", "${PATH:-a", &deep] {
            assert!(expand(word, &env).is_err(), "{word}");
        }
    }

    #[test]
    fn lines_are_joined_and_comments_left_out() {
        let text = "ENV A=1 \\\n  # no\n  B=2\n\n# no\nUSER x \\\n";
        assert_eq!(instructions(text), ["ENV A=1   B=2", "USER x"]);
        assert_eq!(split("a  \"b c\"d 'e f' g\\ h"), ["a", "\"b c\"d", "'e f'", "g\\ h"]);
    }
}
