//! Room that is kept on the disk for the time when it is full: to write down that something is removed takes some, and without it
//! nothing could be removed to make room.

use std::fs::OpenOptions;
use std::os::unix::fs::OpenOptionsExt;
use std::path::PathBuf;

/// So much is kept, in bytes, where there is that much; else what is left, down to [`LEAST`].
const MOST: i64 = 2 << 20;
const LEAST: i64 = 64 << 10;

/// A file that holds the room.
pub(crate) struct Reserve {
    path: PathBuf,
    /// Its size.
    held: i64,
}

impl Reserve {
    /// Takes the room, if it can be had.
    pub(crate) fn new(path: PathBuf) -> Self {
        let held = std::fs::metadata(&path).map_or(0, |m| m.len().try_into().unwrap_or(MOST));
        let mut reserve = Self { path, held };
        reserve.keep();
        reserve
    }

    /// Gives the room back to whoever writes next; false where there is none.
    pub(crate) fn give(&mut self) -> bool {
        let had = std::mem::take(&mut self.held);
        if had == 0 || std::fs::remove_file(&self.path).is_err() {
            return false;
        }
        tracing::warn!(
            bytes = had,
            "the disk is full: what is removed is written down in the room kept for that"
        );
        true
    }

    /// Takes it again, as much of it as can be had by now. Best effort: without it all works, but on a full disk.
    pub(crate) fn keep(&mut self) {
        if self.held >= MOST {
            return;
        }
        let file = OpenOptions::new().write(true).create(true).truncate(false).mode(0o600).open(&self.path);
        let Ok(file) = file else { return };
        let sizes = std::iter::successors(Some(MOST), |size| Some(size / 2).filter(|half| *half >= LEAST));
        let mut larger = sizes.take_while(|size| *size > self.held);
        match larger.find(|size| nix::fcntl::posix_fallocate(&file, 0, *size).is_ok()) {
            Some(size) => self.held = size,
            // What an attempt took before it failed.
            None if self.held == 0 => drop(std::fs::remove_file(&self.path)),
            None => drop(file.set_len(self.held.unsigned_abs())),
        }
    }
}
