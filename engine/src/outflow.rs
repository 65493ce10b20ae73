//! What blocking code writes, read as an async stream: archives on their way to a client.

use std::io::{self, Write};
use std::pin::Pin;

use bytes::Bytes;
use tokio::io::AsyncRead;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::io::StreamReader;

/// An archive as it is written: bytes, or the error that ends them.
pub type SavedArchive = Pin<Box<dyn AsyncRead + Send>>;

const CHUNK: usize = 256 << 10;

/// Runs blocking `work` and gives what it writes. It goes no faster than it is read, and its writes fail once
/// nobody reads any more.
pub(crate) fn stream(work: impl FnOnce(&mut Outflow) -> io::Result<()> + Send + 'static) -> SavedArchive {
    let (send, receive) = mpsc::channel(8);
    tokio::task::spawn_blocking(move || {
        let mut out = Outflow { send, buffer: Vec::new() };
        let ended = work(&mut out).and_then(|()| out.flush());
        if let Err(e) = ended {
            // Nobody listens when the reader has gone; that is how most of these end.
            let _ = out.send.blocking_send(Err(e));
        }
    });
    Box::pin(StreamReader::new(ReceiverStream::new(receive)))
}

/// The end that is written to.
pub(crate) struct Outflow {
    send: mpsc::Sender<io::Result<Bytes>>,
    buffer: Vec<u8>,
}

impl Write for Outflow {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.buffer.extend_from_slice(bytes);
        if self.buffer.len() >= CHUNK {
            self.flush()?;
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        if self.buffer.is_empty() {
            return Ok(());
        }
        let chunk = Bytes::from(std::mem::take(&mut self.buffer));
        self.send.blocking_send(Ok(chunk)).map_err(|_| io::ErrorKind::BrokenPipe.into())
    }
}
