//! Pushes images: blobs the registry lacks, bottom to top at once, then the manifest under each tag. What was pulled
//! goes out as it came in; what did not come compressed is compressed once (`packed`), so its digest is stable.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::ErrorKind;
use std::path::PathBuf;

use futures::stream::TryStreamExt;
use serde_json::json;
use skep_registry::{Access, Credentials, Descriptor, Mounted, Session, media};

use super::catalogue::{Packed, StoredImage};
use super::compression::{Compression, kind_of};
use super::layer::digest_of;
use super::naming::Naming;
use super::progress::Progress;
use super::pull::Tell;
use super::reference::Reference;
use super::store::Images;
use super::upload::send;
use crate::error::{Error, blocking};

/// What is to be pushed.
#[derive(Clone, Debug)]
pub struct PushRequest {
    /// Without a tag: every tag of the name.
    pub reference: Reference,
    /// As whom.
    pub credentials: Credentials,
}

/// A layer on its way out.
#[derive(Clone, Debug)]
pub(super) struct Outgoing {
    pub(super) diff_id: String,
    pub(super) descriptor: Descriptor,
    pub(super) path: PathBuf,
    /// The chain ID of the layer that it was made of, where it is no blob of the image.
    pub(super) packed: Option<String>,
    /// Repositories of the same registry that have it.
    pub(super) elsewhere: Vec<String>,
}

impl Images {
    /// Pushes. Dropped before its end, the tags not yet reached stay as they were in the registry.
    pub async fn push(&self, request: PushRequest, tell: Tell<'_>) -> Result<(), Error> {
        let _timer = self.metrics().image.push.start_timer();
        let asked = &request.reference;
        if asked.digest.is_some() {
            return Err(Error::Invalid("cannot push a digest reference".into()));
        }
        let repository = asked.repository();
        tell(Progress::line(format!(
            "The push refers to repository [{}/{}]",
            repository.registry, repository.path
        )));
        let tags = self.tags_of(asked)?;
        let session = self.registries().open(repository, request.credentials, Access::Push).await;
        for reference in tags {
            self.push_one(&session, &reference, tell).await?;
        }
        Ok(())
    }

    fn tags_of(&self, asked: &Reference) -> Result<Vec<Reference>, Error> {
        let state = self.state();
        let all = state.references.keys().filter_map(|r| Reference::parse(r).ok());
        let of_name: Vec<Reference> =
            all.filter(|r| r.name == asked.name && r.tag.is_some() && r.digest.is_none()).collect();
        if of_name.is_empty() {
            return Err(Error::Transfer(format!(
                "An image does not exist locally with the tag: {}",
                asked.name
            )));
        }
        let Some(tag) = &asked.tag else { return Ok(of_name) };
        let chosen: Vec<Reference> = of_name.into_iter().filter(|r| r.tag.as_ref() == Some(tag)).collect();
        if chosen.is_empty() {
            return Err(Error::Transfer(format!("tag does not exist: {asked}")));
        }
        Ok(chosen)
    }

    async fn push_one(&self, session: &Session, reference: &Reference, tell: Tell<'_>) -> Result<(), Error> {
        let (stored, _pin) = {
            let missing = || Error::NoSuchImage { reference: reference.to_string() };
            let (id, stored) = {
                let state = self.state();
                let id = state.references.get(&reference.to_string()).cloned().ok_or_else(missing)?;
                (id.clone(), state.images.get(&id).cloned().ok_or_else(missing)?)
            };
            let blobs = stored.blobs.iter().chain([&id]).chain(&stored.manifest).cloned().collect();
            let pin = self.pin(stored.image.chain_ids.clone(), blobs);
            (stored, pin)
        };
        for diff_id in stored.image.layers.iter().rev() {
            tell(Progress::layer(diff_id, "Preparing"));
        }
        let mut layers = Vec::with_capacity(stored.blobs.len());
        for (at, blob) in stored.blobs.iter().enumerate() {
            let (images, stored, blob) = (self.clone(), stored.clone(), blob.clone());
            let host = session.repository().registry.clone();
            layers.push(blocking(move || images.outgoing(&stored, at, &blob, &host)).await?);
        }
        // A layer may be there several times; it is sent once.
        let mut once: BTreeMap<&str, &Outgoing> = BTreeMap::new();
        for layer in &layers {
            once.entry(&layer.descriptor.digest).or_insert(layer);
        }
        futures::stream::iter(once.into_values().map(Ok::<_, Error>))
            .try_for_each_concurrent(self.transfers().uploads(), |layer| {
                self.send_layer(session, layer, tell)
            })
            .await?;
        let config = Outgoing {
            diff_id: String::new(),
            descriptor: self.descriptor_of(&stored.image.id, media::DOCKER_CONFIG)?,
            path: self.blob_path(&stored.image.id),
            packed: None,
            elsewhere: Vec::new(),
        };
        send(session, &config, &|_| {}).await?;
        let (media_type, bytes) = self.manifest_of(&stored, &config.descriptor, &layers)?;
        let tag = reference.tag.as_deref().unwrap_or("latest");
        let digest = digest_of(&bytes);
        session.put_manifest(tag, &media_type, &bytes).await?;
        let size = bytes.len();
        tell(Progress::line(format!("{tag}: digest: {digest} size: {size}")));
        tell(Progress::Aux(json!({ "Tag": tag, "Digest": digest, "Size": size })));
        self.remember(&format!("{}@{digest}", reference.name), &stored.image.id).await?;
        self.emit("push", &reference.to_string(), &reference.name);
        Ok(())
    }

    async fn send_layer(&self, session: &Session, layer: &Outgoing, tell: Tell<'_>) -> Result<(), Error> {
        let sent = send(session, layer, tell).await;
        let (Err(Error::Registry { cause, .. }), Some(chain)) = (&sent, &layer.packed) else { return sent };
        // Other bytes are refused, too few end the connection.
        if !cause.is_denied() {
            let (images, chain) = (self.clone(), chain.clone());
            if blocking(move || images.drop_damaged(&chain)).await? {
                return Err(Error::Transfer(format!(
                    "layer {} lay damaged on this host's disk, compressed: it is made anew when the image is pushed again",
                    layer.descriptor.digest
                )));
            }
        }
        sent
    }

    /// The image is known by its digest in the registry from now on.
    async fn remember(&self, reference: &str, id: &str) -> Result<(), Error> {
        let changing = self.changing().clone().lock_owned().await;
        if self.state().images.contains_key(id) {
            self.give(Naming::new(id, [reference.to_owned()]), changing).await?;
        }
        Ok(())
    }

    fn descriptor_of(&self, digest: &str, media_type: &str) -> Result<Descriptor, Error> {
        let path = self.blob_path(digest);
        let size = std::fs::metadata(&path).map_err(Error::io("read the size of", &path))?.len();
        Ok(Descriptor { media_type: media_type.into(), digest: digest.into(), size, ..Descriptor::default() })
    }

    /// A layer as it goes out: the blob it came as, or, where that is not compressed as registries have it, one made of it.
    fn outgoing(&self, stored: &StoredImage, at: usize, blob: &str, host: &str) -> Result<Outgoing, Error> {
        let of = |list: &[String]| list.get(at).cloned().unwrap_or_default();
        let (diff_id, chain) = (of(&stored.image.layers), of(&stored.image.chain_ids));
        let path = self.blob_path(blob);
        let kind = match File::open(&path) {
            Ok(file) => kind_of(&file).map_err(Error::io("read", &path))?,
            // It has a recipe instead.
            Err(e) if e.kind() == ErrorKind::NotFound && self.recipe_path(&chain).exists() => {
                Compression::Plain
            }
            Err(e) => return Err(Error::io("open", &path)(e)),
        };
        let elsewhere = self.elsewhere(blob, host);
        match kind {
            Compression::Gzip | Compression::Zstd => {
                let zstd = kind == Compression::Zstd;
                let media_type = if zstd { media::OCI_LAYER_ZSTD } else { media::DOCKER_LAYER };
                let descriptor = self.descriptor_of(blob, media_type)?;
                Ok(Outgoing { diff_id, descriptor, path, packed: None, elsewhere })
            }
            // No manifest has a name for the others.
            Compression::Plain | Compression::Bzip2 | Compression::Xz => {
                let Packed { digest, size } = self.packed(blob, &chain)?;
                let (path, media_type) = (self.blob_path(&digest), media::DOCKER_LAYER.into());
                let descriptor = Descriptor { media_type, digest, size, ..Descriptor::default() };
                Ok(Outgoing { diff_id, descriptor, path, packed: Some(chain), elsewhere })
            }
        }
    }

    /// Repositories of a registry that an image with this blob was pulled from or pushed to.
    fn elsewhere(&self, blob: &str, host: &str) -> Vec<String> {
        let state = self.state();
        let with_blob = |id: &String| state.images.get(id).is_some_and(|i| i.blobs.iter().any(|b| b == blob));
        let known = state.references.iter().filter(|(r, id)| r.contains('@') && with_blob(id));
        let mut all: Vec<String> = known
            .filter_map(|(r, _)| Reference::parse(r).ok().map(|r| r.repository()))
            .filter(|r| r.registry == host)
            .map(|r| r.path)
            .collect();
        all.dedup();
        all.truncate(3);
        all
    }

    /// The manifest it was pulled by if that says what goes out, else one made anew.
    fn manifest_of(
        &self,
        stored: &StoredImage,
        config: &Descriptor,
        layers: &[Outgoing],
    ) -> Result<(String, Vec<u8>), Error> {
        if let Some(digest) = &stored.manifest {
            let path = self.blob_path(digest);
            let bytes = std::fs::read(&path).map_err(Error::io("read", &path))?;
            let kept = skep_registry::Fetched::read(bytes, "", digest.clone())?;
            if let skep_registry::Document::Manifest { layers: named, .. } = &kept.document
                && named.iter().map(|d| &d.digest).eq(layers.iter().map(|l| &l.descriptor.digest))
            {
                return Ok((kept.media_type, kept.bytes));
            }
        }
        let zstd = layers.iter().any(|l| l.descriptor.media_type == media::OCI_LAYER_ZSTD);
        let (kind, config_kind, gzip_kind) = if zstd {
            (media::OCI_MANIFEST, media::OCI_CONFIG, media::OCI_LAYER_GZIP)
        } else {
            (media::DOCKER_MANIFEST, media::DOCKER_CONFIG, media::DOCKER_LAYER)
        };
        let typed =
            |d: &Descriptor, kind: &str| json!({ "mediaType": kind, "size": d.size, "digest": d.digest });
        let layers: Vec<_> = layers
            .iter()
            .map(|l| match l.descriptor.media_type.as_str() {
                media::OCI_LAYER_ZSTD => typed(&l.descriptor, media::OCI_LAYER_ZSTD),
                _ => typed(&l.descriptor, gzip_kind),
            })
            .collect();
        let manifest = json!({
            "schemaVersion": 2,
            "mediaType": kind,
            "config": typed(config, config_kind),
            "layers": layers,
        });
        let bytes = serde_json::to_vec_pretty(&manifest)
            .map_err(|e| Error::Transfer(format!("cannot encode the manifest: {e}")))?;
        Ok((kind.to_owned(), bytes))
    }
}

/// Who is asked for a blob already, before it is sent.
pub(super) async fn mounted(
    session: &Session,
    layer: &Outgoing,
) -> Result<Result<String, skep_registry::Upload>, skep_registry::Error> {
    for from in layer.elsewhere.iter().filter(|f| **f != session.repository().path) {
        match session.begin_upload(Some((&layer.descriptor.digest, from))).await {
            Ok(Mounted::Done) => return Ok(Ok(from.clone())),
            Ok(Mounted::Send(upload)) => return Ok(Err(upload)),
            // It may not be read by this user: it is sent as any other.
            Err(e) if e.is_denied() || e.is_absent() => {}
            Err(e) => return Err(e),
        }
    }
    match session.begin_upload(None).await? {
        Mounted::Send(upload) => Ok(Err(upload)),
        Mounted::Done => {
            Err(skep_registry::Error::Invalid("the registry has what it was not told of".into()))
        }
    }
}
