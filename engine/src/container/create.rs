//! Making a container, and giving it another name.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Instant;

use super::files::Layout;
use super::names;
use super::resolve::{merge, plan};
use super::slot::{Record, Slot};
use crate::config::{Container, ContainerConfig, ContainerId, ContainerState};
use crate::data_root::remove_tree;
use crate::engine::Engine;
use crate::error::{Error, blocking};
use crate::events::now_ns;
use crate::health::HealthConfig;
use crate::image::Image;
use crate::metadata::{Change, Kind};

impl Engine {
    /// Makes a container. It is on disk when this returns; nothing runs yet.
    pub async fn create(&self, name: Option<String>, config: ContainerConfig) -> Result<ContainerId, Error> {
        let engine = self.clone();
        // A task of its own: whoever asked may leave, and half a container must not stay.
        let making = tokio::spawn(async move { engine.create_whole(name, config).await });
        making.await.map_err(|_| Error::ShuttingDown)?
    }

    async fn create_whole(
        &self,
        name: Option<String>,
        config: ContainerConfig,
    ) -> Result<ContainerId, Error> {
        let began = Instant::now();
        let id = hex::encode(rand::random::<[u8; 32]>());
        let name = self.take_name(name, &id)?;
        // Both are let go of again when anything fails.
        let result = match self.images().hold(&config.image, &id) {
            // Only a build's own containers may be lost with their image.
            Ok(image) if !config.of_build && self.images().is_unsynced(&image.id) => {
                match self.images().settle().await {
                    Ok(()) => self.make(&id, &name, config, image).await,
                    Err(e) => Err(e),
                }
            }
            Ok(image) => self.make(&id, &name, config, image).await,
            Err(e) => Err(e),
        };
        if let Err(e) = result {
            self.table().free_name(&name);
            if let Err(e) = self.images().release(&id).await {
                tracing::warn!(error = %e, container = id, "cannot release the image");
            }
            return Err(e);
        }
        self.metrics().container.create.observe(began.elapsed().as_secs_f64());
        Ok(ContainerId(id))
    }

    fn take_name(&self, asked: Option<String>, id: &str) -> Result<String, Error> {
        if let Some(name) = asked.filter(|n| !n.is_empty()) {
            let name = names::checked(&name)?;
            self.table().reserve(&name, id)?;
            return Ok(name);
        }
        let mut retry = 0;
        loop {
            let name = names::made_up(retry);
            match self.table().reserve(&name, id) {
                Err(Error::NameInUse { .. }) if retry < 1000 => retry += 1,
                other => return other.map(|()| name),
            }
        }
    }

    async fn make(
        &self,
        id: &str,
        name: &str,
        mut config: ContainerConfig,
        image: Image,
    ) -> Result<(), Error> {
        config.log = std::mem::take(&mut config.log).with_default(self.default_log());
        self.defaults().at_creation(&mut config);
        let plan = plan(&config, &image.config)?;
        self.identify_shared(&mut config)?;
        config.resources.memory_swap = config.resources.memory_and_swap();
        let runtime = config.runtime.take().filter(|r| !r.is_empty());
        let runtime = runtime.unwrap_or_else(|| self.runtimes().default.clone());
        self.runtimes().find(&runtime)?;
        if !config.host_userns && self.userns().is_some() {
            super::id_maps::check(&config, self.runtimes().find(&runtime)?.is_some())?;
        }
        config.runtime = Some(runtime);
        if config.storage_size.is_some() {
            crate::quota::check(&self.root().containers())?;
        }
        merge(&mut config, &image.config);
        for (k, v) in &image.config.labels {
            config.labels.entry(k.clone()).or_insert_with(|| v.clone());
        }
        config.health = HealthConfig::merged(config.health.as_ref(), image.config.healthcheck.as_ref());
        for port in &image.config.exposed_ports {
            if !config.exposed.contains(port) {
                config.exposed.push(port.clone());
            }
        }
        // Of several links by one alias the first counts.
        let mut aliases = BTreeSet::new();
        config.links.retain(|(_, alias)| aliases.insert(alias.clone()));
        let layout = Layout { dir: self.root().container(id) };
        let lowers: Vec<PathBuf> =
            image.chain_ids.iter().rev().map(|c| self.images().layer_path(c)).collect();
        if let Err(e) = self.complete_mounts(id, &mut config, &image.config.volumes, &lowers).await {
            self.undo_mounts(id, &config).await;
            return Err(e);
        }
        let log_path = layout.log(&config.log);
        let container = Container {
            id: ContainerId(id.to_owned()),
            name: name.to_owned(),
            image_id: image.id,
            argv: plan.argv.clone(),
            env: plan.env.clone(),
            created_at_ns: now_ns(),
            state: ContainerState::Created,
            pid: None,
            exit_code: None,
            oom_killed: false,
            error: String::new(),
            started_at_ns: 0,
            finished_at_ns: 0,
            restart_count: 0,
            endpoints: Vec::new(),
            ports: Vec::new(),
            health: None,
            id_maps: None,
            log_path,
            confined: Default::default(),
            netns: Default::default(),
            config,
        };
        let record = Record {
            container,
            plan,
            chain_ids: image.chain_ids,
            stopped_by_user: false,
            ended_with_daemon: false,
        };
        let change = Change::put(Kind::Container, id, &record)?;
        let slot = Arc::new(Slot::new(record));
        // The directory and the record are made side by side; a start finds and sweeps one without the other.
        let temporary = self.root().temporary();
        let size = slot.container().config.storage_size;
        let made = blocking(move || layout.make(&temporary, size));
        let (made, stored) = tokio::join!(made, self.metadata().commit(vec![change]));
        if let Err(e) = made.and(stored) {
            self.metadata().later(Change::delete(Kind::Container, id));
            let dir = self.root().container(id);
            if let Err(left) = blocking(move || remove_tree(&dir)).await {
                tracing::warn!(error = %left, "a container that was not made left something behind");
            }
            self.undo_mounts(id, &slot.container().config).await;
            return Err(e);
        }
        self.table().insert(slot.clone());
        self.emit(&slot, "create", &[]);
        Ok(())
    }

    async fn undo_mounts(&self, id: &str, config: &ContainerConfig) {
        if let Err(left) = self.let_volumes_go(id, &config.mounts, true).await {
            tracing::warn!(error = %left, "a container that was not made left something behind");
        }
    }

    /// Makes a container of a build's step one of the user's.
    pub(crate) async fn keep_after_build(&self, id: &str) -> Result<(), Error> {
        let slot = self.table().find(id)?;
        let _op = slot.op.lock().await;
        slot.update(|c| c.config.of_build = false);
        self.store(&slot).await
    }

    /// Gives a container another name.
    pub async fn rename(&self, id: &str, name: &str) -> Result<(), Error> {
        let slot = self.table().find(id)?;
        let name = names::checked(name)?;
        let (old, _ops) = self.lock_with_linked(&slot).await;
        if old == name {
            return Err(Error::Conflict(
                "Renaming a container with the same name as its current name".into(),
            ));
        }
        self.table().reserve(&name, &slot.id)?;
        slot.update(|c| c.name.clone_from(&name));
        let mut changes = vec![Change::put(Kind::Container, &slot.id, &slot.record())?];
        changes.extend(self.follow_name(&old, &name)?);
        if let Err(e) = self.metadata().commit(changes).await {
            slot.update(|c| c.name.clone_from(&old));
            // Something else of it may have been written down meanwhile, with that name.
            self.store_later(&slot);
            self.table().free_name(&name);
            self.follow_name(&name, &old)?.into_iter().for_each(|change| self.metadata().later(change));
            return Err(e);
        }
        self.table().free_name(&old);
        let c = slot.container();
        if slot.volatile().detach_network
            && let Err(e) = self.networking().rename(&c.id, &c.name).await
        {
            tracing::warn!(container = slot.id, error = %e, "the networks know the container by its old name");
        }
        self.emit(&slot, "rename", &[("oldName", &format!("/{old}"))]);
        Ok(())
    }
}
