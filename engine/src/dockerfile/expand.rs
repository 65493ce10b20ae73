//! Variables in words, as a shell replaces them: `$NAME`, `${NAME}` and the modifiers `:-` `-` `:+` `+` `:?` `?` `#` `##`
//! `%` `%%` `/` `//`; quotes and escapes are taken away.
//! <https://docs.docker.com/reference/dockerfile/#environment-replacement>

use super::glob::Glob;

/// How deep modifiers may be nested.
const DEEPEST: usize = 64;

/// Most bytes that variables make of one text, as much as a Dockerfile may be long.
const LONGEST: usize = 16 << 20;

/// Replaces variables.
pub struct Expander<'a> {
    /// The character that takes away a special meaning.
    pub escape: char,
    /// The value of a variable; none = it is not set.
    pub lookup: &'a dyn Fn(&str) -> Option<String>,
}

/// What has been read so far: one word, or several that unquoted blanks divide.
#[derive(Default)]
struct Out {
    words: Vec<String>,
    word: String,
    in_word: bool,
    /// Bytes that came of variables.
    made: usize,
}

impl Out {
    fn literal(&mut self, c: char) {
        self.word.push(c);
        self.in_word = true;
    }

    /// Adds the value of a variable. Variables made of variables would soon fill all memory.
    fn value(&mut self, text: &str, split: bool) -> Result<(), String> {
        self.made = self.made.saturating_add(text.len());
        if self.made > LONGEST {
            return Err(too_long());
        }
        if !split {
            self.word.push_str(text);
            self.in_word |= !text.is_empty();
            return Ok(());
        }
        for c in text.chars() {
            if c.is_whitespace() {
                self.end();
            } else {
                self.literal(c);
            }
        }
        Ok(())
    }

    fn end(&mut self) {
        if std::mem::take(&mut self.in_word) {
            self.words.push(std::mem::take(&mut self.word));
        }
    }
}

struct Reader<'a> {
    text: &'a [char],
    at: usize,
    depth: usize,
}

impl Reader<'_> {
    fn peek(&self) -> Option<char> {
        self.text.get(self.at).copied()
    }

    fn next(&mut self) -> Option<char> {
        let c = self.peek();
        self.at += usize::from(c.is_some());
        c
    }

    fn take(&mut self, c: char) -> bool {
        let is = self.peek() == Some(c);
        self.at += usize::from(is);
        is
    }
}

impl Expander<'_> {
    /// A text as one word.
    pub fn word(&self, text: &str) -> Result<String, String> {
        let mut out = Out::default();
        self.run(text, false, &mut out)?;
        Ok(out.word)
    }

    /// A text as words.
    pub fn words(&self, text: &str) -> Result<Vec<String>, String> {
        let mut out = Out::default();
        self.run(text, true, &mut out)?;
        out.end();
        Ok(out.words)
    }

    /// The content of a here-document: variables are replaced, quotes are nothing special. An error has the place of its
    /// variable, in characters.
    pub fn heredoc(&self, text: &str) -> Result<String, (usize, String)> {
        let chars: Vec<char> = text.chars().collect();
        let mut r = Reader { text: &chars, at: 0, depth: 0 };
        let mut out = String::new();
        while let Some(c) = r.next() {
            let place = r.at - 1;
            match c {
                '$' => {
                    let value = self.dollar(&mut r);
                    value.and_then(|value| grow(&mut out, &value)).map_err(|e| (place, e))?;
                }
                c if c == self.escape => match r.peek() {
                    Some(n) if n == '$' || n == self.escape => out.extend(r.next()),
                    Some('\n') => drop(r.next()),
                    _ => out.push(c),
                },
                c => out.push(c),
            }
        }
        Ok(out)
    }

    fn run(&self, text: &str, split: bool, out: &mut Out) -> Result<(), String> {
        let chars: Vec<char> = text.chars().collect();
        let mut r = Reader { text: &chars, at: 0, depth: 0 };
        self.until(&mut r, None, split, out)
    }

    /// Reads up to `stop`, which is taken too.
    fn until(
        &self,
        r: &mut Reader<'_>,
        stop: Option<char>,
        split: bool,
        out: &mut Out,
    ) -> Result<(), String> {
        while let Some(c) = r.next() {
            match c {
                c if Some(c) == stop => return Ok(()),
                '\'' => {
                    out.in_word = true;
                    loop {
                        match r.next() {
                            Some('\'') => break,
                            Some(c) => out.literal(c),
                            None => return Err(open("single-quote")),
                        }
                    }
                }
                '"' => self.double(r, out)?,
                '$' => {
                    let value = self.dollar(r)?;
                    out.value(&value, split)?;
                }
                c if c == self.escape => match r.next() {
                    Some(c) => out.literal(c),
                    None => break,
                },
                c if split && c.is_whitespace() => out.end(),
                c => out.literal(c),
            }
        }
        match stop {
            None => Ok(()),
            Some(c) => Err(format!("unexpected end of statement while looking for {c:?}")),
        }
    }

    fn double(&self, r: &mut Reader<'_>, out: &mut Out) -> Result<(), String> {
        out.in_word = true;
        loop {
            match r.next() {
                None => return Err(open("double-quote")),
                Some('"') => return Ok(()),
                Some('$') => {
                    let value = self.dollar(r)?;
                    out.value(&value, false)?;
                }
                Some(c) if c == self.escape => match r.peek() {
                    Some(n) if n == '"' || n == '$' || n == self.escape => {
                        r.next();
                        out.literal(n);
                    }
                    _ => out.literal(c),
                },
                Some(c) => out.literal(c),
            }
        }
    }

    /// The value of what follows a `$`.
    fn dollar(&self, r: &mut Reader<'_>) -> Result<String, String> {
        if !r.take('{') {
            let name = name(r);
            return Ok(if name.is_empty() { "$".into() } else { (self.lookup)(&name).unwrap_or_default() });
        }
        r.depth += 1;
        if r.depth > DEEPEST {
            return Err(format!("variables are nested more than {DEEPEST} deep"));
        }
        let value = self.braces(r)?;
        r.depth -= 1;
        Ok(value)
    }

    fn braces(&self, r: &mut Reader<'_>) -> Result<String, String> {
        let name = name(r);
        if name.is_empty() {
            return Err("bad substitution: ${ wants the name of a variable".into());
        }
        let value = (self.lookup)(&name);
        let colon = r.take(':');
        let set = value.clone().filter(|v| !colon || !v.is_empty());
        match r.next() {
            Some('}') if !colon => Ok(value.unwrap_or_default()),
            Some('-') => {
                let word = self.rest(r)?;
                Ok(set.unwrap_or(word))
            }
            Some('+') => {
                let word = self.rest(r)?;
                Ok(if set.is_some() { word } else { String::new() })
            }
            Some('?') => {
                let word = self.rest(r)?;
                let default = if colon { "not allowed to be empty" } else { "not allowed to be unset" };
                let why = if word.is_empty() { default } else { &word };
                set.ok_or_else(|| format!("{name}: {why}"))
            }
            Some(c @ ('#' | '%')) if !colon => {
                let longest = r.take(c);
                let pattern = Glob::shell(&self.pattern(r, '}')?);
                let value = value.unwrap_or_default();
                Ok(if c == '#' {
                    cut_front(&value, &pattern, longest)
                } else {
                    cut_back(&value, &pattern, longest)
                })
            }
            Some('/') if !colon => {
                let all = r.take('/');
                let pattern = Glob::shell(&self.pattern(r, '/')?);
                let by = self.rest(r)?;
                replaced(&value.unwrap_or_default(), &pattern, &by, all)
            }
            Some(c) => Err(format!("unsupported modifier ({c}) in substitution of {name}")),
            None => Err(format!("syntax error: missing '}}' after ${{{name}")),
        }
    }

    fn rest(&self, r: &mut Reader<'_>) -> Result<String, String> {
        let mut out = Out::default();
        self.until(r, Some('}'), false, &mut out)?;
        Ok(out.word)
    }

    /// A pattern up to `stop`: escapes stay in it, variables are replaced.
    fn pattern(&self, r: &mut Reader<'_>, stop: char) -> Result<String, String> {
        let mut out = String::new();
        loop {
            match r.next() {
                None => return Err(format!("syntax error: missing {stop:?} in ${{}}")),
                Some(c) if c == stop => return Ok(out),
                Some('$') => grow(&mut out, &self.dollar(r)?)?,
                Some(c) if c == self.escape => {
                    out.push('\\');
                    out.extend(r.next());
                }
                Some(c) => out.push(c),
            }
        }
    }
}

fn too_long() -> String {
    format!("variables make more than {LONGEST} bytes of it")
}

fn open(what: &str) -> String {
    format!("unexpected end of statement while looking for matching {what}")
}

/// A name, a number, or one of the special parameters.
fn name(r: &mut Reader<'_>) -> String {
    let take = |r: &mut Reader<'_>, good: fn(char) -> bool| {
        let mut out = String::new();
        while let Some(c) = r.peek().filter(|c| good(*c)) {
            out.push(c);
            r.at += 1;
        }
        out
    };
    match r.peek() {
        Some(c) if c.is_ascii_alphabetic() || c == '_' => take(r, |c| c.is_ascii_alphanumeric() || c == '_'),
        Some(c) if c.is_ascii_digit() => take(r, |c| c.is_ascii_digit()),
        Some('@' | '*' | '#' | '?' | '-' | '$' | '!') => r.next().into_iter().collect(),
        _ => String::new(),
    }
}

/// Where the value may be cut, shortest part at the front first.
fn cuts(value: &str) -> Vec<usize> {
    value.char_indices().map(|(i, _)| i).chain([value.len()]).collect()
}

fn cut_front(value: &str, pattern: &Glob, longest: bool) -> String {
    let ends = pattern.ends(value);
    let at = if longest { ends.last() } else { ends.first() };
    value[at.copied().unwrap_or(0)..].to_owned()
}

fn cut_back(value: &str, pattern: &Glob, longest: bool) -> String {
    let cuts = cuts(value);
    let fits = |i: &&usize| pattern.matches(&value[**i..]);
    let at = if longest { cuts.iter().find(fits) } else { cuts.iter().rev().find(fits) };
    value[..at.copied().unwrap_or(value.len())].to_owned()
}

fn replaced(value: &str, pattern: &Glob, by: &str, all: bool) -> Result<String, String> {
    let (mut out, mut from) = (String::new(), 0);
    while from < value.len() {
        match pattern.ends(&value[from..]).pop().filter(|end| *end > 0) {
            Some(end) => {
                grow(&mut out, by)?;
                from += end;
                if !all {
                    break;
                }
            }
            None => {
                let step = value[from..].chars().next().map_or(1, char::len_utf8);
                out.push_str(&value[from..from + step]);
                from += step;
            }
        }
    }
    out.push_str(&value[from..]);
    Ok(out)
}

/// Adds the value of a variable.
fn grow(out: &mut String, value: &str) -> Result<(), String> {
    if out.len() + value.len() > LONGEST {
        return Err(too_long());
    }
    out.push_str(value);
    Ok(())
}
