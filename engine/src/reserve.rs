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
    held: bool,
}

impl Reserve {
    /// Takes the room, if it can be had.
    pub(crate) fn new(path: PathBuf) -> Self {
        let mut reserve = Self { path, held: false };
        reserve.keep();
        reserve
    }

    /// Gives the room back to whoever writes next; false where there is none.
    pub(crate) fn give(&mut self) -> bool {
        std::mem::take(&mut self.held) && std::fs::remove_file(&self.path).is_ok()
    }

    /// Takes it again. Best effort: without it all works, but on a full disk.
    pub(crate) fn keep(&mut self) {
        if self.held {
            return;
        }
        let file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&self.path);
        let Ok(file) = file else { return };
        let sizes = std::iter::successors(Some(MOST), |size| Some(size / 2).filter(|half| *half >= LEAST));
        self.held = sizes.into_iter().any(|size| nix::fcntl::posix_fallocate(&file, 0, size).is_ok());
        if !self.held {
            let _ = std::fs::remove_file(&self.path);
        }
    }
}
