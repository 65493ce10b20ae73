//! Writes images out as one archive, as a stream: a docker-archive and an OCI layout over the same blobs, as Docker's.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io;

use serde_json::{Value, json};
use skep_registry::{digest_of, media};

use super::catalogue::StoredImage;
use super::compression::{Compression, kind_of};
use super::reference::Reference;
use super::store::Images;
use crate::error::Error;
use crate::outflow::{self, Outflow, SavedArchive};

impl Images {
    /// All the named images in one archive that `load` (and Docker's) reads. Blobs go out as they came in.
    pub async fn save(&self, references: &[String]) -> Result<SavedArchive, Error> {
        let mut wanted: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
        for asked in references {
            for (id, tag) in self.meant(asked)? {
                wanted.entry(id).or_default().extend(tag);
            }
        }
        if wanted.is_empty() {
            return Err(Error::Invalid("name at least one image to save".into()));
        }
        let images = self.clone();
        Ok(outflow::stream(move |out| images.write_archive(out, &wanted)))
    }

    /// The images that a reference or an ID means, with the tag each is to have. A bare name means all its tags, as with
    /// Docker; a digest and an ID give none.
    fn meant(&self, asked: &str) -> Result<Vec<(String, Option<String>)>, Error> {
        let parsed = Reference::parse(asked).ok().filter(|r| r.digest.is_none());
        if let Some(name) = parsed.as_ref().filter(|r| r.tag.is_none()).map(|r| &r.name) {
            let state = self.state();
            let of_name = |r: &str| Reference::parse(r).is_ok_and(|r| r.digest.is_none() && r.name == *name);
            let tags = state.references.iter().filter(|(r, _)| of_name(r));
            let found: Vec<_> = tags.map(|(r, id)| (id.clone(), Some(r.clone()))).collect();
            if !found.is_empty() {
                return Ok(found);
            }
        }
        let image = self.resolve(asked)?;
        let tag = parsed.map(|r| r.or_latest().to_string()).filter(|r| image.references.contains(r));
        Ok(vec![(image.id, tag)])
    }

    fn write_archive(
        &self,
        out: &mut Outflow,
        wanted: &BTreeMap<String, BTreeSet<String>>,
    ) -> io::Result<()> {
        // Nothing that is being written may be removed meanwhile.
        let _changing = self.changing().blocking_lock();
        let mut archive = tar::Builder::new(out);
        for dir in ["blobs/", "blobs/sha256/"] {
            let mut header = tar::Header::new_ustar();
            header.set_entry_type(tar::EntryType::Directory);
            header.set_mode(0o755);
            header.set_size(0);
            archive.append_data(&mut header, dir, io::empty())?;
        }
        let mut written = BTreeSet::new();
        let (mut manifests, mut index) = (Vec::new(), Vec::new());
        let mut repositories: BTreeMap<String, BTreeMap<String, &str>> = BTreeMap::new();
        let all: Vec<_> =
            wanted.iter().map(|(id, tags)| (self.state().images.get(id).cloned(), id, tags)).collect();
        for (stored, id, tags) in &all {
            let Some(stored) = stored else {
                return Err(io::Error::other(format!("image {id} was removed while it was being saved")));
            };
            self.complete(stored).map_err(io::Error::other)?;
            for digest in stored.blobs.iter().chain([*id]) {
                if written.insert(digest.clone()) {
                    let mut file = File::open(self.blob_path(digest))?;
                    let mut header = header(file.metadata()?.len());
                    archive.append_data(&mut header, member(digest), &mut file)?;
                }
            }
            let layers = stored.blobs.iter().map(|d| self.layer(d)).collect::<io::Result<Vec<_>>>()?;
            let manifest = serde_json::to_vec(&self.oci_manifest(stored, &layers)?)?;
            let digest = digest_of(&manifest);
            if written.insert(digest.clone()) {
                append(&mut archive, &member(&digest), &manifest)?;
            }
            let descriptor = json!({
                "mediaType": media::OCI_MANIFEST, "digest": digest, "size": manifest.len(), "platform": stored.image.platform(),
            });
            if tags.is_empty() {
                index.push(descriptor.clone());
            }
            for reference in tags.iter().filter_map(|t| Reference::parse(t).ok()) {
                let tag = reference.tag.clone().unwrap_or_default();
                let place = reference.repository();
                let mut named = descriptor.clone();
                named["annotations"] = json!({
                    "io.containerd.image.name": format!("{}/{}:{tag}", place.registry, place.path),
                    "org.opencontainers.image.ref.name": tag,
                });
                index.push(named);
                if let Some(top) = stored.blobs.last() {
                    repositories.entry(reference.name).or_default().insert(tag, hex_of(top));
                }
            }
            let sources =
                stored.image.layers.iter().zip(&layers).map(|(id, layer)| (id.clone(), layer.clone()));
            manifests.push(json!({
                "Config": member(id),
                "RepoTags": (!tags.is_empty()).then_some(tags),
                "Layers": stored.blobs.iter().map(|d| member(d)).collect::<Vec<_>>(),
                "LayerSources": sources.collect::<serde_json::Map<_, _>>(),
            }));
            self.emit("save", id, id);
        }
        let index = json!({ "schemaVersion": 2, "mediaType": media::OCI_INDEX, "manifests": index });
        append(&mut archive, "index.json", &serde_json::to_vec(&index)?)?;
        append(&mut archive, "manifest.json", &serde_json::to_vec(&manifests)?)?;
        append(&mut archive, "oci-layout", br#"{"imageLayoutVersion":"1.0.0"}"#)?;
        if !repositories.is_empty() {
            append(&mut archive, "repositories", &serde_json::to_vec(&repositories)?)?;
        }
        archive.finish()
    }

    /// The descriptor of a layer's blob, of the type that its first bytes say.
    fn layer(&self, digest: &str) -> io::Result<Value> {
        let file = File::open(self.blob_path(digest))?;
        let media_type = match kind_of(&file)? {
            Compression::Plain => media::OCI_LAYER,
            Compression::Gzip => media::OCI_LAYER_GZIP,
            Compression::Zstd => media::OCI_LAYER_ZSTD,
            // No specification has a name for these.
            Compression::Bzip2 => "application/vnd.oci.image.layer.v1.tar+bzip2",
            Compression::Xz => "application/vnd.oci.image.layer.v1.tar+xz",
        };
        Ok(json!({ "mediaType": media_type, "size": file.metadata()?.len(), "digest": digest }))
    }

    fn oci_manifest(&self, stored: &StoredImage, layers: &[Value]) -> io::Result<Value> {
        let id = &stored.image.id;
        Ok(json!({
            "schemaVersion": 2,
            "mediaType": media::OCI_MANIFEST,
            "config": {
                "mediaType": media::OCI_CONFIG, "digest": id,
                "size": std::fs::metadata(self.blob_path(id))?.len(), "platform": stored.image.platform(),
            },
            "layers": layers,
        }))
    }
}

fn hex_of(digest: &str) -> &str {
    digest.trim_start_matches("sha256:")
}

fn member(digest: &str) -> String {
    format!("blobs/sha256/{}", hex_of(digest))
}

fn header(size: u64) -> tar::Header {
    let mut header = tar::Header::new_ustar();
    header.set_size(size);
    header.set_mode(0o644);
    header
}

fn append(archive: &mut tar::Builder<&mut Outflow>, name: &str, bytes: &[u8]) -> io::Result<()> {
    archive.append_data(&mut header(bytes.len() as u64), name, bytes)
}
