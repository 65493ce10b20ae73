//! What builds keep for the next: for each step that made a layer, by a key made of all that it depends on, the image
//! of the layers up to it; and for each result, the image it gave.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use nix::sys::statvfs::statvfs;
use serde::{Deserialize, Serialize};

use super::caches;
use crate::engine::Engine;
use crate::error::{Error, blocking};
use crate::events::now_ns;
use crate::image::{Held, Images};
use crate::metadata::{Change, Kind, Metadata, Stored};

/// What is kept of one step.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct Entry {
    /// Image ID; none = the step changed nothing.
    pub(super) image: Option<String>,
    /// When it was made (RFC 3339).
    pub(super) created: String,
    /// Nanoseconds since the Unix epoch.
    pub(super) created_at_ns: i64,
    /// When it was used last.
    pub(super) used_at_ns: i64,
    /// How often.
    pub(super) uses: u64,
    /// The instruction.
    pub(super) description: String,
}

/// One entry as `system df -v` shows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CacheUsage {
    /// Its key.
    pub id: String,
    /// What it is, in BuildKit's words: `regular` or `exec.cachemount`.
    pub kind: &'static str,
    /// A build uses it now.
    pub in_use: bool,
    /// The instruction.
    pub description: String,
    /// Bytes of its layer.
    pub size: u64,
    /// Nanoseconds since the Unix epoch.
    pub created_at_ns: i64,
    /// When it was used last.
    pub used_at_ns: i64,
    /// How often.
    pub uses: u64,
    /// An image has the layer too.
    pub shared: bool,
}

/// Which of it is to go.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PruneBuilds {
    /// Only these; none = all.
    pub ids: Vec<String>,
    /// Only these kinds.
    pub kinds: Vec<String>,
    /// Only those that are described so.
    pub descriptions: Vec<String>,
    /// Only what images have too, or what they have not.
    pub shared: Option<bool>,
    /// Only what is used, or what is not.
    pub in_use: Option<bool>,
    /// Only what was used last before this; nanoseconds since the Unix epoch.
    pub until_ns: Option<i64>,
    /// How much of it stays: what was used last, with what it was made on.
    pub limits: CacheLimits,
}

/// How many bytes of the cache a prune leaves; none of them is given = nothing stays. What images have too takes no room.
/// <https://docs.docker.com/build/cache/garbage-collection/>
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct CacheLimits {
    /// So many stay in any case.
    pub reserved: Option<u64>,
    /// No more stay than this.
    pub max_used: Option<u64>,
    /// So many bytes of the disk are to be free afterwards, and no more goes for it than has to.
    pub min_free: Option<u64>,
}

/// What a step was made on, without which it is of no use to a build.
struct Below {
    /// Chain IDs, its own the last; none = it made no layer.
    layers: Vec<String>,
    /// When it, or a step that was made on it, was used last.
    used_at_ns: i64,
}

/// Cheap handle.
#[derive(Clone, Debug)]
pub struct BuildCache {
    metadata: Metadata,
    entries: Arc<Mutex<BTreeMap<String, Entry>>>,
}

impl BuildCache {
    /// Takes over what is stored; what has lost its image is dropped.
    pub(crate) fn open(metadata: Metadata, stored: &Stored, images: &Images) -> Self {
        let mut entries = BTreeMap::new();
        for (key, entry) in stored.all::<Entry>(Kind::BuildStep) {
            if entry.image.as_ref().is_none_or(|i| images.has(i)) {
                entries.insert(key, entry);
            } else {
                metadata.later(Change::delete(Kind::BuildStep, &key));
            }
        }
        Self { metadata, entries: Arc::new(Mutex::new(entries)) }
    }

    fn entries(&self) -> MutexGuard<'_, BTreeMap<String, Entry>> {
        self.entries.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What a key stands for, with its image held; it counts as used.
    pub(super) fn find(&self, key: &str, images: &Images) -> Option<(Entry, Option<Held>)> {
        let mut entries = self.entries();
        let entry = entries.get_mut(key)?;
        // Under the lock: a prune takes only images that no entry has, unless they are held.
        let Ok(held) = entry.image.as_deref().map(|i| images.keep(i)).transpose() else {
            entries.remove(key);
            self.metadata.later(Change::delete(Kind::BuildStep, key));
            return None;
        };
        entry.used_at_ns = now_ns();
        entry.uses += 1;
        let entry = entry.clone();
        drop(entries);
        self.write(key, &entry);
        Some((entry, held))
    }

    /// Keeps what a step made.
    pub(super) fn keep(&self, key: &str, image: Option<String>, created: &str, description: &str) {
        let now = now_ns();
        let entry = Entry {
            image,
            created: created.to_owned(),
            created_at_ns: now,
            used_at_ns: now,
            uses: 0,
            description: description.chars().take(1024).collect(),
        };
        self.write(key, &entry);
        self.entries().insert(key.to_owned(), entry);
    }

    /// Losing it in a crash costs a step of the next build.
    fn write(&self, key: &str, entry: &Entry) {
        match Change::put(Kind::BuildStep, key, entry) {
            Ok(change) => self.metadata.later(change),
            Err(e) => tracing::warn!(error = %e, "a step of a build is not kept for the next"),
        }
    }
}

impl CacheLimits {
    /// Bytes that may stay of those that are `taken`, where so many of the disk are `free`; none = there is no limit, and
    /// nothing stays. What takes no room stays with a limit, be it 0.
    fn room(&self, taken: u64, free: u64) -> Option<u64> {
        let given = |limit: Option<u64>| limit.filter(|bytes| *bytes > 0);
        let kept = given(self.min_free).map(|wanted| taken.saturating_sub(wanted.saturating_sub(free)));
        let most = match (given(self.max_used), kept) {
            (Some(most), Some(kept)) => Some(most.min(kept)),
            (most, kept) => most.or(kept),
        };
        most.max(given(self.reserved))
    }
}

impl PruneBuilds {
    fn is_for(&self, u: &CacheUsage) -> bool {
        let named = |list: &[String], value: &str| list.is_empty() || list.iter().any(|v| v == value);
        named(&self.ids, &u.id)
            && named(&self.kinds, u.kind)
            && named(&self.descriptions, &u.description)
            && self.shared.is_none_or(|s| s == u.shared)
            && self.in_use.is_none_or(|s| s == u.in_use)
            && self.until_ns.is_none_or(|t| u.used_at_ns < t)
    }
}

/// The kind of what `RUN --mount=type=cache` keeps.
const MOUNTED: &str = "exec.cachemount";

impl Engine {
    /// Where `RUN --mount=type=cache` keeps its directories.
    pub(super) fn build_caches(&self) -> std::path::PathBuf {
        self.root().path().join("build-caches")
    }

    /// What builds have kept, the oldest first.
    pub async fn build_cache_usage(&self) -> Result<Vec<CacheUsage>, Error> {
        let dir = self.build_caches();
        let mounted = blocking(move || caches::list(&dir)).await?;
        let mut all = self.kept_steps();
        all.extend(mounted.into_iter().map(|found| CacheUsage {
            id: found.name,
            kind: MOUNTED,
            in_use: found.in_use,
            description: found.described.description,
            size: found.bytes,
            created_at_ns: found.described.created_at_ns,
            used_at_ns: found.used_at_ns,
            uses: 0,
            shared: false,
        }));
        all.sort_by_key(|u| (u.created_at_ns, u.id.clone()));
        Ok(all)
    }

    fn kept_steps(&self) -> Vec<CacheUsage> {
        let shared: BTreeSet<String> = self.images().list().into_iter().flat_map(|i| i.chain_ids).collect();
        self.build_cache()
            .entries()
            .iter()
            .map(|(key, e)| {
                let top = e.image.as_deref().and_then(|i| self.images().topmost(i));
                CacheUsage {
                    id: key.clone(),
                    kind: "regular",
                    in_use: false,
                    description: e.description.clone(),
                    size: top.as_ref().map_or(0, |(_, size)| *size),
                    created_at_ns: e.created_at_ns,
                    used_at_ns: e.used_at_ns,
                    uses: e.uses,
                    shared: top.is_some_and(|(chain, _)| shared.contains(&chain)),
                }
            })
            .collect()
    }

    /// What each step was made on, by its key.
    fn steps_below(&self) -> BTreeMap<String, Below> {
        let mut steps = BTreeMap::new();
        let mut used = BTreeMap::<String, i64>::new();
        for (key, entry) in self.build_cache().entries().iter() {
            let image = entry.image.as_deref().and_then(|i| self.images().resolve(i).ok());
            let layers = image.map(|i| i.chain_ids).unwrap_or_default();
            for layer in &layers {
                let latest = used.entry(layer.clone()).or_default();
                *latest = entry.used_at_ns.max(*latest);
            }
            steps.insert(key.clone(), Below { layers, used_at_ns: entry.used_at_ns });
        }
        for step in steps.values_mut() {
            if let Some(latest) = step.layers.last().and_then(|top| used.get(top)) {
                step.used_at_ns = *latest;
            }
        }
        steps
    }

    /// Bytes that are free on the disk of the data root.
    async fn free_bytes(&self) -> Result<u64, Error> {
        let root = self.root().path().to_path_buf();
        blocking(move || {
            let disk =
                statvfs(&root).map_err(|e| Error::io("look how much is free below", &root)(e.into()))?;
            Ok(disk.blocks_free() * disk.fragment_size())
        })
        .await
    }

    /// Forgets what builds have kept. The keys that went, and the bytes that are free again.
    pub async fn prune_builds(&self, which: PruneBuilds) -> Result<(Vec<String>, u64), Error> {
        let dir = self.build_caches();
        let mut mounted = blocking(move || caches::list(&dir)).await?;
        let mut usage = self.build_cache_usage().await?;
        let steps = self.steps_below();
        let below = |id: &str| steps.get(id).map(|s| s.layers.as_slice()).unwrap_or_default();
        usage.sort_by_key(|u| {
            let used = steps.get(&u.id).map_or(u.used_at_ns, |s| s.used_at_ns);
            (std::cmp::Reverse(used), below(&u.id).len())
        });
        let (mut counted, mut taken) = (BTreeSet::new(), 0);
        // Steps that made the same layer have it once.
        let sizes: Vec<u64> = usage
            .iter()
            .map(|u| {
                let again = below(&u.id).last().is_some_and(|layer| !counted.insert(layer));
                let size = if u.shared || again { 0 } else { u.size };
                taken += size;
                size
            })
            .collect();
        let free = match which.limits.min_free {
            Some(_) => self.free_bytes().await?,
            None => 0,
        };
        let mut room = which.limits.room(taken, free);
        let mut gone = Vec::new();
        let mut lost = BTreeSet::new();
        for (u, size) in usage.into_iter().zip(sizes) {
            let left = room.and_then(|room| room.checked_sub(size));
            let fits = left.is_some() && !below(&u.id).iter().any(|l| lost.contains(l));
            if !which.is_for(&u) || u.in_use || fits {
                room = room.map(|room| room.saturating_sub(size));
            } else {
                lost.extend(below(&u.id).last());
                gone.push(u.id);
            }
        }
        mounted.retain(|found| gone.contains(&found.name));
        let cache = self.build_cache();
        let (hidden, kept): (Vec<_>, BTreeSet<String>) = {
            let mut entries = cache.entries();
            let hidden = gone.iter().filter_map(|key| entries.remove_entry(key)).collect();
            (hidden, entries.values().filter_map(|e| e.image.clone()).collect())
        };
        let changes = gone.iter().map(|k| Change::delete(Kind::BuildStep, k)).collect();
        if let Err(e) = cache.metadata.commit(changes).await {
            cache.entries().extend(hidden);
            return Err(e);
        }
        let (_, mut bytes) = self.images().remove_intermediates(kept).await?;
        let (caches, trash) = (self.build_caches(), self.root().temporary());
        bytes += blocking(move || caches::prune(&caches, &mounted, &trash)).await?;
        self.event_sender().pruned("builder", bytes);
        Ok((gone, bytes))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn limits_leave_room() {
        // Of 100 bytes, with 50 free: as BuildKit's `calculateKeepBytes`.
        for (reserved, max_used, min_free, room) in [
            (None, None, None, None),
            (Some(0), Some(0), None, None),
            (Some(30), None, None, Some(30)),
            (None, Some(30), None, Some(30)),
            (Some(40), Some(30), None, Some(40)),
            (None, None, Some(40), Some(100)),
            (None, None, Some(70), Some(80)),
            (None, None, Some(1000), Some(0)),
            (None, None, Some(0), None),
            (None, Some(30), Some(70), Some(30)),
            (None, Some(90), Some(70), Some(80)),
            (Some(85), Some(90), Some(70), Some(85)),
            (Some(85), None, Some(1000), Some(85)),
        ] {
            let limits = CacheLimits { reserved, max_used, min_free };
            assert_eq!(limits.room(100, 50), room, "{limits:?}");
        }
    }
}
