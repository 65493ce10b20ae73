//! Blobs on their way out, checked against their digests: what a disk has damaged is never passed on as if it were whole.

use std::fs::File;
use std::io::{self, Read};

use bytes::Bytes;
use futures::TryStreamExt;
use futures::stream::try_unfold;
use http_body_util::{BodyExt, StreamBody};
use hyper::body::Frame;
use sha2::{Digest, Sha256};

use super::{Body, body};
use crate::error::Refusal;
use crate::store::Store;

const CHUNK: usize = 256 << 10;

/// A blob that is read from its beginning.
struct Reading {
    store: Store,
    digest: String,
    file: File,
    hash: Sha256,
    left: u64,
}

/// So many bytes of a blob's file, from one on. Where that is all of it, its last piece goes out only if the digest is right;
/// else the connection breaks off, and the blob is set aside: the next push brings it anew, a mirror fetches it anew.
pub(crate) fn part(
    store: &Store,
    digest: &str,
    (file, size): (File, u64),
    first: u64,
    count: u64,
) -> Result<Body, Refusal> {
    if (first, count) != (0, size) {
        return body::part(file, first, count);
    }
    let reading =
        Reading { store: store.clone(), digest: digest.to_owned(), file, hash: Sha256::new(), left: size };
    let pieces = try_unfold(reading, |reading| async move {
        if reading.left == 0 {
            return Ok(None);
        }
        // A thread is held while there is something to read, and not while a client thinks.
        let piece = tokio::task::spawn_blocking(move || reading.piece()).await;
        piece.map_err(io::Error::other)?.map(Some)
    });
    Ok(BodyExt::boxed_unsync(StreamBody::new(pieces.map_ok(Frame::data))))
}

impl Reading {
    fn piece(mut self) -> io::Result<(Bytes, Self)> {
        let want = usize::try_from(self.left).unwrap_or(usize::MAX).min(CHUNK);
        let mut piece = vec![0; want];
        let read = self.file.read_exact(&mut piece);
        self.hash.update(&piece);
        self.left -= want as u64;
        let right = self.left > 0 || {
            let got = std::mem::take(&mut self.hash).finalize();
            self.digest.strip_prefix("sha256:") == Some(hex::encode(got).as_str())
        };
        match read {
            Ok(()) if right => return Ok((Bytes::from(piece), self)),
            // What cannot be read now may be read another time.
            Err(e) if e.kind() != io::ErrorKind::UnexpectedEof => return Err(e),
            _ => {}
        }
        if let Err(e) = self.store.set_aside(&self.digest, &self.file) {
            tracing::error!(digest = self.digest, error = %e, "a damaged blob cannot be set aside");
        }
        Err(io::Error::other("the blob is damaged"))
    }
}
