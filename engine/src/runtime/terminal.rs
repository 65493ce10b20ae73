//! The terminal of a container: a pty of its own devpts, whose master goes to the shim.

use std::io;
use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd};
use std::path::Path;

use nix::fcntl::OFlag;

use super::error::{Context, Error};
use super::mount_api;
use super::resolve::Root;

/// As [`open`], and shows it as /dev/console.
pub fn open_console(root: &Root) -> Result<(OwnedFd, OwnedFd), Error> {
    let (master, slave) = open(root)?;
    let console = root.file(Path::new("/dev/console")).on("make", "/dev/console")?;
    // The pty itself, whatever its name in /dev/pts leads to.
    let tree = mount_api::clone_tree(slave.as_fd(), Path::new(""), false).on("bind", "terminal")?;
    mount_api::attach(&tree, console).on("bind", "/dev/console")?;
    Ok((master, slave))
}

/// Opens a pty of `root`'s devpts and makes it the controlling terminal. Returns master and slave.
pub fn open(root: &Root) -> Result<(OwnedFd, OwnedFd), Error> {
    let flags = OFlag::O_RDWR | OFlag::O_NOCTTY;
    let master = root.open(Path::new("/dev/pts/ptmx"), flags, 0).on("open", "/dev/pts/ptmx")?;
    let mut unlock: libc::c_int = 0;
    // SAFETY: the request takes a pointer to a live int.
    if unsafe { libc::ioctl(master.as_raw_fd(), libc::TIOCSPTLCK, &raw mut unlock) } != 0 {
        return Err(io::Error::last_os_error()).on("unlock", "pty");
    }
    // Asked of the master: a name could lead elsewhere.
    // SAFETY: a plain integer argument.
    let fd = unsafe { libc::ioctl(master.as_raw_fd(), libc::TIOCGPTPEER, (flags | OFlag::O_CLOEXEC).bits()) };
    if fd < 0 {
        return Err(io::Error::last_os_error()).on("open", "slave of pty");
    }
    // SAFETY: the kernel just returned this descriptor to us and nobody else knows it.
    let slave = unsafe { OwnedFd::from_raw_fd(fd) };
    // SAFETY: a plain integer argument.
    if unsafe { libc::ioctl(slave.as_raw_fd(), libc::TIOCSCTTY, 0) } != 0 {
        return Err(io::Error::last_os_error()).on("take", "controlling terminal");
    }
    Ok((master, slave))
}

/// Sets the size of the terminal.
pub fn resize(master: &impl AsRawFd, rows: u16, cols: u16) -> io::Result<()> {
    let size = libc::winsize { ws_row: rows, ws_col: cols, ws_xpixel: 0, ws_ypixel: 0 };
    // SAFETY: a live winsize.
    match unsafe { libc::ioctl(master.as_raw_fd(), libc::TIOCSWINSZ, &raw const size) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}
