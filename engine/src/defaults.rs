//! What containers have that say nothing of it themselves: dockerd's flags of the same names.

use std::net::IpAddr;

use crate::config::{ContainerConfig, UlimitConfig};

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
}

impl Defaults {
    /// What is decided when a container is made, and stays.
    pub(crate) fn at_creation(&self, config: &mut ContainerConfig) {
        config.shm_size = config.shm_size.or(self.shm_size);
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
        for limit in &self.ulimits {
            if config.ulimits.iter().all(|own| own.name != limit.name) {
                config.ulimits.push(limit.clone());
            }
        }
    }
}
