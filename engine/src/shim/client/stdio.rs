//! A container's output and input as a stream and a sink, over a connection to its shim.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::{Buf, Bytes};
use futures::{Stream, StreamExt};
use tokio::io::AsyncWrite;
use tokio::net::unix::OwnedWriteHalf;

use super::Frames;
use crate::shim::protocol;

/// A client's view of a container's stdio.
#[derive(Debug)]
pub struct AttachStream {
    /// Ends with the container.
    pub output: AttachOutput,
    /// Shutting it down ends this client's input; dropping both halves detaches.
    pub input: AttachInput,
    /// What the log has up to this time (nanoseconds since the Unix epoch) is not part of `output`, all else is.
    pub since_ns: i64,
}

/// What the container writes: stream (1 stdout, 2 stderr; a terminal is all stdout) and bytes.
#[derive(Debug)]
pub struct AttachOutput(pub(super) Frames);

impl Stream for AttachOutput {
    type Item = io::Result<(u8, Bytes)>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        loop {
            return match ready!(self.0.poll_next_unpin(cx)) {
                Some(Ok(mut frame)) if frame.len() >= 2 && frame[0] == protocol::OUTPUT => {
                    let stream = frame[1];
                    frame.advance(2);
                    Poll::Ready(Some(Ok((stream, frame.freeze()))))
                }
                Some(Ok(_)) => continue,
                // A shim that ends with input unread resets the connection, once all output has been taken.
                Some(Err(e)) if e.kind() == io::ErrorKind::ConnectionReset => Poll::Ready(None),
                Some(Err(e)) => Poll::Ready(Some(Err(e))),
                None => Poll::Ready(None),
            };
        }
    }
}

/// The container's stdin.
#[derive(Debug)]
pub struct AttachInput {
    half: OwnedWriteHalf,
    frame: Vec<u8>,
    sent: usize,
}

impl AttachInput {
    pub(super) fn new(half: OwnedWriteHalf) -> Self {
        Self { half, frame: Vec::new(), sent: 0 }
    }

    fn poll_drain(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while self.sent < self.frame.len() {
            let n = ready!(Pin::new(&mut self.half).poll_write(cx, &self.frame[self.sent..]))?;
            if n == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            self.sent += n;
        }
        self.frame.clear();
        self.sent = 0;
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for AttachInput {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, data: &[u8]) -> Poll<io::Result<usize>> {
        ready!(self.poll_drain(cx))?;
        let n = data.len().min(protocol::CHUNK);
        if n > 0 {
            protocol::put(&mut self.frame, protocol::STDIN, &[&data[..n]]);
            // What does not go now goes with the next write or flush.
            if let Poll::Ready(Err(e)) = self.poll_drain(cx) {
                return Poll::Ready(Err(e));
            }
        }
        Poll::Ready(Ok(n))
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.poll_drain(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.poll_drain(cx))?;
        Pin::new(&mut self.half).poll_shutdown(cx)
    }
}
