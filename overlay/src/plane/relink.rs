//! Running containers whose links change.

use super::{DataPlane, blocking};
use crate::error::Result;
use crate::model::Linked;

impl DataPlane {
    /// Has a container reach these, and no others, by its links from now on. None that is not connected.
    pub async fn relink(&self, container_id: &str, linked: Vec<Linked>) -> Result<()> {
        let _moving = self.inner.moving.read().await;
        let (inner, id) = (self.inner.clone(), container_id.to_owned());
        let generation = blocking("changing a container's links", move || {
            let _alone = inner.busy.hold(&id);
            let (record, generation) = inner.change(|state| {
                let record = state.containers.get_mut(&id)?;
                record.linked = linked;
                Some(record.clone())
            });
            record.map(|record| inner.store.save_container(&record).map(|()| generation)).transpose()
        });
        match generation.await? {
            Some(generation) => self.inner.commit(generation).await,
            None => Ok(()),
        }
    }
}
