//! A YAML document as JSON, read as Go's `sigs.k8s.io/yaml` reads CDI specifications: plain words become what YAML 1.1
//! has them be (`0660` is octal). Aliases are refused: a short document could stand for an endless one.

use serde_json::{Map, Value};
use yaml_rust2::parser::{Event, Parser};
use yaml_rust2::scanner::TScalarStyle;

/// Deeper than any specification goes.
const MOST_DEPTH: usize = 32;

/// A list or mapping that is still being read.
enum Open {
    List(Vec<Value>),
    Map(Map<String, Value>, Option<String>),
}

/// Reads one document. The error says what is wrong and where.
pub fn parse(text: &str) -> Result<Value, String> {
    let mut parser = Parser::new_from_str(text);
    let (mut open, mut document) = (Vec::new(), None);
    loop {
        let (event, mark) = parser.next_token().map_err(|e| e.to_string())?;
        let at = |what: &str| format!("{what} at line {}", mark.line());
        let done = match event {
            Event::StreamEnd => return Ok(document.unwrap_or_default()),
            Event::DocumentStart if document.is_some() => return Err(at("a second document")),
            Event::Nothing | Event::StreamStart | Event::DocumentStart | Event::DocumentEnd => continue,
            Event::Alias(_) => return Err(at("an alias, which is not supported")),
            Event::SequenceStart(..) | Event::MappingStart(..) if open.len() == MOST_DEPTH => {
                return Err(at("too many levels"));
            }
            Event::SequenceStart(..) => {
                open.push(Open::List(Vec::new()));
                continue;
            }
            Event::MappingStart(..) => {
                open.push(Open::Map(Map::new(), None));
                continue;
            }
            Event::Scalar(text, style, _, tag) => {
                // A name is a string, whatever it looks like.
                if let Some(Open::Map(_, name @ None)) = open.last_mut() {
                    *name = Some(text);
                    continue;
                }
                match style == TScalarStyle::Plain && tag.is_none() {
                    true => plain(text),
                    false => Value::String(text),
                }
            }
            Event::SequenceEnd | Event::MappingEnd => match open.pop() {
                Some(Open::List(list)) => list.into(),
                Some(Open::Map(map, _)) => map.into(),
                None => return Err(at("an end without a beginning")),
            },
        };
        match open.last_mut() {
            None => document = Some(done),
            Some(Open::List(list)) => list.push(done),
            Some(Open::Map(map, name)) => {
                let Some(name) = name.take() else { return Err(at("a name that is not a word")) };
                if map.insert(name.clone(), done).is_some() {
                    return Err(at(&format!("a second {name:?}")));
                }
            }
        }
    }
}

/// A word without quotes.
fn plain(text: String) -> Value {
    let digits = text.strip_prefix('-').unwrap_or(&text);
    let number = match digits.get(..2) {
        Some("0x") => i64::from_str_radix(&digits[2..], 16).ok(),
        Some("0o") => i64::from_str_radix(&digits[2..], 8).ok(),
        Some(two) if two.starts_with('0') && !digits.contains('.') => i64::from_str_radix(digits, 8).ok(),
        _ => digits.parse().ok(),
    };
    match (text.as_str(), number) {
        ("" | "~" | "null" | "Null" | "NULL", _) => Value::Null,
        ("true" | "True" | "TRUE", _) => true.into(),
        ("false" | "False" | "FALSE", _) => false.into(),
        (_, Some(n)) => if text.starts_with('-') { -n } else { n }.into(),
        (word, None) => {
            let float = word.starts_with(|c: char| c.is_ascii_digit() || c == '-');
            let float = float.then(|| word.parse::<f64>().ok()).flatten().filter(|f| f.is_finite());
            float.map_or(Value::String(text), Value::from)
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    #[test]
    fn words_are_what_yaml_has_them_be() {
        let text = "kind: a/b\nlist:\n- n: \"1\"\n  mode: 0660\n  minor: -3\n- {x: true, y: ~, 8: 1.5}\n- [a, 'b c', 0x10]\nv: 0.6.0\n";
        let wanted = json!({
            "kind": "a/b", "v": "0.6.0",
            "list": [{ "n": "1", "mode": 0o660, "minor": -3 }, { "x": true, "y": null, "8": 1.5 }, ["a", "b c", 16]],
        });
        assert_eq!(parse(text), Ok(wanted));
        for bad in ["a: &x 1\nb: *x", "a: 1\na: 2", "a: [", "a\n---\nb", "[1]: 2"] {
            assert!(parse(bad).is_err(), "{bad}");
        }
        assert!(parse(&"[".repeat(100_000)).is_err());
    }

    proptest! {
        #[test]
        fn any_text_is_a_document_or_an_error(text in "[-\\[\\]{}:,&*!|>'\"%@`#a0x \n\t]{0,64}") {
            let _ = parse(&text);
        }

        #[test]
        fn json_is_yaml(value in crate::fuzz::json()) {
            let _ = parse(&value.to_string());
        }
    }
}
