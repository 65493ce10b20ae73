//! One layer on its way from a registry: downloaded, hashed and unpacked at once. Pulls that need the same layer
//! of the same repository share one transfer, which ends with the last of them.

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::Duration;

use bytes::Bytes;
use sha2::{Digest, Sha256};
use skep_registry::{Descriptor, Repository, Session};
use tokio::sync::{Semaphore, mpsc, watch};
use tokio_util::task::AbortOnDropHandle;

use super::archive::Scratch;
use super::growing::Growing;
use super::layer::unpack_from;
use super::progress::Progress;
use super::store::Images;
use crate::error::{Error, blocking};

/// Layers downloaded at once, as with Docker.
const AT_ONCE: usize = 3;
/// Shortest time between two messages of how far a layer has got.
const BREATH: Duration = Duration::from_millis(100);

/// A layer that is wanted.
#[derive(Clone, Debug)]
pub(super) struct Wanted {
    pub(super) descriptor: Descriptor,
    pub(super) diff_id: String,
    pub(super) chain: String,
    /// The layer is there, and only its blob is not.
    pub(super) blob_only: bool,
}

/// A layer that came. Its files go with the last who holds it, unless they were moved into the store.
#[derive(Debug)]
pub(super) struct Arrived {
    _scratch: Arc<Scratch>,
    pub(super) blob: PathBuf,
    /// Directory and size of what was unpacked.
    pub(super) unpacked: Option<(PathBuf, u64)>,
}

/// Where a transfer has got to; each comes after the one before.
#[derive(Clone, Debug)]
enum Stage {
    Waiting,
    Downloading(u64),
    Retrying(Duration),
    Downloaded,
    Extracting(u64),
    Done(Arc<Arrived>),
    Failed(String),
}

/// A transfer under way.
#[derive(Debug)]
pub(super) struct Transfer {
    stage: watch::Receiver<Stage>,
    size: u64,
    digest: String,
    _task: AbortOnDropHandle<()>,
}

type Key = (Repository, String, String);

/// All transfers under way.
#[derive(Debug)]
pub(super) struct Transfers {
    turns: Arc<Semaphore>,
    running: Mutex<HashMap<Key, Weak<Transfer>>>,
}

impl Default for Transfers {
    fn default() -> Self {
        Self { turns: Arc::new(Semaphore::new(AT_ONCE)), running: Mutex::default() }
    }
}

impl Images {
    /// The transfer of a layer, begun now unless somebody has begun it.
    pub(super) fn transfer(&self, session: &Session, wanted: &Wanted) -> Arc<Transfer> {
        let digest = wanted.descriptor.digest.clone();
        let key = (session.repository().clone(), digest.clone(), wanted.chain.clone());
        let mut running = self.transfers().running.lock().unwrap_or_else(PoisonError::into_inner);
        running.retain(|_, t| t.strong_count() > 0);
        if let Some(t) = running.get(&key).and_then(Weak::upgrade)
            && !t.has_failed()
        {
            return t;
        }
        let (tell, stage) = watch::channel(Stage::Waiting);
        let work = run(self.clone(), session.clone(), wanted.clone(), tell.clone());
        let task = tokio::spawn(async move {
            let last = match work.await {
                Ok(arrived) => Stage::Done(Arc::new(arrived)),
                Err(e) => Stage::Failed(e.to_string()),
            };
            tell.send_replace(last);
        });
        let size = wanted.descriptor.size;
        let transfer = Arc::new(Transfer { stage, size, digest, _task: AbortOnDropHandle::new(task) });
        running.insert(key, Arc::downgrade(&transfer));
        transfer
    }
}

impl Transfer {
    fn has_failed(&self) -> bool {
        matches!(*self.stage.borrow(), Stage::Failed(_))
    }

    /// Waits for its end, and tells of the way there.
    pub(super) async fn follow(
        &self,
        tell: &(dyn Fn(Progress) + Send + Sync),
    ) -> Result<Arc<Arrived>, Error> {
        let mut stage = self.stage.clone();
        let say = |text: &str| tell(Progress::layer(&self.digest, text));
        let (mut waiting, mut downloaded) = (false, false);
        loop {
            let now = stage.borrow_and_update().clone();
            // A fast transfer skips what a slow one is seen at.
            if !downloaded && matches!(now, Stage::Downloaded | Stage::Extracting(_) | Stage::Done(_)) {
                downloaded = true;
                say("Verifying Checksum");
                say("Download complete");
            }
            let breath = match now {
                Stage::Waiting => {
                    if !std::mem::replace(&mut waiting, true) {
                        say("Waiting");
                    }
                    Duration::ZERO
                }
                Stage::Downloading(done) => {
                    tell(Progress::bytes(&self.digest, "Downloading", done, self.size));
                    BREATH
                }
                Stage::Retrying(pause) => {
                    let seconds = pause.as_secs_f64().ceil();
                    say(&format!("Retrying in {seconds} second{}", if seconds > 1.0 { "s" } else { "" }));
                    Duration::ZERO
                }
                Stage::Downloaded => Duration::ZERO,
                Stage::Extracting(done) => {
                    tell(Progress::bytes(&self.digest, "Extracting", done, self.size));
                    BREATH
                }
                Stage::Done(arrived) => {
                    tell(Progress::bytes(&self.digest, "Extracting", self.size, self.size));
                    say("Pull complete");
                    return Ok(arrived);
                }
                Stage::Failed(why) => return Err(Error::Transfer(why)),
            };
            if !breath.is_zero() {
                tokio::time::sleep(breath).await;
            }
            if stage.changed().await.is_err() && !stage.has_changed().unwrap_or(false) {
                return Err(Error::ShuttingDown);
            }
        }
    }
}

async fn run(
    images: Images,
    session: Session,
    wanted: Wanted,
    tell: watch::Sender<Stage>,
) -> Result<Arrived, Error> {
    let turn = images.transfers().turns.clone().acquire_owned().await.map_err(|_| Error::ShuttingDown)?;
    tell.send_replace(Stage::Downloading(0));
    let temporary = images.temporary();
    // Held by the threads that write below it too: nothing is made in it after it is gone.
    let scratch = Arc::new(blocking(move || Scratch::new(&temporary, "pull")).await?);
    let (blob, dir) = (scratch.0.join("blob"), scratch.0.join("layer"));
    let file = Growing::create(&blob)?;
    let unpacking =
        (!wanted.blob_only).then(|| unpack(&images, &file, &wanted, scratch.clone(), tell.clone()));
    let (chunks, inbox) = mpsc::channel(16);
    let digest = wanted.descriptor.digest.clone();
    let kept = scratch.clone();
    let writing = tokio::spawn(blocking(move || {
        let written = write(file, inbox, &digest);
        drop(kept);
        written
    }));
    let fed = feed(&session, &wanted, &chunks, &tell).await;
    match fed {
        Ok(()) => drop(chunks),
        Err(e) => {
            // The end of the chunks would be the end of the blob.
            let _ = chunks.send(Err(())).await;
            drop(chunks);
            let _ = writing.await;
            return Err(e);
        }
    }
    let file = writing.await.map_err(|_| Error::ShuttingDown)??;
    drop(turn);
    tell.send_replace(Stage::Downloaded);
    file.finish();
    let mut arrived = Arrived { _scratch: scratch, blob, unpacked: None };
    if let Some(unpacking) = unpacking {
        let unpacked = unpacking.await?;
        if unpacked.diff_id != wanted.diff_id {
            return Err(Error::Transfer(format!(
                "layer {} is damaged: its content is {}, the configuration says {}",
                wanted.descriptor.digest, unpacked.diff_id, wanted.diff_id
            )));
        }
        arrived.unpacked = Some((dir, unpacked.size));
    }
    Ok(arrived)
}

/// Unpacks in a thread of its own while the file grows.
fn unpack(
    images: &Images,
    file: &Growing,
    wanted: &Wanted,
    scratch: Arc<Scratch>,
    tell: watch::Sender<Stage>,
) -> impl Future<Output = Result<super::layer::Unpacked, Error>> + use<> {
    let (images, wanted) = (images.clone(), wanted.clone());
    let reader = file.reader(move |at| {
        tell.send_replace(Stage::Extracting(at));
    });
    let task = tokio::spawn(blocking(move || {
        let dir = scratch.0.join("layer");
        let reader = reader.map_err(Error::io("read", &dir))?;
        let Wanted { descriptor: d, .. } = wanted;
        unpack_from(reader, d.size, &d.digest, &dir.join("diff"), images.limits()).map_err(|e| match e {
            Error::Archive(why) => Error::Transfer(format!("failed to register layer {}: {why}", d.digest)),
            e => e,
        })
    }));
    async move { task.await.map_err(|_| Error::ShuttingDown)? }
}

type Chunk = Result<Bytes, ()>;

async fn feed(
    session: &Session,
    wanted: &Wanted,
    chunks: &mpsc::Sender<Chunk>,
    tell: &watch::Sender<Stage>,
) -> Result<(), Error> {
    let mut download = session.download(&wanted.descriptor.digest, wanted.descriptor.size);
    let mut done = 0;
    loop {
        let retrying = |pause| {
            tell.send_replace(Stage::Retrying(pause));
        };
        let Some(chunk) = download.chunk(retrying).await? else { return Ok(()) };
        done += chunk.len() as u64;
        if chunks.send(Ok(chunk)).await.is_err() {
            // The writer ended by an error, which it tells.
            return Ok(());
        }
        tell.send_replace(Stage::Downloading(done));
    }
}

/// Writes and hashes; the file comes back whole and verified.
fn write(mut file: Growing, mut chunks: mpsc::Receiver<Chunk>, wanted: &str) -> Result<Growing, Error> {
    let mut hash = Sha256::new();
    while let Some(chunk) = chunks.blocking_recv() {
        let chunk = chunk.map_err(|()| Error::Transfer("the download was given up".into()))?;
        hash.update(&chunk);
        file.append(&chunk).map_err(|e| Error::Transfer(format!("cannot write layer {wanted}: {e}")))?;
    }
    let got = format!("sha256:{}", hex::encode(hash.finalize()));
    if got == wanted {
        return Ok(file);
    }
    Err(skep_registry::Error::Digest { what: "filesystem layer", wanted: wanted.to_owned(), got }.into())
}
