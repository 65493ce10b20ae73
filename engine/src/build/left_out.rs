//! What `.dockerignore` means once a context is here: clients leave out what it says, but send it and the Dockerfile all
//! the same, so that the daemon can read them.

use std::io::{self, Read};
use std::path::Path;

use nix::fcntl::OFlag;
use nix::unistd::{UnlinkatFlags, unlinkat};

use super::files::{Files, Kind};
use crate::dockerfile::Ignore;
use crate::runtime::resolve::Root;

/// Longest file of patterns that is read, in bytes.
const LONGEST: u64 = 1 << 20;

/// The file that counts where there is none of the Dockerfile's own.
const COMMON: &str = ".dockerignore";

/// What a context was sent or fetched without.
#[derive(Clone, Debug, Default)]
pub(super) struct LeftOut {
    /// The path of the file that says so.
    file: String,
    pub(super) patterns: Ignore,
}

impl LeftOut {
    /// What a file of the context says; none is named = `.dockerignore`. One that is no text, no file or no list of patterns
    /// says nothing: the client has refused what is wrong with it, and others may send what they like.
    pub(super) fn read(files: Files<'_>, file: Option<&str>) -> Self {
        let file = file.unwrap_or(COMMON).trim_start_matches('/').to_owned();
        let patterns = patterns(files, &file).unwrap_or_default();
        Self { file, patterns }
    }

    /// The file that counts for a Dockerfile of a context that has all its files: `NAME.dockerignore` beside it, else
    /// `.dockerignore`. <https://docs.docker.com/build/concepts/context/#filename-and-location>
    pub(super) fn of(files: Files<'_>, dockerfile: &str) -> Self {
        let own = format!("{}.dockerignore", dockerfile.trim_start_matches('/'));
        match patterns(files, &own) {
            Some(patterns) => Self { file: own, patterns },
            None => Self::read(files, None),
        }
    }

    /// The path of the file that counts.
    pub(super) fn file(&self) -> &str {
        &self.file
    }

    /// Why a source of `COPY`, `ADD` or `RUN --mount` is not there, if a pattern is to blame.
    pub(super) fn blame(&self, source: &str) -> String {
        let path: Vec<&str> = source.split('/').filter(|p| !matches!(*p, "" | ".")).collect();
        match self.patterns.excluded_by(&path.join("/")) {
            Some(pattern) => format!(" (the pattern {pattern:?} of {} leaves it out)", self.file),
            None => String::new(),
        }
    }
}

fn patterns(files: Files<'_>, file: &str) -> Option<Ignore> {
    let path = files.evaluate(&Path::new("/").join(file)).ok()?;
    if !matches!(files.kind(&path), Ok(Kind::File)) {
        return None;
    }
    let mut text = String::new();
    files.open(&path).ok()?.take(LONGEST).read_to_string(&mut text).ok()?;
    Ignore::parse(&text).ok()
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
