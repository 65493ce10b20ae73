//! Pulls images: manifest, configuration and layers of one tag after another, each published whole or not at all.

use std::collections::HashMap;
use std::sync::Arc;

use futures::future::try_join_all;
use skep_registry::{Access, Credentials, Descriptor, Document, Fetched, Platform, Session, media};

use super::archive::{Found, Member, Scratch};
use super::config::ConfigBlob;
use super::layer::{Staged, chain_ids};
use super::naming::Naming;
use super::progress::Progress;
use super::reference::Reference;
use super::store::Images;
use super::transfer::{Arrived, Followed, Wanted};
use crate::error::{Error, blocking};

/// What is to be pulled.
#[derive(Clone, Debug)]
pub struct PullRequest {
    /// With neither tag nor digest: every tag of the repository.
    pub reference: Reference,
    /// Of an image for several; none = this host's.
    pub platform: Option<Platform>,
    /// As whom.
    pub credentials: Credentials,
}

/// What was pulled last.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pulled {
    /// Image ID.
    pub id: String,
    /// What the tag stands for in the registry.
    pub digest: String,
}

pub(super) type Tell<'a> = &'a (dyn Fn(Progress) + Send + Sync);

impl Images {
    /// Pulls. Dropped before its end, what is under way stands still for some minutes: asked for again, it goes on.
    pub async fn pull(&self, request: PullRequest, tell: Tell<'_>) -> Result<Pulled, Error> {
        let _timer = self.metrics().image.pull.start_timer();
        let reference = &request.reference;
        let translated = |e| translate(e, reference);
        let session = self.registries().open(reference.repository(), request.credentials, Access::Pull).await;
        if reference.tag.is_some() || reference.digest.is_some() {
            return self
                .pull_one(&session, reference, request.platform.as_ref(), tell)
                .await
                .map_err(translated);
        }
        let mut last = None;
        for tag in session.tags().await.map_err(|e| translated(e.into()))? {
            let one = Reference { tag: Some(tag), ..reference.clone() };
            let pulled = self.pull_one(&session, &one, request.platform.as_ref(), tell).await;
            last = Some(pulled.map_err(|e| translate(e, &one))?);
        }
        last.ok_or_else(|| Error::Transfer(format!("repository {} has no tags", reference.name)))
    }

    async fn pull_one(
        &self,
        session: &Session,
        reference: &Reference,
        platform: Option<&Platform>,
        tell: Tell<'_>,
    ) -> Result<Pulled, Error> {
        let tag = reference.tag.clone().filter(|_| reference.digest.is_none());
        let asked = reference.digest.clone().or_else(|| tag.clone()).unwrap_or_default();
        let told = match &tag {
            Some(tag) => session.digest_of_tag(tag).await?,
            None => reference.digest.clone(),
        };
        let begin = || {
            let text = format!("Pulling from {}", session.repository().path);
            tell(Progress::Line { about: Some(asked.clone()), text });
        };
        let by_digest = |digest: &str| format!("{}@{digest}", reference.name);
        let known =
            told.as_ref().filter(|_| platform.is_none()).and_then(|d| self.resolve(&by_digest(d)).ok());
        let by_tag = tag.as_ref().map(|t| format!("{}:{t}", reference.name));
        let before = {
            let state = self.state();
            let key = by_tag.clone().or_else(|| told.as_deref().map(by_digest)).unwrap_or_default();
            state.references.get(&key).cloned()
        };
        let names = |digest: &str| {
            [Some(by_digest(digest)), by_tag.clone()].into_iter().flatten().collect::<Vec<_>>()
        };
        let (id, digest) = match (known, told) {
            (Some(image), Some(digest)) => {
                begin();
                (image.id, digest)
            }
            (_, told) => {
                let top = session.manifest(told.as_deref().unwrap_or(&asked)).await?;
                begin();
                let digest = top.digest.clone();
                (self.fetch(session, top, platform, reference, &names(&digest), tell).await?, digest)
            }
        };
        // Of what was fetched, all is in place already.
        self.point(&names(&digest), &id).await?;
        let newer = before.as_ref() != Some(&id);
        tell(Progress::line(format!("Digest: {digest}")));
        let shown = match &tag {
            Some(tag) => format!("{}:{tag}", reference.name),
            None => by_digest(&digest),
        };
        let what = if newer { "Downloaded newer image for" } else { "Image is up to date for" };
        tell(Progress::line(format!("Status: {what} {shown}")));
        self.emit("pull", &shown, &reference.name);
        Ok(Pulled { id, digest })
    }

    /// The image of a manifest, or of the manifest of an index that fits; its ID.
    async fn fetch(
        &self,
        session: &Session,
        top: Fetched,
        platform: Option<&Platform>,
        reference: &Reference,
        names: &[String],
        tell: Tell<'_>,
    ) -> Result<String, Error> {
        let wanted = platform.cloned().unwrap_or_else(Platform::host);
        let mut manifest = top;
        let mut indexes = Vec::new();
        let (config, layers) = loop {
            match &manifest.document {
                Document::Manifest { config, layers } => break (config.clone(), layers.clone()),
                Document::Index { .. } if indexes.len() == 3 => {
                    return Err(Error::Transfer(format!("the indexes of {reference} are nested too deep")));
                }
                Document::Index { manifests } => {
                    let chosen = Fetched::choose(manifests, &wanted)?.digest.clone();
                    let index = std::mem::replace(&mut manifest, session.manifest(&chosen).await?);
                    indexes.push((index.digest, index.bytes));
                }
            }
        };
        if !is_image(&config) {
            return Err(Error::Transfer(format!(
                "{reference} is no image of a container: its configuration is of type {:?}",
                config.media_type
            )));
        }
        if config.size > self.limits().json {
            return Err(Error::Transfer(format!(
                "the configuration of {reference} is {} bytes; the limit is {}",
                config.size,
                self.limits().json
            )));
        }
        // An image that is here under another name needs nothing of its layers.
        if let Ok(image) = self.resolve(&config.digest)
            && (!indexes.is_empty() || serves(platform, &image.os, &image.architecture, &image.variant))
        {
            return Ok(image.id);
        }
        let bytes = session.blob(&config.digest, config.size).await?;
        let blob = ConfigBlob::parse(&bytes, &config.digest)?;
        // Of an index, it is the index that says what serves.
        if indexes.is_empty() && !serves(platform, &blob.os, &blob.architecture, &blob.variant) {
            return Err(Error::Transfer(format!(
                "image with reference {reference} was found but its platform ({}/{}) does not match the specified platform ({wanted})",
                blob.os, blob.architecture
            )));
        }
        if blob.rootfs.diff_ids.len() != layers.len() {
            return Err(Error::Transfer(format!(
                "image {reference} lists {} layers in its configuration and {} in its manifest",
                blob.rootfs.diff_ids.len(),
                layers.len()
            )));
        }
        self.layers(session, (&manifest, indexes), (blob, bytes), layers, names, tell).await
    }

    async fn layers(
        &self,
        session: &Session,
        (manifest, indexes): (&Fetched, Vec<(String, Vec<u8>)>),
        (config, config_bytes): (ConfigBlob, Vec<u8>),
        layers: Vec<Descriptor>,
        names: &[String],
        tell: Tell<'_>,
    ) -> Result<String, Error> {
        let diff_ids = config.rootfs.diff_ids.clone();
        let chains = chain_ids(&diff_ids);
        let named = layers.iter().map(|l| l.digest.clone()).chain([manifest.digest.clone()]);
        let mut blobs: Vec<String> = named.chain([super::layer::digest_of(&config_bytes)]).collect();
        blobs.extend(indexes.iter().map(|(digest, _)| digest.clone()));
        blobs.extend(chains.iter().filter_map(|c| self.state().blob_of(c)));
        // Before anything is looked up: what is there stays there.
        let _pin = self.pin(chains.clone(), blobs);
        let mut transfers = Vec::new();
        for ((descriptor, diff_id), chain) in layers.iter().zip(&diff_ids).zip(&chains) {
            check_layer(descriptor)?;
            let (blob, blob_only) = {
                let state = self.state();
                (state.blob_of(chain), state.layers.contains_key(chain))
            };
            if let Some(blob) = blob {
                tell(Progress::layer(&descriptor.digest, "Already exists"));
                transfers.push(Err(blob));
                continue;
            }
            tell(Progress::layer(&descriptor.digest, "Pulling fs layer"));
            let descriptor = descriptor.clone();
            let wanted = Wanted { descriptor, diff_id: diff_id.clone(), chain: chain.clone(), blob_only };
            transfers.push(Ok(self.transfer(session, &wanted)));
        }
        let arrived = try_join_all(transfers.iter().map(|t| async move {
            match t {
                Ok(transfer) => transfer.follow(tell).await.map(Ok),
                Err(there) => Ok(Err(there.clone())),
            }
        }))
        .await?;
        let images = self.clone();
        let mut documents = indexes;
        documents.push((manifest.digest.clone(), manifest.bytes.clone()));
        let references = names.iter().map(|n| Reference::parse(n)).collect::<Result<_, _>>()?;
        let found = Found { config, config_bytes, layers: Vec::new(), references };
        let published =
            blocking(move || images.publish_pulled(documents, found, &layers, &chains, &arrived)).await;
        // Moved into the store, or of no use to another attempt either.
        transfers.iter_mut().flatten().for_each(Followed::settle);
        published
    }

    fn publish_pulled(
        &self,
        documents: Vec<(String, Vec<u8>)>,
        mut found: Found,
        layers: &[Descriptor],
        chains: &[String],
        arrived: &[Result<Arc<Arrived>, String>],
    ) -> Result<String, Error> {
        let scratch = Scratch::new(&self.temporary(), "pull")?;
        let mut ready = HashMap::new();
        for ((layer, chain), came) in layers.iter().zip(chains).zip(arrived) {
            found.layers.push(match came {
                Ok(arrived) => {
                    if let Some(unpacked) = &arrived.unpacked {
                        ready.insert(chain.clone(), unpacked.clone());
                    }
                    let staged = Staged { digest: layer.digest.clone(), size: layer.size };
                    Member { staged, path: arrived.blob.clone(), recipe: false }
                }
                Err(there) => {
                    let path = self.blob_path(there);
                    Member { staged: Staged { digest: there.clone(), size: 0 }, path, recipe: false }
                }
            });
        }
        // The documents describe what is stored only if every blob is the one it names.
        let as_named =
            arrived.iter().zip(layers).all(|(a, l)| a.as_ref().err().is_none_or(|b| *b == l.digest));
        let _changing = self.changing().blocking_lock();
        let mut prepared = self.prepare_with(found, &scratch, ready)?;
        if as_named {
            prepared.describe(documents, &scratch)?;
        }
        self.publish(std::slice::from_ref(&prepared))?;
        Ok(prepared.stored.image.id)
    }

    /// Points references at an image.
    async fn point(&self, references: &[String], id: &str) -> Result<(), Error> {
        let changing = self.changing().clone().lock_owned().await;
        let moved: Vec<String> = {
            let state = self.state();
            if !state.images.contains_key(id) {
                return Err(Error::Transfer(format!("image {id} was removed while it was being pulled")));
            }
            let elsewhere = |r: &&String| state.references.get(*r).is_none_or(|held| held != id);
            references.iter().filter(elsewhere).cloned().collect()
        };
        if !moved.is_empty() {
            self.give(Naming::new(id, moved), changing).await?;
        }
        Ok(())
    }
}

fn is_image(config: &Descriptor) -> bool {
    let known = [media::DOCKER_CONFIG, media::OCI_CONFIG, "application/octet-stream", ""];
    known.contains(&config.media_type.as_str())
}

fn check_layer(d: &Descriptor) -> Result<(), Error> {
    let odd = !d.media_type.is_empty()
        && d.media_type != "application/octet-stream"
        && (!d.media_type.contains("tar")
            || d.media_type.contains("encrypted")
            || d.media_type.contains("foreign"));
    if odd {
        return Err(Error::Transfer(format!(
            "layer {} is of type {:?}, which is not a layer this engine unpacks",
            d.digest, d.media_type
        )));
    }
    Ok(())
}

fn serves(wanted: Option<&Platform>, os: &str, architecture: &str, variant: &str) -> bool {
    let offer = Platform {
        os: if os.is_empty() { "linux".into() } else { os.into() },
        architecture: architecture.into(),
        variant: variant.into(),
        ..Platform::default()
    };
    architecture.is_empty() || wanted.is_none_or(|w| w.served_by(&offer).is_some())
}

/// In the words of Docker's daemon.
fn translate(e: Error, reference: &Reference) -> Error {
    let Error::Registry { cause, .. } = &e else { return e };
    let skep_registry::Error::Refused { code, .. } = cause else { return e };
    let message = match code.as_str() {
        "DENIED" => format!(
            "pull access denied for {}, repository does not exist or may require 'docker login': {cause}",
            reference.name
        ),
        "MANIFEST_UNKNOWN" => format!("manifest for {reference} not found: {cause}"),
        "NAME_UNKNOWN" => format!("repository {} not found: {cause}", reference.name),
        _ => return e,
    };
    Error::Registry { message, cause: cause.clone() }
}
