//! Removal of references and images, and of the layers and blobs that nothing needs any more.

use std::collections::BTreeSet;

use super::catalogue::State;
use super::config::Image;
use super::reference::Reference;
use super::store::{Images, Removed, hex_of};
use crate::data_root::remove_tree;
use crate::error::{Error, blocking};
use crate::metadata::{Change, Kind};

impl Images {
    /// Removes a reference and, with its last one, the image; or an image by its ID.
    pub async fn remove(&self, reference: &str, force: bool) -> Result<Vec<Removed>, Error> {
        let metrics = self.metrics();
        let _timer = metrics.image.delete.start_timer();
        metrics.image_deletes.inc();
        let removed = self.remove_one(reference, force).await;
        if let Err(e) = &removed {
            metrics.image_deletes_failed.with_label_values(&[reason(e)]).inc();
        }
        removed
    }

    async fn remove_one(&self, reference: &str, force: bool) -> Result<Vec<Removed>, Error> {
        let _changing = self.changing().lock().await;
        let (id, untag, delete) = plan(&self.state(), reference, force)?;
        let labels = self.labels(&id);
        let mut changes: Vec<Change> = untag.iter().map(|r| Change::delete(Kind::Reference, r)).collect();
        if delete {
            changes.push(Change::delete(Kind::Image, &id));
            changes.push(Change::delete(Kind::Tagged, &id));
        }
        let removed: Vec<Removed> = untag.iter().cloned().map(Removed::Untagged).collect();
        // Out of sight first, so that no container can be made from what is going.
        let mut hidden = State::default();
        {
            let mut state = self.state();
            if delete {
                // Somebody may have come to use it between the plan and now.
                in_use(&state, &id, force)?;
                hidden.images.extend(state.images.remove_entry(&id));
                hidden.tagged.extend(state.tagged.remove_entry(&id));
            }
            hidden.references.extend(untag.iter().filter_map(|r| state.references.remove_entry(r)));
        }
        self.commit_gone(hidden, changes).await?;
        // Once for what was asked for: digests that go with the last tag go without a word, as with Docker.
        let by_name = untag.first().is_some_and(|r| !r.contains('@')) && !id_prefix(&id, reference);
        for _ in untag.iter().take(if by_name { 1 } else { untag.len() }) {
            self.emit_with("untag", &id, &id, &labels);
        }
        let mut removed = removed;
        if delete {
            self.emit("delete", &id, &id);
            removed.push(Removed::Deleted(id));
            removed.extend(self.collect().await?.into_iter().map(Removed::Deleted));
        }
        Ok(removed)
    }

    /// Writes down that something is gone, which is out of sight already; where the disk refuses it is there again.
    pub(super) async fn commit_gone(&self, hidden: State, changes: Vec<Change>) -> Result<(), Error> {
        let written = self.metadata().commit(changes).await;
        if written.is_err() {
            let mut state = self.state();
            state.images.extend(hidden.images);
            state.tagged.extend(hidden.tagged);
            state.references.extend(hidden.references);
            state.layers.extend(hidden.layers);
        }
        written
    }

    /// Removes images that no container uses and `wanted` agrees to: those without a tag, or `all`. What went, and
    /// the bytes of layers that went with it.
    pub async fn prune(
        &self,
        all: bool,
        wanted: impl Fn(&Image) -> bool,
    ) -> Result<(Vec<Removed>, u64), Error> {
        let candidates: Vec<Image> = {
            let state = self.state();
            let used = state.holders.values();
            let used = used.flat_map(|h| h.mounted.iter().map(|(id, _)| id).chain([&h.image_id]));
            let used: BTreeSet<&String> = used.collect();
            let free = state.images.iter().filter(|(id, i)| !used.contains(id) && !i.intermediate);
            free.map(|(_, i)| state.shown(i)).collect()
        };
        let bytes = || self.state().layers.values().map(|l| l.size).sum::<u64>();
        let before = bytes();
        let mut removed = Vec::new();
        for image in candidates.into_iter().filter(|i| (all || i.references.is_empty()) && wanted(i)) {
            let mut names: Vec<&String> = image.references.iter().chain(&image.digests).collect();
            if names.is_empty() {
                names.push(&image.id);
            }
            for name in names {
                match self.remove(name, false).await {
                    Ok(gone) => removed.extend(gone),
                    // It went with the one before, or somebody came to use it.
                    Err(Error::NoSuchImage { .. } | Error::Conflict(_)) => {}
                    Err(e) => return Err(e),
                }
            }
        }
        let freed = before.saturating_sub(bytes());
        self.pruned(freed);
        Ok((removed, freed))
    }

    /// Lets go of what a removed container held.
    pub(crate) async fn release(&self, container: &str) -> Result<(), Error> {
        if self.let_go(container) {
            let _changing = self.changing().lock().await;
            self.collect().await?;
        }
        Ok(())
    }

    /// The same without removing anything: whether there is something to collect now.
    pub(super) fn let_go(&self, holder: &str) -> bool {
        let mut state = self.state();
        let Some(held) = state.holders.remove(holder) else { return false };
        let mut all = held.mounted.iter().map(|(id, _)| id).chain([&held.image_id]);
        all.any(|id| !state.images.contains_key(id))
    }

    /// Removes the layers and blobs that no image or container needs. The caller holds `changing`.
    pub(super) async fn collect(&self) -> Result<Vec<String>, Error> {
        let mut hidden = State::default();
        let (layers, chains, blobs) = {
            let mut state = self.state();
            let known: Vec<String> = state.layers.keys().cloned().collect();
            let (chains, blobs) = state.needed();
            let gone: Vec<String> = known.into_iter().filter(|c| !chains.contains(c.as_str())).collect();
            let blobs: BTreeSet<String> =
                blobs.iter().map(|d| d.trim_start_matches("sha256:").to_owned()).collect();
            let chains: BTreeSet<String> = chains.iter().map(|c| hex_of(c).to_owned()).collect();
            hidden.layers.extend(gone.iter().filter_map(|c| state.layers.remove_entry(c)));
            (gone, chains, blobs)
        };
        let changes: Vec<Change> = layers.iter().map(|c| Change::delete(Kind::Layer, c)).collect();
        if !changes.is_empty() {
            self.commit_gone(hidden, changes).await?;
        }
        let (layer_dir, blob_dir) = (self.layer_dir(""), self.blob_path(""));
        blocking(move || {
            let mut reasons = Vec::new();
            // Those of which a crash has lost the record, too.
            for (dir, kept) in [(layer_dir, chains), (blob_dir, blobs)] {
                for entry in std::fs::read_dir(&dir).map_err(Error::io("list", &dir))?.flatten() {
                    if !entry.file_name().to_str().is_some_and(|n| kept.contains(n)) {
                        reasons.extend(remove_tree(&entry.path()).err().map(|e| e.to_string()));
                    }
                }
            }
            if reasons.is_empty() {
                return Ok(());
            }
            Err(Error::Several {
                operation: "some files of the image are left, to be swept at the next start".into(),
                reasons,
            })
        })
        .await?;
        Ok(layers)
    }
}

/// A failure as metrics name it.
fn reason(e: &Error) -> &'static str {
    match e {
        Error::NoSuchImage { .. } => "not_found",
        Error::Conflict(_) => "conflict",
        Error::Invalid(_) => "invalid_argument",
        _ => "unknown",
    }
}

/// The image, the references that go, and whether the image goes.
fn plan(state: &State, asked: &str, force: bool) -> Result<(String, Vec<String>, bool), Error> {
    let id = state.find(asked)?;
    let all: Vec<String> =
        state.references.iter().filter(|(_, i)| **i == id).map(|(r, _)| r.clone()).collect();
    let named = Reference::parse(asked).ok().map(|r| r.or_latest()).and_then(|r| {
        let keys = [r.by_digest(), Some(r.to_string())];
        keys.into_iter().flatten().find(|k| state.references.get(k) == Some(&id))
    });
    if let Some(name) = named {
        let gone = with_digests(name, &all);
        let mut last = all.len() == gone.len();
        if let Some(user) = first_user(state, &id).filter(|_| last) {
            if !force {
                return Err(Error::Conflict(format!(
                    "conflict: unable to remove repository reference {asked:?} (must force) - container {} is using its referenced image {}",
                    short(user),
                    short(&id)
                )));
            }
            // Of one that runs only the name goes.
            last = in_use(state, &id, force).is_ok();
        }
        return Ok((id, gone, last));
    }
    let names: BTreeSet<String> =
        all.iter().filter_map(|r| Reference::parse(r).ok()).map(|r| r.name).collect();
    let tags = all.iter().filter(|r| !r.contains('@')).count();
    if (names.len() > 1 || tags > 1) && !force {
        return Err(Error::Conflict(format!(
            "conflict: unable to delete {} (must be forced) - image is referenced in multiple repositories",
            short(&id)
        )));
    }
    in_use(state, &id, force)?;
    Ok((id, all, true))
}

/// A reference, and, with the last tag of a repository, the digests it is known by there.
fn with_digests(name: String, all: &[String]) -> Vec<String> {
    let repository = |r: &str| Reference::parse(r).map(|r| r.name).unwrap_or_default();
    let of = repository(&name);
    let others: Vec<&String> = all.iter().filter(|r| **r != name && repository(r) == of).collect();
    let mut gone = vec![name];
    if !gone[0].contains('@') && others.iter().all(|r| r.contains('@')) {
        gone.extend(others.into_iter().cloned());
    }
    gone
}

fn first_user<'a>(state: &'a State, id: &str) -> Option<&'a str> {
    state.holders.iter().find(|(_, h)| h.has(id)).map(|(c, _)| c.as_str())
}

/// Refuses the removal of an image that containers have; with `force`, that those have which run.
fn in_use(state: &State, id: &str, force: bool) -> Result<(), Error> {
    let running = state.holders.iter().find(|(_, h)| h.has(id) && h.running);
    let (how, state, user) = match (running, first_user(state, id)) {
        (Some((c, _)), _) => ("cannot be forced", "running", c.as_str()),
        (None, Some(c)) if !force => ("must be forced", "stopped", c),
        _ => return Ok(()),
    };
    Err(Error::Conflict(format!(
        "conflict: unable to delete {} ({how}) - image is being used by {state} container {}",
        short(id),
        short(user)
    )))
}

/// Whether an image was asked for by its ID, or by the beginning of it.
fn id_prefix(id: &str, asked: &str) -> bool {
    id.starts_with(asked) || id.strip_prefix("sha256:").is_some_and(|hex| hex.starts_with(asked))
}

fn short(id: &str) -> &str {
    let hex = id.strip_prefix("sha256:").unwrap_or(id);
    hex.get(..12).unwrap_or(hex)
}
