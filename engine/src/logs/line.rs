//! Messages out of a log's bytes: lines of json-file, entries of `local`.

use std::collections::BTreeMap;

use bytes::Bytes;
use serde::Deserialize;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use super::{LogFrame, StdStream};
use crate::log_config::LogFormat;
use crate::log_entry::{LENGTH, LogEntry, MAX_ENTRY};

#[derive(Deserialize)]
struct Line {
    #[serde(default)]
    log: String,
    #[serde(default)]
    stream: String,
    #[serde(default)]
    attrs: BTreeMap<String, String>,
    time: String,
}

/// The frame in a line, or why there is none.
pub(crate) fn parse(line: &[u8]) -> Result<LogFrame, String> {
    let l: Line = serde_json::from_slice(line).map_err(|e| e.to_string())?;
    let stream = stream(&l.stream)?;
    let time = OffsetDateTime::parse(&l.time, &Rfc3339).map_err(|e| format!("time {:?}: {e}", l.time))?;
    let timestamp_ns = i64::try_from(time.unix_timestamp_nanos())
        .map_err(|_| format!("time {:?} is out of range", l.time))?;
    let attributes = l.attrs.into_iter().collect();
    Ok(LogFrame { stream, timestamp_ns, data: Bytes::from(l.log.into_bytes()), attributes })
}

fn parse_entry(bytes: &[u8]) -> Result<LogFrame, String> {
    let entry = LogEntry::read(bytes)?;
    let stream = stream(&entry.source)?;
    let ends = entry.ends();
    let mut data = entry.line;
    if ends {
        data.push(b'\n');
    }
    let attributes = entry.attributes.into_iter().map(|a| (a.key, a.value)).collect();
    Ok(LogFrame { stream, timestamp_ns: entry.time_nano, data: data.into(), attributes })
}

fn stream(name: &str) -> Result<StdStream, String> {
    match name {
        "stdout" | "" => Ok(StdStream::Stdout),
        "stderr" => Ok(StdStream::Stderr),
        other => Err(format!("unknown stream {other:?}")),
    }
}

/// Cuts a growing file into messages. What is damaged is told of once, and passed over up to the next message; no
/// more than the longest message is ever kept.
#[derive(Debug)]
pub(super) struct Lines {
    format: LogFormat,
    rest: Vec<u8>,
    /// Within damage that was told of: the next message is looked for.
    lost: bool,
}

type Read = Result<LogFrame, String>;

impl Lines {
    /// At the beginning of a file, or of a message in it.
    pub(super) fn new(format: LogFormat) -> Self {
        Self { format, rest: Vec::new(), lost: false }
    }

    /// Bytes that wait for more.
    #[cfg(test)]
    pub(super) fn kept(&self) -> usize {
        self.rest.len()
    }

    /// At the beginning of another file of the kind.
    pub(super) fn anew(&self) -> Self {
        Self::new(self.format)
    }

    /// Adds bytes, gives each whole message to `each`; stops when it says so.
    pub(super) fn add(&mut self, bytes: &[u8], each: impl FnMut(Read) -> bool) -> bool {
        match self.format {
            LogFormat::Json => self.add_lines(bytes, each),
            LogFormat::Entries => {
                self.rest.extend_from_slice(bytes);
                self.cut_entries(false, each)
            }
        }
    }

    fn add_lines(&mut self, mut bytes: &[u8], mut each: impl FnMut(Read) -> bool) -> bool {
        while let Some(end) = bytes.iter().position(|b| *b == b'\n') {
            let (line, after) = (&bytes[..end], &bytes[end + 1..]);
            let go_on = if std::mem::take(&mut self.lost) {
                true
            } else if self.rest.is_empty() {
                line.is_empty() || each(parse(line))
            } else {
                self.rest.extend_from_slice(line);
                let whole = std::mem::take(&mut self.rest);
                each(parse(&whole))
            };
            if !go_on {
                return false;
            }
            bytes = after;
        }
        if self.lost {
            return true;
        }
        self.rest.extend_from_slice(bytes);
        if self.rest.len() <= MAX_ENTRY {
            return true;
        }
        self.rest = Vec::new();
        self.lost = true;
        each(Err(format!("a line of more than {MAX_ENTRY} bytes")))
    }

    /// `all` = nothing follows what there is.
    fn cut_entries(&mut self, all: bool, mut each: impl FnMut(Read) -> bool) -> bool {
        let mut at = 0;
        let mut go_on = true;
        while go_on && at < self.rest.len() {
            let reason = match entry(&self.rest[at..], self.lost) {
                Found::Entry(read, length) => {
                    self.lost = false;
                    go_on = each(read);
                    at += length;
                    continue;
                }
                Found::Cut if !all => break,
                Found::Cut => "an entry is cut short".to_owned(),
                Found::Wrong(reason) => reason,
            };
            if !std::mem::replace(&mut self.lost, true) {
                go_on = each(Err(reason));
            }
            at += 1;
        }
        self.rest.drain(..at);
        go_on
    }

    /// What is not whole (a file cut short), given as a message.
    pub(super) fn finish(&mut self, mut each: impl FnMut(Read) -> bool) -> bool {
        let go_on = match self.format {
            LogFormat::Json if self.rest.is_empty() => true,
            LogFormat::Json => each(parse(&self.rest)),
            LogFormat::Entries => self.cut_entries(true, each),
        };
        *self = Self::new(self.format);
        go_on
    }
}

/// What begins here.
enum Found {
    /// An entry, of so many bytes with its lengths.
    Entry(Read, usize),
    /// The beginning of one, as it seems.
    Cut,
    /// None, and why.
    Wrong(String),
}

/// `lost` = an entry is looked for within damage: it has to be one beyond doubt.
fn entry(bytes: &[u8], lost: bool) -> Found {
    let Some((head, after)) = bytes.split_first_chunk::<LENGTH>() else { return Found::Cut };
    let length = u32::from_be_bytes(*head) as usize;
    // None is empty. Zeros are what a host that lost its power may leave.
    if length == 0 || length > MAX_ENTRY {
        return Found::Wrong(format!("an entry of {length} bytes"));
    }
    // An entry begins with its stream: field 1, of 6 bytes.
    let begins = |b: &[u8]| b.len() < 8 || matches!(&b[..8], b"\x0a\x06stdout" | b"\x0a\x06stderr");
    if lost && (length < 8 || !begins(after)) {
        return Found::Wrong("no entry".into());
    }
    match after.get(length..length + LENGTH) {
        None => Found::Cut,
        Some(tail) if tail != head => Found::Wrong("an entry with two lengths".into()),
        Some(_) => match parse_entry(&after[..length]) {
            Err(reason) if lost => Found::Wrong(reason),
            read => Found::Entry(read, length + 2 * LENGTH),
        },
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
    fn messages_may_come_in_pieces() {
        let text = |t: &str| format!("{{\"log\":\"{t}\",\"time\":\"2024-01-02T03:04:05Z\"}}\n").into_bytes();
        let entry = |t: &str| {
            let mut out = Vec::new();
            LogEntry { source: "stdout".into(), line: t.into(), ..LogEntry::default() }.put(&mut out);
            out
        };
        for (format, bytes, wanted) in [
            (LogFormat::Json, [text("a"), b"\n".to_vec(), text("b")].concat(), ["a", "b"]),
            (LogFormat::Entries, [entry("a"), entry("b")].concat(), ["a\n", "b\n"]),
        ] {
            for size in 1..bytes.len() {
                let mut lines = Lines::new(format);
                let mut got = Vec::new();
                for piece in bytes.chunks(size) {
                    lines.add(piece, |l| {
                        got.push(l.map(|f| f.data));
                        true
                    });
                }
                lines.finish(|l| {
                    got.push(l.map(|f| f.data));
                    true
                });
                assert_eq!(got, wanted.map(|w| Ok(Bytes::from(w))), "in pieces of {size}");
            }
        }
    }

    #[test]
    fn damaged_entries_are_told_of_once() {
        for bytes in [&[255u8; 64][..], &[0, 0, 0, 1, 9, 0, 0, 0, 2, 0, 0, 0, 0], &[0, 0, 0]] {
            let mut lines = Lines::new(LogFormat::Entries);
            let mut errors = 0;
            let mut count = |l: Read| {
                errors += usize::from(l.is_err());
                true
            };
            lines.add(bytes, &mut count);
            lines.finish(&mut count);
            assert_eq!(errors, 1, "{bytes:?}");
        }
    }
}
