//! `cp`: files out of a container and into it, whether it runs or not, through whatever is mounted in it. Every
//! path is looked up in the container's own root, so no link in it leads out, whoever changes it meanwhile.

use std::ffi::OsStr;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Component, Path, PathBuf};

use nix::errno::Errno;
use nix::fcntl::{AtFlags, OFlag, openat};
use nix::sys::stat::{FileStat, Mode, SFlag, fstat, fstatat};
use tokio::io::AsyncRead;

use super::pack::{Pack, is_kernels};
use super::slot::Slot;
use crate::engine::Engine;
use crate::error::{Error, blocking};
use crate::image::extract::{self, CopyRules, Within};
use crate::image::{feed, tar};
use crate::outflow::{self, SavedArchive};
use crate::runtime::resolve::Root;
use crate::runtime::{User, View};

/// A path of a container as `cp` asks about it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PathStat {
    /// Last part of the path.
    pub name: String,
    /// Bytes.
    pub size: u64,
    /// `st_mode` (inode(7)).
    pub mode: u32,
    /// Nanoseconds since the Unix epoch.
    pub mtime_ns: i64,
    /// Where a symbolic link leads in the end, as an absolute path of the container.
    pub link_target: String,
}

/// How files are copied into a container.
#[derive(Clone, Copy, Debug, Default)]
pub struct CopyIn {
    /// Refuse to replace a directory by something else, and the reverse.
    pub keep_kinds: bool,
    /// Give them to the container's user, if it has one.
    pub own: bool,
}

impl Engine {
    /// What is at a path. A link at its end is not followed.
    pub async fn stat_path(&self, id: &str, path: &str) -> Result<PathStat, Error> {
        let slot = self.table().find(id)?;
        let look = self.view(&slot).await?;
        let (view, asked, of) = (look.view.clone(), Asked::read(path), missing(id, path));
        blocking(move || Ok(asked.find(view.root()).map_err(of)?.0)).await
    }

    /// What is at a path, and an archive of it.
    pub async fn copy_out(&self, id: &str, path: &str) -> Result<(PathStat, SavedArchive), Error> {
        let slot = self.table().find(id)?;
        let look = self.view(&slot).await?;
        let (view, asked, of) = (look.view.clone(), Asked::read(path), missing(id, path));
        let (stat, place) = blocking(move || {
            let (stat, dir) = asked.find(view.root()).map_err(&of)?;
            Ok((stat, (dir, asked)))
        })
        .await?;
        let ids = self.ids_of(&slot.container());
        self.emit(&slot, "archive-path", &[]);
        let is_dir = SFlag::from_bits_truncate(stat.mode) & SFlag::S_IFMT == SFlag::S_IFDIR;
        let archive = outflow::stream(move |out| {
            // Held open until the last byte.
            let _look = look;
            let (dir, asked) = place;
            let mut pack = Pack::files(out, ids);
            if is_dir {
                let flags = OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
                let name = if asked.base.is_empty() { OsStr::new(".") } else { asked.base.as_os_str() };
                let dir = openat(&dir, name, flags, Mode::empty())?;
                let prefix = asked.shown().trim_start_matches('/').as_bytes().to_vec();
                pack.directory(&dir, &prefix)?;
                if !is_kernels(&dir)? {
                    pack.children(&dir, Some(&prefix))?;
                }
            } else {
                pack.entry(&dir, &asked.base, asked.base.as_bytes())?;
            }
            pack.finish()
        });
        Ok((stat, archive))
    }

    /// Unpacks an archive in a directory of the container.
    pub async fn copy_in(
        &self,
        id: &str,
        path: &str,
        how: CopyIn,
        archive: impl AsyncRead + Send + Unpin,
    ) -> Result<(), Error> {
        let slot = self.table().find(id)?;
        let look = self.view(&slot).await?;
        let (s, view, of) = (slot.clone(), look.view.clone(), missing(id, path));
        let clean = Asked::read(path).whole();
        let (dir, mut rules) = blocking(move || destination(&s, &view, &clean, how, of)).await?;
        rules.ids = self.ids_of(&slot.container());
        let copied = feed::run(archive, move |input| {
            // Also where the client has left: nobody starts or removes it in the middle of a file.
            let _look = look;
            extract::copy_in(input, dir, rules)
        });
        let copied = copied.await;
        match copied {
            // As with Docker, nothing comes of nothing.
            Err(Error::Archive(why)) if why == tar::EMPTY => {}
            Err(Error::Archive(why)) if why == tar::NO_ARCHIVE => {
                return Err(Error::Invalid("archive/tar: invalid tar header".into()));
            }
            Err(Error::Archive(why)) => {
                return Err(Error::Invalid(format!("cannot read the archive: {why}")));
            }
            other => other?,
        }
        self.emit(&slot, "extract-to-dir", &[]);
        Ok(())
    }

    /// All of a container's files, without what is mounted in it.
    pub async fn export(&self, id: &str) -> Result<SavedArchive, Error> {
        let slot = self.table().find(id)?;
        let look = self.bare_view(&slot).await?;
        let view = look.view.clone();
        let root = blocking(move || {
            let flags = OFlag::O_RDONLY | OFlag::O_DIRECTORY;
            view.root().open(Path::new("/"), flags, 0).map_err(Error::io("open the root of", "/"))
        })
        .await?;
        let ids = self.ids_of(&slot.container());
        self.emit(&slot, "export", &[]);
        Ok(outflow::stream(move |out| {
            let _look = look;
            let mut pack = Pack::files(out, ids);
            pack.children(&root, None)?;
            pack.finish()
        }))
    }
}

fn destination(
    slot: &Slot,
    view: &View,
    path: &Path,
    how: CopyIn,
    of: impl Fn(io::Error) -> Error,
) -> Result<(OwnedFd, CopyRules), Error> {
    let c = slot.container();
    let resolved = evaluate(view.root(), path).map_err(&of)?;
    let dir = match view.root().open(path, OFlag::O_RDONLY | OFlag::O_DIRECTORY, 0) {
        Err(e) if e.kind() == io::ErrorKind::NotADirectory => {
            return Err(Error::Invalid("extraction point is not a directory".into()));
        }
        other => other.map_err(&of)?,
    };
    let mounts = c.config.mounts.iter().filter(|m| resolved.starts_with(&m.target));
    match mounts.max_by_key(|m| m.target.components().count()) {
        Some(m) if m.read_only => return Err(Error::Invalid("mounted volume is marked read-only".into())),
        None if c.config.read_only => {
            return Err(Error::Invalid("container rootfs is marked read-only".into()));
        }
        _ => {}
    }
    let owner = match how.own && !slot.plan.user.is_empty() {
        true => {
            let user = User::resolve(view.root(), &slot.plan.user, &[])
                .map_err(|e| Error::Invalid(e.to_string()))?;
            Some((user.uid.as_raw(), user.gid.as_raw()))
        }
        false => None,
    };
    let root = view.root().as_fd().try_clone_to_owned().map_err(&of)?.into();
    let within = Some(Within { root, at: resolved });
    Ok((dir, CopyRules { keep_kinds: how.keep_kinds, owner, ids: None, within }))
}

/// For `map_err`: a path that cannot be found, in Docker's words.
fn missing(container: &str, path: &str) -> impl Fn(io::Error) -> Error + Send + 'static {
    let (container, path) = (container.to_owned(), path.to_owned());
    move |e| match e.kind() {
        io::ErrorKind::NotFound => Error::NoSuchFile { path: path.clone(), container: container.clone() },
        io::ErrorKind::NotADirectory => Error::Invalid(format!("{path}: not a directory")),
        _ => Error::io("look up in the container", &path)(e),
    }
}

/// A path taken apart as Docker does: links in `dir` are followed, one that is `base` is not.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Asked {
    dir: PathBuf,
    base: std::ffi::OsString,
}

impl Asked {
    fn read(path: &str) -> Self {
        let mut clean = PathBuf::from("/");
        for part in Path::new(path).components() {
            match part {
                Component::Normal(name) => clean.push(name),
                Component::ParentDir => drop(clean.pop()),
                _ => {}
            }
        }
        // What ends in a slash means what a link there leads to.
        let whole = clean.parent().is_none();
        if path.ends_with("/.") || path == "." {
            return Self { dir: clean, base: ".".into() };
        }
        if whole || path.ends_with('/') {
            return Self { dir: clean, base: "".into() };
        }
        let base = clean.file_name().unwrap_or_default().to_owned();
        clean.pop();
        Self { dir: clean, base }
    }

    fn whole(&self) -> PathBuf {
        match self.base.as_bytes() {
            b"" | b"." => self.dir.clone(),
            _ => self.dir.join(&self.base),
        }
    }

    /// What Go's `filepath.Base` makes of it.
    fn shown(&self) -> String {
        let name = match self.base.is_empty() {
            true => self.dir.file_name().unwrap_or(OsStr::new("/")),
            false => &self.base,
        };
        name.to_string_lossy().into_owned()
    }

    /// What it is, and the directory it is in (or that it is).
    fn find(&self, root: &Root) -> io::Result<(PathStat, OwnedFd)> {
        let dir = root.open(&self.dir, OFlag::O_RDONLY | OFlag::O_DIRECTORY, 0)?;
        // What the kernel makes up as it is read is nothing to copy, as with Docker: a size says nothing there.
        if !matches!(self.base.as_bytes(), b"" | b".") && is_kernels(&dir)? {
            return Err(Errno::ENOENT.into());
        }
        let meta: FileStat = match self.base.as_bytes() {
            b"" | b"." => fstat(&dir)?,
            _ => fstatat(&dir, self.base.as_os_str(), AtFlags::AT_SYMLINK_NOFOLLOW)?,
        };
        let link = SFlag::from_bits_truncate(meta.st_mode) & SFlag::S_IFMT == SFlag::S_IFLNK;
        let target = if link { evaluate(root, &self.whole())? } else { PathBuf::new() };
        let stat = PathStat {
            name: self.shown(),
            size: u64::try_from(meta.st_size).unwrap_or(0),
            mode: meta.st_mode,
            mtime_ns: meta.st_mtime.saturating_mul(1_000_000_000).saturating_add(meta.st_mtime_nsec),
            link_target: target.to_string_lossy().into_owned(),
        };
        Ok((stat, dir))
    }
}

/// Where a path leads in the end. What is not there leads to itself.
pub(crate) fn evaluate(root: &Root, path: &Path) -> io::Result<PathBuf> {
    evaluate_by(path, |at| {
        let fd = root.open(at, OFlag::O_PATH | OFlag::O_NOFOLLOW, 0).ok()?;
        nix::fcntl::readlinkat(&fd, "").ok()
    })
}

/// The same, where `link` tells where the link at a path leads, if there is one.
pub(crate) fn evaluate_by(
    path: &Path,
    link: impl Fn(&Path) -> Option<std::ffi::OsString>,
) -> io::Result<PathBuf> {
    let mut left: Vec<std::ffi::OsString> = path.iter().rev().map(OsStr::to_owned).collect();
    let (mut at, mut links) = (PathBuf::from("/"), 0);
    while let Some(part) = left.pop() {
        match part.as_bytes() {
            b"/" => at = PathBuf::from("/"),
            b"." => {}
            b".." => drop(at.pop()),
            _ => {
                at.push(&part);
                if let Some(link) = link(&at) {
                    links += 1;
                    if links > 40 {
                        return Err(io::Error::from_raw_os_error(libc::ELOOP));
                    }
                    at.pop();
                    left.extend(Path::new(&link).iter().rev().map(OsStr::to_owned));
                }
            }
        }
    }
    Ok(at)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_are_taken_apart_and_named_as_go_does() {
        for (path, dir, base, shown) in [
            ("/", "/", "", "/"),
            ("", "/", "", "/"),
            ("etc/passwd", "/etc", "passwd", "passwd"),
            ("/etc/", "/etc", "", "etc"),
            ("/etc/.", "/etc", ".", "."),
            ("/../a/../b", "/", "b", "b"),
            (".", "/", ".", "."),
        ] {
            let asked = Asked::read(path);
            assert_eq!(
                (asked.dir.as_path(), asked.base.as_os_str()),
                (Path::new(dir), OsStr::new(base)),
                "{path}"
            );
            assert_eq!(asked.shown(), shown, "{path}");
        }
    }

    #[test]
    fn links_are_followed_inside_the_root_only() {
        let dir = tempfile::tempdir().expect("temporary directory");
        std::fs::create_dir_all(dir.path().join("a/b")).expect("makes");
        for (at, to) in [("up", "../../../../a"), ("abs", "/a/b"), ("loop", "loop"), ("a/gone", "/no/where")]
        {
            std::os::unix::fs::symlink(to, dir.path().join(at)).expect("links");
        }
        let root = Root::at(dir.path()).expect("opens");
        for (path, wanted) in
            [("/up/b", "/a/b"), ("/abs", "/a/b"), ("/abs/../x", "/a/x"), ("/a/gone/x", "/no/where/x")]
        {
            assert_eq!(evaluate(&root, Path::new(path)).expect(path), Path::new(wanted));
        }
        assert!(evaluate(&root, Path::new("/loop")).is_err());
    }
}
