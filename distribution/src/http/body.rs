//! Bodies as they come in, with an end to patience and to size, and files as bodies that go out.

use std::fs::File;
use std::io::{Seek, SeekFrom};
use std::time::Duration;

use bytes::Bytes;
use futures::TryStreamExt;
use http_body_util::{BodyExt, LengthLimitError, Limited, StreamBody};
use hyper::StatusCode;
use hyper::body::{Frame, Incoming};
use tokio::io::AsyncReadExt;
use tokio::sync::mpsc;
use tokio::task::JoinError;
use tokio_util::io::ReaderStream;

use super::Body;
use crate::error::{Error, Refusal};
use crate::store::Writing;

/// Longest wait for the next bytes of a body.
const PATIENCE: Duration = Duration::from_secs(60);
/// Longest time that the rest of a body is listened to that cannot be taken.
const LINGER: Duration = Duration::from_secs(10);
/// Pieces on their way to the disk.
const AHEAD: usize = 32;
const CHUNK: usize = 256 << 10;

/// How an upload went on.
pub(super) enum Took {
    /// The body came to its end.
    All,
    /// It did not: the client went away, or another request took over.
    Cut(String),
    /// It cannot be written.
    Failed(Error),
}

/// Adds a body to an upload. What came before an end that is none is kept.
pub(super) async fn add(writing: Writing, mut body: Incoming) -> Result<(Writing, Took), Refusal> {
    let (pass, pieces) = mpsc::channel::<Bytes>(AHEAD);
    let stop = writing.stop.clone();
    let writer = tokio::spawn(write(writing, pieces));
    let mut pass_failed = false;
    let ended = loop {
        let frame = tokio::select! {
            () = stop.cancelled() => break Took::Cut("another request goes on with this upload".into()),
            frame = tokio::time::timeout(PATIENCE, body.frame()) => frame,
        };
        match frame {
            Err(_) => break Took::Cut(format!("nothing came for {PATIENCE:?}")),
            Ok(None) => break Took::All,
            Ok(Some(Err(e))) => break Took::Cut(e.to_string()),
            Ok(Some(Ok(frame))) => {
                let Ok(piece) = frame.into_data() else { continue };
                // Closed once a write failed.
                if pass.send(piece).await.is_err() {
                    pass_failed = true;
                    break Took::All;
                }
            }
        }
    };
    drop(pass);
    if pass_failed {
        // A client that is still sending would lose the answer with its connection.
        let rest = async { while let Some(Ok(_)) = body.frame().await {} };
        let _ = tokio::time::timeout(LINGER, rest).await;
    }
    let early = |e: JoinError| Error::Invalid(format!("a task of the registry ended early: {e}"));
    let (writing, failed) = writer.await.map_err(early)?.map_err(early)?;
    Ok((writing, failed.map_or(ended, Took::Failed)))
}

/// Writes what comes, to its end or to the first failure. A thread is held while there is something to write, and not
/// while a client thinks.
async fn write(
    mut writing: Writing,
    mut pieces: mpsc::Receiver<Bytes>,
) -> Result<(Writing, Option<Error>), JoinError> {
    while let Some(first) = pieces.recv().await {
        let work = tokio::task::spawn_blocking(move || {
            let mut written = writing.take(&first);
            while written.is_ok()
                && let Ok(piece) = pieces.try_recv()
            {
                written = writing.take(&piece);
            }
            (writing, pieces, written)
        });
        let (back, rest, written) = work.await?;
        (writing, pieces) = (back, rest);
        if let Err(e) = written {
            return Ok((writing, Some(e)));
        }
    }
    Ok((writing, None))
}

/// A whole body of at most so many bytes.
pub(super) async fn whole(body: Incoming, most: usize) -> Result<Bytes, Refusal> {
    match tokio::time::timeout(PATIENCE, Limited::new(body, most).collect()).await {
        Ok(Ok(all)) => Ok(all.to_bytes()),
        Ok(Err(e)) if e.is::<LengthLimitError>() => Err(Refusal::new(
            StatusCode::PAYLOAD_TOO_LARGE,
            "SIZE_INVALID",
            format!("the manifest is longer than {most} bytes"),
        )),
        Ok(Err(e)) => Err(Refusal::new(
            StatusCode::BAD_REQUEST,
            "SIZE_INVALID",
            format!("the body did not come to its end: {e}"),
        )),
        Err(_) => Err(Refusal::new(
            StatusCode::REQUEST_TIMEOUT,
            "SIZE_INVALID",
            format!("the body did not come to its end within {PATIENCE:?}"),
        )),
    }
}

/// So many bytes of a file, from one on.
pub(crate) fn part(mut file: File, first: u64, count: u64) -> Result<Body, Refusal> {
    file.seek(SeekFrom::Start(first)).map_err(|source| Error::Io {
        operation: "seek in",
        subject: "a blob".into(),
        source,
    })?;
    let read = tokio::fs::File::from_std(file).take(count);
    let frames = ReaderStream::with_capacity(read, CHUNK).map_ok(Frame::data);
    Ok(BodyExt::boxed_unsync(StreamBody::new(frames)))
}
