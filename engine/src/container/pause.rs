//! Freezing a container's processes and letting them go on.

use std::sync::Arc;

use super::slot::Slot;
use crate::config::ContainerState;
use crate::engine::Engine;
use crate::error::{Error, blocking};
use crate::runtime::cgroup::Cgroup;
use crate::runtimes;

impl Engine {
    /// A container's cgroup, to be read and frozen; it need not exist.
    pub(super) fn cgroup(&self, slot: &Slot) -> Result<Cgroup, Error> {
        Cgroup::at(&self.cgroup_path(&slot.container())).map_err(|e| Error::Invalid(e.to_string()))
    }

    /// Freezes all processes of a container that runs.
    pub async fn pause(&self, id: &str) -> Result<(), Error> {
        let slot = self.table().find(id)?;
        let _op = slot.op.lock().await;
        match slot.container().state {
            ContainerState::Running => {}
            ContainerState::Paused => {
                return Err(Error::Conflict(format!("Container {} is already paused", slot.id)));
            }
            ContainerState::Restarting => {
                return Err(Error::Conflict(format!(
                    "Container {} is restarting, wait until the container is running",
                    slot.id
                )));
            }
            _ => return Err(Error::NotRunning { id: slot.id.clone() }),
        }
        self.freeze(&slot, true).await?;
        slot.update(|c| {
            // It may have ended just before.
            if c.state == ContainerState::Running {
                c.state = ContainerState::Paused;
            }
        });
        self.store_later(&slot);
        self.emit(&slot, "pause", &[]);
        Ok(())
    }

    /// Lets a paused container go on.
    pub async fn unpause(&self, id: &str) -> Result<(), Error> {
        let slot = self.table().find(id)?;
        let _op = slot.op.lock().await;
        if slot.container().state != ContainerState::Paused {
            return Err(Error::Conflict(format!("Container {} is not paused", slot.id)));
        }
        self.thaw(&slot).await
    }

    /// Lets it go on, if it is paused: what is to end must be able to.
    pub(super) async fn thaw(&self, slot: &Arc<Slot>) -> Result<(), Error> {
        if slot.container().state != ContainerState::Paused {
            return Ok(());
        }
        self.freeze(slot, false).await?;
        slot.update(|c| {
            if c.state == ContainerState::Paused {
                c.state = ContainerState::Running;
            }
        });
        self.store_later(slot);
        self.emit(slot, "unpause", &[]);
        Ok(())
    }

    async fn freeze(&self, slot: &Slot, frozen: bool) -> Result<(), Error> {
        let (cgroup, id) = (self.cgroup(slot)?, slot.id.clone());
        let verb = if frozen { "pause" } else { "unpause" };
        if slot.container().config.runtime.as_deref().is_some_and(|r| r != runtimes::OWN)
            && let Some(shim) = slot.shim()
        {
            let failed = |e| Error::Shim { id, reason: format!("cannot {verb} it: {e}") };
            return shim.freeze(frozen).await.map_err(failed);
        }
        blocking(move || {
            cgroup
                .freeze(frozen)
                .map_err(|e| Error::Shim { id: id.clone(), reason: format!("cannot {verb} it: {e}") })
        })
        .await
    }
}
