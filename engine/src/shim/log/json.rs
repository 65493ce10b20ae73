//! A message as a line of a json-file log, byte for byte as Docker writes it.

use std::collections::BTreeMap;
use std::io::{self, Write};

use time::OffsetDateTime;

use super::lines::Message;

/// Adds a line to `out`; `attributes` is [`attributes`]' text.
pub(super) fn put(m: &Message<'_>, attributes: &[u8], out: &mut Vec<u8>) -> io::Result<()> {
    out.extend_from_slice(b"{\"log\":\"");
    escape(m.line, out);
    if m.ends() {
        out.extend_from_slice(b"\\n");
    }
    write!(out, "\",\"stream\":\"{}\",", m.stream)?;
    out.extend_from_slice(attributes);
    out.extend_from_slice(b"\"time\":\"");
    let time = OffsetDateTime::from_unix_timestamp_nanos(m.time_ns.into());
    timestamp(time.unwrap_or(OffsetDateTime::UNIX_EPOCH), out)?;
    out.extend_from_slice(b"\"}\n");
    Ok(())
}

/// The attributes of every line, as they stand in it.
pub(super) fn attributes(of: &BTreeMap<String, String>) -> Vec<u8> {
    let mut out = Vec::new();
    for (key, value) in of {
        out.extend_from_slice(if out.is_empty() { b"\"attrs\":{\"" } else { b",\"" });
        escape(key.as_bytes(), &mut out);
        out.extend_from_slice(b"\":\"");
        escape(value.as_bytes(), &mut out);
        out.push(b'"');
    }
    if !out.is_empty() {
        out.extend_from_slice(b"},");
    }
    out
}

/// JSON text as Go's encoder writes it: also `<`, `>`, `&` and the line separators are escaped, and
/// what is not UTF-8 becomes U+FFFD.
fn escape(bytes: &[u8], out: &mut Vec<u8>) {
    for chunk in bytes.utf8_chunks() {
        let mut rest = chunk.valid();
        while let Some(at) = rest.find(|c: char| {
            matches!(c, '\0'..='\x1f' | '"' | '\\' | '<' | '>' | '&' | '\u{2028}' | '\u{2029}')
        }) {
            out.extend_from_slice(&rest.as_bytes()[..at]);
            let Some(c) = rest[at..].chars().next() else { break };
            match c {
                '"' => out.extend_from_slice(b"\\\""),
                '\\' => out.extend_from_slice(b"\\\\"),
                '\n' => out.extend_from_slice(b"\\n"),
                '\r' => out.extend_from_slice(b"\\r"),
                '\t' => out.extend_from_slice(b"\\t"),
                c => out.extend_from_slice(format!("\\u{:04x}", c as u32).as_bytes()),
            }
            rest = &rest[at + c.len_utf8()..];
        }
        out.extend_from_slice(rest.as_bytes());
        if !chunk.invalid().is_empty() {
            out.extend_from_slice(b"\\ufffd");
        }
    }
}

/// RFC 3339 with as many digits of the second as there are.
fn timestamp(t: OffsetDateTime, out: &mut Vec<u8>) -> io::Result<()> {
    let (date, month) = (t.date(), u8::from(t.month()));
    write!(
        out,
        "{:04}-{month:02}-{:02}T{:02}:{:02}:{:02}",
        date.year(),
        date.day(),
        t.hour(),
        t.minute(),
        t.second()
    )?;
    if t.nanosecond() != 0 {
        let digits = format!("{:09}", t.nanosecond());
        write!(out, ".{}", digits.trim_end_matches('0'))?;
    }
    out.push(b'Z');
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_is_escaped_as_go_escapes_it() {
        let mut out = Vec::new();
        escape(b"a\"\\\t\x01<b>&\xff\xc3\xa4", &mut out);
        assert_eq!(String::from_utf8_lossy(&out), "a\\\"\\\\\\t\\u0001\\u003cb\\u003e\\u0026\\ufffdä");
    }

    #[test]
    fn times_have_no_trailing_zeros() {
        for (ns, wanted) in [(0, "1970-01-01T00:00:00Z"), (1_500_000_000, "1970-01-01T00:00:01.5Z")] {
            let mut out = Vec::new();
            let t = OffsetDateTime::from_unix_timestamp_nanos(ns).expect("in range");
            timestamp(t, &mut out).expect("memory");
            assert_eq!(String::from_utf8_lossy(&out), wanted);
        }
    }

    #[test]
    fn attributes_stand_before_the_time() {
        let attributes =
            attributes(&[("a".to_owned(), "1".to_owned()), ("b".to_owned(), "\"".to_owned())].into());
        let mut out = Vec::new();
        let message = Message { stream: "stdout", time_ns: 0, line: b"x", part: None };
        put(&message, &attributes, &mut out).expect("memory");
        assert_eq!(
            String::from_utf8_lossy(&out),
            "{\"log\":\"x\\n\",\"stream\":\"stdout\",\"attrs\":{\"a\":\"1\",\"b\":\"\\\"\"},\"time\":\"1970-01-01T00:00:00Z\"}\n"
        );
    }
}
