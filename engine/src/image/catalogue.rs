//! What the store knows in memory: images, references, layers, who holds them, and how a name finds its image.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::config::Image;
use super::reference::{Reference, is_hex};
use super::unsynced::Unsynced;
use crate::error::Error;

/// An image and the blobs it is made of.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct StoredImage {
    pub(super) image: Image,
    /// The blob of each layer, bottom first.
    pub(super) blobs: Vec<String>,
    /// The manifest it was pulled by, which is a blob too.
    #[serde(default)]
    pub(super) manifest: Option<String>,
    /// The indexes that led to that, outermost first, which are blobs too.
    #[serde(default)]
    pub(super) indexes: Vec<String>,
    /// A build made it on its way, and keeps it for the next.
    #[serde(default)]
    pub(super) intermediate: bool,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct StoredLayer {
    pub(super) diff_id: String,
    pub(super) size: u64,
    /// Bytes of its archive, where that is put together again when it is asked for (`recipe`).
    #[serde(default)]
    pub(super) archive: Option<u64>,
    /// Its archive as it went out to a registry, where no image has it compressed by itself (`packed`).
    #[serde(default)]
    pub(super) packed: Option<Packed>,
}

/// A layer's archive, compressed, which is a blob too.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Packed {
    pub(super) digest: String,
    pub(super) size: u64,
}

/// What a container keeps from being removed.
#[derive(Clone, Debug)]
pub(crate) struct Holder {
    pub(crate) image_id: String,
    pub(crate) chain_ids: Vec<String>,
    /// Images that are mounted in it: IDs, and their layers.
    pub(crate) mounted: Vec<(String, Vec<String>)>,
    pub(crate) running: bool,
}

impl Holder {
    /// Whether it is made of an image, or has it mounted.
    pub(super) fn has(&self, image: &str) -> bool {
        self.image_id == image || self.mounted.iter().any(|(id, _)| id == image)
    }
}

/// What a pull or a push under way keeps from being removed.
#[derive(Clone, Debug, Default)]
pub(super) struct Pinned {
    pub(super) chain_ids: Vec<String>,
    pub(super) blobs: Vec<String>,
}

#[derive(Debug, Default)]
pub(super) struct State {
    pub(super) images: BTreeMap<String, Arc<StoredImage>>,
    /// Familiar reference (with tag or digest) to image ID.
    pub(super) references: BTreeMap<String, String>,
    /// When an image last got a tag: nanoseconds since the Unix epoch.
    pub(super) tagged: HashMap<String, i64>,
    /// By chain ID.
    pub(super) layers: HashMap<String, StoredLayer>,
    /// By container ID.
    pub(super) holders: HashMap<String, Holder>,
    pub(super) pins: HashMap<u64, Pinned>,
    /// What is in no metadata yet.
    pub(super) unsynced: Unsynced,
}

impl State {
    /// Layers and blobs that an image or a container still needs.
    pub(super) fn needed(&self) -> (BTreeSet<&str>, BTreeSet<&str>) {
        let images = self.images.values();
        let chains = images
            .clone()
            .flat_map(|i| &i.image.chain_ids)
            .chain(self.holders.values().flat_map(|h| &h.chain_ids))
            .chain(self.holders.values().flat_map(|h| h.mounted.iter().flat_map(|(_, chains)| chains)))
            .chain(self.pins.values().flat_map(|p| &p.chain_ids));
        let packed = images
            .clone()
            .flat_map(|i| &i.image.chain_ids)
            .chain(self.pins.values().flat_map(|p| &p.chain_ids))
            .filter_map(|chain| Some(&self.layers.get(chain)?.packed.as_ref()?.digest));
        let blobs = images
            .flat_map(|i| i.blobs.iter().chain([&i.image.id]).chain(&i.manifest).chain(&i.indexes))
            .chain(self.pins.values().flat_map(|p| &p.blobs))
            .chain(packed);
        (chains.map(String::as_str).collect(), blobs.map(String::as_str).collect())
    }

    /// The blob that a layer was unpacked from, where an image still keeps it.
    pub(super) fn blob_of(&self, chain: &str) -> Option<String> {
        self.layers.get(chain)?;
        self.images.values().find_map(|i| {
            let at = i.image.chain_ids.iter().position(|c| c == chain)?;
            i.blobs.get(at).cloned()
        })
    }

    /// The image with the references it has now.
    pub(super) fn shown(&self, stored: &StoredImage) -> Image {
        let mut image = stored.image.clone();
        image.last_tagged_ns = self.tagged.get(&image.id).copied().unwrap_or(0);
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
