//! The bytes of a client's HTTP/1.1 messages as the HTTP library gets them: all as they came, but for the forbidden
//! bytes of a request's target, which are percent-encoded.
//!
//! Where a message ends is computed as RFC 9112 (6.3) has it, and only where that is plain. What is not (two lengths, an
//! encoding that is not `chunked`, a line longer than any of that need be) makes the rest of the connection pass
//! untouched, so nothing but a target is ever changed, whatever the HTTP library makes of it.

/// Longest line of a head of which more than its length matters: those that say how long a body is.
const LINE: usize = 256;

/// What is read next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum At {
    /// Empty lines before a request (RFC 9112, 2.2).
    Start,
    Method,
    Target,
    /// The rest of the request line.
    Version,
    Header,
    /// Bytes of a body that are left.
    Body(u64),
    /// The line that says how long a chunk is.
    Size,
    /// Bytes of a chunk that are left.
    Chunk(u64),
    /// The end of a chunk's line.
    AfterChunk,
    Trailer,
    /// The message has ended; the next one begins when it was answered.
    End,
    /// Nothing is looked at any more.
    Rest,
}

/// How a body says where it ends.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Length {
    #[default]
    None,
    Bytes(u64),
    Chunked,
    /// Not in a way that is understood here.
    Unclear,
}

/// Follows the messages of one connection.
#[derive(Debug)]
pub(super) struct Messages {
    at: At,
    /// The line that is read, without its end; cut after [`LINE`].
    line: Vec<u8>,
    length: Length,
}

impl Default for Messages {
    fn default() -> Self {
        Self { at: At::Start, line: Vec::new(), length: Length::None }
    }
}

impl Messages {
    /// Whether a message has ended and the next one has not been begun.
    pub(super) fn ended(&self) -> bool {
        self.at == At::End
    }

    /// Begins the next message.
    pub(super) fn next(&mut self) {
        if self.ended() {
            *self = Self::default();
        }
    }

    /// How many of the next bytes pass untouched, whatever they are.
    pub(super) fn untouched(&self) -> u64 {
        match self.at {
            At::Body(left) | At::Chunk(left) => left,
            At::Rest => u64::MAX,
            _ => 0,
        }
    }

    /// Tells that so many of them have passed.
    pub(super) fn passed(&mut self, count: u64) {
        self.at = match self.at {
            At::Body(left) if left <= count => At::End,
            At::Body(left) => At::Body(left - count),
            At::Chunk(left) if left <= count => At::AfterChunk,
            At::Chunk(left) => At::Chunk(left - count),
            other => other,
        };
    }

    /// Passes bytes on to `out`, up to the end of a message. Answers how many it took.
    pub(super) fn pass(&mut self, input: &[u8], out: &mut Vec<u8>) -> usize {
        let mut taken = 0;
        while taken < input.len() && !self.ended() {
            let untouched = usize::try_from(self.untouched()).unwrap_or(usize::MAX).min(input.len() - taken);
            if untouched > 0 {
                out.extend_from_slice(&input[taken..taken + untouched]);
                self.passed(untouched as u64);
                taken += untouched;
                continue;
            }
            let byte = input[taken];
            taken += 1;
            if self.at == At::Target && forbidden(byte) {
                out.extend_from_slice(&encoded(byte));
            } else {
                out.push(byte);
                self.see(byte);
            }
        }
        taken
    }

    fn see(&mut self, byte: u8) {
        self.at = match (self.at, byte) {
            (At::Start, b'\r' | b'\n') => At::Start,
            (At::Start, _) => {
                self.line.push(byte);
                At::Method
            }
            (At::Method, b' ') => {
                let tunnel = self.line == b"CONNECT";
                self.line.clear();
                if tunnel { At::Rest } else { At::Target }
            }
            (At::Target, b' ') => At::Version,
            // A request of HTTP/0.9, or none.
            (At::Method | At::Target, b'\n') => At::Rest,
            (At::Version, b'\n') => At::Header,
            (At::Header | At::Size | At::AfterChunk | At::Trailer, b'\n') => self.end_of_line(),
            (at, _) => {
                if self.line.len() < LINE && at != At::Target && at != At::Version {
                    self.line.push(byte);
                }
                at
            }
        };
    }

    fn end_of_line(&mut self) -> At {
        let mut line = std::mem::take(&mut self.line);
        let cut = line.len() == LINE;
        if line.last() == Some(&b'\r') {
            line.pop();
        }
        let next = match self.at {
            At::Header if line.is_empty() => match self.length {
                Length::None | Length::Bytes(0) => At::End,
                Length::Bytes(count) => At::Body(count),
                Length::Chunked => At::Size,
                Length::Unclear => At::Rest,
            },
            At::Header => {
                self.header(&line, cut);
                At::Header
            }
            At::Size => match chunk_size(&line) {
                _ if cut => At::Rest,
                Some(0) => At::Trailer,
                Some(count) => At::Chunk(count),
                None => At::Rest,
            },
            At::AfterChunk if line.is_empty() => At::Size,
            At::Trailer if line.is_empty() => At::End,
            At::Trailer => At::Trailer,
            _ => At::Rest,
        };
        line.clear();
        self.line = line;
        next
    }

    fn header(&mut self, line: &[u8], cut: bool) {
        let Some(colon) = line.iter().position(|b| *b == b':') else { return };
        let (name, value) = (&line[..colon], line[colon + 1..].trim_ascii());
        let said = if name.eq_ignore_ascii_case(b"content-length") {
            decimal(value).map_or(Length::Unclear, Length::Bytes)
        } else if name.eq_ignore_ascii_case(b"transfer-encoding") {
            if value.eq_ignore_ascii_case(b"chunked") { Length::Chunked } else { Length::Unclear }
        } else {
            return;
        };
        self.length = if cut || self.length != Length::None { Length::Unclear } else { said };
    }
}

/// Whether Docker's server takes this byte in a target and the HTTP library here does not, or means something else by it.
///
/// Go (`url.ParseRequestURI`) takes all but control characters and the space, and has no fragments in a request.
fn forbidden(byte: u8) -> bool {
    matches!(byte, b'"' | b'#' | b'<' | b'>' | b'\\' | b'^' | b'`' | b'{' | b'|' | b'}' | 0x80..)
}

fn encoded(byte: u8) -> [u8; 3] {
    const HEX: &[u8; 16] = b"0123456789ABCDEF";
    [b'%', HEX[usize::from(byte >> 4)], HEX[usize::from(byte & 15)]]
}

fn decimal(digits: &[u8]) -> Option<u64> {
    number(digits, 10)
}

fn chunk_size(line: &[u8]) -> Option<u64> {
    let digits = line.split(|b| *b == b';').next().unwrap_or_default();
    number(digits.trim_ascii_end(), 16)
}

/// A number of digits alone; Rust's own parsers take a sign.
fn number(digits: &[u8], radix: u32) -> Option<u64> {
    let text = std::str::from_utf8(digits).ok()?;
    let all = !text.is_empty() && text.chars().all(|c| c.is_digit(radix));
    all.then(|| u64::from_str_radix(text, radix).ok()).flatten()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// All of `input`, each message begun as the one before it ends.
    fn passed(input: &[u8], cuts: &[usize]) -> Vec<u8> {
        let (mut messages, mut out) = (Messages::default(), Vec::new());
        let mut rest = input;
        let mut cuts = cuts.iter().cycle();
        while !rest.is_empty() {
            let upto = cuts.next().map_or(rest.len(), |cut| 1 + cut % rest.len());
            let taken = messages.pass(&rest[..upto], &mut out);
            rest = &rest[taken..];
            messages.next();
        }
        out
    }

    fn same(input: &str) {
        assert_eq!(String::from_utf8_lossy(&passed(input.as_bytes(), &[])), input);
    }

    #[test]
    fn targets_are_encoded_and_nothing_else_is() {
        let sent = "GET /a?f={\"s\":[\"x|y\"]}#\u{e9} HTTP/1.1\r\nX: {\"\r\nContent-Length: 3\r\n\r\n{\"}\
                    POST /\"b HTTP/1.1\r\ntransfer-encoding: Chunked\r\n\r\n4;x=\"\r\n\"{}\"\r\n0\r\nT: \"\r\n\r\n\r\n\
                    GET /`c HTTP/1.0\n\n";
        let got = "GET /a?f=%7B%22s%22:[%22x%7Cy%22]%7D%23%C3%A9 HTTP/1.1\r\nX: {\"\r\nContent-Length: 3\r\n\r\n{\"}\
                   POST /%22b HTTP/1.1\r\ntransfer-encoding: Chunked\r\n\r\n4;x=\"\r\n\"{}\"\r\n0\r\nT: \"\r\n\r\n\r\n\
                   GET /%60c HTTP/1.0\n\n";
        assert_eq!(String::from_utf8_lossy(&passed(sent.as_bytes(), &[])), got);
    }

    #[test]
    fn what_is_unclear_passes_untouched_from_there_on() {
        for head in [
            "Content-Length: 1\r\nContent-Length: 1",
            "Content-Length: 1\r\nTransfer-Encoding: chunked",
            "Content-Length: +1",
            "Content-Length: 1, 1",
            "Content-Length: 99999999999999999999",
            "Transfer-Encoding: gzip, chunked",
        ] {
            same(&format!("GET / HTTP/1.1\r\n{head}\r\n\r\n1GET /{{\"}} HTTP/1.1\r\n\r\n"));
        }
        same("CONNECT x:1 HTTP/1.1\r\n\r\nGET /\" HTTP/1.1\r\n\r\n");
        same("GET /\r\nGET /\" HTTP/1.1\r\n\r\n");
        same("POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\nx\r\nGET /\" HTTP/1.1\r\n\r\n");
        same(&format!(
            "GET / HTTP/1.1\r\nContent-Length: {}1\r\n\r\n1GET /\" HTTP/1.1\r\n\r\n",
            "0".repeat(LINE)
        ));
    }

    /// A request as sent, and as it must arrive.
    fn request() -> impl Strategy<Value = (Vec<u8>, Vec<u8>)> {
        let target = prop::collection::vec(0x21..=0xffu8, 0..24).prop_map(|mut t| {
            t.retain(|b| *b != 0x7f);
            t
        });
        let body = prop::collection::vec(any::<u8>(), 0..64);
        (target, body, 0..3usize, 1..9usize).prop_map(|(target, body, kind, chunk)| {
            let (headers, body) = match kind {
                0 => (String::new(), Vec::new()),
                1 => (format!("content-LENGTH:{}\r\n", body.len()), body),
                _ => {
                    let mut chunks = Vec::new();
                    for piece in body.chunks(chunk) {
                        chunks.extend(format!("{:x}\r\n", piece.len()).into_bytes());
                        chunks.extend_from_slice(piece);
                        chunks.extend_from_slice(b"\r\n");
                    }
                    chunks.extend_from_slice(b"0\r\n\r\n");
                    ("Transfer-Encoding: chunked\r\n".to_owned(), chunks)
                }
            };
            let whole = |target: &[u8]| {
                let mut whole = b"POST /".to_vec();
                whole.extend_from_slice(target);
                whole.extend_from_slice(format!(" HTTP/1.1\r\nA: \"b\"\r\n{headers}\r\n").as_bytes());
                whole.extend_from_slice(&body);
                whole
            };
            let mut arrives = Vec::new();
            for byte in &target {
                if forbidden(*byte) {
                    arrives.extend(format!("%{byte:02X}").into_bytes());
                } else {
                    arrives.push(*byte);
                }
            }
            (whole(&target), whole(&arrives))
        })
    }

    proptest! {
        /// However requests follow each other and are cut into reads.
        #[test]
        fn only_targets_change(
            requests in prop::collection::vec(request(), 1..6),
            cuts in prop::collection::vec(0..40usize, 1..8),
        ) {
            let (sent, arrives): (Vec<_>, Vec<_>) = requests.into_iter().unzip();
            let (got, arrives) = (passed(&sent.concat(), &cuts), arrives.concat());
            prop_assert_eq!(String::from_utf8_lossy(&got), String::from_utf8_lossy(&arrives));
        }

        /// Bytes that nobody meant: none is lost, and what changes are forbidden bytes alone, however they are cut.
        #[test]
        fn nothing_is_lost(
            input in prop::collection::vec(prop_oneof![
                any::<u8>(), prop::sample::select(b"\r\n :\"{0123 GET".to_vec()),
            ], 0..200),
            cuts in prop::collection::vec(0..40usize, 1..8),
        ) {
            let got = passed(&input, &cuts);
            prop_assert_eq!(&got, &passed(&input, &[]));
            let mut rest = got.as_slice();
            for byte in &input {
                let escape = encoded(*byte);
                let escaped = forbidden(*byte) && rest.starts_with(&escape);
                prop_assert!(escaped || rest.first() == Some(byte));
                rest = &rest[if escaped { 3 } else { 1 }..];
            }
            prop_assert!(rest.is_empty());
        }
    }
}
