//! A file that is read while it is still being written, so that a layer is unpacked while it comes in.

use std::fs::File;
use std::io::{self, Read, Write};
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

use crate::error::Error;

#[derive(Debug, Default)]
struct State {
    written: u64,
    /// Nothing comes any more: all is there, or it was given up.
    ended: Option<bool>,
}

#[derive(Debug, Default)]
struct Shared {
    state: Mutex<State>,
    changed: Condvar,
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn end(&self, whole: bool) {
        self.lock().ended.get_or_insert(whole);
        self.changed.notify_all();
    }
}

/// The writing end. Dropped before [`Growing::finish`], its readers fail.
#[derive(Debug)]
pub(super) struct Growing {
    file: File,
    shared: Arc<Shared>,
}

impl Growing {
    pub(super) fn create(path: &Path) -> Result<Self, Error> {
        let file = File::options().read(true).write(true).create_new(true).open(path);
        Ok(Self { file: file.map_err(Error::io("create", path))?, shared: Arc::default() })
    }

    /// A reader from the beginning; `progress` is told how far it is once all is written.
    pub(super) fn reader(&self, progress: impl Fn(u64) + Send + 'static) -> io::Result<GrowingReader> {
        let file = self.file.try_clone()?;
        Ok(GrowingReader { file, shared: self.shared.clone(), at: 0, progress: Box::new(progress) })
    }

    pub(super) fn append(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.file.write_all(bytes)?;
        self.shared.lock().written += bytes.len() as u64;
        self.shared.changed.notify_all();
        Ok(())
    }

    /// All is there.
    pub(super) fn finish(self) {
        self.shared.end(true);
    }
}

impl Drop for Growing {
    fn drop(&mut self) {
        self.shared.end(false);
    }
}

/// The reading end; waits for what is not there yet.
pub(super) struct GrowingReader {
    file: File,
    shared: Arc<Shared>,
    at: u64,
    progress: Box<dyn Fn(u64) + Send>,
}

impl Read for GrowingReader {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        let mut state = self.shared.lock();
        let there = loop {
            match state.ended {
                Some(false) => return Err(io::Error::other("its download was given up")),
                _ if state.written > self.at => break state.written - self.at,
                Some(true) => return Ok(0),
                None => {
                    state = self.shared.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
                }
            }
        };
        let whole = state.ended == Some(true);
        drop(state);
        let want = usize::try_from(there).unwrap_or(usize::MAX).min(buf.len());
        // Beside the writer's position, which this descriptor shares.
        let n = self.file.read_at(&mut buf[..want], self.at)?;
        self.at += n as u64;
        if whole {
            (self.progress)(self.at);
        }
        Ok(n)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reader_gets_what_is_written_and_learns_of_the_end() {
        let dir = tempfile::tempdir().expect("temporary directory");
        let mut file = Growing::create(&dir.path().join("a")).expect("creates");
        let mut reader = file.reader(|_| {}).expect("opens");
        let thread = std::thread::spawn(move || {
            let mut all = String::new();
            reader.read_to_string(&mut all).map(|_| all)
        });
        file.append(b"some ").expect("writes");
        file.append(b"text").expect("writes");
        let mut late = file.reader(|_| {}).expect("opens");
        file.finish();
        assert_eq!(thread.join().expect("ends").expect("reads"), "some text");
        let mut all = String::new();
        assert_eq!(late.read_to_string(&mut all).expect("reads"), 9);
        let mut cut = Growing::create(&dir.path().join("b")).expect("creates");
        cut.append(b"x").expect("writes");
        let mut reader = cut.reader(|_| {}).expect("opens");
        drop(cut);
        assert!(reader.read_to_string(&mut all).is_err());
    }
}
