//! Files that are there whole or not at all, also after a power cut.

use std::fs::{self, File, OpenOptions};
use std::io::{ErrorKind, Write};
use std::os::unix::fs::DirBuilderExt;
use std::path::Path;

use nix::sys::stat::{UtimensatFlags, utimensat};
use nix::sys::time::TimeSpec;

use crate::error::Error;

/// For the registry alone: whoever else reads is to ask it.
fn create_dir(path: &Path) -> std::io::Result<()> {
    fs::DirBuilder::new().mode(0o700).create(path)
}

/// Makes a directory, and its parents, for good.
pub(super) fn make_dir(path: &Path) -> Result<(), Error> {
    match create_dir(path) {
        Ok(()) => {}
        Err(e) if e.kind() == ErrorKind::AlreadyExists && path.is_dir() => return Ok(()),
        Err(e) if e.kind() == ErrorKind::NotFound => {
            let Some(parent) = path.parent().filter(|p| *p != path) else {
                return Err(Error::io("make directory", path)(e));
            };
            make_dir(parent)?;
            match create_dir(path) {
                Err(e) if e.kind() != ErrorKind::AlreadyExists => {
                    return Err(Error::io("make directory", path)(e));
                }
                _ => {}
            }
        }
        Err(e) => return Err(Error::io("make directory", path)(e)),
    }
    path.parent().filter(|p| !p.as_os_str().is_empty()).map_or(Ok(()), sync_dir)
}

/// Makes a rename or a new entry survive a power cut.
pub(crate) fn sync_dir(dir: &Path) -> Result<(), Error> {
    File::open(dir).and_then(|d| d.sync_all()).map_err(Error::io("sync", dir))
}

/// Removes a file; one that is not there is fine.
pub(crate) fn remove(path: &Path) -> Result<(), Error> {
    match fs::remove_file(path) {
        Err(e) if e.kind() != ErrorKind::NotFound => Err(Error::io("remove", path)(e)),
        _ => Ok(()),
    }
}

/// Writes a file by way of another one, which goes if anything fails.
pub(super) fn write(path: &Path, bytes: &[u8], temporary: &Path) -> Result<(), Error> {
    let written = (|| {
        let mut file = File::create_new(temporary).map_err(Error::io("make", temporary))?;
        file.write_all(bytes).map_err(Error::io("write", temporary))?;
        file.sync_all().map_err(Error::io("sync", temporary))?;
        if let Some(dir) = path.parent() {
            make_dir(dir)?;
        }
        fs::rename(temporary, path).map_err(Error::io("rename to", path))
    })();
    if written.is_err() {
        let _ = fs::remove_file(temporary);
    }
    written?;
    path.parent().map_or(Ok(()), sync_dir)
}

/// An empty file that says something by being there; one that is there counts as used.
pub(super) fn mark(path: &Path) -> Result<(), Error> {
    if touch(path)? {
        return Ok(());
    }
    let Some(dir) = path.parent() else { return Ok(()) };
    make_dir(dir)?;
    OpenOptions::new().create(true).append(true).open(path).map_err(Error::io("make", path))?;
    sync_dir(dir)
}

/// Sets a file's time to now; whether it is there.
pub(super) fn touch(path: &Path) -> Result<bool, Error> {
    let (now, follow) = (TimeSpec::UTIME_NOW, UtimensatFlags::FollowSymlink);
    match utimensat(nix::fcntl::AT_FDCWD, path, &now, &now, follow) {
        Ok(()) => Ok(true),
        Err(nix::errno::Errno::ENOENT | nix::errno::Errno::ENOTDIR) => Ok(false),
        Err(e) => Err(Error::io("touch", path)(e.into())),
    }
}

/// Names in a directory, sorted; none if it is not there. What is no text is not ours.
pub(super) fn entries(dir: &Path) -> Result<Vec<String>, Error> {
    let read = match fs::read_dir(dir) {
        Ok(read) => read,
        Err(e) if e.kind() == ErrorKind::NotFound => return Ok(Vec::new()),
        Err(e) => return Err(Error::io("list", dir)(e)),
    };
    let mut names = Vec::new();
    for entry in read {
        let entry = entry.map_err(Error::io("list", dir))?;
        names.extend(entry.file_name().into_string());
    }
    names.sort();
    Ok(names)
}

/// A small file's text; none if it is not there.
pub(super) fn text(path: &Path) -> Result<Option<String>, Error> {
    match fs::read_to_string(path) {
        Ok(text) => Ok(Some(text)),
        Err(e) if matches!(e.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory) => Ok(None),
        Err(e) => Err(Error::io("read", path)(e)),
    }
}

/// A file to lock.
pub(super) fn lock_file(path: &Path) -> Result<File, Error> {
    OpenOptions::new().create(true).append(true).open(path).map_err(Error::io("open", path))
}

/// 32 hex characters that nobody guesses.
pub(super) fn random_name() -> String {
    hex::encode(rand::random::<[u8; 16]>())
}
