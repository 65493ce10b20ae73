//! What `.dockerignore` means once a context is here: clients leave out what it says, but send it and the Dockerfile all
//! the same, so that the daemon can read them.

use std::io::{self, Read};
use std::path::Path;

use nix::fcntl::OFlag;
use nix::unistd::{UnlinkatFlags, unlinkat};

use super::files::{Files, Kind};
use crate::dockerfile::Ignore;
use crate::runtime::resolve::Root;

/// Longest `.dockerignore` that is read, in bytes.
const LONGEST: u64 = 1 << 20;

/// What a context's `.dockerignore` says. One that is no text, no file or no list of patterns says nothing: the client has
/// refused what is wrong with it, and others may send what they like.
pub(super) fn patterns(files: Files<'_>) -> Ignore {
    let path = Path::new("/.dockerignore");
    let mut text = String::new();
    let read = match files.kind(path) {
        Ok(Kind::File) => files.open(path).and_then(|file| file.take(LONGEST).read_to_string(&mut text)),
        _ => return Ignore::default(),
    };
    read.ok().and_then(|_| Ignore::parse(&text).ok()).unwrap_or_default()
}

/// Takes away a file, if it is there.
pub(super) fn remove(root: &Root, name: &Path) -> io::Result<()> {
    let (Some(above), Some(last)) = (name.parent(), name.file_name()) else { return Ok(()) };
    let dir = root.open(above, OFlag::O_PATH | OFlag::O_DIRECTORY, 0);
    match dir.map(|dir| unlinkat(&dir, last, UnlinkatFlags::NoRemoveDir)) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(e) => Err(e),
        Ok(Err(nix::errno::Errno::ENOENT | nix::errno::Errno::EISDIR)) => Ok(()),
        Ok(outcome) => Ok(outcome?),
    }
}

/// Why a source of `COPY` or `ADD` is not there, if a pattern is to blame.
pub(super) fn blame(ignore: &Ignore, source: &str) -> String {
    let path: Vec<&str> = source.split('/').filter(|p| !matches!(*p, "" | ".")).collect();
    match ignore.excluded_by(&path.join("/")) {
        Some(pattern) => format!(" (the pattern {pattern:?} of .dockerignore leaves it out)"),
        None => String::new(),
    }
}
