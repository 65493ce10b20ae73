//! Extended attributes of an open file (xattr(7)), which nix does not wrap.

use std::ffi::CString;
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};

/// Names and values. A file system without attributes has none.
#[allow(unsafe_code)]
pub(crate) fn all(fd: BorrowedFd<'_>) -> io::Result<Vec<(Vec<u8>, Vec<u8>)>> {
    // SAFETY: the descriptor is open for the call, and the length is the buffer's own.
    let names = read(|buf| unsafe { libc::flistxattr(fd.as_raw_fd(), buf.as_mut_ptr().cast(), buf.len()) });
    let names = match names {
        Err(e) if e.raw_os_error() == Some(libc::EOPNOTSUPP) => return Ok(Vec::new()),
        other => other?,
    };
    let mut out = Vec::new();
    for name in names.split(|b| *b == 0).filter(|n| !n.is_empty()) {
        let c_name = CString::new(name).map_err(|_| io::Error::from_raw_os_error(libc::EINVAL))?;
        // SAFETY: as above; the name is a C string.
        let value = read(|buf| unsafe {
            libc::fgetxattr(fd.as_raw_fd(), c_name.as_ptr(), buf.as_mut_ptr().cast(), buf.len())
        });
        match value {
            // It is gone again, or may not be read (security attributes of others).
            Err(e) if matches!(e.raw_os_error(), Some(libc::ENODATA | libc::EOPNOTSUPP)) => {}
            other => out.push((name.to_vec(), other?)),
        }
    }
    Ok(out)
}

/// Sets one.
#[allow(unsafe_code)]
pub(crate) fn set(fd: BorrowedFd<'_>, name: &[u8], value: &[u8]) -> io::Result<()> {
    let name = CString::new(name).map_err(|_| io::Error::from_raw_os_error(libc::EINVAL))?;
    // SAFETY: the descriptor is open for the call, the name is a C string, and the length is the value's own.
    let rc = unsafe { libc::fsetxattr(fd.as_raw_fd(), name.as_ptr(), value.as_ptr().cast(), value.len(), 0) };
    if rc < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// Removes one; those that the kernel keeps for itself stay.
#[allow(unsafe_code)]
pub(crate) fn remove(fd: BorrowedFd<'_>, name: &[u8]) -> io::Result<()> {
    let name = CString::new(name).map_err(|_| io::Error::from_raw_os_error(libc::EINVAL))?;
    // SAFETY: the descriptor is open for the call, and the name is a C string.
    let rc = unsafe { libc::fremovexattr(fd.as_raw_fd(), name.as_ptr()) };
    if rc == 0 {
        return Ok(());
    }
    let e = io::Error::last_os_error();
    match e.raw_os_error() {
        Some(libc::ENODATA | libc::EACCES | libc::EPERM | libc::EOPNOTSUPP) => Ok(()),
        _ => Err(e),
    }
}

/// Calls with growing buffers until what there is fits.
fn read(mut call: impl FnMut(&mut [u8]) -> isize) -> io::Result<Vec<u8>> {
    let mut buf = vec![0; 256];
    loop {
        match call(&mut buf) {
            n if n >= 0 => {
                buf.truncate(n as usize);
                return Ok(buf);
            }
            _ => {
                let e = io::Error::last_os_error();
                if e.raw_os_error() != Some(libc::ERANGE) || buf.len() > 1 << 20 {
                    return Err(e);
                }
                buf.resize(buf.len() * 4, 0);
            }
        }
    }
}
