//! The root file system: an overlay (or a directory) mounted apart, then made the root by pivot_root.

mod id_mapped;

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use nix::fcntl::OFlag;
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sys::stat::Mode;

use super::error::{Context, Error};
use super::mount_api::{self, FsContext};
use super::resolve::{Root, fd_path};
use crate::shim::Rootfs;
use crate::userns::IdMaps;

/// fsconfig(2) takes no longer values than this.
const MAX_VALUE: usize = 255;

/// A user namespace, and the IDs that it has.
pub type Mapped<'a> = (&'a OwnedFd, &'a IdMaps);

/// Mounts it without attaching it anywhere; with the IDs that its files have in a user namespace, where one is given
/// and this mount namespace is cut off from the host's. `label` = SELinux's, of all its files.
pub fn prepare(
    rootfs: &Rootfs,
    scratch: &OwnedFd,
    ids: Option<Mapped<'_>>,
    label: &str,
) -> Result<OwnedFd, Error> {
    if let Some(ids) = ids {
        return id_mapped::prepare(rootfs, scratch, ids, label);
    }
    match rootfs {
        Rootfs::Directory(path) => {
            mount_api::clone_path(path, true).on("clone root directory", path.display())
        }
        Rootfs::Overlay { lowers, upper, work, volatile } => {
            if lowers.is_empty() {
                return Err(Error::Refused("the root file system has no layer".into()));
            }
            overlay(lowers, Some(Changes { upper, work, volatile: *volatile }), scratch, label)
        }
    }
}

/// Where what is written over layers goes, as [`Rootfs::Overlay`] has it.
#[derive(Clone, Copy)]
struct Changes<'a> {
    upper: &'a Path,
    work: &'a Path,
    volatile: bool,
}

impl Changes<'_> {
    /// What was mounted as volatile is not mounted again while this mark is there, since a crash may have come between
    /// (Documentation/filesystems/overlayfs.rst). What builds leave after a crash is removed by the daemon's next start, and
    /// what they leave on purpose is synced before.
    fn unmark(&self) -> Result<(), Error> {
        let mark = self.work.join("work/incompat/volatile");
        match std::fs::remove_dir_all(&mark) {
            Err(e) if e.kind() != io::ErrorKind::NotFound => Err(e).on("remove", mark.display()),
            _ => Ok(()),
        }
    }
}

/// Layers alone, topmost first, read-only.
pub fn layers(lowers: &[PathBuf], scratch: &OwnedFd, ids: Option<Mapped<'_>>) -> Result<OwnedFd, Error> {
    if let Some(ids) = ids {
        return id_mapped::layers(lowers, scratch, ids);
    }
    match lowers {
        [] => Err(Error::Refused("the root file system has no layer".into())),
        [only] => {
            let tree = mount_api::clone_path(only, false).on("clone layer", only.display())?;
            mount_api::set_attributes(&tree, mount_api::RDONLY, false).on("protect layer", only.display())?;
            Ok(tree)
        }
        several => overlay(several, None, scratch, ""),
    }
}

/// Adds what tells programs that they are in a container, /.dockerenv, and /etc/mtab where the image has none.
pub fn mark(root: &Root) -> Result<(), Error> {
    root.file(Path::new("/.dockerenv")).on("make", "/.dockerenv")?;
    let etc = root.directory(Path::new("/etc")).on("make", "/etc")?;
    match nix::unistd::symlinkat("/proc/mounts", &etc, "mtab") {
        Ok(()) | Err(nix::errno::Errno::EEXIST) => Ok(()),
        Err(e) => Err(e).on("make", "/etc/mtab"),
    }
}

fn overlay(
    lowers: &[PathBuf],
    changes: Option<Changes<'_>>,
    scratch: &OwnedFd,
    label: &str,
) -> Result<OwnedFd, Error> {
    let made = overlay_once(lowers, changes, scratch, label);
    match (&made, changes) {
        // The disk has failed to write something that nobody has been told of yet: until syncfs(2) tells of it, the kernel
        // gives nothing that waits for no disk. Who asks for what is written to be kept is to be told, not this.
        (Err(Error::System { source, .. }), Some(changes))
            if changes.volatile && source.raw_os_error() == Some(libc::EIO) =>
        {
            overlay_once(lowers, Some(Changes { volatile: false, ..changes }), scratch, label)
        }
        _ => made,
    }
}

fn overlay_once(
    lowers: &[PathBuf],
    changes: Option<Changes<'_>>,
    scratch: &OwnedFd,
    label: &str,
) -> Result<OwnedFd, Error> {
    if let Some(changes) = &changes {
        changes.unmark()?;
    }
    let mut held = Vec::new();
    let mut short = |path: &Path| -> Result<PathBuf, Error> {
        if path.as_os_str().as_bytes().len() <= MAX_VALUE {
            return Ok(path.to_path_buf());
        }
        let fd = open_directory(path)?;
        let link = fd_path(fd.as_fd());
        held.push(fd);
        Ok(link)
    };
    let context = FsContext::open("overlay").on("open file system", "overlay")?;
    if context.is_legacy() {
        // Before Linux 6.5. The context has been spoilt by the question.
        return classic_overlay(lowers, changes, scratch, label);
    }
    context.set("source", "overlay").on("set", "overlay source")?;
    for lower in lowers {
        match context.set("lowerdir+", short(lower)?) {
            // Linux 6.5 and 6.6: layers can only be given all at once.
            Err(e) if e.raw_os_error() == Some(libc::EINVAL) && lower.is_dir() => {
                return classic_overlay(lowers, changes, scratch, label);
            }
            other => other.on("add overlay layer", lower.display())?,
        }
    }
    if let Some(Changes { upper, work, volatile }) = changes {
        context.set("upperdir", short(upper)?).on("set overlay upper directory", upper.display())?;
        context.set("workdir", short(work)?).on("set overlay work directory", work.display())?;
        for (key, value) in WHOLE {
            context.set(key, value).on("set overlay option", key)?;
        }
        if volatile {
            context.flag(VOLATILE).on("set overlay option", VOLATILE)?;
        }
    }
    for (key, value) in super::mounts::context(label) {
        context.set(key, value).on("set label of overlay to", value)?;
    }
    context.mount(0).on("mount overlay on", changes.map_or(&*lowers[0], |c| c.upper).display())
}

/// What is written is whole by itself, since it becomes a layer: some kernels would leave a renamed directory's entries, and
/// the content of a file whose mode changes, to the layers beneath (Documentation/filesystems/overlayfs.rst).
const WHOLE: [(&str, &str); 2] = [("redirect_dir", "off"), ("metacopy", "off")];

const VOLATILE: &str = "volatile";

/// mount(2): options of at most a page, so every directory is named by a descriptor.
fn classic_overlay(
    lowers: &[PathBuf],
    changes: Option<Changes<'_>>,
    scratch: &OwnedFd,
    label: &str,
) -> Result<OwnedFd, Error> {
    let mut fds = lowers.iter().map(|l| open_directory(l)).collect::<Result<Vec<_>, _>>()?;
    let path = |fd: &OwnedFd| fd_path(fd.as_fd()).to_string_lossy().into_owned();
    let mut options = format!("lowerdir={}", fds.iter().map(path).collect::<Vec<_>>().join(":"));
    for (key, dir) in changes.into_iter().flat_map(|c| [("upperdir", c.upper), ("workdir", c.work)]) {
        let fd = open_directory(dir)?;
        options.push_str(&format!(",{key}={}", path(&fd)));
        fds.push(fd);
    }
    if changes.is_some() {
        options.extend(WHOLE.map(|(key, value)| format!(",{key}={value}")));
    }
    if changes.is_some_and(|c| c.volatile) {
        options.push_str(&format!(",{VOLATILE}"));
    }
    if !label.is_empty() {
        // A level has commas, which end an option.
        options.push_str(&format!(",context=\"{label}\""));
    }
    mount(
        Some("overlay"),
        &fd_path(scratch.as_fd()),
        Some("overlay"),
        MsFlags::empty(),
        Some(options.as_str()),
    )
    .on("mount overlay over", lowers[0].display())?;
    let target = std::fs::read_link(fd_path(scratch.as_fd())).on("read", "scratch directory")?;
    let tree = mount_api::clone_path(&target, false).on("clone overlay at", target.display())?;
    umount2(&target, MntFlags::MNT_DETACH).on("unmount", target.display())?;
    Ok(tree)
}

fn open_directory(path: &Path) -> Result<OwnedFd, Error> {
    let flags = OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
    nix::fcntl::open(path, flags, Mode::empty()).on("open directory", path.display())
}

/// Cuts this mount namespace off from the host's: nothing mounted here shows there, nor the reverse.
pub fn isolate() -> Result<(), Error> {
    mount(None::<&str>, "/", None::<&str>, MsFlags::MS_REC | MsFlags::MS_PRIVATE, None::<&str>)
        .on("make private", "/")
}

/// Mounts `tree` where it is to become the root.
pub fn place(tree: &OwnedFd, scratch: &OwnedFd) -> Result<(), Error> {
    mount_api::make_private(tree).on("make private", "root file system")?;
    mount_api::attach(tree, scratch).on("attach", "root file system")
}

/// Makes it the root of this mount namespace and lets go of everything else.
pub fn enter(tree: &OwnedFd) -> Result<(), Error> {
    nix::unistd::fchdir(tree).on("enter", "root file system")?;
    // Stacks the old root on the new one, where it can be taken off without a directory for it.
    nix::unistd::pivot_root(".", ".").on("pivot_root", "root file system")?;
    umount2(".", MntFlags::MNT_DETACH).on("unmount", "old root")?;
    nix::unistd::chdir("/").map_err(io::Error::from).on("enter", "/")
}
