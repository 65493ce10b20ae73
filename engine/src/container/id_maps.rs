//! Containers with a user namespace (`--userns-remap`): what they cannot share with the host, and whose IDs they have.

use std::path::Path;

use crate::config::{Container, ContainerConfig, IpcMode, NetworkMode, PidMode};
use crate::data_root::{DataRoot, make_dir, remove_tree};
use crate::engine::Engine;
use crate::error::Error;
use crate::runtime::{Parts, View};
use crate::shim::spec::{HostFiles, Rootfs};
use crate::userns::IdMaps;

/// Refuses what cannot be had in a user namespace, in Docker's words where it has any.
pub(super) fn check(c: &ContainerConfig, external: bool) -> Result<(), Error> {
    let refused = |why: &str| Err(Error::Invalid(why.to_owned()));
    if c.privileged {
        return refused(
            "privileged mode is incompatible with user namespaces.  You must run the container in the host namespace when running privileged mode",
        );
    }
    if c.network == NetworkMode::Host {
        return refused("cannot share the host's network namespace when user namespaces are enabled");
    }
    if c.pid_mode == PidMode::Host {
        return refused("cannot share the host PID namespace when user namespaces are enabled");
    }
    if c.ipc_mode == Some(IpcMode::Host) {
        return refused(
            "cannot share the host IPC namespace when user namespaces are enabled: run it with --userns host",
        );
    }
    if c.host_cgroupns == Some(true) && crate::runtime::cgroup::version() == 2 {
        return refused(
            "cannot share the host cgroup namespace when user namespaces are enabled: run it with --userns host",
        );
    }
    if external {
        return refused(
            "user namespaces are not given to containers of another runtime yet: run it with --runtime skep or --userns host",
        );
    }
    Ok(())
}

impl Engine {
    /// The IDs that a container's next start gives it; none = the host's.
    pub(super) fn next_ids(&self, c: &ContainerConfig) -> Option<IdMaps> {
        self.userns().filter(|_| !c.host_userns).cloned()
    }

    /// The IDs that a container's files are seen with on the host: those of its last start, or of its first one to come.
    pub(super) fn ids_of(&self, c: &Container) -> Option<IdMaps> {
        match c.started_at_ns {
            0 => self.next_ids(&c.config),
            _ => c.id_maps.clone(),
        }
    }
}

/// Mounts a container's root file system with these IDs, to see whether kernel and file system can.
pub(crate) fn try_id_maps(ids: &IdMaps, root: &DataRoot) -> Result<(), Error> {
    let dir = root.temporary().join("id-maps");
    let failed = |why: String| {
        Error::Invalid(format!(
            "user namespaces (--userns-remap) cannot be given to containers here: {why}. They need Linux 5.19, and a data root on a file system with id-mapped mounts (ext4, xfs, btrfs, tmpfs since 6.3)"
        ))
    };
    for name in ["lower", "upper", "work"] {
        make_dir(&dir.join(name), 0o755)?;
    }
    let rootfs = Rootfs::Overlay {
        lowers: vec![dir.join("lower")],
        upper: dir.join("upper"),
        work: dir.join("work"),
        volatile: false,
    };
    let parts = Parts::Container { rootfs, mounts: Vec::new(), host_files: HostFiles::default() };
    let seen = View::assemble(parts, Some(ids.clone()), &root.temporary())
        .map_err(|e| failed(e.to_string()))
        .and_then(|view| {
            let top = view.root().locate(Path::new("/")).map_err(Error::io("open", "/"))?;
            nix::sys::stat::fstat(&top).map_err(|e| failed(e.to_string()))
        });
    let removed = remove_tree(&dir);
    let seen = seen?;
    removed?;
    match (seen.st_uid, seen.st_gid) == ids.root() {
        true => Ok(()),
        false => Err(failed(format!("the files of its root are {}:{}", seen.st_uid, seen.st_gid))),
    }
}
