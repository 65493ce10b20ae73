//! One blob on its way into the store, read by whoever asked for it while it comes.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::sync::Arc;

use bytes::Bytes;
use futures::TryStreamExt;
use http_body_util::{BodyExt, StreamBody};
use hyper::body::Frame;
use sha2::{Digest, Sha256};
use skep_registry::Download;
use tokio::sync::{mpsc, watch};

use crate::error::Error;
use crate::http::Body;
use crate::store::{Store, remove};

/// Pieces on their way to the disk.
const AHEAD: usize = 32;
const CHUNK: u64 = 256 << 10;

/// How far it is.
#[derive(Clone, Debug)]
enum Progress {
    /// So many bytes may be read.
    At(u64),
    /// It is verified and stored.
    Done,
    /// It is not to be had, or not what its digest says.
    Failed(String),
}

/// A blob that is being fetched.
#[derive(Debug)]
pub(super) struct Fetch {
    file: Arc<File>,
    progress: watch::Receiver<Progress>,
}

impl Fetch {
    /// Starts; goes on whoever stops reading. `ended` is called once it is in the store, or has failed.
    pub(super) fn start(
        store: &Store,
        download: Download,
        name: &str,
        digest: &str,
        size: u64,
        ended: impl FnOnce() + Send + 'static,
    ) -> Result<Arc<Self>, Error> {
        let path = store.temporary();
        let mut options = File::options();
        let file = options.read(true).write(true).create_new(true).open(&path);
        let file = Arc::new(file.map_err(Error::io("make", &path))?);
        let (tell, progress) = watch::channel(Progress::At(0));
        let fetch = Arc::new(Self { file: file.clone(), progress });
        let (store, name, digest) = (store.clone(), name.to_owned(), digest.to_owned());
        tokio::spawn(async move {
            let received = receive(download, file, &digest, size, &tell).await;
            let (at, wanted, from) = (name.clone(), digest.clone(), path.clone());
            let kept = match received {
                Ok(()) => {
                    let taken = store.run(move |store| store.take_in(&from, &at, &wanted)).await;
                    taken.map_err(|e| e.to_string())
                }
                Err(e) => Err(e),
            };
            // Before those who wait are told: who asks from now on finds it, or begins anew.
            ended();
            match kept {
                Ok(()) => {
                    tracing::info!(repository = name, digest, size, "blob mirrored");
                    tell.send_replace(Progress::Done);
                }
                Err(why) => {
                    tracing::error!(repository = name, digest, error = why, "a blob was not mirrored");
                    if let Err(e) = remove(&path) {
                        tracing::warn!(error = %e, "what came of it is swept at the next start");
                    }
                    tell.send_replace(Progress::Failed(why));
                }
            }
        });
        Ok(fetch)
    }

    /// So many bytes from one on, as they come.
    pub(super) fn part(&self, first: u64, count: u64) -> Body {
        let state = (self.file.clone(), self.progress.clone(), first, first + count);
        let stream = futures::stream::try_unfold(state, |(file, mut progress, at, end)| async move {
            if at == end {
                return Ok(None);
            }
            let limit = loop {
                let now = progress.borrow_and_update().clone();
                match now {
                    Progress::Done => break end,
                    Progress::At(there) if there > at => break there.min(end),
                    Progress::Failed(why) => return Err(io::Error::other(why)),
                    Progress::At(_) => {
                        let gone = |_| io::Error::other("the mirror stops");
                        progress.changed().await.map_err(gone)?;
                    }
                }
            };
            let length = usize::try_from((limit - at).min(CHUNK)).map_err(io::Error::other)?;
            let source = file.clone();
            let read = tokio::task::spawn_blocking(move || {
                let mut buffer = vec![0; length];
                source.read_exact_at(&mut buffer, at).map(|()| buffer)
            });
            let chunk = Bytes::from(read.await.map_err(io::Error::other)??);
            let next = at + chunk.len() as u64;
            Ok(Some((chunk, (file, progress, next, end))))
        });
        BodyExt::boxed_unsync(StreamBody::new(stream.map_ok(Frame::data)))
    }
}

async fn receive(
    mut download: Download,
    file: Arc<File>,
    digest: &str,
    size: u64,
    tell: &watch::Sender<Progress>,
) -> Result<(), String> {
    let (pass, pieces) = mpsc::channel::<Bytes>(AHEAD);
    let writer = tokio::spawn(write(file, pieces, size, tell.clone()));
    let mut outcome = Ok(());
    loop {
        match download.chunk(|_| {}).await {
            Ok(Some(piece)) => {
                if pass.send(piece).await.is_err() {
                    break;
                }
            }
            Ok(None) => break,
            Err(e) => {
                outcome = Err(e.to_string());
                break;
            }
        }
    }
    drop(pass);
    let got = writer.await.map_err(|e| e.to_string())?.map_err(|e| format!("cannot write it: {e}"))?;
    outcome?;
    if got != digest {
        return Err(format!("its content has {got}: the registry that is mirrored sent something else"));
    }
    Ok(())
}

/// Writes what comes, and returns the digest of it. A thread is held while there is something to write, and not while it
/// is waited for.
async fn write(
    file: Arc<File>,
    mut pieces: mpsc::Receiver<Bytes>,
    size: u64,
    tell: watch::Sender<Progress>,
) -> io::Result<String> {
    let (mut hasher, mut at) = (Sha256::new(), 0);
    while let Some(piece) = pieces.recv().await {
        let (file, length) = (file.clone(), piece.len() as u64);
        let work = tokio::task::spawn_blocking(move || {
            file.write_all_at(&piece, at)?;
            hasher.update(&piece);
            io::Result::Ok(hasher)
        });
        hasher = work.await.map_err(io::Error::other)??;
        at += length;
        // The last byte waits for the digest: nobody gets all of a blob that is not what it should be.
        tell.send_replace(Progress::At(at.min(size - 1)));
    }
    let synced = tokio::task::spawn_blocking(move || file.sync_all()).await;
    synced.map_err(io::Error::other)??;
    Ok(format!("sha256:{}", hex::encode(hasher.finalize())))
}
