//! A connection taken over by `attach` or `exec`: output one way, input the other, until the output ends or
//! the user types the detach keys.
//!
//! With `Upgrade: tcp` it is answered `101 UPGRADED`; without, as Docker does it, `200 OK` and then bare bytes
//! on the same connection, which no HTTP library allows for. So the server gives the whole connection away in
//! both cases: a handler answers with a [`Takeover`], and [`crate::server`] acts on it.

use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use axum::body::Body;
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::response::Response;
use bytes::Bytes;
use futures::future::BoxFuture;
use futures::stream::BoxStream;
use futures::{FutureExt, StreamExt};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

use crate::error::{ApiError, ApiResult};

/// A client's connection.
pub trait Connection: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> Connection for T {}

type Work = Box<dyn FnOnce(Box<dyn Connection>) -> BoxFuture<'static, ()> + Send>;

/// What to do with the connection, as an extension of the response that it begins with.
#[derive(Clone)]
pub struct Takeover(Arc<Mutex<Option<Work>>>);

impl Takeover {
    /// Has `work` done with the connection.
    pub fn new<F>(work: impl FnOnce(Box<dyn Connection>) -> F + Send + 'static) -> Self
    where
        F: Future<Output = ()> + Send + 'static,
    {
        Self(Arc::new(Mutex::new(Some(Box::new(move |connection| work(connection).boxed())))))
    }

    /// Does it.
    pub async fn run(self, connection: Box<dyn Connection>) {
        let work = self.0.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(work) = work {
            work(connection).await;
        }
    }
}

/// Whether the request asks for a connection of its own.
pub fn wants_upgrade(headers: &HeaderMap) -> bool {
    wants(headers, "tcp")
}

/// Whether the request asks for another protocol.
pub fn wants(headers: &HeaderMap, protocol: &str) -> bool {
    let says = |name, word: &str| {
        headers
            .get_all(name)
            .iter()
            .filter_map(|v| v.to_str().ok())
            .any(|v| v.split(',').any(|v| v.trim().eq_ignore_ascii_case(word)))
    };
    says(header::CONNECTION, "upgrade") && says(header::UPGRADE, protocol)
}

/// The answer that takes the connection over: joins it with `output` and `input`, and tells `left` when the
/// user typed the keys.
pub fn response(
    upgrade: bool,
    kind: &'static str,
    output: BoxStream<'static, Bytes>,
    input: Option<Input>,
    keys: Option<DetachKeys>,
    left: impl FnOnce() + Send + 'static,
) -> Response {
    let takeover = Takeover::new(move |connection| async move {
        if join(connection, output, input, keys).await == Ended::Detached {
            left();
        }
    });
    let mut response = Response::new(Body::empty());
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(kind));
    if upgrade {
        headers.insert(header::CONNECTION, HeaderValue::from_static("Upgrade"));
        headers.insert(header::UPGRADE, HeaderValue::from_static("tcp"));
        *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
    }
    response.extensions_mut().insert(takeover);
    response
}

/// What takes a container's input.
pub type Input = Pin<Box<dyn AsyncWrite + Send>>;

/// The keys that leave an attached terminal without ending what runs in it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DetachKeys(Vec<u8>);

impl DetachKeys {
    /// Reads `ctrl-p,ctrl-q`, which is also what an empty text means.
    pub fn parse(text: &str) -> ApiResult<Self> {
        let text = if text.is_empty() { "ctrl-p,ctrl-q" } else { text };
        text.split(',')
            .map(|key| {
                let bad = || {
                    ApiError::bad_request(format!(
                        "invalid detach keys {text:?}: {key:?} is neither one character nor ctrl- and one of a-z @ [ \\ ] ^ _"
                    ))
                };
                match (key.as_bytes(), key.strip_prefix("ctrl-").map(str::as_bytes)) {
                    ([c], _) => Ok(*c),
                    (_, Some([c @ (b'a'..=b'z')])) => Ok(c - b'a' + 1),
                    (_, Some([c @ (b'@' | b'[' | b'\\' | b']' | b'^' | b'_')])) => Ok(c - b'@'),
                    _ => Err(bad()),
                }
            })
            .collect::<ApiResult<_>>()
            .map(Self)
    }
}

/// Watches input for the keys; holds back what may be their beginning.
#[derive(Debug)]
struct Watch {
    keys: Vec<u8>,
    seen: usize,
}

impl Watch {
    /// What of `data` is input, and whether the keys were typed.
    fn pass(&mut self, data: &[u8]) -> (Vec<u8>, bool) {
        let mut out = Vec::with_capacity(data.len() + self.seen);
        for &byte in data {
            if byte == self.keys[self.seen] {
                self.seen += 1;
                if self.seen == self.keys.len() {
                    return (out, true);
                }
                continue;
            }
            out.extend_from_slice(&self.keys[..self.seen]);
            self.seen = usize::from(byte == self.keys[0]);
            if self.seen == 0 {
                out.push(byte);
            }
        }
        (out, false)
    }
}

/// How long a client may take to see that the output has ended.
const LINGER: Duration = Duration::from_secs(5);

/// How a taken connection ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Ended {
    /// With the output, or with the client.
    Closed,
    /// By the keys.
    Detached,
}

/// Joins a connection with a container. Ends when the output does.
async fn join<C>(
    connection: C,
    mut output: BoxStream<'static, Bytes>,
    input: Option<Input>,
    keys: Option<DetachKeys>,
) -> Ended
where
    C: AsyncRead + AsyncWrite + Send + 'static,
{
    let (mut from_client, mut to_client) = tokio::io::split(connection);
    let down = async {
        while let Some(piece) = output.next().await {
            if to_client.write_all(&piece).await.is_err() || to_client.flush().await.is_err() {
                return;
            }
        }
    };
    let up = async {
        match input {
            Some(input) => {
                if feed(&mut from_client, input, keys).await == Fed::Eof {
                    // The client has no more to say, but listens on.
                    std::future::pending::<()>().await;
                }
            }
            None => std::future::pending().await,
        }
    };
    let ended = tokio::select! {
        () = down => Ended::Closed,
        () = up => Ended::Detached,
    };
    // The other end may have gone already.
    let _ = to_client.shutdown().await;
    // To close while the client still sends would reset the connection, and it would take that for a failure.
    let rest = async { tokio::io::copy(&mut from_client, &mut tokio::io::sink()).await };
    let _ = tokio::time::timeout(LINGER, rest).await;
    ended
}

/// How input ended.
#[derive(Debug, PartialEq, Eq)]
pub enum Fed {
    /// There is no more, or nobody takes it.
    Eof,
    /// By the keys.
    Detached,
}

/// Gives input to a container until it ends; then so does the container's, but for the keys.
pub async fn feed(mut from: impl AsyncRead + Unpin, mut to: Input, keys: Option<DetachKeys>) -> Fed {
    let mut watch = keys.filter(|k| !k.0.is_empty()).map(|k| Watch { keys: k.0, seen: 0 });
    let mut buffer = vec![0; 16 << 10];
    loop {
        let read = match from.read(&mut buffer).await {
            Ok(0) | Err(_) => break,
            Ok(n) => &buffer[..n],
        };
        let (data, detached) = match &mut watch {
            Some(watch) => watch.pass(read),
            None => (read.to_vec(), false),
        };
        if to.write_all(&data).await.is_err() || to.flush().await.is_err() {
            // The container has closed its stdin or ended: what is typed on goes nowhere.
            return Fed::Eof;
        }
        if detached {
            return Fed::Detached;
        }
    }
    if let Some(watch) = watch {
        // Held back as the beginning of the keys, and never completed.
        let _ = to.write_all(&watch.keys[..watch.seen]).await;
    }
    // Tells the container that its input has ended; it may have ended itself.
    let _ = to.shutdown().await;
    Fed::Eof
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn detach_keys_are_read() {
        assert_eq!(DetachKeys::parse(""), Ok(DetachKeys(vec![16, 17])));
        assert_eq!(DetachKeys::parse("ctrl-@,x,ctrl-["), Ok(DetachKeys(vec![0, b'x', 27])));
        for bad in ["ctrl-", "ctrl-A", "ab", "a,"] {
            assert!(DetachKeys::parse(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn keys_are_found_across_reads_and_nothing_else_is_lost() {
        /// What is read, what of it passes, and whether the client detaches.
        type Case = (&'static [&'static [u8]], &'static [u8], bool);
        let table: [Case; 5] = [
            (&[b"ab\x10", b"\x11cd"], b"ab", true),
            (&[b"ab\x10", b"cd"], b"ab\x10cd", false),
            (&[b"\x10\x10\x11"], b"\x10", true),
            (&[b"\x11"], b"\x11", false),
            (&[b""], b"", false),
        ];
        for (reads, expected, detached) in table {
            let mut watch = Watch { keys: vec![16, 17], seen: 0 };
            let (mut out, mut found) = (Vec::new(), false);
            for read in reads {
                let (data, end) = watch.pass(read);
                out.extend(data);
                found |= end;
            }
            assert_eq!((out.as_slice(), found), (expected, detached), "{reads:?}");
        }
    }

    proptest::proptest! {
        /// However input is cut into reads, what passes is all before the keys, and all there is without them.
        #[test]
        fn keys_are_found_wherever_reads_end(
            keys in proptest::collection::vec(0..3u8, 1..4),
            reads in proptest::collection::vec(proptest::collection::vec(0..3u8, 0..6), 0..12),
        ) {
            let mut watch = Watch { keys: keys.clone(), seen: 0 };
            let (mut out, mut found) = (Vec::new(), false);
            for read in &reads {
                let (data, end) = watch.pass(read);
                out.extend(data);
                if end {
                    found = true;
                    break;
                }
            }
            let whole = reads.concat();
            if found {
                out.extend(&keys);
                proptest::prop_assert!(whole.starts_with(&out));
            } else {
                out.extend(&keys[..watch.seen]);
                proptest::prop_assert_eq!(out, whole);
            }
        }
    }

    #[tokio::test]
    async fn a_client_that_has_no_more_to_say_still_gets_the_output() {
        let (client, server) = tokio::io::duplex(1024);
        let (input, mut container) = tokio::io::duplex(1024);
        let (send, output) = tokio::sync::mpsc::channel::<Bytes>(1);
        let output = tokio_stream::wrappers::ReceiverStream::new(output).boxed();
        let joined = tokio::spawn(join(server, output, Some(Box::pin(input)), None));
        let (mut from, mut to) = tokio::io::split(client);
        to.write_all(b"in").await.expect("open");
        to.shutdown().await.expect("open");
        let mut got = Vec::new();
        container.read_to_end(&mut got).await.expect("input ends");
        assert_eq!(got, b"in");
        send.send(Bytes::from_static(b"out")).await.expect("open");
        drop(send);
        let mut got = Vec::new();
        from.read_to_end(&mut got).await.expect("output ends");
        assert_eq!(got, b"out");
        joined.await.expect("no panic");
    }
}
