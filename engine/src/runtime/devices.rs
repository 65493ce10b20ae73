//! Device nodes of a container's /dev, and which devices its cgroup lets it use.

use std::fmt;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};

use nix::fcntl::OFlag;
use nix::sys::stat::{Mode, SFlag, mknodat};
use nix::unistd::{Gid, Uid, symlinkat};

use super::error::{Context, Error};
use super::resolve::Root;
use super::{mount_api, mounts};
use crate::cdi::{DeviceNode, NodeKind};
use crate::shim::ShimSpec;
use crate::userns::IdMaps;

/// Nodes that every container has: name, major, minor.
const NODES: [(&str, u64, u64); 6] =
    [("null", 1, 3), ("zero", 1, 5), ("full", 1, 7), ("random", 1, 8), ("urandom", 1, 9), ("tty", 5, 0)];

/// Links that every container has.
const LINKS: [(&str, &str); 6] = [
    ("/proc/self/fd", "fd"),
    ("/proc/self/fd/0", "stdin"),
    ("/proc/self/fd/1", "stdout"),
    ("/proc/self/fd/2", "stderr"),
    ("/proc/kcore", "core"),
    ("pts/ptmx", "ptmx"),
];

/// A rule of the device cgroup.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DeviceRule {
    /// `c`, `b` or `a` (both).
    pub kind: char,
    /// Major number; none = any.
    pub major: Option<u32>,
    /// Minor number; none = any.
    pub minor: Option<u32>,
    /// Letters of `rwm`.
    pub access: String,
}

impl fmt::Display for DeviceRule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let number = |n: Option<u32>| n.map_or("*".to_owned(), |n| n.to_string());
        write!(f, "{} {}:{} {}", self.kind, number(self.major), number(self.minor), self.access)
    }
}

impl DeviceRule {
    /// In the form of the OCI runtime specification.
    pub fn oci(&self) -> serde_json::Value {
        let mut out =
            serde_json::json!({ "allow": true, "type": self.kind.to_string(), "access": self.access });
        if let Some(major) = self.major {
            out["major"] = major.into();
        }
        if let Some(minor) = self.minor {
            out["minor"] = minor.into();
        }
        out
    }
}

/// What an ordinary container may use; nodes of any kind may be made (they cannot be opened).
pub fn default_rules() -> Vec<DeviceRule> {
    let rule =
        |kind, major, minor, access: &str| DeviceRule { kind, major, minor, access: access.to_owned() };
    let mut rules = vec![rule('c', None, None, "m"), rule('b', None, None, "m")];
    rules.extend(
        NODES.iter().map(|(_, major, minor)| rule('c', Some(*major as u32), Some(*minor as u32), "rwm")),
    );
    // Consoles, the pty multiplexer and ptys.
    rules.extend([
        rule('c', Some(5), Some(1), "rwm"),
        rule('c', Some(5), Some(2), "rwm"),
        rule('c', Some(136), None, "rwm"),
    ]);
    rules
}

/// The rules of a container's cgroup; none = everything is allowed.
pub fn rules(spec: &ShimSpec, devices: &[Chosen]) -> Result<Option<Vec<DeviceRule>>, Error> {
    if spec.privileged {
        return Ok(None);
    }
    let mut rules = default_rules();
    rules.extend(devices.iter().filter_map(|d| d.rule.clone()));
    for text in &spec.device_rules {
        rules.push(parse_rule(text)?);
    }
    Ok(Some(rules))
}

/// `c 42:* rwm`, as the kernel's documentation of cgroups v1 writes it.
pub fn parse_rule(text: &str) -> Result<DeviceRule, Error> {
    let bad = || Error::Refused(format!("invalid device cgroup rule format: '{text}': give \"c 42:* rwm\""));
    let words: Vec<&str> = text.split_whitespace().collect();
    let [kind, numbers, access] = words.as_slice() else { return Err(bad()) };
    let (major, minor) = numbers.split_once(':').ok_or_else(bad)?;
    let number = |n: &str| match n {
        "*" => Ok(None),
        n => n.parse().map(Some).map_err(|_| bad()),
    };
    let kind = match *kind {
        "a" => 'a',
        "b" => 'b',
        "c" => 'c',
        _ => return Err(bad()),
    };
    Ok(DeviceRule {
        kind,
        major: number(major)?,
        minor: number(minor)?,
        access: rights(access).ok_or_else(bad)?,
    })
}

/// One to three letters of `rwm`, each once.
fn rights(text: &str) -> Option<String> {
    let good = !text.is_empty()
        && text.chars().enumerate().all(|(i, c)| "rwm".contains(c) && text.find(c) == Some(i));
    good.then(|| text.to_owned())
}

/// A device that was asked for.
pub struct Chosen {
    /// Its node inside.
    pub node: HostDevice,
    /// None: it may only be there.
    rule: Option<DeviceRule>,
}

impl Chosen {
    fn whole(d: &DeviceNode) -> Self {
        let (kind, letter) = match d.kind {
            NodeKind::Block => (SFlag::S_IFBLK, Some('b')),
            NodeKind::Character => (SFlag::S_IFCHR, Some('c')),
            NodeKind::Pipe => (SFlag::S_IFIFO, None),
        };
        let (mode, number) = (Mode::from_bits_truncate(d.mode), libc::makedev(d.major, d.minor));
        let node = HostDevice { path: d.path.clone(), kind, mode, number, uid: d.uid, gid: d.gid };
        let rule = letter.filter(|_| !d.access.is_empty()).map(|kind| DeviceRule {
            kind,
            major: Some(d.major),
            minor: Some(d.minor),
            access: d.access.clone(),
        });
        Self { node, rule }
    }
}

/// The devices asked for; a directory means all in it. A privileged container has those of the host anyhow.
pub fn chosen(spec: &ShimSpec) -> Result<Vec<Chosen>, Error> {
    let mut found: Vec<Chosen> = spec.device_nodes.iter().map(Chosen::whole).collect();
    for d in spec.devices.iter().filter(|_| !spec.privileged) {
        let shown = d.host.display();
        let access = rights(&d.access)
            .ok_or_else(|| Error::Refused(format!("invalid device mode of {shown}: {}", d.access)))?;
        let failed = |e: io::Error| {
            let reason = match e.kind() {
                io::ErrorKind::NotFound => "no such file or directory".to_owned(),
                _ => e.to_string(),
            };
            Error::Refused(format!(
                "error gathering device information while adding custom device \"{shown}\": {reason}"
            ))
        };
        let host = d.host.canonicalize().map_err(failed)?;
        let mut nodes = Vec::new();
        if host.is_dir() {
            collect(&host, &mut nodes);
            for node in &mut nodes {
                if let Ok(rest) = node.path.strip_prefix(&host) {
                    node.path = d.inside.join(rest);
                }
            }
        } else {
            let meta = host.symlink_metadata().map_err(failed)?;
            nodes.extend(HostDevice::new(d.inside.clone(), &meta));
        }
        if nodes.is_empty() {
            return Err(Error::Refused(format!(
                "error gathering device information while adding custom device \"{shown}\": not a device node"
            )));
        }
        for node in nodes {
            let kind = if node.kind == SFlag::S_IFBLK { 'b' } else { 'c' };
            let (major, minor) = (libc::major(node.number), libc::minor(node.number));
            let rule = DeviceRule { kind, major: Some(major), minor: Some(minor), access: access.clone() };
            found.push(Chosen { node, rule: Some(rule) });
        }
    }
    Ok(found)
}

/// A device node of the host.
#[derive(Clone)]
pub struct HostDevice {
    path: PathBuf,
    kind: SFlag,
    mode: Mode,
    number: u64,
    uid: u32,
    gid: u32,
}

impl HostDevice {
    fn new(path: PathBuf, meta: &std::fs::Metadata) -> Option<Self> {
        let kind = match meta.file_type() {
            t if t.is_char_device() => SFlag::S_IFCHR,
            t if t.is_block_device() => SFlag::S_IFBLK,
            _ => return None,
        };
        let mode = Mode::from_bits_truncate(meta.mode() & 0o7777);
        Some(Self { path, kind, mode, number: meta.rdev(), uid: meta.uid(), gid: meta.gid() })
    }
}

impl HostDevice {
    /// In the form of the OCI runtime specification.
    pub fn oci(&self) -> serde_json::Value {
        let kind = match self.kind {
            SFlag::S_IFBLK => "b",
            SFlag::S_IFIFO => "p",
            _ => "c",
        };
        serde_json::json!({
            "path": self.path, "type": kind,
            "major": libc::major(self.number), "minor": libc::minor(self.number),
            "fileMode": self.mode.bits(), "uid": self.uid, "gid": self.gid,
        })
    }
}

/// The nodes of a container: those chosen for it, and for a privileged one all of the host's beside them.
pub fn nodes(spec: &ShimSpec, chosen: &[Chosen]) -> Vec<HostDevice> {
    let mut nodes: Vec<HostDevice> = chosen.iter().map(|d| d.node.clone()).collect();
    if spec.privileged {
        let hosts = host_devices();
        nodes.extend(hosts.into_iter().filter(|h| chosen.iter().all(|d| d.node.path != h.path)));
    }
    nodes
}

/// All device nodes of the host.
fn host_devices() -> Vec<HostDevice> {
    let mut found = Vec::new();
    collect(Path::new("/dev"), &mut found);
    found
}

fn collect(directory: &Path, found: &mut Vec<HostDevice>) {
    // Devices come and go: what cannot be read any more is not there.
    for entry in std::fs::read_dir(directory).into_iter().flatten().flatten() {
        let (path, Ok(meta)) = (entry.path(), entry.path().symlink_metadata()) else { continue };
        let own = ["pts", "shm", "mqueue", "fd"]
            .iter()
            .any(|n| directory == Path::new("/dev") && entry.file_name() == *n);
        if meta.is_dir() && !own {
            collect(&path, found);
        } else if !matches!(path.to_str(), Some("/dev/console" | "/dev/ptmx")) {
            found.extend(HostDevice::new(path, &meta));
        }
    }
}

/// The container's own null device; where something else is in its place, what reads as empty.
pub fn null(root: &Root) -> Result<OwnedFd, Error> {
    // Nonblocking: a FIFO in that place must not hold us up.
    let flags = OFlag::O_RDONLY | OFlag::O_NOCTTY | OFlag::O_NONBLOCK;
    if let Ok(fd) = root.open(Path::new("/dev/null"), flags, 0)
        && is_null(&fd).on("examine", "/dev/null")?
    {
        nix::fcntl::fcntl(&fd, nix::fcntl::FcntlArg::F_SETFL(OFlag::empty())).on("set up", "/dev/null")?;
        return Ok(fd);
    }
    let (read, _) = nix::unistd::pipe2(OFlag::O_CLOEXEC).on("make", "pipe")?;
    Ok(read)
}

/// Whether it is the null device.
pub fn is_null(fd: &OwnedFd) -> io::Result<bool> {
    let meta = nix::sys::stat::fstat(fd)?;
    let kind = SFlag::from_bits_truncate(meta.st_mode) & SFlag::S_IFMT;
    Ok(kind == SFlag::S_IFCHR && meta.st_rdev == libc::makedev(1, 3))
}

/// A /dev of its own with its nodes, detached, for a container whose root may make none: everything in it is that root's
/// but what has another owner.
pub fn tree(nodes: &[HostDevice], maps: &IdMaps, label: &str) -> Result<OwnedFd, Error> {
    let (uid, gid) = maps.root();
    let (uid, gid) = (uid.to_string(), gid.to_string());
    let options = [&mounts::DEV[..], &[("uid", &*uid), ("gid", &*gid)]].concat();
    let tree =
        mounts::kernel_tree("tmpfs", mount_api::NOSUID, &[&options[..], &mounts::context(label)].concat())?;
    let before = nix::sys::stat::umask(Mode::empty());
    let root = Root::from(tree.try_clone().on("copy", "/dev")?);
    let filled = fill(&root, "/", nodes, Some(maps));
    nix::sys::stat::umask(before);
    filled.map(|()| tree)
}

/// Fills the fresh /dev of `root`. The umask must be 0.
pub fn populate(root: &Root, nodes: &[HostDevice]) -> Result<(), Error> {
    fill(root, "/dev", nodes, None)
}

/// `at` is where /dev is below `root`.
fn fill(root: &Root, at: &str, nodes: &[HostDevice], maps: Option<&IdMaps>) -> Result<(), Error> {
    let dev = root.directory(Path::new(at)).on("open", "/dev")?;
    let own = |dir: &OwnedFd, name: &std::ffi::OsStr, uid: u32, gid: u32| {
        let (uid, gid) = match maps {
            None => (uid, gid),
            Some(maps) => maps.to_host(uid, gid).unwrap_or(maps.root()),
        };
        let flags = nix::fcntl::AtFlags::AT_SYMLINK_NOFOLLOW;
        nix::unistd::fchownat(dir, name, Some(Uid::from_raw(uid)), Some(Gid::from_raw(gid)), flags)
            .map_err(io::Error::from)
            .on("own node", name.display())
    };
    for (name, major, minor) in NODES {
        let mode = Mode::from_bits_truncate(0o666);
        mknodat(&dev, name, SFlag::S_IFCHR, mode, libc::makedev(major as u32, minor as u32))
            .on("make /dev node", name)?;
        own(&dev, name.as_ref(), 0, 0)?;
    }
    for (target, name) in LINKS {
        symlinkat(target, &dev, name).on("make /dev link", name)?;
    }
    for device in nodes {
        let shown = device.path.display();
        let path = match maps {
            None => device.path.clone(),
            // The rest of the file system is not to be reached from here.
            Some(_) => match device.path.strip_prefix("/dev") {
                Ok(rest) => Path::new("/").join(rest),
                Err(_) => {
                    return Err(Error::Refused(format!(
                        "device {shown}: in a user namespace devices can only be below /dev"
                    )));
                }
            },
        };
        let parent = root.directory(path.parent().unwrap_or(Path::new(at))).on("make", &shown)?;
        let name = path.file_name().unwrap_or_default();
        match mknodat(&parent, name, device.kind, device.mode, device.number) {
            Err(nix::Error::EEXIST) => continue,
            other => other.on("make node", &shown)?,
        }
        own(&parent, name, device.uid, device.gid)?;
    }
    Ok(())
}
