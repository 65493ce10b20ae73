//! A client's connection as the HTTP library reads it: request targets with bytes that Docker's server takes and the
//! library refuses (`?filters={"status":["running"]}`) arrive percent-encoded, and all else as it came.
//!
//! The next request is not looked at before the one under way is answered: a connection may be taken over instead
//! ([`crate::hijack`]), and what follows is then no HTTP.

mod messages;

use std::io;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, Waker, ready};

use bytes::{Buf, Bytes, BytesMut};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use self::messages::Messages;

/// Most that is read of a connection at once where its bytes are looked at.
const PIECE: usize = 4 << 10;

/// Tells a [`Reader`] that its connection goes on with the next request.
#[derive(Clone, Debug, Default)]
pub(crate) struct Answers(Arc<Mutex<Waiting>>);

#[derive(Debug, Default)]
struct Waiting {
    /// Requests answered that the reader has not gone past yet.
    answered: usize,
    reader: Option<Waker>,
}

impl Answers {
    /// A request has been answered, as HTTP.
    pub(crate) fn answered(&self) {
        let mut waiting = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        waiting.answered += 1;
        if let Some(reader) = waiting.reader.take() {
            reader.wake();
        }
    }

    /// Whether there is an answer that is not used up yet; uses it up. If not, wakes the task when there is one.
    fn take(&self, cx: &Context<'_>) -> bool {
        let mut waiting = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if waiting.answered == 0 {
            waiting.reader = Some(cx.waker().clone());
            return false;
        }
        waiting.answered -= 1;
        true
    }
}

/// A connection whose requests' targets are encoded as they are read.
#[derive(Debug)]
pub(crate) struct Reader<I> {
    io: I,
    answers: Answers,
    messages: Messages,
    /// Read, and not looked at.
    raw: BytesMut,
    /// Looked at, and not taken.
    done: Bytes,
}

impl<I> Reader<I> {
    /// Reads requests of `io`, each once the one before it is in `answers`.
    pub(crate) fn new(io: I, answers: Answers) -> Self {
        Self { io, answers, messages: Messages::default(), raw: BytesMut::new(), done: Bytes::new() }
    }

    /// The connection, and what was read of it and not passed on.
    pub(crate) fn into_parts(self) -> (I, Bytes) {
        let mut early = BytesMut::from(self.done);
        early.extend_from_slice(&self.raw);
        (self.io, early.freeze())
    }
}

impl<I: AsyncRead + Unpin> Reader<I> {
    /// Reads more into `raw`; false at the end.
    fn poll_more(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<bool>> {
        let mut piece = [0; PIECE];
        let mut piece = ReadBuf::new(&mut piece);
        ready!(Pin::new(&mut self.io).poll_read(cx, &mut piece))?;
        self.raw.extend_from_slice(piece.filled());
        Poll::Ready(Ok(!piece.filled().is_empty()))
    }
}

impl<I: AsyncRead + Unpin> AsyncRead for Reader<I> {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, out: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        loop {
            if !this.done.is_empty() {
                let count = this.done.len().min(out.remaining());
                out.put_slice(&this.done[..count]);
                this.done.advance(count);
                return Poll::Ready(Ok(()));
            }
            if this.messages.ended() {
                if this.answers.take(cx) {
                    this.messages.next();
                } else if this.raw.is_empty() && !ready!(this.poll_more(cx))? {
                    // The client has left while its request is under way.
                    return Poll::Ready(Ok(()));
                } else {
                    return Poll::Pending;
                }
            }
            if this.raw.is_empty() {
                if this.messages.untouched() >= out.remaining() as u64 {
                    let before = out.filled().len();
                    ready!(Pin::new(&mut this.io).poll_read(cx, out))?;
                    this.messages.passed((out.filled().len() - before) as u64);
                    return Poll::Ready(Ok(()));
                }
                if !ready!(this.poll_more(cx))? {
                    return Poll::Ready(Ok(()));
                }
            }
            let mut done = Vec::with_capacity(this.raw.len());
            let taken = this.messages.pass(&this.raw, &mut done);
            this.raw.advance(taken);
            this.done = done.into();
        }
    }
}

impl<I: AsyncWrite + Unpin> AsyncWrite for Reader<I> {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, data: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.get_mut().io).poll_write(cx, data)
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        data: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.get_mut().io).poll_write_vectored(cx, data)
    }

    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().io).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().io).poll_shutdown(cx)
    }
}
