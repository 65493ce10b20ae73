//! Cuts a stream into messages: lines, and parts of very long ones, as Docker cuts them.

use std::io;

use super::now_ns;

/// Longer lines are logged in parts.
pub(super) const MAX_LINE: usize = 16 << 10;

/// A line, or a part of one.
pub struct Message<'a> {
    /// `stdout` or `stderr`.
    pub stream: &'static str,
    /// Nanoseconds since the Unix epoch; the same for all parts of a line.
    pub time_ns: i64,
    /// The bytes, without a line end.
    pub line: &'a [u8],
    /// Set where it is a part.
    pub part: Option<Part<'a>>,
}

/// Which part of a long line.
#[derive(Clone, Copy)]
pub struct Part<'a> {
    /// Of all parts of the line.
    pub id: &'a str,
    /// From 1.
    pub ordinal: i32,
    /// The line ends with it.
    pub last: bool,
}

impl Message<'_> {
    /// Whether the line ends with it.
    pub fn ends(&self) -> bool {
        self.part.is_none_or(|p| p.last)
    }
}

/// Takes a message.
type Emit<'a> = dyn FnMut(&Message<'_>) -> io::Result<()> + 'a;

/// A long line of which parts are logged already.
struct Long {
    id: String,
    ordinal: i32,
    time_ns: i64,
}

/// Cuts one stream.
pub struct Lines {
    stream: &'static str,
    buffer: Vec<u8>,
    long: Option<Long>,
}

impl Lines {
    /// For `stdout` or `stderr`.
    pub fn new(stream: &'static str) -> Self {
        Self { stream, buffer: Vec::new(), long: None }
    }

    /// The unfinished last line, or as much of it as is not a message yet.
    pub fn begun(&self) -> &[u8] {
        &self.buffer
    }

    /// Cuts what has come, and keeps what is not a message yet.
    pub(super) fn feed(&mut self, mut data: &[u8], emit: &mut Emit<'_>) -> io::Result<()> {
        let now = now_ns();
        while !data.is_empty() {
            let room = (MAX_LINE - self.buffer.len()).min(data.len());
            match data[..room].iter().position(|b| *b == b'\n') {
                Some(end) if self.buffer.is_empty() => {
                    self.message(&data[..end], true, now, emit)?;
                    data = &data[end + 1..];
                }
                Some(end) => {
                    let mut line = std::mem::take(&mut self.buffer);
                    line.extend_from_slice(&data[..end]);
                    self.message(&line, true, now, emit)?;
                    line.clear();
                    self.buffer = line;
                    data = &data[end + 1..];
                }
                None => {
                    self.buffer.extend_from_slice(&data[..room]);
                    data = &data[room..];
                    if self.buffer.len() == MAX_LINE {
                        let mut line = std::mem::take(&mut self.buffer);
                        let cut = MAX_LINE - unfinished_character(&line);
                        self.message(&line[..cut], false, now, emit)?;
                        line.drain(..cut);
                        self.buffer = line;
                    }
                }
            }
        }
        Ok(())
    }

    /// An unfinished last line.
    pub(super) fn finish(&mut self, emit: &mut Emit<'_>) -> io::Result<()> {
        let line = std::mem::take(&mut self.buffer);
        if line.is_empty() { Ok(()) } else { self.message(&line, false, now_ns(), emit) }
    }

    fn message(&mut self, line: &[u8], ends: bool, now: i64, emit: &mut Emit<'_>) -> io::Result<()> {
        let long = match (self.long.take(), ends) {
            (None, true) => None,
            (Some(l), _) => Some(Long { ordinal: l.ordinal + 1, ..l }),
            (None, false) => {
                Some(Long { id: hex::encode(rand::random::<[u8; 32]>()), ordinal: 1, time_ns: now })
            }
        };
        let part = long.as_ref().map(|l| Part { id: &l.id, ordinal: l.ordinal, last: ends });
        let time_ns = long.as_ref().map_or(now, |l| l.time_ns);
        let done = emit(&Message { stream: self.stream, time_ns, line, part });
        if !ends {
            self.long = long;
        }
        done
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_cut_as_docker_cuts_them() {
        let long = vec![b'x'; MAX_LINE];
        let mut umlaut = vec![b'x'; MAX_LINE - 1];
        umlaut.extend("ä\n".as_bytes());
        let cases: [(&[&[u8]], &[(usize, i32, bool)]); 5] = [
            (&[b"a\nbc\n"], &[(1, 0, true), (2, 0, true)]),
            (&[b"a", b"b\n", b"\n"], &[(2, 0, true), (0, 0, true)]),
            (&[&long, b"\nz\n"], &[(MAX_LINE, 1, false), (0, 2, true), (1, 0, true)]),
            (&[&long, &long, b"y\n"], &[(MAX_LINE, 1, false), (MAX_LINE, 2, false), (1, 3, true)]),
            (&[&umlaut], &[(MAX_LINE - 1, 1, false), (2, 2, true)]),
        ];
        for (feeds, wanted) in cases {
            let mut lines = Lines::new("stdout");
            let mut found = Vec::new();
            for data in feeds {
                let mut emit = |m: &Message<'_>| {
                    found.push((m.line.len(), m.part.map_or(0, |p| p.ordinal), m.ends()));
                    Ok(())
                };
                lines.feed(data, &mut emit).expect("nothing can fail");
            }
            assert_eq!(found, wanted);
        }
    }
}
