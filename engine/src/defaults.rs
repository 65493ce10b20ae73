//! What containers have that say nothing of it themselves: dockerd's flags of the same names.

use std::net::IpAddr;
use std::path::PathBuf;

use crate::config::{ContainerConfig, IpcMode, Seccomp, UlimitConfig};
use crate::mount::{BindOptions, MountConfig, MountKind};
use crate::shim::spec::ShimSpec;

/// Where an init of the daemon's choice is in the container, as with Docker.
const INIT: &str = "/sbin/docker-init";

/// Settings of a daemon for containers that have none of their own.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Defaults {
    /// Limits of processes, by their names.
    pub ulimits: Vec<UlimitConfig>,
    /// Name servers; none = the host's.
    pub dns: Vec<IpAddr>,
    /// Domains that names are looked up in; none = the host's.
    pub dns_search: Vec<String>,
    /// Options of the resolver (resolv.conf(5)); none = the host's.
    pub dns_options: Vec<String>,
    /// An init as PID 1.
    pub init: bool,
    /// Bytes of /dev/shm; none = 64 MiB.
    pub shm_size: Option<u64>,
    /// Set no_new_privs.
    pub no_new_privileges: bool,
    /// Seccomp filter.
    pub seccomp: Seccomp,
    /// Their IPC namespace may be joined by other containers.
    pub shareable_ipc: bool,
    /// In the host's cgroup namespace; none = as with Docker, under cgroups v1.
    pub host_cgroupns: Option<bool>,
    /// The program that is their init; none = our own.
    pub init_path: Option<PathBuf>,
    /// Bytes of the writable layer; none = no limit.
    pub storage_size: Option<u64>,
    /// The daemon's own score (oom_score_adj) is none of theirs, which is 0.
    pub own_oom_score: bool,
}

impl Defaults {
    /// What is decided when a container is made, and stays.
    pub(crate) fn at_creation(&self, config: &mut ContainerConfig) {
        config.shm_size = config.shm_size.or(self.shm_size);
        config.storage_size = config.storage_size.or(self.storage_size);
        config.ipc_mode.get_or_insert(match self.shareable_ipc {
            true => IpcMode::Shareable,
            false => IpcMode::Private,
        });
        let host = || self.host_cgroupns.unwrap_or(crate::runtime::cgroup::version() == 1);
        config.host_cgroupns.get_or_insert_with(host);
    }

    /// Has the init that was chosen run the command.
    pub(crate) fn with_init(&self, spec: &mut ShimSpec) {
        let Some(path) = self.init_path.as_ref().filter(|_| spec.init) else { return };
        spec.init = false;
        spec.mounts.push(MountConfig {
            kind: MountKind::Bind { source: path.clone(), options: BindOptions::default() },
            target: INIT.into(),
            read_only: true,
            mode: String::new(),
        });
        let before = [INIT.to_owned(), "--".to_owned()];
        spec.argv = before.into_iter().chain(std::mem::take(&mut spec.argv)).collect();
    }

    /// What each start decides anew.
    pub(crate) fn at_start(&self, config: &mut ContainerConfig) {
        let take = |own: &mut Vec<String>, default: &[String]| {
            if own.is_empty() {
                own.extend_from_slice(default);
            }
        };
        if config.dns.is_empty() {
            config.dns.extend_from_slice(&self.dns);
        }
        take(&mut config.dns_search, &self.dns_search);
        take(&mut config.dns_options, &self.dns_options);
        config.init.get_or_insert(self.init);
        config.no_new_privileges.get_or_insert(self.no_new_privileges);
        if config.seccomp == Seccomp::Default {
            config.seccomp.clone_from(&self.seccomp);
        }
        if self.own_oom_score {
            config.oom_score_adj.get_or_insert(0);
        }
        for limit in &self.ulimits {
            if config.ulimits.iter().all(|own| own.name != limit.name) {
                config.ulimits.push(limit.clone());
            }
        }
    }
}
