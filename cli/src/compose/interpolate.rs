//! Variables in a Compose file: `$NAME`, `${NAME}` and its operators, `$$` for a dollar sign.

use std::collections::BTreeMap;

use super::node::{Kind, Node, Problem, Type};
use super::yaml;

/// Defaults within defaults, at most.
const MOST_DEPTH: usize = 16;

/// Values of variables by their names.
pub type Variables = BTreeMap<String, String>;

/// Bytes that all values of a project may become, at most: a short file must not stand for an endless one.
pub const MOST_TEXT: usize = 64 << 20;

/// The putting of values in place of variables.
pub struct Interpolation<'a> {
    pub vars: &'a Variables,
    /// Gets what variables have no value.
    pub warnings: &'a mut Vec<String>,
    /// Bytes that may still be written.
    pub room: &'a mut usize,
}

impl Interpolation<'_> {
    /// In every value.
    pub fn document(&mut self, node: &mut Node, path: &str) -> Result<(), Problem> {
        match &mut node.kind {
            Kind::Scalar(ty, text) if text.contains('$') => {
                let mut unset = Vec::new();
                let new = expand(text, self.vars, 0, &mut unset).map_err(|what| {
                    let what = match what {
                        Bad::Format => format!(
                            "{path}: invalid interpolation format {text:?}: you may need to escape any $ with another $"
                        ),
                        Bad::TooLong => format!("{path}: it comes to more than {MOST_TEXT} bytes"),
                        Bad::Missing(name, why) if why.is_empty() => {
                            format!("{path}: required variable {name} is missing a value")
                        }
                        Bad::Missing(name, why) => {
                            format!("{path}: required variable {name} is missing a value: {why}")
                        }
                    };
                    Problem::new(&node.at, what)
                })?;
                let Some(left) = self.room.checked_sub(new.len()) else {
                    let what = format!("{path}: the values of variables come to more than {MOST_TEXT} bytes");
                    return Err(Problem::new(&node.at, what));
                };
                *self.room = left;
                for name in unset {
                    self.warnings.push(format!("{}: variable {name:?} is not set: taken as empty", node.at));
                }
                // What came out of a variable may be meant as a number: the schema reads it so where one is wanted.
                *ty = if *ty == Type::Str { Type::Str } else { yaml::plain(&new) };
                *text = new;
            }
            Kind::Scalar(..) => {}
            Kind::List(items) => {
                for (i, item) in items.iter_mut().enumerate() {
                    self.document(item, &format!("{path}[{i}]"))?;
                }
            }
            Kind::Map(entries) => {
                for (key, value) in entries {
                    let dot = if path.is_empty() { "" } else { "." };
                    self.document(value, &format!("{path}{dot}{}", key.text))?;
                }
            }
        }
        Ok(())
    }
}

/// Why a text cannot be expanded.
#[derive(Debug, PartialEq, Eq)]
pub enum Bad {
    Format,
    Missing(String, String),
    TooLong,
}

fn is_name_start(c: char) -> bool {
    c.is_ascii_alphabetic() || c == '_'
}

fn is_name(c: char) -> bool {
    is_name_start(c) || c.is_ascii_digit()
}

/// Expands a text; names without a value are added to `unset`.
pub fn expand(text: &str, vars: &Variables, depth: usize, unset: &mut Vec<String>) -> Result<String, Bad> {
    let (mut out, mut rest) = (String::new(), text);
    while let Some(dollar) = rest.find('$') {
        out.push_str(&rest[..dollar]);
        if out.len() > MOST_TEXT {
            return Err(Bad::TooLong);
        }
        rest = &rest[dollar + 1..];
        if let Some(more) = rest.strip_prefix('$') {
            out.push('$');
            rest = more;
        } else if let Some(inner) = rest.strip_prefix('{') {
            let end = closing(inner).ok_or(Bad::Format)?;
            out.push_str(&braced(&inner[..end], vars, depth, unset)?);
            rest = &inner[end + 1..];
        } else if rest.starts_with(is_name_start) {
            let end = rest.find(|c| !is_name(c)).unwrap_or(rest.len());
            out.push_str(&value(&rest[..end], vars, unset));
            rest = &rest[end..];
        } else {
            return Err(Bad::Format);
        }
    }
    out.push_str(rest);
    Ok(out)
}

fn value(name: &str, vars: &Variables, unset: &mut Vec<String>) -> String {
    vars.get(name).cloned().unwrap_or_else(|| {
        unset.push(name.to_owned());
        String::new()
    })
}

/// Where the brace is closed that was opened before the text.
fn closing(text: &str) -> Option<usize> {
    let mut open = 0;
    let mut before = '\0';
    for (i, c) in text.char_indices() {
        match c {
            '{' if before == '$' => open += 1,
            '}' if open == 0 => return Some(i),
            '}' => open -= 1,
            _ => {}
        }
        before = c;
    }
    None
}

/// What stands between braces: a name, perhaps an operator and a word.
fn braced(text: &str, vars: &Variables, depth: usize, unset: &mut Vec<String>) -> Result<String, Bad> {
    let end = text.find(|c| !is_name(c)).unwrap_or(text.len());
    let (name, operation) = text.split_at(end);
    if !name.starts_with(is_name_start) || depth == MOST_DEPTH {
        return Err(Bad::Format);
    }
    if operation.is_empty() {
        return Ok(value(name, vars, unset));
    }
    let (or_empty, operation) = match operation.strip_prefix(':') {
        Some(rest) => (true, rest),
        None => (false, operation),
    };
    let held = vars.get(name).filter(|v| !or_empty || !v.is_empty());
    let mut chars = operation.chars();
    let operator = chars.next().ok_or(Bad::Format)?;
    let word = |unset: &mut Vec<String>| expand(chars.as_str(), vars, depth + 1, unset);
    match (operator, held) {
        ('-' | '?', Some(held)) => Ok(held.clone()),
        ('-', None) | ('+', Some(_)) => word(unset),
        ('+', None) => Ok(String::new()),
        ('?', None) => Err(Bad::Missing(name.to_owned(), word(unset)?)),
        _ => Err(Bad::Format),
    }
}

/// A variable as a file uses it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Used {
    /// What it is called.
    pub name: String,
    /// The file is of no use without a value.
    pub required: bool,
    /// What is taken where it has none.
    pub default: String,
    /// What is taken where it has one.
    pub alternate: String,
}

/// The variables of a text that was not expanded, those within defaults included. What is no variable is passed over.
pub fn used(text: &str, found: &mut Vec<Used>) {
    used_in(text, 0, found);
}

fn used_in(text: &str, depth: usize, found: &mut Vec<Used>) {
    let mut rest = text;
    while let Some(dollar) = rest.find('$') {
        rest = &rest[dollar + 1..];
        if let Some(more) = rest.strip_prefix('$') {
            rest = more;
        } else if let Some((inner, end)) = rest.strip_prefix('{').and_then(|i| Some((i, closing(i)?))) {
            let body = &inner[..end];
            rest = &inner[end + 1..];
            let (name, operation) = body.split_at(body.find(|c| !is_name(c)).unwrap_or(body.len()));
            if !name.starts_with(is_name_start) || depth == MOST_DEPTH {
                continue;
            }
            let mut one = Used { name: name.to_owned(), ..Used::default() };
            let operation = operation.strip_prefix(':').unwrap_or(operation);
            let word = operation.chars().next().map_or("", |c| &operation[c.len_utf8()..]).to_owned();
            match operation.chars().next() {
                Some('-') => one.default.clone_from(&word),
                Some('?') => one.required = true,
                Some('+') => one.alternate.clone_from(&word),
                _ => {}
            }
            found.push(one);
            used_in(&word, depth + 1, found);
        } else if rest.starts_with(is_name_start) {
            let end = rest.find(|c| !is_name(c)).unwrap_or(rest.len());
            found.push(Used { name: rest[..end].to_owned(), ..Used::default() });
            rest = &rest[end..];
        }
    }
}
