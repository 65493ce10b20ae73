//! What `.dockerignore` means once a context is here: clients leave out what it says, but send it and the Dockerfile all
//! the same, so that the daemon can read them.

use std::io::{self, Read};
use std::path::Path;

use nix::fcntl::OFlag;
use nix::unistd::{UnlinkatFlags, unlinkat};

use crate::dockerfile::Ignore;
use crate::error::Error;
use crate::runtime::resolve::Root;

/// Longest `.dockerignore` that is read, in bytes.
const LONGEST: u64 = 1 << 20;

/// Takes the Dockerfile and `.dockerignore` away where the latter leaves them out, as Docker does: no step sees them, and
/// the random name that clients give a Dockerfile from elsewhere is in no image. Returns the patterns.
pub(super) fn take_away(files: &Path, dockerfile: &str) -> Result<Ignore, Error> {
    let failed = |e: io::Error| Error::io("look for .dockerignore in", files)(e);
    let root = Root::at(files).map_err(failed)?;
    let mut text = String::new();
    match root.open(Path::new("/.dockerignore"), OFlag::O_RDONLY | OFlag::O_NONBLOCK | OFlag::O_NOFOLLOW, 0) {
        Ok(fd) => {
            let read = std::fs::File::from(fd).take(LONGEST).read_to_string(&mut text);
            // What is no text, or no file, has no patterns.
            if read.is_err() {
                return Ok(Ignore::default());
            }
        }
        Err(_) => return Ok(Ignore::default()),
    }
    // The client has refused a pattern that is none; others may send what they like.
    let Ok(ignore) = Ignore::parse(&text) else { return Ok(Ignore::default()) };
    for name in [".dockerignore", dockerfile] {
        let name = name.trim_start_matches('/');
        if ignore.excluded_by(name).is_some() {
            remove(&root, Path::new(name)).map_err(failed)?;
        }
    }
    Ok(ignore)
}

fn remove(root: &Root, name: &Path) -> io::Result<()> {
    let (Some(above), Some(last)) = (name.parent(), name.file_name()) else { return Ok(()) };
    let dir = root.open(&Path::new("/").join(above), OFlag::O_PATH | OFlag::O_DIRECTORY, 0);
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
