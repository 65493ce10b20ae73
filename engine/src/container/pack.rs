//! Files of a container as a tar archive: `cp`, `export`, and the layer that `commit` makes.

mod tree;

use std::collections::HashMap;
use std::ffi::OsStr;
use std::fs::File;
use std::io::{self, BufWriter, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use nix::dir::Dir;
use nix::errno::Errno;
use nix::fcntl::{AtFlags, OFlag, openat};
use nix::sys::stat::{FileStat, Mode, SFlag, UtimensatFlags, fstat, fstatat, utimensat};
use nix::sys::time::TimeSpec;
use nix::unistd::{Gid, Uid, UnlinkatFlags, unlinkat};
use tar::{Builder, EntryType, Header};

use crate::image::extract::empty_away;
use crate::permissions::Permissions;
use crate::userns::IdMaps;
use crate::xattr;

/// Values a ustar header has room for.
const MOST_ID: u64 = 0o7_777_777;
/// The attribute by which overlayfs hides what is below a directory.
const OPAQUE: &[u8] = b"trusted.overlay.opaque";
const NEVER_FOLLOW: OFlag = OFlag::O_NOFOLLOW.union(OFlag::O_CLOEXEC);

/// A tar archive being written.
pub(crate) struct Pack<'a, W: Write> {
    out: Builder<W>,
    /// Name of the first entry of each file with several names.
    links: HashMap<(u64, u64), Vec<u8>>,
    /// Whiteouts of overlayfs become those of image layers.
    layer: bool,
    /// Owners are the host's IDs of these.
    ids: Option<IdMaps>,
    /// Paths below the root that are left out.
    skip: &'static [&'static str],
    /// What entries say of themselves.
    told: Told,
    /// Paths that are left out as well.
    leave_out: Option<&'a dyn Fn(&[u8], bool) -> bool>,
    /// The directory is to be the layer itself: what the archive has no place for goes from it too.
    tidy: bool,
    /// Is told the path and bytes of each file before it is written.
    announce: Option<&'a dyn Fn(&[u8], u64)>,
    /// How deep the walk is.
    depth: usize,
}

/// What entries say of themselves, whatever their files say.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Told {
    /// User and group.
    pub(crate) owner: Option<(u32, u32)>,
    /// Permissions of what is no link.
    pub(crate) mode: Option<Permissions>,
    /// No file is younger, in seconds since the Unix epoch.
    pub(crate) latest: Option<i64>,
}

/// What a header says of an entry.
#[derive(Clone, Copy, Debug)]
struct Meta {
    /// Kind and permissions, as in stat(2).
    mode: u32,
    uid: u32,
    gid: u32,
    mtime: i64,
    size: u64,
    device: u64,
}

impl From<&FileStat> for Meta {
    fn from(stat: &FileStat) -> Self {
        Self {
            mode: stat.st_mode,
            uid: stat.st_uid,
            gid: stat.st_gid,
            mtime: stat.st_mtime,
            size: u64::try_from(stat.st_size).unwrap_or(0),
            device: stat.st_rdev,
        }
    }
}

/// Where an entry is from.
#[derive(Clone, Copy)]
enum Source<'a> {
    /// From nothing that has extended attributes.
    None,
    /// An open file or directory.
    File(&'a OwnedFd),
    /// A file elsewhere that has these.
    Known(&'a [(Vec<u8>, Vec<u8>)]),
}

/// Deeper than any path of a file system can be walked by name (PATH_MAX of one-letter names).
pub(crate) const DEEPEST: usize = 2048;

impl<'a, W: Write> Pack<'a, W> {
    /// Files as they are, but for owners that stand for a container's.
    pub(crate) fn files(out: W, ids: Option<IdMaps>) -> Self {
        Self {
            out: Builder::new(out),
            links: HashMap::new(),
            layer: false,
            ids,
            skip: &[],
            told: Told::default(),
            leave_out: None,
            tidy: false,
            announce: None,
            depth: 0,
        }
    }

    /// The upper directory of an overlay as a layer of an image, without `skip`.
    pub(crate) fn layer(out: W, skip: &'static [&'static str]) -> Self {
        Self { layer: true, skip, ..Self::files(out, None) }
    }

    /// Entries say this of themselves.
    pub(crate) fn told(self, told: Told) -> Self {
        Self { told, ..self }
    }

    /// Leaves out the paths that `leave_out` says so of (and whether they are directories).
    pub(crate) fn without(self, leave_out: &'a dyn Fn(&[u8], bool) -> bool) -> Self {
        Self { leave_out: Some(leave_out), ..self }
    }

    /// Makes the directory what the archive unpacks to, and tells `announce` of each file before it is written.
    pub(crate) fn tidying(self, announce: &'a dyn Fn(&[u8], u64)) -> Self {
        Self { tidy: true, announce: Some(announce), ..self }
    }

    /// Adds what is in the directory, each entry below the name `prefix`. Without one, names are relative; with
    /// the prefix of the root, which is none but a slash, they begin with one.
    pub(crate) fn children(&mut self, dir: &OwnedFd, prefix: Option<&[u8]>) -> io::Result<()> {
        if self.depth > DEEPEST {
            return Err(io::Error::other("its directories are nested too deep"));
        }
        self.depth += 1;
        for name in names(dir)? {
            let path = match prefix {
                None => name.as_bytes().to_vec(),
                Some(prefix) => [prefix, b"/", name.as_bytes()].concat(),
            };
            if !self.skip.iter().any(|s| s.as_bytes() == path) {
                self.entry(dir, &name, &path)?;
            } else if self.tidy {
                remove(dir, &name)?;
            }
        }
        self.depth -= 1;
        Ok(())
    }

    /// Adds one entry of a directory, with all below it, as `path`.
    pub(crate) fn entry(&mut self, dir: &OwnedFd, name: &OsStr, path: &[u8]) -> io::Result<()> {
        let name = Path::new(name);
        let meta = match fstatat(dir, name, AtFlags::AT_SYMLINK_NOFOLLOW) {
            // It was removed while we walked.
            Err(Errno::ENOENT) => return Ok(()),
            other => other?,
        };
        let kind = SFlag::from_bits_truncate(meta.st_mode) & SFlag::S_IFMT;
        if self.leave_out.is_some_and(|out| out(path, kind == SFlag::S_IFDIR)) {
            return Ok(());
        }
        if kind == SFlag::S_IFDIR {
            let flags = OFlag::O_RDONLY | OFlag::O_DIRECTORY | NEVER_FOLLOW;
            let below = match openat(dir, name, flags, Mode::empty()) {
                Err(Errno::ENOENT) => return Ok(()),
                other => other?,
            };
            self.directory(&below, path)?;
            if !is_kernels(&below)? {
                self.children(&below, Some(path))?;
            }
            return self.limit_time(dir, name, &meta);
        }
        if self.layer && kind == SFlag::S_IFCHR && meta.st_rdev == 0 {
            return self.whiteout(path, &meta);
        }
        if kind != SFlag::S_IFSOCK {
            self.limit_time(dir, name, &meta)?;
        }
        if meta.st_nlink > 1 && kind != SFlag::S_IFSOCK {
            if let Some(first) = self.links.get(&(meta.st_dev, meta.st_ino)) {
                let first = first.clone();
                return self.put(EntryType::Link, &(&meta).into(), path, &first, Source::None, io::empty());
            }
            self.links.insert((meta.st_dev, meta.st_ino), path.to_vec());
        }
        match kind {
            SFlag::S_IFREG => {
                let flags = OFlag::O_RDONLY | OFlag::O_NONBLOCK | NEVER_FOLLOW;
                let file = match openat(dir, name, flags, Mode::empty()) {
                    Err(Errno::ENOENT) => return Ok(()),
                    other => other?,
                };
                // As long as it said: one that grows is cut, one that shrinks is filled up with zeros.
                let data = Exact { file: File::from(file.try_clone()?), left: meta.st_size as u64 };
                self.put(EntryType::Regular, &(&meta).into(), path, b"", Source::File(&file), data)
            }
            SFlag::S_IFLNK => {
                let link = match nix::fcntl::readlinkat(dir, name) {
                    Err(Errno::ENOENT) => return Ok(()),
                    other => other?,
                };
                self.put(
                    EntryType::Symlink,
                    &(&meta).into(),
                    path,
                    link.as_bytes(),
                    Source::None,
                    io::empty(),
                )
            }
            SFlag::S_IFCHR => {
                self.put(EntryType::Char, &(&meta).into(), path, b"", Source::None, io::empty())
            }
            SFlag::S_IFBLK => {
                self.put(EntryType::Block, &(&meta).into(), path, b"", Source::None, io::empty())
            }
            SFlag::S_IFIFO => {
                self.put(EntryType::Fifo, &(&meta).into(), path, b"", Source::None, io::empty())
            }
            // Sockets have no place in a tar.
            _ if self.tidy => remove(dir, name.as_os_str()),
            _ => Ok(()),
        }
    }

    /// Gives an entry of a directory that is tidied the time that the archive says.
    fn limit_time(&self, dir: &OwnedFd, name: &Path, meta: &FileStat) -> io::Result<()> {
        match self.told.latest {
            Some(latest) if self.tidy && meta.st_mtime > latest => {
                let at = TimeSpec::new(latest, 0);
                Ok(utimensat(dir, name, &at, &at, UtimensatFlags::NoFollowSymlink)?)
            }
            _ => Ok(()),
        }
    }

    /// Adds a directory itself.
    pub(crate) fn directory(&mut self, dir: &OwnedFd, path: &[u8]) -> io::Result<()> {
        let meta = fstat(dir)?;
        let name = [path, b"/"].concat();
        self.put(EntryType::Directory, &(&meta).into(), &name, b"", Source::File(dir), io::empty())?;
        let opaque = self.layer && xattr::all(dir.as_fd())?.iter().any(|(k, _)| k == OPAQUE);
        if opaque { self.empty(&[path, b"/.wh..wh..opq"].concat(), &meta) } else { Ok(()) }
    }

    /// Hides something of the layers below.
    pub(crate) fn hide(&mut self, what: &Hidden) -> io::Result<()> {
        let path = what.path().as_os_str().as_bytes();
        let name = match what {
            Hidden::Content(_) => [path, b"/.wh..wh..opq"].concat(),
            Hidden::Entry(_) => {
                let cut = path.iter().rposition(|b| *b == b'/').map_or(0, |i| i + 1);
                [&path[..cut], b".wh.", &path[cut..]].concat()
            }
        };
        let mut header = Header::new_gnu();
        header.set_entry_type(EntryType::Regular);
        header.set_mode(0o600);
        self.out.append_data(&mut header, Path::new(OsStr::from_bytes(&name)), io::empty())
    }

    fn whiteout(&mut self, path: &[u8], meta: &FileStat) -> io::Result<()> {
        let cut = path.iter().rposition(|b| *b == b'/').map_or(0, |i| i + 1);
        self.empty(&[&path[..cut], b".wh.", &path[cut..]].concat(), meta)
    }

    fn empty(&mut self, path: &[u8], meta: &FileStat) -> io::Result<()> {
        let meta = Meta { mode: 0o600, size: 0, ..meta.into() };
        self.put(EntryType::Regular, &meta, path, b"", Source::None, io::empty())
    }

    /// Writes one entry. What its header has no room for (long names, large IDs, extended attributes) goes before
    /// it as pax records.
    fn put(
        &mut self,
        kind: EntryType,
        meta: &Meta,
        path: &[u8],
        link: &[u8],
        source: Source<'_>,
        data: impl io::Read,
    ) -> io::Result<()> {
        let mut header = Header::new_gnu();
        header.set_entry_type(kind);
        let mode = match self.told.mode.as_ref().filter(|_| kind != EntryType::Symlink) {
            Some(told) => told.apply(meta.mode, kind == EntryType::Directory),
            None => meta.mode,
        };
        header.set_mode(mode & 0o7777);
        let mtime = self.told.latest.map_or(meta.mtime, |latest| meta.mtime.min(latest));
        header.set_mtime(u64::try_from(mtime).unwrap_or(0));
        header.set_size(if kind == EntryType::Regular { meta.size } else { 0 });
        if matches!(kind, EntryType::Char | EntryType::Block) {
            header.set_device_major(nix::sys::stat::major(meta.device) as u32)?;
            header.set_device_minor(nix::sys::stat::minor(meta.device) as u32)?;
        }
        let mut records: Vec<(String, Vec<u8>)> = Vec::new();
        let owner = match &self.ids {
            None => (meta.uid, meta.gid),
            Some(ids) => ids.to_container(meta.uid, meta.gid),
        };
        let owner = self.told.owner.unwrap_or(owner);
        let (uid, gid) = (u64::from(owner.0), u64::from(owner.1));
        header.set_uid(uid.min(MOST_ID));
        header.set_gid(gid.min(MOST_ID));
        for (key, id) in [("uid", uid), ("gid", gid)] {
            if id > MOST_ID {
                records.push((key.into(), id.to_string().into_bytes()));
            }
        }
        let old = header.as_old_mut();
        for (key, text, field) in [("path", path, &mut old.name), ("linkpath", link, &mut old.linkname)] {
            let fits = text.len().min(field.len());
            field[..fits].copy_from_slice(&text[..fits]);
            if fits < text.len() {
                records.push((key.into(), text.to_vec()));
            }
        }
        let file = match source {
            Source::File(file) => Some(file),
            _ => None,
        };
        let attributes = match source {
            Source::None => Vec::new(),
            Source::File(file) => xattr::all(file.as_fd())?,
            Source::Known(attributes) => attributes.to_vec(),
        };
        for (name, value) in attributes {
            // Neither what overlayfs keeps for itself nor what no other host could take.
            let kept = [&b"security.capability"[..], b"user."];
            if kept.iter().any(|k| name.starts_with(k)) && !name.starts_with(b"user.overlay.") {
                records.push((format!("SCHILY.xattr.{}", String::from_utf8_lossy(&name)), value));
            } else if let Some(file) = file.filter(|_| self.tidy && name != OPAQUE) {
                // Labels of security modules stay: the kernel gives each file one.
                xattr::remove(file.as_fd(), &name)?;
            }
        }
        if !records.is_empty() {
            self.out.append_pax_extensions(records.iter().map(|(k, v)| (k.as_str(), v.as_slice())))?;
        }
        header.set_cksum();
        if let Some(announce) = self.announce.filter(|_| kind == EntryType::Regular && file.is_some()) {
            announce(path, meta.size);
        }
        self.out.append(&header, data)
    }

    /// Adds a file that is nowhere yet.
    pub(crate) fn written(&mut self, path: &[u8], content: &[u8]) -> io::Result<()> {
        let mut header = Header::new_gnu();
        header.set_entry_type(EntryType::Regular);
        header.set_mode(self.told.mode.as_ref().map_or(0o644, |told| told.apply(0o644, false)));
        let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
        let now = now.map_or(0, |t| i64::try_from(t.as_secs()).unwrap_or(0));
        let mtime = self.told.latest.map_or(now, |latest| now.min(latest));
        header.set_mtime(u64::try_from(mtime).unwrap_or(0));
        let (uid, gid) = self.told.owner.unwrap_or((0, 0));
        header.set_uid(uid.into());
        header.set_gid(gid.into());
        header.set_size(content.len() as u64);
        let path = Path::new(OsStr::from_bytes(path));
        self.out.append_data(&mut header, path, content)
    }

    /// What it writes to, as it is.
    pub(crate) fn get_mut(&mut self) -> &mut W {
        self.out.get_mut()
    }

    /// Writes the end mark.
    pub(crate) fn finish(mut self) -> io::Result<()> {
        self.out.finish()
    }
}

/// The upper directory of an overlay as a layer of an image, without `skip`. Blocks.
pub(crate) fn write_layer(
    upper: &Path,
    file: &mut File,
    skip: &'static [&'static str],
    latest: Option<i64>,
) -> io::Result<()> {
    let top = File::open(upper)?;
    let mut out = BufWriter::new(file);
    let mut pack = Pack::layer(&mut out, skip).told(Told { latest, ..Told::default() });
    pack.children(&top.into(), None)?;
    pack.finish()?;
    // Dropped, it would keep quiet about what it cannot write.
    out.flush()
}

/// The same of a directory that becomes the layer itself: it is what the archive unpacks to afterwards. Blocks.
pub(crate) fn write_and_tidy(
    upper: &Path,
    out: &mut dyn Write,
    announce: &dyn Fn(&[u8], u64),
    skip: &'static [&'static str],
    latest: Option<i64>,
) -> io::Result<()> {
    let top = OwnedFd::from(File::open(upper)?);
    let pack = Pack::layer(out, skip).told(Told { latest, ..Told::default() });
    let mut pack = pack.tidying(announce);
    pack.children(&top, None)?;
    pack.finish()?;
    // Of the topmost directory no layer tells anything.
    nix::unistd::fchown(&top, Some(Uid::from_raw(0)), Some(Gid::from_raw(0)))?;
    nix::sys::stat::fchmod(&top, Mode::from_bits_truncate(0o755))?;
    for (name, _) in xattr::all(top.as_fd())? {
        xattr::remove(top.as_fd(), &name)?;
    }
    Ok(())
}

/// Something of the layers below that a layer hides.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Hidden {
    /// This path.
    Entry(std::path::PathBuf),
    /// All that is in the directory.
    Content(std::path::PathBuf),
}

impl Hidden {
    /// Which path, relative to the root.
    pub(crate) fn path(&self) -> &Path {
        match self {
            Self::Entry(path) | Self::Content(path) => path,
        }
    }

    /// What is in it alone.
    pub(crate) fn as_content(&self) -> Self {
        Self::Content(self.path().to_path_buf())
    }
}

/// What the directory of a layer hides of those below.
pub(crate) fn hidden(dir: &OwnedFd, found: &mut std::collections::BTreeSet<Hidden>) -> io::Result<()> {
    fn walk(
        dir: &OwnedFd,
        at: &Path,
        depth: usize,
        found: &mut std::collections::BTreeSet<Hidden>,
    ) -> io::Result<()> {
        if depth > DEEPEST {
            return Err(io::Error::other("its directories are nested too deep"));
        }
        for name in names(dir)? {
            let path = at.join(&name);
            let meta = fstatat(dir, name.as_os_str(), AtFlags::AT_SYMLINK_NOFOLLOW)?;
            match SFlag::from_bits_truncate(meta.st_mode) & SFlag::S_IFMT {
                SFlag::S_IFCHR if meta.st_rdev == 0 => drop(found.insert(Hidden::Entry(path))),
                SFlag::S_IFDIR => {
                    let flags = OFlag::O_RDONLY | OFlag::O_DIRECTORY | NEVER_FOLLOW;
                    let below = openat(dir, name.as_os_str(), flags, Mode::empty())?;
                    if xattr::all(below.as_fd())?.iter().any(|(k, _)| k == OPAQUE) {
                        found.insert(Hidden::Content(path.clone()));
                    }
                    walk(&below, &path, depth + 1, found)?;
                }
                _ => {}
            }
        }
        Ok(())
    }
    walk(dir, Path::new(""), 0, found)
}

/// Removes an entry of a directory with all below it, and never what a link leads to.
fn remove(dir: &OwnedFd, name: &OsStr) -> io::Result<()> {
    match unlinkat(dir, name, UnlinkatFlags::NoRemoveDir) {
        Err(Errno::EISDIR) => Ok(empty_away(dir, name.as_bytes())?),
        other => Ok(other?),
    }
}

/// Whether a directory is of a file system in which the kernel shows itself: what is in it is no file of the
/// container's.
pub(crate) fn is_kernels(dir: &OwnedFd) -> io::Result<bool> {
    use nix::sys::statfs;
    const MQUEUE: statfs::FsType = statfs::FsType(0x1980_0202);
    const DEVPTS: statfs::FsType = statfs::FsType(0x1cd1);
    let kind = statfs::fstatfs(dir)?.filesystem_type();
    let known = [
        statfs::PROC_SUPER_MAGIC,
        statfs::SYSFS_MAGIC,
        statfs::CGROUP_SUPER_MAGIC,
        statfs::CGROUP2_SUPER_MAGIC,
    ];
    Ok(known.contains(&kind) || kind == MQUEUE || kind == DEVPTS)
}

/// The names in a directory, sorted.
pub(crate) fn names(dir: &OwnedFd) -> io::Result<Vec<std::ffi::OsString>> {
    let flags = OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
    let mut open = Dir::openat(dir, ".", flags, Mode::empty())?;
    let mut names = Vec::new();
    for entry in open.iter() {
        let entry = entry?;
        if !matches!(entry.file_name().to_bytes(), b"." | b"..") {
            names.push(OsStr::from_bytes(entry.file_name().to_bytes()).to_owned());
        }
    }
    names.sort();
    Ok(names)
}

/// A file read as long as its header said.
struct Exact {
    file: File,
    left: u64,
}

impl io::Read for Exact {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        let want = usize::try_from(self.left).unwrap_or(usize::MAX).min(buf.len());
        if want == 0 {
            return Ok(0);
        }
        let n = match self.file.read(&mut buf[..want])? {
            0 => {
                buf[..want].fill(0);
                want
            }
            n => n,
        };
        self.left -= n as u64;
        Ok(n)
    }
}
