//! Cuts a template into text and actions, and actions into tokens.

use serde_json::Value;

use super::functions;

/// Words of the language.
const KEYWORDS: &[&str] =
    &["if", "else", "end", "range", "with", "define", "template", "block", "break", "continue"];

/// A problem and where it is.
pub type Problem = (usize, String);

/// Text, or the tokens between `{{` and `}}`.
#[derive(Debug)]
pub enum Item {
    Text(String),
    Action(usize, Vec<Token>),
}

/// A token of an action.
#[derive(Clone, Debug)]
pub struct Token {
    pub offset: usize,
    /// Nothing stands between it and the one before: `(x).Field`.
    pub glued: bool,
    pub kind: Kind,
}

/// What a token is.
#[derive(Clone, Debug, PartialEq)]
pub enum Kind {
    Dot,
    Field(String),
    Variable(String),
    Word(String),
    Literal(Value),
    Open,
    Close,
    Pipe,
    Comma,
    Declare,
    Assign,
}

/// Cuts a whole template.
pub fn lex(source: &str) -> Result<Vec<Item>, Problem> {
    let (mut items, mut at, mut trim) = (Vec::new(), 0, false);
    while let Some(found) = source[at..].find("{{") {
        let open = at + found;
        let mut inside = open + 2;
        let trims_left = source[inside..].starts_with("- ")
            || source[inside..].starts_with("-\t")
            || source[inside..].starts_with("-\n");
        text(&mut items, &source[at..open], trim, trims_left);
        if trims_left {
            inside += 1;
        }
        let start = source[inside..].trim_start();
        if start.starts_with("/*") {
            let begin = source.len() - start.len();
            let end = start.find("*/").ok_or((begin, "unclosed comment".to_owned()))? + begin + 2;
            let rest = source[end..].trim_start();
            trim = rest.starts_with("-}}");
            let close = if trim { "-}}" } else { "}}" };
            if !rest.starts_with(close) {
                return Err((end, "comment ends before closing delimiter".into()));
            }
            at = source.len() - rest.len() + close.len();
            continue;
        }
        let (tokens, end, trims_right) = action(source, inside)?;
        items.push(Item::Action(open, tokens));
        (at, trim) = (end, trims_right);
    }
    text(&mut items, &source[at..], trim, false);
    Ok(items)
}

fn text(items: &mut Vec<Item>, text: &str, trim_start: bool, trim_end: bool) {
    let text = if trim_start { text.trim_start() } else { text };
    let text = if trim_end { text.trim_end() } else { text };
    if !text.is_empty() {
        items.push(Item::Text(text.to_owned()));
    }
}

/// The tokens from `at` to the end of the action, where it ends, and whether it trims what follows.
fn action(source: &str, mut at: usize) -> Result<(Vec<Token>, usize, bool), Problem> {
    let mut tokens = Vec::new();
    let mut glued = false;
    loop {
        let rest = &source[at..];
        let Some(c) = rest.chars().next() else {
            // Go's parser reads along, and stumbles over the first word that it does not know.
            return Err(unknown(&tokens).unwrap_or((at, "unclosed action".into())));
        };
        if rest.starts_with("}}") {
            return Ok((tokens, at + 2, false));
        }
        if c.is_whitespace() {
            let blank = rest.len() - rest.trim_start().len();
            if rest[blank..].starts_with("-}}") {
                return Ok((tokens, at + blank + 3, true));
            }
            at += blank;
            glued = false;
            continue;
        }
        let (kind, length) = token(rest, c).map_err(|reason| (at, reason))?;
        tokens.push(Token { offset: at, glued, kind });
        at += length;
        glued = true;
    }
}

/// The first word that is neither a function nor one of the language.
fn unknown(tokens: &[Token]) -> Option<Problem> {
    tokens.iter().find_map(|t| match &t.kind {
        Kind::Word(name) if !functions::is_known(name) && !KEYWORDS.contains(&name.as_str()) => {
            Some((t.offset, format!("function {name:?} not defined")))
        }
        _ => None,
    })
}

fn token(rest: &str, c: char) -> Result<(Kind, usize), String> {
    let word = |from: usize| {
        rest[from..].find(|c: char| !(c.is_alphanumeric() || c == '_')).map_or(rest.len(), |n| n + from)
    };
    Ok(match c {
        '(' => (Kind::Open, 1),
        ')' => (Kind::Close, 1),
        '|' => (Kind::Pipe, 1),
        ',' => (Kind::Comma, 1),
        '=' => (Kind::Assign, 1),
        ':' if rest.starts_with(":=") => (Kind::Declare, 2),
        '$' => {
            let end = word(1);
            (Kind::Variable(rest[..end].to_owned()), end)
        }
        '.' => match word(1) {
            1 => (Kind::Dot, 1),
            end if rest.as_bytes()[1].is_ascii_digit() => (Kind::Literal(number(&rest[..end])?), end),
            end => (Kind::Field(rest[1..end].to_owned()), end),
        },
        '"' => quoted(rest)?,
        '`' => {
            let end = rest[1..].find('`').ok_or("unterminated raw quoted string")? + 1;
            (Kind::Literal(rest[1..end].into()), end + 1)
        }
        c if c.is_ascii_digit() || c == '-' || c == '+' => {
            let end = rest[1..]
                .find(|c: char| !(c.is_ascii_alphanumeric() || c == '.' || c == '_'))
                .map_or(rest.len(), |n| n + 1);
            (Kind::Literal(number(&rest[..end])?), end)
        }
        c if c.is_alphabetic() || c == '_' => {
            let end = word(0);
            let kind = match &rest[..end] {
                "true" => Kind::Literal(true.into()),
                "false" => Kind::Literal(false.into()),
                "nil" => Kind::Literal(Value::Null),
                name => Kind::Word(name.to_owned()),
            };
            (kind, end)
        }
        c => return Err(format!("unexpected {c:?} in action")),
    })
}

fn number(text: &str) -> Result<Value, String> {
    let plain = text.strip_prefix('+').unwrap_or(text);
    if let Ok(n) = plain.parse::<i64>() {
        return Ok(n.into());
    }
    if let Some(n) = plain.strip_prefix("0x").and_then(|h| i64::from_str_radix(h, 16).ok()) {
        return Ok(n.into());
    }
    plain.parse::<f64>().map(Value::from).map_err(|_| format!("bad number syntax: {text:?}"))
}

/// A quoted string, read by Go's rules, which for what is used here are JSON's.
fn quoted(rest: &str) -> Result<(Kind, usize), String> {
    let mut escaped = false;
    for (at, c) in rest.char_indices().skip(1) {
        match c {
            _ if escaped => escaped = false,
            '\\' => escaped = true,
            '"' => {
                let text: String = serde_json::from_str(&rest[..=at])
                    .map_err(|_| format!("cannot read the string {}", &rest[..=at]))?;
                return Ok((Kind::Literal(text.into()), at + 1));
            }
            '\n' => break,
            _ => {}
        }
    }
    Err("unterminated quoted string".into())
}
