//! One line of a json-file log.

use bytes::Bytes;
use serde::Deserialize;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use super::{LogFrame, StdStream};

#[derive(Deserialize)]
struct Line {
    #[serde(default)]
    log: String,
    #[serde(default)]
    stream: String,
    time: String,
}

/// The frame in a line, or why there is none.
pub(super) fn parse(line: &[u8]) -> Result<LogFrame, String> {
    let l: Line = serde_json::from_slice(line).map_err(|e| e.to_string())?;
    let stream = match l.stream.as_str() {
        "stdout" | "" => StdStream::Stdout,
        "stderr" => StdStream::Stderr,
        other => return Err(format!("unknown stream {other:?}")),
    };
    let time = OffsetDateTime::parse(&l.time, &Rfc3339).map_err(|e| format!("time {:?}: {e}", l.time))?;
    let timestamp_ns = i64::try_from(time.unix_timestamp_nanos())
        .map_err(|_| format!("time {:?} is out of range", l.time))?;
    Ok(LogFrame { stream, timestamp_ns, data: Bytes::from(l.log.into_bytes()) })
}

/// Cuts a growing stream of bytes into lines.
#[derive(Debug, Default)]
pub(super) struct Lines {
    rest: Vec<u8>,
}

impl Lines {
    /// Adds bytes, gives each whole line to `each`; stops when it says so.
    pub(super) fn add(&mut self, mut bytes: &[u8], mut each: impl FnMut(&[u8]) -> bool) -> bool {
        while let Some(end) = bytes.iter().position(|b| *b == b'\n') {
            let (line, after) = (&bytes[..end], &bytes[end + 1..]);
            let go_on = if self.rest.is_empty() {
                line.is_empty() || each(line)
            } else {
                self.rest.extend_from_slice(line);
                let whole = std::mem::take(&mut self.rest);
                each(&whole)
            };
            if !go_on {
                return false;
            }
            bytes = after;
        }
        self.rest.extend_from_slice(bytes);
        true
    }

    /// What has no line end (a file cut short), given as a line.
    pub(super) fn finish(&mut self, mut each: impl FnMut(&[u8]) -> bool) -> bool {
        let rest = std::mem::take(&mut self.rest);
        rest.is_empty() || each(&rest)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parses_docker_lines_and_says_what_is_wrong() {
        let f = parse(br#"{"log":"hi\n","stream":"stderr","time":"2024-01-02T03:04:05.000000006Z"}"#)
            .expect("parses");
        assert_eq!(
            (f.stream, f.timestamp_ns, f.data.as_ref()),
            (StdStream::Stderr, 1_704_164_645_000_000_006, b"hi\n".as_slice())
        );
        for bad in
            [&b"{"[..], b"", b"{}", br#"{"log":"x","stream":"z","time":"2024-01-02T03:04:05Z"}"#, b"\0\0\0"]
        {
            assert!(parse(bad).is_err());
        }
    }

    #[test]
    fn lines_may_come_in_pieces() {
        let mut lines = Lines::default();
        let mut got = Vec::new();
        for piece in ["ab", "c\nd", "\n\ne\nf"] {
            lines.add(piece.as_bytes(), |l| {
                got.push(String::from_utf8_lossy(l).into_owned());
                true
            });
        }
        lines.finish(|l| {
            got.push(String::from_utf8_lossy(l).into_owned());
            true
        });
        assert_eq!(got, ["abc", "d", "e", "f"]);
    }
}
