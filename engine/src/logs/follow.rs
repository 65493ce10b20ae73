//! Follows a log as it grows and is rotated, told by inotify.

use std::os::fd::{AsFd, AsRawFd, BorrowedFd, RawFd};
use std::path::{Path, PathBuf};

use nix::sys::inotify::{AddWatchFlags, InitFlags, Inotify};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::sync::watch;

use super::files::{Position, read_on};
use super::line::Lines;
use super::source::open_all;
use super::{Frames, LogOptions};
use crate::container::Life;
use crate::error::Error;
use crate::log_config::LogFormat;

/// Inotify as tokio wants it.
struct Watch(Inotify);

impl AsFd for Watch {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

impl AsRawFd for Watch {
    fn as_raw_fd(&self) -> RawFd {
        self.0.as_fd().as_raw_fd()
    }
}

/// A log being followed.
pub(super) struct Follower {
    path: PathBuf,
    format: LogFormat,
    changes: AsyncFd<Watch>,
}

impl Follower {
    /// Watches the log's directory, where files are written and renamed.
    pub(super) fn watch(path: &Path, format: LogFormat) -> Result<Self, Error> {
        let dir = path.parent().unwrap_or(Path::new("/"));
        let failed =
            |e: nix::Error| Error::Io { operation: "watch", path: dir.to_path_buf(), source: e.into() };
        let inotify = Inotify::init(InitFlags::IN_CLOEXEC | InitFlags::IN_NONBLOCK).map_err(failed)?;
        let what = AddWatchFlags::IN_MODIFY
            | AddWatchFlags::IN_CREATE
            | AddWatchFlags::IN_MOVED_TO
            | AddWatchFlags::IN_DELETE_SELF;
        inotify.add_watch(dir, what).map_err(failed)?;
        // SAFETY: `Watch` owns its open descriptor, and nothing replaces or closes it before `AsyncFd` goes.
        #[allow(unsafe_code)]
        let changes = unsafe { AsyncFd::register_with_interest(Watch(inotify), Interest::READABLE) };
        let changes = changes.map_err(|e| Error::io("watch", dir)(e.into()))?;
        Ok(Self { path: path.to_path_buf(), format, changes })
    }

    /// Sends what comes until the container has ended, the reader has gone, or `until` is past.
    pub(super) async fn run(
        self,
        mut at: Position,
        o: LogOptions,
        frames: Frames,
        mut life: watch::Receiver<Life>,
    ) {
        let format = self.format;
        loop {
            // Asked before reading: what was written before the exit is read after it is seen.
            let ended = !life.borrow_and_update().running;
            let (path, options, out) = (self.path.clone(), o.clone(), frames.clone());
            let read = tokio::task::spawn_blocking(move || catch_up(&path, format, at, &options, &out)).await;
            at = match read {
                Ok(Ok(Some(at))) => at,
                Ok(Ok(None)) | Err(_) => return,
                Ok(Err(e)) => {
                    // Nobody listens when the reader has gone.
                    let _ = frames.send(Err(e)).await;
                    return;
                }
            };
            if ended {
                return;
            }
            tokio::select! {
                changed = self.changed() => if changed.is_err() { return },
                changed = life.changed() => if changed.is_err() { return },
                () = frames.closed() => return,
                () = until(o.until_ns) => return,
            }
        }
    }

    /// Waits for a change and takes all that are queued.
    async fn changed(&self) -> std::io::Result<()> {
        let mut ready = self.changes.readable().await?;
        while self.changes.get_ref().0.read_events().is_ok_and(|e| !e.is_empty()) {}
        ready.clear_ready();
        Ok(())
    }
}

/// Ends when the clock passes `until`; never without one.
async fn until(until_ns: Option<i64>) {
    match until_ns {
        None => std::future::pending().await,
        Some(t) => {
            let left = u64::try_from(t.saturating_sub(crate::events::now_ns())).unwrap_or(0);
            tokio::time::sleep(std::time::Duration::from_nanos(left)).await;
        }
    }
}

/// Reads the open file to its end, then every newer one.
fn catch_up(
    path: &Path,
    format: LogFormat,
    mut at: Position,
    o: &LogOptions,
    frames: &Frames,
) -> Result<Option<Position>, Error> {
    loop {
        // Listed before reading, so that a file is only left once a newer one is known to exist.
        let newest_first = open_all(path)?;
        if let Some(file) = &at.file {
            match read_on(path, file, at.offset, &mut at.lines, o, frames)? {
                Some(offset) => at.offset = offset,
                None => return Ok(None),
            }
        }
        let mine = at.identity;
        let newer = newest_first.into_iter().take_while(|s| Some(s.identity) != mine).last();
        match newer {
            None => return Ok(Some(at)),
            Some(source) => {
                let identity = Some(source.identity);
                at = Position {
                    file: Some(source.plain(path)?),
                    identity,
                    offset: 0,
                    lines: Lines::new(format),
                };
            }
        }
    }
}
