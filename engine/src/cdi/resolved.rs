//! What containers get of the devices they ask for, in the terms of our own runtime; what those have no word for is
//! refused by name.

use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use super::spec::{Edits, Hook, Mount, Node};
use crate::mount::{BindOptions, MountConfig, MountKind, Propagation, TmpfsOptions};
use crate::shim::ShimSpec;

/// What a device node is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum NodeKind {
    /// A block device.
    Block,
    /// A character device.
    Character,
    /// A named pipe.
    Pipe,
}

/// A device node with all that is to be known of it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DeviceNode {
    /// Where it is in the container.
    pub path: PathBuf,
    /// What it is.
    pub kind: NodeKind,
    /// Major number.
    pub major: u32,
    /// Minor number.
    pub minor: u32,
    /// Mode bits.
    pub mode: u32,
    /// Owner in the container.
    pub uid: u32,
    /// Group in the container.
    pub gid: u32,
    /// Letters of `rwm`; empty = none.
    pub access: String,
}

/// All of it, in order.
#[derive(Debug, Default)]
pub struct Resolved {
    /// `NAME=value`.
    pub env: Vec<String>,
    nodes: Vec<DeviceNode>,
    mounts: Vec<MountConfig>,
    hooks: Vec<Hook>,
    groups: Vec<String>,
}

impl Resolved {
    pub(super) fn add(&mut self, edits: &Edits) -> Result<(), String> {
        self.env.extend(edits.env.iter().cloned());
        for node in edits.device_nodes.iter().map(DeviceNode::of) {
            let node = node?;
            self.nodes.retain(|n| n.path != node.path);
            self.nodes.push(node);
        }
        for mount in edits.mounts.iter().map(mount) {
            let mount = mount?;
            self.mounts.retain(|m| !m.is_at(&mount.target));
            self.mounts.push(mount);
        }
        self.hooks.extend(edits.hooks.iter().cloned());
        self.groups.extend(edits.additional_gids.iter().filter(|g| **g != 0).map(u32::to_string));
        Ok(())
    }

    /// Gives it to a container: over what that has of its own at the same places.
    pub(crate) fn apply(self, spec: &mut ShimSpec) {
        for variable in self.env {
            let name = |v: &str| v.split('=').next().unwrap_or_default().to_owned();
            spec.env.retain(|v| name(v) != name(&variable));
            spec.env.push(variable);
        }
        spec.devices.retain(|d| self.nodes.iter().all(|n| n.path != d.inside));
        spec.device_nodes.extend(self.nodes);
        spec.mounts.retain(|m| self.mounts.iter().all(|ours| !ours.is_at(&m.target)));
        spec.mounts.extend(self.mounts);
        spec.mounts.sort_by_key(|m| m.target.components().count());
        spec.hooks.extend(self.hooks);
        spec.groups.extend(self.groups);
    }
}

impl DeviceNode {
    /// As the specification has it, the rest as the host's node has it.
    fn of(node: &Node) -> Result<Self, String> {
        let host = if node.host_path.as_os_str().is_empty() { &node.path } else { &node.host_path };
        let asked = match node.kind.as_str() {
            "b" => Some(NodeKind::Block),
            "c" | "u" => Some(NodeKind::Character),
            "p" => Some(NodeKind::Pipe),
            _ => None,
        };
        let complete = asked.filter(|kind| node.major != 0 || *kind == NodeKind::Pipe);
        let (kind, major, minor) = match complete {
            Some(kind) => (kind, node.major, node.minor),
            None => {
                let meta = host.symlink_metadata().map_err(|e| {
                    let why = match e.kind() {
                        std::io::ErrorKind::NotFound => "no such file or directory".to_owned(),
                        _ => e.to_string(),
                    };
                    format!("failed to stat CDI host device {host:?}: {why}")
                })?;
                let kind = match meta.file_type() {
                    t if t.is_block_device() => NodeKind::Block,
                    t if t.is_char_device() => NodeKind::Character,
                    t if t.is_fifo() => NodeKind::Pipe,
                    _ => return Err(format!("failed to stat CDI host device {host:?}: not a device node")),
                };
                if asked.is_some_and(|a| a != kind) {
                    return Err(format!("CDI device ({:?}, {host:?}), host type mismatch", node.path));
                }
                match node.major {
                    0 => (kind, libc::major(meta.rdev()), libc::minor(meta.rdev())),
                    major => (kind, major, node.minor),
                }
            }
        };
        let access = match node.permissions.as_str() {
            "" => "rwm".to_owned(),
            "none" => String::new(),
            given => "rwm".chars().filter(|c| given.contains(*c)).collect(),
        };
        Ok(Self {
            path: node.path.clone(),
            kind,
            major,
            minor,
            mode: node.file_mode.unwrap_or(0o666) & 0o7777,
            uid: node.uid.unwrap_or(0),
            gid: node.gid.unwrap_or(0),
            access,
        })
    }
}

fn mount(m: &Mount) -> Result<MountConfig, String> {
    let shown = m.container_path.display();
    let (mut bind, mut tmpfs) =
        (BindOptions { non_recursive: true, ..BindOptions::default() }, TmpfsOptions::default());
    let is_tmpfs = match m.kind.as_str() {
        "tmpfs" => true,
        "" | "bind" | "none" => false,
        other => return Err(format!("mount {shown}: type {other:?} is not supported: use a bind or tmpfs")),
    };
    (tmpfs.exec, tmpfs.suid, tmpfs.dev) = (true, true, true);
    let mut read_only = false;
    let (mut size, mut mode) = (None, None);
    for option in &m.options {
        let (key, value) = option.split_once('=').unwrap_or((option, ""));
        match key {
            "ro" => read_only = true,
            "rw" => read_only = false,
            "nosuid" => (bind.nosuid, tmpfs.suid) = (true, false),
            "nodev" => (bind.nodev, tmpfs.dev) = (true, false),
            "noexec" => (bind.noexec, tmpfs.exec) = (true, false),
            "suid" => (bind.nosuid, tmpfs.suid) = (false, true),
            "dev" => (bind.nodev, tmpfs.dev) = (false, true),
            "exec" => (bind.noexec, tmpfs.exec) = (false, true),
            "bind" => {}
            "rbind" => bind.non_recursive = false,
            "size" if is_tmpfs => size = crate::config::parse_size(value),
            "mode" if is_tmpfs => mode = u32::from_str_radix(value, 8).ok(),
            "uid" | "gid" | "nr_inodes" if is_tmpfs => drop(tmpfs.more.insert(key.into(), value.into())),
            _ => match Propagation::parse(option) {
                Some(propagation) => bind.propagation = propagation,
                None => return Err(format!("mount {shown}: option {option:?} is not supported")),
            },
        }
    }
    let kind = match is_tmpfs {
        true => MountKind::Tmpfs { size, mode, options: tmpfs },
        false => MountKind::Bind { source: m.host_path.clone(), options: bind },
    };
    Ok(MountConfig::new(kind, &m.container_path, read_only))
}
