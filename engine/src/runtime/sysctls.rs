//! Sysctls that belong to a namespace of the container; all others would change the host.

use std::collections::BTreeMap;
use std::path::PathBuf;

use super::error::{Context, Error};
use crate::shim::NetworkNamespace;

const IPC: [&str; 8] = [
    "kernel.msgmax",
    "kernel.msgmnb",
    "kernel.msgmni",
    "kernel.sem",
    "kernel.shmall",
    "kernel.shmmax",
    "kernel.shmmni",
    "kernel.shm_rmid_forced",
];

/// Refuses what is not the container's own.
pub fn check(sysctls: &BTreeMap<String, String>, network: &NetworkNamespace) -> Result<(), Error> {
    for name in sysctls.keys() {
        let odd = name.split('.').any(|part| part.is_empty()) || name.contains('/');
        let ipc = IPC.contains(&name.as_str()) || name.starts_with("fs.mqueue.");
        if !odd && ipc {
            continue;
        }
        if !odd && name.starts_with("net.") {
            if *network == NetworkNamespace::Host {
                return Err(Error::Refused(format!("sysctl {name:?} not allowed in host network namespace")));
            }
            continue;
        }
        return Err(Error::Refused(format!(
            "sysctl {name:?} is not in a separate kernel namespace: it would change the whole host"
        )));
    }
    Ok(())
}

/// Writes them through the container's /proc, which must still be writable.
pub fn apply(sysctls: &BTreeMap<String, String>) -> Result<(), Error> {
    for (name, value) in sysctls {
        let path = PathBuf::from("/proc/sys").join(name.replace('.', "/"));
        std::fs::write(&path, value).on("set sysctl", format_args!("{name}={value}"))?;
    }
    Ok(())
}
