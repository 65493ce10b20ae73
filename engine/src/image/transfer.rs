//! One layer on its way from a registry: downloaded, hashed and unpacked at once. Pulls that need the same layer
//! of the same repository share one transfer. Left by the last of them before its end, it stands still for a while: a
//! pull that comes back to it goes on from there.

use std::collections::HashMap;
use std::num::NonZeroUsize;
use std::path::PathBuf;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::Duration;

use bytes::Bytes;
use sha2::{Digest, Sha256};
use skep_registry::{Descriptor, Download, Repository, Session};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc, watch};
use tokio_util::task::AbortOnDropHandle;

use super::archive::Scratch;
use super::growing::Growing;
use super::layer::unpack_from;
use super::progress::Progress;
use super::store::Images;
use crate::error::{Error, blocking};

/// Layers downloaded at once where nothing else is said, as with Docker.
const DOWNLOADS: usize = 3;
/// Layers uploaded at once by a push, likewise.
const UPLOADS: usize = 5;
/// Layers from other nodes that are hashed and unpacked at once. For each two threads wait for what comes, which is
/// written by a thread, too: the runtime has 512 of them.
const RECEIVED_AT_ONCE: usize = 64;
/// How long a transfer that nobody follows is kept.
const KEPT: Duration = Duration::from_secs(600);
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
    /// How many pulls follow it.
    followers: watch::Sender<usize>,
    _task: AbortOnDropHandle<()>,
}

/// A pull's part in a transfer. Dropped before [`Followed::settle`], the transfer is kept for the next one.
#[derive(Debug)]
pub(super) struct Followed {
    transfer: Arc<Transfer>,
    settled: bool,
}

type Key = (Repository, String, String);

/// All transfers under way.
#[derive(Debug)]
pub(super) struct Transfers {
    turns: Arc<Semaphore>,
    /// How many turns there are, or will be once those of more have ended.
    downloads: Mutex<usize>,
    uploads: AtomicUsize,
    /// Of layers that come from other nodes.
    pub(super) receiving: Arc<Semaphore>,
    running: Mutex<HashMap<Key, Weak<Transfer>>>,
}

impl Default for Transfers {
    fn default() -> Self {
        Self {
            turns: Arc::new(Semaphore::new(DOWNLOADS)),
            downloads: Mutex::new(DOWNLOADS),
            uploads: AtomicUsize::new(UPLOADS),
            receiving: Arc::new(Semaphore::new(RECEIVED_AT_ONCE)),
            running: Mutex::default(),
        }
    }
}

impl Transfers {
    /// Layers that one push sends at once.
    pub(super) fn uploads(&self) -> usize {
        self.uploads.load(Ordering::Relaxed)
    }
}

impl Images {
    /// From now on so many layers are downloaded at once, and so many uploaded by each push; none = as with Docker. What is
    /// under way goes on.
    pub fn limit_transfers(&self, downloads: Option<NonZeroUsize>, uploads: Option<NonZeroUsize>) {
        let transfers = self.transfers();
        transfers.uploads.store(uploads.map_or(UPLOADS, NonZeroUsize::get), Ordering::Relaxed);
        let wanted = downloads.map_or(DOWNLOADS, NonZeroUsize::get).min(Semaphore::MAX_PERMITS);
        let before = {
            let mut now = transfers.downloads.lock().unwrap_or_else(PoisonError::into_inner);
            std::mem::replace(&mut *now, wanted)
        };
        if wanted > before {
            transfers.turns.add_permits(wanted - before);
            return;
        }
        // Those that are free go at once, the others as they become free: no more than downloads are under way.
        let free = transfers.turns.forget_permits(before - wanted);
        for _ in free..before - wanted {
            let turns = transfers.turns.clone();
            tokio::spawn(async move {
                if let Ok(turn) = turns.acquire_owned().await {
                    turn.forget();
                }
            });
        }
    }

    /// The transfer of a layer, begun now unless somebody has begun it.
    pub(super) fn transfer(&self, session: &Session, wanted: &Wanted) -> Followed {
        let digest = wanted.descriptor.digest.clone();
        let key = (session.repository().clone(), digest.clone(), wanted.chain.clone());
        let mut running = self.transfers().running.lock().unwrap_or_else(PoisonError::into_inner);
        running.retain(|_, t| t.strong_count() > 0);
        if let Some(t) = running.get(&key).and_then(Weak::upgrade)
            && !t.has_failed()
        {
            return Followed::new(t);
        }
        let (tell, stage) = watch::channel(Stage::Waiting);
        let (followers, followed) = watch::channel(0);
        let work = run(self.clone(), session.clone(), wanted.clone(), tell.clone(), followed);
        let task = tokio::spawn(async move {
            let last = match work.await {
                Ok(arrived) => Stage::Done(Arc::new(arrived)),
                Err(e) => Stage::Failed(e.to_string()),
            };
            tell.send_replace(last);
        });
        let size = wanted.descriptor.size;
        let task = AbortOnDropHandle::new(task);
        let transfer = Arc::new(Transfer { stage, size, digest, followers, _task: task });
        running.insert(key, Arc::downgrade(&transfer));
        Followed::new(transfer)
    }
}

impl Followed {
    fn new(transfer: Arc<Transfer>) -> Self {
        transfer.followers.send_modify(|n| *n += 1);
        Self { transfer, settled: false }
    }

    /// What it brought is in the store: nothing is to be kept for another pull.
    pub(super) fn settle(&mut self) {
        self.settled = true;
    }
}

impl Drop for Followed {
    fn drop(&mut self) {
        let mut last = false;
        self.transfer.followers.send_modify(|n| {
            *n = n.saturating_sub(1);
            last = *n == 0;
        });
        if !last || self.settled || self.transfer.has_failed() {
            return;
        }
        let (Ok(runtime), kept) = (tokio::runtime::Handle::try_current(), self.transfer.clone()) else {
            return;
        };
        let mut followers = self.transfer.followers.subscribe();
        runtime.spawn(async move {
            // Whoever follows it holds it.
            let _ = tokio::time::timeout(KEPT, followers.wait_for(|n| *n > 0)).await;
            drop(kept);
        });
    }
}

impl std::ops::Deref for Followed {
    type Target = Transfer;

    fn deref(&self) -> &Transfer {
        &self.transfer
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
    mut followed: watch::Receiver<usize>,
) -> Result<Arrived, Error> {
    let mut turn = Some(take_turn(&images, &mut followed).await?);
    let mut download = session.download(&wanted.descriptor.digest, wanted.descriptor.size);
    loop {
        match bring(&images, &mut download, &wanted, &tell, &mut turn, &mut followed).await {
            Err(Error::Registry { cause: wrong @ skep_registry::Error::Digest { .. }, .. })
                if download.begin_elsewhere(&wrong) => {}
            outcome => return outcome,
        }
    }
}

/// Reads, verifies and unpacks what one endpoint has, and others where it does not answer. The turn ends with the download.
async fn bring(
    images: &Images,
    download: &mut Download,
    wanted: &Wanted,
    tell: &watch::Sender<Stage>,
    turn: &mut Option<OwnedSemaphorePermit>,
    followed: &mut watch::Receiver<usize>,
) -> Result<Arrived, Error> {
    tell.send_replace(Stage::Downloading(0));
    let temporary = images.temporary();
    // Held by the threads that write below it too: nothing is made in it after it is gone.
    let scratch = Arc::new(blocking(move || Scratch::new(&temporary, "pull")).await?);
    let (blob, dir) = (scratch.0.join("blob"), scratch.0.join("layer"));
    let file = Growing::create(&blob)?;
    let unpacking = (!wanted.blob_only).then(|| unpack(images, &file, wanted, scratch.clone(), tell.clone()));
    let (chunks, inbox) = mpsc::channel(16);
    let digest = wanted.descriptor.digest.clone();
    let kept = scratch.clone();
    let writing = tokio::spawn(blocking(move || {
        let written = write(file, inbox, &digest);
        drop(kept);
        written
    }));
    let fed = async {
        loop {
            tokio::select! {
                fed = feed(download, &chunks, tell) => break fed,
                _ = followed.wait_for(|n| *n == 0) => {}
            }
            // Nobody waits for it: the connection and the turn are for others.
            download.pause();
            *turn = None;
            *turn = Some(take_turn(images, followed).await?);
        }
    }
    .await;
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
    *turn = None;
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

/// Waits until somebody follows the transfer, and it is its turn.
async fn take_turn(
    images: &Images,
    followed: &mut watch::Receiver<usize>,
) -> Result<OwnedSemaphorePermit, Error> {
    let turns = &images.transfers().turns;
    loop {
        followed.wait_for(|n| *n > 0).await.map_err(|_| Error::ShuttingDown)?;
        let turn = turns.clone().acquire_owned().await.map_err(|_| Error::ShuttingDown)?;
        if *followed.borrow() > 0 {
            return Ok(turn);
        }
    }
}

type Chunk = Result<Bytes, ()>;

/// Hands on what comes. Whoever stops waiting loses nothing: room is there before a chunk is taken.
async fn feed(
    download: &mut Download,
    chunks: &mpsc::Sender<Chunk>,
    tell: &watch::Sender<Stage>,
) -> Result<(), Error> {
    loop {
        // The writer ended by an error, which it tells.
        let Ok(room) = chunks.reserve().await else { return Ok(()) };
        let retrying = |pause| {
            tell.send_replace(Stage::Retrying(pause));
        };
        let Some(chunk) = download.chunk(retrying).await? else { return Ok(()) };
        room.send(Ok(chunk));
        tell.send_replace(Stage::Downloading(download.position()));
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
