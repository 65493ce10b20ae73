//! What a log holds already: its rotated files, oldest first, and the last N lines found from the end.

use std::fs::File;
use std::io;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};

use super::line::{Lines, parse};
use super::{Frames, LogOptions};
use crate::error::Error;

const BLOCK: usize = 64 << 10;

/// Where reading stopped, for following.
pub(super) struct Position {
    pub(super) file: Option<File>,
    pub(super) offset: u64,
    pub(super) lines: Lines,
}

impl Position {
    pub(super) fn inode(&self) -> Option<u64> {
        self.file.as_ref().and_then(|f| f.metadata().ok()).map(|m| m.ino())
    }
}

/// The files of a log, oldest first, and where to begin.
pub(super) struct Backlog {
    path: PathBuf,
    files: Vec<File>,
    offset: u64,
}

/// `log`, `log.1`, `log.2`, ... as far as they exist, newest first.
pub(super) fn open_all(path: &Path) -> Result<Vec<File>, Error> {
    let mut out = Vec::new();
    let mut seen = std::collections::HashSet::new();
    let mut gap = false;
    for n in 0.. {
        let name = if n == 0 { path.to_path_buf() } else { PathBuf::from(format!("{}.{n}", path.display())) };
        match File::open(&name) {
            Ok(f) => {
                gap = false;
                let inode = f.metadata().map_err(Error::io("read", &name))?.ino();
                // A rotation between two opens shows the same file under two names.
                if seen.insert(inode) {
                    out.push(f);
                }
            }
            Err(e) if e.kind() == io::ErrorKind::NotFound && gap => break,
            // Not the end yet: a rotation under way has one file between two names.
            Err(e) if e.kind() == io::ErrorKind::NotFound => gap = true,
            Err(e) => return Err(Error::io("open", &name)(e)),
        }
    }
    Ok(out)
}

impl Backlog {
    pub(super) fn open(path: &Path, tail: Option<u64>) -> Result<Self, Error> {
        let mut files = open_all(path)?;
        let mut offset = 0;
        if let Some(mut wanted) = tail {
            let mut keep = 0;
            for f in &files {
                keep += 1;
                let (found, at) = from_end(f, wanted).map_err(Error::io("read", path))?;
                offset = at;
                wanted -= found;
                if wanted == 0 {
                    break;
                }
            }
            files.truncate(keep);
        }
        files.reverse();
        Ok(Self { path: path.to_path_buf(), files, offset })
    }

    /// Sends it all; gives the position at the end, or none when nothing more is wanted.
    pub(super) fn send(self, o: &LogOptions, frames: &Frames) -> Result<Option<Position>, Error> {
        let mut lines = Lines::default();
        let mut at = self.offset;
        let count = self.files.len();
        let mut last = None;
        for (i, file) in self.files.into_iter().enumerate() {
            let Some(end) = read_on(&self.path, &file, at, &mut lines, o, frames)? else { return Ok(None) };
            let is_last = i + 1 == count;
            // Only the newest file may still be growing.
            if (!is_last || !o.follow) && !lines.finish(|l| emit(&self.path, l, o, frames)) {
                return Ok(None);
            }
            at = if is_last { end } else { 0 };
            last = Some(file);
        }
        Ok(Some(Position { file: last, offset: at, lines }))
    }
}

/// Sends what `file` holds from `offset`; gives where it ends, or none when nothing more is wanted.
pub(super) fn read_on(
    path: &Path,
    file: &File,
    mut offset: u64,
    lines: &mut Lines,
    o: &LogOptions,
    frames: &Frames,
) -> Result<Option<u64>, Error> {
    let mut block = vec![0; BLOCK];
    loop {
        let n = file.read_at(&mut block, offset).map_err(Error::io("read", path))?;
        if n == 0 {
            return Ok(Some(offset));
        }
        offset += n as u64;
        if !lines.add(&block[..n], |l| emit(path, l, o, frames)) {
            return Ok(None);
        }
    }
}

/// False when nothing more is wanted.
fn emit(path: &Path, line: &[u8], o: &LogOptions, frames: &Frames) -> bool {
    let frame = match parse(line) {
        Ok(f) if o.is_past(&f) => return false,
        Ok(f) if !o.wants(&f) => return true,
        Ok(f) => Ok(f),
        Err(reason) => {
            tracing::warn!(log = %path.display(), reason, "a damaged line of a log is skipped");
            Err(Error::DamagedLog { path: path.to_path_buf(), reason })
        }
    };
    frames.blocking_send(frame).is_ok()
}

/// How many of `wanted` lines stand at the end of the file, and where the first of them begins.
fn from_end(file: &File, wanted: u64) -> io::Result<(u64, u64)> {
    let size = file.metadata()?.size();
    if wanted == 0 || size == 0 {
        return Ok((0, size));
    }
    let mut block = vec![0; BLOCK];
    let mut found = 0;
    let mut end = size;
    while end > 0 {
        let start = end.saturating_sub(BLOCK as u64);
        let part = &mut block[..usize::try_from(end - start).unwrap_or(BLOCK)];
        file.read_exact_at(part, start)?;
        for (i, b) in part.iter().enumerate().rev() {
            let at = start + i as u64;
            // The line end of the very last line begins no further one.
            if *b == b'\n' && at + 1 < size {
                found += 1;
                if found == wanted {
                    return Ok((found, at + 1));
                }
            }
        }
        end = start;
    }
    Ok((found + 1, 0))
}
