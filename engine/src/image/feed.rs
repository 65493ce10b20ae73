//! An async stream read by blocking code: what a client sends, given to a parser in a thread.

use std::io::{self, Read};

use bytes::{Buf, Bytes};
use tokio::io::{AsyncRead, AsyncReadExt};

use crate::error::{Error, blocking};

/// Runs blocking `work` on what the async `source` brings.
pub(crate) async fn run<T: Send + 'static>(
    mut source: impl AsyncRead + Send + Unpin,
    work: impl FnOnce(Feed) -> Result<T, Error> + Send + 'static,
) -> Result<T, Error> {
    let (send, receive) = tokio::sync::mpsc::channel::<io::Result<Bytes>>(8);
    let worker = tokio::spawn(blocking(move || work(Feed { receive, chunk: Bytes::new(), ended: false })));
    loop {
        let mut chunk = bytes::BytesMut::with_capacity(256 << 10);
        let read = source.read_buf(&mut chunk).await;
        let last = !matches!(read, Ok(n) if n > 0);
        // The worker may have ended already: by an error, or by having all it wants.
        if send.send(read.map(|_| chunk.freeze())).await.is_err() || last {
            break;
        }
    }
    drop(send);
    worker.await.unwrap_or(Err(Error::ShuttingDown))
}

/// The blocking end of an async stream; a client that vanishes is an error, not an end.
pub(crate) struct Feed {
    receive: tokio::sync::mpsc::Receiver<io::Result<Bytes>>,
    chunk: Bytes,
    ended: bool,
}

impl Read for Feed {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        while self.chunk.is_empty() && !self.ended {
            match self.receive.blocking_recv() {
                Some(Ok(chunk)) if chunk.is_empty() => self.ended = true,
                Some(Ok(chunk)) => self.chunk = chunk,
                Some(Err(e)) => return Err(e),
                None => return Err(io::Error::new(io::ErrorKind::UnexpectedEof, "the sender went away")),
            }
        }
        let n = self.chunk.len().min(buf.len());
        buf[..n].copy_from_slice(&self.chunk[..n]);
        self.chunk.advance(n);
        Ok(n)
    }
}
