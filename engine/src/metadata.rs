//! The metadata store: one redb file, written by one thread that gathers what is waiting into one commit.
//!
//! What is promised: whatever was written with [`Metadata::commit`] survives a power cut once it returns
//! (images, references, layers, volumes, a container's creation, name, user-asked stop, and its start where a policy
//! restarts it). What is written with [`Metadata::later`] (running, exited, removed) is on disk within [`LAZY`] and can be lost by a crash
//! before that; all of it is derived again at start: whether a container runs and how it ended from its
//! shim's own files, that it was removed from its missing directory. So a short-lived container costs one
//! fsync, not four.
//!
//! Where the disk refuses (it is full, say), who waits is told, and what it wanted is not written later either; what nobody waits
//! for is tried again. The file is opened anew before the next try, as redb wants it after an error, and is then as of
//! the last commit.

mod pending;

use std::collections::HashMap;
use std::io::ErrorKind::{QuotaExceeded, StorageFull};
use std::path::{Path, PathBuf};
use std::sync::mpsc;
use std::time::{Duration, Instant};

use redb::{Database, ReadableDatabase, ReadableTable, TableDefinition};
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::sync::oneshot;

use crate::error::Error;
use crate::reserve::Reserve;
use pending::{Pending, Write, tell};

/// How long a lazy write may wait for company.
const LAZY: Duration = Duration::from_millis(100);
/// How long it waits after one that failed, unless somebody asks.
const RETRY: Duration = Duration::from_secs(5);
/// redb's own memory, in bytes.
const CACHE: usize = 4 << 20;

const TABLE: TableDefinition<&str, &[u8]> = TableDefinition::new("objects");

/// A kind of object; the first part of its key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Container,
    Image,
    Reference,
    /// When an image last got a tag.
    Tagged,
    Layer,
    Volume,
    BuildStep,
}

impl Kind {
    fn prefix(self) -> &'static str {
        match self {
            Kind::Container => "container/",
            Kind::Image => "image/",
            Kind::Reference => "reference/",
            Kind::Tagged => "tagged/",
            Kind::Layer => "layer/",
            Kind::Volume => "volume/",
            Kind::BuildStep => "build-step/",
        }
    }
}

/// One change: set to a value or remove.
#[derive(Debug)]
pub(crate) struct Change {
    key: String,
    value: Option<Vec<u8>>,
}

impl Change {
    pub(crate) fn put<T: Serialize>(kind: Kind, id: &str, object: &T) -> Result<Self, Error> {
        let value = serde_json::to_vec(object).map_err(Error::metadata("encode an object"))?;
        Ok(Self { key: format!("{}{id}", kind.prefix()), value: Some(value) })
    }

    pub(crate) fn delete(kind: Kind, id: &str) -> Self {
        Self { key: format!("{}{id}", kind.prefix()), value: None }
    }
}

type Done = oneshot::Sender<Result<(), String>>;

enum Message {
    Write(Vec<Change>, Option<Done>),
    Flush(Done),
}

/// Cheap handle.
#[derive(Clone, Debug)]
pub(crate) struct Metadata {
    writer: mpsc::Sender<Message>,
}

/// Everything in the store at opening.
#[derive(Debug, Default)]
pub(crate) struct Stored(HashMap<String, Vec<u8>>);

impl Stored {
    /// All objects of a kind; one that cannot be read is reported and left out.
    pub(crate) fn all<T: DeserializeOwned>(&self, kind: Kind) -> Vec<(String, T)> {
        let mut out = Vec::new();
        for (key, value) in &self.0 {
            let Some(id) = key.strip_prefix(kind.prefix()) else { continue };
            match serde_json::from_slice(value) {
                Ok(object) => out.push((id.to_owned(), object)),
                Err(e) => tracing::error!(key, error = %e, "metadata object cannot be read and is left out"),
            }
        }
        out.sort_by(|a, b| a.0.cmp(&b.0));
        out
    }
}

/// Makes the file, for its owner only; one that exists is made so.
fn private(path: &Path) -> std::io::Result<()> {
    use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
    let file = std::fs::OpenOptions::new().write(true).create(true).truncate(false).mode(0o600).open(path)?;
    file.set_permissions(std::fs::Permissions::from_mode(0o600))
}

impl Metadata {
    /// Opens (or makes) the file, reads it whole and starts the writer.
    pub(crate) fn open(path: &Path) -> Result<(Self, Stored), Error> {
        // It holds containers' environments, and with them their secrets.
        private(path).map_err(Error::io("make", path))?;
        let db = Database::builder()
            .set_cache_size(CACHE)
            .create(path)
            .map_err(Error::metadata("open the metadata file (skep.redb under the data root)"))?;
        let stored = read_all(&db).map_err(Error::metadata("read the metadata file"))?;
        let (writer, inbox) = mpsc::channel();
        let reserve = Reserve::new(path.with_extension("reserve"));
        let file = File { path: path.to_owned(), db: Some(db), reserve };
        std::thread::Builder::new()
            .name("skep-metadata".into())
            .spawn(move || write_loop(file, &inbox))
            .map_err(Error::metadata("start the writer thread"))?;
        Ok((Self { writer }, stored))
    }

    /// All changes or none; on disk when this returns. After an error they are not, and will not be, unless what failed was the
    /// disk's last word (fsync): then the next start may find them.
    pub(crate) async fn commit(&self, changes: Vec<Change>) -> Result<(), Error> {
        let (done, wait) = oneshot::channel();
        self.send(Message::Write(changes, Some(done)))?;
        Self::done(wait.await)
    }

    /// As [`Metadata::commit`], from a blocking thread.
    pub(crate) fn commit_blocking(&self, changes: Vec<Change>) -> Result<(), Error> {
        let (done, wait) = oneshot::channel();
        self.send(Message::Write(changes, Some(done)))?;
        Self::done(wait.blocking_recv())
    }

    /// On disk soon; for what a start derives again.
    pub(crate) fn later(&self, change: Change) {
        if self.send(Message::Write(vec![change], None)).is_err() {
            tracing::warn!(
                "metadata writer has stopped: a lazy change is left to be derived at the next start"
            );
        }
    }

    /// Everything sent so far is on disk when this returns.
    pub(crate) async fn flush(&self) -> Result<(), Error> {
        let (done, wait) = oneshot::channel();
        self.send(Message::Flush(done))?;
        Self::done(wait.await)
    }

    fn send(&self, m: Message) -> Result<(), Error> {
        self.writer.send(m).map_err(|_| Error::ShuttingDown)
    }

    fn done(r: Result<Result<(), String>, oneshot::error::RecvError>) -> Result<(), Error> {
        match r {
            Ok(Ok(())) => Ok(()),
            Ok(Err(e)) => Err(Error::Metadata { operation: "commit", reason: e }),
            Err(_) => Err(Error::ShuttingDown),
        }
    }
}

fn read_all(db: &Database) -> Result<Stored, redb::Error> {
    let mut all = HashMap::new();
    let tx = db.begin_read()?;
    let table = match tx.open_table(TABLE) {
        Err(redb::TableError::TableDoesNotExist(_)) => return Ok(Stored(all)),
        other => other?,
    };
    for row in table.iter()? {
        let (k, v) = row?;
        all.insert(k.value().to_owned(), v.value().to_vec());
    }
    Ok(Stored(all))
}

/// Gathers changes until somebody waits or the oldest has waited long enough, then commits all in one transaction.
fn write_loop(mut file: File, inbox: &mpsc::Receiver<Message>) {
    let mut pending = Pending::default();
    let mut due: Option<Instant> = None;
    loop {
        let first = match due {
            None => inbox.recv().map_err(|_| mpsc::RecvTimeoutError::Disconnected),
            Some(at) => inbox.recv_timeout(at.saturating_duration_since(Instant::now())),
        };
        let (mut awaited, mut flushes) = (false, Vec::new());
        let mut take = |message, pending: &mut Pending| match message {
            Message::Write(changes, done) => {
                awaited |= done.is_some();
                pending.add(Write { changes, done });
            }
            Message::Flush(done) => {
                awaited = true;
                flushes.push(done);
            }
        };
        let closed = matches!(first, Err(mpsc::RecvTimeoutError::Disconnected));
        let now = first.is_err();
        if let Ok(m) = first {
            take(m, &mut pending);
        }
        while let Ok(m) = inbox.try_recv() {
            take(m, &mut pending);
        }
        if pending.is_empty() {
            due = None;
        } else {
            due.get_or_insert_with(|| Instant::now() + LAZY);
        }
        if now || awaited {
            let outcome = file.write(&mut pending).map_err(|e| e.to_string());
            match &outcome {
                Ok(()) => pending.written(),
                Err(e) => {
                    tracing::error!(error = %e, "metadata commit failed: what nobody waits for is tried again");
                    pending.refuse(e);
                }
            }
            due = (!pending.is_empty()).then(|| Instant::now() + RETRY);
            for flush in flushes {
                tell(Some(flush), outcome.clone());
            }
        }
        if closed {
            return;
        }
    }
}

/// The file; closed after an error.
struct File {
    path: PathBuf,
    db: Option<Database>,
    reserve: Reserve,
}

impl File {
    /// Where the disk is full, what removes something may use the reserve. What puts something, and came in the same moment, may
    /// not, and is refused by itself.
    fn write(&mut self, pending: &mut Pending) -> Result<(), redb::Error> {
        let mut outcome = self.try_write(&pending.changes());
        if let Err(redb::Error::Io(e)) = &outcome
            && [StorageFull, QuotaExceeded].contains(&e.kind())
            && pending.removes()
            && self.reserve.give()
        {
            pending.refuse_puts(&e.to_string());
            outcome = self.try_write(&pending.changes());
        }
        if outcome.is_ok() {
            self.reserve.keep();
        }
        outcome
    }

    fn try_write(&mut self, changes: &HashMap<&str, Option<&[u8]>>) -> Result<(), redb::Error> {
        if changes.is_empty() {
            return Ok(());
        }
        let db = match self.db.take() {
            Some(db) => db,
            // Never a new one: that would be without all that is known.
            None => Database::builder().set_cache_size(CACHE).open(&self.path)?,
        };
        write(&db, changes)?;
        self.db = Some(db);
        Ok(())
    }
}

fn write(db: &Database, changes: &HashMap<&str, Option<&[u8]>>) -> Result<(), redb::Error> {
    let tx = db.begin_write()?;
    {
        let mut table = tx.open_table(TABLE)?;
        for (key, value) in changes {
            match value {
                Some(v) => table.insert(*key, *v)?,
                None => table.remove(*key)?,
            };
        }
    }
    tx.commit()?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn keeps_the_last_value_of_a_key_and_reads_it_back() {
        let dir = tempfile::tempdir().expect("temporary directory");
        let path = dir.path().join("m.redb");
        let (m, stored) = Metadata::open(&path).expect("opens");
        assert!(stored.all::<String>(Kind::Image).is_empty());
        m.later(Change::put(Kind::Image, "a", &"one").expect("encodes"));
        m.later(Change::put(Kind::Image, "a", &"two").expect("encodes"));
        m.later(Change::put(Kind::Container, "gone", &"x").expect("encodes"));
        m.commit(vec![Change::delete(Kind::Container, "gone")]).await.expect("commits");
        // A copy of the file as a crash would leave it.
        let copy = dir.path().join("copy.redb");
        std::fs::copy(&path, &copy).expect("copies");
        let (_m, stored) = Metadata::open(&copy).expect("opens again");
        assert_eq!(stored.all::<String>(Kind::Image), [("a".to_owned(), "two".to_owned())]);
        assert!(stored.all::<String>(Kind::Container).is_empty());
    }

    /// A file system of 16 MiB that this thread alone sees.
    fn small_disk(at: &Path) {
        use nix::mount::{MsFlags, mount};
        nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWNS).expect("a mount namespace, as root");
        let private = MsFlags::MS_REC | MsFlags::MS_PRIVATE;
        mount(None::<&str>, "/", None::<&str>, private, None::<&str>).expect("private");
        mount(Some("tmpfs"), at, Some("tmpfs"), MsFlags::empty(), Some("size=16m")).expect("mounted");
    }

    #[test]
    fn on_a_full_disk_a_removal_goes_through_beside_what_needs_room() {
        let dir = tempfile::tempdir().expect("temporary directory");
        let disk = dir.path().join("disk");
        std::fs::create_dir(&disk).expect("made");
        small_disk(&disk);
        let path = disk.join("m.redb");
        let db = Some(Database::create(&path).expect("made"));
        let mut file = File { path, db, reserve: Reserve::new(disk.join("m.reserve")) };
        let mut write = |writes: Vec<(Change, bool)>| {
            let (mut pending, mut waits) = (Pending::default(), Vec::new());
            for (change, awaited) in writes {
                let (done, wait) = oneshot::channel();
                pending.add(Write { changes: vec![change], done: awaited.then_some(done) });
                waits.push(wait);
            }
            let outcome = file.write(&mut pending).map_err(|e| e.to_string());
            match &outcome {
                Ok(()) => pending.written(),
                Err(e) => pending.refuse(e),
            }
            waits.into_iter().map(|mut w| w.try_recv().ok().map(|told| told.is_ok())).collect::<Vec<_>>()
        };
        let large = "x".repeat(3 << 20);
        let put = |id: &str, text: &str| Change::put(Kind::Image, id, &text).expect("encodes");
        assert_eq!(write(vec![(put("a", "one"), true), (put("b", "two"), true)]), [Some(true), Some(true)]);
        // Until there is no room for a byte.
        let mut filler = std::fs::File::create(disk.join("filler")).expect("made");
        std::io::copy(&mut std::io::repeat(0), &mut filler).expect_err("full");
        let told = write(vec![
            (put("c", &large), true),
            (Change::delete(Kind::Image, "a"), true),
            (put("b", "three"), false),
        ]);
        assert_eq!(told, [Some(false), Some(true), None]);
        drop(file.db.take());
        let stored = read_all(&Database::open(&file.path).expect("opens")).expect("reads");
        assert_eq!(stored.all::<String>(Kind::Image), [("b".to_owned(), "three".to_owned())]);
        nix::mount::umount2(&disk, nix::mount::MntFlags::MNT_DETACH).expect("unmounted");
    }
}
