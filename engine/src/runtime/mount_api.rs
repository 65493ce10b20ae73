//! The mount system calls of Linux 5.2 and later (fsopen, fsconfig, fsmount, open_tree, move_mount,
//! mount_setattr), which libraries do not wrap yet.

use std::ffi::{CString, OsStr};
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

/// Attributes of a mount (`MOUNT_ATTR_*`).
pub const RDONLY: u64 = 0x1;
/// Ignore set-user-ID bits.
pub const NOSUID: u64 = 0x2;
/// No device nodes.
pub const NODEV: u64 = 0x4;
/// No executables.
pub const NOEXEC: u64 = 0x8;

const MOUNT_ATTR_IDMAP: u64 = 0x0010_0000;
const FSCONFIG_SET_FLAG: u32 = 0;
const FSCONFIG_SET_STRING: u32 = 1;
const FSCONFIG_CMD_CREATE: u32 = 6;
const OPEN_TREE_CLONE: u32 = 1;
const MOVE_MOUNT_F_EMPTY_PATH: u32 = 0x4;
const MOVE_MOUNT_T_EMPTY_PATH: u32 = 0x40;

#[repr(C)]
#[derive(Default)]
struct MountAttr {
    attr_set: u64,
    attr_clr: u64,
    propagation: u64,
    userns_fd: u64,
}

fn check(value: libc::c_long) -> io::Result<libc::c_long> {
    if value < 0 { Err(io::Error::last_os_error()) } else { Ok(value) }
}

fn c_string(text: &OsStr) -> io::Result<CString> {
    CString::new(text.as_bytes()).map_err(|_| io::Error::from_raw_os_error(libc::EINVAL))
}

fn owned(value: libc::c_long) -> OwnedFd {
    // SAFETY: the kernel just returned this descriptor to us and nobody else knows it.
    unsafe { OwnedFd::from_raw_fd(value as RawFd) }
}

/// A file system being configured.
pub struct FsContext(OwnedFd);

impl FsContext {
    /// Begins a new instance of the file system `kind`.
    pub fn open(kind: &str) -> io::Result<Self> {
        let kind = c_string(OsStr::new(kind))?;
        // SAFETY: a valid C string; flag FSOPEN_CLOEXEC = 1.
        Ok(Self(owned(check(unsafe { libc::syscall(libc::SYS_fsopen, kind.as_ptr(), 1u32) })?)))
    }

    /// Sets `key=value`. The kernel limits a value to 255 bytes.
    pub fn set(&self, key: &str, value: impl AsRef<OsStr>) -> io::Result<()> {
        let (key, value) = (c_string(OsStr::new(key))?, c_string(value.as_ref())?);
        self.config(FSCONFIG_SET_STRING, key.as_ptr(), value.as_ptr())
    }

    /// Sets the flag `key`.
    pub fn flag(&self, key: &str) -> io::Result<()> {
        let key = c_string(OsStr::new(key))?;
        self.config(FSCONFIG_SET_FLAG, key.as_ptr(), std::ptr::null())
    }

    /// Whether the file system still reads mount(2)'s text of options: then any key is taken here, and
    /// what is not known fails the mount.
    pub fn is_legacy(&self) -> bool {
        // No file system has it.
        self.flag("skep-probe").is_ok()
    }

    fn config(&self, command: u32, key: *const libc::c_char, value: *const libc::c_char) -> io::Result<()> {
        let fd = self.0.as_raw_fd();
        // SAFETY: pointers are null or valid C strings that outlive the call.
        check(unsafe { libc::syscall(libc::SYS_fsconfig, fd, command, key, value, 0) })?;
        Ok(())
    }

    /// Creates the instance and a detached mount of it.
    pub fn mount(self, attributes: u64) -> io::Result<OwnedFd> {
        self.config(FSCONFIG_CMD_CREATE, std::ptr::null(), std::ptr::null())?;
        // SAFETY: plain integers; flag FSMOUNT_CLOEXEC = 1.
        let fd = unsafe { libc::syscall(libc::SYS_fsmount, self.0.as_raw_fd(), 1u32, attributes as u32) };
        Ok(owned(check(fd)?))
    }
}

/// A detached copy of the mount at `path`, with all that is mounted below it when `recursive`.
pub fn clone_tree(dir: BorrowedFd<'_>, path: &Path, recursive: bool) -> io::Result<OwnedFd> {
    let path = c_string(path.as_os_str())?;
    let mut flags = OPEN_TREE_CLONE | libc::O_CLOEXEC as u32 | libc::AT_EMPTY_PATH as u32;
    if recursive {
        flags |= libc::AT_RECURSIVE as u32;
    }
    // SAFETY: a valid C string.
    Ok(owned(check(unsafe { libc::syscall(libc::SYS_open_tree, dir.as_raw_fd(), path.as_ptr(), flags) })?))
}

/// [`clone_tree`] of an absolute host path.
pub fn clone_path(path: &Path, recursive: bool) -> io::Result<OwnedFd> {
    // SAFETY: AT_FDCWD is always valid.
    clone_tree(unsafe { BorrowedFd::borrow_raw(libc::AT_FDCWD) }, path, recursive)
}

/// Attaches a detached mount at the file or directory `target`.
pub fn attach(mount: &OwnedFd, target: impl AsFd) -> io::Result<()> {
    let empty = c"".as_ptr();
    let flags = MOVE_MOUNT_F_EMPTY_PATH | MOVE_MOUNT_T_EMPTY_PATH;
    let (from, to) = (mount.as_raw_fd(), target.as_fd().as_raw_fd());
    // SAFETY: valid descriptors and a static empty string.
    check(unsafe { libc::syscall(libc::SYS_move_mount, from, empty, to, empty, flags) })?;
    Ok(())
}

/// Adds attributes to a mount, and to all below it when `recursive`.
pub fn set_attributes(mount: impl AsFd, set: u64, recursive: bool) -> io::Result<()> {
    let attr = MountAttr { attr_set: set, ..MountAttr::default() };
    change(mount.as_fd(), &attr, recursive)
}

/// Has a detached mount show the IDs of the disk as those they stand for in a user namespace (Linux 5.12, and a file
/// system that can).
pub fn set_id_map(mount: impl AsFd, userns: &OwnedFd) -> io::Result<()> {
    let userns_fd = userns.as_raw_fd() as u64;
    let attr = MountAttr { attr_set: MOUNT_ATTR_IDMAP, userns_fd, ..MountAttr::default() };
    change(mount.as_fd(), &attr, false)
}

/// Makes a mount and all below it private: nothing propagates in or out.
pub fn make_private(mount: impl AsFd) -> io::Result<()> {
    set_propagation(mount, libc::MS_PRIVATE, true)
}

/// Sets the propagation (`MS_PRIVATE`, `MS_SHARED`, `MS_SLAVE`) of a mount, and of all below it when `recursive`.
pub fn set_propagation(mount: impl AsFd, propagation: u64, recursive: bool) -> io::Result<()> {
    let attr = MountAttr { propagation, ..MountAttr::default() };
    change(mount.as_fd(), &attr, recursive)
}

fn change(mount: BorrowedFd<'_>, attr: &MountAttr, recursive: bool) -> io::Result<()> {
    let mut flags = libc::AT_EMPTY_PATH as u32;
    if recursive {
        flags |= libc::AT_RECURSIVE as u32;
    }
    let size = size_of::<MountAttr>();
    // SAFETY: `attr` is a live struct of the size given.
    check(unsafe {
        libc::syscall(
            libc::SYS_mount_setattr,
            mount.as_raw_fd(),
            c"".as_ptr(),
            flags,
            std::ptr::from_ref(attr),
            size,
        )
    })?;
    Ok(())
}
