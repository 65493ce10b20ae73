//! Unpacks one layer into a directory that becomes an overlay lower.
//!
//! Every path is walked from the layer's root by openat2(RESOLVE_BENEATH): `..`, absolute symlinks and
//! whatever else would leave the root is refused by name, whoever may be changing the tree meanwhile. In a container's
//! files, which are no layer, a symlink that leaves the place of the copy is followed as the container itself would
//! (RESOLVE_IN_ROOT).
//! Whiteouts become what overlayfs expects: 0:0 character devices and `trusted.overlay.opaque`.

use std::collections::HashSet;
use std::ffi::OsStr;
use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::fcntl::{AtFlags, OFlag, OpenHow, ResolveFlag, openat2};
use nix::sys::stat::{Mode, SFlag, UtimensatFlags, fchmod, futimens, makedev, mkdirat, mknodat, utimensat};
use nix::sys::time::TimeSpec;
use nix::unistd::{Gid, Uid, UnlinkatFlags, fchownat, linkat, symlinkat, unlinkat};

use super::compression::decoder;
use super::layer::Limits;
use super::tar::{Entry, Kind, TarReader};
use crate::error::Error;
use crate::runtime::FsRoot;
use crate::runtime::resolve::{Root, vouched};
use crate::userns::IdMaps;

const WHITEOUT: &[u8] = b".wh.";
const OPAQUE: &[u8] = b".wh..wh..opq";

/// Unpacks everything in `archive` below `root`; returns the bytes written.
pub(super) fn extract<R: Read>(
    archive: &mut TarReader<R>,
    root: &Path,
    limits: &Limits,
) -> Result<u64, Error> {
    let dir = File::open(root).map_err(Error::io("open", root))?;
    Extraction::new(dir.into(), None).run(archive, limits)
}

/// How files that are copied into a container meet what is there.
#[derive(Default)]
pub(crate) struct CopyRules {
    /// Neither does a directory replace something else, nor something else a directory.
    pub(crate) keep_kinds: bool,
    /// Who owns them, whatever the archive says.
    pub(crate) owner: Option<(u32, u32)>,
    /// Owners stand for the host's IDs of these.
    pub(crate) ids: Option<IdMaps>,
    /// Where symlinks on their way are followed to; none = no further than the directory they are copied to.
    pub(crate) within: Option<Within>,
}

/// A root that is not left, and where in it (without symlinks) the files are copied to.
pub(crate) struct Within {
    pub(crate) root: Root,
    pub(crate) at: PathBuf,
}

/// Unpacks an archive, plain or compressed with gzip, zstd, bzip2 or xz, into the directory `to`. Names that begin like
/// whiteouts are names.
pub(crate) fn copy_in(from: impl Read + Send, to: OwnedFd, rules: CopyRules) -> Result<(), Error> {
    let (_, reader) = decoder(from).map_err(|e| Error::Archive(format!("it cannot be read: {e}")))?;
    copy_plain(reader, to, rules)
}

/// The same of an archive that is not compressed.
pub(super) fn copy_plain(from: impl Read, to: OwnedFd, rules: CopyRules) -> Result<(), Error> {
    let owner = rules.ids.as_ref().map(FsRoot::of).transpose();
    let _owner = owner.map_err(|e| Error::Invalid(e.to_string()))?;
    let limits = Limits { bytes: u64::MAX, entries: u64::MAX, ..Limits::default() };
    Extraction::new(to, Some(rules)).run(&mut TarReader::new(from, false), &limits).map(drop)
}

/// Whether something is an archive that [`copy_in`] takes.
pub(crate) fn is_tar(from: impl Read + Send) -> bool {
    decoder(from).is_ok_and(|(_, reader)| matches!(TarReader::new(reader, false).next(), Ok(Some(_))))
}

struct Extraction {
    root: OwnedFd,
    /// Copied files; else a layer.
    copy: Option<CopyRules>,
    /// The directory of the last entry, as most entries follow a sibling.
    parent: Option<(Vec<u8>, OwnedFd)>,
    /// Paths this layer made, which its own whiteouts do not remove.
    made: HashSet<Vec<u8>>,
    directories: Vec<(Vec<u8>, (i64, i64))>,
    /// Content on its way.
    buffer: Vec<u8>,
    bytes: u64,
    entries: u64,
}

fn failed(what: &str, name: &str, e: Errno) -> Error {
    Error::Archive(format!("cannot {what} entry {name:?}: {}", io::Error::from(e)))
}

fn refused(name: &str, why: &str) -> Error {
    Error::Archive(format!("entry {name:?} is refused: {why}"))
}

/// The path without `.` and doubled slashes; one that goes up or is absolute after that is refused.
pub(super) fn clean(path: &[u8], name: &str) -> Result<Vec<u8>, Error> {
    let mut out = Vec::with_capacity(path.len());
    for part in path.split(|b| *b == b'/') {
        match part {
            b"" | b"." => {}
            b".." => return Err(refused(name, "it leaves the image by \"..\"")),
            p if p.contains(&0) => return Err(refused(name, "its name holds a NUL")),
            p => {
                if !out.is_empty() {
                    out.push(b'/');
                }
                out.extend_from_slice(p);
            }
        }
    }
    Ok(out)
}

/// The directory of a path, and the name in it.
pub(super) fn split(path: &[u8]) -> (&[u8], &[u8]) {
    match path.iter().rposition(|b| *b == b'/') {
        Some(i) => (&path[..i], &path[i + 1..]),
        None => (b"", path),
    }
}

impl Extraction {
    fn new(root: OwnedFd, copy: Option<CopyRules>) -> Self {
        Self {
            root,
            copy,
            parent: None,
            made: HashSet::new(),
            directories: Vec::new(),
            buffer: vec![0; 128 << 10],
            bytes: 0,
            entries: 0,
        }
    }

    /// Unpacks everything; returns the bytes written.
    fn run<R: Read>(&mut self, archive: &mut TarReader<R>, limits: &Limits) -> Result<u64, Error> {
        while let Some(entry) = archive.next()? {
            self.entry(&entry, archive, limits)?;
        }
        // Directory times last: making their entries changed them. Children before parents is of no matter.
        for (path, mtime) in std::mem::take(&mut self.directories) {
            if let Ok(fd) = self.open(&path, OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_NOFOLLOW) {
                let at = TimeSpec::new(mtime.0, mtime.1);
                futimens(&fd, &at, &at)
                    .map_err(|e| failed("set the time of", &String::from_utf8_lossy(&path), e))?;
            }
        }
        Ok(self.bytes)
    }

    fn open(&self, path: &[u8], flags: OFlag) -> Result<OwnedFd, Errno> {
        let path: &[u8] = if path.is_empty() { b"." } else { path };
        let how = OpenHow::new()
            .flags(flags | OFlag::O_CLOEXEC)
            .resolve(ResolveFlag::RESOLVE_BENEATH | ResolveFlag::RESOLVE_NO_MAGICLINKS);
        match (vouched(|| openat2(&self.root, path, how)), self.copy.as_ref().and_then(|c| c.within.as_ref()))
        {
            (Err(Errno::EXDEV), Some(within)) => {
                let whole = within.at.join(OsStr::from_bytes(path));
                within.root.open(&whole, flags, 0).map_err(|e| errno(&e))
            }
            (opened, _) => opened,
        }
    }

    /// The directory `path`, made (as root, 0755) where it is missing.
    fn directory(&mut self, path: &[u8], name: &str) -> Result<OwnedFd, Error> {
        match self.open(path, OFlag::O_RDONLY | OFlag::O_DIRECTORY) {
            Ok(fd) => Ok(fd),
            Err(Errno::ENOENT) if !path.is_empty() => {
                let (above, last) = split(path);
                let fd = self.directory(above, name)?;
                match mkdirat(&fd, last, Mode::from_bits_truncate(0o755)) {
                    Ok(()) | Err(Errno::EEXIST) => {}
                    Err(e) => return Err(failed("make the directory of", name, e)),
                }
                self.open(path, OFlag::O_RDONLY | OFlag::O_DIRECTORY).map_err(|e| escape(name, e))
            }
            Err(e) => Err(escape(name, e)),
        }
    }

    fn parent(&mut self, path: &[u8], name: &str) -> Result<OwnedFd, Error> {
        if let Some((p, fd)) = &self.parent
            && p == path
        {
            return fd.try_clone().map_err(|e| failed("open the directory of", name, errno(&e)));
        }
        let fd = self.directory(path, name)?;
        let copy = fd.try_clone().map_err(|e| failed("open the directory of", name, errno(&e)))?;
        self.parent = Some((path.to_vec(), copy));
        Ok(fd)
    }

    fn entry<R: Read>(
        &mut self,
        e: &Entry,
        archive: &mut TarReader<R>,
        limits: &Limits,
    ) -> Result<(), Error> {
        let mut given = e.clone();
        if let Some(rules) = &self.copy {
            (given.uid, given.gid) = rules.owner.unwrap_or((e.uid, e.gid));
            if let Some(ids) = &rules.ids {
                let of = ids.to_host(given.uid, given.gid);
                (given.uid, given.gid) = of.ok_or_else(|| {
                    refused(
                        &e.name(),
                        &format!("its owner {}:{} is none that the container has", given.uid, given.gid),
                    )
                })?;
            }
        }
        let e = &given;
        let name = e.name();
        self.entries += 1;
        if self.entries > limits.entries {
            return Err(Error::Archive(format!("it holds more than {} entries", limits.entries)));
        }
        if e.kind == Kind::File {
            self.bytes = self.bytes.saturating_add(e.size.max(archive.left()));
            if self.bytes > limits.bytes {
                return Err(refused(
                    &name,
                    &format!(
                        "it says that it is {} bytes, and a layer may unpack to {} at most",
                        e.size, limits.bytes
                    ),
                ));
            }
        }
        let path = clean(&e.path, &name)?;
        if path.is_empty() {
            return match e.kind {
                // Where files are copied to stays as it is.
                Kind::Directory if self.copy.is_some() => Ok(()),
                Kind::Directory => self.attributes_of_root(e, &name),
                _ => Err(refused(&name, "it has no name")),
            };
        }
        let (above, last) = split(&path);
        let dir = self.parent(above, &name)?;
        if self.copy.is_some() {
            return self.place(e, archive, &dir, last, &path);
        }
        if last == OPAQUE {
            return set_xattr(&dir, b"trusted.overlay.opaque", b"y", &name);
        }
        if last.starts_with(b".wh..wh.") {
            // What aufs kept for itself.
            return Ok(());
        }
        if let Some(hidden) = last.strip_prefix(WHITEOUT) {
            return self.whiteout(&dir, above, hidden, &name);
        }
        self.made.insert(path.clone());
        self.place(e, archive, &dir, last, &path)
    }

    /// Makes the entry as `last` of the directory.
    fn place<R: Read>(
        &mut self,
        e: &Entry,
        archive: &mut TarReader<R>,
        dir: &OwnedFd,
        last: &[u8],
        path: &[u8],
    ) -> Result<(), Error> {
        let name = e.name();
        if e.kind != Kind::File {
            self.make_way(dir, last, e.kind, &name)?;
        }
        let mode = Mode::from_bits_truncate(e.mode);
        let owner = || {
            fchownat(
                dir,
                last,
                Some(Uid::from_raw(e.uid)),
                Some(Gid::from_raw(e.gid)),
                AtFlags::AT_SYMLINK_NOFOLLOW,
            )
            .map_err(|err| failed("give an owner to", &name, err))
        };
        match e.kind {
            Kind::HardLink => return self.hard_link(e, dir, last, &name),
            Kind::Symlink => {
                symlinkat(e.link.as_slice(), dir, last).map_err(|err| failed("make symlink", &name, err))?;
                owner()?;
                let at = TimeSpec::new(e.mtime.0, e.mtime.1);
                return utimensat(dir, last, &at, &at, UtimensatFlags::NoFollowSymlink)
                    .map_err(|err| failed("set the time of", &name, err));
            }
            Kind::Directory => {
                match mkdirat(dir, last, Mode::from_bits_truncate(0o700)) {
                    Ok(()) | Err(Errno::EEXIST) => {}
                    Err(err) => return Err(failed("make directory", &name, err)),
                }
                self.directories.push((path.to_vec(), e.mtime));
            }
            Kind::File => {
                let flags = OFlag::O_WRONLY | OFlag::O_CREAT | OFlag::O_EXCL;
                // Mostly there is nothing in the way.
                let fd = match open_in(dir, last, flags) {
                    Err(Errno::EEXIST) => {
                        self.make_way(dir, last, e.kind, &name)?;
                        open_in(dir, last, flags)
                    }
                    other => other,
                };
                let file = File::from(fd.map_err(|err| failed("make", &name, err))?);
                write_data(&file, e, archive, &name, &mut self.buffer)?;
                return attributes(&file.into(), e, mode, &name);
            }
            Kind::CharDevice | Kind::BlockDevice | Kind::Fifo => {
                let kind = match e.kind {
                    Kind::CharDevice => SFlag::S_IFCHR,
                    Kind::BlockDevice => SFlag::S_IFBLK,
                    _ => SFlag::S_IFIFO,
                };
                mknodat(dir, last, kind, mode, makedev(e.major.into(), e.minor.into()))
                    .map_err(|err| failed("make device", &name, err))?;
                owner()?;
                // A path, not a descriptor: opening a device has effects.
                nix::sys::stat::fchmodat(dir, last, mode, nix::sys::stat::FchmodatFlags::FollowSymlink)
                    .map_err(|err| failed("set the mode of", &name, err))?;
                let at = TimeSpec::new(e.mtime.0, e.mtime.1);
                return utimensat(dir, last, &at, &at, UtimensatFlags::NoFollowSymlink)
                    .map_err(|err| failed("set the time of", &name, err));
            }
        }
        let fd = open_in(dir, last, OFlag::O_RDONLY | OFlag::O_DIRECTORY)
            .map_err(|err| failed("open", &name, err))?;
        attributes(&fd, e, mode, &name)
    }

    fn attributes_of_root(&mut self, e: &Entry, name: &str) -> Result<(), Error> {
        self.directories.push((Vec::new(), e.mtime));
        let fd =
            self.open(b"", OFlag::O_RDONLY | OFlag::O_DIRECTORY).map_err(|err| failed("open", name, err))?;
        attributes(&fd, e, Mode::from_bits_truncate(e.mode), name)
    }

    fn whiteout(&mut self, dir: &OwnedFd, above: &[u8], hidden: &[u8], name: &str) -> Result<(), Error> {
        if hidden.is_empty() || hidden == b"." || hidden == b".." {
            return Err(refused(name, "it hides nothing that can be named"));
        }
        let target = if above.is_empty() { hidden.to_vec() } else { [above, b"/", hidden].concat() };
        if self.made.contains(&target) {
            return Ok(());
        }
        match mknodat(dir, hidden, SFlag::S_IFCHR, Mode::empty(), makedev(0, 0)) {
            Ok(()) | Err(Errno::EEXIST) => Ok(()),
            Err(e) => Err(failed("make whiteout", name, e)),
        }
    }

    /// A later entry of the same name replaces an earlier one, but a directory stays one.
    fn make_way(&mut self, dir: &OwnedFd, last: &[u8], kind: Kind, name: &str) -> Result<(), Error> {
        use nix::sys::stat::fstatat;
        let there = match fstatat(dir, last, AtFlags::AT_SYMLINK_NOFOLLOW) {
            Err(Errno::ENOENT) => return Ok(()),
            Err(e) => return Err(failed("look at", name, e)),
            Ok(s) => SFlag::from_bits_truncate(s.st_mode) & SFlag::S_IFMT,
        };
        let (old, new) = (there == SFlag::S_IFDIR, kind == Kind::Directory);
        if let Some(rules) = &self.copy
            && old != new
        {
            let words = |d: bool| if d { "directory" } else { "non-directory" };
            if rules.keep_kinds {
                return Err(Error::Invalid(format!(
                    "cannot overwrite {} \"/{name}\" with {} \"/{name}\"",
                    words(old),
                    words(new)
                )));
            }
            if old {
                self.parent = None;
                return empty_away(dir, last).map_err(|e| failed("replace", name, e));
            }
        }
        if there != SFlag::S_IFDIR {
            return unlinkat(dir, last, UnlinkatFlags::NoRemoveDir).map_err(|e| failed("replace", name, e));
        }
        if kind == Kind::Directory {
            return Ok(());
        }
        self.parent = None;
        unlinkat(dir, last, UnlinkatFlags::RemoveDir).map_err(|e| match e {
            Errno::ENOTEMPTY => refused(name, "it would replace a directory that an earlier entry filled"),
            e => failed("replace", name, e),
        })
    }

    fn hard_link(&mut self, e: &Entry, dir: &OwnedFd, last: &[u8], name: &str) -> Result<(), Error> {
        let shown = String::from_utf8_lossy(&e.link).into_owned();
        let target = clean(&e.link, name)?;
        // The link is made from the descriptor that was resolved beneath the root.
        let fd = self.open(&target, OFlag::O_PATH | OFlag::O_NOFOLLOW).map_err(|err| match err {
            Errno::ENOENT => {
                refused(name, &format!("it is a hard link to {shown:?}, which is not in this layer"))
            }
            Errno::EXDEV | Errno::ELOOP => {
                refused(name, &format!("it is a hard link to {shown:?}, which leaves the image"))
            }
            err => failed("link", name, err),
        })?;
        let proc_path = format!("/proc/self/fd/{}", fd.as_raw_fd());
        linkat(nix::fcntl::AT_FDCWD, proc_path.as_str(), dir, last, AtFlags::AT_SYMLINK_FOLLOW)
            .map_err(|err| failed("link", name, err))
    }
}

/// Removes a directory and all below it, never through a symlink.
pub(crate) fn empty_away(dir: &OwnedFd, name: &[u8]) -> Result<(), Errno> {
    let below = open_in(dir, name, OFlag::O_RDONLY | OFlag::O_DIRECTORY)?;
    let mut open = nix::dir::Dir::from_fd(below.try_clone().map_err(|e| errno(&e))?)?;
    let entries: Vec<_> = open.iter().collect::<Result<_, _>>()?;
    for entry in entries {
        let entry = entry.file_name().to_bytes();
        if matches!(entry, b"." | b"..") {
            continue;
        }
        match unlinkat(&below, entry, UnlinkatFlags::NoRemoveDir) {
            Err(Errno::EISDIR) => empty_away(&below, entry)?,
            Err(Errno::ENOENT) => {}
            other => other?,
        }
    }
    unlinkat(dir, name, UnlinkatFlags::RemoveDir)
}

fn errno(e: &io::Error) -> Errno {
    Errno::from_raw(e.raw_os_error().unwrap_or(0))
}

fn escape(name: &str, e: Errno) -> Error {
    match e {
        Errno::EXDEV => refused(name, "its path leaves the image through a symlink or \"..\""),
        Errno::ELOOP => refused(name, "its path goes through a loop of symlinks"),
        Errno::ENOTDIR => refused(name, "its path goes through something that is not a directory"),
        Errno::ENAMETOOLONG => refused(name, "its path is too long"),
        e => failed("open the directory of", name, e),
    }
}

/// Opens an entry of `dir` itself, never through a symlink.
fn open_in(dir: &OwnedFd, name: &[u8], flags: OFlag) -> Result<OwnedFd, Errno> {
    nix::fcntl::openat(
        dir,
        name,
        flags | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC,
        Mode::from_bits_truncate(0o600),
    )
}

fn write_data<R: Read>(
    file: &File,
    e: &Entry,
    archive: &mut TarReader<R>,
    name: &str,
    buffer: &mut [u8],
) -> Result<(), Error> {
    let write_failed = |err: io::Error| Error::Archive(format!("cannot write entry {name:?}: {err}"));
    let whole = [(0, e.size)];
    for (offset, len) in e.extents.as_deref().unwrap_or(&whole) {
        let (mut at, mut left) = (*offset, *len);
        while left > 0 {
            let want = usize::try_from(left).unwrap_or(usize::MAX).min(buffer.len());
            let n = archive.read(&mut buffer[..want]).map_err(|err| archive.unreadable(&err))?;
            if n == 0 {
                return Err(archive.cut(left));
            }
            if e.extents.is_none() {
                (&*file).write_all(&buffer[..n]).map_err(write_failed)?;
            } else {
                file.write_all_at(&buffer[..n], at).map_err(write_failed)?;
            }
            at += n as u64;
            left -= n as u64;
        }
    }
    if e.extents.is_some() {
        file.set_len(e.size).map_err(write_failed)?;
    }
    Ok(())
}

/// Owner, then mode (a change of owner clears set-uid), then extended attributes, then time.
fn attributes(fd: &OwnedFd, e: &Entry, mode: Mode, name: &str) -> Result<(), Error> {
    nix::unistd::fchown(fd, Some(Uid::from_raw(e.uid)), Some(Gid::from_raw(e.gid)))
        .map_err(|err| failed("give an owner to", name, err))?;
    fchmod(fd, mode).map_err(|err| failed("set the mode of", name, err))?;
    for (key, value) in &e.xattrs {
        if key.starts_with(b"trusted.overlay.") || key.starts_with(b"user.overlay.") {
            return Err(refused(name, "it carries an attribute that overlayfs keeps for itself"));
        }
        set_xattr(fd, key, value, name)?;
    }
    let at = TimeSpec::new(e.mtime.0, e.mtime.1);
    futimens(fd, &at, &at).map_err(|err| failed("set the time of", name, err))
}

fn set_xattr(fd: &impl AsFd, key: &[u8], value: &[u8], name: &str) -> Result<(), Error> {
    let text = String::from_utf8_lossy(key).into_owned();
    match fsetxattr(fd.as_fd(), key, value) {
        Ok(()) => Ok(()),
        Err(Errno::EOPNOTSUPP) => {
            tracing::warn!(
                entry = name,
                attribute = text,
                "this file system does not take the attribute; it is left out"
            );
            Ok(())
        }
        Err(e) => Err(Error::Archive(format!(
            "cannot set attribute {text} of entry {name:?}: {}",
            io::Error::from(e)
        ))),
    }
}

/// fsetxattr(2), which nix does not wrap.
#[allow(unsafe_code)]
fn fsetxattr(fd: BorrowedFd<'_>, key: &[u8], value: &[u8]) -> Result<(), Errno> {
    let key = std::ffi::CString::new(key).map_err(|_| Errno::EINVAL)?;
    // SAFETY: the descriptor is open for the call, the key is a C string, and the value's length is its own.
    let rc = unsafe { libc::fsetxattr(fd.as_raw_fd(), key.as_ptr(), value.as_ptr().cast(), value.len(), 0) };
    Errno::result(rc).map(drop)
}
