//! What a build keeps for the next and has not been written to disk for good: a sync for each step would cost more than
//! most steps. It goes there with the next image that somebody asked for, in one commit with that; a crash before
//! leaves files that the next start sweeps, and no record of them.

use std::collections::BTreeSet;

use super::receive::Prepared;
use super::store::Images;
use crate::error::{Error, blocking};
use crate::metadata::{Change, Kind};

/// Images and layers, by their IDs, that are in no metadata yet.
#[derive(Clone, Debug, Default)]
pub(super) struct Unsynced {
    images: BTreeSet<String>,
    layers: BTreeSet<String>,
}

impl Unsynced {
    pub(super) fn is_empty(&self) -> bool {
        self.images.is_empty() && self.layers.is_empty()
    }

    /// The record of a layer has changed.
    pub(super) fn layer(&mut self, chain: &str) {
        self.layers.insert(chain.to_owned());
    }

    pub(super) fn add(&mut self, published: &[Prepared]) {
        for p in published.iter().filter(|p| p.new) {
            self.images.insert(p.id().to_owned());
            self.layers.extend(p.layers.iter().map(|(chain, ..)| chain.clone()));
        }
    }
}

impl Images {
    /// Takes over what is to be written, with the records of it. The caller holds `changing`.
    pub(super) fn take_unsynced(&self) -> Result<(Unsynced, Vec<Change>), Error> {
        let mut state = self.state();
        let unsynced = std::mem::take(&mut state.unsynced);
        // What was removed meanwhile has no record to lose.
        let layers = unsynced.layers.iter().filter_map(|c| state.layers.get_key_value(c));
        let layers = layers.map(|(chain, layer)| Change::put(Kind::Layer, chain, layer));
        let images = unsynced.images.iter().filter_map(|id| state.images.get_key_value(id));
        let images = images.map(|(id, image)| Change::put(Kind::Image, id, &**image));
        let changes = layers.chain(images).collect::<Result<_, _>>()?;
        Ok((unsynced, changes))
    }

    /// What could not be written is not to be counted on: nothing finds it any more, and it goes with its last user.
    pub(super) fn give_up(&self, unsynced: Unsynced) {
        let mut state = self.state();
        for id in &unsynced.images {
            state.images.remove(id);
        }
        // Layers that others use by now are tried again with them.
        state.unsynced.layers.extend(unsynced.layers);
    }

    pub(crate) fn is_unsynced(&self, id: &str) -> bool {
        self.state().unsynced.images.contains(id)
    }

    /// Writes it to disk. The caller holds `changing`.
    pub(super) async fn sync_unsynced(&self) -> Result<(), Error> {
        let images = self.clone();
        blocking(move || {
            let (unsynced, changes) = images.take_unsynced()?;
            if unsynced.is_empty() {
                return Ok(());
            }
            let written = images.sync_files().and_then(|()| images.metadata().commit_blocking(changes));
            written.inspect_err(|_| images.give_up(unsynced))
        })
        .await
    }

    /// The same, once nobody else changes anything.
    pub(crate) async fn settle(&self) -> Result<(), Error> {
        let _changing = self.changing().lock().await;
        self.sync_unsynced().await
    }

    /// The same, and with it what a container of a step has written, which waited for no disk.
    pub(crate) async fn settle_with_container(&self) -> Result<(), Error> {
        self.settle().await?;
        let images = self.clone();
        blocking(move || images.sync_files()).await
    }
}
