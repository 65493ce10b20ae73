//! pax extension headers: records of keys and values, and the numbers and times written in them
//! (POSIX.1-2017, pax, "pax Extended Header").

use std::collections::BTreeMap;

use super::broken;
use crate::error::Error;

/// Records by key; a later one replaces an earlier.
pub(super) type Records = BTreeMap<Vec<u8>, Vec<u8>>;

/// The records of the extension header `current`.
pub(super) fn records(bytes: &[u8], current: &str) -> Result<Records, Error> {
    let mut rest = bytes;
    let mut out = Records::new();
    while !rest.is_empty() {
        let record =
            record(rest).ok_or_else(|| broken(format!("extension header {current:?} is damaged")))?;
        out.insert(record.0.to_vec(), record.1.to_vec());
        rest = record.2;
    }
    Ok(out)
}

/// `<length> <key>=<value>\n`: key, value, what follows.
fn record(bytes: &[u8]) -> Option<(&[u8], &[u8], &[u8])> {
    let space = bytes.iter().take(20).position(|b| *b == b' ')?;
    let len = usize::try_from(decimal(&bytes[..space])?).ok()?;
    let record = bytes.get(space + 1..len)?.strip_suffix(b"\n")?;
    let equals = record.iter().position(|b| *b == b'=')?;
    Some((&record[..equals], &record[equals + 1..], &bytes[len..]))
}

/// A number in decimal.
pub(super) fn decimal(bytes: &[u8]) -> Option<u64> {
    std::str::from_utf8(bytes).ok()?.parse().ok()
}

/// A time as seconds with a fraction: seconds and nanoseconds.
pub(super) fn timestamp(bytes: &[u8]) -> Option<(i64, i64)> {
    let text = std::str::from_utf8(bytes).ok()?;
    let (seconds, fraction) = text.split_once('.').unwrap_or((text, ""));
    let nanos: i64 = format!("{fraction:0<9}").get(..9)?.parse().ok()?;
    Some((seconds.parse().ok()?, nanos))
}
