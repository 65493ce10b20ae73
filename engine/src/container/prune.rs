//! Removing what does not run.

use super::slot::Slot;
use crate::config::{Container, ContainerState};
use crate::engine::Engine;
use crate::error::Error;
use crate::volume::Pruned;

impl Engine {
    /// Removes the containers that do not run and that `chosen` picks. Their volumes stay.
    pub async fn prune(&self, chosen: impl Fn(&Container) -> bool) -> Result<Pruned, Error> {
        let mut pruned = Pruned::default();
        for slot in self.table().all() {
            let c = slot.container();
            if !is_idle(&slot) || !chosen(&c) {
                continue;
            }
            let size = self.changed_size(c.id.as_str()).await.unwrap_or(0);
            match self.remove(c.id.as_str(), false).await {
                Ok(()) => {
                    pruned.freed += size;
                    pruned.removed.push(c.id.0.clone());
                }
                // Started, or removed, meanwhile.
                Err(Error::Conflict(_) | Error::NoSuchContainer { .. }) => {}
                Err(e) => tracing::warn!(container = c.id.0, error = %e, "a container could not be pruned"),
            }
        }
        self.event_sender().pruned("container", pruned.freed);
        Ok(pruned)
    }
}

fn is_idle(slot: &Slot) -> bool {
    use ContainerState::{Created, Dead, Exited};
    matches!(slot.container().state, Created | Exited | Dead)
}
