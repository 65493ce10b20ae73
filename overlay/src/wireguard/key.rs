//! The node's WireGuard key: made once, kept under the data root, readable by root alone.

use std::io::Write as _;
use std::os::unix::fs::{OpenOptionsExt as _, PermissionsExt as _};
use std::path::Path;

use wireguard_control::Key;

use super::Error;

/// A WireGuard private key. Prints nothing of itself.
#[derive(Clone)]
pub struct PrivateKey(pub(super) Key);

impl std::fmt::Debug for PrivateKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "PrivateKey(of {})", self.public_base64())
    }
}

impl PrivateKey {
    /// The matching public key, in base64.
    pub fn public_base64(&self) -> String {
        self.0.get_public().to_base64()
    }

    /// The raw key, for the process that does the cryptography.
    pub(super) fn bytes(&self) -> [u8; 32] {
        self.0.0
    }
}

/// Reads the key at `path`, or makes one: written to a neighbour with mode 0600, synced and renamed,
/// so that a crash leaves either no key or a whole one. Returns it with its public half in base64.
///
/// A file that others may read is tightened to 0600; one that holds no key is an error, never
/// replaced: peers know this node by its key.
pub fn load_or_create_key(path: &Path) -> Result<(PrivateKey, String), Error> {
    let err = |source| Error::KeyFile { path: path.to_owned(), source };
    match std::fs::read_to_string(path) {
        Ok(text) => {
            let key = Key::from_base64(text.trim()).map_err(|_| Error::BadKey { path: path.to_owned() })?;
            let meta = std::fs::metadata(path).map_err(err)?;
            if meta.permissions().mode() & 0o077 != 0 {
                tracing::warn!(path = %path.display(), "WireGuard key was readable by others; restricting it to root");
                std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600)).map_err(err)?;
            }
            let key = PrivateKey(key);
            let public = key.public_base64();
            Ok((key, public))
        }
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => {
            let key = PrivateKey(Key::generate_private());
            write_key(path, &key).map_err(err)?;
            let public = key.public_base64();
            Ok((key, public))
        }
        Err(e) => Err(err(e)),
    }
}

/// Write, sync, rename, sync the folder.
fn write_key(path: &Path, key: &PrivateKey) -> std::io::Result<()> {
    let parent = path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
    std::fs::create_dir_all(parent)?;
    let mut temporary = path.as_os_str().to_owned();
    temporary.push(".new");
    let temporary = std::path::PathBuf::from(temporary);
    // A leftover of a crash may have another mode: start from nothing.
    match std::fs::remove_file(&temporary) {
        Err(e) if e.kind() != std::io::ErrorKind::NotFound => return Err(e),
        _ => {}
    }
    let mut file = std::fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(&temporary)?;
    writeln!(file, "{}", key.0.to_base64())?;
    file.sync_all()?;
    std::fs::rename(&temporary, path)?;
    std::fs::File::open(parent)?.sync_all()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_is_made_once_and_private() {
        let dir = tempfile::tempdir().expect("temporary folder");
        let path = dir.path().join("sub/wg.key");
        let (_, first) = load_or_create_key(&path).expect("create");
        let mode = |p: &Path| std::fs::metadata(p).expect("metadata").permissions().mode() & 0o777;
        assert_eq!(mode(&path), 0o600);
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o644)).expect("chmod");
        let (key, second) = load_or_create_key(&path).expect("load");
        assert_eq!((first, mode(&path)), (second, 0o600));
        assert!(!format!("{key:?}").contains(std::fs::read_to_string(&path).expect("read").trim()));
    }

    #[test]
    fn a_damaged_key_is_refused_and_left_alone() {
        let dir = tempfile::tempdir().expect("temporary folder");
        let path = dir.path().join("wg.key");
        std::fs::write(&path, "half a ke").expect("write");
        let error = load_or_create_key(&path).expect_err("must refuse").to_string();
        assert!(error.contains("wg.key"), "{error}");
        assert_eq!(std::fs::read_to_string(&path).expect("read"), "half a ke");
    }
}
