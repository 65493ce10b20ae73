//! What this host must remember of its membership in a swarm, beside its certificate.

use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};

/// Kept as JSON in the swarm directory from the moment the host is a member until it leaves.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Membership {
    /// Where a manager here listens.
    pub listen_addr: SocketAddr,
    /// Where others reach a manager here.
    pub advertise_addr: SocketAddr,
    /// Nobody named that address: it is the one this host has on the way to its managers.
    #[serde(default)]
    pub advertise_found: bool,
    /// Where others reach WireGuard here, if not at the advertised address.
    #[serde(default)]
    pub data_path_addr: Option<IpAddr>,
    /// Managers known when it joined, `host:port`.
    pub managers: Vec<String>,
}

fn file(dir: &Path) -> PathBuf {
    dir.join("membership.json")
}

impl Membership {
    /// What was kept; none for a host in no swarm.
    pub fn load(dir: &Path) -> Result<Option<Self>> {
        let path = file(dir);
        let bytes = match std::fs::read(&path) {
            Ok(bytes) => bytes,
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            Err(e) => return Err(e).with_context(|| format!("read {}", path.display())),
        };
        serde_json::from_slice(&bytes).map(Some).with_context(|| {
            format!("{} is damaged: leave the swarm with --force and join it again", path.display())
        })
    }

    /// Keeps it (write, fsync, rename).
    pub fn save(&self, dir: &Path) -> Result<()> {
        use std::io::Write;
        let path = file(dir);
        let tmp = path.with_extension("new");
        let mut out = std::fs::File::create(&tmp).with_context(|| format!("make {}", tmp.display()))?;
        out.write_all(&serde_json::to_vec_pretty(self)?)?;
        out.sync_data()?;
        std::fs::rename(&tmp, &path)?;
        std::fs::File::open(dir)?.sync_all()?;
        Ok(())
    }
}
