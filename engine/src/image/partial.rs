//! A blob on its way from several nodes: pieces come in any order and are handed on at once, while hashing and
//! unpacking follow what is there without a gap.

use std::fs::File;
use std::io::{self, Read};
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

use tokio::sync::watch;

use crate::error::Error;

/// Bytes of a piece; the last one of a blob may have fewer.
pub const PIECE: u64 = 1 << 20;

#[derive(Debug)]
struct Pieces {
    have: Vec<bool>,
    /// How many there are without a gap, from the first.
    prefix: usize,
}

/// A blob of which there are some pieces.
#[derive(Debug)]
pub struct Partial {
    file: File,
    size: u64,
    pieces: Mutex<Pieces>,
    grown: Condvar,
    count: watch::Sender<usize>,
}

impl Partial {
    /// An empty one of `size` bytes, for which room is made on the disk at once.
    pub(super) fn create(path: &Path, size: u64) -> Result<Self, Error> {
        let file = File::options().read(true).write(true).create_new(true).open(path);
        let file = file.map_err(Error::io("create", path))?;
        let length = i64::try_from(size).map_err(|_| Error::Transfer(format!("a layer of {size} bytes")))?;
        if length > 0 {
            use nix::errno::Errno;
            use nix::fcntl::{FallocateFlags, fallocate};
            match fallocate(&file, FallocateFlags::empty(), 0, length) {
                Ok(()) | Err(Errno::EOPNOTSUPP | Errno::ENOSYS) => {}
                Err(e) => return Err(Error::io("make room for", path)(e.into())),
            }
        }
        let count = usize::try_from(size.div_ceil(PIECE)).unwrap_or(usize::MAX);
        let pieces = Mutex::new(Pieces { have: vec![false; count], prefix: 0 });
        Ok(Self { file, size, pieces, grown: Condvar::new(), count: watch::Sender::new(0) })
    }

    fn lock(&self) -> MutexGuard<'_, Pieces> {
        self.pieces.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// How many bytes it will have.
    pub fn size(&self) -> u64 {
        self.size
    }

    /// Offset and bytes of a piece.
    pub fn span(&self, piece: usize) -> (u64, u64) {
        let offset = piece as u64 * PIECE;
        (offset, PIECE.min(self.size.saturating_sub(offset)))
    }

    /// Which pieces there are.
    pub fn pieces(&self) -> Vec<bool> {
        self.lock().have.clone()
    }

    /// Told whenever there is a piece more.
    pub fn growth(&self) -> watch::Receiver<usize> {
        self.count.subscribe()
    }

    /// Takes a piece, once.
    ///
    /// # Errors
    /// It has not the bytes of that piece, or cannot be written.
    pub fn put(&self, piece: usize, bytes: &[u8]) -> io::Result<()> {
        let (offset, length) = self.span(piece);
        if bytes.len() as u64 != length {
            return Err(io::Error::other(format!("a piece has {} bytes, not {length}", bytes.len())));
        }
        self.file.write_all_at(bytes, offset)?;
        let count = {
            let mut pieces = self.lock();
            if let Some(have) = pieces.have.get_mut(piece) {
                *have = true;
            }
            while pieces.have.get(pieces.prefix).copied().unwrap_or(false) {
                pieces.prefix += 1;
            }
            pieces.have.iter().filter(|have| **have).count()
        };
        self.grown.notify_all();
        self.count.send_replace(count);
        Ok(())
    }

    /// Reads of what is there; none = some of it is not.
    pub(super) fn read_at(&self, offset: u64, length: usize) -> io::Result<Option<Vec<u8>>> {
        let end = offset.saturating_add(length as u64);
        if length == 0 || end > self.size {
            return Ok(None);
        }
        let (first, last) = ((offset / PIECE) as usize, ((end - 1) / PIECE) as usize);
        if !self.lock().have.get(first..=last).is_some_and(|have| have.iter().all(|have| *have)) {
            return Ok(None);
        }
        let mut bytes = vec![0; length];
        self.file.read_exact_at(&mut bytes, offset)?;
        Ok(Some(bytes))
    }

    /// A reader from the beginning, which waits for what is not there yet until it is stopped.
    pub(super) fn reader(self: &Arc<Self>, stopped: &Arc<AtomicBool>) -> PartialReader {
        PartialReader { of: self.clone(), at: 0, stopped: stopped.clone() }
    }

    /// Readers look whether they are stopped.
    pub(super) fn wake(&self) {
        // Not between a reader's look and its wait.
        drop(self.lock());
        self.grown.notify_all();
    }
}

/// See [`Partial::reader`].
pub(super) struct PartialReader {
    of: Arc<Partial>,
    at: u64,
    stopped: Arc<AtomicBool>,
}

impl Read for PartialReader {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        if self.at == self.of.size {
            return Ok(0);
        }
        let mut pieces = self.of.lock();
        let there = loop {
            if self.stopped.load(Ordering::Relaxed) {
                return Err(io::Error::other("its transfer was given up"));
            }
            let there = (pieces.prefix as u64 * PIECE).min(self.of.size);
            if there > self.at {
                break there - self.at;
            }
            pieces = self.of.grown.wait(pieces).unwrap_or_else(PoisonError::into_inner);
        };
        drop(pieces);
        let want = usize::try_from(there).unwrap_or(usize::MAX).min(buf.len());
        let n = self.of.file.read_at(&mut buf[..want], self.at)?;
        self.at += n as u64;
        Ok(n)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pieces_come_in_any_order_and_readers_follow() {
        let dir = tempfile::tempdir().expect("temporary directory");
        let blob: Vec<u8> = (0..2 * PIECE + 5).map(|i| (i % 251) as u8).collect();
        let partial = Arc::new(Partial::create(&dir.path().join("a"), blob.len() as u64).expect("creates"));
        let stopped = Arc::new(AtomicBool::new(false));
        let mut reader = partial.reader(&stopped);
        let thread = std::thread::spawn(move || {
            let mut all = Vec::new();
            reader.read_to_end(&mut all).map(|_| all)
        });
        for piece in [2, 0, 1] {
            let (offset, length) = partial.span(piece);
            assert_eq!(partial.read_at(offset, 1).expect("reads"), None, "piece {piece} is not there");
            assert!(partial.put(piece, &blob[..3]).is_err(), "a short piece is refused");
            let (from, to) = (offset as usize, (offset + length) as usize);
            partial.put(piece, &blob[from..to]).expect("writes");
            assert_eq!(partial.read_at(offset, 5).expect("reads").expect("there"), &blob[from..from + 5]);
        }
        assert_eq!(thread.join().expect("ends").expect("reads"), blob);
        assert_eq!(partial.read_at(blob.len() as u64 - 1, 2).expect("reads"), None, "beyond the end");
        assert_eq!(partial.pieces(), [true; 3]);

        let cut = Arc::new(Partial::create(&dir.path().join("b"), 1).expect("creates"));
        let mut reader = cut.reader(&stopped);
        let thread = std::thread::spawn(move || reader.read(&mut [0]).map_err(|e| e.to_string()));
        stopped.store(true, Ordering::Relaxed);
        cut.wake();
        assert!(thread.join().expect("ends").is_err(), "a reader of what never comes is stopped");
    }
}
