//! What is mounted into a container: the kernel's file systems, the host's files, volumes and tmpfs.

use std::io;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use nix::fcntl::OFlag;
use nix::sys::stat::{SFlag, fstat};

use super::cgroup::Cgroup;
use super::error::{Context, Error};
use super::mount_api::{self, FsContext, NODEV, NOEXEC, NOSUID, RDONLY};
use super::resolve::{self, Root};
use crate::config::{MountConfig, MountKind};
use crate::shim::ShimSpec;

const STRICT: u64 = NOSUID | NODEV | NOEXEC;
const DEFAULT_SHM: u64 = 64 << 20;

/// Mounts taken from the host before its root is out of reach.
pub struct FromHost {
    files: Vec<(OwnedFd, PathBuf)>,
    volumes: Vec<(Option<OwnedFd>, MountConfig)>,
    cgroups: Vec<(OwnedFd, String)>,
}

impl FromHost {
    /// Clones what `spec` binds.
    pub fn collect(spec: &ShimSpec) -> Result<Self, Error> {
        let given = [
            (&spec.host_files.hosts, "/etc/hosts"),
            (&spec.host_files.resolv_conf, "/etc/resolv.conf"),
            (&spec.host_files.hostname, "/etc/hostname"),
        ];
        let mut files = Vec::new();
        for (source, target) in given {
            if let Some(source) = source {
                let tree = mount_api::clone_path(source, false).on("bind", source.display())?;
                files.push((tree, PathBuf::from(target)));
            }
        }
        let mut volumes = Vec::new();
        for m in &spec.mounts {
            if !m.target.is_absolute() {
                return Err(Error::Refused(format!("mount target {:?} is not an absolute path", m.target)));
            }
            let tree = match &m.kind {
                MountKind::Bind { source } => Some(bind(source, m.read_only)?),
                MountKind::Tmpfs { .. } => None,
            };
            volumes.push((tree, m.clone()));
        }
        Ok(Self { files, volumes, cgroups: Vec::new() })
    }

    /// Clones the container's directories in the hierarchies of cgroups v1, once they exist.
    pub fn collect_cgroups(&mut self, cgroup: &Cgroup, read_only: bool) -> Result<(), Error> {
        for (name, path) in cgroup.views() {
            let tree = mount_api::clone_path(path, false).on("bind cgroup", path.display())?;
            let attributes = if read_only { STRICT | RDONLY } else { STRICT };
            mount_api::set_attributes(&tree, attributes, false).on("protect cgroup", path.display())?;
            self.cgroups.push((tree, name));
        }
        Ok(())
    }

    /// Mounts the kernel's file systems.
    pub fn attach_kernel(&self, root: &Root, spec: &ShimSpec) -> Result<(), Error> {
        let protect = if spec.privileged { 0 } else { RDONLY };
        kernel(root, "proc", "/proc", STRICT, &[])?;
        kernel(root, "tmpfs", "/dev", NOSUID, &[("mode", "755"), ("size", "65536k")])?;
        let pts = [("newinstance", ""), ("ptmxmode", "0666"), ("mode", "0620"), ("gid", "5")];
        kernel(root, "devpts", "/dev/pts", NOSUID | NOEXEC, &pts)?;
        let size = if spec.shm_size == 0 { DEFAULT_SHM } else { spec.shm_size }.to_string();
        kernel(root, "tmpfs", "/dev/shm", STRICT, &[("mode", "1777"), ("size", &size)])?;
        kernel(root, "mqueue", "/dev/mqueue", STRICT, &[])?;
        kernel(root, "sysfs", "/sys", STRICT | protect, &[])?;
        if super::cgroup::version() == 2 || self.cgroups.is_empty() {
            return kernel(root, "cgroup2", "/sys/fs/cgroup", STRICT | protect, &[]);
        }
        let top = kernel_tree("tmpfs", STRICT, &[("mode", "755")])?;
        let place = directory(root, "/sys/fs/cgroup")?;
        mount_api::attach(&top, &place).on("mount", "/sys/fs/cgroup")?;
        for (tree, name) in &self.cgroups {
            let path = Path::new("/sys/fs/cgroup").join(name);
            let place = root.directory(&path).on("make", path.display())?;
            mount_api::attach(tree, place).on("mount", path.display())?;
        }
        mount_api::set_attributes(&top, protect, false).on("protect", "/sys/fs/cgroup")
    }

    /// Mounts the host's files, then volumes and tmpfs over whatever is there.
    pub fn attach_volumes(&self, root: &Root) -> Result<(), Error> {
        for (tree, target) in &self.files {
            let place = root.file(target).on("make mount point", target.display())?;
            mount_api::attach(tree, place).on("mount", target.display())?;
        }
        for (tree, config) in &self.volumes {
            let target = config.target.display();
            let (tree, is_directory) = match (tree, &config.kind) {
                (Some(tree), _) => (tree, is_directory(tree).on("examine", &target)?),
                (None, MountKind::Tmpfs { size, mode }) => (&tmpfs(*size, *mode, config.read_only)?, true),
                (None, MountKind::Bind { .. }) => continue,
            };
            let place = if is_directory { root.directory(&config.target) } else { root.file(&config.target) };
            mount_api::attach(tree, place.on("make mount point", &target)?).on("mount", &target)?;
        }
        Ok(())
    }
}

fn bind(source: &Path, read_only: bool) -> Result<OwnedFd, Error> {
    let tree = match mount_api::clone_path(source, true) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => {
            return Err(Error::Refused(format!("bind source path does not exist: {}", source.display())));
        }
        other => other.on("bind", source.display())?,
    };
    mount_api::make_private(&tree).on("make private", source.display())?;
    if read_only {
        mount_api::set_attributes(&tree, RDONLY, true).on("make read-only", source.display())?;
    }
    Ok(tree)
}

fn tmpfs(size: Option<u64>, mode: Option<u32>, read_only: bool) -> Result<OwnedFd, Error> {
    let mode = format!("{:o}", mode.unwrap_or(0o1777));
    let size = size.filter(|s| *s > 0).map(|s| s.to_string());
    let mut options = vec![("mode", mode.as_str())];
    options.extend(size.as_deref().map(|s| ("size", s)));
    kernel_tree("tmpfs", STRICT | if read_only { RDONLY } else { 0 }, &options)
}

fn is_directory(tree: &OwnedFd) -> io::Result<bool> {
    Ok(fstat(tree)?.st_mode & SFlag::S_IFMT.bits() == SFlag::S_IFDIR.bits())
}

/// A detached mount of a file system that needs no device.
pub fn kernel_tree(kind: &str, attributes: u64, options: &[(&str, &str)]) -> Result<OwnedFd, Error> {
    let context = FsContext::open(kind).on("open file system", kind)?;
    context.set("source", kind).on("set source of", kind)?;
    for (key, value) in options {
        match value.is_empty() {
            true => context.flag(key),
            false => context.set(key, value),
        }
        .on("set", format_args!("{kind} {key}={value}"))?;
    }
    context.mount(attributes).on("mount", kind)
}

fn kernel(
    root: &Root,
    kind: &str,
    target: &str,
    attributes: u64,
    options: &[(&str, &str)],
) -> Result<(), Error> {
    let tree = kernel_tree(kind, attributes, options)?;
    mount_api::attach(&tree, directory(root, target)?).on("mount", target)
}

/// The directory itself: an image that has a link in its place is up to no good.
fn directory(root: &Root, path: &str) -> Result<OwnedFd, Error> {
    let flags = OFlag::O_PATH | OFlag::O_DIRECTORY;
    match root.open(Path::new(path), flags, resolve::NO_SYMLINKS) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => root.directory(Path::new(path)).on("make", path),
        Err(e) if matches!(e.raw_os_error(), Some(libc::ELOOP | libc::ENOTDIR)) => {
            Err(Error::Refused(format!("{path} of the root file system is not a directory")))
        }
        other => other.on("open", path),
    }
}
