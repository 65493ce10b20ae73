//! The directories that `RUN --mount=type=cache` keeps for the next build: who uses them, and how they come and go.

use std::collections::BTreeMap;
use std::fs::File;
use std::io;
use std::os::unix::fs::{PermissionsExt, chown};
use std::path::{Path, PathBuf};
use std::sync::{Arc, LazyLock, Mutex, MutexGuard, PoisonError};
use std::time::SystemTime;

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use tokio::sync::OwnedMutexGuard;

use crate::data_root::{make_dir, remove_tree};
use crate::disk_usage;
use crate::dockerfile::Mount;
use crate::error::Error;
use crate::events::now_ns;
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

/// How a command uses a cache with others.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Sharing {
    /// At once.
    Shared,
    /// It takes another where somebody uses it.
    Private,
    /// It waits.
    Locked,
}

/// The directory of a cache; `seed` is known of what it begins with.
pub(super) fn directory(m: &Mount, target: &Path, seed: Option<&str>, caches: &Path) -> PathBuf {
    let mut id = if m.id.is_empty() { target.to_string_lossy().into_owned() } else { m.id.clone() };
    if let Some(seed) = seed {
        id = format!("{id}\0{seed}");
    }
    caches.join(hex::encode(Sha256::digest(&id)))
}

/// Takes the caches of a command: each once and all in one order, so that no commands wait for each other. `wanted` are its
/// mounts with their directories, which are replaced where others are taken.
pub(super) async fn take(wanted: &mut [(&Mount, PathBuf)]) -> InUse {
    let mut by_directory: BTreeMap<PathBuf, Sharing> = BTreeMap::new();
    for (m, dir) in wanted.iter() {
        let sharing = match m.sharing.as_str() {
            "locked" => Sharing::Locked,
            "private" => Sharing::Private,
            _ => Sharing::Shared,
        };
        let known = by_directory.entry(dir.clone()).or_insert(sharing);
        *known = sharing.max(*known);
    }
    let mut taken = InUse::default();
    for (dir, sharing) in by_directory {
        if sharing == Sharing::Private {
            let (free, guard) = free(&dir);
            taken._alone.extend(guard);
            wanted.iter_mut().filter(|(_, d)| *d == dir).for_each(|(_, d)| d.clone_from(&free));
            continue;
        }
        let lock = in_use().entry(dir).or_default().clone();
        match sharing {
            Sharing::Locked => taken._alone.push(lock.lock_owned().await),
            _ => taken._shared.push(lock),
        }
    }
    taken
}

/// Those that somebody holds or waits for.
fn in_use() -> MutexGuard<'static, BTreeMap<PathBuf, Lock>> {
    let mut in_use = IN_USE.lock().unwrap_or_else(PoisonError::into_inner);
    in_use.retain(|_, lock| Arc::strong_count(lock) > 1);
    in_use
}

/// The first of a cache and its others that nobody uses, taken.
fn free(dir: &Path) -> (PathBuf, Option<OwnedMutexGuard<()>>) {
    let mut in_use = in_use();
    let mut path = dir.to_path_buf();
    let mut n = 0;
    while in_use.contains_key(&path) {
        n += 1;
        path = PathBuf::from(format!("{}-{n}", dir.display()));
    }
    let lock = Lock::default();
    in_use.insert(path.clone(), lock.clone());
    (path, lock.try_lock_owned().ok())
}

/// What is told of a cache, in `NAME.json` beside it. When that was written last is when the cache was used last.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct Described {
    pub(super) description: String,
    pub(super) created_at_ns: i64,
}

/// A cache as it is.
#[derive(Clone, Debug)]
pub(super) struct Found {
    /// Its directory's.
    pub(super) name: String,
    pub(super) described: Described,
    pub(super) used_at_ns: i64,
    pub(super) bytes: u64,
    pub(super) in_use: bool,
}

/// Says that a cache is used. Blocks.
fn describe(dir: &Path, m: &Mount, target: &Path) -> Result<(), Error> {
    let path = dir.with_extension("json");
    match File::options().write(true).open(&path) {
        Ok(file) => file.set_modified(SystemTime::now()).map_err(Error::io("set the time of", &path)),
        Err(_) => {
            let id = if m.id.is_empty() { String::new() } else { format!(" with id {:?}", m.id) };
            let description = format!("cached mount {}{id}", target.display());
            let text = serde_json::to_vec(&Described { description, created_at_ns: now_ns() })
                .map_err(|e| Error::Invalid(format!("cannot describe a cache: {e}")))?;
            std::fs::write(&path, text).map_err(Error::io("write", &path))
        }
    }
}

/// All caches. Blocks: each is counted.
pub(super) fn list(caches: &Path) -> Result<Vec<Found>, Error> {
    let entries = match std::fs::read_dir(caches) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        other => other.map_err(Error::io("list", caches))?,
    };
    let mut all = Vec::new();
    for dir in entries.flatten().map(|e| e.path()).filter(|p| p.extension().is_none()) {
        let Some(name) = dir.file_name().and_then(|n| n.to_str()).map(str::to_owned) else { continue };
        let path = dir.with_extension("json");
        let described = std::fs::read(&path).ok().and_then(|text| serde_json::from_slice(&text).ok());
        let modified = std::fs::metadata(&path).and_then(|m| m.modified()).ok();
        let modified = modified.and_then(|t| t.duration_since(SystemTime::UNIX_EPOCH).ok());
        all.push(Found {
            described: described
                .unwrap_or(Described { description: "cached mount".into(), created_at_ns: 0 }),
            used_at_ns: modified.and_then(|t| i64::try_from(t.as_nanos()).ok()).unwrap_or(0),
            bytes: disk_usage::of(&dir),
            in_use: in_use().contains_key(&dir),
            name,
        });
    }
    Ok(all)
}

/// Makes a cache that is taken and not there yet; it appears with its owner and mode, and what `fill` puts into it. Blocks.
pub(super) fn make(
    m: &Mount,
    target: &Path,
    dir: &Path,
    caches: &Path,
    fill: impl FnOnce(&Path) -> Result<(), Error>,
) -> Result<(), Error> {
    // Commands that run side by side may want the same.
    static MAKING: Mutex<()> = Mutex::new(());
    let _making = MAKING.lock().unwrap_or_else(PoisonError::into_inner);
    make_dir(caches, 0o700)?;
    describe(dir, m, target)?;
    if dir.exists() {
        return Ok(());
    }
    let new = dir.with_extension("new");
    // Of one that was not finished.
    remove_tree(&new)?;
    make_dir(&new, 0o755)?;
    fill(&new)?;
    chown(&new, Some(m.uid.unwrap_or(0)), Some(m.gid.unwrap_or(0))).map_err(Error::io("own", &new))?;
    let mode = std::fs::Permissions::from_mode(m.mode.unwrap_or(0o755));
    std::fs::set_permissions(&new, mode).map_err(Error::io("set the mode of", &new))?;
    std::fs::rename(&new, dir).map_err(Error::io("move a new cache to", dir))
}

/// Takes those of these away that nobody uses; the bytes that are free again. `trash` is emptied by a start. Blocks.
pub(super) fn prune(caches: &Path, gone: &[Found], trash: &Path) -> Result<u64, Error> {
    let mut reasons = Vec::new();
    let mut moved = Vec::new();
    let mut bytes = 0;
    {
        let in_use = in_use();
        for found in gone {
            let path = caches.join(&found.name);
            if in_use.contains_key(&path) {
                continue;
            }
            let to = trash.join(unused_name());
            match std::fs::rename(&path, &to) {
                Ok(()) => {
                    moved.push(to);
                    bytes += found.bytes;
                    reasons.extend(remove_tree(&path.with_extension("json")).err().map(|e| e.to_string()));
                }
                Err(e) => reasons.push(format!("{}: {e}", path.display())),
            }
        }
    }
    for dir in moved {
        reasons.extend(remove_tree(&dir).err().map(|e| e.to_string()));
    }
    if reasons.is_empty() {
        return Ok(bytes);
    }
    Err(Error::Several { operation: "some caches of builds are left".into(), reasons })
}
