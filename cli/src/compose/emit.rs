//! A tree as YAML, as Go's marshaller writes it.

use super::node::{Kind, Node, Type};
use super::yaml;

/// The whole document.
pub fn document(node: &Node) -> String {
    let mut out = String::new();
    value(node, 0, &mut out);
    out
}

fn value(node: &Node, depth: usize, out: &mut String) {
    let pad = "  ".repeat(depth);
    match &node.kind {
        Kind::Map(entries) if !entries.is_empty() => {
            for (key, inner) in entries {
                out.push_str(&pad);
                out.push_str(&match key.text.contains('\n') {
                    true => serde_json::to_string(&key.text).unwrap_or_default(),
                    false => scalar(Type::Str, &key.text, depth),
                });
                out.push(':');
                after(inner, depth + 1, out);
            }
        }
        Kind::List(items) if !items.is_empty() => {
            for item in items {
                out.push_str(&pad);
                out.push('-');
                match &item.kind {
                    // The first line of what is in it stands beside the dash.
                    Kind::Map(inner) if !inner.is_empty() => nested(item, depth, out),
                    Kind::List(inner) if !inner.is_empty() => nested(item, depth, out),
                    _ => after(item, depth + 1, out),
                }
            }
        }
        _ => after(node, depth, out),
    }
}

fn nested(item: &Node, depth: usize, out: &mut String) {
    let mut inner = String::new();
    value(item, depth + 1, &mut inner);
    out.push(' ');
    out.push_str(inner.trim_start_matches(' '));
}

/// What follows a colon or a dash.
fn after(node: &Node, depth: usize, out: &mut String) {
    match &node.kind {
        Kind::Map(entries) if entries.is_empty() => out.push_str(" {}\n"),
        Kind::List(items) if items.is_empty() => out.push_str(" []\n"),
        Kind::Map(_) | Kind::List(_) => {
            out.push('\n');
            value(node, depth, out);
        }
        Kind::Scalar(ty, text) => {
            out.push(' ');
            out.push_str(&scalar(*ty, text, depth));
            out.push('\n');
        }
    }
}

fn scalar(ty: Type, text: &str, depth: usize) -> String {
    match ty {
        Type::Null => return "null".into(),
        Type::Bool | Type::Int | Type::Float => return text.to_owned(),
        Type::Str => {}
    }
    let printable = text.chars().all(|c| (c >= ' ' && c != '\u{7f}') || c == '\n')
        && !text.contains(['\u{85}', '\u{2028}', '\u{2029}', '\u{feff}']);
    if printable
        && text.contains('\n')
        && !text.starts_with([' ', '\n'])
        && text.lines().all(|l| !l.ends_with(' '))
    {
        let pad = "  ".repeat(depth);
        let keep = match (text.ends_with('\n'), text.ends_with("\n\n")) {
            (false, _) => "-",
            (true, false) => "",
            (true, true) => "+",
        };
        let lines = text.strip_suffix('\n').unwrap_or(text).split('\n');
        let lines: Vec<_> =
            lines.map(|l| if l.is_empty() { String::new() } else { format!("{pad}{l}") }).collect();
        return format!("|{keep}\n{}", lines.join("\n"));
    }
    if printable && !text.contains('\n') {
        if bare(text) {
            return text.to_owned();
        }
        // As Go's: what would be read as something else is in double quotes, what has signs in single ones.
        if yaml::plain(text) == Type::Str && !old_boolean(text) {
            return format!("'{}'", text.replace('\'', "''"));
        }
    }
    serde_json::to_string(text).unwrap_or_default()
}

/// Words that older YAML reads as booleans.
fn old_boolean(text: &str) -> bool {
    ["y", "n", "yes", "no", "on", "off"].iter().any(|w| text.eq_ignore_ascii_case(w))
}

/// Whether a text stands for itself without quotes.
fn bare(text: &str) -> bool {
    let first = text.chars().next().unwrap_or(' ');
    let starts = match first {
        '-' | '?' | ':' => text.chars().nth(1).is_some_and(|c| c != ' '),
        c => !" \t!&*#|>@`%{}[],'\"".contains(c),
    };
    starts
        && !text.ends_with([' ', ':'])
        && !text.contains(": ")
        && !text.contains(" #")
        && !text.starts_with("---")
        && !text.starts_with("...")
        && text != "<<"
        && text != "="
        && yaml::plain(text) == Type::Str
        && !old_boolean(text)
}
