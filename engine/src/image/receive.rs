//! How an image gets into the store: from an archive or a plain tar, unpacked and checked, then published at once.

use std::collections::HashMap;
use std::fs;
use std::io::Read;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use skep_registry::Platform;
use tokio::io::AsyncRead;

use super::archive::{self, Found, Scratch};
use super::built::found;
use super::catalogue::{StoredImage, StoredLayer};
use super::changes;
use super::config::{ConfigBlob, History, Image, rfc3339};
use super::feed::{self, Feed};
use super::layer::{chain_ids, digest_of, stage, unpack};
use super::naming::Naming;
use super::pin::Held;
use super::reference::{Reference, is_hex};
use super::store::Images;
use crate::data_root::sync_dir;
use crate::error::Error;
use crate::events::now_ns;
use crate::metadata::{Change, Kind};

/// An image that `load` brought in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LoadedImage {
    /// Image ID.
    pub id: String,
    /// References the archive gave it.
    pub references: Vec<String>,
}

/// What an image is to be made of a root file system.
#[derive(Clone, Debug, Default)]
pub struct ImportRequest {
    /// Its name; none = it has only its ID.
    pub reference: Option<String>,
    /// Dockerfile instructions that make its configuration.
    pub changes: Vec<String>,
    /// What its history says.
    pub message: String,
    /// What it is for; none = this host.
    pub platform: Option<Platform>,
}

impl Images {
    /// Brings in the images of a docker-archive or OCI-archive, plain or compressed with gzip or zstd; of one for
    /// several platforms this host's.
    pub async fn load(&self, archive: impl AsyncRead + Send + Unpin) -> Result<Vec<LoadedImage>, Error> {
        self.load_for(archive, None).await
    }

    /// The same; with a platform, only the images for that.
    pub async fn load_for(
        &self,
        archive: impl AsyncRead + Send + Unpin,
        platform: Option<Platform>,
    ) -> Result<Vec<LoadedImage>, Error> {
        let images = self.clone();
        feed::run(archive, move |input| images.load_blocking(input, platform.as_ref())).await
    }

    /// Brings in a root file system as an image of one layer. Returns its ID.
    pub async fn import(
        &self,
        tar: impl AsyncRead + Send + Unpin,
        asked: ImportRequest,
    ) -> Result<String, Error> {
        let reference = asked
            .reference
            .filter(|r| !r.is_empty())
            .map(|r| Reference::parse(&r))
            .transpose()?
            .map(Reference::or_latest);
        if reference.as_ref().is_some_and(|r| r.digest.is_some()) {
            return Err(Error::Invalid("cannot import digest reference".into()));
        }
        let mut config = super::ImageConfig::default();
        changes::apply(&mut config, &asked.changes)?;
        let platform = asked.platform.unwrap_or_else(Platform::host);
        if platform.os != "linux" {
            return Err(Error::Invalid(format!("operating system is not supported: {}", platform.os)));
        }
        let images = self.clone();
        feed::run(tar, move |input| images.import_blocking(input, reference, config, platform, asked.message))
            .await
    }

    fn load_blocking(&self, input: Feed, platform: Option<&Platform>) -> Result<Vec<LoadedImage>, Error> {
        let scratch = Scratch::new(&self.temporary(), "load")?;
        let mut found = self.read_archive(input, &scratch, platform)?;
        let _changing = self.changing().blocking_lock();
        let prepared = found.drain(..).map(|f| self.prepare(f, &scratch)).collect::<Result<Vec<_>, _>>()?;
        self.publish(&prepared)?;
        for p in &prepared {
            self.emit("load", &p.stored.image.id, &p.stored.image.id);
        }
        Ok(prepared
            .into_iter()
            .map(|p| LoadedImage { id: p.stored.image.id, references: p.references })
            .collect())
    }

    fn read_archive(
        &self,
        input: impl Read + Send,
        scratch: &Scratch,
        platform: Option<&Platform>,
    ) -> Result<Vec<Found>, Error> {
        let have = |digest: &str| {
            let hex = digest.strip_prefix("sha256:").filter(|h| h.len() == 64 && is_hex(h))?;
            let path = self.root().blobs().join(hex);
            let _state = self.state();
            path.exists().then_some(path)
        };
        archive::read(input, &scratch.0, self.limits(), platform, have)
    }

    /// Brings in the one image of an archive for a build: it gets no name, and is in no list unless it was before.
    pub(crate) fn load_hidden_blocking(
        &self,
        input: impl Read + Send,
        platform: Option<&Platform>,
    ) -> Result<Held, Error> {
        let scratch = Scratch::new(&self.temporary(), "load")?;
        let mut found = self.read_archive(input, &scratch, platform)?;
        let (Some(mut found), true) = (found.pop(), found.is_empty()) else {
            return Err(Error::Archive("it has several images that fit".into()));
        };
        found.references.clear();
        let _changing = self.changing().blocking_lock();
        let mut prepared = self.prepare(found, &scratch)?;
        prepared.stored.intermediate = true;
        self.publish(std::slice::from_ref(&prepared))?;
        self.keep(prepared.id())
    }

    fn import_blocking(
        &self,
        input: Feed,
        reference: Option<Reference>,
        config: super::ImageConfig,
        platform: Platform,
        message: String,
    ) -> Result<String, Error> {
        let scratch = Scratch::new(&self.temporary(), "import")?;
        let path = scratch.0.join("layer");
        let mut input = input;
        let staged = stage(&mut input, Some(&path))?;
        let trial = scratch.0.join("trial");
        // The diff ID, which the configuration must name, is known only once the layer is unpacked.
        let unpacked = unpack(&path, &staged.digest, &trial.join("diff"), self.limits())?;
        let created = rfc3339(time::OffsetDateTime::now_utc())?;
        let blob = ConfigBlob {
            created: created.clone(),
            architecture: platform.architecture,
            variant: platform.variant,
            os: platform.os,
            comment: message.clone(),
            config,
            rootfs: super::config::RootfsBlob {
                kind: "layers".into(),
                diff_ids: vec![unpacked.diff_id.clone()],
            },
            history: vec![History { created, comment: message, ..History::default() }],
            ..ConfigBlob::default()
        };
        let _changing = self.changing().blocking_lock();
        let member = archive::Member { staged, path, recipe: false };
        let found = found(blob, vec![member], reference.into_iter().collect())?;
        // Of the only layer, the diff ID is the chain ID too.
        let ready = HashMap::from([(unpacked.diff_id, (trial, unpacked.size))]);
        let prepared = self.prepare_with(found, &scratch, ready)?;
        self.publish(std::slice::from_ref(&prepared))?;
        let id = prepared.stored.image.id;
        prepared.references.iter().for_each(|name| self.emit("tag", &id, name));
        self.emit("import", &id, &id);
        Ok(id)
    }

    pub(super) fn prepare(&self, found: Found, scratch: &Scratch) -> Result<Prepared, Error> {
        self.prepare_with(found, scratch, HashMap::new())
    }

    /// Unpacks, under the temporary directory, the layers that are not there yet, and checks their diff IDs.
    /// `ready` are those unpacked and checked before, by chain ID.
    pub(super) fn prepare_with(
        &self,
        found: Found,
        scratch: &Scratch,
        mut ready: HashMap<String, (PathBuf, u64)>,
    ) -> Result<Prepared, Error> {
        let id = digest_of(&found.config_bytes);
        let diff_ids = found.config.rootfs.diff_ids.clone();
        let chains = chain_ids(&diff_ids);
        let (mut layers, mut blobs, mut size) = (Vec::new(), Vec::new(), 0u64);
        for ((diff_id, chain), member) in diff_ids.iter().zip(&chains).zip(&found.layers) {
            let known = self.state().layers.get(chain).cloned();
            let layer = match known {
                Some(layer) => layer,
                None => {
                    let (dir, unpacked_size) = match ready.remove(chain) {
                        Some(ready) => ready,
                        None => {
                            let dir = scratch.0.join(format!("layer-{}", super::unused_name()));
                            let unpacked = unpack(
                                &member.path,
                                &member.staged.digest,
                                &dir.join("diff"),
                                self.limits(),
                            )?;
                            if unpacked.diff_id != *diff_id {
                                return Err(Error::Archive(format!(
                                    "a layer is damaged: its content is {}, the configuration says {diff_id}",
                                    unpacked.diff_id
                                )));
                            }
                            (dir, unpacked.size)
                        }
                    };
                    let archive = member.recipe.then_some(member.staged.size);
                    let layer =
                        StoredLayer { diff_id: diff_id.clone(), size: unpacked_size, archive, packed: None };
                    layers.push((chain.clone(), layer.clone(), dir));
                    layer
                }
            };
            size = size.saturating_add(layer.size);
            blobs.push((member.staged.digest.clone(), member.path.clone()));
        }
        let config_path = scratch.0.join(format!("config-{}", super::unused_name()));
        fs::write(&config_path, &found.config_bytes).map_err(Error::io("write", &config_path))?;
        let c = found.config;
        let image = Image {
            id: id.clone(),
            created_at_ns: c.created_at_ns(),
            size,
            architecture: c.architecture,
            variant: c.variant,
            os: c.os,
            author: c.author,
            comment: c.comment,
            config: c.config,
            layers: diff_ids,
            chain_ids: chains,
            history: c.history,
            ..Image::default()
        };
        let stored = StoredImage {
            image,
            blobs: blobs.iter().map(|(d, _)| d.clone()).collect(),
            manifest: None,
            indexes: Vec::new(),
            intermediate: false,
        };
        blobs.push((id, config_path));
        let references = found.references.iter().map(Reference::to_string).collect();
        let new = !self.state().images.contains_key(&stored.image.id);
        Ok(Prepared { new, stored, layers, blobs, references })
    }

    /// Files into place, everything to disk, then the metadata in one commit: a crash before it leaves
    /// files that the next start sweeps, one after it leaves a whole image. What builds keep for the next goes to disk with
    /// the next image that somebody asked for ([`Unsynced`](super::unsynced::Unsynced)).
    pub(super) fn publish(&self, prepared: &[Prepared]) -> Result<(), Error> {
        let lazy = !prepared.is_empty() && prepared.iter().all(|p| p.stored.intermediate);
        let mut moved = false;
        let (mut changes, mut names) = (Vec::new(), Vec::new());
        // What only builds had, and somebody asks for now.
        let mut shown = Vec::new();
        for p in prepared {
            let naming = Naming::new(&p.stored.image.id, p.references.clone());
            changes.extend(naming.changes()?);
            names.push(naming);
            // What is there stays as it is: its blobs are what was pulled, and may differ from these.
            let there = self.state().images.get(&p.stored.image.id).cloned();
            if let Some(there) = there {
                if there.intermediate && !p.stored.intermediate {
                    shown.push(Arc::new(StoredImage { intermediate: false, ..StoredImage::clone(&there) }));
                }
                continue;
            }
            for (digest, from) in &p.blobs {
                let to = self.blob_path(digest);
                // What is in the store by its recipe is at no path.
                moved |= *from != to && move_in(from, &to)?;
            }
            for (chain, layer, from) in &p.layers {
                moved |= move_in(from, &self.layer_dir(chain))?;
                changes.push(Change::put(Kind::Layer, chain, layer)?);
            }
            changes.push(Change::put(Kind::Image, &p.stored.image.id, &p.stored)?);
        }
        if !lazy {
            let (unsynced, before) = self.take_unsynced()?;
            changes.extend(before);
            for image in &shown {
                changes.push(Change::put(Kind::Image, &image.image.id, &**image)?);
            }
            let written = if moved || !unsynced.is_empty() { self.sync_files() } else { Ok(()) };
            if let Err(e) = written.and_then(|()| self.metadata().commit_blocking(changes)) {
                self.give_up(unsynced);
                return Err(e);
            }
        }
        let mut state = self.state();
        if lazy {
            state.unsynced.add(prepared);
        }
        for p in prepared {
            if !state.images.contains_key(&p.stored.image.id) {
                state.layers.extend(p.layers.iter().map(|(c, l, _)| (c.clone(), l.clone())));
                state.images.insert(p.stored.image.id.clone(), Arc::new(p.stored.clone()));
            }
        }
        state.images.extend(shown.into_iter().map(|image| (image.image.id.clone(), image)));
        names.into_iter().for_each(|naming| naming.apply(&mut state));
        tracing::debug!(images = prepared.len(), at = now_ns(), "images stored");
        Ok(())
    }
}

impl Images {
    /// All files to disk.
    pub(super) fn sync_files(&self) -> Result<(), Error> {
        let root = self.root().path();
        let dir = fs::File::open(root).map_err(Error::io("open", root))?;
        nix::unistd::syncfs(dir.as_fd()).map_err(|e| Error::Io {
            operation: "sync",
            path: root.into(),
            source: e.into(),
        })?;
        sync_dir(&self.root().blobs())?;
        sync_dir(&self.root().layers())
    }
}

/// An image that only waits to be published.
pub(super) struct Prepared {
    /// The store has no such image yet.
    pub(super) new: bool,
    pub(super) stored: StoredImage,
    pub(super) layers: Vec<(String, StoredLayer, PathBuf)>,
    pub(super) blobs: Vec<(String, PathBuf)>,
    pub(super) references: Vec<String>,
}

impl Prepared {
    /// Keeps what it was pulled by: indexes, outermost first, then the manifest, each with its digest.
    pub(super) fn describe(
        &mut self,
        documents: Vec<(String, Vec<u8>)>,
        scratch: &Scratch,
    ) -> Result<(), Error> {
        let mut digests = Vec::with_capacity(documents.len());
        for (digest, bytes) in documents {
            let path = scratch.0.join(format!("document-{}", super::unused_name()));
            fs::write(&path, bytes).map_err(Error::io("write", &path))?;
            self.blobs.push((digest.clone(), path));
            digests.push(digest);
        }
        self.stored.manifest = digests.pop();
        self.stored.indexes = digests;
        Ok(())
    }

    /// The image's ID.
    pub(super) fn id(&self) -> &str {
        &self.stored.image.id
    }
}

/// False when it is there already.
fn move_in(from: &Path, to: &Path) -> Result<bool, Error> {
    if to.exists() {
        return Ok(false);
    }
    fs::rename(from, to).map_err(Error::io("move into the store", to))?;
    Ok(true)
}
