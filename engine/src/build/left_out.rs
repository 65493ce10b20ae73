//! What `.dockerignore` means once a context is here: clients leave out what it says, but send it and the Dockerfile all
//! the same, so that the daemon can read them.

use std::io::{self, Read};
use std::path::Path;

use nix::fcntl::OFlag;
use nix::unistd::{UnlinkatFlags, unlinkat};

use super::files::{Files, Kind};
use crate::dockerfile::Ignore;
use crate::error::Error;
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
    /// What a file of a context that was sent says; none is named = `.dockerignore`. One that is no text, no file or no list
    /// of patterns says nothing: it was for the client to leave files out by it and to refuse what is wrong with it.
    pub(super) fn read(files: Files<'_>, file: Option<&str>) -> Self {
        let file = file.unwrap_or(COMMON).trim_start_matches('/').to_owned();
        let patterns = patterns(files, &file).ok().flatten().unwrap_or_default();
        Self { file, patterns }
    }

    /// The file that counts for a Dockerfile of a context that has all its files: `NAME.dockerignore` beside it, else
    /// `.dockerignore`. One that is wrong is refused: what it was to keep out would be in the image.
    /// <https://docs.docker.com/build/concepts/context/#filename-and-location>
    pub(super) fn of(files: Files<'_>, dockerfile: &str) -> Result<Self, Error> {
        for file in [format!("{}{COMMON}", dockerfile.trim_start_matches('/')), COMMON.to_owned()] {
            let found = patterns(files, &file).map_err(|e| {
                Error::Invalid(format!("cannot tell what to leave out of the build context: {file}: {e}"))
            })?;
            if let Some(patterns) = found {
                return Ok(Self { file, patterns });
            }
        }
        Ok(Self { file: COMMON.to_owned(), patterns: Ignore::default() })
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

/// The patterns of a file of a context; none = there is no such file.
fn patterns(files: Files<'_>, file: &str) -> Result<Option<Ignore>, String> {
    let found = files.evaluate(&Path::new("/").join(file));
    let path = match found.and_then(|path| files.kind(&path).map(|kind| (path, kind))) {
        Ok((path, Kind::File)) => path,
        Ok(_) => return Err("it is no file".into()),
        Err(e) if matches!(e.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => {
            return Ok(None);
        }
        Err(e) => return Err(e.to_string()),
    };
    let mut text = Vec::new();
    let opened = files.open(&path).map_err(|e| e.to_string())?;
    opened.take(LONGEST + 1).read_to_end(&mut text).map_err(|e| e.to_string())?;
    if text.len() as u64 > LONGEST {
        return Err(format!("it is longer than {LONGEST} bytes"));
    }
    let text = String::from_utf8(text).map_err(|_| "it is not UTF-8".to_owned())?;
    Ignore::parse(&text).map(Some)
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
