//! A log file that is rotated by size: `log`, `log.1`, `log.2`, ..., the full ones compressed where asked.

use std::fs::{File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::fd::OwnedFd;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use nix::fcntl::OFlag;
use nix::unistd::pipe2;

use super::process;
use crate::log_config::Rotation;
use crate::log_entry;

/// A file being written.
pub(super) struct Rotating {
    file: File,
    path: PathBuf,
    size: u64,
    rotation: Rotation,
    pending: Vec<u8>,
    /// Closed by the process that compresses, when it is done.
    compressing: Option<File>,
}

impl Rotating {
    /// Opens it for appending. Entries cut short by a crash of the host are cut off where `entries`.
    pub(super) fn open(path: PathBuf, rotation: Rotation, entries: bool) -> io::Result<Self> {
        let file = open(&path)?;
        if entries {
            repair(&file)?;
        }
        let size = file.metadata()?.len();
        Ok(Self { file, path, size, rotation, pending: Vec::new(), compressing: None })
    }

    /// Where the next message is to be added, in a file that has room for it.
    pub(super) fn next(&mut self) -> io::Result<&mut Vec<u8>> {
        if self.rotation.max_size.is_some_and(|max| self.size + self.pending.len() as u64 >= max) {
            self.flush()?;
            self.rotate()?;
        }
        Ok(&mut self.pending)
    }

    /// Writes out what was added.
    pub(super) fn flush(&mut self) -> io::Result<()> {
        let written = self.file.write_all(&self.pending);
        self.size += self.pending.len() as u64;
        // Also after a failure: a full disk must not make the shim grow.
        self.pending.clear();
        written
    }

    fn rotate(&mut self) -> io::Result<()> {
        if let Some(mut done) = self.compressing.take() {
            // Two rotations at once would exchange files.
            done.read_to_end(&mut Vec::new())?;
        }
        let last = self.rotation.max_file.saturating_sub(1);
        if last == 0 {
            self.file.set_len(0)?;
            self.size = 0;
            return Ok(());
        }
        for end in ["", ".gz"] {
            remove(&numbered(&self.path, last, end))?;
            for n in (1..last).rev() {
                rename(&numbered(&self.path, n, end), &numbered(&self.path, n + 1, end))?;
            }
        }
        let full = numbered(&self.path, 1, "");
        rename(&self.path, &full)?;
        self.file = open(&self.path)?;
        self.size = 0;
        if self.rotation.compress {
            self.compressing = Some(compress(full)?);
        }
        Ok(())
    }
}

fn open(path: &Path) -> io::Result<File> {
    OpenOptions::new().create(true).read(true).append(true).mode(0o640).open(path)
}

fn numbered(path: &Path, n: u32, end: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(format!(".{n}{end}"));
    name.into()
}

fn remove(path: &Path) -> io::Result<()> {
    std::fs::remove_file(path).or_else(|e| if e.kind() == io::ErrorKind::NotFound { Ok(()) } else { Err(e) })
}

fn rename(from: &Path, to: &Path) -> io::Result<()> {
    std::fs::rename(from, to).or_else(|e| if e.kind() == io::ErrorKind::NotFound { Ok(()) } else { Err(e) })
}

/// Compresses a file in a process of its own, so that the container's output is read on meanwhile.
fn compress(full: PathBuf) -> io::Result<File> {
    let (read, write) = pipe2(OFlag::O_CLOEXEC)?;
    process::detached(&write, move |_open: OwnedFd| {
        // What cannot be compressed stays as it is, and is read as it is.
        let _ = gzip(&full);
    })?;
    Ok(File::from(read))
}

fn gzip(full: &Path) -> io::Result<()> {
    let mut from = File::open(full)?;
    let half = numbered(full, 0, ".gz.tmp");
    let extra = log_entry::Identity::of(&from)?.to_extra();
    let to = OpenOptions::new().create(true).write(true).truncate(true).mode(0o640).open(&half)?;
    let mut encoder = flate2::GzBuilder::new().extra(extra).write(to, flate2::Compression::default());
    io::copy(&mut from, &mut encoder)?;
    encoder.finish()?.sync_all()?;
    let mut whole = full.as_os_str().to_owned();
    whole.push(".gz");
    std::fs::rename(&half, PathBuf::from(whole))?;
    std::fs::remove_file(full)
}

/// Cuts off an entry that was not written whole: what is appended after it could never be read.
fn repair(file: &File) -> io::Result<()> {
    use std::os::unix::fs::FileExt;
    let size = file.metadata()?.len();
    let length = |at: u64| -> io::Result<u64> {
        let mut bytes = [0; log_entry::LENGTH];
        file.read_exact_at(&mut bytes, at)?;
        Ok(u32::from_be_bytes(bytes).into())
    };
    let around = 2 * log_entry::LENGTH as u64;
    if size == 0 {
        return Ok(());
    }
    if size >= around {
        let last = length(size - 4)?;
        if (1..=log_entry::MAX_ENTRY as u64).contains(&last)
            && size >= last + around
            && length(size - last - around)? == last
        {
            return Ok(());
        }
    }
    let mut end = 0;
    while end + around <= size {
        let next = length(end)? + around;
        if next == around || end + next > size || length(end + next - 4)? + around != next {
            break;
        }
        end += next;
    }
    file.set_len(end)
}
