//! Words of Docker's for namespaces and confinement, as containers and services are asked for them.

use crate::config::{ContainerConfig, IpcMode, PidMode, Seccomp};

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
    /// `private`, `none`, `shareable`, `host`, `container:NAME`, or nothing.
    pub fn parse(text: &str) -> Option<Self> {
        match text {
            "" | "private" => Some(Self::Private),
            "none" => Some(Self::None),
            "shareable" => Some(Self::Shareable),
            "host" => Some(Self::Host),
            _ => other(text).map(Self::Container),
        }
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
            ("seccomp", "builtin") => self.seccomp = Seccomp::Default,
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
