//! What sets this daemon apart from others on the same machine: a short name derived from its data
//! root, which every global name (cgroup, interface, table, socket) is built on.

use std::path::Path;

use anyhow::{Context, Result};
use sha2::{Digest, Sha256};

const ALPHABET: &[u8; 32] = b"abcdefghijklmnopqrstuvwxyz234567";

/// Six characters; also written to `<data-root>/instance` so that tools outside can find what is ours.
pub fn name(data_root: &Path) -> Result<String> {
    use std::os::unix::ffi::OsStrExt;
    let digest = Sha256::digest(data_root.as_os_str().as_bytes());
    let name: String = digest.iter().take(6).map(|b| ALPHABET[usize::from(b % 32)] as char).collect();
    let path = data_root.join("instance");
    if std::fs::read_to_string(&path).ok().as_deref() != Some(&name) {
        std::fs::write(&path, &name).with_context(|| format!("write {}", path.display()))?;
    }
    Ok(name)
}
