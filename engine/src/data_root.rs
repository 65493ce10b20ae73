//! The data root: where things lie in it, and what is swept from it at start.

use std::fs::{self, File};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

use crate::error::Error;

/// Paths under one data root.
#[derive(Debug)]
pub(crate) struct DataRoot {
    path: PathBuf,
}

impl DataRoot {
    /// Makes the folders of a root that is held.
    pub(crate) fn open(path: &Path) -> Result<Self, Error> {
        let root = Self { path: fs::canonicalize(path).map_err(Error::io("resolve", path))? };
        make_dir(&root.blobs(), 0o700)?;
        make_dir(&root.temporary(), 0o700)?;
        // Layers and upper directories are entered by whatever user the container runs as, but only
        // through its own mount: the way in by the host stays shut.
        for dir in [root.layers(), root.containers(), root.volumes()] {
            make_dir(&dir, 0o710)?;
        }
        Ok(root)
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    pub(crate) fn metadata(&self) -> PathBuf {
        self.path.join("skep.redb")
    }

    /// Content by digest.
    pub(crate) fn blobs(&self) -> PathBuf {
        self.path.join("blobs/sha256")
    }

    pub(crate) fn layers(&self) -> PathBuf {
        self.path.join("layers")
    }

    pub(crate) fn containers(&self) -> PathBuf {
        self.path.join("containers")
    }

    pub(crate) fn volumes(&self) -> PathBuf {
        self.path.join("volumes")
    }

    /// Half-made things; emptied at start.
    pub(crate) fn temporary(&self) -> PathBuf {
        self.path.join("tmp")
    }

    pub(crate) fn container(&self, id: &str) -> PathBuf {
        self.containers().join(id)
    }

    pub(crate) fn volume(&self, id: &str) -> PathBuf {
        self.volumes().join(id)
    }

    /// Removes every entry of `dir` that `keep` does not claim, and logs each.
    pub(crate) fn sweep(&self, dir: &Path, what: &str, keep: impl Fn(&str) -> bool) -> Result<usize, Error> {
        let mut swept = 0;
        for entry in fs::read_dir(dir).map_err(Error::io("list", dir))? {
            let entry = entry.map_err(Error::io("list", dir))?;
            let name = entry.file_name();
            if name.to_str().is_some_and(&keep) {
                continue;
            }
            match remove_tree(&entry.path()) {
                Ok(()) => {
                    swept += 1;
                    tracing::info!(path = %entry.path().display(), "swept {what}");
                }
                Err(e) => tracing::warn!(error = %e, "cannot sweep {what}"),
            }
        }
        Ok(swept)
    }
}

/// Makes a directory and its parents.
pub(crate) fn make_dir(path: &Path, mode: u32) -> Result<(), Error> {
    fs::DirBuilder::new().recursive(true).mode(mode).create(path).map_err(Error::io("make directory", path))
}

/// Removes a file or a whole directory; absent is fine.
pub(crate) fn remove_tree(path: &Path) -> Result<(), Error> {
    let removed = match fs::symlink_metadata(path) {
        Err(e) => Err(e),
        Ok(m) if m.is_dir() => fs::remove_dir_all(path),
        Ok(_) => fs::remove_file(path),
    };
    match removed {
        Err(e) if e.kind() != std::io::ErrorKind::NotFound => Err(Error::io("remove", path)(e)),
        _ => Ok(()),
    }
}

/// Makes a rename or a new entry of `dir` survive a power cut.
pub(crate) fn sync_dir(dir: &Path) -> Result<(), Error> {
    File::open(dir).and_then(|d| d.sync_all()).map_err(Error::io("sync", dir))
}
