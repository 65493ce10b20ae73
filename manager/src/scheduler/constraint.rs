//! Placement constraints: `node.labels.zone==a`, `node.role!=manager`, and so on.

use std::fmt;
use std::net::Ipv4Addr;

use skep_proto::v1;

use crate::allocator::Cidr;

/// A parsed constraint.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Constraint {
    key: Attribute,
    equal: bool,
    value: String,
    text: String,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Attribute {
    Id,
    Hostname,
    Ip(Cidr),
    Role,
    Os,
    Arch,
    NodeLabel(String),
    EngineLabel(String),
}

/// A constraint that cannot be understood.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ConstraintError {
    /// Neither `==` nor `!=`.
    #[error("constraint {0:?} has no operator: write KEY==VALUE or KEY!=VALUE")]
    NoOperator(String),
    /// The key is not one there is.
    #[error(
        "constraint {text:?} asks for {key:?}: use node.id, node.hostname, node.ip, node.role, \
         node.platform.os, node.platform.arch, node.labels.NAME or engine.labels.NAME"
    )]
    UnknownKey {
        /// The whole constraint.
        text: String,
        /// Its key.
        key: String,
    },
    /// The value cannot be one of the key's.
    #[error("constraint {text:?}: {why}")]
    BadValue {
        /// The whole constraint.
        text: String,
        /// What is wrong and what would be right.
        why: &'static str,
    },
}

impl Constraint {
    /// Parses one constraint.
    pub fn parse(text: &str) -> Result<Self, ConstraintError> {
        let (key, value, equal) = match (text.split_once("=="), text.split_once("!=")) {
            (Some((k, v)), None) => (k, v, true),
            (None, Some((k, v))) => (k, v, false),
            (Some((k, v)), Some((k2, v2))) => {
                if k.len() < k2.len() {
                    (k, v, true)
                } else {
                    (k2, v2, false)
                }
            }
            (None, None) => return Err(ConstraintError::NoOperator(text.to_owned())),
        };
        let (key, value) = (key.trim(), value.trim());
        let bad = |why| ConstraintError::BadValue { text: text.to_owned(), why };
        if value.is_empty() {
            return Err(bad("its value is empty"));
        }
        let attribute = match key.to_ascii_lowercase().as_str() {
            "node.id" => Attribute::Id,
            "node.hostname" => Attribute::Hostname,
            "node.ip" => {
                let cidr = if value.contains('/') { value.to_owned() } else { format!("{value}/32") };
                Attribute::Ip(
                    cidr.parse().map_err(|_| bad("its value is neither an IPv4 address nor a network"))?,
                )
            }
            "node.role" if value.eq_ignore_ascii_case("manager") || value.eq_ignore_ascii_case("worker") => {
                Attribute::Role
            }
            "node.role" => return Err(bad("a role is manager or worker")),
            "node.platform.os" => Attribute::Os,
            "node.platform.arch" => Attribute::Arch,
            _ => match (key.strip_prefix("node.labels."), key.strip_prefix("engine.labels.")) {
                (Some(l), _) if !l.is_empty() => Attribute::NodeLabel(l.to_owned()),
                (_, Some(l)) if !l.is_empty() => Attribute::EngineLabel(l.to_owned()),
                _ => return Err(ConstraintError::UnknownKey { text: text.to_owned(), key: key.to_owned() }),
            },
        };
        let op = if equal { "==" } else { "!=" };
        Ok(Self { key: attribute, equal, value: value.to_owned(), text: format!("{key}{op}{value}") })
    }

    /// Whether the node satisfies it.
    pub fn matches(&self, node: &v1::Node) -> bool {
        let description = node.description.as_ref();
        let platform = description.and_then(|d| d.platform.as_ref());
        let is = |actual: &str| actual.eq_ignore_ascii_case(&self.value);
        let holds = match &self.key {
            Attribute::Id => is(&node.id),
            Attribute::Hostname => is(description.map_or("", |d| &d.hostname)),
            Attribute::Ip(cidr) => node.addr.parse::<Ipv4Addr>().is_ok_and(|a| cidr.contains(a.into())),
            Attribute::Role => match node.spec.as_ref().map(v1::NodeSpec::role) {
                Some(v1::NodeRole::Manager) => is("manager"),
                _ => is("worker"),
            },
            Attribute::Os => is(platform.map_or("", |p| &p.os)),
            Attribute::Arch => {
                architecture(platform.map_or("", |p| &p.architecture))
                    == architecture(&self.value.to_lowercase())
            }
            Attribute::NodeLabel(l) => {
                let labels = node.spec.as_ref().and_then(|s| s.annotations.as_ref()).map(|a| &a.labels);
                is(labels.and_then(|m| m.get(l)).map_or("", String::as_str))
            }
            Attribute::EngineLabel(l) => {
                is(description.and_then(|d| d.engine_labels.get(l)).map_or("", String::as_str))
            }
        };
        holds == self.equal
    }
}

impl fmt::Display for Constraint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

/// Machine names as the kernel has them and as images have them are the same.
pub(super) fn architecture(name: &str) -> &str {
    match name {
        "x86_64" | "x86-64" => "amd64",
        "aarch64" => "arm64",
        "armv7l" | "armhf" => "arm",
        other => other,
    }
}

/// The value of a label (or other attribute) a spread preference names; "" where the node has none.
pub(super) fn attribute<'a>(node: &'a v1::Node, descriptor: &str) -> &'a str {
    let description = node.description.as_ref();
    match descriptor {
        "node.id" => &node.id,
        "node.hostname" => description.map_or("", |d| &d.hostname),
        _ => {
            let labels =
                match (descriptor.strip_prefix("node.labels."), descriptor.strip_prefix("engine.labels.")) {
                    (Some(l), _) => {
                        node.spec.as_ref().and_then(|s| s.annotations.as_ref()).map(|a| (&a.labels, l))
                    }
                    (_, Some(l)) => description.map(|d| (&d.engine_labels, l)),
                    _ => None,
                };
            labels.and_then(|(m, l)| m.get(l)).map_or("", String::as_str)
        }
    }
}
