//! An empty volume begins with what the image has at its place: owners, modes, times, extended attributes and
//! hard links kept.

use std::collections::HashMap;
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::fcntl::{AtFlags, OFlag, openat};
use nix::sys::stat::{
    FileStat, Mode, SFlag, UtimensatFlags, fstat, fstatat, futimens, mkdirat, mknodat, utimensat,
};
use nix::sys::time::TimeSpec;
use nix::unistd::{Gid, Uid, fchownat, linkat, symlinkat};

use super::store::Volumes;
use crate::container::pack::{DEEPEST, names};
use crate::data_root::{make_dir, remove_tree};
use crate::error::{Error, blocking};
use crate::xattr;

/// Where content is gathered before it takes the place of the empty volume at once.
pub(super) const FILLING: &str = "_filling";

impl Volumes {
    /// Fills the volume from the directory `from` if it is empty. `holder` has it mounted meanwhile.
    pub(crate) async fn fill(&self, name: &str, holder: &str, from: OwnedFd) -> Result<(), Error> {
        let at = self.mount(name, holder).await?;
        // Where others see it already, or what is mounted is not ours, there is no changing places.
        let alone = self.holders(name).await == 1 && self.get(name)?.options.is_empty();
        let filled = blocking(move || fill(&from, &at, alone)).await;
        let unmounted = self.unmount(name, holder).await;
        filled.and(unmounted.map(drop))
    }
}

fn fill(from: &OwnedFd, at: &Path, alone: bool) -> Result<(), Error> {
    if std::fs::read_dir(at).map_err(Error::io("list", at))?.next().is_some() {
        return Ok(());
    }
    let to = if alone { at.with_file_name(FILLING) } else { at.to_path_buf() };
    if alone {
        remove_tree(&to)?;
        make_dir(&to, 0o755)?;
    }
    let dir = File::open(&to).map_err(Error::io("open", &to))?;
    let mut copy = Copy { links: HashMap::new(), at: PathBuf::new() };
    let done = copy.directory(from, &dir.into());
    if let Err(e) = done {
        let path = to.join(&copy.at);
        let _ = if alone { remove_tree(&to) } else { Ok(()) };
        return Err(Error::io("copy the image's content to", path)(e));
    }
    if !alone {
        return Ok(());
    }
    match std::fs::rename(&to, at) {
        // Somebody wrote into it meanwhile.
        Err(e) if e.raw_os_error() == Some(libc::ENOTEMPTY) => remove_tree(&to),
        other => other.map_err(Error::io("put the image's content in place at", at)),
    }
}

struct Copy {
    /// The first copy of each file with several names.
    links: HashMap<(u64, u64), PathBuf>,
    /// Where we are, for errors and links.
    at: PathBuf,
}

impl Copy {
    fn directory(&mut self, from: &OwnedFd, to: &OwnedFd) -> io::Result<()> {
        if self.at.components().count() > DEEPEST {
            return Err(io::Error::other("its directories are nested too deep"));
        }
        let meta = fstat(from)?;
        for name in names(from)? {
            let name = Path::new(&name);
            self.at.push(name);
            self.entry(from, to, name)?;
            self.at.pop();
        }
        attributes(from, to, &meta)
    }

    fn entry(&mut self, from: &OwnedFd, to: &OwnedFd, name: &Path) -> io::Result<()> {
        let meta = fstatat(from, name, AtFlags::AT_SYMLINK_NOFOLLOW)?;
        let kind = SFlag::from_bits_truncate(meta.st_mode) & SFlag::S_IFMT;
        if kind == SFlag::S_IFDIR {
            mkdirat(to, name, Mode::S_IRWXU)?;
            let open = |at: &OwnedFd| {
                openat(at, name, OFlag::O_RDONLY | OFlag::O_DIRECTORY | NEVER_FOLLOW, Mode::empty())
            };
            return self.directory(&open(from)?, &open(to)?);
        }
        if meta.st_nlink > 1 {
            let depth = self.at.components().count() - 1;
            if let Some(first) = self.links.get(&(meta.st_dev, meta.st_ino)) {
                let up: PathBuf = std::iter::repeat_n("..", depth).collect();
                return Ok(linkat(to, &up.join(first), to, name, AtFlags::empty())?);
            }
            self.links.insert((meta.st_dev, meta.st_ino), self.at.clone());
        }
        if kind == SFlag::S_IFREG {
            let source = openat(from, name, OFlag::O_RDONLY | NEVER_FOLLOW, Mode::empty())?;
            let made = OFlag::O_WRONLY | OFlag::O_CREAT | OFlag::O_EXCL | NEVER_FOLLOW;
            let mut target = File::from(openat(to, name, made, Mode::S_IRUSR | Mode::S_IWUSR)?);
            let mut source = File::from(source);
            io::copy(&mut source, &mut target)?;
            return attributes(&source.into(), &target.into(), &meta);
        }
        if kind == SFlag::S_IFLNK {
            let link = nix::fcntl::readlinkat(from, name)?;
            symlinkat(link.as_os_str(), to, name)?;
        } else if kind == SFlag::S_IFSOCK {
            // Nobody listens at it any more.
            return Ok(());
        } else {
            mknodat(to, name, kind, Mode::from_bits_truncate(meta.st_mode), meta.st_rdev)?;
        }
        let (uid, gid) = (Uid::from_raw(meta.st_uid), Gid::from_raw(meta.st_gid));
        fchownat(to, name, Some(uid), Some(gid), AtFlags::AT_SYMLINK_NOFOLLOW)?;
        let (accessed, modified) = times(&meta);
        utimensat(to, name, &accessed, &modified, UtimensatFlags::NoFollowSymlink)?;
        Ok(())
    }
}

const NEVER_FOLLOW: OFlag = OFlag::O_NOFOLLOW.union(OFlag::O_CLOEXEC);

/// Owner, then mode (a change of owner clears set-uid), then extended attributes, then times.
fn attributes(from: &OwnedFd, to: &OwnedFd, meta: &FileStat) -> io::Result<()> {
    nix::unistd::fchown(to, Some(Uid::from_raw(meta.st_uid)), Some(Gid::from_raw(meta.st_gid)))?;
    nix::sys::stat::fchmod(to, Mode::from_bits_truncate(meta.st_mode & 0o7777))?;
    for (name, value) in xattr::all(from.as_fd())? {
        match xattr::set(to.as_fd(), &name, &value) {
            // As with Docker, a file system without them is no reason to fail.
            Err(e) if e.raw_os_error() == Some(Errno::EOPNOTSUPP as i32) => {}
            other => other?,
        }
    }
    let (accessed, modified) = times(meta);
    Ok(futimens(to, &accessed, &modified)?)
}

fn times(meta: &FileStat) -> (TimeSpec, TimeSpec) {
    (TimeSpec::new(meta.st_atime, meta.st_atime_nsec), TimeSpec::new(meta.st_mtime, meta.st_mtime_nsec))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{MetadataExt, PermissionsExt};

    use super::*;

    #[test]
    fn owners_modes_links_and_attributes_are_kept_and_what_is_there_stays() {
        let dir = tempfile::tempdir().expect("temporary directory");
        let at = |name: &str| dir.path().join(name);
        std::fs::create_dir_all(at("from/sub")).expect("makes");
        std::fs::write(at("from/a"), "a").expect("writes");
        std::fs::hard_link(at("from/a"), at("from/sub/b")).expect("links");
        std::os::unix::fs::symlink("../a", at("from/sub/l")).expect("links");
        std::os::unix::fs::lchown(at("from/a"), Some(7), Some(8)).expect("owns");
        std::fs::set_permissions(at("from/a"), PermissionsExt::from_mode(0o4755)).expect("sets");
        std::fs::set_permissions(at("from"), PermissionsExt::from_mode(0o1777)).expect("sets");
        let source = || OwnedFd::from(File::open(at("from")).expect("opens"));
        let named = File::open(at("from/a")).expect("opens");
        xattr::set(named.as_fd(), b"user.colour", b"red").expect("takes attributes");
        std::fs::create_dir_all(at("volume/_data")).expect("makes");
        fill(&source(), &at("volume/_data"), true).expect("fills");
        let (a, b) = (at("volume/_data/a"), at("volume/_data/sub/b"));
        let meta = std::fs::metadata(&a).expect("there");
        assert_eq!((meta.uid(), meta.gid(), meta.mode() & 0o7777), (7, 8, 0o4755));
        assert_eq!(meta.ino(), std::fs::metadata(&b).expect("there").ino());
        assert_eq!(std::fs::read_link(at("volume/_data/sub/l")).expect("a link"), Path::new("../a"));
        assert_eq!(std::fs::metadata(at("volume/_data")).expect("there").mode() & 0o7777, 0o1777);
        let copied = xattr::all(File::open(&a).expect("opens").as_fd()).expect("lists");
        assert!(copied.contains(&(b"user.colour".to_vec(), b"red".to_vec())), "{copied:?}");
        assert!(!at("volume/_filling").exists());

        std::fs::create_dir_all(at("other/_data")).expect("makes");
        std::fs::write(at("other/_data/mine"), "").expect("writes");
        fill(&source(), &at("other/_data"), true).expect("leaves");
        assert_eq!(std::fs::read_dir(at("other/_data")).expect("lists").count(), 1);
    }
}
