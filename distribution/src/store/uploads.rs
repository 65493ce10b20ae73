//! Uploads: bytes that come in pieces, hashed as they come. What is on disk is enough to go on after a crash.

use std::fs::{File, OpenOptions};
use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

use sha2::{Digest, Sha256};
use tokio::sync::OwnedMutexGuard;
use tokio_util::sync::CancellationToken;

use super::files::{self, remove, text};
use super::{Store, blobs};
use crate::error::Error;
use crate::name::is_upload;

/// One upload under way.
#[derive(Debug)]
pub(crate) struct Upload {
    pub(crate) id: String,
    repository: String,
    path: PathBuf,
    progress: Arc<tokio::sync::Mutex<Progress>>,
    /// Ends the request that writes now: a later one takes its place, as its client has given it up.
    turn: Mutex<CancellationToken>,
}

/// How far it is. Not known (`hasher` is none) after a start: it is read off the file then.
#[derive(Debug, Default)]
struct Progress {
    hasher: Option<Sha256>,
    size: u64,
    gone: bool,
}

/// The right to write to an upload.
#[derive(Debug)]
pub(crate) struct Writing {
    upload: Arc<Upload>,
    progress: OwnedMutexGuard<Progress>,
    file: Option<File>,
    /// Cancelled when somebody else wants to write.
    pub(crate) stop: CancellationToken,
}

impl Store {
    fn known_uploads(&self) -> MutexGuard<'_, std::collections::HashMap<String, Arc<Upload>>> {
        self.0.uploads.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Begins an upload to a repository. Nothing is synced: it need not survive a power cut.
    pub(crate) fn begin_upload(&self, repository: &str) -> Result<Arc<Upload>, Error> {
        let id = files::random_name();
        let path = self.uploads().join(&id);
        let owner = owner_of(&path);
        let made = std::fs::write(&owner, repository)
            .map_err(Error::io("write", &owner))
            .and_then(|()| File::create_new(&path).map_err(Error::io("make", &path)));
        if let Err(e) = made {
            let _ = remove(&owner);
            return Err(e);
        }
        let upload = Arc::new(Upload::new(&id, repository, &path));
        self.known_uploads().insert(id, upload.clone());
        Ok(upload)
    }

    /// An upload of a repository by its ID, also one from before a restart.
    pub(crate) fn upload(&self, repository: &str, id: &str) -> Result<Option<Arc<Upload>>, Error> {
        if !is_upload(id) {
            return Ok(None);
        }
        if let Some(known) = self.known_uploads().get(id) {
            return Ok(Some(known.clone()).filter(|u| u.repository == repository));
        }
        let path = self.uploads().join(id);
        if text(&owner_of(&path))?.as_deref() != Some(repository) || !path.is_file() {
            return Ok(None);
        }
        let mut known = self.known_uploads();
        let upload =
            known.entry(id.to_owned()).or_insert_with(|| Arc::new(Upload::new(id, repository, &path)));
        Ok(Some(upload.clone()))
    }

    /// Removes uploads on which nothing has come for so long, and leavings of a crash; how many.
    pub(crate) fn sweep_uploads(&self, age: Duration) -> Result<usize, Error> {
        let mut swept = 0;
        for entry in files::entries(&self.uploads())? {
            let path = self.uploads().join(&entry);
            let id = entry.strip_suffix(OWNER).unwrap_or(&entry);
            let changed = std::fs::metadata(&path).and_then(|m| m.modified());
            let old = changed.is_ok_and(|t| SystemTime::now().duration_since(t).is_ok_and(|d| d >= age));
            let data = self.uploads().join(id);
            let widow = id != entry && !data.exists();
            if !(old && (id == entry || widow)) {
                continue;
            }
            let known = self.known_uploads().get(id).cloned();
            if let Some(known) = &known {
                // Being written just now.
                let Ok(mut progress) = known.progress.try_lock() else { continue };
                progress.gone = true;
            }
            self.known_uploads().remove(id);
            remove(&data)?;
            remove(&owner_of(&data))?;
            swept += 1;
            tracing::info!(upload = id, "swept an upload that nobody went on with for {age:?}");
        }
        Ok(swept)
    }

    /// Takes an upload in as a blob of its repository if its digest is this one; else it is over, and the digest it has
    /// is returned.
    pub(crate) fn finish_upload(
        &self,
        mut writing: Writing,
        digest: &str,
    ) -> Result<Result<(), String>, Error> {
        let hasher = writing.progress.hasher.take().unwrap_or_default();
        let got = format!("sha256:{}", hex::encode(hasher.finalize()));
        if got != digest {
            self.drop_upload(writing)?;
            return Ok(Err(got));
        }
        let synced = (|| {
            let path = &writing.upload.path;
            File::open(path).and_then(|f| f.sync_all()).map_err(Error::io("sync", path))?;
            self.take_in(path, &writing.upload.repository, digest)
        })();
        // Also when it failed: the hash is given up, and what is on disk may not be what was hashed.
        let dropped = self.drop_upload(writing);
        synced?;
        dropped?;
        Ok(Ok(()))
    }

    /// Ends an upload, and removes what has come.
    pub(crate) fn drop_upload(&self, mut writing: Writing) -> Result<(), Error> {
        writing.progress.gone = true;
        writing.file = None;
        self.known_uploads().remove(&writing.upload.id);
        let path = &writing.upload.path;
        remove(path).and(remove(&owner_of(path)))
    }
}

impl Upload {
    fn new(id: &str, repository: &str, path: &Path) -> Self {
        Self {
            id: id.to_owned(),
            repository: repository.to_owned(),
            path: path.to_path_buf(),
            progress: Arc::default(),
            turn: Mutex::default(),
        }
    }

    /// Bytes that have come, whoever is writing; none if the upload is over.
    pub(crate) fn size_on_disk(&self) -> Result<Option<u64>, Error> {
        blobs::size(&self.path)
    }

    /// Ends the request that writes now, if there is one, and takes its place; none if the upload is over.
    pub(crate) async fn claim(self: &Arc<Self>) -> Result<Option<Writing>, Error> {
        let stop = CancellationToken::new();
        {
            let mut turn = self.turn.lock().unwrap_or_else(PoisonError::into_inner);
            std::mem::replace(&mut *turn, stop.clone()).cancel();
        }
        let progress = self.progress.clone().lock_owned().await;
        if progress.gone {
            return Ok(None);
        }
        let writing = Writing { upload: self.clone(), progress, file: None, stop };
        let opened = tokio::task::spawn_blocking(move || writing.open()).await;
        opened.map_err(|e| Error::Invalid(format!("a task of the registry ended early: {e}")))?
    }
}

impl Writing {
    /// Makes file and hash say the same.
    fn open(mut self) -> Result<Option<Self>, Error> {
        let path = self.upload.path.clone();
        let Some(size) = blobs::size(&path)? else { return Ok(None) };
        let mut file =
            OpenOptions::new().read(true).append(true).open(&path).map_err(Error::io("open", &path))?;
        if self.progress.hasher.is_none() || size < self.progress.size {
            let mut hasher = Sha256::new();
            let mut buffer = vec![0; 1 << 20];
            let mut at = 0;
            loop {
                let n = file.read(&mut buffer).map_err(Error::io("read", &path))?;
                if n == 0 {
                    break;
                }
                hasher.update(&buffer[..n]);
                at += n as u64;
            }
            (self.progress.hasher, self.progress.size) = (Some(hasher), at);
        } else if size > self.progress.size {
            // Of a write that failed half-way.
            file.set_len(self.progress.size).map_err(Error::io("shorten", &path))?;
        }
        self.file = Some(file);
        Ok(Some(self))
    }

    /// Bytes that have come.
    pub(crate) fn size(&self) -> u64 {
        self.progress.size
    }

    /// Its ID.
    pub(crate) fn id(&self) -> &str {
        &self.upload.id
    }

    /// Takes bytes that follow.
    pub(crate) fn take(&mut self, bytes: &[u8]) -> Result<(), Error> {
        if let Some(file) = &mut self.file {
            file.write_all(bytes).map_err(Error::io("write", &self.upload.path))?;
        }
        if let Some(hasher) = &mut self.progress.hasher {
            hasher.update(bytes);
        }
        self.progress.size += bytes.len() as u64;
        Ok(())
    }
}

const OWNER: &str = ".repository";

fn owner_of(path: &Path) -> PathBuf {
    path.with_extension(&OWNER[1..])
}
