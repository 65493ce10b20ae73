//! Project quotas of XFS and ext4 (quotactl(2), `linux/fs.h`, `linux/dqblk_xfs.h`): how much a container's changes may
//! take of the disk (`--storage-opt size=`). What is made in a directory of a project is of that project too.

use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;
use std::path::Path;

use crate::error::Error;

/// Docker's words, of a host that cannot; ext4 with `prjquota` can as well.
const NOT_HERE: &str = "--storage-opt is supported only for overlay over xfs with 'pquota' mount option";

const PRJQUOTA: u32 = 2;
const Q_XGETQUOTA: u32 = 0x5803;
const Q_XSETQLIM: u32 = 0x5804;
const Q_XGETQSTAT: u32 = 0x5805;
/// Project quotas are kept to (FS_QUOTA_PDQ_ENFD).
const ENFORCED: u16 = 1 << 5;
const FS_PROJ_QUOTA: i8 = 2;
const FS_DQ_BSOFT: u16 = 1 << 2;
const FS_DQ_BHARD: u16 = 1 << 3;
/// What is made in the directory is of its project (FS_XFLAG_PROJINHERIT).
const INHERIT: u32 = 0x200;
const FS_IOC_FSGETXATTR: libc::Ioctl = 0x801c_581f_u32 as libc::Ioctl;
const FS_IOC_FSSETXATTR: libc::Ioctl = 0x401c_5820_u32 as libc::Ioctl;
/// Bytes in which blocks are counted, of every file system.
const BLOCK: u64 = 512;

/// `struct fsxattr`.
#[repr(C)]
#[derive(Default)]
struct Attributes {
    flags: u32,
    extent_size: u32,
    extents: u32,
    project: u32,
    cow_extent_size: u32,
    pad: [u8; 8],
}

/// `struct fs_disk_quota`.
#[repr(C)]
#[derive(Default)]
struct Limits {
    version: i8,
    flags: i8,
    mask: u16,
    id: u32,
    blocks_hard: u64,
    blocks_soft: u64,
    inodes_hard: u64,
    inodes_soft: u64,
    blocks: u64,
    inodes: u64,
    timers: [i32; 2],
    warnings: [u16; 2],
    timers_high: [i8; 3],
    pad2: i8,
    real_time_hard: u64,
    real_time_soft: u64,
    real_time_blocks: u64,
    real_time_timer: i32,
    real_time_warnings: u16,
    pad3: i16,
    pad4: [u8; 8],
}

/// `struct fs_quota_stat`, and room behind it.
#[repr(C)]
#[derive(Default)]
struct State {
    version: i8,
    flags: u16,
    rest: [u64; 16],
}

/// Whether the file system that `dir` is on keeps projects to their quotas; an error in Docker's words where it does not.
pub(crate) fn check(dir: &Path) -> Result<(), Error> {
    let mut state = State { version: 1, ..State::default() };
    let asked = File::open(dir).and_then(|d| quotactl(&d, Q_XGETQSTAT, 0, &mut state));
    match asked {
        Ok(()) if state.flags & ENFORCED != 0 => Ok(()),
        _ => Err(Error::Missing(NOT_HERE.into())),
    }
}

/// Has empty directories of one file system, and all that comes to be in them, take no more than `bytes` together.
pub(crate) fn limit(dirs: &[&Path], bytes: u64) -> Result<(), Error> {
    let Some(first) = dirs.first() else { return Ok(()) };
    let failed = |dir| Error::io("limit the size of", dir);
    let on = File::open(first).map_err(failed(first))?;
    let project = unused(&on).map_err(failed(first))?;
    set(&on, project, bytes.div_ceil(BLOCK)).map_err(failed(first))?;
    for dir in dirs {
        let join = |dir: File| {
            let mut attributes = attributes(&dir)?;
            attributes.project = project;
            attributes.flags |= INHERIT;
            ioctl(&dir, FS_IOC_FSSETXATTR, &mut attributes)
        };
        File::open(dir).and_then(join).map_err(failed(dir))?;
    }
    Ok(())
}

/// Forgets the limit of a directory that is about to be deleted.
pub(crate) fn forget(dir: &Path) -> io::Result<()> {
    let dir = File::open(dir)?;
    match attributes(&dir)?.project {
        0 => Ok(()),
        project => set(&dir, project, 0),
    }
}

fn attributes(dir: &File) -> io::Result<Attributes> {
    let mut attributes = Attributes::default();
    ioctl(dir, FS_IOC_FSGETXATTR, &mut attributes)?;
    Ok(attributes)
}

/// A project that has neither files nor a limit. Others on the file system (dockerd) count up from 1.
fn unused(on: &File) -> io::Result<u32> {
    loop {
        let project = rand::random_range(1 << 24..1u32 << 31);
        let mut found = Limits::default();
        match quotactl(on, Q_XGETQUOTA, project, &mut found) {
            Err(e) if matches!(e.raw_os_error(), Some(libc::ENOENT | libc::ESRCH)) => return Ok(project),
            Err(e) => return Err(e),
            Ok(()) if found.inodes == 0 && found.blocks == 0 && found.blocks_hard == 0 => return Ok(project),
            Ok(()) => {}
        }
    }
}

fn set(on: &File, project: u32, blocks: u64) -> io::Result<()> {
    let mut limits = Limits {
        version: 1,
        flags: FS_PROJ_QUOTA,
        mask: FS_DQ_BHARD | FS_DQ_BSOFT,
        id: project,
        blocks_hard: blocks,
        blocks_soft: blocks,
        ..Limits::default()
    };
    quotactl(on, Q_XSETQLIM, project, &mut limits)
}

/// quotactl_fd(2), of Linux 5.14: no device node is needed.
#[allow(unsafe_code)]
fn quotactl<T>(on: &File, command: u32, id: u32, argument: &mut T) -> io::Result<()> {
    let command = command << 8 | PRJQUOTA;
    // SAFETY: the descriptor is open for the call, and the argument is the command's own structure.
    let rc = unsafe {
        libc::syscall(libc::SYS_quotactl_fd, on.as_raw_fd(), command, id, std::ptr::from_mut(argument))
    };
    if rc < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

#[allow(unsafe_code)]
fn ioctl(dir: &File, request: libc::Ioctl, attributes: &mut Attributes) -> io::Result<()> {
    // SAFETY: the descriptor is open for the call, and both requests take a `struct fsxattr`.
    let rc = unsafe { libc::ioctl(dir.as_raw_fd(), request, std::ptr::from_mut(attributes)) };
    if rc < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn structures_have_the_kernels_sizes() {
        assert_eq!(size_of::<Attributes>(), 28);
        assert_eq!(size_of::<Limits>(), 112);
        assert!(size_of::<State>() >= 80);
    }
}
