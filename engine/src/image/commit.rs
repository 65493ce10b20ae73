//! One more layer on an image, as `commit` makes it.

use std::fs::File;
use std::io;

use super::archive::Scratch;
use super::built::{found, written};
use super::config::{History, ImageConfig, rfc3339};
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

impl Images {
    /// Makes the image of the layer that `write` writes as a tar; a layer that is empty is none. The new ID.
    pub(crate) fn commit_blocking(
        &self,
        new: NewLayer,
        write: impl FnOnce(&mut File) -> io::Result<()>,
    ) -> Result<String, Error> {
        let scratch = Scratch::new(&self.temporary(), "commit")?;
        let layer = written(&scratch, write)?;
        let created = rfc3339(time::OffsetDateTime::now_utc())?;
        let _changing = self.changing().blocking_lock();
        let (mut blob, mut layers) = self.below(Some(&new.base))?;
        blob.history.push(History {
            created: created.clone(),
            created_by: new.created_by,
            author: new.author.clone(),
            comment: new.comment.clone(),
            empty_layer: layer.is_none(),
        });
        if let Some(layer) = layer {
            blob.rootfs.diff_ids.push(layer.staged.digest.clone());
            layers.push(layer);
        }
        (blob.created, blob.author, blob.comment, blob.config) =
            (created, new.author, new.comment, new.config);
        let found = found(blob, layers, new.reference.into_iter().collect())?;
        let prepared = self.prepare(found, &scratch)?;
        self.publish(std::slice::from_ref(&prepared))?;
        Ok(prepared.id().to_owned())
    }
}
