//! One more layer on an image, as `commit` makes it.

use std::fs::File;
use std::io;

use super::archive::{Found, Member, Scratch};
use super::config::{ConfigBlob, History, ImageConfig};
use super::layer::{Staged, stage};
use super::reference::Reference;
use super::store::Images;
use crate::error::Error;

/// An image to be made of another.
#[derive(Clone, Debug)]
pub(crate) struct NewLayer {
    /// ID of the image below.
    pub(crate) base: String,
    /// The configuration of the new one.
    pub(crate) config: ImageConfig,
    /// Author.
    pub(crate) author: String,
    /// Message.
    pub(crate) comment: String,
    /// What made the layer.
    pub(crate) created_by: String,
    /// Its name.
    pub(crate) reference: Option<Reference>,
}

/// Bytes of a tar that holds nothing but its end mark.
const NOTHING: u64 = 1024;

impl Images {
    /// Makes the image of the layer that `write` writes as a tar; a layer that is empty is none. The new ID.
    pub(crate) fn commit_blocking(
        &self,
        new: NewLayer,
        write: impl FnOnce(&mut File) -> io::Result<()>,
    ) -> Result<String, Error> {
        let scratch = Scratch::new(&self.temporary(), "commit")?;
        let path = scratch.0.join("layer");
        let mut file = File::create_new(&path).map_err(Error::io("create", &path))?;
        write(&mut file).map_err(Error::io("write the layer to", &path))?;
        let mut written = File::open(&path).map_err(Error::io("open", &path))?;
        let staged = stage(&mut written, None)?;
        let created = time::OffsetDateTime::now_utc()
            .format(&time::format_description::well_known::Rfc3339)
            .map_err(|e| Error::Invalid(format!("the clock of this host cannot be written down: {e}")))?;
        let _changing = self.changing().blocking_lock();
        let base = self.state().images.get(&new.base).cloned();
        let base = base.ok_or(Error::NoSuchImage { reference: new.base.clone() })?;
        let blob = self.blob_path(&new.base);
        let bytes = std::fs::read(&blob).map_err(Error::io("read", &blob))?;
        let mut blob = ConfigBlob::parse(&bytes, &new.base)?;
        let mut layers = Vec::new();
        for digest in &base.blobs {
            let path = self.blob_path(digest);
            let size = std::fs::metadata(&path).map_err(Error::io("read the size of", &path))?.len();
            layers.push(Member { staged: Staged { digest: digest.clone(), size }, path });
        }
        let empty = staged.size <= NOTHING;
        if !empty {
            blob.rootfs.diff_ids.push(staged.digest.clone());
            layers.push(Member { staged, path });
        }
        blob.history.push(History {
            created: created.clone(),
            created_by: new.created_by,
            author: new.author.clone(),
            comment: new.comment.clone(),
            empty_layer: empty,
        });
        (blob.created, blob.author, blob.comment, blob.config) =
            (created, new.author, new.comment, new.config);
        let config_bytes = serde_json::to_vec(&blob)
            .map_err(|e| Error::Invalid(format!("cannot encode the configuration: {e}")))?;
        let references = new.reference.into_iter().collect();
        let prepared = self.prepare(Found { config: blob, config_bytes, layers, references }, &scratch)?;
        self.publish(std::slice::from_ref(&prepared))?;
        Ok(prepared.id().to_owned())
    }
}
