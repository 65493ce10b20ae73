//! Durations, times and sizes as Docker words them.

use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

/// "3 minutes": the whole units of a span.
pub fn duration(seconds: i64) -> String {
    let s = seconds.max(0);
    let hours = (s + 1800) / 3600;
    match (s, hours) {
        (0, _) => "Less than a second".into(),
        (1, _) => "1 second".into(),
        (2..=59, _) => format!("{s} seconds"),
        (60..=119, _) => "About a minute".into(),
        (120..=3599, _) => format!("{} minutes", s / 60),
        (_, 0..=1) => "About an hour".into(),
        (_, 2..=47) => format!("{hours} hours"),
        (_, 48..=335) => format!("{} days", hours / 24),
        (_, 336..=1439) => format!("{} weeks", hours / 168),
        (_, 1440..=17_519) => format!("{} months", hours / 720),
        _ => format!("{} years", hours / 8760),
    }
}

/// Bytes as hexadecimal digits.
pub fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|b| format!("{b:02x}")).collect()
}

/// Seconds from an RFC 3339 time until now.
pub fn since(rfc3339: &str) -> i64 {
    OffsetDateTime::parse(rfc3339, &Rfc3339).map_or(0, |t| (OffsetDateTime::now_utc() - t).whole_seconds())
}

/// Seconds from a Unix time until now.
pub fn since_unix(seconds: i64) -> i64 {
    OffsetDateTime::now_utc().unix_timestamp() - seconds
}

/// `2026-11-24 01:02:03.5 +0000 UTC`, as Go prints a time. Another text stays as it is.
pub fn time(rfc3339: &str) -> String {
    OffsetDateTime::parse(rfc3339, &Rfc3339).map_or_else(|_| rfc3339.to_owned(), go_time)
}

/// A Unix time as RFC 3339.
pub fn rfc3339(seconds: i64) -> String {
    let t = OffsetDateTime::from_unix_timestamp(seconds).ok();
    t.and_then(|t| t.format(&Rfc3339).ok()).unwrap_or_else(|| seconds.to_string())
}

/// The same of a Unix time.
pub fn unix_time(seconds: i64) -> String {
    OffsetDateTime::from_unix_timestamp(seconds).map_or_else(|_| seconds.to_string(), go_time)
}

fn go_time(t: OffsetDateTime) -> String {
    let t = t.to_offset(time::UtcOffset::UTC);
    let nanos = format!(".{:09}", t.nanosecond());
    let nanos = nanos.trim_end_matches('0').trim_end_matches('.');
    let (y, mo, d, h, mi, s) = (t.year(), u8::from(t.month()), t.day(), t.hour(), t.minute(), t.second());
    format!("{y:04}-{mo:02}-{d:02} {h:02}:{mi:02}:{s:02}{nanos} +0000 UTC")
}

/// A time given as Unix seconds, RFC 3339, a date, or a span back from now (`42m`), as the API takes it.
pub fn timestamp(text: &str) -> anyhow::Result<String> {
    if !text.is_empty() && text.chars().all(|c| c.is_ascii_digit() || c == '.') {
        return Ok(text.to_owned());
    }
    if let Ok(Some(span)) = super::service_spec::duration(Some(text)) {
        let then = OffsetDateTime::now_utc() - time::Duration::nanoseconds(span);
        // To the second, as Docker's client has it.
        return Ok(then.unix_timestamp().to_string());
    }
    let full = match text.len() {
        10 => format!("{text}T00:00:00Z"),
        16 => format!("{text}:00Z"),
        19 => format!("{text}Z"),
        _ => text.to_owned(),
    };
    match OffsetDateTime::parse(&full, &Rfc3339) {
        Ok(then) => Ok(format!("{}.{:09}", then.unix_timestamp(), then.nanosecond())),
        Err(_) => anyhow::bail!(
            "{text:?} is not a time: want 2026-11-24T01:02:03Z, Unix seconds, or a span like 42m"
        ),
    }
}

/// `1.23MB`: three digits, in powers of 1000.
pub fn size(bytes: i64) -> String {
    scaled(bytes, 1000.0, 3, &DECIMAL)
}

/// The same with four digits.
pub fn long_size(bytes: i64) -> String {
    scaled(bytes, 1000.0, 4, &DECIMAL)
}

const DECIMAL: [&str; 7] = ["B", "kB", "MB", "GB", "TB", "PB", "EB"];

/// `7.763GiB`: four digits, in powers of 1024.
pub fn binary_size(bytes: i64) -> String {
    scaled(bytes, 1024.0, 4, &["B", "KiB", "MiB", "GiB", "TiB", "PiB", "EiB"])
}

fn scaled(bytes: i64, base: f64, digits: usize, units: &[&str]) -> String {
    let (mut n, mut unit) = (bytes as f64, 0);
    while n >= base && unit + 1 < units.len() {
        n /= base;
        unit += 1;
    }
    let whole = format!("{}", n.trunc() as i64).trim_start_matches('-').len();
    let text = format!("{n:.*}", digits.saturating_sub(whole));
    let text = if text.contains('.') { text.trim_end_matches('0').trim_end_matches('.') } else { &text };
    format!("{text}{}", units[unit])
}

/// At most `length` characters, the last an ellipsis if there were more.
pub fn ellipsis(text: &str, length: usize) -> String {
    if text.chars().count() <= length {
        return text.to_owned();
    }
    text.chars().take(length.saturating_sub(1)).chain(['…']).collect()
}

/// First letter large.
pub fn capital(text: &str) -> String {
    let mut chars = text.chars();
    chars.next().map_or_else(String::new, |c| c.to_uppercase().chain(chars).collect())
}

/// First 12 characters, without `sha256:`, unless all are wanted.
pub fn short_id(id: &str, whole: bool) -> String {
    if whole { id.to_owned() } else { id.trim_start_matches("sha256:").chars().take(12).collect() }
}

/// What orders `web.2` before `web.10`: each run of digits counts as a number.
pub fn natural(name: &str) -> Vec<(String, u64)> {
    let mut key = Vec::new();
    let mut rest = name;
    while !rest.is_empty() {
        let (text, after) = rest.split_at(rest.find(|c: char| c.is_ascii_digit()).unwrap_or(rest.len()));
        let (digits, after) =
            after.split_at(after.find(|c: char| !c.is_ascii_digit()).unwrap_or(after.len()));
        key.push((text.to_owned(), digits.parse().unwrap_or(if digits.is_empty() { 0 } else { u64::MAX })));
        rest = after;
    }
    key
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_times_and_sizes_read_as_docker_words_them() {
        for (seconds, want) in [
            (0, "Less than a second"),
            (119, "About a minute"),
            (125, "2 minutes"),
            (3700, "About an hour"),
            (5400, "2 hours"),
            (90_000, "25 hours"),
            (200_000, "2 days"),
            (1_300_000, "2 weeks"),
            (100_000_000, "3 years"),
        ] {
            assert_eq!(duration(seconds), want, "{seconds}");
        }
        assert_eq!(time("2026-11-24T01:02:03.5Z"), "2026-11-24 01:02:03.5 +0000 UTC");
        assert_eq!(time("2026-11-24T01:02:03Z"), "2026-11-24 01:02:03 +0000 UTC");
        for (bytes, want) in [
            (0, "0B"),
            (999, "999B"),
            (1000, "1kB"),
            (4_280_000, "4.28MB"),
            (12_345_678, "12.3MB"),
            (123_456_789, "123MB"),
        ] {
            assert_eq!(size(bytes), want);
        }
        assert_eq!(binary_size(8_335_000_000), "7.763GiB");
        assert_eq!(ellipsis("abcdef", 4), "abc…");
    }
}
