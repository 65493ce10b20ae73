//! The file system of a container for the daemon itself: as its processes see it, or as they would if there
//! were any. Paths in it are looked up by [`Root`], so nothing in it leads out.

use std::fs::File;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use nix::sched::{CloneFlags, setns, unshare};

use super::error::{Context, Error};
use super::mounts::FromHost;
use super::resolve::Root;
use super::{mount_api, rootfs, userns};
use crate::mount::MountConfig;
use crate::shim::{HostFiles, Rootfs};
use crate::userns::IdMaps;

/// A root, and the mount namespace that keeps its mounts together as long as this lives.
pub(crate) struct View {
    root: Root,
    _namespace: Option<OwnedFd>,
}

/// What a root file system is put together from.
pub(crate) enum Parts {
    /// Layers alone, topmost first; read-only.
    Image(Vec<PathBuf>),
    /// All that a container has.
    Container {
        /// Its layers and its own changes.
        rootfs: Rootfs,
        /// Its mounts, parents before children.
        mounts: Vec<MountConfig>,
        /// Files of the host over its own.
        host_files: HostFiles,
    },
}

impl View {
    /// What the process `pid` has as its root.
    pub(crate) fn of_process(pid: u32) -> Result<Self, Error> {
        let namespace = format!("/proc/{pid}/ns/mnt");
        let root = format!("/proc/{pid}/root");
        Ok(Self {
            _namespace: Some(File::open(&namespace).on("open", &namespace)?.into()),
            root: Root::at(Path::new(&root)).on("open", &root)?,
        })
    }

    /// The same without what is mounted in it. Blocks.
    pub(crate) fn bare_of_process(pid: u32) -> Result<Self, Error> {
        let path = format!("/proc/{pid}/ns/mnt");
        let namespace = File::open(&path).on("open", &path)?;
        in_thread(move || {
            // A thread that shares its root with others may not enter another mount namespace.
            unshare(CloneFlags::CLONE_FS).on("unshare", "root directory")?;
            setns(&namespace, CloneFlags::CLONE_NEWNS).on("enter", "mount namespace")?;
            let tree = mount_api::clone_path(Path::new("/"), false).on("clone", "root file system")?;
            Ok(Self { root: Root::from(tree), _namespace: None })
        })
    }

    /// Mounts the parts in a mount namespace of their own, with the host's IDs of a container's where those are given;
    /// `scratch` is any directory. Blocks.
    pub(crate) fn assemble(parts: Parts, ids: Option<IdMaps>, scratch: &Path) -> Result<Self, Error> {
        let scratch = scratch.to_path_buf();
        in_thread(move || assemble(&parts, ids.as_ref(), &scratch))
    }

    /// Where paths are looked up.
    pub(crate) fn root(&self) -> &Root {
        &self.root
    }
}

/// Only a thread of its own may have another mount namespace than the daemon.
fn in_thread(work: impl FnOnce() -> Result<View, Error> + Send + 'static) -> Result<View, Error> {
    let thread = std::thread::Builder::new().name("skep-view".into()).spawn(work).on("start", "thread")?;
    thread.join().map_err(|_| Error::Refused("the root file system could not be opened".into()))?
}

fn assemble(parts: &Parts, ids: Option<&IdMaps>, scratch: &Path) -> Result<View, Error> {
    let userns = ids.map(userns::make).transpose()?;
    let mapped = userns.as_ref().zip(ids);
    unshare(CloneFlags::CLONE_NEWNS).on("make", "mount namespace")?;
    let mut from_host = match parts {
        Parts::Image(_) => None,
        Parts::Container { mounts, host_files, .. } => Some(FromHost::collect(host_files, mounts)?),
    };
    rootfs::isolate()?;
    let place = OwnedFd::from(File::open(scratch).on("open", scratch.display())?);
    if let Some(from_host) = &mut from_host {
        from_host.collect_images(&place, mapped)?;
    }
    let tree = match parts {
        Parts::Image(lowers) => rootfs::layers(lowers, &place, mapped)?,
        Parts::Container { rootfs, .. } => rootfs::prepare(rootfs, &place, mapped, "")?,
    };
    mount_api::make_private(&tree).on("make private", "root file system")?;
    mount_api::attach(&tree, &place).on("attach", "root file system")?;
    let root = Root::from(tree);
    // Mount points are made as the container would make them. The thread ends with this.
    let _owner = ids.map(userns::FsRoot::of).transpose()?;
    if let Some(from_host) = from_host {
        from_host.attach_volumes(&root, "")?;
    }
    let namespace = "/proc/thread-self/ns/mnt";
    Ok(View { root, _namespace: Some(File::open(namespace).on("open", namespace)?.into()) })
}
