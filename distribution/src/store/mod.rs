//! What is on disk. Content lies by digest, once for all repositories; a repository is a folder of links to it:
//!
//! ```text
//! blobs/sha256/HEX                                  content, verified before it gets this name
//! repositories/NAME/_blobs/HEX                      empty: the blob is the repository's
//! repositories/NAME/_manifests/HEX                  media type of the manifest, which is a blob too
//! repositories/NAME/_tags/TAG                       digest
//! repositories/NAME/_referrers/SUBJECT/HEX          empty: that manifest's subject is this one
//! uploads/ID, uploads/ID.repository                 what has come of an upload, and whose it is
//! damaged/HEX                                       content that is not what its digest says, set aside
//! tmp/                                              half-written files, swept at start
//! serving, changing                                 locks: one server, and content that is being used or collected
//! ```
//!
//! No component of a repository's name begins with `_`. Files are written elsewhere, synced and renamed.

mod blobs;
mod files;
mod manifests;
mod repositories;
mod uploads;

use std::collections::HashMap;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use nix::errno::Errno;
use nix::fcntl::{Flock, FlockArg};

use crate::error::Error;
use crate::name::hex_of;

pub(crate) use files::{remove, sync_dir};
pub(crate) use manifests::Stored;
pub(crate) use uploads::{Upload, Writing};

/// Cheap handle to one data directory.
#[derive(Clone, Debug)]
pub(crate) struct Store(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    root: PathBuf,
    uploads: Mutex<HashMap<String, Arc<Upload>>>,
    /// Held while the directory is served.
    _serving: Option<Flock<File>>,
}

impl Store {
    /// Opens a directory to serve it; made if it is not there. Half-written files of a crash are swept.
    ///
    /// # Errors
    /// Another process serves it.
    pub(crate) fn open(root: &Path) -> Result<Self, Error> {
        for dir in ["blobs/sha256", "repositories", "uploads", "tmp"] {
            files::make_dir(&root.join(dir))?;
        }
        let path = root.join("serving");
        let file = files::lock_file(&path)?;
        let serving = Flock::lock(file, FlockArg::LockExclusiveNonblock).map_err(|(_, e)| match e {
            Errno::EWOULDBLOCK => Error::InUse { path: root.to_path_buf() },
            e => Error::io("lock", &path)(e.into()),
        })?;
        let store = Self::at(root, Some(serving));
        for entry in files::entries(&root.join("tmp"))? {
            remove(&root.join("tmp").join(&entry))?;
            tracing::info!(file = entry, "swept what a crash left half-written");
        }
        Ok(store)
    }

    /// Opens a directory that somebody else may be serving.
    ///
    /// # Errors
    /// It is no registry's.
    pub(crate) fn look(root: &Path) -> Result<Self, Error> {
        if !root.join("blobs/sha256").is_dir() || !root.join("repositories").is_dir() {
            return Err(Error::Invalid(format!(
                "{} holds no registry: --data-dir must be the directory that `skep registry` serves",
                root.display()
            )));
        }
        Ok(Self::at(root, None))
    }

    fn at(root: &Path, serving: Option<Flock<File>>) -> Self {
        Self(Arc::new(Inner { root: root.to_path_buf(), uploads: Mutex::default(), _serving: serving }))
    }

    /// Holds off the collector while links are made and what they lead to is looked at. Blocks while it removes.
    pub(crate) fn using(&self) -> Result<Flock<File>, Error> {
        self.lock(FlockArg::LockShared)
    }

    /// Holds off whoever is `using`.
    pub(crate) fn collecting(&self) -> Result<Flock<File>, Error> {
        self.lock(FlockArg::LockExclusive)
    }

    /// Linux lets whoever shares a lock overtake who waits for it alone, so all pass another one in turn.
    fn lock(&self, how: FlockArg) -> Result<Flock<File>, Error> {
        let _turn = self.lock_file("turn", FlockArg::LockExclusive)?;
        self.lock_file("changing", how)
    }

    fn lock_file(&self, name: &str, how: FlockArg) -> Result<Flock<File>, Error> {
        let path = self.0.root.join(name);
        let mut file = files::lock_file(&path)?;
        loop {
            match Flock::lock(file, how) {
                Ok(lock) => return Ok(lock),
                Err((same, Errno::EINTR)) => file = same,
                Err((_, e)) => return Err(Error::io("lock", &path)(e.into())),
            }
        }
    }

    /// Runs what waits for the disk where it holds up nobody else.
    pub(crate) async fn run<T, E>(
        &self,
        work: impl FnOnce(&Store) -> Result<T, E> + Send + 'static,
    ) -> Result<T, E>
    where
        T: Send + 'static,
        E: From<Error> + Send + 'static,
    {
        let store = self.clone();
        match tokio::task::spawn_blocking(move || work(&store)).await {
            Ok(done) => done,
            Err(e) => Err(Error::Invalid(format!("a task of the registry ended early: {e}")).into()),
        }
    }

    pub(crate) fn root(&self) -> &Path {
        &self.0.root
    }

    fn blobs(&self) -> PathBuf {
        self.0.root.join("blobs/sha256")
    }

    pub(crate) fn blob_path(&self, digest: &str) -> PathBuf {
        self.blobs().join(hex_of(digest))
    }

    fn uploads(&self) -> PathBuf {
        self.0.root.join("uploads")
    }

    pub(crate) fn temporary(&self) -> PathBuf {
        self.0.root.join("tmp").join(files::random_name())
    }

    pub(crate) fn repository(&self, name: &str) -> PathBuf {
        self.0.root.join("repositories").join(name)
    }

    pub(crate) fn blob_link(&self, name: &str, digest: &str) -> PathBuf {
        self.repository(name).join("_blobs").join(hex_of(digest))
    }

    pub(crate) fn manifest_link(&self, name: &str, digest: &str) -> PathBuf {
        self.repository(name).join("_manifests").join(hex_of(digest))
    }

    fn tag_path(&self, name: &str, tag: &str) -> PathBuf {
        self.repository(name).join("_tags").join(tag)
    }

    fn referrers_dir(&self, name: &str, subject: &str) -> PathBuf {
        self.repository(name).join("_referrers").join(hex_of(subject))
    }

    /// When something was last used, in nanoseconds since 1970; none if it is not there.
    pub(crate) fn last_used(path: &Path) -> Option<i128> {
        fs::symlink_metadata(path).ok().as_ref().map(Self::used_at)
    }

    /// The same of a file that is at hand.
    pub(crate) fn used_at(file: &fs::Metadata) -> i128 {
        use std::os::unix::fs::MetadataExt;
        i128::from(file.mtime()) * 1_000_000_000 + i128::from(file.mtime_nsec())
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicBool, Ordering};
    use std::time::{Duration, Instant};

    use super::*;

    #[test]
    fn whoever_collects_gets_a_turn_among_many_that_use() {
        let dir = tempfile::tempdir().expect("a directory");
        let store = Store::open(dir.path()).expect("opens");
        let done = AtomicBool::new(false);
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    // Four that hold it nearly all the time leave no moment without one.
                    while !done.load(Ordering::Relaxed) {
                        let _held = store.using().expect("uses");
                        std::thread::sleep(Duration::from_millis(5));
                    }
                });
            }
            let began = Instant::now();
            drop(store.collecting().expect("collects"));
            done.store(true, Ordering::Relaxed);
            assert!(began.elapsed() < Duration::from_secs(60), "it waited for {:?}", began.elapsed());
        });
    }
}
