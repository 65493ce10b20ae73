//! Garbage collection: links to blobs that no manifest of their repository names, and content that no link leads to.
//!
//! It may run while the directory is served. Whoever makes use of content (pushes it, mounts it, names it in a manifest,
//! is told that it is there) sets its time to now, holding the lock `changing` shared. The collector first waits for those
//! who hold it, notes the time, marks without any lock, and then removes, holding the lock alone, only what was not used
//! since that time, and not in the time of grace before it, in which a push may still come to its manifest.

use std::collections::{HashMap, HashSet};
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::Serialize;

use crate::daemon::DaemonBlobs;
use crate::error::Error;
use crate::manifest::{Manifest, PartKind};
use crate::name::hex_of;
use crate::route::Reference;
use crate::share::{Shared, share};
use crate::store::{Store, remove, sync_dir};

/// Things removed under one lock, so that nobody waits long for it.
const BATCH: usize = 64;

/// What is garbage.
#[derive(Clone, Debug)]
pub struct GcOptions {
    /// Only say what would be removed.
    pub dry_run: bool,
    /// Manifests that have no tag, and that no kept index or subject keeps, are garbage too.
    pub untagged: bool,
    /// Manifests that nobody has asked for or pushed for so long are garbage too, with their tags.
    pub unused: Option<Duration>,
    /// What was used so shortly ago stays.
    pub grace: Duration,
    /// Data root of a daemon of this host: a blob of which both have a file is made one file.
    pub daemon_data_root: Option<PathBuf>,
}

/// What was removed, or would be.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Garbage {
    /// Content, by digest.
    pub blobs: Vec<String>,
    /// Bytes of that.
    pub bytes: u64,
    /// Blobs taken from a repository (`NAME@sha256:...`).
    pub links: Vec<String>,
    /// Manifests taken from a repository, likewise.
    pub manifests: Vec<String>,
    /// What was shared with a daemon, where one was named.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub shared: Option<Shared>,
}

/// What stays, by hex digest.
#[derive(Default)]
struct Marked {
    /// Of one repository.
    manifests: HashSet<String>,
    blobs: HashSet<String>,
}

/// Collects a directory's garbage.
///
/// # Errors
/// The directory is no registry's, or a file cannot be read: what cannot be understood keeps nothing alive, so nothing
/// is removed then.
pub fn collect(root: &Path, options: &GcOptions) -> Result<Garbage, Error> {
    let store = Store::look(root)?;
    let daemon = options.daemon_data_root.as_deref().map(|r| DaemonBlobs::open(r, &store)).transpose()?;
    let nanoseconds = |d: Duration| i128::try_from(d.as_nanos()).unwrap_or(i128::MAX / 2);
    let now = begin(&store)?;
    let before = now.saturating_sub(nanoseconds(options.grace));
    let unused = options.unused.map(|d| now.saturating_sub(nanoseconds(d)));
    let is_old = |path: &Path| Store::last_used(path).is_some_and(|t| t < before);
    let mut garbage = Garbage::default();
    let mut kept = HashSet::new();
    let (mut manifests, mut links) = (Vec::new(), Vec::new());
    for name in store.folders()? {
        let marked = mark(&store, &name, options.untagged, unused, before)?;
        for hex in store.links(&name, "_manifests")? {
            if marked.manifests.contains(&hex) {
                kept.insert(hex);
            } else {
                manifests.push((name.clone(), format!("sha256:{hex}")));
            }
        }
        for hex in store.links(&name, "_blobs")? {
            let digest = format!("sha256:{hex}");
            if !marked.blobs.contains(&hex) && is_old(&store.blob_link(&name, &digest)) {
                links.push((name.clone(), digest));
            } else {
                kept.insert(hex);
            }
        }
        // Named without a link of the repository's: a mirror has not fetched it, or somebody deleted the link.
        kept.extend(marked.blobs);
    }
    let mut used: HashMap<&str, Vec<String>> = HashMap::new();
    for batch in manifests.chunks(BATCH) {
        let _alone = store.collecting()?;
        for (name, digest) in batch {
            if !is_old(&store.manifest_link(name, digest)) {
                used.entry(name).or_default().push(hex_of(digest).to_owned());
                continue;
            }
            garbage.manifests.push(format!("{name}@{digest}"));
            if !options.dry_run {
                store.untag(name, digest)?;
                store.forget_manifest(name, digest)?;
                store.remove_if_empty(name);
            }
        }
    }
    // Used since they were looked at: an index that names them may have come, so what they name stays too.
    let mut spared = HashMap::new();
    for (name, open) in used {
        let marked = reached(&store, name, open)?;
        kept.extend(marked.manifests);
        kept.extend(marked.blobs.iter().cloned());
        spared.insert(name, marked.blobs);
    }
    for batch in links.chunks(BATCH) {
        let _alone = store.collecting()?;
        for (name, digest) in batch {
            let (link, hex) = (store.blob_link(name, digest), hex_of(digest));
            let is_spared = spared.get(name.as_str()).is_some_and(|blobs| blobs.contains(hex));
            if is_spared || !is_old(&link) {
                kept.insert(hex.to_owned());
                continue;
            }
            garbage.links.push(format!("{name}@{digest}"));
            if !options.dry_run {
                remove(&link)?;
                link.parent().map_or(Ok(()), sync_dir)?;
                store.remove_if_empty(name);
            }
        }
    }
    let old: Vec<String> = store
        .all_blobs()?
        .into_iter()
        .filter(|hex| !kept.contains(hex) && is_old(&store.blob_path(&format!("sha256:{hex}"))))
        .collect();
    for batch in old.chunks(BATCH) {
        let _alone = store.collecting()?;
        for hex in batch {
            let digest = format!("sha256:{hex}");
            let path = store.blob_path(&digest);
            if !is_old(&path) {
                continue;
            }
            garbage.bytes += std::fs::metadata(&path).map_or(0, |m| m.len());
            if !options.dry_run {
                remove(&path)?;
            }
            garbage.blobs.push(digest);
        }
        if !options.dry_run {
            sync_dir(&root.join("blobs/sha256"))?;
        }
    }
    if let Some(daemon) = &daemon {
        garbage.shared = Some(share(&store, daemon, options.dry_run, &garbage.blobs)?);
    }
    Ok(garbage)
}

/// Waits until nobody uses anything that is not marked as used, and reads the clock that files have.
fn begin(store: &Store) -> Result<i128, Error> {
    let _alone = store.collecting()?;
    let path = store.temporary();
    let file = std::fs::File::create_new(&path).map_err(Error::io("make", &path))?;
    // A server that starts sweeps the file away at any moment.
    let made = file.metadata().map_err(Error::io("look at", &path))?;
    remove(&path)?;
    Ok(Store::used_at(&made))
}

/// What of a repository stays: its manifests (those with tags, or used since `unused`, and what hangs on them, if others
/// are garbage; those used since `before` whatever they are), and the blobs they name.
fn mark(
    store: &Store,
    name: &str,
    untagged: bool,
    unused: Option<i128>,
    before: i128,
) -> Result<Marked, Error> {
    let all = store.links(name, "_manifests")?;
    let used_since = |hex: &String, since: i128| {
        Store::last_used(&store.manifest_link(name, &format!("sha256:{hex}"))).is_some_and(|t| t >= since)
    };
    let mut open: Vec<String> = if untagged {
        let tags = store.tags(name)?.unwrap_or_default();
        let tagged = tags.iter().map(|tag| store.tagged(name, tag)).collect::<Result<Vec<_>, _>>()?;
        tagged.into_iter().flatten().map(|d| hex_of(&d).to_owned()).collect()
    } else {
        all.clone()
    };
    if let Some(since) = unused {
        open.retain(|hex| used_since(hex, since));
    }
    open.extend(all.into_iter().filter(|hex| used_since(hex, before)));
    reached(store, name, open)
}

/// These manifests of a repository, what hangs on them, and the blobs they name.
fn reached(store: &Store, name: &str, mut open: Vec<String>) -> Result<Marked, Error> {
    let mut marked = Marked::default();
    while let Some(hex) = open.pop() {
        if !marked.manifests.insert(hex.clone()) {
            continue;
        }
        let digest = format!("sha256:{hex}");
        // Deleted meanwhile, or an index's part that a mirror has not fetched.
        let Some(stored) = store.manifest(name, &Reference::Digest(digest.clone()))? else { continue };
        let read = Manifest::read(&stored.bytes, &stored.media_type)
            .map_err(|e| Error::Invalid(format!("manifest {name}@{digest} cannot be read: {}", e.message)))?;
        for part in read.parts {
            let hex = hex_of(&part.digest).to_owned();
            if part.kind == PartKind::Manifest {
                open.push(hex);
            } else {
                marked.blobs.insert(hex);
            }
        }
        // What is said about it (signatures, attestations) lives as long as it does.
        open.extend(store.referrer_links(name, &digest)?);
    }
    Ok(marked)
}

#[cfg(test)]
mod tests {
    use skep_registry::{digest_of, media};

    use super::*;

    /// As if all of a directory had been used so much earlier.
    fn age(dir: &Path, by: Duration) {
        for entry in std::fs::read_dir(dir).expect("lists").flatten() {
            let path = entry.path();
            if path.is_dir() {
                age(&path, by);
                continue;
            }
            let file = std::fs::File::open(&path).expect("opens");
            let then = file.metadata().and_then(|m| m.modified()).expect("has a time") - by;
            file.set_modified(then).expect("sets the time");
        }
    }

    #[test]
    fn only_what_nothing_names_goes() {
        let dir = tempfile::tempdir().expect("a directory");
        let store = Store::open(dir.path()).expect("opens");
        let blob = |name: &str, text: &str| {
            let file = store.temporary();
            std::fs::write(&file, text).expect("writes");
            let digest = digest_of(text.as_bytes());
            store.take_in(&file, name, &digest).expect("takes it in");
            digest
        };
        let manifest = |name: &str, tag: Option<&str>, config: &str, subject: Option<&str>| {
            let mut text = serde_json::json!({
                "schemaVersion": 2, "config": {"mediaType": "x", "digest": digest_of(config.as_bytes()), "size": config.len()},
            });
            if let Some(subject) = subject {
                text["subject"] = serde_json::json!({"mediaType": "x", "digest": subject, "size": 1});
            }
            let text = text.to_string();
            let read = Manifest::read(text.as_bytes(), media::OCI_MANIFEST).expect("reads");
            store.put_manifest(name, tag, &read, text.as_bytes(), true).expect("puts it")
        };
        let kept = blob("a", "kept");
        let both = blob("a", "both");
        assert!(store.mount("b/c", "a", &both).expect("mounts"));
        let lone = blob("a", "lone");
        let tagged = manifest("a", Some("1"), "kept", None);
        let about = manifest("a", None, "kept", Some(&tagged));
        let bare = manifest("b/c", None, "both", None);
        let options = |dry_run, untagged, grace| GcOptions {
            dry_run,
            untagged,
            unused: None,
            grace,
            daemon_data_root: None,
        };
        let hour = Duration::from_secs(3600);
        assert_eq!(collect(dir.path(), &options(false, true, hour)).expect("collects"), Garbage::default());

        let wanted = Garbage {
            blobs: vec![lone.clone()],
            bytes: 4,
            links: {
                let mut all = vec![format!("a@{lone}"), format!("a@{both}")];
                all.sort();
                all
            },
            ..Garbage::default()
        };
        for dry_run in [true, false] {
            age(dir.path(), Duration::from_secs(1));
            let mut found = collect(dir.path(), &options(dry_run, false, Duration::ZERO)).expect("collects");
            found.links.sort();
            assert_eq!(found, wanted);
            assert_eq!(store.blob_path(&lone).exists(), dry_run);
        }
        age(dir.path(), Duration::from_secs(1));
        let found = collect(dir.path(), &options(false, true, Duration::ZERO)).expect("collects");
        assert_eq!(found.manifests, [format!("b/c@{bare}")]);
        assert!(!store.repository("b").exists());
        for digest in [&kept, &tagged, &about] {
            assert!(store.blob_path(digest).exists());
        }
        // Not asked for lately: it goes with its tags.
        let lately = |unused| GcOptions { unused: Some(unused), ..options(false, false, Duration::ZERO) };
        assert_eq!(collect(dir.path(), &lately(hour)).expect("collects"), Garbage::default());
        age(dir.path(), hour * 2);
        let asked = Reference::Digest(about.clone());
        assert!(store.use_manifest("a", &asked).expect("asks").is_some());
        let found = collect(dir.path(), &lately(hour)).expect("collects");
        assert_eq!(found.manifests, [format!("a@{tagged}")]);
        assert_eq!(store.tags("a").expect("lists").unwrap_or_default(), Vec::<String>::new());
        assert!(collect(&dir.path().join("none"), &options(true, false, hour)).is_err());
    }

    /// Nothing keeps the manifest but that somebody asked for it: an index that names it may be on its way.
    #[test]
    fn what_is_used_keeps_what_it_names() {
        let dir = tempfile::tempdir().expect("a directory");
        let store = Store::open(dir.path()).expect("opens");
        let (file, config) = (store.temporary(), digest_of(b"config"));
        std::fs::write(&file, "config").expect("writes");
        store.take_in(&file, "a", &config).expect("takes it in");
        let text = serde_json::json!({
            "schemaVersion": 2, "config": {"mediaType": "x", "digest": config, "size": 6},
        });
        let text = text.to_string();
        let read = Manifest::read(text.as_bytes(), media::OCI_MANIFEST).expect("reads");
        let digest = store.put_manifest("a", None, &read, text.as_bytes(), true).expect("puts it");
        let hour = Duration::from_secs(3600);
        age(dir.path(), hour * 2);
        assert!(store.use_manifest("a", &Reference::Digest(digest)).expect("asks").is_some());
        let options = GcOptions {
            dry_run: false,
            untagged: true,
            unused: Some(hour / 2),
            grace: hour,
            daemon_data_root: None,
        };
        assert_eq!(collect(dir.path(), &options).expect("collects"), Garbage::default());
        assert!(store.blob_path(&config).exists());
        age(dir.path(), hour * 2);
        let found = collect(dir.path(), &options).expect("collects");
        assert_eq!((found.manifests.len(), found.links.len(), found.blobs.len()), (1, 1, 2));
    }
}
