//! The image store: what is on disk and in the metadata, taken over at start, held for containers and told to callers.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use arc_swap::ArcSwap;
use skep_registry::Registries;

use super::catalogue::{Holder, State, StoredImage, StoredLayer};
use super::config::{History, Image};
use super::layer::Limits;
use super::naming::Naming;
use super::reference::Reference;
use super::transfer::Transfers;
use crate::data_root::DataRoot;
use crate::error::Error;
use crate::events::Events;
use crate::metadata::{Change, Kind, Metadata, Stored};
use crate::metrics::Metrics;

/// One effect of `remove`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Removed {
    /// A reference is gone.
    Untagged(String),
    /// An image (or a layer) is gone.
    Deleted(String),
}

/// Cheap handle to the images of one data root.
#[derive(Clone, Debug)]
pub struct Images(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    root: Arc<DataRoot>,
    metadata: Metadata,
    events: Events,
    metrics: Metrics,
    limits: Limits,
    /// Serialises whatever adds or removes layers and blobs.
    changing: Arc<tokio::sync::Mutex<()>>,
    /// Held by who puts an archive together again.
    completing: Mutex<()>,
    state: Mutex<State>,
    registries: ArcSwap<Registries>,
    transfers: Transfers,
}

impl Images {
    /// Takes over what is stored; what has lost its files is reported and dropped, files that nothing names are swept.
    pub(crate) fn open(
        root: Arc<DataRoot>,
        metadata: Metadata,
        events: Events,
        metrics: Metrics,
        stored: &Stored,
        holders: HashMap<String, Holder>,
    ) -> Result<Self, Error> {
        let mut state = State { holders, ..State::default() };
        let mut gone = Vec::new();
        for (chain, layer) in stored.all::<StoredLayer>(Kind::Layer) {
            if root.layers().join(hex_of(&chain)).is_dir() {
                state.layers.insert(chain, layer);
            } else {
                tracing::error!(layer = chain, "the files of a layer are missing");
                gone.push(Change::delete(Kind::Layer, &chain));
            }
        }
        for (id, image) in stored.all::<StoredImage>(Kind::Image) {
            if image.image.chain_ids.iter().all(|c| state.layers.contains_key(c)) {
                state.images.insert(id, Arc::new(image));
            } else {
                tracing::error!(image = id, "an image lacks layers and is dropped; load it again");
                gone.push(Change::delete(Kind::Image, &id));
            }
        }
        for (reference, id) in stored.all::<String>(Kind::Reference) {
            if state.images.contains_key(&id) {
                state.references.insert(reference, id);
            } else {
                gone.push(Change::delete(Kind::Reference, &reference));
            }
        }
        for (id, at) in stored.all::<i64>(Kind::Tagged) {
            if state.images.contains_key(&id) {
                state.tagged.insert(id, at);
            } else {
                gone.push(Change::delete(Kind::Tagged, &id));
            }
        }
        {
            let (chains, blobs) = state.needed();
            let in_use = |set: &BTreeSet<&str>, name: &str| set.contains(format!("sha256:{name}").as_str());
            root.sweep(&root.layers(), "a layer that no image uses", |n| in_use(&chains, n))?;
            root.sweep(&root.blobs(), "a blob that no image uses", |n| in_use(&blobs, n))?;
            gone.extend(
                state
                    .layers
                    .keys()
                    .filter(|c| !chains.contains(c.as_str()))
                    .map(|c| Change::delete(Kind::Layer, c)),
            );
        }
        let kept: BTreeSet<String> = state.needed().0.into_iter().map(str::to_owned).collect();
        state.layers.retain(|c, _| kept.contains(c));
        if !gone.is_empty() {
            metadata.commit_blocking(gone)?;
        }
        Ok(Self(Arc::new(Inner {
            root,
            metadata,
            events,
            metrics,
            limits: Limits::default(),
            changing: Arc::default(),
            completing: Mutex::default(),
            state: Mutex::new(state),
            registries: ArcSwap::default(),
            transfers: Transfers::default(),
        })))
    }

    /// From now on registries are asked as these say.
    pub fn use_registries(&self, registries: Registries) {
        self.0.registries.store(Arc::new(registries));
    }

    /// How registries are asked.
    pub fn registries(&self) -> Registries {
        Registries::clone(&self.0.registries.load())
    }

    pub(super) fn transfers(&self) -> &Transfers {
        &self.0.transfers
    }

    pub(super) fn state(&self) -> MutexGuard<'_, State> {
        self.0.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn metadata(&self) -> &Metadata {
        &self.0.metadata
    }

    pub(super) fn metrics(&self) -> &Metrics {
        &self.0.metrics
    }

    pub(super) fn completing(&self) -> MutexGuard<'_, ()> {
        self.0.completing.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn changing(&self) -> &Arc<tokio::sync::Mutex<()>> {
        &self.0.changing
    }

    /// Tells of an image by its ID or reference; of one that is there, with its labels.
    pub(crate) fn emit(&self, action: &str, id: &str, name: &str) {
        self.emit_with(action, id, name, &self.labels(id));
    }

    pub(super) fn emit_with(&self, action: &str, id: &str, name: &str, labels: &BTreeMap<String, String>) {
        let mut attributes = labels.clone();
        attributes.insert("name".to_owned(), name.to_owned());
        self.0.events.emit("image", action, id, attributes);
    }

    pub(super) fn labels(&self, id: &str) -> BTreeMap<String, String> {
        self.resolve(id).map(|i| i.config.labels).unwrap_or_default()
    }

    pub(super) fn pruned(&self, freed: u64) {
        self.0.events.pruned("image", freed);
    }

    /// The file of a blob.
    pub(super) fn blob_path(&self, digest: &str) -> PathBuf {
        self.0.root.blobs().join(hex_of(digest))
    }

    /// The directory of a layer.
    pub(crate) fn layer_path(&self, chain: &str) -> PathBuf {
        self.0.root.layers().join(hex_of(chain)).join("diff")
    }

    /// The recipe of a layer's archive, where it has one.
    pub(super) fn recipe_path(&self, chain: &str) -> PathBuf {
        self.0.root.layers().join(hex_of(chain)).join("recipe")
    }

    pub(super) fn layer_dir(&self, chain: &str) -> PathBuf {
        self.0.root.layers().join(hex_of(chain))
    }

    pub(super) fn root(&self) -> &DataRoot {
        &self.0.root
    }

    pub(super) fn limits(&self) -> &Limits {
        &self.0.limits
    }

    pub(super) fn temporary(&self) -> PathBuf {
        self.0.root.temporary()
    }

    /// Keeps the image's layers as long as the container exists; atomic with finding the image.
    pub(crate) fn hold(&self, asked: &str, container: &str) -> Result<Image, Error> {
        let mut state = self.state();
        let id = state.find(asked)?;
        let stored =
            state.images.get(&id).cloned().ok_or(Error::NoSuchImage { reference: asked.to_owned() })?;
        let chain_ids = stored.image.chain_ids.clone();
        state.holders.insert(
            container.to_owned(),
            Holder { image_id: id, chain_ids, mounted: Vec::new(), running: false },
        );
        Ok(state.shown(&stored))
    }

    /// Keeps one more image from being removed, which a container has mounted.
    pub(crate) fn hold_more(&self, asked: &str, container: &str) -> Result<Image, Error> {
        let mut state = self.state();
        let id = state.find(asked)?;
        let stored =
            state.images.get(&id).cloned().ok_or(Error::NoSuchImage { reference: asked.to_owned() })?;
        if let Some(holder) = state.holders.get_mut(container) {
            holder.mounted.push((id, stored.image.chain_ids.clone()));
        }
        Ok(state.shown(&stored))
    }

    pub(crate) fn set_running(&self, container: &str, running: bool) {
        if let Some(h) = self.state().holders.get_mut(container) {
            h.running = running;
        }
    }

    /// All images, newest first, without those that builds keep for the next.
    pub fn list(&self) -> Vec<Image> {
        let state = self.state();
        let images = state.images.values().filter(|s| !s.intermediate);
        let mut all: Vec<Image> = images.map(|s| state.shown(s)).collect();
        all.sort_by_key(|i| std::cmp::Reverse(i.created_at_ns));
        all
    }

    /// By `name`, `name:tag`, `name@digest`, ID or a unique prefix of one.
    pub fn resolve(&self, reference_or_id: &str) -> Result<Image, Error> {
        let state = self.state();
        let id = state.find(reference_or_id)?;
        let stored =
            state.images.get(&id).ok_or(Error::NoSuchImage { reference: reference_or_id.to_owned() })?;
        Ok(state.shown(stored))
    }

    /// The steps an image was made by, newest first, each with the bytes its layer unpacks to.
    pub fn history(&self, reference_or_id: &str) -> Result<Vec<(History, u64)>, Error> {
        let image = self.resolve(reference_or_id)?;
        let state = self.state();
        let mut sizes = image.chain_ids.iter().map(|c| state.layers.get(c).map_or(0, |l| l.size));
        let steps = image.history.iter().cloned();
        let mut all: Vec<_> = steps
            .map(|h| {
                let size = if h.empty_layer { 0 } else { sizes.next().unwrap_or(0) };
                (h, size)
            })
            .collect();
        all.reverse();
        Ok(all)
    }

    /// Gives an image one more reference (taking it from another image, as Docker does).
    pub async fn tag(&self, source: &str, target: &str) -> Result<(), Error> {
        let target = Reference::parse(target)?.or_latest();
        if target.digest.is_some() {
            return Err(Error::Invalid(format!(
                "refusing to create a tag with a digest reference: {target}"
            )));
        }
        let changing = self.changing().clone().lock_owned().await;
        let id = self.state().find(source)?;
        if self.is_unsynced(&id) {
            self.sync_unsynced().await?;
        }
        let key = target.to_string();
        let naming = Naming::new(&id, [key.clone()]);
        // One that has the name already has it for good: only when it got it last is new.
        if self.state().references.get(&key) == Some(&id) {
            naming.changes()?.into_iter().for_each(|change| self.metadata().later(change));
            naming.apply(&mut self.state());
        } else {
            self.give(naming, changing).await?;
        }
        self.emit("tag", &id, &key);
        Ok(())
    }
}

/// A digest without its algorithm.
pub(super) fn hex_of(digest: &str) -> &str {
    digest.strip_prefix("sha256:").unwrap_or(digest)
}
