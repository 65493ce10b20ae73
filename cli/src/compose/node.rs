//! A document as a tree whose every value and name knows where it was written.

use std::fmt;
use std::sync::Arc;

/// A place in a file; lines and columns count from 1.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct At {
    /// The file as it was named.
    pub file: Arc<str>,
    pub line: usize,
    pub column: usize,
}

impl fmt::Display for At {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}:{}", self.file, self.line, self.column)
    }
}

/// Something wrong, and where.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{at}: {what}")]
pub struct Problem {
    pub at: At,
    pub what: String,
}

impl Problem {
    pub fn new(at: &At, what: impl Into<String>) -> Self {
        Self { at: at.clone(), what: what.into() }
    }
}

/// What a scalar is read as.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Type {
    Null,
    Bool,
    Int,
    Float,
    Str,
}

/// The tags of the Compose Specification that say how a value is merged.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Tag {
    None,
    /// `!reset`: what an earlier file says is taken away.
    Reset,
    /// `!override`: what an earlier file says is replaced, not merged.
    Override,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Kind {
    Scalar(Type, String),
    List(Vec<Node>),
    Map(Vec<(Key, Node)>),
}

/// A name in a mapping.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Key {
    pub text: String,
    pub at: At,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Node {
    pub at: At,
    pub tag: Tag,
    pub kind: Kind,
}

impl Node {
    pub fn new(at: &At, kind: Kind) -> Self {
        Self { at: at.clone(), tag: Tag::None, kind }
    }

    pub fn string(at: &At, text: impl Into<String>) -> Self {
        Self::new(at, Kind::Scalar(Type::Str, text.into()))
    }

    pub fn int(at: &At, number: impl fmt::Display) -> Self {
        Self::new(at, Kind::Scalar(Type::Int, number.to_string()))
    }

    pub fn bool(at: &At, set: bool) -> Self {
        Self::new(at, Kind::Scalar(Type::Bool, set.to_string()))
    }

    pub fn null(at: &At) -> Self {
        Self::new(at, Kind::Scalar(Type::Null, String::new()))
    }

    pub fn list(at: &At, items: Vec<Node>) -> Self {
        Self::new(at, Kind::List(items))
    }

    pub fn map(at: &At) -> Self {
        Self::new(at, Kind::Map(Vec::new()))
    }

    /// What stands under a name, unless that is null.
    pub fn get(&self, name: &str) -> Option<&Node> {
        self.entries().iter().find(|(k, v)| k.text == name && !v.is_null()).map(|(_, v)| v)
    }

    /// What stands under the last of several names, one in the other.
    pub fn path(&self, names: &[&str]) -> Option<&Node> {
        names.iter().try_fold(self, |node, name| node.get(name))
    }

    pub fn get_mut(&mut self, name: &str) -> Option<&mut Node> {
        match &mut self.kind {
            Kind::Map(entries) => entries.iter_mut().find(|(k, _)| k.text == name).map(|(_, v)| v),
            _ => None,
        }
    }

    /// Puts a value under a name, in place of what is there.
    pub fn set(&mut self, name: &str, value: Node) {
        let Kind::Map(entries) = &mut self.kind else { return };
        match entries.iter_mut().find(|(k, _)| k.text == name) {
            Some((_, held)) => *held = value,
            None => entries.push((Key { text: name.to_owned(), at: value.at.clone() }, value)),
        }
    }

    /// Takes out what stands under a name.
    pub fn remove(&mut self, name: &str) -> Option<Node> {
        let Kind::Map(entries) = &mut self.kind else { return None };
        let at = entries.iter().position(|(k, _)| k.text == name)?;
        Some(entries.remove(at).1)
    }

    /// The names and values of a mapping; of anything else, none.
    pub fn entries(&self) -> &[(Key, Node)] {
        match &self.kind {
            Kind::Map(entries) => entries,
            _ => &[],
        }
    }

    pub fn entries_mut(&mut self) -> &mut [(Key, Node)] {
        match &mut self.kind {
            Kind::Map(entries) => entries,
            _ => &mut [],
        }
    }

    /// The values of a list; of anything else, none.
    pub fn items(&self) -> &[Node] {
        match &self.kind {
            Kind::List(items) => items,
            _ => &[],
        }
    }

    pub fn is_null(&self) -> bool {
        matches!(self.kind, Kind::Scalar(Type::Null, _))
    }

    /// A scalar's text, unless it is null.
    pub fn text(&self) -> Option<&str> {
        match &self.kind {
            Kind::Scalar(ty, text) if *ty != Type::Null => Some(text),
            _ => None,
        }
    }

    /// The text of what stands under a name.
    pub fn text_of(&self, name: &str) -> Option<&str> {
        self.get(name).and_then(Node::text)
    }

    /// Whether `true` stands under a name.
    pub fn is_set(&self, name: &str) -> bool {
        self.text_of(name) == Some("true")
    }

    /// What kind of value it is, in words.
    pub fn describe(&self) -> &'static str {
        match &self.kind {
            Kind::Scalar(Type::Null, _) => "nothing",
            Kind::Scalar(Type::Bool, _) => "a boolean",
            Kind::Scalar(Type::Int | Type::Float, _) => "a number",
            Kind::Scalar(Type::Str, _) => "a string",
            Kind::List(_) => "a list",
            Kind::Map(_) => "a mapping",
        }
    }
}
