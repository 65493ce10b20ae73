//! What a value may look like, and the check of a document against that.
//!
//! The tables of the Compose Specification are in `schema`. Beside the check they give scalars their types, and
//! mappings the order in which `config` prints them.

use super::node::{Key, Kind, Node, Problem, Tag, Type};
use super::{units, yaml};

/// The names of a mapping and what stands under them, in the order they are printed in.
pub type Fields = &'static [(&'static str, Shape)];

#[derive(Clone, Copy)]
pub enum Shape {
    /// Not looked into.
    Any,
    Str,
    /// A string or a number, kept as it is written.
    Word,
    /// A string, a number, a boolean or null, kept as it is written.
    Value,
    Int,
    Number,
    Bool,
    /// `1m30s`.
    Duration,
    /// `64m`, in bytes.
    Size,
    /// One of these words.
    OneOf(&'static [&'static str]),
    List(&'static Shape),
    /// Any names.
    Map(&'static Shape),
    /// These names, and `x-` ones.
    Object(Fields),
    /// The first that fits a scalar, a list or a mapping.
    Or(&'static [Shape]),
}

impl Shape {
    /// Whether it is for a value of this kind at all.
    fn fits(&self, node: &Node) -> bool {
        match (self, &node.kind) {
            (Self::Any, _)
            | (Self::List(_), Kind::List(_))
            | (Self::Map(_) | Self::Object(_), Kind::Map(_)) => true,
            (Self::List(_) | Self::Map(_) | Self::Object(_), _) => false,
            (Self::Or(shapes), _) => shapes.iter().any(|s| s.fits(node)),
            (_, Kind::Scalar(..)) => true,
            _ => false,
        }
    }

    fn describe(&self) -> String {
        match self {
            Self::Any => "anything".into(),
            Self::Str => "a string".into(),
            Self::Word => "a string or a number".into(),
            Self::Value => "a string, a number, a boolean or nothing".into(),
            Self::Int => "a whole number".into(),
            Self::Number => "a number".into(),
            Self::Bool => "true or false".into(),
            Self::Duration => "a duration like 1m30s".into(),
            Self::Size => "a size like 64m".into(),
            Self::OneOf(words) => format!("one of {}", words.join(", ")),
            Self::List(_) => "a list".into(),
            Self::Map(_) | Self::Object(_) => "a mapping".into(),
            Self::Or(shapes) => shapes.iter().map(Self::describe).collect::<Vec<_>>().join(" or "),
        }
    }
}

/// The check of a document.
pub struct Check {
    /// All that is wrong.
    pub problems: Vec<Problem>,
    /// Variables have not been put in: what has one may become anything.
    pub variables_stay: bool,
}

impl Check {
    /// Checks a value and what is in it, and types its scalars.
    pub fn check(&mut self, node: &mut Node, shape: &Shape, path: &str) {
        if node.tag == Tag::Reset {
            return;
        }
        if self.variables_stay && node.text().is_some_and(|t| t.contains('$')) {
            return;
        }
        // Nothing under a name is as good as the name not given, where no scalar is wanted.
        let structure = matches!(shape, Shape::List(_) | Shape::Map(_) | Shape::Object(_) | Shape::Or(_));
        if node.is_null() && structure {
            return;
        }
        if !shape.fits(node) {
            return self.problems.push(mismatch(node, shape, path));
        }
        match (shape, &mut node.kind) {
            (Shape::Or(shapes), _) => {
                if let Some(shape) = shapes.iter().find(|s| s.fits(node)) {
                    self.check(node, shape, path);
                }
            }
            (Shape::List(of), Kind::List(items)) => {
                for (i, item) in items.iter_mut().enumerate() {
                    self.check(item, of, &format!("{path}[{i}]"));
                }
            }
            (Shape::Map(of), Kind::Map(entries)) => {
                for (key, value) in entries {
                    self.check(value, of, &join(path, &key.text));
                }
            }
            (Shape::Object(fields), Kind::Map(entries)) => {
                for (key, value) in entries {
                    match fields.iter().find(|(name, _)| *name == key.text) {
                        Some((name, shape)) => self.check(value, shape, &join(path, name)),
                        None if key.text.starts_with("x-") => {}
                        None => self.problems.push(unknown(key, fields, path)),
                    }
                }
            }
            (shape, Kind::Scalar(ty, text)) => match typed(shape, *ty, text) {
                Some((new, new_text)) => (*ty, *text) = (new, new_text),
                None => self.problems.push(mismatch(node, shape, path)),
            },
            _ => {}
        }
    }
}

/// A scalar as its shape wants it; None if it is not of that shape.
fn typed(shape: &Shape, ty: Type, text: &str) -> Option<(Type, String)> {
    let kept = |ty: Type| Some((ty, text.to_owned()));
    match shape {
        Shape::Any => kept(ty),
        Shape::Str => (ty == Type::Str).then(|| (Type::Str, text.to_owned())),
        Shape::Word => {
            matches!(ty, Type::Str | Type::Int | Type::Float).then(|| (Type::Str, text.to_owned()))
        }
        Shape::Value => kept(if ty == Type::Null { Type::Null } else { Type::Str }),
        Shape::Int => yaml::integer(text).map(|n| (Type::Int, n.to_string())),
        Shape::Number => text.parse::<f64>().ok().filter(|n| n.is_finite()).and_then(|_| kept(Type::Float)),
        Shape::Bool => {
            let set = match text.to_ascii_lowercase().as_str() {
                "true" | "yes" | "y" | "on" => true,
                "false" | "no" | "n" | "off" => false,
                _ => return None,
            };
            Some((Type::Bool, set.to_string()))
        }
        Shape::Duration => units::duration(text).and_then(|_| kept(Type::Str)),
        Shape::Size => units::size(text).map(|n| (Type::Str, n.to_string())),
        Shape::OneOf(words) => words.contains(&text).then(|| (Type::Str, text.to_owned())),
        Shape::List(_) | Shape::Map(_) | Shape::Object(_) | Shape::Or(_) => None,
    }
}

/// Puts what is in a value into the order of its shape; free names are sorted.
pub fn sort(node: &mut Node, shape: &Shape) {
    match (shape, &mut node.kind) {
        (Shape::Or(shapes), _) => {
            if let Some(shape) = shapes.iter().find(|s| s.fits(node)) {
                sort(node, shape);
            }
        }
        (Shape::List(of), Kind::List(items)) => items.iter_mut().for_each(|i| sort(i, of)),
        (Shape::Map(of), Kind::Map(entries)) => {
            entries.sort_by(|a, b| a.0.text.cmp(&b.0.text));
            entries.iter_mut().for_each(|(_, v)| sort(v, of));
        }
        (Shape::Object(fields), Kind::Map(entries)) => {
            let place =
                |key: &Key| fields.iter().position(|(name, _)| *name == key.text).unwrap_or(fields.len());
            entries.sort_by_cached_key(|(key, _)| (place(key), key.text.clone()));
            for (key, value) in entries {
                if let Some((_, shape)) = fields.iter().find(|(name, _)| *name == key.text) {
                    sort(value, shape);
                }
            }
        }
        _ => {}
    }
}

pub fn join(path: &str, name: &str) -> String {
    if path.is_empty() { name.to_owned() } else { format!("{path}.{name}") }
}

fn mismatch(node: &Node, shape: &Shape, path: &str) -> Problem {
    let path = if path.is_empty() { "the file" } else { path };
    let given = match node.text() {
        Some(text) => format!("{text:?}"),
        None => node.describe().to_owned(),
    };
    Problem::new(&node.at, format!("{path}: want {}, not {given}", shape.describe()))
}

fn unknown(key: &Key, fields: Fields, path: &str) -> Problem {
    // No more of it than any key is long.
    let written: String = key.text.chars().take(64).collect();
    let near = fields.iter().map(|(name, _)| (strsim::osa_distance(&written, name), *name)).min();
    let hint = match near {
        Some((far, name)) if far <= key.text.chars().count().max(3) / 3 => {
            format!(": did you mean {name:?}?")
        }
        _ => String::new(),
    };
    let place = if path.is_empty() { String::new() } else { format!("{path}: ") };
    Problem::new(&key.at, format!("{place}unknown key {:?}{hint}", key.text))
}
