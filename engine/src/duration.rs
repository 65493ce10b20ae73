//! Spans of time as Go writes them.

use std::time::Duration;

/// Reads `1h5m30.5s20ms` (Go's `time.ParseDuration`, without a sign); none if it is no such thing.
pub fn parse_duration(text: &str) -> Option<Duration> {
    if text == "0" {
        return Some(Duration::ZERO);
    }
    let (mut total, mut rest) = (0f64, text);
    if rest.is_empty() {
        return None;
    }
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit() && c != '.')?;
        let number: f64 = rest[..digits].parse().ok()?;
        let unit = &rest[digits..];
        let length = unit.find(|c: char| c.is_ascii_digit() || c == '.').unwrap_or(unit.len());
        total += number
            * match &unit[..length] {
                "ns" => 1.0,
                "us" | "µs" => 1e3,
                "ms" => 1e6,
                "s" => 1e9,
                "m" => 60e9,
                "h" => 3600e9,
                _ => return None,
            };
        rest = &unit[length..];
    }
    (total < i64::MAX as f64).then_some(Duration::from_nanos(total as u64))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_read_as_go_reads_them() {
        for (text, ms) in [
            ("1s", Some(1000)),
            ("1m0.5s", Some(60_500)),
            ("1.5s.5s", Some(2000)),
            ("0", Some(0)),
            ("3", None),
            ("", None),
            ("s", None),
            ("1.2.3s", None),
            ("9999999999h", None),
        ] {
            assert_eq!(parse_duration(text), ms.map(Duration::from_millis), "{text}");
        }
    }
}
