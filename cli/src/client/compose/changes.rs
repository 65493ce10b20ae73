//! What changes below directories, by inotify(7): every directory is watched by itself, new ones as they come.

use std::collections::{BTreeSet, HashMap};
use std::ffi::OsString;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use nix::errno::Errno;
use nix::sys::inotify::{AddWatchFlags, InitFlags, Inotify, WatchDescriptor};
use tokio::io::unix::AsyncFd;

/// After a change, how long there must be none before it is acted on: an editor or a checkout makes many at once.
const QUIET: Duration = Duration::from_millis(100);

/// When it is acted on though the changes do not end: something may write all the time.
const LONGEST: Duration = Duration::from_secs(2);

/// Directories that are watched.
pub struct Changes {
    inotify: Inotify,
    ready: AsyncFd<OwnedFd>,
    watched: HashMap<WatchDescriptor, PathBuf>,
}

/// What has changed.
#[derive(Debug, Default)]
pub struct Batch {
    pub paths: BTreeSet<PathBuf>,
    /// The kernel has lost count: anything may have changed.
    pub lost: bool,
}

fn flags() -> AddWatchFlags {
    AddWatchFlags::IN_CREATE
        | AddWatchFlags::IN_CLOSE_WRITE
        | AddWatchFlags::IN_ATTRIB
        | AddWatchFlags::IN_MOVED_FROM
        | AddWatchFlags::IN_MOVED_TO
        | AddWatchFlags::IN_DELETE
        | AddWatchFlags::IN_ONLYDIR
}

impl Changes {
    pub fn new() -> Result<Self> {
        let inotify =
            Inotify::init(InitFlags::IN_NONBLOCK | InitFlags::IN_CLOEXEC).context("inotify_init1")?;
        let fd = inotify.as_fd().try_clone_to_owned().context("wait for inotify")?;
        // SAFETY: an OwnedFd is the same open descriptor until it is dropped, which `AsyncFd` does.
        let ready = unsafe { AsyncFd::register(fd) }
            .map_err(|e| anyhow::anyhow!("wait for inotify: {}", std::io::Error::from(e)))?;
        Ok(Self { inotify, ready, watched: HashMap::new() })
    }

    /// Watches a directory and all below it that are wanted; what is in them is handed to `seen`.
    pub fn add(
        &mut self,
        top: &Path,
        wanted: &dyn Fn(&Path) -> bool,
        seen: &mut dyn FnMut(PathBuf),
    ) -> Result<()> {
        let mut todo = vec![top.to_owned()];
        while let Some(dir) = todo.pop() {
            match self.inotify.add_watch(&dir, flags()) {
                Ok(watch) => drop(self.watched.insert(watch, dir.clone())),
                // It went away again, or it is none.
                Err(Errno::ENOENT | Errno::ENOTDIR) => continue,
                Err(Errno::ENOSPC) => bail!(
                    "watch {}: too many directories for this user: raise fs.inotify.max_user_watches, or ignore some",
                    dir.display()
                ),
                Err(e) => return Err(e).with_context(|| format!("watch {}", dir.display())),
            }
            let Ok(entries) = std::fs::read_dir(&dir) else { continue };
            for entry in entries.flatten() {
                let path = entry.path();
                if !wanted(&path) {
                    continue;
                }
                seen(path.clone());
                if entry.file_type().is_ok_and(|t| t.is_dir()) {
                    todo.push(path);
                }
            }
        }
        Ok(())
    }

    /// Waits for changes of what is wanted.
    pub async fn next(&mut self, wanted: &dyn Fn(&Path) -> bool) -> Result<Batch> {
        let (mut batch, mut began) = (Batch::default(), None::<Instant>);
        loop {
            let nothing_yet = batch.paths.is_empty() && !batch.lost;
            if !nothing_yet && began.get_or_insert_with(Instant::now).elapsed() > LONGEST {
                return Ok(batch);
            }
            let mut ready = match nothing_yet {
                true => self.ready.readable().await?,
                false => match tokio::time::timeout(QUIET, self.ready.readable()).await {
                    Ok(ready) => ready?,
                    Err(_) => return Ok(batch),
                },
            };
            ready.clear_ready();
            drop(ready);
            loop {
                let events = match self.inotify.read_events() {
                    Ok(events) => events,
                    Err(Errno::EAGAIN) => break,
                    Err(e) => return Err(e).context("read inotify's events"),
                };
                for event in events {
                    self.take(event.wd, event.mask, event.name, wanted, &mut batch)?;
                }
            }
        }
    }

    fn take(
        &mut self,
        watch: WatchDescriptor,
        mask: AddWatchFlags,
        name: Option<OsString>,
        wanted: &dyn Fn(&Path) -> bool,
        batch: &mut Batch,
    ) -> Result<()> {
        if mask.contains(AddWatchFlags::IN_Q_OVERFLOW) {
            batch.lost = true;
            return Ok(());
        }
        if mask.contains(AddWatchFlags::IN_IGNORED) {
            self.watched.remove(&watch);
            return Ok(());
        }
        let (Some(dir), Some(name)) = (self.watched.get(&watch), name) else { return Ok(()) };
        let path = dir.join(name);
        if !wanted(&path) {
            return Ok(());
        }
        let new = mask.intersects(AddWatchFlags::IN_CREATE | AddWatchFlags::IN_MOVED_TO);
        if new && mask.contains(AddWatchFlags::IN_ISDIR) {
            self.add(&path, wanted, &mut |inside| {
                batch.paths.insert(inside);
            })?;
        }
        batch.paths.insert(path);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn files_new_directories_and_what_goes_is_seen_but_for_what_is_not_wanted() {
        let dir = tempfile::tempdir().expect("a directory");
        let top = dir.path();
        std::fs::create_dir(top.join("skipped")).expect("made");
        let wanted = |p: &Path| !p.ends_with("skipped");
        let mut changes = Changes::new().expect("inotify");
        changes.add(top, &wanted, &mut |_| {}).expect("watched");
        std::fs::write(top.join("skipped/x"), "").expect("written");
        std::fs::create_dir(top.join("new")).expect("made");
        std::fs::write(top.join("new/a"), "1").expect("written");
        let batch = changes.next(&wanted).await.expect("changes");
        let names = |b: &Batch| -> Vec<String> {
            let relative = |p: &PathBuf| p.strip_prefix(top).expect("below").display().to_string();
            b.paths.iter().map(relative).collect()
        };
        assert_eq!((names(&batch), batch.lost), (vec!["new".to_owned(), "new/a".to_owned()], false));
        std::fs::remove_file(top.join("new/a")).expect("removed");
        assert_eq!(names(&changes.next(&wanted).await.expect("changes")), ["new/a"]);
    }
}
