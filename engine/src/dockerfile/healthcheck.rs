//! `HEALTHCHECK`.

use serde_json::{Value, json};

use super::error::SyntaxError;
use super::flags::Flags;
use super::instruction::Command;
use super::lines::Line;
use super::{command, split};
use crate::parse_duration;

const FLAGS: &[&str] = &["interval", "timeout", "start-period", "start-interval", "retries"];

/// Reads it into the form of image configurations.
pub(super) fn read(line: &Line, rest: &str, escape: char) -> Result<Value, SyntaxError> {
    let (mut flags, arguments) = Flags::read("HEALTHCHECK", line, rest, escape, FLAGS)?;
    let at = line.place(arguments);
    let mut out = serde_json::Map::new();
    let mut any = false;
    for (flag, key) in [
        ("interval", "Interval"),
        ("timeout", "Timeout"),
        ("start-period", "StartPeriod"),
        ("start-interval", "StartInterval"),
    ] {
        let Some(text) = flags.one(flag)? else { continue };
        any = true;
        let ns = parse_duration(&text)
            .and_then(|d| u64::try_from(d.as_nanos()).ok())
            .ok_or_else(|| SyntaxError::new(at, format!("invalid duration {text:?} of --{flag}")))?;
        if ns != 0 && ns < 1_000_000 {
            return Err(SyntaxError::new(at, format!("Interval {flag:?} cannot be less than 1ms")));
        }
        out.insert(key.into(), json!(ns));
    }
    if let Some(text) = flags.one("retries")? {
        any = true;
        let n = text.parse::<u32>().map_err(|_| {
            SyntaxError::new(at, format!("--retries must be a number that is not negative, not {text}"))
        })?;
        out.insert("Retries".into(), json!(n));
    }
    let (kind, rest) = split::first_word(arguments);
    let test = match kind.to_ascii_uppercase().as_str() {
        "" => return Err(SyntaxError::new(at, "HEALTHCHECK requires at least one argument")),
        "NONE" if !rest.is_empty() => {
            return Err(SyntaxError::new(at, "HEALTHCHECK NONE takes no arguments"));
        }
        "NONE" if any => return Err(SyntaxError::new(at, "HEALTHCHECK NONE takes no flags")),
        "NONE" => vec!["NONE".to_owned()],
        "CMD" if rest.is_empty() => {
            return Err(SyntaxError::new(at, "Missing command after HEALTHCHECK CMD"));
        }
        "CMD" => match command::read(rest) {
            Command::Exec(list) => [vec!["CMD".to_owned()], list].concat(),
            Command::Shell(text) => vec!["CMD-SHELL".to_owned(), text],
        },
        _ => {
            let why = format!("Unknown type {kind:?} in HEALTHCHECK (try CMD)");
            return Err(SyntaxError::new(at, why));
        }
    };
    out.insert("Test".into(), json!(test));
    Ok(Value::Object(out))
}
