//! Blobs of repositories.

use std::fs::{self, File};
use std::io::ErrorKind;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use sha2::{Digest, Sha256};

use super::Store;
use super::files::{self, mark, remove, touch};
use crate::error::Error;
use crate::name::hex_of;

impl Store {
    /// A blob of a repository and its size; none if it has no such. Asking counts as using it: whoever is told that it
    /// is there may build on that.
    pub(crate) fn blob_size(&self, name: &str, digest: &str) -> Result<Option<u64>, Error> {
        let _using = self.using()?;
        self.use_blob(name, digest)
    }

    /// The same for whoever is `using` already.
    pub(super) fn use_blob(&self, name: &str, digest: &str) -> Result<Option<u64>, Error> {
        let (link, path) = (self.blob_link(name, digest), self.blob_path(digest));
        if !touch(&link)? || !touch(&path)? {
            return Ok(None);
        }
        size(&path)
    }

    /// Opens a blob of a repository; its size comes with it.
    pub(crate) fn open_blob(&self, name: &str, digest: &str) -> Result<Option<(File, u64)>, Error> {
        if !self.blob_link(name, digest).exists() {
            return Ok(None);
        }
        let path = self.blob_path(digest);
        match File::open(&path) {
            Ok(file) => {
                let size = file.metadata().map_err(Error::io("look at", &path))?.len();
                Ok(Some((file, size)))
            }
            Err(e) if e.kind() == ErrorKind::NotFound => {
                tracing::error!(repository = name, digest, "a blob's file is missing");
                Ok(None)
            }
            Err(e) => Err(Error::io("open", &path)(e)),
        }
    }

    /// Gives a repository a blob that another one has; whether that has it.
    pub(crate) fn mount(&self, name: &str, from: &str, digest: &str) -> Result<bool, Error> {
        let _using = self.using()?;
        if self.use_blob(from, digest)?.is_none() {
            return Ok(false);
        }
        mark(&self.blob_link(name, digest))?;
        Ok(true)
    }

    /// Gives a repository a blob that is known to be its; whether its bytes are here.
    pub(crate) fn adopt(&self, name: &str, digest: &str) -> Result<bool, Error> {
        let _using = self.using()?;
        if !touch(&self.blob_path(digest))? {
            return Ok(false);
        }
        mark(&self.blob_link(name, digest))?;
        Ok(true)
    }

    /// Takes a verified file in as a blob, and gives it to a repository. The file is gone afterwards.
    pub(crate) fn take_in(&self, file: &Path, name: &str, digest: &str) -> Result<(), Error> {
        let _using = self.using()?;
        let path = self.blob_path(digest);
        // Also where there is one: what was just verified is not damaged.
        fs::rename(file, &path).map_err(Error::io("rename to", &path))?;
        touch(&path)?;
        files::sync_dir(&self.blobs())?;
        mark(&self.blob_link(name, digest))
    }

    /// Puts a verified file of the same content in the place of a blob's; bytes that this frees. The file is gone afterwards.
    pub(crate) fn exchange(&self, file: &Path, digest: &str) -> Result<u64, Error> {
        let _alone = self.collecting()?;
        let path = self.blob_path(digest);
        let there = match fs::symlink_metadata(&path) {
            Ok(there) => there,
            Err(e) if e.kind() == ErrorKind::NotFound => {
                remove(file)?;
                return Ok(0);
            }
            Err(e) => return Err(Error::io("look at", &path)(e)),
        };
        // When it was last used is told by its time.
        let used = there.modified().map_err(Error::io("look at", &path))?;
        File::open(file).and_then(|f| f.set_modified(used)).map_err(Error::io("set the time of", file))?;
        fs::rename(file, &path).map_err(Error::io("rename to", &path))?;
        files::sync_dir(&self.blobs())?;
        // Of one file that two names are of, rename(2) leaves both.
        remove(file)?;
        // Another name of it may be anywhere.
        Ok(if there.nlink() == 1 { there.len() } else { 0 })
    }

    /// Sets a blob aside whose file, opened as `seen`, is not what its digest says: to whoever asks it is not there, so the
    /// next push brings it. One that was mended meanwhile stays.
    pub(crate) fn set_aside(&self, digest: &str, seen: &File) -> Result<(), Error> {
        let _alone = self.collecting()?;
        let path = self.blob_path(digest);
        let of = |meta: &fs::Metadata| (meta.dev(), meta.ino());
        let seen = of(&seen.metadata().map_err(Error::io("look at", &path))?);
        if !fs::metadata(&path).is_ok_and(|there| of(&there) == seen) {
            return Ok(());
        }
        let aside = self.root().join("damaged");
        files::make_dir(&aside)?;
        let to = aside.join(hex_of(digest));
        fs::rename(&path, &to).map_err(Error::io("rename to", &to))?;
        files::sync_dir(&aside)?;
        files::sync_dir(&self.blobs())?;
        tracing::error!(digest, file = %to.display(), "a blob is damaged and was set aside: push it again");
        Ok(())
    }

    /// Whether a blob's file is what its digest says; one that is not is set aside. Reads all of it.
    pub(super) fn is_whole(&self, digest: &str) -> Result<bool, Error> {
        let path = self.blob_path(digest);
        let mut file = File::open(&path).map_err(Error::io("open", &path))?;
        let mut hash = Sha256::new();
        std::io::copy(&mut file, &mut hash).map_err(Error::io("read", &path))?;
        if hex::encode(hash.finalize()) == hex_of(digest) {
            return Ok(true);
        }
        self.set_aside(digest, &file)?;
        Ok(false)
    }

    /// Takes a blob from a repository; whether it had it. Its bytes go with the next collection.
    pub(crate) fn delete_blob(&self, name: &str, digest: &str) -> Result<bool, Error> {
        let _using = self.using()?;
        let link = self.blob_link(name, digest);
        if !link.exists() {
            return Ok(false);
        }
        remove(&link)?;
        link.parent().map_or(Ok(()), files::sync_dir)?;
        Ok(true)
    }
}

/// Size of a file, if it is there.
pub(super) fn size(path: &Path) -> Result<Option<u64>, Error> {
    match fs::metadata(path) {
        Ok(found) => Ok(Some(found.len())),
        Err(e) if e.kind() == ErrorKind::NotFound => Ok(None),
        Err(e) => Err(Error::io("look at", path)(e)),
    }
}
