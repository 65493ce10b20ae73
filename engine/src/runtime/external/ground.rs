//! What a container of another runtime stands on: its root file system and its binds, mounted in the bundle, in a
//! mount namespace that is the shim's alone. Nothing of it shows on the host, and the kernel takes all of it away
//! with the shim, however that ends. Binds are made as for our own runtime: below the source whatever is written in
//! a subpath, read-only all the way down.

use std::fs::File;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, setns, unshare};

use super::super::error::{Context, Error};
use super::super::mount_api::{self, RDONLY};
use super::super::mounts::{FromHost, is_directory};
use super::super::rootfs;
use crate::mount::{MountConfig, MountKind};
use crate::shim::ShimSpec;

/// Where in the bundle the root file system is.
pub const ROOTFS: &str = "rootfs";
/// Where in the bundle the binds are.
const BINDS: &str = "mounts";
/// Where our own init is in the container.
pub const INIT: &str = "/sbin/docker-init";

/// A mount that is ready to be bound.
pub struct Ready {
    /// Where it is in the bundle; none for a tmpfs.
    pub source: Option<PathBuf>,
    /// What it is to be in the container.
    pub config: MountConfig,
}

/// The shim's own mounts.
pub struct Ground {
    /// The container's mounts, in order.
    pub mounts: Vec<Ready>,
    host: OwnedFd,
    bundle: OwnedFd,
}

impl Ground {
    /// Enters a new mount namespace and mounts it all. `bundle` is the working directory.
    pub fn prepare(spec: &ShimSpec, bundle: &Path) -> Result<Self, Error> {
        let host = OwnedFd::from(File::open("/proc/self/ns/mnt").on("open", "/proc/self/ns/mnt")?);
        let bundle = OwnedFd::from(File::open(bundle).on("open", "bundle")?);
        unshare(CloneFlags::CLONE_NEWNS).on("make", "mount namespace")?;
        // From here on dropping it leads back.
        let mut ground = Self { mounts: Vec::new(), host, bundle };
        let mut from_host = FromHost::collect(&spec.host_files, &spec.mounts)?;
        // What the host unmounts must not be held here.
        mount(None::<&str>, "/", None::<&str>, MsFlags::MS_REC | MsFlags::MS_SLAVE, None::<&str>)
            .on("make a slave of the host's", "mounts")?;
        std::fs::create_dir_all(ROOTFS).on("make", ROOTFS)?;
        let place = OwnedFd::from(File::open(ROOTFS).on("open", ROOTFS)?);
        from_host.collect_images(&place, None)?;
        let tree = rootfs::prepare(&spec.rootfs, &place, None, &spec.confined.mount_label)?;
        mount_api::make_private(&tree).on("make private", "root file system")?;
        mount_api::attach(&tree, &place).on("attach", "root file system")?;
        ground.place(spec, from_host)?;
        Ok(ground)
    }

    fn place(&mut self, spec: &ShimSpec, from_host: FromHost) -> Result<(), Error> {
        let (files, mounts) = from_host.into_parts();
        let files = files.into_iter().map(|(tree, target)| {
            let config = MountConfig::new(MountKind::bind(&target), target, false);
            (Some(tree), config)
        });
        let mut all: Vec<(Option<OwnedFd>, MountConfig)> = files.chain(mounts).collect();
        if let Some(exe) = spec.init_exe.as_ref().filter(|_| spec.init) {
            let tree = mount_api::clone_path(exe, false).on("bind", exe.display())?;
            mount_api::make_private(&tree).on("make private", exe.display())?;
            mount_api::set_attributes(&tree, RDONLY, false).on("protect", exe.display())?;
            all.push((Some(tree), MountConfig::new(MountKind::bind(exe), INIT, true)));
        }
        for (i, (tree, config)) in all.into_iter().enumerate() {
            let Some(tree) = tree else {
                self.mounts.push(Ready { source: None, config });
                continue;
            };
            let path = Path::new(BINDS).join(i.to_string());
            std::fs::create_dir_all(BINDS).on("make", BINDS)?;
            match is_directory(&tree).on("examine", config.target.display())? {
                true => std::fs::create_dir_all(&path).on("make", path.display())?,
                false => drop(File::create(&path).on("make", path.display())?),
            }
            let place = OwnedFd::from(File::open(&path).on("open", path.display())?);
            mount_api::attach(&tree, place).on("mount", config.target.display())?;
            self.mounts.push(Ready { source: Some(path), config });
        }
        Ok(())
    }
}

impl Drop for Ground {
    fn drop(&mut self) {
        // Leaving it ends the namespace. A failure leaves the mounts in place until the shim ends, as it is about to.
        let _ = setns(&self.host, CloneFlags::CLONE_NEWNS);
        let _ = nix::unistd::fchdir(&self.bundle);
    }
}
