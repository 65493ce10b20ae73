//! What is mounted into a container: the kernel's file systems, the host's files, volumes and tmpfs.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};

use nix::fcntl::OFlag;
use nix::sys::stat::{SFlag, fstat};

use super::cgroup::Cgroup;
use super::error::{Context, Error};
use super::mount_api::{self, FsContext, NODEV, NOEXEC, NOSUID, RDONLY};
use super::mountinfo;
use super::resolve::{self, Root};
use super::rootfs::{self, Mapped};
use crate::mount::{BindOptions, ImageOptions, MountConfig, MountKind, Propagation, TmpfsOptions};
use crate::shim::{HostFiles, SHM_DIRECTORY, ShimSpec, Shm};
use crate::userns::IdMaps;

const STRICT: u64 = NOSUID | NODEV | NOEXEC;
/// Options of /dev.
pub const DEV: [(&str, &str); 2] = [("mode", "755"), ("size", "65536k")];
const DEFAULT_SHM: u64 = 64 << 20;

/// Mounts taken from the host before its root is out of reach.
pub struct FromHost {
    files: Vec<(OwnedFd, PathBuf)>,
    volumes: Vec<(Option<OwnedFd>, MountConfig)>,
    shm: Option<OwnedFd>,
    cgroups: Vec<(OwnedFd, String)>,
}

impl FromHost {
    /// Clones what is bound. Done before this mount namespace is cut off from the host's, so that a bind that is to
    /// stay connected with the host still is.
    pub fn collect(host_files: &HostFiles, mounts: &[MountConfig]) -> Result<Self, Error> {
        let given = [
            (&host_files.hosts, "/etc/hosts"),
            (&host_files.resolv_conf, "/etc/resolv.conf"),
            (&host_files.hostname, "/etc/hostname"),
        ];
        let mut files = Vec::new();
        for (source, target) in given {
            if let Some(source) = source {
                let tree = mount_api::clone_path(source, false).on("bind", source.display())?;
                mount_api::set_propagation(&tree, libc::MS_PRIVATE, true)
                    .on("make private", source.display())?;
                files.push((tree, PathBuf::from(target)));
            }
        }
        let mut volumes = Vec::new();
        for m in mounts {
            if !m.target.is_absolute() {
                return Err(Error::Refused(format!("mount target {:?} is not an absolute path", m.target)));
            }
            let tree = match &m.kind {
                MountKind::Bind { source, options } => Some(bind(source, options, m.read_only)?),
                MountKind::Tmpfs { .. } | MountKind::Image { .. } => None,
                MountKind::Volume { name, .. } => {
                    return Err(Error::Refused(format!("volume {name:?} has no place on the host")));
                }
            };
            volumes.push((tree, m.clone()));
        }
        Ok(Self { files, volumes, shm: None, cgroups: Vec::new() })
    }

    /// Mounts images, and gives what has a container's IDs on the disk the host's. Done after this mount namespace was cut
    /// off from the host's; `scratch` is any directory.
    pub fn collect_images(&mut self, scratch: &OwnedFd, ids: Option<Mapped<'_>>) -> Result<(), Error> {
        for (tree, config) in &mut self.volumes {
            match (&config.kind, &tree, ids) {
                (MountKind::Image { name, options }, ..) => {
                    *tree = Some(image(name, options, scratch, ids)?);
                }
                (MountKind::Bind { source, options }, Some(tree), Some(ids)) if options.own_ids => {
                    mount_api::set_id_map(tree, ids.0).on("map the IDs of", source.display())?;
                }
                _ => {}
            }
        }
        Ok(())
    }

    /// The host's files and the mounts, each with its target; a tmpfs has no tree yet.
    pub fn into_parts(self) -> (Vec<(OwnedFd, PathBuf)>, Vec<(Option<OwnedFd>, MountConfig)>) {
        (self.files, self.volumes)
    }

    /// Clones shared memory that is not the container's alone.
    pub fn collect_shm(&mut self, shm: &Shm) -> Result<(), Error> {
        let path = match shm {
            Shm::Shared => Path::new(SHM_DIRECTORY),
            Shm::Path(path) => path.as_path(),
            Shm::Private | Shm::None => return Ok(()),
        };
        let tree = mount_api::clone_path(path, false).on("bind", path.display())?;
        mount_api::set_propagation(&tree, libc::MS_PRIVATE, true).on("make private", path.display())?;
        self.shm = Some(tree);
        Ok(())
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

    /// Mounts the kernel's file systems, and a /dev that is made already.
    pub fn attach_kernel(&self, root: &Root, spec: &ShimSpec, dev: Option<&OwnedFd>) -> Result<(), Error> {
        let protect = if spec.privileged { 0 } else { RDONLY };
        let label = context(&spec.confined.mount_label);
        kernel(root, "proc", "/proc", STRICT, &[])?;
        match dev {
            Some(tree) => mount_api::attach(tree, directory(root, "/dev")?).on("mount", "/dev")?,
            None => kernel(root, "tmpfs", "/dev", NOSUID, &[&DEV[..], &label].concat())?,
        }
        let pts = [("newinstance", ""), ("ptmxmode", "0666"), ("mode", "0620"), ("gid", "5")];
        kernel(root, "devpts", "/dev/pts", NOSUID | NOEXEC, &[&pts[..], &label].concat())?;
        match (&spec.shm, &self.shm) {
            (Shm::None, _) => {}
            (_, Some(tree)) => {
                mount_api::set_attributes(tree, STRICT, false).on("protect", "/dev/shm")?;
                mount_api::attach(tree, directory(root, "/dev/shm")?).on("mount", "/dev/shm")?;
            }
            (_, None) => {
                let size = shm_size(spec);
                let options = [&[("mode", "1777"), ("size", &*size)][..], &label].concat();
                kernel(root, "tmpfs", "/dev/shm", STRICT, &options)?;
            }
        }
        kernel(root, "mqueue", "/dev/mqueue", STRICT, &label)?;
        kernel(root, "sysfs", "/sys", STRICT | protect, &[])?;
        if super::cgroup::version() == 2 || self.cgroups.is_empty() {
            return kernel(root, "cgroup2", "/sys/fs/cgroup", STRICT | protect, &[]);
        }
        let top = kernel_tree("tmpfs", STRICT, &[&[("mode", "755")][..], &label].concat())?;
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
    pub fn attach_volumes(&self, root: &Root, label: &str) -> Result<(), Error> {
        for (tree, target) in &self.files {
            let place = root.file(target).on("make mount point", target.display())?;
            mount_api::attach(tree, place).on("mount", target.display())?;
        }
        for (tree, config) in &self.volumes {
            let target = config.target.display();
            let (tree, is_directory) = match (tree, &config.kind) {
                (Some(tree), _) => (tree, is_directory(tree).on("examine", &target)?),
                (None, MountKind::Tmpfs { size, mode, options }) => {
                    (&tmpfs(*size, *mode, options, config.read_only, label)?, true)
                }
                (None, MountKind::Bind { .. } | MountKind::Volume { .. } | MountKind::Image { .. }) => {
                    continue;
                }
            };
            let place = if is_directory { root.directory(&config.target) } else { root.file(&config.target) };
            let place = match place {
                Err(e) if e.kind() == io::ErrorKind::NotADirectory => return Err(mismatched(&config.target)),
                other => other.on("make mount point", &target)?,
            };
            refuse_in_proc(root, &place, tree, &config.target)?;
            if is_directory != self::is_directory(&place).on("examine", &target)? {
                return Err(mismatched(&config.target));
            }
            mount_api::attach(tree, place).on("mount", &target)?;
        }
        Ok(())
    }
}

/// In Docker's words, which tell what is likely wrong.
fn mismatched(target: &Path) -> Error {
    Error::Refused(format!(
        "mount {}: not a directory: Are you trying to mount a directory onto a file (or vice-versa)? Check if the specified host path exists and is the expected type",
        target.display()
    ))
}

/// Files of /proc that may be covered: what they tell is only numbers.
const PROC_FILES: [&str; 10] = [
    "/proc/cpuinfo",
    "/proc/diskstats",
    "/proc/loadavg",
    "/proc/meminfo",
    "/proc/slabinfo",
    "/proc/stat",
    "/proc/swaps",
    "/proc/sys/crypto/fips_enabled",
    "/proc/sys/kernel/ns_last_pid",
    "/proc/uptime",
];

/// A mount in /proc could stand in for what we and others write there (attributes, sysctls), or cover what is
/// masked; an image's link may lead there from anywhere.
fn refuse_in_proc(root: &Root, place: &OwnedFd, tree: &OwnedFd, target: &Path) -> Result<(), Error> {
    let is_proc = |fd: &OwnedFd| {
        let kind = nix::sys::statfs::fstatfs(fd).on("examine", target.display())?.filesystem_type();
        Ok::<_, Error>(kind == nix::sys::statfs::PROC_SUPER_MAGIC)
    };
    if !is_proc(place)? {
        return Ok(());
    }
    let path = |fd: std::os::fd::BorrowedFd<'_>| {
        std::fs::read_link(resolve::fd_path(fd)).on("examine", target.display())
    };
    // As the container will have it: its root need not be the root yet.
    let (top, full) = (path(root.as_fd())?, path(place.as_fd())?);
    let at = full.strip_prefix(&top).map_or(full.clone(), |rest| Path::new("/").join(rest));
    let refused = if at == Path::new("/proc") {
        if is_proc(tree)? { None } else { Some("it is not of type proc") }
    } else {
        let plain = PROC_FILES.iter().any(|f| at == Path::new(f));
        if plain { None } else { Some("it is inside /proc") }
    };
    match refused {
        None => Ok(()),
        Some(why) => Err(Error::Refused(format!("{target:?} cannot be mounted because {why}"))),
    }
}

/// The option that gives all files of a file system an SELinux label, where there is one.
pub fn context(label: &str) -> Vec<(&str, &str)> {
    if label.is_empty() { Vec::new() } else { vec![("context", label)] }
}

/// Bytes of /dev/shm.
pub fn shm_size(spec: &ShimSpec) -> String {
    if spec.shm_size == 0 { DEFAULT_SHM } else { spec.shm_size }.to_string()
}

/// Mounts shared memory that other containers may have, in the shim's own directory.
pub fn share_memory(spec: &ShimSpec) -> Result<(), Error> {
    let (uid, gid) = spec.id_maps.as_ref().map_or((0, 0), IdMaps::root);
    let (uid, gid, size) = (uid.to_string(), gid.to_string(), shm_size(spec));
    let options = [("mode", "1777"), ("size", &*size), ("uid", &*uid), ("gid", &*gid)];
    let options = [&options[..], &context(&spec.confined.mount_label)].concat();
    let tree = kernel_tree("tmpfs", STRICT, &options)?;
    std::fs::create_dir_all(SHM_DIRECTORY).on("make", SHM_DIRECTORY)?;
    let place = OwnedFd::from(std::fs::File::open(SHM_DIRECTORY).on("open", SHM_DIRECTORY)?);
    mount_api::attach(&tree, place).on("mount", SHM_DIRECTORY)
}

/// Takes it away again; who has it mounted keeps it.
pub fn unshare_memory(bundle: &Path) -> io::Result<()> {
    let path = bundle.join(SHM_DIRECTORY);
    match nix::mount::umount2(&path, nix::mount::MntFlags::MNT_DETACH) {
        // Never mounted, or gone with the host.
        Err(nix::Error::EINVAL | nix::Error::ENOENT) => Ok(()),
        other => Ok(other?),
    }
}

fn bind(source: &Path, options: &BindOptions, read_only: bool) -> Result<OwnedFd, Error> {
    let shown = match &options.subpath {
        Some(subpath) => source.join(subpath),
        None => source.to_path_buf(),
    };
    let recursive = !options.non_recursive;
    let tree = match &options.subpath {
        None => mount_api::clone_path(source, recursive),
        Some(subpath) => Root::at(source)
            .and_then(|root| root.locate(subpath))
            .and_then(|place| mount_api::clone_tree(place.as_fd(), Path::new(""), recursive)),
    };
    let tree = match tree {
        Err(e) if e.kind() == io::ErrorKind::NotFound => {
            return Err(Error::Refused(format!("bind source path does not exist: {}", shown.display())));
        }
        other => other.on("bind", shown.display())?,
    };
    let (kind, below) = propagation(source, options.propagation)?;
    mount_api::set_propagation(&tree, kind, below).on("set propagation of", shown.display())?;
    let attributes = [(options.nosuid, NOSUID), (options.nodev, NODEV), (options.noexec, NOEXEC)];
    let attributes = attributes.iter().filter(|(wanted, _)| *wanted).fold(0, |all, (_, one)| all | one);
    if attributes != 0 {
        mount_api::set_attributes(&tree, attributes, recursive).on("restrict", shown.display())?;
    }
    if read_only {
        let below = !options.read_only_non_recursive;
        mount_api::set_attributes(&tree, RDONLY, below).on("make read-only", shown.display())?;
    }
    Ok(tree)
}

/// An image's layers, or a part of what they make together.
fn image(
    name: &str,
    options: &ImageOptions,
    scratch: &OwnedFd,
    ids: Option<Mapped<'_>>,
) -> Result<OwnedFd, Error> {
    let tree = rootfs::layers(&options.lowers, scratch, ids)?;
    mount_api::make_private(&tree).on("make private", name)?;
    let Some(subpath) = &options.subpath else { return Ok(tree) };
    // A part can only be taken of what is mounted somewhere.
    mount_api::attach(&tree, scratch).on("attach image", name)?;
    let part = Root::from(tree.try_clone().on("copy", name)?)
        .locate(subpath)
        .and_then(|place| mount_api::clone_tree(place.as_fd(), Path::new(""), false));
    let gone = nix::mount::umount2(&resolve::fd_path(tree.as_fd()), nix::mount::MntFlags::MNT_DETACH);
    let part = match part {
        Err(e) if e.kind() == io::ErrorKind::NotFound => {
            return Err(Error::Refused(format!("image {name} has no {}", subpath.display())));
        }
        other => other.on("take a part of image", name)?,
    };
    gone.map_err(io::Error::from).on("unmount image", name)?;
    mount_api::set_attributes(&part, RDONLY, false).on("protect image", name)?;
    Ok(part)
}

/// The flag of a propagation and whether it holds for mounts below. Refuses one that the source's own mount has no
/// part in, since nothing would ever pass.
fn propagation(source: &Path, wanted: Propagation) -> Result<(u64, bool), Error> {
    let (flag, below) = match wanted {
        Propagation::Private => return Ok((libc::MS_PRIVATE, false)),
        Propagation::Rprivate => return Ok((libc::MS_PRIVATE, true)),
        Propagation::Shared => (libc::MS_SHARED, false),
        Propagation::Rshared => (libc::MS_SHARED, true),
        Propagation::Slave => (libc::MS_SLAVE, false),
        Propagation::Rslave => (libc::MS_SLAVE, true),
    };
    let path = std::fs::canonicalize(source).on("resolve", source.display())?;
    let mounts = mountinfo::read().on("read", "/proc/self/mountinfo")?;
    let Some(mount) = mountinfo::of(&mounts, &path) else { return Ok((flag, below)) };
    let (fits, want) = match flag {
        libc::MS_SHARED => (mount.shared, "a shared mount"),
        _ => (mount.shared || mount.slave, "a shared or slave mount"),
    };
    if !fits {
        return Err(Error::Refused(format!(
            "path {} is mounted on {} but it is not {want}",
            source.display(),
            mount.mount_point.display()
        )));
    }
    Ok((flag, below))
}

fn tmpfs(
    size: Option<u64>,
    mode: Option<u32>,
    options: &TmpfsOptions,
    read_only: bool,
    label: &str,
) -> Result<OwnedFd, Error> {
    let mode = format!("{:o}", mode.unwrap_or(0o1777));
    let size = size.filter(|s| *s > 0).map(|s| s.to_string());
    let mut given = vec![("mode", mode.as_str())];
    given.extend(size.as_deref().map(|s| ("size", s)));
    given.extend(options.more.iter().map(|(k, v)| (k.as_str(), v.as_str())));
    given.extend(context(label));
    let mut attributes = if read_only { RDONLY } else { 0 };
    for (allowed, attribute) in [(options.exec, NOEXEC), (options.suid, NOSUID), (options.dev, NODEV)] {
        attributes |= if allowed { 0 } else { attribute };
    }
    kernel_tree("tmpfs", attributes, &given)
}

/// Whether a tree's top is a directory.
pub fn is_directory(tree: &OwnedFd) -> io::Result<bool> {
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
