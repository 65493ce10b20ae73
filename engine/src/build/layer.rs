//! The file system of a stage, written to: what is written becomes a layer.

use std::io;
use std::os::fd::OwnedFd;
use std::path::{Component, Path, PathBuf};

use nix::fcntl::{AtFlags, OFlag};
use nix::sys::stat::{Mode, fstatat, mkdirat};
use nix::unistd::{Gid, Uid, fchownat};

use crate::container::pack::write_and_tidy;
use crate::data_root::{make_dir, remove_tree};
use crate::error::Error;
use crate::image::{Held, Images};
use crate::runtime::resolve::Root;
use crate::runtime::{Parts, View};
use crate::shim::spec::{HostFiles, Rootfs};

/// Goes, with what is written, when it is dropped. All of it blocks.
pub(super) struct Workspace {
    dir: PathBuf,
    view: Option<View>,
}

impl Workspace {
    /// Layers (topmost first) below a directory that takes what is written. `dir` is empty.
    pub(super) fn open(dir: PathBuf, lowers: Vec<PathBuf>) -> Result<Self, Error> {
        let (upper, work) = (dir.join("upper"), dir.join("work"));
        let mut space = Self { dir, view: None };
        make_dir(&upper, 0o755)?;
        make_dir(&work, 0o755)?;
        let rootfs = match lowers.is_empty() {
            true => Rootfs::Directory(upper),
            // What becomes a layer is synced with the image that it ends in.
            false => Rootfs::Overlay { lowers, upper, work, volatile: true },
        };
        let parts = Parts::Container { rootfs, mounts: Vec::new(), host_files: HostFiles::default() };
        space.view = Some(View::assemble(parts, None, &space.dir).map_err(failed)?);
        Ok(space)
    }

    /// Where paths are looked up.
    pub(super) fn root(&self) -> Result<&Root, Error> {
        self.view.as_ref().map(View::root).ok_or(Error::ShuttingDown)
    }

    /// What was written as one more layer on an image; none = nothing was.
    pub(super) fn into_layer(
        mut self,
        images: &Images,
        base: Option<&str>,
        latest: Option<i64>,
    ) -> Result<Option<Held>, Error> {
        self.view = None;
        let upper = self.dir.join("upper");
        images.adopt_layer_blocking(base, &upper, |dir, out, announce| {
            write_and_tidy(dir, out, announce, &[], latest)
        })
    }
}

/// The files of layers alone.
pub(super) fn files(lowers: Vec<PathBuf>, scratch: &Path) -> Result<View, Error> {
    View::assemble(Parts::Image(lowers), None, scratch).map_err(failed)
}

fn failed(e: crate::runtime::Error) -> Error {
    Error::Invalid(format!("cannot put the file system of a stage together: {e}"))
}

/// A directory, made with those above it where they are missing.
pub(super) fn make_directories(root: &Root, path: &Path, owner: (u32, u32)) -> io::Result<OwnedFd> {
    let flags = OFlag::O_RDONLY | OFlag::O_DIRECTORY;
    let mut so_far = PathBuf::from("/");
    let mut dir = root.open(&so_far, flags, 0)?;
    for part in path.components() {
        let Component::Normal(name) = part else { continue };
        so_far.push(name);
        dir = match root.open(&so_far, flags, 0) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => {
                // A link that leads nowhere is in the way.
                if fstatat(&dir, name, AtFlags::AT_SYMLINK_NOFOLLOW).is_ok() {
                    return Err(e);
                }
                mkdirat(&dir, name, Mode::from_bits_truncate(0o755))?;
                let (uid, gid) = (Uid::from_raw(owner.0), Gid::from_raw(owner.1));
                fchownat(&dir, name, Some(uid), Some(gid), AtFlags::AT_SYMLINK_NOFOLLOW)?;
                root.open(&so_far, flags, 0)?
            }
            other => other?,
        };
    }
    Ok(dir)
}

impl Drop for Workspace {
    fn drop(&mut self) {
        self.view = None;
        if let Err(e) = remove_tree(&self.dir) {
            tracing::warn!(error = %e, "the files of a step are left to be swept at the next start");
        }
    }
}
