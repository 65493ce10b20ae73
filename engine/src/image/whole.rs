//! Blobs that are asked for: those that are files as they are, and archives that are put together by their recipes.

use std::fs::File;
use std::io::{self, BufWriter};
use std::path::PathBuf;

use super::archive::Scratch;
use super::catalogue::StoredImage;
use super::recipe::put_together;
use super::store::Images;
use crate::data_root::sync_dir;
use crate::error::Error;

/// Bytes that are written at once.
const ROOM: usize = 256 << 10;

impl Images {
    /// Bytes of the blob of a layer.
    pub(super) fn blob_size(&self, digest: &str, chain: &str) -> Result<u64, Error> {
        let path = self.blob_path(digest);
        let size = std::fs::metadata(&path).map(|m| m.len());
        let known = || self.state().layers.get(chain).and_then(|l| l.archive);
        size.or_else(|e| known().ok_or(e)).map_err(Error::io("read the size of", &path))
    }

    /// Has all blobs of an image's layers as files. Blocks, and for long where there are large ones.
    pub(super) fn complete(&self, stored: &StoredImage) -> Result<(), Error> {
        for (digest, chain) in stored.blobs.iter().zip(&stored.image.chain_ids) {
            self.whole_blob(digest, chain)?;
        }
        Ok(())
    }

    /// The file of a blob that some image has. Blocks.
    pub(super) fn whole_blob_of(&self, digest: &str) -> Result<PathBuf, Error> {
        let path = self.blob_path(digest);
        if path.exists() {
            return Ok(path);
        }
        let chain = self.state().images.values().find_map(|i| {
            let at = i.blobs.iter().position(|b| b == digest)?;
            i.image.chain_ids.get(at).filter(|c| self.recipe_path(c).exists()).cloned()
        });
        match chain {
            Some(chain) => self.whole_blob(digest, &chain),
            None => Ok(path),
        }
    }

    /// The file of the blob of a layer.
    fn whole_blob(&self, digest: &str, chain: &str) -> Result<PathBuf, Error> {
        let path = self.blob_path(digest);
        if path.exists() {
            return Ok(path);
        }
        // One at a time: who waits finds it made.
        let _completing = self.completing();
        if path.exists() {
            return Ok(path);
        }
        let scratch = Scratch::new(&self.temporary(), "archive")?;
        let made = scratch.0.join("layer");
        let file = File::create_new(&made).map_err(Error::io("create", &made))?;
        let mut out = BufWriter::with_capacity(ROOM, file);
        put_together(&self.recipe_path(chain), &self.layer_path(chain), digest, &mut out)?;
        let file = out.into_inner().map_err(io::IntoInnerError::into_error);
        file.and_then(|f| f.sync_all()).map_err(Error::io("write", &made))?;
        std::fs::rename(&made, &path).map_err(Error::io("move into the store", &path))?;
        sync_dir(&self.root().blobs())?;
        Ok(path)
    }
}
