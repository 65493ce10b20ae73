//! Times as Docker writes and reads them.

use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use crate::error::{ApiError, ApiResult};

/// What Go prints for a time that never was.
pub const NEVER: &str = "0001-01-01T00:00:00Z";

/// RFC 3339 with as many decimals as needed; 0 is [`NEVER`].
pub fn from_ns(ns: i64) -> String {
    if ns == 0 {
        return NEVER.into();
    }
    OffsetDateTime::from_unix_timestamp_nanos(i128::from(ns))
        .ok()
        .and_then(|t| t.format(&Rfc3339).ok())
        .unwrap_or_else(|| NEVER.into())
}

/// The same from milliseconds.
pub fn from_ms(ms: i64) -> String {
    from_ns(ms.saturating_mul(1_000_000))
}

/// RFC 3339 with nine decimals, as log lines are stamped.
pub fn fixed(ns: i64) -> String {
    let t = OffsetDateTime::from_unix_timestamp_nanos(i128::from(ns)).unwrap_or(OffsetDateTime::UNIX_EPOCH);
    format!(
        "{:04}-{:02}-{:02}T{:02}:{:02}:{:02}.{:09}Z",
        t.year(),
        u8::from(t.month()),
        t.day(),
        t.hour(),
        t.minute(),
        t.second(),
        t.nanosecond()
    )
}

/// Now, in nanoseconds since the Unix epoch.
pub fn now_ns() -> i64 {
    i64::try_from(OffsetDateTime::now_utc().unix_timestamp_nanos()).unwrap_or(i64::MAX)
}

/// Reads `since`/`until`: `seconds[.nanoseconds]`, or RFC 3339. Empty and `0` are none.
pub fn parse(name: &str, text: &str) -> ApiResult<Option<i64>> {
    let bad = || {
        ApiError::bad_request(format!(
            "invalid value {text:?} for {name:?}: give seconds since 1970 (with an optional fraction) or an RFC 3339 time"
        ))
    };
    if text.is_empty() || text == "0" {
        return Ok(None);
    }
    if let Ok(t) = OffsetDateTime::parse(text, &Rfc3339) {
        return i64::try_from(t.unix_timestamp_nanos()).map(Some).map_err(|_| bad());
    }
    let (seconds, fraction) = text.split_once('.').unwrap_or((text, ""));
    let seconds: i64 = seconds.parse().map_err(|_| bad())?;
    if fraction.len() > 9 || !fraction.bytes().all(|b| b.is_ascii_digit()) {
        return Err(bad());
    }
    let nanos: i64 = format!("{fraction:0<9}").parse().map_err(|_| bad())?;
    let ns = seconds.checked_mul(1_000_000_000).and_then(|s| s.checked_add(nanos)).ok_or_else(bad)?;
    Ok(Some(ns).filter(|ns| *ns != 0))
}

/// Reads an `until` filter: as [`parse`], a date, or a span back from now such as `24h` or `1h30m`.
pub fn until(text: &str) -> ApiResult<i64> {
    // A bare `0` is the time 0.
    if let Some(span) = skep_engine::parse_duration(text).filter(|_| text != "0") {
        return Ok(now_ns().saturating_sub(i64::try_from(span.as_nanos()).unwrap_or(i64::MAX)));
    }
    let full = match text.len() {
        10 if text.contains('-') => format!("{text}T00:00:00Z"),
        16 if text.contains('-') => format!("{text}:00Z"),
        19 if text.contains('-') => format!("{text}Z"),
        _ => text.to_owned(),
    };
    Ok(parse("until", &full)?.unwrap_or(0))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_written_as_go_does() {
        assert_eq!(from_ns(0), NEVER);
        assert_eq!(from_ns(1_500_000_000), "1970-01-01T00:00:01.5Z");
        assert_eq!(from_ms(1000), "1970-01-01T00:00:01Z");
        assert_eq!(fixed(1_500_000_000), "1970-01-01T00:00:01.500000000Z");
    }

    #[test]
    fn until_takes_times_dates_and_spans() {
        assert_eq!(until("12"), Ok(12_000_000_000));
        assert_eq!(until("1970-01-02"), Ok(86_400_000_000_000));
        assert_eq!(until("1970-01-01T00:00:02"), Ok(2_000_000_000));
        let ago = now_ns() - until("1h30m").expect("a span");
        assert!((5_390_000_000_000..5_500_000_000_000).contains(&ago), "{ago}");
        for bad in ["yesterday", "10x", "h", "1.2.3s"] {
            assert!(until(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn times_are_read_in_both_forms() {
        assert_eq!(parse("since", ""), Ok(None));
        assert_eq!(parse("since", "0"), Ok(None));
        assert_eq!(parse("since", "12"), Ok(Some(12_000_000_000)));
        assert_eq!(parse("since", "12.000000345"), Ok(Some(12_000_000_345)));
        assert_eq!(parse("since", "12.5"), Ok(Some(12_500_000_000)));
        assert_eq!(parse("since", "1970-01-01T00:00:02Z"), Ok(Some(2_000_000_000)));
        for bad in ["x", "1.x", "1.0000000001", "99999999999999999999", "10m"] {
            assert!(parse("since", bad).is_err(), "{bad}");
        }
    }
}
