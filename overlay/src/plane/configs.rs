//! Networks that are no more than settings for others: nothing of them is in the kernel.

use super::{DataPlane, blocking};
use crate::bridge;
use crate::error::{Error, Result};
use crate::model::{BridgeSpec, ConfigNetwork};

impl DataPlane {
    /// Keeps settings under a name. Whether they can be is for the network to say that is made from them.
    pub async fn create_config(&self, spec: BridgeSpec) -> Result<ConfigNetwork> {
        let _one = self.inner.changing.lock().await;
        bridge::check_free(&self.inner.state(), &spec.name)?;
        let made = ConfigNetwork { id: bridge::random_id(), spec, created_at_ns: bridge::now_ns() };
        let mut all = self.inner.state().configs.clone();
        all.insert(made.spec.name.clone(), made.clone());
        self.keep_configs(all).await?;
        Ok(made)
    }

    /// Removes one by its ID, unless a network was made from it.
    pub async fn remove_config(&self, id: &str) -> Result<()> {
        let _one = self.inner.changing.lock().await;
        let all = {
            let state = self.inner.state();
            let found = state.configs.values().find(|c| c.id == id);
            let name = &found.ok_or_else(|| Error::NoSuchNetwork(id.into()))?.spec.name;
            if state.local().any(|n| n.config_from == *name) {
                return Err(Error::Forbidden(format!("configuration network {name:?} is in use")));
            }
            let mut all = state.configs.clone();
            all.remove(name);
            all
        };
        self.keep_configs(all).await
    }

    /// All of them, by name.
    pub fn list_configs(&self) -> Vec<ConfigNetwork> {
        self.inner.state().configs.values().cloned().collect()
    }

    async fn keep_configs(&self, all: std::collections::BTreeMap<String, ConfigNetwork>) -> Result<()> {
        let inner = self.inner.clone();
        blocking("saving the configuration networks", move || {
            inner.store.save_configs(&all)?;
            inner.change(|s| s.configs = all);
            Ok(())
        })
        .await
    }
}
