//! The files of a log, as they are and compressed.

use std::fs::{File, OpenOptions};
use std::io::{self, Seek};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use flate2::read::GzDecoder;

use crate::error::Error;
use crate::log_entry::Identity;

/// Bytes a compressed file may hold: what is more is not ours.
const LARGEST: u64 = 4 << 30;

/// One file of a log.
pub(super) struct Source {
    file: File,
    compressed: bool,
    /// Of the file as it was written: compressing changes it.
    pub(super) identity: Identity,
}

/// `log`, `log.1`, `log.2`, ... as far as they exist, newest first.
pub(super) fn open_all(path: &Path) -> Result<Vec<Source>, Error> {
    let mut out: Vec<Source> = Vec::new();
    let mut gap = false;
    for n in 0.. {
        let name = if n == 0 { path.to_path_buf() } else { PathBuf::from(format!("{}.{n}", path.display())) };
        let found = match open(&name, false)? {
            None if n > 0 => open(&PathBuf::from(format!("{}.gz", name.display())), true)?,
            other => other,
        };
        match found {
            Some(source) => {
                gap = false;
                // A rotation between two opens shows the same file under two names.
                if out.iter().all(|s| s.identity != source.identity) {
                    out.push(source);
                }
            }
            None if gap => break,
            // Not the end yet: a rotation under way has one file between two names.
            None => gap = true,
        }
    }
    Ok(out)
}

fn open(path: &Path, compressed: bool) -> Result<Option<Source>, Error> {
    // What is no file must not hold the reader up.
    let file = match OpenOptions::new().read(true).custom_flags(libc::O_NONBLOCK).open(path) {
        Ok(file) => file,
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(e) => return Err(Error::io("open", path)(e)),
    };
    if !file.metadata().map_err(Error::io("read", path))?.is_file() {
        tracing::warn!(log = %path.display(), "among the files of a log is one that is none; it is left out");
        return Ok(None);
    }
    let mut identity = Identity::of(&file).map_err(Error::io("read", path))?;
    if compressed {
        identity = original(&file).map_err(Error::io("read", path))?.unwrap_or(identity);
    }
    Ok(Some(Source { file, compressed, identity }))
}

/// The identity that the shim noted when it compressed the file.
fn original(file: &File) -> io::Result<Option<Identity>> {
    let decoder = GzDecoder::new(file.try_clone()?);
    let extra = decoder.header().and_then(|h| h.extra()).unwrap_or_default();
    let identity = Identity::from_extra(extra);
    (&*file).rewind()?;
    Ok(identity)
}

impl Source {
    /// As it was written; what is compressed goes to a file without a name beside `log`.
    pub(super) fn plain(self, log: &Path) -> Result<File, Error> {
        if !self.compressed {
            return Ok(self.file);
        }
        let dir = log.parent().unwrap_or(Path::new("/"));
        let mut options = OpenOptions::new();
        options.read(true).write(true).mode(0o600).custom_flags(libc::O_TMPFILE);
        let mut plain = options.open(dir).map_err(Error::io("make a file in", dir))?;
        let mut decoder = io::Read::take(GzDecoder::new(self.file), LARGEST);
        // What is damaged is read as far as it goes.
        if let Err(reason) = io::copy(&mut decoder, &mut plain) {
            tracing::warn!(log = %log.display(), %reason, "a compressed log is damaged and read as far as it goes");
        }
        Ok(plain)
    }
}
