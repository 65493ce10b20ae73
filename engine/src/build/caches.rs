//! The directories that `RUN --mount=type=cache` keeps for the next build: who uses them, and how they come and go.

use std::collections::BTreeMap;
use std::io;
use std::os::unix::fs::{PermissionsExt, chown};
use std::path::{Path, PathBuf};
use std::sync::{Arc, LazyLock, Mutex, PoisonError};

use sha2::{Digest, Sha256};
use tokio::sync::OwnedMutexGuard;

use super::settings::beneath;
use crate::data_root::{make_dir, remove_tree};
use crate::disk_usage;
use crate::dockerfile::{Mount, MountKind};
use crate::error::Error;
use crate::image::unused_name;

/// One cache; held by who has it alone.
type Lock = Arc<tokio::sync::Mutex<()>>;

/// Caches that somebody uses or waits for.
static IN_USE: LazyLock<Mutex<BTreeMap<PathBuf, Lock>>> = LazyLock::new(Mutex::default);

/// Caches that a command uses: as long as this lives nobody takes them away, and those that are not shared are its alone.
#[derive(Default)]
pub(super) struct InUse {
    _alone: Vec<OwnedMutexGuard<()>>,
    _shared: Vec<Lock>,
}

/// The directory of a cache.
pub(super) fn directory(m: &Mount, target: &Path, caches: &Path) -> PathBuf {
    let id = if m.id.is_empty() { target.to_string_lossy().into_owned() } else { m.id.clone() };
    caches.join(hex::encode(Sha256::digest(&id)))
}

/// Takes the caches of a command: each once and all in one order, so that no commands wait for each other.
pub(super) async fn take(mounts: &[Mount], working_dir: &str, caches: &Path) -> InUse {
    let mut wanted: BTreeMap<PathBuf, bool> = BTreeMap::new();
    for m in mounts.iter().filter(|m| m.kind == MountKind::Cache) {
        let dir = directory(m, Path::new(&beneath(working_dir, &m.target)), caches);
        *wanted.entry(dir).or_default() |= matches!(m.sharing.as_str(), "locked" | "private");
    }
    let mut taken = InUse::default();
    for (dir, alone) in wanted {
        let lock = {
            let mut in_use = IN_USE.lock().unwrap_or_else(PoisonError::into_inner);
            // Those that nobody holds or waits for.
            in_use.retain(|_, lock| Arc::strong_count(lock) > 1);
            in_use.entry(dir).or_default().clone()
        };
        match alone {
            true => taken._alone.push(lock.lock_owned().await),
            false => taken._shared.push(lock),
        }
    }
    taken
}

/// Makes a cache that is taken and not there yet; it appears with its owner and mode. Blocks.
pub(super) fn make(m: &Mount, dir: &Path, caches: &Path) -> Result<(), Error> {
    // Commands that run side by side may want the same.
    static MAKING: Mutex<()> = Mutex::new(());
    let _making = MAKING.lock().unwrap_or_else(PoisonError::into_inner);
    if dir.exists() {
        return Ok(());
    }
    make_dir(caches, 0o700)?;
    let new = dir.with_extension("new");
    make_dir(&new, 0o755)?;
    chown(&new, Some(m.uid.unwrap_or(0)), Some(m.gid.unwrap_or(0))).map_err(Error::io("own", &new))?;
    let mode = std::fs::Permissions::from_mode(m.mode.unwrap_or(0o755));
    std::fs::set_permissions(&new, mode).map_err(Error::io("set the mode of", &new))?;
    std::fs::rename(&new, dir).map_err(Error::io("move a new cache to", dir))
}

/// Takes away what nobody uses; the bytes that are free again. `trash` is emptied by a start. Blocks.
pub(super) fn prune(caches: &Path, trash: &Path) -> Result<u64, Error> {
    let entries = match std::fs::read_dir(caches) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(0),
        other => other.map_err(Error::io("list", caches))?,
    };
    let paths: Vec<PathBuf> = entries.flatten().map(|e| e.path()).collect();
    let mut reasons = Vec::new();
    let mut gone = Vec::new();
    {
        let mut in_use = IN_USE.lock().unwrap_or_else(PoisonError::into_inner);
        in_use.retain(|_, lock| Arc::strong_count(lock) > 1);
        // One that is being made has the name of one that is taken.
        for path in paths.into_iter().filter(|p| !in_use.contains_key(&p.with_extension(""))) {
            let to = trash.join(unused_name());
            match std::fs::rename(&path, &to) {
                Ok(()) => gone.push(to),
                Err(e) => reasons.push(format!("{}: {e}", path.display())),
            }
        }
    }
    let mut bytes = 0;
    for dir in gone {
        bytes += disk_usage::of(&dir);
        reasons.extend(remove_tree(&dir).err().map(|e| e.to_string()));
    }
    if reasons.is_empty() {
        return Ok(bytes);
    }
    Err(Error::Several { operation: "some caches of builds are left".into(), reasons })
}
