//! Files that a container must not read, write or open.

use std::fs::{File, OpenOptions};
use std::io::{self, Read};
use std::os::fd::AsRawFd;
use std::os::unix::fs::{FileTypeExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use nix::sys::stat::{Mode, SFlag, mknod};

use super::{Outcome, Told};

fn writable(path: &Path) -> io::Result<()> {
    // Nothing is written.
    OpenOptions::new().write(true).custom_flags(libc::O_NONBLOCK | libc::O_NOCTTY).open(path).map(drop)
}

/// Makes a node for a device and opens it.
fn device(argument: &str) -> Outcome {
    let mut parts = argument.split(':');
    let kind = if parts.next() == Some("b") { SFlag::S_IFBLK } else { SFlag::S_IFCHR };
    let mut number = || parts.next().and_then(|n| n.parse::<u32>().ok()).unwrap_or(0);
    let node = PathBuf::from(format!("/tmp/node-{}", std::process::id()));
    mknod(&node, kind, Mode::S_IRWXU, libc::makedev(number(), number())).map_err(io::Error::from)?;
    let opened = OpenOptions::new().read(true).custom_flags(libc::O_NONBLOCK).open(&node);
    std::fs::remove_file(&node)?;
    opened?;
    Ok(())
}

/// Every file below `top` that takes writes and can be opened for that, but for processes' own.
fn all_writable(top: &str) -> Outcome {
    let mut found = Vec::new();
    walk(Path::new(top), 0, &mut |path, meta| {
        // Root may open the others as well, and finds them deaf.
        if meta.is_file() && meta.mode() & 0o222 != 0 && writable(path).is_ok() {
            found.push(path.display().to_string());
        }
    });
    match found.is_empty() {
        true => Err(Told::Words("none".into())),
        false => Err(Told::Words(format!("{}: {}", found.len(), found[..found.len().min(20)].join(" ")))),
    }
}

/// A write to the one is the wish to be told of pressure; the other asks for CAP_SYS_ADMIN at each write.
const HARMLESS: [&str; 2] = ["/proc/pressure", "/proc/mtrr"];

fn walk(directory: &Path, depth: usize, see: &mut impl FnMut(&Path, &std::fs::Metadata)) {
    if depth > 12 {
        return;
    }
    for entry in std::fs::read_dir(directory).into_iter().flatten().flatten() {
        let path = entry.path();
        let Ok(meta) = path.symlink_metadata() else { continue };
        let process = directory == Path::new("/proc")
            && entry.file_name().as_encoded_bytes().first().is_some_and(u8::is_ascii_digit);
        if process || HARMLESS.iter().any(|h| path == Path::new(h)) {
            continue;
        }
        see(&path, &meta);
        if meta.is_dir() {
            walk(&path, depth + 1, see);
        }
    }
}

/// Block devices that have a node in /dev.
fn raw_disks() -> Outcome {
    let mut found = Vec::new();
    walk(Path::new("/dev"), 0, &mut |path, meta| {
        if meta.file_type().is_block_device() {
            found.push(path.display().to_string());
        }
    });
    match found.is_empty() {
        true => Err(Told::Words("none".into())),
        false => Ok(()),
    }
}

fn read(path: &str) -> Outcome {
    let mut byte = [0];
    let mut file = OpenOptions::new().read(true).custom_flags(libc::O_NONBLOCK).open(path)?;
    match file.read(&mut byte)? {
        0 => Err(Told::Words("empty".into())),
        _ => Ok(()),
    }
}

/// Changes the mode of what is on standard input.
fn change_stdin() -> Outcome {
    // SAFETY: a plain integer argument.
    super::called(unsafe { libc::fchmod(0, 0o606) }.into())
}

/// Whether the file system that `path` is on may be written.
fn mounted_read_only(path: &str) -> Outcome {
    let file = File::open(path)?;
    let flags = nix::sys::statvfs::fstatvfs(&file).map_err(io::Error::from)?.flags();
    match flags.contains(nix::sys::statvfs::FsFlags::ST_RDONLY) {
        true => Err(Told::Words("read-only".into())),
        false => Ok(()),
    }
}

/// Opens a file for writing by way of a descriptor of it that is open for reading (CVE-2019-5736).
fn reopened(path: &str) -> Outcome {
    let file = File::open(path)?;
    Ok(writable(Path::new(&format!("/proc/self/fd/{}", file.as_raw_fd())))?)
}

/// Whether a copy of this program that is set-user-ID gains by that.
fn set_user() -> Outcome {
    // SAFETY: asks only.
    match unsafe { libc::geteuid() } {
        0 => Ok(()),
        other => Err(Told::Words(format!("user {other}"))),
    }
}

/// Pushes a character back into the terminal of the caller.
fn push(path: &str) -> Outcome {
    let terminal = OpenOptions::new().read(true).custom_flags(libc::O_NOCTTY).open(path)?;
    // SAFETY: points to one live byte.
    super::called(unsafe { libc::ioctl(terminal.as_raw_fd(), libc::TIOCSTI, c"x".as_ptr()) }.into())
}

fn mode(path: &str) -> Outcome {
    let meta = std::fs::metadata(path)?;
    Err(Told::Words(format!("{:o} {}", meta.permissions().mode(), meta.rdev())))
}

/// Runs the probe of that name.
pub fn run(name: &str, argument: &str) -> Option<Outcome> {
    Some(match name {
        "read" => read(argument),
        "write" => writable(Path::new(argument)).map_err(Told::from),
        "open" => File::open(argument).map(drop).map_err(Told::from),
        "all_writable" => all_writable(argument),
        "mkdir" => std::fs::create_dir(argument).map_err(Told::from),
        "device" => device(argument),
        "raw_disks" => raw_disks(),
        "change_stdin" => change_stdin(),
        "mounted_read_only" => mounted_read_only(argument),
        "reopened" => reopened(argument),
        "set_user" => set_user(),
        "push" => push(argument),
        "mode" => mode(argument),
        _ => return None,
    })
}
