//! The json-file log: one JSON object a line, as Docker writes it, rotated by size.

use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::PathBuf;

use time::OffsetDateTime;

use crate::config::LogConfig;

/// Longer lines are logged in parts: all but the last without a newline.
const MAX_LINE: usize = 16 << 10;

/// Where lines go.
pub struct JsonLog {
    file: Option<File>,
    path: PathBuf,
    size: u64,
    max_size: Option<u64>,
    max_file: u32,
    pending: Vec<u8>,
}

/// Takes a line: its stream, its bytes, and whether it is only a part.
type Emit<'a> = dyn FnMut(&str, &[u8], bool) -> io::Result<()> + 'a;

impl JsonLog {
    /// Opens the log at `path` for appending; driver `none` keeps nothing.
    pub fn open(config: &LogConfig, path: PathBuf) -> io::Result<Self> {
        let mut log = Self {
            file: None,
            path,
            size: 0,
            max_size: config.max_size.filter(|s| *s > 0),
            max_file: config.max_file.max(1),
            pending: Vec::new(),
        };
        match config.driver.as_str() {
            "none" => {}
            "json-file" | "" => log.reopen(false)?,
            other => return Err(io::Error::other(format!("log driver {other:?} is not supported"))),
        }
        Ok(log)
    }

    fn reopen(&mut self, truncate: bool) -> io::Result<()> {
        let mut options = OpenOptions::new();
        options.create(true).append(true).mode(0o640);
        let file = options.open(&self.path)?;
        if truncate {
            file.set_len(0)?;
        }
        self.size = file.metadata()?.len();
        self.file = Some(file);
        Ok(())
    }

    /// Adds what `lines` has made of `data`, and writes it out.
    pub fn write(&mut self, lines: &mut Lines, data: &[u8]) -> io::Result<()> {
        if self.file.is_none() {
            return Ok(());
        }
        let now = OffsetDateTime::now_utc();
        lines.feed(data, &mut |stream, line, whole| self.entry(stream, line, whole, now))?;
        self.flush()
    }

    /// Adds an unfinished last line.
    pub fn finish(&mut self, lines: &mut Lines) -> io::Result<()> {
        if self.file.is_none() || lines.buffer.is_empty() {
            return Ok(());
        }
        let line = std::mem::take(&mut lines.buffer);
        self.entry(lines.stream, &line, false, OffsetDateTime::now_utc())?;
        self.flush()
    }

    fn entry(&mut self, stream: &str, line: &[u8], whole: bool, now: OffsetDateTime) -> io::Result<()> {
        if self.max_size.is_some_and(|max| self.size + self.pending.len() as u64 >= max) {
            self.flush()?;
            self.rotate()?;
        }
        self.pending.extend_from_slice(b"{\"log\":\"");
        escape(line, &mut self.pending);
        if whole {
            self.pending.extend_from_slice(b"\\n");
        }
        write!(self.pending, "\",\"stream\":\"{stream}\",\"time\":\"")?;
        timestamp(now, &mut self.pending)?;
        self.pending.extend_from_slice(b"\"}\n");
        Ok(())
    }

    fn flush(&mut self) -> io::Result<()> {
        if let Some(file) = &mut self.file {
            let written = file.write_all(&self.pending);
            self.size += self.pending.len() as u64;
            // Also after a failure: a full disk must not make the shim grow.
            self.pending.clear();
            written?;
        }
        Ok(())
    }

    fn rotate(&mut self) -> io::Result<()> {
        let numbered = |n: u32| {
            let mut name = self.path.clone().into_os_string();
            name.push(format!(".{n}"));
            PathBuf::from(name)
        };
        for n in (1..self.max_file).rev() {
            let older = if n == 1 { self.path.clone() } else { numbered(n - 1) };
            match std::fs::rename(older, numbered(n)) {
                Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(e),
                _ => {}
            }
        }
        self.reopen(self.max_file == 1)
    }
}

/// Cuts one stream into lines.
pub struct Lines {
    stream: &'static str,
    buffer: Vec<u8>,
}

impl Lines {
    /// For `stdout` or `stderr`.
    pub fn new(stream: &'static str) -> Self {
        Self { stream, buffer: Vec::new() }
    }

    fn feed(&mut self, mut data: &[u8], emit: &mut Emit<'_>) -> io::Result<()> {
        while !data.is_empty() {
            let room = (MAX_LINE - self.buffer.len()).min(data.len());
            match data[..room].iter().position(|b| *b == b'\n') {
                Some(end) if self.buffer.is_empty() => {
                    emit(self.stream, &data[..end], true)?;
                    data = &data[end + 1..];
                }
                Some(end) => {
                    self.buffer.extend_from_slice(&data[..end]);
                    emit(self.stream, &self.buffer, true)?;
                    self.buffer.clear();
                    data = &data[end + 1..];
                }
                None => {
                    self.buffer.extend_from_slice(&data[..room]);
                    data = &data[room..];
                    if self.buffer.len() == MAX_LINE {
                        let cut = MAX_LINE - unfinished_character(&self.buffer);
                        emit(self.stream, &self.buffer[..cut], false)?;
                        self.buffer.drain(..cut);
                    }
                }
            }
        }
        Ok(())
    }
}

/// How many bytes at the end are the beginning of a UTF-8 character that goes on.
fn unfinished_character(bytes: &[u8]) -> usize {
    for back in 1..=3.min(bytes.len()) {
        let needed = match bytes[bytes.len() - back] {
            b if b & 0xc0 == 0x80 => continue,
            b if b >= 0xf0 => 4,
            b if b >= 0xe0 => 3,
            b if b >= 0xc0 => 2,
            _ => 1,
        };
        return if needed > back { back } else { 0 };
    }
    0
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
    fn lines_are_cut_as_docker_cuts_them() {
        let long = vec![b'x'; MAX_LINE];
        let mut umlaut = vec![b'x'; MAX_LINE - 1];
        umlaut.extend("ä\n".as_bytes());
        let cases: [(&[&[u8]], &[(usize, bool)]); 5] = [
            (&[b"a\nbc\n"], &[(1, true), (2, true)]),
            (&[b"a", b"b\n", b"\n"], &[(2, true), (0, true)]),
            (&[&long, b"\n"], &[(MAX_LINE, false), (0, true)]),
            (&[&long, &long, b"y\n"], &[(MAX_LINE, false), (MAX_LINE, false), (1, true)]),
            (&[&umlaut], &[(MAX_LINE - 1, false), (2, true)]),
        ];
        for (feeds, wanted) in cases {
            let mut lines = Lines::new("stdout");
            let mut found = Vec::new();
            for data in feeds {
                let mut emit = |_: &str, line: &[u8], whole: bool| {
                    found.push((line.len(), whole));
                    Ok(())
                };
                lines.feed(data, &mut emit).expect("nothing can fail");
            }
            assert_eq!(found, wanted);
        }
    }

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
}
