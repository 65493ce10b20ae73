//! Paths inside a root file system that its author may have laid traps in.
//!
//! Every lookup goes through openat2(2) with RESOLVE_IN_ROOT (symbolic links cannot lead out) and
//! RESOLVE_NO_MAGICLINKS (`/proc/self/fd/N` cannot lead to a file of the host we still hold open).

use std::ffi::{CString, OsStr};
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Component, Path, PathBuf};

use nix::errno::Errno;
use nix::fcntl::OFlag;
use nix::sys::stat::{Mode, SFlag, mkdirat, mknodat};

/// Do not follow a symbolic link anywhere in the path.
pub const NO_SYMLINKS: u64 = 0x04;
const NO_MAGICLINKS: u64 = 0x02;
const IN_ROOT: u64 = 0x10;

#[repr(C)]
struct OpenHow {
    flags: u64,
    mode: u64,
    resolve: u64,
}

/// The root that lookups stay in.
pub struct Root(OwnedFd);

impl From<OwnedFd> for Root {
    fn from(directory: OwnedFd) -> Self {
        Self(directory)
    }
}

impl AsFd for Root {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

impl Root {
    /// The root directory of this process.
    pub fn current() -> io::Result<Self> {
        Self::at(Path::new("/"))
    }

    /// A directory of this process's own file system.
    pub fn at(path: &Path) -> io::Result<Self> {
        Ok(Self(nix::fcntl::open(
            path,
            OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC,
            Mode::empty(),
        )?))
    }

    /// Opens `path` below this root.
    pub fn open(&self, path: &Path, flags: OFlag, extra: u64) -> io::Result<OwnedFd> {
        let path = CString::new(path.as_os_str().as_bytes())
            .map_err(|_| io::Error::from_raw_os_error(libc::EINVAL))?;
        let how = OpenHow {
            flags: (flags | OFlag::O_CLOEXEC).bits() as u64,
            mode: 0,
            resolve: IN_ROOT | NO_MAGICLINKS | extra,
        };
        let fd = vouched(|| {
            // SAFETY: `how` is a live struct of the size given, `path` a valid C string.
            let fd = unsafe {
                libc::syscall(
                    libc::SYS_openat2,
                    self.0.as_raw_fd(),
                    path.as_ptr(),
                    std::ptr::from_ref(&how),
                    size_of::<OpenHow>(),
                )
            };
            Errno::result(fd)
        })?;
        // SAFETY: the kernel just returned this descriptor to us and nobody else knows it.
        Ok(unsafe { OwnedFd::from_raw_fd(fd as RawFd) })
    }

    /// A handle on `path`, without opening what it is.
    pub fn locate(&self, path: &Path) -> io::Result<OwnedFd> {
        self.open(path, OFlag::O_PATH, 0)
    }

    /// The directory `path`, made with mode 755 where missing.
    pub fn directory(&self, path: &Path) -> io::Result<OwnedFd> {
        let flags = OFlag::O_PATH | OFlag::O_DIRECTORY;
        match self.open(path, flags, 0) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => {}
            other => return other,
        }
        let mut so_far = PathBuf::from("/");
        let mut dir = self.open(&so_far, flags, 0)?;
        for component in path.components() {
            let name = match component {
                Component::Normal(name) => name,
                Component::ParentDir => {
                    return Err(io::Error::new(io::ErrorKind::InvalidInput, "`..` in a path to make"));
                }
                _ => continue,
            };
            so_far.push(name);
            dir = match self.open(&so_far, flags, 0) {
                Err(e) if e.kind() == io::ErrorKind::NotFound => {
                    mkdirat(&dir, name, Mode::from_bits_truncate(0o755))?;
                    self.open(&so_far, flags, 0)?
                }
                other => other?,
            };
        }
        Ok(dir)
    }

    /// The file `path`, made empty (with its directories) where missing.
    pub fn file(&self, path: &Path) -> io::Result<OwnedFd> {
        match self.locate(path) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => {}
            other => return other,
        }
        let invalid = || io::Error::from_raw_os_error(libc::EINVAL);
        let dir = self.directory(path.parent().ok_or_else(invalid)?)?;
        let name: &OsStr = path.file_name().ok_or_else(invalid)?;
        mknodat(&dir, name, SFlag::S_IFREG, Mode::from_bits_truncate(0o644), 0)?;
        self.locate(path)
    }
}

/// A lookup below a root, again while the kernel cannot tell whether it stayed there: something of the host was renamed
/// or mounted meanwhile (EAGAIN, openat2(2)). Whoever does so all the time does not keep us for ever.
pub(crate) fn vouched<T>(lookup: impl Fn() -> nix::Result<T>) -> nix::Result<T> {
    const MOST: usize = 10_000;
    for _ in 0..MOST {
        match lookup() {
            Err(Errno::EAGAIN) => std::thread::yield_now(),
            other => return other,
        }
    }
    lookup()
}

/// `/proc/self/fd/N` for calls that only take a path.
pub fn fd_path(fd: BorrowedFd<'_>) -> PathBuf {
    PathBuf::from(format!("/proc/self/fd/{}", fd.as_raw_fd()))
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicBool, Ordering};

    use super::*;

    #[test]
    fn lookups_are_not_disturbed_by_what_others_rename() {
        let dir = tempfile::tempdir().expect("temporary directory");
        let at = |name: &str| dir.path().join(name);
        std::fs::create_dir_all(at("root/d/e")).expect("made");
        std::fs::create_dir(at("here")).expect("made");
        let root = Root::at(&at("root")).expect("opened");
        let done = AtomicBool::new(false);
        std::thread::scope(|scope| {
            scope.spawn(|| {
                while !done.load(Ordering::Relaxed) {
                    std::fs::rename(at("here"), at("there")).expect("renamed");
                    std::fs::rename(at("there"), at("here")).expect("renamed");
                }
            });
            let way = Path::new("d/e/../../d/e/../../d/e/../../d/e/../e");
            let failed = (0..20_000).find_map(|_| root.locate(way).err());
            done.store(true, Ordering::Relaxed);
            assert!(failed.is_none(), "{failed:?}");
        });
    }
}
