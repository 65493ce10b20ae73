//! Images as nodes of a swarm hand them to each other: what one is made of, which blobs of it are here or on their
//! way, and how what has come becomes an image.

use std::collections::HashMap;
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use futures::future::try_join_all;
use sha2::{Digest, Sha256};
use skep_registry::{Document, Fetched, Platform, is_digest};

use super::archive::{Found, Member, Scratch};
use super::catalogue::StoredImage;
use super::config::ConfigBlob;
use super::layer::{Staged, chain_ids, digest_of, unpack_from};
use super::naming::Naming;
use super::partial::{PIECE, Partial};
use super::pin::Pin;
use super::reference::Reference;
use super::store::Images;
use crate::error::{Error, blocking};

/// Indexes and manifests that an image may have been pulled by.
const DOCUMENTS: usize = 4;
/// Layers of an image, as many as a manifest may name.
const LAYERS: usize = 1000;

/// What an image is made of.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Makeup {
    /// Its digest is the image ID.
    pub config: Vec<u8>,
    /// Digest and bytes of the blob of each layer, bottom first.
    pub blobs: Vec<(String, u64)>,
    /// What it was pulled by: indexes, outermost first, then the manifest.
    pub documents: Vec<Vec<u8>>,
}

/// An image of this host, for others to be told of.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LocatedImage {
    /// Image ID.
    pub id: String,
    /// What it runs on.
    pub platform: Platform,
    /// When it was made, in nanoseconds since the epoch.
    pub created_at_ns: i64,
    /// Bytes of its layers.
    pub size: u64,
}

#[derive(Debug)]
enum Blob {
    /// In the store.
    Whole { digest: String },
    /// On its way.
    Partial(Arc<Partial>),
}

/// An image that other nodes may take from: whole, or on its way here. Its blobs stay for as long as this lives.
#[derive(Debug)]
pub struct Share {
    id: String,
    makeup: Makeup,
    config: ConfigBlob,
    blobs: Vec<Blob>,
    images: Images,
    /// Where blobs that are on their way lie.
    scratch: Option<Scratch>,
    pin: Option<Pin>,
}

impl Drop for Share {
    fn drop(&mut self) {
        // Gigabytes may lie there, and the last who holds it may be on the async runtime.
        if let (Some(scratch), Ok(runtime)) = (self.scratch.take(), tokio::runtime::Handle::try_current()) {
            runtime.spawn_blocking(move || drop(scratch));
        }
        drop(self.pin.take());
        if !self.images.has(&self.id) {
            self.images.collect_later();
        }
    }
}

impl Share {
    /// Image ID.
    pub fn id(&self) -> &str {
        &self.id
    }

    /// What it is made of.
    pub fn makeup(&self) -> &Makeup {
        &self.makeup
    }

    /// What it runs on.
    pub fn platform(&self) -> Platform {
        platform_of(&self.config)
    }

    /// Blobs that are on their way, with their places in the makeup.
    pub fn partials(&self) -> impl Iterator<Item = (usize, &Arc<Partial>)> {
        self.blobs.iter().enumerate().filter_map(|(at, blob)| match blob {
            Blob::Partial(partial) => Some((at, partial)),
            Blob::Whole { .. } => None,
        })
    }

    /// Places in the makeup of blobs that nobody gets here, although their layers are here: the store has the same
    /// content in other clothes.
    pub fn withheld(&self) -> impl Iterator<Item = usize> {
        let blobs = self.blobs.iter().zip(&self.makeup.blobs).enumerate();
        blobs.filter_map(|(at, (blob, (named, _)))| match blob {
            Blob::Whole { digest } if digest != named => Some(at),
            Blob::Whole { .. } | Blob::Partial(_) => None,
        })
    }

    /// Reads at most a piece of a blob; none = that is not here. Blocks.
    ///
    /// # Errors
    /// The blob cannot be read.
    pub fn read(&self, blob: usize, offset: u64, length: u32) -> Result<Option<Vec<u8>>, Error> {
        let length = usize::try_from(length).unwrap_or(usize::MAX);
        let (Some(blob), Some((named, size))) = (self.blobs.get(blob), self.makeup.blobs.get(blob)) else {
            return Ok(None);
        };
        if length as u64 > PIECE || offset.saturating_add(length as u64) > *size {
            return Ok(None);
        }
        match blob {
            Blob::Partial(partial) => {
                partial.read_at(offset, length).map_err(Error::io("read", format!("layer {named}")))
            }
            // The same content in other clothes.
            Blob::Whole { digest } if digest != named => Ok(None),
            Blob::Whole { digest } => {
                let path = self.images.whole_blob_of(digest)?;
                let mut bytes = vec![0; length];
                let file = File::open(&path).map_err(Error::io("open", &path))?;
                file.read_exact_at(&mut bytes, offset).map_err(Error::io("read", &path))?;
                Ok(Some(bytes))
            }
        }
    }

    /// Whether a node that asked for the image by this name can be sure that it is this one: without a digest it has
    /// to take our word.
    fn proves(&self, reference: &Reference) -> bool {
        let Some(digest) = &reference.digest else { return true };
        *digest == self.id || proven(&self.makeup, &self.id).as_ref() == Some(digest)
    }
}

fn platform_of(config: &ConfigBlob) -> Platform {
    Platform {
        os: if config.os.is_empty() { "linux".into() } else { config.os.clone() },
        architecture: config.architecture.clone(),
        variant: config.variant.clone(),
        ..Platform::default()
    }
}

/// The digest that the documents lead from to the image, if they do.
fn proven(makeup: &Makeup, id: &str) -> Option<String> {
    let (manifest, indexes) = makeup.documents.split_last()?;
    let digests: Vec<String> = makeup.documents.iter().map(|d| digest_of(d)).collect();
    for (index, (own, following)) in indexes.iter().zip(digests.iter().zip(&digests[1..])) {
        let Document::Index { manifests } = Fetched::read(index.clone(), "", own.clone()).ok()?.document
        else {
            return None;
        };
        manifests.iter().find(|m| m.digest == *following)?;
    }
    let last = digests.last()?.clone();
    let Document::Manifest { config, layers } = Fetched::read(manifest.clone(), "", last).ok()?.document
    else {
        return None;
    };
    let blobs = makeup.blobs.iter().map(|(digest, _)| digest);
    let fits = config.digest == id && layers.iter().map(|l| &l.digest).eq(blobs);
    digests.into_iter().next().filter(|_| fits)
}

/// The bytes of each layer as the manifest has them, where there is one.
fn sizes(makeup: &Makeup) -> HashMap<String, u64> {
    let Some(manifest) = makeup.documents.last() else { return HashMap::new() };
    match Fetched::read(manifest.clone(), "", digest_of(manifest)).map(|f| f.document) {
        Ok(Document::Manifest { layers, .. }) => layers.into_iter().map(|l| (l.digest, l.size)).collect(),
        _ => HashMap::new(),
    }
}

impl Images {
    /// The image that a name, as a task has it, stands for here, if others can be given it by that name.
    pub fn locate(&self, image: &str) -> Option<LocatedImage> {
        let reference = Reference::parse(image).ok();
        let by_id = reference.as_ref().and_then(|r| r.digest.clone());
        let found = self.resolve(image).ok().or_else(|| self.resolve(&by_id?).ok())?;
        let platform = Platform {
            os: if found.os.is_empty() { "linux".into() } else { found.os.clone() },
            architecture: found.architecture.clone(),
            variant: found.variant.clone(),
            ..Platform::default()
        };
        let located =
            LocatedImage { id: found.id, platform, created_at_ns: found.created_at_ns, size: found.size };
        match reference.filter(|r| r.digest.as_ref().is_some_and(|d| *d != located.id)) {
            Some(reference) => self.share(&located.id).ok()?.proves(&reference).then_some(located),
            None => Some(located),
        }
    }

    /// What an image of this host is pinned by, so that every node can have it from this one: the digest it was pulled
    /// by where that can be shown to be its own, else its ID.
    pub fn pin_of(&self, image: &str) -> Option<(String, LocatedImage)> {
        let located = self.locate(image)?;
        let name = Reference::parse(image).ok()?.name;
        let pulled = self.resolve(&located.id).ok()?.digests;
        let mut of_name = pulled.iter().filter_map(|d| Reference::parse(d).ok()).filter(|r| r.name == name);
        let share = self.share(&located.id).ok()?;
        let digest = of_name.find(|r| share.proves(r)).and_then(|r| r.digest);
        Some((digest.unwrap_or_else(|| located.id.clone()), located))
    }

    /// An image of this host, by its ID, for other nodes to take. Reads small files.
    ///
    /// # Errors
    /// There is no such image, or its files cannot be read.
    pub fn share(&self, id: &str) -> Result<Arc<Share>, Error> {
        let missing = || Error::NoSuchImage { reference: id.to_owned() };
        let (stored, pin) = {
            let stored: Arc<StoredImage> = self.state().images.get(id).cloned().ok_or_else(missing)?;
            let documents = stored.indexes.iter().chain(&stored.manifest);
            let blobs = stored.blobs.iter().chain([&stored.image.id]).chain(documents).cloned().collect();
            (stored.clone(), self.pin(stored.image.chain_ids.clone(), blobs))
        };
        if !self.has(id) {
            return Err(missing());
        }
        let read = |digest: &String| {
            let path = self.blob_path(digest);
            std::fs::read(&path).map_err(Error::io("read", &path))
        };
        let config = read(&stored.image.id)?;
        let documents = match &stored.manifest {
            Some(manifest) => stored.indexes.iter().chain([manifest]).map(read).collect::<Result<_, _>>()?,
            None => Vec::new(),
        };
        let mut blobs = Vec::with_capacity(stored.blobs.len());
        for (digest, chain) in stored.blobs.iter().zip(&stored.image.chain_ids) {
            blobs.push((digest.clone(), self.blob_size(digest, chain)?));
        }
        Ok(Arc::new(Share {
            id: id.to_owned(),
            config: ConfigBlob::parse(&config, id)?,
            makeup: Makeup { config, blobs, documents },
            blobs: stored.blobs.iter().map(|d| Blob::Whole { digest: d.clone() }).collect(),
            images: self.clone(),
            scratch: None,
            pin: Some(pin),
        }))
    }

    /// Makes ready to take an image as another node says it is made, checked against what it was asked for by.
    ///
    /// # Errors
    /// It is not that image, or none this engine runs, or there is no room for it.
    pub async fn expect(&self, reference: &str, id: &str, makeup: Makeup) -> Result<Arc<Share>, Error> {
        let (images, reference, id) = (self.clone(), Reference::parse(reference)?, id.to_owned());
        blocking(move || images.expect_blocking(&reference, &id, makeup).map(Arc::new)).await
    }

    fn expect_blocking(&self, reference: &Reference, id: &str, makeup: Makeup) -> Result<Share, Error> {
        let bad =
            |why: String| Error::Transfer(format!("what another node says of image {id} is wrong: {why}"));
        let limit = self.limits().json;
        let too_long = makeup.documents.iter().chain([&makeup.config]).any(|d| d.len() as u64 > limit);
        if too_long || makeup.documents.len() > DOCUMENTS || makeup.blobs.len() > LAYERS {
            return Err(bad("it has more parts, or longer ones, than any image".into()));
        }
        if digest_of(&makeup.config) != id {
            return Err(bad(format!("its configuration is {}", digest_of(&makeup.config))));
        }
        let config = ConfigBlob::parse(&makeup.config, id)?;
        if config.rootfs.diff_ids.len() != makeup.blobs.len() {
            let (listed, named) = (config.rootfs.diff_ids.len(), makeup.blobs.len());
            return Err(bad(format!("its configuration lists {listed} layers, it names {named}")));
        }
        let most = self.limits().bytes;
        if let Some((digest, _)) = makeup.blobs.iter().find(|(d, _)| !is_digest(d)) {
            return Err(bad(format!("layer {digest:?} has no digest")));
        }
        // Before room is made for them.
        if makeup.blobs.iter().fold(0u64, |all, (_, size)| all.saturating_add(*size)) > most {
            return Err(bad(format!("its layers have more than {most} bytes")));
        }
        let listed = sizes(&makeup);
        let other = |(digest, size): &&(String, u64)| listed.get(digest).is_some_and(|listed| listed != size);
        if let Some((digest, size)) = makeup.blobs.iter().find(other) {
            let listed = listed.get(digest).copied().unwrap_or_default();
            return Err(bad(format!(
                "layer {digest} has {listed} bytes by its manifest, and {size} by that node"
            )));
        }
        let chains = chain_ids(&config.rootfs.diff_ids);
        let mut held: Vec<String> = makeup.blobs.iter().map(|(digest, _)| digest.clone()).collect();
        held.push(id.to_owned());
        held.extend(makeup.documents.iter().map(|d| digest_of(d)));
        held.extend(chains.iter().filter_map(|c| self.state().blob_of(c)));
        // Before anything is looked up: what is there stays there.
        let pin = self.pin(chains.clone(), held);
        let scratch = Scratch::new(&self.temporary(), "share")?;
        let mut blobs = Vec::with_capacity(makeup.blobs.len());
        for (at, (chain, (digest, size))) in chains.iter().zip(&makeup.blobs).enumerate() {
            let there = self.state().blob_of(chain);
            blobs.push(match there {
                Some(digest) => Blob::Whole { digest },
                None => {
                    let partial = Partial::create(&scratch.0.join(format!("blob-{at}")), *size);
                    Blob::Partial(Arc::new(partial.map_err(|e| with_digest(e, digest))?))
                }
            });
        }
        let share = Share {
            id: id.to_owned(),
            makeup,
            config,
            blobs,
            images: self.clone(),
            scratch: Some(scratch),
            pin: Some(pin),
        };
        if !share.proves(reference) {
            return Err(bad(format!("nothing shows that it is {reference}")));
        }
        Ok(share)
    }

    /// Waits until all of a share is there, hashing and unpacking it meanwhile, and stores it under a name. Dropped
    /// before its end, it can be called again.
    ///
    /// # Errors
    /// [`Error::Damaged`]: a blob is not what its digest says.
    pub async fn receive(&self, share: &Arc<Share>, name: Option<Reference>) -> Result<(), Error> {
        let stop = Stop(share.clone(), Arc::default());
        let temporary = self.temporary();
        let scratch = Arc::new(blocking(move || Scratch::new(&temporary, "receive")).await?);
        let chains = chain_ids(&share.config.rootfs.diff_ids);
        let unpacked = share.partials().map(|(at, partial)| {
            let (digest, size) = share.makeup.blobs[at].clone();
            let (reader, hashed) = (partial.reader(&stop.1), partial.reader(&stop.1));
            let (chain, diff_id) = (chains[at].clone(), share.config.rootfs.diff_ids[at].clone());
            let blob_only = self.state().layers.contains_key(&chain);
            let (images, scratch) = (self.clone(), scratch.clone());
            let dir = scratch.0.join(format!("layer-{at}"));
            let turn = self.transfers().receiving.clone().acquire_owned();
            async move {
                // Never closed. Pieces come meanwhile, too.
                let _turn = turn.await;
                let damaged = Error::Damaged { digest: digest.clone() };
                let hash = blocking({
                    let digest = digest.clone();
                    move || hash(hashed, &digest)
                });
                let unpack = blocking({
                    let (digest, dir) = (digest.clone(), dir.clone());
                    move || {
                        // Held by this thread too: nothing is made in it after it is gone.
                        let _scratch = scratch;
                        if blob_only {
                            return Ok(None);
                        }
                        let unpacked =
                            unpack_from(reader, size, &digest, &dir.join("diff"), images.limits())?;
                        Ok(Some(unpacked))
                    }
                });
                let (hash, unpacked) = futures::future::join(hash, unpack).await;
                // What cannot be unpacked is mostly what has another digest, too.
                if hash? != digest {
                    return Err(damaged);
                }
                match unpacked? {
                    Some(unpacked) if unpacked.diff_id != diff_id => Err(damaged),
                    Some(unpacked) => Ok(Some((chain, (dir, unpacked.size)))),
                    None => Ok(None),
                }
            }
        });
        let ready: HashMap<_, _> = try_join_all(unpacked).await?.into_iter().flatten().collect();
        let (images, share) = (self.clone(), share.clone());
        blocking(move || images.publish_shared(&share, name, &scratch, ready)).await
    }

    fn publish_shared(
        &self,
        share: &Share,
        name: Option<Reference>,
        scratch: &Scratch,
        ready: HashMap<String, (std::path::PathBuf, u64)>,
    ) -> Result<(), Error> {
        let mut as_named = !share.makeup.documents.is_empty();
        let mut layers = Vec::new();
        for (at, (blob, (named, size))) in share.blobs.iter().zip(&share.makeup.blobs).enumerate() {
            let (digest, path) = match blob {
                Blob::Whole { digest } => (digest.clone(), self.blob_path(digest)),
                Blob::Partial(_) => {
                    let kept = share.scratch.as_ref().map(|s| s.0.join(format!("blob-{at}")));
                    (named.clone(), kept.unwrap_or_default())
                }
            };
            as_named &= digest == *named;
            layers.push(Member { staged: Staged { digest, size: *size }, path, recipe: false });
        }
        let found = Found {
            config: share.config.clone(),
            config_bytes: share.makeup.config.clone(),
            layers,
            references: name.into_iter().collect(),
        };
        let _changing = self.changing().blocking_lock();
        let mut prepared = self.prepare_with(found, scratch, ready)?;
        if as_named {
            let documents = share.makeup.documents.iter().map(|d| (digest_of(d), d.clone()));
            prepared.describe(documents.collect(), scratch)?;
        }
        self.publish(std::slice::from_ref(&prepared))?;
        self.emit("pull", &prepared.stored.image.id, &prepared.references.join(", "));
        Ok(())
    }

    /// Has an image that is here, by its ID, found under one more name.
    ///
    /// # Errors
    /// It is not here, or that cannot be written down.
    pub async fn also_called(&self, id: &str, name: &Reference) -> Result<(), Error> {
        let changing = self.changing().clone().lock_owned().await;
        let key = name.to_string();
        if !self.has(id) {
            return Err(Error::NoSuchImage { reference: id.to_owned() });
        }
        if self.state().references.get(&key).is_some_and(|held| held == id) {
            return Ok(());
        }
        self.give(Naming::new(id, [key]), changing).await
    }
}

fn with_digest(e: Error, digest: &str) -> Error {
    Error::Transfer(format!("layer {digest}: {e}"))
}

fn hash(mut blob: impl std::io::Read, digest: &str) -> Result<String, Error> {
    let mut hash = Sha256::new();
    let mut buffer = vec![0; 256 << 10];
    loop {
        match blob.read(&mut buffer).map_err(Error::io("read", format!("layer {digest}")))? {
            0 => return Ok(format!("sha256:{}", hex::encode(hash.finalize()))),
            n => hash.update(&buffer[..n]),
        }
    }
}

/// Ends the readers of a share that nobody waits for any more.
struct Stop(Arc<Share>, Arc<AtomicBool>);

impl Drop for Stop {
    fn drop(&mut self) {
        self.1.store(true, Ordering::Relaxed);
        self.0.partials().for_each(|(_, partial)| partial.wake());
    }
}
