//! The image store: what is known in memory, what is on disk, and how an image gets from an archive into it.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fs;
use std::io::{self, Read};
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::{Buf, Bytes};
use serde::{Deserialize, Serialize};
use tokio::io::{AsyncRead, AsyncReadExt};

use super::archive::{self, Found, Scratch, host_architecture};
use super::changes;
use super::config::{ConfigBlob, History, Image};
use super::layer::{Limits, chain_ids, digest_of, stage, unpack};
use super::reference::{Reference, is_hex};
use crate::data_root::{DataRoot, sync_dir};
use crate::error::{Error, blocking};
use crate::events::{Events, now_ns};
use crate::metadata::{Change, Kind, Metadata, Stored};

/// An image that `load` brought in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LoadedImage {
    /// Image ID.
    pub id: String,
    /// References the archive gave it.
    pub references: Vec<String>,
}

/// One effect of `remove`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Removed {
    /// A reference is gone.
    Untagged(String),
    /// An image (or a layer) is gone.
    Deleted(String),
}

/// Cheap handle to the images of one data root.
#[derive(Clone, Debug)]
pub struct Images(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    root: Arc<DataRoot>,
    metadata: Metadata,
    events: Events,
    limits: Limits,
    /// Serialises whatever adds or removes layers and blobs.
    changing: tokio::sync::Mutex<()>,
    state: Mutex<State>,
}

/// An image and the blobs it is made of.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct StoredImage {
    pub(super) image: Image,
    pub(super) blobs: Vec<String>,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct StoredLayer {
    pub(super) diff_id: String,
    pub(super) size: u64,
}

/// What a container keeps from being removed.
#[derive(Clone, Debug)]
pub(crate) struct Holder {
    pub(crate) image_id: String,
    pub(crate) chain_ids: Vec<String>,
    pub(crate) running: bool,
}

#[derive(Debug, Default)]
pub(super) struct State {
    pub(super) images: BTreeMap<String, Arc<StoredImage>>,
    /// Familiar reference (with tag or digest) to image ID.
    pub(super) references: BTreeMap<String, String>,
    /// By chain ID.
    pub(super) layers: HashMap<String, StoredLayer>,
    /// By container ID.
    pub(super) holders: HashMap<String, Holder>,
}

impl State {
    /// Layers and blobs that an image or a container still needs.
    pub(super) fn needed(&self) -> (BTreeSet<&str>, BTreeSet<&str>) {
        let images = self.images.values();
        let chains = images
            .clone()
            .flat_map(|i| &i.image.chain_ids)
            .chain(self.holders.values().flat_map(|h| &h.chain_ids));
        let blobs = images.flat_map(|i| i.blobs.iter().chain([&i.image.id]));
        (chains.map(String::as_str).collect(), blobs.map(String::as_str).collect())
    }

    fn shown(&self, stored: &StoredImage) -> Image {
        let mut image = stored.image.clone();
        for (reference, _) in self.references.iter().filter(|(_, id)| **id == image.id) {
            if reference.contains('@') {
                image.digests.push(reference.clone());
            } else {
                image.references.push(reference.clone());
            }
        }
        image
    }

    /// The image ID for a reference, a full ID or a prefix of one.
    pub(super) fn find(&self, asked: &str) -> Result<String, Error> {
        let missing = || Error::NoSuchImage { reference: asked.to_owned() };
        if self.images.contains_key(asked) {
            return Ok(asked.to_owned());
        }
        if let Ok(reference) = Reference::parse(asked) {
            let reference = reference.or_latest();
            let keys = [reference.by_digest(), reference.digest.is_none().then(|| reference.to_string())];
            if let Some(id) = keys.iter().flatten().find_map(|k| self.references.get(k)) {
                return Ok(id.clone());
            }
            // `name@<image ID>`, of an image that has that name.
            if let Some(d) = reference.digest.filter(|d| self.images.contains_key(d)) {
                let of_name = |r: &str| Reference::parse(r).is_ok_and(|r| r.name == reference.name);
                if self.references.iter().any(|(r, id)| *id == d && of_name(r)) {
                    return Ok(d);
                }
            }
        }
        let prefix = asked.strip_prefix("sha256:").unwrap_or(asked);
        if prefix.is_empty() || prefix.len() > 64 || !is_hex(prefix) {
            return Err(missing());
        }
        let full = format!("sha256:{prefix}");
        let mut fitting =
            self.images.range(full.clone()..).map(|(id, _)| id).take_while(|id| id.starts_with(&full));
        match (fitting.next(), fitting.next()) {
            (Some(id), None) => Ok(id.clone()),
            (Some(_), Some(_)) => Err(Error::AmbiguousPrefix { kind: "image", prefix: asked.to_owned() }),
            (None, _) => Err(missing()),
        }
    }
}

impl Images {
    /// Takes over what is stored; what has lost its files is reported and dropped, files that nothing names are swept.
    pub(crate) fn open(
        root: Arc<DataRoot>,
        metadata: Metadata,
        events: Events,
        stored: &Stored,
        holders: HashMap<String, Holder>,
    ) -> Result<Self, Error> {
        let mut state = State { holders, ..State::default() };
        let mut gone = Vec::new();
        for (chain, layer) in stored.all::<StoredLayer>(Kind::Layer) {
            if root.layers().join(hex_of(&chain)).is_dir() {
                state.layers.insert(chain, layer);
            } else {
                tracing::error!(layer = chain, "the files of a layer are missing");
                gone.push(Change::delete(Kind::Layer, &chain));
            }
        }
        for (id, image) in stored.all::<StoredImage>(Kind::Image) {
            if image.image.chain_ids.iter().all(|c| state.layers.contains_key(c)) {
                state.images.insert(id, Arc::new(image));
            } else {
                tracing::error!(image = id, "an image lacks layers and is dropped; load it again");
                gone.push(Change::delete(Kind::Image, &id));
            }
        }
        for (reference, id) in stored.all::<String>(Kind::Reference) {
            if state.images.contains_key(&id) {
                state.references.insert(reference, id);
            } else {
                gone.push(Change::delete(Kind::Reference, &reference));
            }
        }
        {
            let (chains, blobs) = state.needed();
            let in_use = |set: &BTreeSet<&str>, name: &str| set.contains(format!("sha256:{name}").as_str());
            root.sweep(&root.layers(), "a layer that no image uses", |n| in_use(&chains, n))?;
            root.sweep(&root.blobs(), "a blob that no image uses", |n| in_use(&blobs, n))?;
            gone.extend(
                state
                    .layers
                    .keys()
                    .filter(|c| !chains.contains(c.as_str()))
                    .map(|c| Change::delete(Kind::Layer, c)),
            );
        }
        let kept: BTreeSet<String> = state.needed().0.into_iter().map(str::to_owned).collect();
        state.layers.retain(|c, _| kept.contains(c));
        if !gone.is_empty() {
            metadata.commit_blocking(gone)?;
        }
        Ok(Self(Arc::new(Inner {
            root,
            metadata,
            events,
            limits: Limits::default(),
            changing: tokio::sync::Mutex::new(()),
            state: Mutex::new(state),
        })))
    }

    pub(super) fn state(&self) -> MutexGuard<'_, State> {
        self.0.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn metadata(&self) -> &Metadata {
        &self.0.metadata
    }

    pub(super) fn changing(&self) -> &tokio::sync::Mutex<()> {
        &self.0.changing
    }

    pub(super) fn emit(&self, action: &str, id: &str, name: &str) {
        self.0.events.emit("image", action, id, [("name".to_owned(), name.to_owned())].into());
    }

    /// The file of a blob.
    pub(super) fn blob_path(&self, digest: &str) -> PathBuf {
        self.0.root.blobs().join(hex_of(digest))
    }

    /// The directory of a layer.
    pub(crate) fn layer_path(&self, chain: &str) -> PathBuf {
        self.0.root.layers().join(hex_of(chain)).join("diff")
    }

    pub(super) fn layer_dir(&self, chain: &str) -> PathBuf {
        self.0.root.layers().join(hex_of(chain))
    }

    pub(super) fn temporary(&self) -> PathBuf {
        self.0.root.temporary()
    }

    /// Keeps the image's layers as long as the container exists; atomic with finding the image.
    pub(crate) fn hold(&self, asked: &str, container: &str) -> Result<Image, Error> {
        let mut state = self.state();
        let id = state.find(asked)?;
        let stored =
            state.images.get(&id).cloned().ok_or(Error::NoSuchImage { reference: asked.to_owned() })?;
        let chain_ids = stored.image.chain_ids.clone();
        state.holders.insert(container.to_owned(), Holder { image_id: id, chain_ids, running: false });
        Ok(state.shown(&stored))
    }

    pub(crate) fn set_running(&self, container: &str, running: bool) {
        if let Some(h) = self.state().holders.get_mut(container) {
            h.running = running;
        }
    }

    /// All images, newest first.
    pub fn list(&self) -> Vec<Image> {
        let state = self.state();
        let mut all: Vec<Image> = state.images.values().map(|s| state.shown(s)).collect();
        all.sort_by_key(|i| std::cmp::Reverse(i.created_at_ns));
        all
    }

    /// By `name`, `name:tag`, `name@digest`, ID or a unique prefix of one.
    pub fn resolve(&self, reference_or_id: &str) -> Result<Image, Error> {
        let state = self.state();
        let id = state.find(reference_or_id)?;
        let stored =
            state.images.get(&id).ok_or(Error::NoSuchImage { reference: reference_or_id.to_owned() })?;
        Ok(state.shown(stored))
    }

    /// Gives an image one more reference (taking it from another image, as Docker does).
    pub async fn tag(&self, source: &str, target: &str) -> Result<(), Error> {
        let target = Reference::parse(target)?.or_latest();
        if target.digest.is_some() {
            return Err(Error::Invalid(format!(
                "refusing to create a tag with a digest reference: {target}"
            )));
        }
        let _changing = self.changing().lock().await;
        let id = self.state().find(source)?;
        let key = target.to_string();
        self.metadata().commit(vec![Change::put(Kind::Reference, &key, &id)?]).await?;
        self.state().references.insert(key.clone(), id.clone());
        self.emit("tag", &id, &key);
        Ok(())
    }

    /// Brings in all images of a docker-archive or OCI-archive, plain or compressed with gzip or zstd.
    pub async fn load(&self, archive: impl AsyncRead + Send + Unpin) -> Result<Vec<LoadedImage>, Error> {
        let images = self.clone();
        self.with_stream(archive, move |input| images.load_blocking(input)).await
    }

    /// Brings in a root file system as an image of one layer. Returns its ID.
    pub async fn import(
        &self,
        tar: impl AsyncRead + Send + Unpin,
        reference: Option<String>,
        changes: Vec<String>,
        message: Option<String>,
    ) -> Result<String, Error> {
        let reference = reference
            .filter(|r| !r.is_empty())
            .map(|r| Reference::parse(&r))
            .transpose()?
            .map(Reference::or_latest);
        if reference.as_ref().is_some_and(|r| r.digest.is_some()) {
            return Err(Error::Invalid("cannot import digest reference".into()));
        }
        let mut config = super::ImageConfig::default();
        for change in &changes {
            changes::apply(&mut config, change)?;
        }
        let message = message.filter(|m| !m.is_empty()).unwrap_or_else(|| "Imported from -".into());
        let images = self.clone();
        self.with_stream(tar, move |input| images.import_blocking(input, reference, config, message)).await
    }

    /// Runs blocking `work` on what the async `source` brings.
    async fn with_stream<T: Send + 'static>(
        &self,
        mut source: impl AsyncRead + Send + Unpin,
        work: impl FnOnce(Feed) -> Result<T, Error> + Send + 'static,
    ) -> Result<T, Error> {
        let (send, receive) = tokio::sync::mpsc::channel::<io::Result<Bytes>>(8);
        let worker =
            tokio::spawn(blocking(move || work(Feed { receive, chunk: Bytes::new(), ended: false })));
        loop {
            let mut chunk = bytes::BytesMut::with_capacity(256 << 10);
            let read = source.read_buf(&mut chunk).await;
            let last = !matches!(read, Ok(n) if n > 0);
            // The worker may have ended already: by an error, or by having all it wants.
            if send.send(read.map(|_| chunk.freeze())).await.is_err() || last {
                break;
            }
        }
        drop(send);
        worker.await.unwrap_or(Err(Error::ShuttingDown))
    }

    fn load_blocking(&self, input: Feed) -> Result<Vec<LoadedImage>, Error> {
        let scratch = Scratch::new(&self.temporary(), "load")?;
        let have = |digest: &str| {
            let hex = digest.strip_prefix("sha256:").filter(|h| h.len() == 64 && is_hex(h))?;
            let path = self.0.root.blobs().join(hex);
            let _state = self.state();
            path.exists().then_some(path)
        };
        let mut found = archive::read(input, &scratch.0, &self.0.limits, have)?;
        let _changing = self.changing().blocking_lock();
        let prepared = found.drain(..).map(|f| self.prepare(f, &scratch)).collect::<Result<Vec<_>, _>>()?;
        self.publish(&prepared)?;
        for p in &prepared {
            self.emit("load", &p.stored.image.id, &p.references.join(", "));
        }
        Ok(prepared
            .into_iter()
            .map(|p| LoadedImage { id: p.stored.image.id, references: p.references })
            .collect())
    }

    fn import_blocking(
        &self,
        input: Feed,
        reference: Option<Reference>,
        config: super::ImageConfig,
        message: String,
    ) -> Result<String, Error> {
        let scratch = Scratch::new(&self.temporary(), "import")?;
        let path = scratch.0.join("layer");
        let mut input = input;
        let staged = stage(&mut input, Some(&path))?;
        let trial = scratch.0.join("trial");
        // The diff ID, which the configuration must name, is known only once the layer is unpacked.
        let unpacked = unpack(&path, &staged.digest, &trial.join("diff"), &self.0.limits)?;
        let created = time::OffsetDateTime::now_utc()
            .format(&time::format_description::well_known::Rfc3339)
            .map_err(|e| Error::Invalid(format!("the clock of this host cannot be written down: {e}")))?;
        let blob = ConfigBlob {
            created: created.clone(),
            architecture: host_architecture().into(),
            os: "linux".into(),
            comment: message.clone(),
            config,
            rootfs: super::config::RootfsBlob {
                kind: "layers".into(),
                diff_ids: vec![unpacked.diff_id.clone()],
            },
            history: vec![History { created, comment: message, ..History::default() }],
            ..ConfigBlob::default()
        };
        let config_bytes = serde_json::to_vec(&blob)
            .map_err(|e| Error::Invalid(format!("cannot encode the configuration: {e}")))?;
        let _changing = self.changing().blocking_lock();
        let found = Found {
            config: blob,
            config_bytes,
            layers: vec![archive::Member { staged, path }],
            references: reference.into_iter().collect(),
        };
        let ready = Some((unpacked.diff_id.clone(), trial, unpacked.size));
        let prepared = self.prepare_with(found, &scratch, ready)?;
        self.publish(std::slice::from_ref(&prepared))?;
        let id = prepared.stored.image.id;
        self.emit("import", &id, prepared.references.first().map_or("", String::as_str));
        Ok(id)
    }

    fn prepare(&self, found: Found, scratch: &Scratch) -> Result<Prepared, Error> {
        self.prepare_with(found, scratch, None)
    }

    /// Unpacks, under the temporary directory, the layers that are not there yet, and checks their diff IDs.
    fn prepare_with(
        &self,
        found: Found,
        scratch: &Scratch,
        mut ready: Option<(String, PathBuf, u64)>,
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
                    let (dir, unpacked_size) = match ready.take_if(|(d, ..)| d == diff_id) {
                        Some((_, dir, size)) => (dir, size),
                        None => {
                            let dir = scratch.0.join(format!("layer-{}", super::unused_name()));
                            let unpacked = unpack(
                                &member.path,
                                &member.staged.digest,
                                &dir.join("diff"),
                                &self.0.limits,
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
                    let layer = StoredLayer { diff_id: diff_id.clone(), size: unpacked_size };
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
        let stored = StoredImage { image, blobs: blobs.iter().map(|(d, _)| d.clone()).collect() };
        blobs.push((id, config_path));
        let references = found.references.iter().map(Reference::to_string).collect();
        Ok(Prepared { stored, layers, blobs, references })
    }

    /// Files into place, everything to disk, then the metadata in one commit: a crash before it leaves
    /// files that the next start sweeps, one after it leaves a whole image.
    fn publish(&self, prepared: &[Prepared]) -> Result<(), Error> {
        let mut moved = false;
        let mut changes = Vec::new();
        for p in prepared {
            for (digest, from) in &p.blobs {
                moved |= move_in(from, &self.blob_path(digest))?;
            }
            for (chain, layer, from) in &p.layers {
                moved |= move_in(from, &self.layer_dir(chain))?;
                changes.push(Change::put(Kind::Layer, chain, layer)?);
            }
            changes.push(Change::put(Kind::Image, &p.stored.image.id, &p.stored)?);
            for r in &p.references {
                changes.push(Change::put(Kind::Reference, r, &p.stored.image.id)?);
            }
        }
        if moved {
            let root = self.0.root.path();
            let dir = fs::File::open(root).map_err(Error::io("open", root))?;
            nix::unistd::syncfs(dir.as_fd()).map_err(|e| Error::Io {
                operation: "sync",
                path: root.into(),
                source: e.into(),
            })?;
            sync_dir(&self.0.root.blobs())?;
            sync_dir(&self.0.root.layers())?;
        }
        self.metadata().commit_blocking(changes)?;
        let mut state = self.state();
        for p in prepared {
            state.layers.extend(p.layers.iter().map(|(c, l, _)| (c.clone(), l.clone())));
            state.images.insert(p.stored.image.id.clone(), Arc::new(p.stored.clone()));
            state.references.extend(p.references.iter().map(|r| (r.clone(), p.stored.image.id.clone())));
        }
        tracing::debug!(images = prepared.len(), at = now_ns(), "images stored");
        Ok(())
    }
}

/// An image that only waits to be published.
struct Prepared {
    stored: StoredImage,
    layers: Vec<(String, StoredLayer, PathBuf)>,
    blobs: Vec<(String, PathBuf)>,
    references: Vec<String>,
}

/// False when it is there already.
fn move_in(from: &Path, to: &Path) -> Result<bool, Error> {
    if to.exists() {
        return Ok(false);
    }
    fs::rename(from, to).map_err(Error::io("move into the store", to))?;
    Ok(true)
}

/// A digest without its algorithm.
fn hex_of(digest: &str) -> &str {
    digest.strip_prefix("sha256:").unwrap_or(digest)
}

/// The blocking end of an async stream; a client that vanishes is an error, not an end.
struct Feed {
    receive: tokio::sync::mpsc::Receiver<io::Result<Bytes>>,
    chunk: Bytes,
    ended: bool,
}

impl Read for Feed {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        while self.chunk.is_empty() && !self.ended {
            match self.receive.blocking_recv() {
                Some(Ok(chunk)) if chunk.is_empty() => self.ended = true,
                Some(Ok(chunk)) => self.chunk = chunk,
                Some(Err(e)) => return Err(e),
                None => return Err(io::Error::new(io::ErrorKind::UnexpectedEof, "the sender went away")),
            }
        }
        let n = self.chunk.len().min(buf.len());
        buf[..n].copy_from_slice(&self.chunk[..n]);
        self.chunk.advance(n);
        Ok(n)
    }
}
