//! What a log holds already: its rotated files, oldest first, and the last N messages found from the end.

use std::fs::File;
use std::io;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};

use super::line::Lines;
use super::source::{Source, open_all};
use super::{Frames, LogFrame, LogOptions};
use crate::error::Error;
use crate::log_config::LogFormat;
use crate::log_entry::{Identity, LENGTH, MAX_ENTRY};

const BLOCK: usize = 64 << 10;

/// Where reading stopped, for following.
pub(super) struct Position {
    pub(super) file: Option<File>,
    pub(super) identity: Option<Identity>,
    pub(super) offset: u64,
    pub(super) lines: Lines,
}

/// The files of a log, oldest first, and where to begin.
pub(super) struct Backlog {
    path: PathBuf,
    format: LogFormat,
    files: Vec<(Identity, Content)>,
    offset: u64,
}

/// A file that was looked into, or is yet to be.
enum Content {
    Plain(File),
    Closed(Source),
}

impl Backlog {
    pub(super) fn open(path: &Path, format: LogFormat, tail: Option<u64>) -> Result<Self, Error> {
        let mut files = Vec::new();
        let mut offset = 0;
        let mut wanted = tail;
        for source in open_all(path)? {
            let identity = source.identity;
            let Some(left) = &mut wanted else {
                files.push((identity, Content::Closed(source)));
                continue;
            };
            let file = source.plain(path)?;
            let found = match format {
                LogFormat::Json => lines_from_end(&file, *left),
                LogFormat::Entries => entries_from_end(&file, *left),
            };
            let (found, at) = found.map_err(Error::io("read", path))?;
            offset = at;
            *left -= found;
            let enough = *left == 0;
            files.push((identity, Content::Plain(file)));
            if enough {
                break;
            }
        }
        files.reverse();
        Ok(Self { path: path.to_path_buf(), format, files, offset })
    }

    /// Sends it all; gives the position at the end, or none when nothing more is wanted.
    pub(super) fn send(self, o: &LogOptions, frames: &Frames) -> Result<Option<Position>, Error> {
        let mut lines = Lines::new(self.format);
        let mut at = self.offset;
        let count = self.files.len();
        let mut last = None;
        for (i, (identity, content)) in self.files.into_iter().enumerate() {
            let file = match content {
                Content::Plain(file) => file,
                Content::Closed(source) => source.plain(&self.path)?,
            };
            let Some(end) = read_on(&self.path, &file, at, &mut lines, o, frames)? else { return Ok(None) };
            let is_last = i + 1 == count;
            // Only the newest file may still be growing.
            if (!is_last || !o.follow) && !lines.finish(|l| emit(&self.path, l, o, frames)) {
                return Ok(None);
            }
            at = if is_last { end } else { 0 };
            last = Some((identity, file));
        }
        let (identity, file) = last.unzip();
        Ok(Some(Position { file, identity, offset: at, lines }))
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
            // Emptied in its place, as a log of one file is when it is full.
            let size = file.metadata().map_err(Error::io("read", path))?.size();
            if size < offset {
                (offset, *lines) = (0, lines.anew());
                continue;
            }
            return Ok(Some(offset));
        }
        offset += n as u64;
        if !lines.add(&block[..n], |l| emit(path, l, o, frames)) {
            return Ok(None);
        }
    }
}

/// False when nothing more is wanted.
fn emit(path: &Path, read: Result<LogFrame, String>, o: &LogOptions, frames: &Frames) -> bool {
    let frame = match read {
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
fn lines_from_end(file: &File, wanted: u64) -> io::Result<(u64, u64)> {
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

/// The same of entries, by the lengths that end them. Damage counts as the beginning.
fn entries_from_end(file: &File, wanted: u64) -> io::Result<(u64, u64)> {
    let mut at = file.metadata()?.size();
    let mut found = 0;
    let around = 2 * LENGTH as u64;
    while found < wanted && at >= around {
        let mut length = [0; LENGTH];
        file.read_exact_at(&mut length, at - LENGTH as u64)?;
        let whole = u64::from(u32::from_be_bytes(length)) + around;
        if whole == around || whole > at || whole > MAX_ENTRY as u64 + around {
            return Ok((wanted, 0));
        }
        at -= whole;
        found += 1;
    }
    Ok((found, at))
}
