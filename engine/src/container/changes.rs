//! `diff`: what a container has changed in its root file system, read off its upper directory; and how much
//! room that takes.

use std::collections::BTreeSet;
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};

use nix::fcntl::{AtFlags, OFlag, openat};
use nix::sys::stat::{FileStat, Mode, SFlag, fstatat};

use super::pack::{DEEPEST, names};
use crate::engine::Engine;
use crate::error::{Error, blocking};
use crate::runtime::{Parts, View};
use crate::shim::spec::Rootfs;
use crate::xattr;

/// What became of a path.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Change {
    /// It is another than in the image, or something in it is.
    Modified,
    /// The image does not have it.
    Added,
    /// Only the image has it.
    Deleted,
}

/// What the runtime makes to mount on, which is no change of the container's.
pub(crate) const MADE_BY_US: &[&str] =
    &["dev", "proc", "sys", "etc/hosts", "etc/hostname", "etc/resolv.conf", "etc/mtab", ".dockerenv"];

impl Engine {
    /// The changes by path, sorted.
    pub async fn changes(&self, id: &str) -> Result<Vec<(PathBuf, Change)>, Error> {
        let _timer = self.metrics().container.changes.start_timer();
        let slot = self.table().find(id)?;
        let scratch = self.root().temporary();
        let (rootfs, _) = self.rootfs(&slot);
        blocking(move || {
            let (upper, lowers) = match rootfs {
                Rootfs::Overlay { lowers, upper, .. } => (upper, lowers),
                Rootfs::Directory(upper) => (upper, Vec::new()),
            };
            let top = File::open(&upper).map_err(Error::io("open", &upper))?;
            let image = match lowers.is_empty() {
                true => None,
                false => Some(
                    View::assemble(Parts::Image(lowers), None, &scratch)
                        .map_err(|e| Error::Invalid(format!("cannot open the image's files: {e}")))?,
                ),
            };
            let below = image.as_ref().map(|v| v.root().open(Path::new("/"), OFlag::O_RDONLY, 0)).transpose();
            let below = below.map_err(Error::io("open the root of", "the image"))?;
            let mut found = Vec::new();
            walk(&top.into(), below.as_ref(), Path::new("/"), &mut found)
                .map_err(Error::io("compare with the image", &upper))?;
            found.sort();
            Ok(found)
        })
        .await
    }

    /// Bytes of the container's own changes.
    pub async fn changed_size(&self, id: &str) -> Result<u64, Error> {
        let slot = self.table().find(id)?;
        let upper = match self.rootfs(&slot).0 {
            Rootfs::Overlay { upper, .. } | Rootfs::Directory(upper) => upper,
        };
        blocking(move || Ok(crate::disk_usage::of(&upper))).await
    }
}

fn walk(
    upper: &OwnedFd,
    lower: Option<&OwnedFd>,
    at: &Path,
    found: &mut Vec<(PathBuf, Change)>,
) -> io::Result<()> {
    let open = |dir: &OwnedFd, name: &Path| {
        let flags = OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
        openat(dir, name, flags, Mode::empty())
    };
    if at.components().count() > DEEPEST {
        return Err(io::Error::other("its directories are nested too deep"));
    }
    let ours = names(upper)?;
    for name in ours.iter().map(Path::new) {
        let path = at.join(name);
        let made_by_us = path.strip_prefix("/").is_ok_and(|p| MADE_BY_US.iter().any(|m| p == Path::new(m)));
        let meta = match fstatat(upper, name, AtFlags::AT_SYMLINK_NOFOLLOW) {
            // A running container goes on changing.
            Err(nix::errno::Errno::ENOENT) => continue,
            other => other?,
        };
        let old = lower.and_then(|l| fstatat(l, name, AtFlags::AT_SYMLINK_NOFOLLOW).ok());
        if kind(&meta) == SFlag::S_IFCHR && meta.st_rdev == 0 {
            if old.is_some() {
                found.push((path, Change::Deleted));
            }
            continue;
        }
        if kind(&meta) != SFlag::S_IFDIR {
            match old {
                _ if made_by_us => {}
                None => found.push((path, Change::Added)),
                Some(old) if differs(&meta, &old) => found.push((path, Change::Modified)),
                Some(_) => {}
            }
            continue;
        }
        let below = open(upper, name)?;
        let old_dir = old.filter(|o| kind(o) == SFlag::S_IFDIR);
        let lower_below = match (old_dir, lower) {
            (Some(_), Some(lower)) => Some(open(lower, name)?),
            _ => None,
        };
        let before = found.len();
        walk(&below, lower_below.as_ref(), &path, found)?;
        if let Some(lower_below) = &lower_below
            && xattr::all(below.as_fd())?.iter().any(|(k, v)| k == b"trusted.overlay.opaque" && v == b"y")
        {
            let kept: BTreeSet<_> = names(&below)?.into_iter().collect();
            let gone = names(lower_below)?.into_iter().filter(|n| !kept.contains(n));
            found.extend(gone.map(|n| (path.join(n), Change::Deleted)));
        }
        let inside = found.len() > before;
        match (&old, &old_dir) {
            (None, _) if inside || !(made_by_us || path == Path::new("/etc")) => {
                found.push((path, Change::Added));
            }
            (None, _) => {}
            (Some(_), None) => found.push((path, Change::Modified)),
            (Some(_), Some(old)) if inside || attributes(&meta) != attributes(old) => {
                found.push((path, Change::Modified));
            }
            _ => {}
        }
    }
    Ok(())
}

fn kind(meta: &FileStat) -> SFlag {
    SFlag::from_bits_truncate(meta.st_mode) & SFlag::S_IFMT
}

fn attributes(meta: &FileStat) -> (u32, u32, u32, u64) {
    (meta.st_mode, meta.st_uid, meta.st_gid, meta.st_rdev)
}

fn differs(new: &FileStat, old: &FileStat) -> bool {
    let content = |m: &FileStat| (m.st_size, m.st_mtime, m.st_mtime_nsec);
    attributes(new) != attributes(old) || content(new) != content(old)
}
