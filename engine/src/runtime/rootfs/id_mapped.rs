//! The same for a container with a user namespace: overlayfs knows no such translation of its own, but takes layers that
//! are mounted with one (Linux 5.19).

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};

use nix::mount::{MntFlags, umount2};

use super::super::error::{Context, Error};
use super::super::mount_api::{self, RDONLY};
use super::super::mounts::kernel_tree;
use super::super::resolve::{Root, fd_path};
use super::super::userns::FsRoot;
use super::{Changes, Mapped, overlay};
use crate::shim::Rootfs;

/// As [`super::prepare`].
pub fn prepare(rootfs: &Rootfs, scratch: &OwnedFd, ids: Mapped<'_>, label: &str) -> Result<OwnedFd, Error> {
    match rootfs {
        Rootfs::Directory(path) => mapped(path, ids),
        Rootfs::Overlay { lowers, upper, work, volatile } => {
            let changes = Changes { upper, work, volatile: *volatile };
            stack(lowers, Some(changes), scratch, ids, label)
        }
    }
}

/// As [`super::layers`].
pub fn layers(lowers: &[PathBuf], scratch: &OwnedFd, ids: Mapped<'_>) -> Result<OwnedFd, Error> {
    match lowers {
        [] => Err(Error::Refused("the root file system has no layer".into())),
        [only] => {
            let tree = mapped(only, ids)?;
            mount_api::set_attributes(&tree, RDONLY, false).on("protect layer", only.display())?;
            Ok(tree)
        }
        several => stack(several, None, scratch, ids, ""),
    }
}

fn mapped(path: &Path, ids: Mapped<'_>) -> Result<OwnedFd, Error> {
    let tree = mount_api::clone_path(path, false).on("clone", path.display())?;
    match mount_api::set_id_map(&tree, ids.0) {
        Err(e) if e.raw_os_error() == Some(libc::EINVAL) => Err(Error::Refused(format!(
            "the file system of {} cannot be mounted with other IDs (id-mapped mounts, mount_setattr(2))",
            path.display()
        ))),
        other => other.on("map the IDs of", path.display()).map(|()| tree),
    }
}

/// Layers must be mounted somewhere before overlayfs takes them, and it keeps mounts of its own.
fn stack(
    lowers: &[PathBuf],
    changes: Option<Changes<'_>>,
    scratch: &OwnedFd,
    ids: Mapped<'_>,
    label: &str,
) -> Result<OwnedFd, Error> {
    let mut layers = lowers.iter().map(|l| mapped(l, ids)).collect::<Result<Vec<_>, _>>()?;
    // Both in one mount, as overlayfs wants them.
    if let Some(Changes { upper, work, .. }) = changes {
        let parent = upper.parent().filter(|p| Some(*p) == work.parent());
        let parent =
            parent.ok_or_else(|| Error::Refused(format!("{upper:?} and {work:?} are not side by side")))?;
        layers.push(mapped(parent, ids)?);
    }
    let stand = kernel_tree("tmpfs", 0, &[("mode", "700")])?;
    mount_api::attach(&stand, scratch).on("attach", "stand of layers")?;
    let made = on_stand(&stand, &layers, changes, scratch, ids, label);
    let gone = umount2(&fd_path(stand.as_fd()), MntFlags::MNT_DETACH).map_err(io::Error::from);
    let tree = made?;
    gone.on("unmount", "stand of layers").map(|()| tree)
}

/// `layers` are the lower ones, and after them what the changes are in.
fn on_stand(
    stand: &OwnedFd,
    layers: &[OwnedFd],
    changes: Option<Changes<'_>>,
    scratch: &OwnedFd,
    ids: Mapped<'_>,
    label: &str,
) -> Result<OwnedFd, Error> {
    let root = Root::from(stand.try_clone().on("copy", "stand of layers")?);
    for (i, layer) in layers.iter().enumerate() {
        mount_api::make_private(layer).on("make private", "layer")?;
        let at = root.directory(Path::new(&format!("/{i}"))).on("make", "place for a layer")?;
        mount_api::attach(layer, at).on("attach", "layer")?;
    }
    let mut lowers: Vec<PathBuf> = layers.iter().map(|l| fd_path(l.as_fd())).collect();
    let below = |top: &Path, path: &Path| top.join(path.file_name().unwrap_or_default());
    let places = changes.and_then(|c| lowers.pop().map(|top| (below(&top, c.upper), below(&top, c.work))));
    let volatile = changes.is_some_and(|c| c.volatile);
    let changes = places.as_ref().map(|(upper, work)| Changes { upper, work, volatile });
    // What overlayfs makes for itself has an owner too, which must be one that the layers know.
    let _owner = FsRoot::of(ids.1)?;
    overlay(&lowers, changes, scratch, label)
}
