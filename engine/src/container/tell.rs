//! Telling the metadata store and the listeners what has become of a container.

use std::collections::BTreeMap;

use super::slot::Slot;
use crate::engine::Engine;
use crate::error::Error;
use crate::metadata::{Change, Kind};
use crate::network::Endpoint;

impl Engine {
    /// Writes the container down soon; what is lost by a crash before that is derived at the next start.
    pub(super) fn store_later(&self, slot: &Slot) {
        match Change::put(Kind::Container, &slot.id, &slot.record()) {
            Ok(change) => self.metadata().later(change),
            Err(e) => tracing::error!(container = slot.id, error = %e, "cannot write a container down"),
        }
    }

    /// Writes the container down before it returns. Where the disk refuses it is tried again later: the container is, by
    /// then, what is to be written.
    pub(super) async fn store(&self, slot: &Slot) -> Result<(), Error> {
        let written =
            self.metadata().commit(vec![Change::put(Kind::Container, &slot.id, &slot.record())?]).await;
        written.inspect_err(|_| self.store_later(slot))
    }

    /// The same, for what goes on where the disk refuses, as with Docker.
    pub(super) async fn store_now(&self, slot: &Slot) {
        if let Err(e) = self.store(slot).await {
            tracing::error!(container = slot.id, error = %e, "cannot write a container down");
        }
    }

    /// A container has joined networks, or left them.
    pub(super) fn emit_networks<'a>(
        &self,
        slot: &Slot,
        action: &str,
        endpoints: impl IntoIterator<Item = &'a Endpoint>,
    ) {
        endpoints.into_iter().for_each(|e| self.emit_network(slot, action, &e.network_id, &e.network));
    }

    pub(super) fn emit_network(&self, slot: &Slot, action: &str, id: &str, name: &str) {
        // Networks of the swarm have its short IDs, bridges have those of containers.
        let kind = if id.len() == 64 { "bridge" } else { "overlay" };
        let attributes = [("container", slot.id.as_str()), ("name", name), ("type", kind)];
        let attributes = attributes.map(|(k, v)| (k.to_owned(), v.to_owned())).into();
        self.event_sender().emit("network", action, id, attributes);
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
