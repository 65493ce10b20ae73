//! A CDI specification file (container-device-interface SPEC.md, versions 0.3.0 to 1.0.0): its form, and what of it
//! cannot be honoured.

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::{name, yaml};

/// Versions whose files are read. What is newer than 1.0.0 (network devices) is refused by its version.
const VERSIONS: [&str; 7] = ["0.3.0", "0.4.0", "0.5.0", "0.6.0", "0.7.0", "0.8.0", "1.0.0"];

/// One file. A field it does not know is an error, as for CDI's own library.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct Spec {
    cdi_version: String,
    /// `vendor.com/class` of all its devices.
    pub kind: String,
    #[serde(default, rename = "annotations")]
    _annotations: std::collections::BTreeMap<String, String>,
    /// Its devices.
    #[serde(default)]
    pub devices: Vec<Device>,
    /// What each container with any of them gets, once.
    #[serde(default)]
    pub container_edits: Edits,
}

/// One device.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct Device {
    /// Unique in its kind.
    pub name: String,
    #[serde(default, rename = "annotations")]
    _annotations: std::collections::BTreeMap<String, String>,
    /// What a container with it gets.
    pub container_edits: Edits,
}

/// What a container gets.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "camelCase")]
pub struct Edits {
    /// `NAME=value`.
    pub env: Vec<String>,
    /// Device nodes.
    pub device_nodes: Vec<Node>,
    /// Mounts.
    pub mounts: Vec<Mount>,
    /// Programs run on the way.
    pub hooks: Vec<Hook>,
    /// Class of service of the CPU's caches.
    intel_rdt: Option<serde_json::Value>,
    /// Supplementary groups.
    #[serde(rename = "additionalGids", alias = "additionalGIDs")]
    pub additional_gids: Vec<u32>,
}

/// A device node.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "camelCase")]
pub struct Node {
    /// In the container.
    pub path: PathBuf,
    /// On the host, where it is another.
    pub host_path: PathBuf,
    /// `b`, `c`, `u` or `p`; empty = that of the host's node.
    #[serde(rename = "type")]
    pub kind: String,
    /// 0 = that of the host's node.
    pub major: u32,
    /// With a major number.
    pub minor: u32,
    /// Mode bits.
    pub file_mode: Option<u32>,
    /// Letters of `rwm`, `none`, or empty for all.
    pub permissions: String,
    /// Owner.
    pub uid: Option<u32>,
    /// Group.
    pub gid: Option<u32>,
}

/// A mount.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "camelCase")]
pub struct Mount {
    /// On the host.
    pub host_path: PathBuf,
    /// In the container.
    pub container_path: PathBuf,
    /// Words of mount(8).
    pub options: Vec<String>,
    /// File system; empty = a bind.
    #[serde(rename = "type")]
    pub kind: String,
}

/// When a hook runs (runtime-spec config.md, "POSIX-platform Hooks").
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Stage {
    /// As `createRuntime`, by its old name.
    Prestart,
    /// On the host, once the container's namespaces are there.
    CreateRuntime,
    /// In the container's namespaces, before its root is the root.
    CreateContainer,
    /// In the container, before the command.
    StartContainer,
    /// On the host, once the command runs.
    Poststart,
    /// On the host, once the container is gone.
    Poststop,
}

/// A program run on the way.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct Hook {
    /// When.
    pub hook_name: Stage,
    /// Absolute path.
    pub path: PathBuf,
    /// All of argv, its name included; empty = the path alone.
    #[serde(default)]
    pub args: Vec<String>,
    /// All of its environment.
    #[serde(default)]
    pub env: Vec<String>,
    /// Seconds it may take.
    #[serde(default)]
    pub timeout: Option<u64>,
}

impl Spec {
    /// Reads and checks a file by its name's ending, `.json` or `.yaml`.
    pub fn read(path: &Path) -> Result<Self, String> {
        let text = std::fs::read_to_string(path).map_err(|e| e.to_string())?;
        let spec: Self = match path.extension().is_some_and(|e| e == "json") {
            true => serde_json::from_str(&text).map_err(|e| e.to_string())?,
            false => serde_json::from_value(yaml::parse(&text)?).map_err(|e| e.to_string())?,
        };
        spec.check()?;
        Ok(spec)
    }

    fn check(&self) -> Result<(), String> {
        let version = self.cdi_version.trim_start_matches('v');
        if !VERSIONS.contains(&version) {
            return Err(format!(
                "cdiVersion {version:?} is not supported: it is read from {} to {}",
                VERSIONS[0],
                VERSIONS[VERSIONS.len() - 1]
            ));
        }
        name::check_kind(&self.kind)?;
        if self.devices.is_empty() {
            return Err("invalid spec, no devices".into());
        }
        self.container_edits.check()?;
        for (i, device) in self.devices.iter().enumerate() {
            name::check_device(&device.name)?;
            if self.devices[..i].iter().any(|d| d.name == device.name) {
                return Err(format!("invalid spec, multiple device {:?}", device.name));
            }
            if device.container_edits == Edits::default() {
                return Err(format!("invalid device {:?}, empty device edits", device.name));
            }
            device.container_edits.check().map_err(|e| format!("invalid device {:?}: {e}", device.name))?;
        }
        Ok(())
    }
}

impl Edits {
    fn check(&self) -> Result<(), String> {
        let variables = |env: &[String]| match env.iter().find(|v| v.find('=').is_none_or(|i| i == 0)) {
            Some(bad) => Err(format!("invalid environment variable {bad:?}")),
            None => Ok(()),
        };
        variables(&self.env)?;
        for node in &self.device_nodes {
            let path = &node.path;
            if !path.is_absolute() || !(node.host_path.as_os_str().is_empty() || node.host_path.is_absolute())
            {
                return Err(format!("device {path:?}: its paths must be absolute"));
            }
            if !matches!(node.kind.as_str(), "" | "b" | "c" | "u" | "p") {
                return Err(format!("device {path:?}: invalid type {:?}", node.kind));
            }
            if node.permissions != "none" && !node.permissions.chars().all(|c| "rwm".contains(c)) {
                return Err(format!("device {path:?}: invalid permissions {:?}", node.permissions));
            }
        }
        for hook in &self.hooks {
            if !hook.path.is_absolute() {
                return Err(format!("hook {:?}: its path must be absolute", hook.path));
            }
            if hook.timeout == Some(0) {
                return Err(format!("hook {:?}: its timeout must be greater than zero", hook.path));
            }
            variables(&hook.env)?;
        }
        for mount in &self.mounts {
            if !mount.host_path.is_absolute() || !mount.container_path.is_absolute() {
                return Err(format!("mount {:?}: its paths must be absolute", mount.container_path));
            }
        }
        match self.intel_rdt {
            Some(_) => {
                Err("intelRdt is not supported: classes of service cannot be given to containers".into())
            }
            None => Ok(()),
        }
    }
}
