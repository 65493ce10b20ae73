//! Telling the metadata store and the listeners what has become of a container.

use std::collections::BTreeMap;

use super::slot::Slot;
use crate::engine::Engine;
use crate::metadata::{Change, Kind};

impl Engine {
    /// Writes the container down soon; what is lost by a crash before that is derived at the next start.
    pub(super) fn store_later(&self, slot: &Slot) {
        match Change::put(Kind::Container, &slot.id, &slot.record()) {
            Ok(change) => self.metadata().later(change),
            Err(e) => tracing::error!(container = slot.id, error = %e, "cannot write a container down"),
        }
    }

    pub(super) fn emit(&self, slot: &Slot, action: &str, more: &[(&str, &str)]) {
        let c = slot.container();
        let mut attributes: BTreeMap<String, String> = c.config.labels.clone();
        attributes.insert("name".into(), c.name.clone());
        attributes.insert("image".into(), c.config.image.clone());
        attributes.extend(more.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())));
        self.event_sender().emit("container", action, &slot.id, attributes);
    }
}
