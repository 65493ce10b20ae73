//! What can be mounted into a container: binds, volumes and tmpfs, with Docker's options for each.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

/// How mounts made later pass between host and container (mount_namespaces(7), shared subtrees).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Propagation {
    /// Neither way, mounts below included.
    #[default]
    Rprivate,
    /// Neither way.
    Private,
    /// Both ways, mounts below included.
    Rshared,
    /// Both ways.
    Shared,
    /// From the host into the container, mounts below included.
    Rslave,
    /// From the host into the container.
    Slave,
}

impl Propagation {
    /// Docker's word.
    pub fn word(self) -> &'static str {
        match self {
            Self::Rprivate => "rprivate",
            Self::Private => "private",
            Self::Rshared => "rshared",
            Self::Shared => "shared",
            Self::Rslave => "rslave",
            Self::Slave => "slave",
        }
    }

    /// Reads Docker's word.
    pub fn parse(word: &str) -> Option<Self> {
        [Self::Rprivate, Self::Private, Self::Rshared, Self::Shared, Self::Rslave, Self::Slave]
            .into_iter()
            .find(|p| p.word() == word)
    }
}

/// Options of a bind.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct BindOptions {
    /// Propagation.
    pub propagation: Propagation,
    /// Make the source as a directory where it is missing (`-v` does, `--mount` refuses).
    pub create: bool,
    /// Leave out what is mounted below the source.
    pub non_recursive: bool,
    /// A read-only bind whose mounts below stay as they are.
    pub read_only_non_recursive: bool,
    /// Part of the source that is mounted, resolved without leaving it (a volume's subpath).
    pub subpath: Option<PathBuf>,
    /// Set-user-ID bits are not honoured.
    pub nosuid: bool,
    /// Device nodes are not honoured.
    pub nodev: bool,
    /// No executables.
    pub noexec: bool,
    /// Owners on the disk are the container's IDs, as they are in layers, and not the host's.
    pub own_ids: bool,
}

/// Options of a volume's mount, and of the volume where this mount is what makes it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct VolumeOptions {
    /// Driver; empty = `local`, or that of the volume.
    pub driver: String,
    /// Options of the driver.
    pub driver_options: BTreeMap<String, String>,
    /// Labels.
    pub labels: BTreeMap<String, String>,
    /// Do not begin with the image's content.
    pub no_copy: bool,
    /// Part of the volume that is mounted.
    pub subpath: Option<PathBuf>,
    /// Nobody named it: it goes with the container when that is removed with its volumes.
    pub anonymous: bool,
}

/// Options of a tmpfs beyond size and mode (tmpfs(5)).
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct TmpfsOptions {
    /// Allow executables.
    pub exec: bool,
    /// Honour set-user-ID bits.
    pub suid: bool,
    /// Allow device nodes.
    pub dev: bool,
    /// Further options of the file system (`uid`, `gid`, `nr_inodes`, ...).
    pub more: BTreeMap<String, String>,
    /// Asked for by `--tmpfs`, which Docker does not list among the mounts.
    pub unlisted: bool,
}

/// An image that is mounted.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct ImageOptions {
    /// Part of the image that is mounted.
    pub subpath: Option<PathBuf>,
    /// Image ID, once the container is made.
    pub id: String,
    /// Its layers, bottom first, likewise.
    pub chain_ids: Vec<String>,
    /// Where those lie on the host, topmost first: for one start.
    pub lowers: Vec<PathBuf>,
}

/// Kind of a mount.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum MountKind {
    /// A path of the host.
    Bind {
        /// Absolute path on the host.
        source: PathBuf,
        /// Options.
        #[serde(default)]
        options: BindOptions,
    },
    /// A volume of this engine.
    Volume {
        /// Its name; empty = a new anonymous one.
        name: String,
        /// Options.
        #[serde(default)]
        options: VolumeOptions,
    },
    /// What is in an image, read-only.
    Image {
        /// The image as it was asked for.
        name: String,
        /// Options.
        #[serde(default)]
        options: ImageOptions,
    },
    /// Memory.
    Tmpfs {
        /// Bytes; none = half the memory.
        size: Option<u64>,
        /// Octal mode; none = 1777.
        mode: Option<u32>,
        /// Options.
        #[serde(default)]
        options: TmpfsOptions,
    },
}

impl MountKind {
    /// A bind as Docker makes one without options.
    pub fn bind(source: impl Into<PathBuf>) -> Self {
        Self::Bind { source: source.into(), options: BindOptions::default() }
    }

    /// A volume by name; an empty name asks for an anonymous one.
    pub fn volume(name: impl Into<String>) -> Self {
        let name = name.into();
        let options = VolumeOptions { anonymous: name.is_empty(), ..VolumeOptions::default() };
        Self::Volume { name, options }
    }

    /// A tmpfs.
    pub fn tmpfs(size: Option<u64>, mode: Option<u32>) -> Self {
        Self::Tmpfs { size, mode, options: TmpfsOptions::default() }
    }
}

/// A mount into the container.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct MountConfig {
    /// What is mounted.
    pub kind: MountKind,
    /// Absolute path inside the container.
    pub target: PathBuf,
    /// Mounted read-only.
    pub read_only: bool,
    /// The mode as `-v` gave it, for `inspect`.
    #[serde(default)]
    pub mode: String,
}

impl MountConfig {
    /// A mount without a mode.
    pub fn new(kind: MountKind, target: impl Into<PathBuf>, read_only: bool) -> Self {
        Self { kind, target: target.into(), read_only, mode: String::new() }
    }

    /// Name of the volume it mounts.
    pub fn volume(&self) -> Option<&str> {
        match &self.kind {
            MountKind::Volume { name, .. } => Some(name),
            _ => None,
        }
    }

    /// Whether both are mounted at the same place.
    pub(crate) fn is_at(&self, target: &Path) -> bool {
        self.target.components().eq(target.components())
    }
}
