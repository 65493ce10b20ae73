//! The terminal of a container: a pty of its own devpts, whose master goes to the shim.

use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::{Path, PathBuf};

use nix::fcntl::OFlag;

use super::error::{Context, Error};
use super::mount_api;
use super::resolve::Root;

/// Opens a pty of `root`'s devpts and makes it the controlling terminal. Returns master and slave.
pub fn open(root: &Root) -> Result<(OwnedFd, OwnedFd), Error> {
    let (master, slave, _) = open_named(root)?;
    Ok((master, slave))
}

/// As [`open`], and shows it as /dev/console.
pub fn open_console(root: &Root) -> Result<(OwnedFd, OwnedFd), Error> {
    let (master, slave, path) = open_named(root)?;
    let console = root.file(Path::new("/dev/console")).on("make", "/dev/console")?;
    let tree = mount_api::clone_path(&path, false).on("bind", path.display())?;
    mount_api::attach(&tree, console).on("bind", "/dev/console")?;
    Ok((master, slave))
}

fn open_named(root: &Root) -> Result<(OwnedFd, OwnedFd, PathBuf), Error> {
    let flags = OFlag::O_RDWR | OFlag::O_NOCTTY;
    let master = root.open(Path::new("/dev/pts/ptmx"), flags, 0).on("open", "/dev/pts/ptmx")?;
    let (mut unlock, mut number): (libc::c_int, libc::c_uint) = (0, 0);
    // SAFETY: both requests take a pointer to a live int.
    let r = unsafe {
        libc::ioctl(master.as_raw_fd(), libc::TIOCSPTLCK, &raw mut unlock)
            | libc::ioctl(master.as_raw_fd(), libc::TIOCGPTN, &raw mut number)
    };
    if r != 0 {
        return Err(io::Error::last_os_error()).on("unlock", "pty");
    }
    let path = PathBuf::from(format!("/dev/pts/{number}"));
    let slave = root.open(&path, flags, 0).on("open", path.display())?;
    // SAFETY: a plain integer argument.
    if unsafe { libc::ioctl(slave.as_raw_fd(), libc::TIOCSCTTY, 0) } != 0 {
        return Err(io::Error::last_os_error()).on("take", "controlling terminal");
    }
    Ok((master, slave, path))
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
