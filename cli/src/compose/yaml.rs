//! YAML with positions. Anchors, aliases and `<<` are resolved here, within bounds: a short document must not stand for
//! an endless one.

use std::collections::HashMap;
use std::sync::Arc;

use yaml_rust2::parser::{Event, Parser, Tag as YamlTag};
use yaml_rust2::scanner::{Marker, TScalarStyle};

use super::node::{At, Key, Kind, Node, Problem, Tag, Type};

/// Deeper than any Compose file goes.
const MOST_DEPTH: usize = 64;
/// Values in a document with all its aliases written out.
const MOST_VALUES: usize = 200_000;

/// A list or mapping that is still being read.
struct Open {
    node: Node,
    anchor: usize,
    name: Option<Key>,
    /// Values in it, and levels below it.
    size: usize,
    depth: usize,
}

/// A value that aliases may repeat.
struct Anchored {
    node: Node,
    size: usize,
    depth: usize,
}

/// Reads the one document of a file.
pub fn parse(file: &str, text: &str) -> Result<Node, Problem> {
    let mut all = documents(file, text)?.into_iter();
    match (all.next(), all.next()) {
        (_, Some((at, _))) => Err(Problem::new(&at, "a second document: a Compose file is one")),
        (Some((_, one)), None) => Ok(one),
        (None, None) => Err(empty(file)),
    }
}

/// Reads all documents of a file, of which there is at least one, and where each begins. Empty ones are none.
pub fn documents(file: &str, text: &str) -> Result<Vec<(At, Node)>, Problem> {
    let mut reader = Reader { file: file.into(), open: Vec::new(), anchors: HashMap::new(), values: 0 };
    let mut parser = Parser::new_from_str(text);
    let mut all = Vec::new();
    let mut start = At { file: file.into(), line: 1, column: 1 };
    loop {
        let (event, mark) = parser.next_token().map_err(|e| {
            let mark = *e.marker();
            let said = e.to_string();
            let said = said.rsplit_once(" at byte ").map_or(said.as_str(), |(said, _)| said);
            Problem::new(&reader.at(mark), said)
        })?;
        let at = reader.at(mark);
        match event {
            Event::StreamEnd => break,
            Event::DocumentStart => {
                start = at;
                // What an anchor names is of one document.
                reader.anchors.clear();
            }
            event => {
                let done = reader.event(event, at)?.filter(|d| !d.is_null());
                all.extend(done.map(|d| (start.clone(), d)));
            }
        }
    }
    if all.is_empty() { Err(empty(file)) } else { Ok(all) }
}

fn empty(file: &str) -> Problem {
    Problem::new(&At { file: file.into(), line: 1, column: 1 }, "the file is empty")
}

struct Reader {
    file: Arc<str>,
    open: Vec<Open>,
    anchors: HashMap<usize, Anchored>,
    values: usize,
}

impl Reader {
    fn at(&self, mark: Marker) -> At {
        At { file: self.file.clone(), line: mark.line().max(1), column: mark.col() + 1 }
    }

    /// Takes an event in; the document, once it is whole.
    fn event(&mut self, event: Event, at: At) -> Result<Option<Node>, Problem> {
        match event {
            Event::SequenceStart(anchor, tag) => self.begin(Kind::List(Vec::new()), anchor, tag, at),
            Event::MappingStart(anchor, tag) => self.begin(Kind::Map(Vec::new()), anchor, tag, at),
            Event::Scalar(text, style, anchor, tag) => {
                if let Some(Open { node: Node { kind: Kind::Map(_), .. }, name: name @ None, .. }) =
                    self.open.last_mut()
                {
                    *name = Some(Key { text, at });
                    return Ok(None);
                }
                let merge = merge_tag(tag.as_ref());
                let ty = match (style == TScalarStyle::Plain, &tag) {
                    (true, None) => plain(&text),
                    (true, Some(_)) if merge != Tag::None => plain(&text),
                    _ => Type::Str,
                };
                let node = Node { tag: merge, ..Node::new(&at, Kind::Scalar(ty, text)) };
                self.done(node, anchor, 1, 0)
            }
            Event::Alias(anchor) => {
                let Some(held) = self.anchors.get(&anchor) else {
                    return Err(Problem::new(&at, "an alias of what is not complete yet"));
                };
                if self.open.len() + held.depth > MOST_DEPTH {
                    return Err(too_deep(&at));
                }
                let (size, depth) = (held.size, held.depth);
                self.count(size, &at)?;
                let node = self.anchors[&anchor].node.clone();
                self.done(node, 0, size, depth)
            }
            Event::SequenceEnd | Event::MappingEnd => {
                let Some(Open { mut node, anchor, size, depth, .. }) = self.open.pop() else {
                    return Err(Problem::new(&at, "an end without a beginning"));
                };
                merge_in(&mut node)?;
                self.done(node, anchor, size, depth)
            }
            _ => Ok(None),
        }
    }

    fn begin(
        &mut self,
        kind: Kind,
        anchor: usize,
        tag: Option<YamlTag>,
        at: At,
    ) -> Result<Option<Node>, Problem> {
        if self.open.len() == MOST_DEPTH {
            return Err(too_deep(&at));
        }
        let node = Node { tag: merge_tag(tag.as_ref()), ..Node::new(&at, kind) };
        self.open.push(Open { node, anchor, name: None, size: 1, depth: 0 });
        Ok(None)
    }

    fn count(&mut self, size: usize, at: &At) -> Result<(), Problem> {
        self.values += size;
        if self.values > MOST_VALUES {
            return Err(Problem::new(at, format!("more than {MOST_VALUES} values, aliases counted")));
        }
        Ok(())
    }

    /// Puts a value where it belongs; the document itself is handed back.
    fn done(
        &mut self,
        node: Node,
        anchor: usize,
        size: usize,
        depth: usize,
    ) -> Result<Option<Node>, Problem> {
        self.count(1, &node.at)?;
        if anchor != 0 {
            self.count(size, &node.at)?;
            self.anchors.insert(anchor, Anchored { node: node.clone(), size, depth });
        }
        let Some(parent) = self.open.last_mut() else { return Ok(Some(node)) };
        parent.size += size;
        parent.depth = parent.depth.max(depth + 1);
        match &mut parent.node.kind {
            Kind::List(items) => items.push(node),
            Kind::Map(entries) => {
                let Some(name) = parent.name.take() else {
                    return Err(Problem::new(&node.at, "a key must be a word"));
                };
                if let Some((first, _)) = entries.iter().find(|(k, _)| k.text == name.text) {
                    let what = format!("key {:?} is already given in line {}", name.text, first.at.line);
                    return Err(Problem::new(&name.at, what));
                }
                entries.push((name, node));
            }
            Kind::Scalar(..) => {}
        }
        Ok(None)
    }
}

fn too_deep(at: &At) -> Problem {
    Problem::new(at, format!("more than {MOST_DEPTH} levels"))
}

fn merge_tag(tag: Option<&YamlTag>) -> Tag {
    match tag.map(|t| (t.handle.as_str(), t.suffix.as_str())) {
        Some(("!", "reset")) => Tag::Reset,
        Some(("!", "override")) => Tag::Override,
        _ => Tag::None,
    }
}

/// `<<: *other` or `<<: [*one, *other]`: what a mapping does not say itself, it takes from there.
fn merge_in(node: &mut Node) -> Result<(), Problem> {
    let Some(from) = node.remove("<<") else { return Ok(()) };
    let sources = match from.kind {
        Kind::List(items) => items,
        _ => vec![from],
    };
    let Kind::Map(entries) = &mut node.kind else { return Ok(()) };
    for source in sources {
        let Kind::Map(more) = source.kind else {
            return Err(Problem::new(&source.at, "<<: want a mapping or a list of them"));
        };
        for (key, value) in more {
            if !entries.iter().any(|(k, _)| k.text == key.text) {
                entries.push((key, value));
            }
        }
    }
    Ok(())
}

/// What a word without quotes is (YAML 1.2, section 10.3.2).
pub fn plain(text: &str) -> Type {
    match text {
        "" | "~" | "null" | "Null" | "NULL" => return Type::Null,
        "true" | "True" | "TRUE" | "false" | "False" | "FALSE" => return Type::Bool,
        ".inf" | "-.inf" | ".nan" => return Type::Float,
        _ => {}
    }
    if integer(text).is_some() {
        return Type::Int;
    }
    let digits = text.trim_start_matches(['-', '+']);
    let number = digits.starts_with(|c: char| c.is_ascii_digit() || c == '.')
        && digits.chars().all(|c| c.is_ascii_digit() || "eE.+-".contains(c))
        && text.parse::<f64>().is_ok_and(f64::is_finite);
    if number { Type::Float } else { Type::Str }
}

/// A whole number as Go's YAML reads it: `0x1f`, `0o17` and `017` too.
pub fn integer(text: &str) -> Option<i64> {
    let (negative, digits) = match text.strip_prefix('-') {
        Some(digits) => (true, digits),
        None => (false, text.strip_prefix('+').unwrap_or(text)),
    };
    if !digits.starts_with(|c: char| c.is_ascii_digit()) {
        return None;
    }
    let number = match digits.get(..2) {
        Some("0x") => i64::from_str_radix(&digits[2..], 16).ok(),
        Some("0o") => i64::from_str_radix(&digits[2..], 8).ok(),
        Some("0b") => i64::from_str_radix(&digits[2..], 2).ok(),
        Some(two) if two.starts_with('0') && !digits.contains(['8', '9']) => {
            i64::from_str_radix(digits, 8).ok()
        }
        _ => digits.parse().ok(),
    }?;
    if negative { number.checked_neg() } else { Some(number) }
}
