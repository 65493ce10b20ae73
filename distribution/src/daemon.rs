//! The content of a daemon on this host, which lies by digest as this registry's does (`blobs/sha256/HEX` in its data root):
//! what is there need not be sent. Neither side ever writes into a file that has such a name, so one file may have a name
//! on both sides (link(2)), and goes once both have removed theirs; where no link can be made, it is copied.

use std::fs::{self, File, OpenOptions};
use std::io::{self, ErrorKind};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use nix::errno::Errno;
use nix::fcntl::OFlag;
use sha2::{Digest, Sha256};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::error::Error;
use crate::name::hex_of;
use crate::store::{Store, remove};

/// Cheap handle to the blobs of a daemon.
#[derive(Clone, Debug)]
pub(crate) struct DaemonBlobs {
    dir: PathBuf,
    /// The log says already why files are copied.
    told: Arc<AtomicBool>,
    /// To be taken before a blob is read: whoever may push could have all of them read at once.
    turns: Arc<Semaphore>,
}

/// What could be done about a blob.
#[derive(Debug)]
enum Brought {
    Absent,
    Linked(File),
    Copied(File),
}

/// Blobs that are read at the same time.
const READERS: usize = 2;

impl DaemonBlobs {
    /// Those in a daemon's data root, for a registry that keeps its own in `store`.
    ///
    /// # Errors
    /// They cannot be read by this user, are not there, or are the registry's own.
    pub(crate) fn open(data_root: &Path, store: &Store) -> Result<Self, Error> {
        let dir = data_root.join("blobs/sha256");
        let unusable = |e: io::Error| {
            let why = match e.kind() {
                ErrorKind::PermissionDenied => "; only its daemon's user (root) may: run the registry as that one".to_owned(),
                ErrorKind::NotFound | ErrorKind::NotADirectory => {
                    "; want the directory that the daemon has as --data-root, and that it has been started once".to_owned()
                }
                _ => String::new(),
            };
            Error::Invalid(format!("--daemon-data-root: cannot read {}: {e}{why}", dir.display()))
        };
        // To list it and to enter it are two rights: what follows needs the second.
        fs::read_dir(&dir).map_err(unusable)?;
        let theirs = fs::metadata(dir.join(".")).map_err(unusable)?;
        let own = store.blob_path("");
        let ours = fs::metadata(&own).map_err(Error::io("look at", &own))?;
        if (theirs.dev(), theirs.ino()) == (ours.dev(), ours.ino()) {
            return Err(Error::Invalid(format!(
                "--daemon-data-root: {} is the registry's own directory: each would remove what the other needs; give the registry another --data-dir",
                data_root.display()
            )));
        }
        Ok(Self { dir, told: Arc::default(), turns: Arc::new(Semaphore::new(READERS)) })
    }

    /// Waits for a turn to call [`DaemonBlobs::give`], which has it for as long as this lives.
    pub(crate) async fn turn(&self) -> Option<OwnedSemaphorePermit> {
        // Never closed.
        self.turns.clone().acquire_owned().await.ok()
    }

    /// Gives a repository a blob that the daemon has; whether it could. What goes wrong is logged: the blob is sent then.
    pub(crate) fn give(&self, store: &Store, name: &str, digest: &str) -> bool {
        // It was verified when another repository got it.
        if self.is_one_with(store, digest) {
            match store.adopt(name, digest) {
                Ok(true) => return true,
                Ok(false) => {}
                Err(e) => {
                    tracing::warn!(repository = name, digest, error = %e, "a blob is looked at once more")
                }
            }
        }
        let made = store.temporary();
        let given = self.bring(digest, &made).and_then(|brought| {
            let (file, linked) = match brought {
                Brought::Absent => return Ok(false),
                Brought::Linked(file) => (file, true),
                Brought::Copied(file) => (file, false),
            };
            let size = file.metadata().map_err(Error::io("look at", &made))?.len();
            store.take_in(&made, name, digest)?;
            tracing::info!(repository = name, digest, size, linked, "blob taken over from the daemon");
            Ok(true)
        });
        // Also where all went well: rename(2) leaves both names where they are one file already.
        if let Err(e) = remove(&made) {
            tracing::warn!(error = %e, "it is swept at the next start");
        }
        given.unwrap_or_else(|e| {
            tracing::warn!(repository = name, digest, error = %e, "the daemon's blob is not taken over: it must be sent");
            false
        })
    }

    /// Whether the registry's file of a blob is the daemon's.
    fn is_one_with(&self, store: &Store, digest: &str) -> bool {
        let file = |path: PathBuf| fs::symlink_metadata(path).ok().map(|m| (m.dev(), m.ino()));
        file(store.blob_path(digest)).is_some_and(|ours| file(self.path(digest)) == Some(ours))
    }

    /// Makes the daemon's file of a blob be the new file `to`, verified and on disk.
    fn bring(&self, digest: &str, to: &Path) -> Result<Brought, Error> {
        match self.link(digest, to) {
            Ok(()) => Ok(verified(digest, to)?.map_or(Brought::Absent, Brought::Linked)),
            Err(e) if e.kind() == ErrorKind::NotFound => Ok(Brought::Absent),
            Err(e) if is_no_link(&e) => {
                if !self.told.swap(true, Ordering::Relaxed) {
                    tracing::warn!(
                        daemon = %self.dir.display(),
                        error = %e,
                        "the daemon's blobs cannot be linked to, so they are copied: links need both directories on one file system, and in a container within one mount"
                    );
                }
                if !self.copy(digest, to)? {
                    return Ok(Brought::Absent);
                }
                Ok(verified(digest, to)?.map_or(Brought::Absent, Brought::Copied))
            }
            Err(e) => Err(Error::io("link to", &self.path(digest))(e)),
        }
    }

    /// Makes the daemon's file of a blob be the new file `to`, where `store` has another file of it that could go: whether
    /// it could. No copy is made, which would save nothing.
    ///
    /// # Errors
    /// The system's; by [`is_no_link`] that it makes no links between the two.
    pub(crate) fn twin(&self, store: &Store, digest: &str, to: &Path) -> io::Result<bool> {
        let (Ok(ours), Ok(theirs)) =
            (fs::symlink_metadata(store.blob_path(digest)), fs::symlink_metadata(self.path(digest)))
        else {
            return Ok(false);
        };
        let is_other =
            ours.is_file() && theirs.is_file() && ours.len() == theirs.len() && ours.ino() != theirs.ino();
        if !is_other || ours.dev() != theirs.dev() {
            return Ok(false);
        }
        match self.link(digest, to) {
            Err(e) if e.kind() == ErrorKind::NotFound => return Ok(false),
            linked => linked?,
        }
        Ok(verified(digest, to).map_err(io::Error::other)?.is_some())
    }

    fn path(&self, digest: &str) -> PathBuf {
        self.dir.join(hex_of(digest))
    }

    /// A symbolic link is linked to itself, and not followed.
    fn link(&self, digest: &str, to: &Path) -> io::Result<()> {
        fs::hard_link(self.path(digest), to)
    }

    /// Whether there was something to copy.
    fn copy(&self, digest: &str, to: &Path) -> Result<bool, Error> {
        let path = self.path(digest);
        let mut from = match open(&path) {
            Err(e) if e.kind() == ErrorKind::NotFound => return Ok(false),
            opened => opened.map_err(Error::io("open", &path))?,
        };
        let mut out = File::create_new(to).map_err(Error::io("make", to))?;
        // By copy_file_range(2), which shares the blocks where the file system can.
        io::copy(&mut from, &mut out).map_err(Error::io("copy to", to))?;
        Ok(true)
    }
}

/// Whether this is what link(2) says where copying does instead.
pub(crate) fn is_no_link(e: &io::Error) -> bool {
    let no = [Errno::EXDEV, Errno::EPERM, Errno::EMLINK, Errno::EOPNOTSUPP];
    e.raw_os_error().is_some_and(|e| no.contains(&Errno::from_raw(e)))
}

/// Opens a regular file by no symbolic link. Nobody waits for the other end of a pipe.
fn open(path: &Path) -> io::Result<File> {
    let flags = OFlag::O_NOFOLLOW | OFlag::O_NONBLOCK;
    let file = OpenOptions::new().read(true).custom_flags(flags.bits()).open(path)?;
    if !file.metadata()?.is_file() {
        return Err(io::Error::other("it is no regular file"));
    }
    Ok(file)
}

/// A file of ours that came from the daemon, if it is what its digest says, synced; else it is removed.
fn verified(digest: &str, path: &Path) -> Result<Option<File>, Error> {
    let checked = (|| {
        let mut file = open(path).map_err(Error::io("open", path))?;
        let mut hash = Sha256::new();
        io::copy(&mut file, &mut hash).map_err(Error::io("read", path))?;
        if hex::encode(hash.finalize()) != hex_of(digest) {
            tracing::error!(
                digest,
                "the daemon's file of this blob is not what its digest says: it is left alone"
            );
            return Ok(None);
        }
        // It may be so new that the daemon has not done so.
        file.sync_all().map_err(Error::io("sync", path))?;
        Ok(Some(file))
    })();
    if !matches!(checked, Ok(Some(_))) {
        remove(path)?;
    }
    checked
}

#[cfg(test)]
mod tests {
    use skep_registry::digest_of;

    use super::*;

    struct Both {
        dir: tempfile::TempDir,
        store: Store,
        daemon: DaemonBlobs,
    }

    fn both() -> Both {
        let dir = tempfile::tempdir().expect("a directory");
        let store = Store::open(&dir.path().join("registry")).expect("opens");
        fs::create_dir_all(dir.path().join("daemon/blobs/sha256")).expect("makes");
        let daemon = DaemonBlobs::open(&dir.path().join("daemon"), &store).expect("opens");
        Both { dir, store, daemon }
    }

    impl Both {
        fn tmp(&self) -> usize {
            fs::read_dir(self.store.root().join("tmp")).expect("lists").count()
        }
    }

    #[test]
    fn what_is_right_is_linked_and_nothing_else_is_taken() {
        let both = both();
        let (store, daemon) = (&both.store, &both.daemon);
        let right = digest_of(b"right");
        assert!(!daemon.give(store, "a", &right), "it is not there");
        fs::write(daemon.path(&right), "right").expect("writes");
        for _ in 0..2 {
            assert!(daemon.give(store, "a", &right));
            let ours = fs::metadata(store.blob_path(&right)).expect("is there");
            let theirs = fs::metadata(daemon.path(&right)).expect("is there");
            assert_eq!((ours.ino(), ours.nlink()), (theirs.ino(), 2));
            assert_eq!(store.blob_size("a", &right).expect("looks"), Some(5));
            assert_eq!(both.tmp(), 0);
        }
        // A byte that is another, a symbolic link, a pipe, a directory.
        let others = ["other", "link", "pipe", "dir"].map(|what| digest_of(what.as_bytes()));
        fs::write(daemon.path(&others[0]), "othfr").expect("writes");
        let target = both.dir.path().join("target");
        fs::write(&target, "link").expect("writes");
        std::os::unix::fs::symlink(&target, daemon.path(&others[1])).expect("links");
        nix::unistd::mkfifo(&daemon.path(&others[2]), nix::sys::stat::Mode::S_IRUSR).expect("makes");
        fs::create_dir(daemon.path(&others[3])).expect("makes");
        for other in &others {
            assert!(!daemon.give(store, "a", other), "{other}");
            assert!(!store.blob_path(other).exists());
            assert!(fs::symlink_metadata(daemon.path(other)).is_ok(), "it is left alone");
            let to = store.temporary();
            assert!(
                !matches!(daemon.copy(other, &to), Ok(true))
                    || verified(other, &to).expect("reads").is_none()
            );
            assert_eq!(both.tmp(), 0);
        }
    }

    #[test]
    fn a_directory_that_cannot_be_the_daemons_is_refused() {
        let both = both();
        let none = DaemonBlobs::open(&both.dir.path().join("none"), &both.store).expect_err("is refused");
        assert!(none.to_string().contains("--data-root"), "{none}");
        let own = DaemonBlobs::open(both.store.root(), &both.store).expect_err("is refused");
        assert!(own.to_string().contains("the registry's own"), "{own}");
    }
}
