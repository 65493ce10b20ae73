//! Volumes that an image declares: a directory of the container's own, begun with what the image has there.

use std::fs;
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt, lchown, symlink};
use std::path::{Path, PathBuf};

use super::slot::AnonymousVolume;
use crate::config::{ContainerConfig, MountConfig, MountKind};
use crate::data_root::{DataRoot, make_dir, remove_tree};
use crate::error::Error;

/// The volumes to make: the image's, save where the request mounts something.
pub(super) fn wanted(declared: &[String], config: &ContainerConfig) -> Vec<AnonymousVolume> {
    let asked = |p: &Path| config.mounts.iter().any(|m| m.target == p);
    declared
        .iter()
        .map(PathBuf::from)
        .filter(|p| p.is_absolute() && p.parent().is_some() && !asked(p))
        .filter(|p| !p.components().any(|c| c == std::path::Component::ParentDir))
        .map(|target| AnonymousVolume { id: hex::encode(rand::random::<[u8; 32]>()), target })
        .collect()
}

/// The directory that is mounted.
pub(super) fn data(root: &DataRoot, v: &AnonymousVolume) -> PathBuf {
    root.volume(&v.id).join("_data")
}

pub(super) fn mount(root: &DataRoot, v: &AnonymousVolume) -> MountConfig {
    MountConfig {
        kind: MountKind::Bind { source: data(root, v) },
        target: v.target.clone(),
        read_only: false,
    }
}

/// Makes a volume with the image's content of its path. `lowers` bottom first.
pub(super) fn make(root: &DataRoot, v: &AnonymousVolume, lowers: &[PathBuf]) -> Result<(), Error> {
    let to = data(root, v);
    make_dir(&to, 0o755)?;
    for lower in lowers {
        if let Some(from) = beneath(lower, &v.target) {
            copy_over(&from, &to)?;
        }
    }
    Ok(())
}

pub(super) fn remove(root: &DataRoot, v: &AnonymousVolume) -> Result<(), Error> {
    remove_tree(&root.volume(&v.id))
}

/// The directory `target` of one layer, when no part of the way is a symlink out of it.
fn beneath(lower: &Path, target: &Path) -> Option<PathBuf> {
    let mut at = lower.to_path_buf();
    for part in target.components().skip(1) {
        at.push(part);
        if !fs::symlink_metadata(&at).ok()?.is_dir() {
            return None;
        }
    }
    Some(at)
}

/// Copies one layer's directory over what lower layers gave, whiteouts included.
fn copy_over(from: &Path, to: &Path) -> Result<(), Error> {
    let meta = fs::symlink_metadata(from).map_err(Error::io("read", from))?;
    fs::set_permissions(to, fs::Permissions::from_mode(meta.mode() & 0o7777))
        .map_err(Error::io("set the mode of", to))?;
    lchown(to, Some(meta.uid()), Some(meta.gid())).map_err(Error::io("give an owner to", to))?;
    for entry in fs::read_dir(from).map_err(Error::io("list", from))? {
        let entry = entry.map_err(Error::io("list", from))?;
        let (source, target) = (entry.path(), to.join(entry.file_name()));
        let meta = fs::symlink_metadata(&source).map_err(Error::io("read", &source))?;
        let kind = meta.file_type();
        if kind.is_dir() {
            if !fs::symlink_metadata(&target).is_ok_and(|m| m.is_dir()) {
                remove_tree(&target)?;
                make_dir(&target, 0o700)?;
            }
            copy_over(&source, &target)?;
            continue;
        }
        remove_tree(&target)?;
        if kind.is_symlink() {
            let link = fs::read_link(&source).map_err(Error::io("read", &source))?;
            symlink(link, &target).map_err(Error::io("make symlink", &target))?;
        } else if kind.is_file() {
            fs::copy(&source, &target).map_err(Error::io("copy to", &target))?;
        } else {
            // Whiteouts (0:0) hide what was just removed; other devices do not belong in a volume.
            let whiteout = kind.is_char_device() && meta.rdev() == 0;
            if !whiteout {
                tracing::warn!(path = %source.display(), "a device of the image is not copied into its volume");
            }
            continue;
        }
        lchown(&target, Some(meta.uid()), Some(meta.gid()))
            .map_err(Error::io("give an owner to", &target))?;
        if kind.is_file() {
            // A change of owner clears set-uid.
            fs::set_permissions(&target, fs::Permissions::from_mode(meta.mode() & 0o7777))
                .map_err(Error::io("set the mode of", &target))?;
        }
    }
    Ok(())
}
