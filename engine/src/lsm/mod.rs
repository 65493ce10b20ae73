//! The kernel's security modules with a policy by name: AppArmor's profiles and SELinux's labels. What the host has
//! is looked up here; a container's processes enter it at execve(2) (`runtime/confinement.rs`).

pub mod apparmor;
pub mod selinux;

use std::path::Path;

use serde::{Deserialize, Serialize};

/// What a container was asked to run in.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct SecurityLabels {
    /// AppArmor profile; none = the default one.
    pub apparmor: Option<String>,
    /// Parts of the SELinux label that are not the default ones.
    pub selinux: selinux::Asked,
}

/// What a container runs in; empty = nothing of the kind.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Confined {
    /// AppArmor profile, entered by every process of it.
    pub apparmor: String,
    /// SELinux label of every process of it.
    pub process_label: String,
    /// SELinux label of its files.
    pub mount_label: String,
}

fn read(path: impl AsRef<Path>) -> Option<String> {
    std::fs::read_to_string(path).ok().map(|t| t.trim_end_matches(['\n', '\0']).to_owned())
}
