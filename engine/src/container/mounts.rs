//! The mounts of a container: completed from its image and from other containers when it is made, given places on
//! the host when it starts.

use std::collections::BTreeMap;
use std::fs::File;
use std::os::fd::OwnedFd;
use std::path::{Component, Path, PathBuf};
use std::sync::Arc;

use nix::fcntl::OFlag;

use super::slot::Slot;
use crate::config::{Container, ContainerConfig};
use crate::engine::Engine;
use crate::error::{Error, blocking};
use crate::mount::{BindOptions, ImageOptions, MountConfig, MountKind, Propagation, VolumeOptions};
use crate::runtime::{Parts, View};
use crate::volume::NewVolume;

impl Engine {
    /// Replaces the configuration's mounts by all there are: those of other containers, over them the request's
    /// own, and the image's volumes where nothing else is. Volumes are made, held for the container, and begin
    /// with what the image has at their place (`lowers`, topmost first).
    pub(super) async fn complete_mounts(
        &self,
        id: &str,
        config: &mut ContainerConfig,
        declared: &[String],
        lowers: &[PathBuf],
    ) -> Result<(), Error> {
        let mut all = self.inherited(&config.volumes_from)?;
        for mount in std::mem::take(&mut config.mounts) {
            all.retain(|m| !m.is_at(&mount.target));
            all.push(mount);
        }
        for target in declared.iter().map(PathBuf::from) {
            let plain = target.is_absolute() && target.parent().is_some();
            let plain = plain && !target.components().any(|c| c == Component::ParentDir);
            if plain && !all.iter().any(|m| m.is_at(&target)) {
                all.push(MountConfig::new(MountKind::volume(""), target, false));
            }
        }
        // Known from here on: whatever fails next, what was made can be undone.
        config.mounts = all;
        for mount in &mut config.mounts {
            match &mut mount.kind {
                MountKind::Volume { name, options } => *name = self.obtain(id, name, options).await?,
                MountKind::Image { name, options } => {
                    // What another container has is what that was made with.
                    let asked = if options.id.is_empty() { name } else { &options.id };
                    // A client that reads "not found" here takes it for the container's own image.
                    let image = self.images().hold_more(asked, id);
                    let image = image.map_err(|e| Error::Invalid(e.to_string()))?;
                    (options.id, options.chain_ids) = (image.id, image.chain_ids);
                }
                MountKind::Bind { .. } | MountKind::Tmpfs { .. } => {}
            }
        }
        let mut image = None;
        for mount in &config.mounts {
            if let MountKind::Volume { name, options } = &mount.kind
                && !options.no_copy
            {
                self.begin_with_image(id, name, &mount.target, (lowers, config.host_userns), &mut image)
                    .await?;
            }
        }
        Ok(())
    }

    async fn obtain(&self, id: &str, name: &str, options: &VolumeOptions) -> Result<String, Error> {
        let new = NewVolume {
            name: name.to_owned(),
            driver: options.driver.clone(),
            options: options.driver_options.clone(),
            labels: options.labels.clone(),
        };
        Ok(self.volumes().obtain(new, Some(id)).await?.name)
    }

    /// The mounts of the containers that `--volumes-from` names.
    fn inherited(&self, from: &[String]) -> Result<Vec<MountConfig>, Error> {
        let mut all: BTreeMap<PathBuf, MountConfig> = BTreeMap::new();
        for text in from {
            let (name, mode) = text.split_once(':').unwrap_or((text, "rw"));
            if name.is_empty() {
                return Err(Error::Invalid(format!("malformed volumes-from specification: \"{text}\"")));
            }
            if !matches!(mode, "ro" | "rw" | "z" | "Z") {
                return Err(Error::Invalid(format!("invalid mode: {mode}")));
            }
            // A client that reads "not found" here takes it for the image.
            let found = self.table().find(name).map_err(|e| Error::Invalid(e.to_string()))?;
            for mount in &found.container().config.mounts {
                let mut mount = mount.clone();
                match &mut mount.kind {
                    MountKind::Tmpfs { options, .. } if options.unlisted => continue,
                    MountKind::Volume { options, .. } => options.no_copy = true,
                    _ => {}
                }
                mount.read_only |= mode == "ro";
                all.insert(mount.target.clone(), mount);
            }
        }
        Ok(all.into_values().collect())
    }

    async fn begin_with_image(
        &self,
        id: &str,
        volume: &str,
        target: &Path,
        (lowers, config_host): (&[PathBuf], bool),
        image: &mut Option<Arc<View>>,
    ) -> Result<(), Error> {
        if !lowers.iter().any(|l| has_something_at(l, target)) {
            return Ok(());
        }
        let view = match image {
            Some(view) => view.clone(),
            None => {
                let (parts, scratch) = (Parts::Image(lowers.to_vec()), self.root().temporary());
                let ids = if config_host { None } else { self.userns().cloned() };
                let view = blocking(move || {
                    View::assemble(parts, ids, &scratch).map_err(|e| Error::Invalid(e.to_string()))
                });
                image.insert(Arc::new(view.await?)).clone()
            }
        };
        match view.root().open(target, OFlag::O_RDONLY, 0) {
            Ok(dir) if is_directory(&dir) => self.volumes().fill(volume, id, dir).await,
            Ok(_) => Err(Error::Invalid(format!(
                "cannot mount volume over existing file, file exists {}",
                target.display()
            ))),
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(()),
            Err(e) => Err(Error::io("open the image's", target)(e)),
        }
    }

    /// The container's mounts as paths of the host; its volumes are mounted until [`Engine::unmount_volumes`].
    pub(super) async fn mount_volumes(&self, c: &Container, holder: &str) -> Result<Vec<MountConfig>, Error> {
        let mut out = Vec::with_capacity(c.config.mounts.len());
        for m in &c.config.mounts {
            let mut m = m.clone();
            match &m.kind {
                MountKind::Volume { name, options } => {
                    let source = self.volumes().mount(name, holder).await?;
                    if holder == c.id.as_str() {
                        self.tell_of_mount(&m, name, holder);
                    }
                    let options = BindOptions { subpath: options.subpath.clone(), ..BindOptions::default() };
                    m.kind = MountKind::Bind { source, options };
                }
                MountKind::Image { name, options } => {
                    let lowers =
                        options.chain_ids.iter().rev().map(|c| self.images().layer_path(c)).collect();
                    let options = ImageOptions { lowers, ..options.clone() };
                    m.kind = MountKind::Image { name: name.clone(), options };
                }
                MountKind::Bind { source, options } if options.create && !source.exists() => {
                    std::fs::create_dir_all(source).map_err(|e| {
                        let shown = source.display();
                        Error::Invalid(format!(
                            "error while creating mount source path '{shown}': mkdir {shown}: {e}"
                        ))
                    })?;
                }
                _ => {}
            }
            out.push(m);
        }
        out.sort_by_key(|m| m.target.components().count());
        Ok(out)
    }

    /// Lets go of what [`Engine::mount_volumes`] mounted.
    pub(super) async fn unmount_volumes(&self, c: &Container, holder: &str) {
        for name in c.config.mounts.iter().filter_map(MountConfig::volume) {
            match self.volumes().unmount(name, holder).await {
                Ok(true) if holder == c.id.as_str() => {
                    let attributes = [("container", holder), ("driver", "local")];
                    let attributes = attributes.map(|(k, v)| (k.to_owned(), v.to_owned()));
                    self.event_sender().emit("volume", "unmount", name, attributes.into());
                }
                Ok(_) => {}
                Err(e) => tracing::warn!(volume = name, error = %e, "a volume stays mounted"),
            }
        }
    }

    fn tell_of_mount(&self, m: &MountConfig, name: &str, container: &str) {
        let destination = m.target.display().to_string();
        let writable = (!m.read_only).to_string();
        let attributes = [
            ("container", container),
            ("destination", &destination),
            ("driver", "local"),
            ("propagation", ""),
            ("read/write", &writable),
        ];
        let attributes = attributes.map(|(k, v)| (k.to_owned(), v.to_owned()));
        self.event_sender().emit("volume", "mount", name, attributes.into());
    }

    /// Ends the container's hold on its volumes; with `remove`, those that nobody named and nobody else uses go.
    pub(super) async fn let_volumes_go(
        &self,
        id: &str,
        mounts: &[MountConfig],
        remove: bool,
    ) -> Result<(), Error> {
        self.volumes().release(id);
        let mut reasons = Vec::new();
        for mount in mounts {
            let MountKind::Volume { name, options } = &mount.kind else { continue };
            if !remove || !options.anonymous || name.is_empty() {
                continue;
            }
            match self.volumes().remove(name).await {
                Ok(()) | Err(Error::VolumeInUse { .. } | Error::NoSuchVolume { .. }) => {}
                Err(e) => reasons.push(e.to_string()),
            }
        }
        if reasons.is_empty() {
            return Ok(());
        }
        Err(Error::Several { operation: format!("volumes of container {id} could not be removed"), reasons })
    }

    /// The file system of a container: its own while it runs, else put together for this purpose. A container is
    /// not started while somebody looks at it stopped.
    pub(super) async fn view(&self, slot: &Arc<Slot>) -> Result<Look, Error> {
        self.look(slot, true).await
    }

    /// The same without what is mounted in it.
    pub(super) async fn bare_view(&self, slot: &Arc<Slot>) -> Result<Look, Error> {
        self.look(slot, false).await
    }

    async fn look(&self, slot: &Arc<Slot>, mounted: bool) -> Result<Look, Error> {
        let failed = |e: crate::runtime::Error| Error::Invalid(format!("cannot open its file system: {e}"));
        let op = slot.op.clone().lock_owned().await;
        if slot.life.borrow().removed {
            return Err(Error::NoSuchContainer { name: slot.id.clone() });
        }
        let c = slot.container();
        if let Some(pid) = c.pid.filter(|_| slot.shim().is_some()) {
            let view = blocking(move || {
                if mounted { View::of_process(pid) } else { View::bare_of_process(pid) }.map_err(failed)
            });
            let view = Arc::new(view.await?);
            return Ok(Look { view, _assembled: None });
        }
        let holder = format!("look-{}", hex::encode(rand::random::<[u8; 8]>()));
        let assembled = Assembled { engine: self.clone(), container: c.clone(), holder, _op: op };
        let mut mounts = match mounted {
            true => self.mount_volumes(&c, &assembled.holder).await?,
            false => Vec::new(),
        };
        for m in &mut mounts {
            // What is mounted for us to look at is nobody else's business.
            if let MountKind::Bind { options, .. } = &mut m.kind {
                options.propagation = Propagation::Rprivate;
            }
        }
        let (rootfs, host_files) = self.rootfs(slot);
        let host_files = if mounted { host_files } else { Default::default() };
        let (parts, scratch) = (Parts::Container { rootfs, mounts, host_files }, self.root().temporary());
        let ids = self.ids_of(&c);
        let view = blocking(move || View::assemble(parts, ids, &scratch).map_err(failed)).await?;
        Ok(Look { view: Arc::new(view), _assembled: Some(assembled) })
    }
}

/// A container's file system held open.
pub(super) struct Look {
    pub(super) view: Arc<View>,
    _assembled: Option<Assembled>,
}

/// What a stopped container's file system needs as long as somebody looks at it.
struct Assembled {
    engine: Engine,
    container: Arc<Container>,
    holder: String,
    _op: tokio::sync::OwnedMutexGuard<()>,
}

impl Drop for Assembled {
    fn drop(&mut self) {
        let (engine, container) = (self.engine.clone(), self.container.clone());
        let holder = std::mem::take(&mut self.holder);
        // Outside a runtime the daemon is ending, and the next one unmounts what is idle.
        if let Ok(runtime) = tokio::runtime::Handle::try_current() {
            runtime.spawn(async move { engine.unmount_volumes(&container, &holder).await });
        }
    }
}

/// Whether a layer may have something at `target`: a link on the way counts.
fn has_something_at(lower: &Path, target: &Path) -> bool {
    let mut at = lower.to_path_buf();
    for part in target.components().skip(1) {
        at.push(part);
        match std::fs::symlink_metadata(&at) {
            Err(_) => return false,
            Ok(m) if m.is_symlink() => return true,
            Ok(_) => {}
        }
    }
    true
}

fn is_directory(fd: &OwnedFd) -> bool {
    fd.try_clone().is_ok_and(|fd| File::from(fd).metadata().is_ok_and(|m| m.is_dir()))
}
