//! Words of Docker's for namespaces and confinement, as containers and services are asked for them.

use crate::config::{ContainerConfig, IpcMode, PidMode, Seccomp};
use crate::runtime::capabilities::Capabilities;
use crate::runtime::seccomp::Filter;

fn other(text: &str) -> Option<String> {
    text.strip_prefix("container:").filter(|name| !name.is_empty()).map(str::to_owned)
}

impl PidMode {
    /// `host`, `container:NAME`, or nothing.
    pub fn parse(text: &str) -> Option<Self> {
        match text {
            "" => Some(Self::Private),
            "host" => Some(Self::Host),
            _ => other(text).map(Self::Container),
        }
    }
}

impl IpcMode {
    /// `private`, `none`, `shareable`, `host` or `container:NAME`.
    pub fn parse(text: &str) -> Option<Self> {
        match text {
            "private" => Some(Self::Private),
            "none" => Some(Self::None),
            "shareable" => Some(Self::Shareable),
            "host" => Some(Self::Host),
            _ => other(text).map(Self::Container),
        }
    }
}

impl Seccomp {
    /// Checks that it can be loaded, for a container with Docker's usual capabilities.
    pub fn check(&self) -> Result<(), String> {
        let of = || Filter::compile(self, Capabilities::resolve(&[], &[], false)?, false);
        of().map(drop).map_err(|e| e.to_string())
    }
}

/// What `--ipc` means, where it says anything.
pub fn ipc_mode(text: &str) -> Result<Option<IpcMode>, String> {
    let wrong = || format!("invalid IPC mode: {text}");
    Some(text).filter(|t| !t.is_empty()).map(|t| IpcMode::parse(t).ok_or_else(wrong)).transpose()
}

/// What `--cgroupns` means (`host`, `private`), where it says anything: whether in the host's cgroup namespace.
pub fn cgroup_namespace(text: &str) -> Result<Option<bool>, String> {
    match text {
        "" => Ok(None),
        "host" => Ok(Some(true)),
        "private" => Ok(Some(false)),
        _ => Err(format!("invalid cgroup namespace mode: {text}")),
    }
}

impl ContainerConfig {
    /// Takes up one `--security-opt`; a seccomp profile comes as its JSON.
    pub fn secure(&mut self, option: &str) -> Result<(), String> {
        let (name, value) = option.split_once(['=', ':']).unwrap_or((option, ""));
        match (name, value) {
            ("no-new-privileges", "" | "true") => self.no_new_privileges = Some(true),
            ("no-new-privileges", "false") => self.no_new_privileges = Some(false),
            ("seccomp", "unconfined") => self.seccomp = Seccomp::Unconfined,
            ("seccomp", "builtin") => self.seccomp = Seccomp::Builtin,
            ("seccomp", profile) if profile.starts_with('{') => {
                self.seccomp = Seccomp::Profile(profile.to_owned());
            }
            ("apparmor", profile) if !profile.is_empty() => self.security.apparmor = Some(profile.to_owned()),
            // Without SELinux they are taken and do nothing, as with Docker.
            ("label", part) if self.security.selinux.take(part) => {}
            _ => {
                return Err(format!(
                    "invalid --security-opt {option:?}: use no-new-privileges, seccomp=unconfined, seccomp=FILE, apparmor=PROFILE, label=disable or label=user:, role:, type:, level: or filetype:"
                ));
            }
        }
        Ok(())
    }
}
