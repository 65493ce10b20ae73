//! Layers' archives compressed, as they go to registries where no image brought them compressed: made when one is first
//! pushed, and kept with the layer. The next push has nothing to compress, and a registry on this host finds the blob
//! among the others, by its digest.

use std::fs::{self, File};
use std::io;

use sha2::{Digest, Sha256};

use super::archive::Scratch;
use super::catalogue::Packed;
use super::compression::{decoder, to_gzip};
use super::recipe::put_together;
use super::store::{Images, hex_of};
use crate::data_root::{remove_tree, sync_dir};
use crate::error::Error;
use crate::metadata::{Change, Kind};

/// What is read, hashed on the way.
struct Hashed<R> {
    from: R,
    hash: Sha256,
}

impl<R: io::Read> io::Read for Hashed<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let n = self.from.read(buffer)?;
        self.hash.update(&buffer[..n]);
        Ok(n)
    }
}

impl Images {
    /// A layer's archive, compressed with gzip, of the blob that some image has of it. The caller has pinned the layer.
    /// Blocks, and for long where it is large.
    pub(super) fn packed(&self, blob: &str, chain: &str) -> Result<Packed, Error> {
        let layer = self.state().layers.get(chain).map(|l| (l.packed.clone(), l.diff_id.clone()));
        let (known, diff_id) = layer.map_or((None, None), |(packed, diff_id)| (packed, Some(diff_id)));
        if let Some(packed) = known.filter(|p| self.blob_path(&p.digest).exists()) {
            return Ok(packed);
        }
        let scratch = Scratch::new(&self.temporary(), "packed")?;
        let made = scratch.0.join("layer");
        let path = self.blob_path(blob);
        let (digest, size) = to_gzip(&made, |out| {
            if !path.exists() && self.recipe_path(chain).exists() {
                return put_together(&self.recipe_path(chain), &self.layer_path(chain), blob, out);
            }
            let file = File::open(&path).map_err(Error::io("open", &path))?;
            let plain = decoder(file).map_err(Error::io("read", &path))?.1;
            let mut plain = Hashed { from: plain, hash: Sha256::new() };
            io::copy(&mut plain, out).map_err(Error::io("compress", &path))?;
            // Its own digest would be right whatever went in.
            let found = format!("sha256:{}", hex::encode(plain.hash.finalize()));
            match diff_id.as_ref().is_none_or(|wanted| *wanted == found) {
                true => Ok(()),
                false => Err(Error::Damaged { digest: blob.to_owned() }),
            }
        })?;
        let packed = Packed { digest, size };
        // No collection may come between the file and the record that keeps it.
        let _changing = self.changing().blocking_lock();
        let to = self.blob_path(&packed.digest);
        if !to.exists() {
            fs::rename(&made, &to).map_err(Error::io("move into the store", &to))?;
            sync_dir(&self.root().blobs())?;
        }
        self.remember_packed(chain, Some(packed.clone()))?;
        Ok(packed)
    }

    /// Lets go of a layer's compressed archive if it is not what its digest says, so that it is made anew; whether that
    /// was so. Blocks.
    pub(super) fn drop_damaged(&self, chain: &str) -> Result<bool, Error> {
        let Some(packed) = self.state().layers.get(chain).and_then(|l| l.packed.clone()) else {
            return Ok(false);
        };
        let path = self.blob_path(&packed.digest);
        let mut hash = Sha256::new();
        let mut file = File::open(&path).map_err(Error::io("open", &path))?;
        io::copy(&mut file, &mut hash).map_err(Error::io("read", &path))?;
        if hex::encode(hash.finalize()) == hex_of(&packed.digest) {
            return Ok(false);
        }
        let _changing = self.changing().blocking_lock();
        remove_tree(&path)?;
        self.remember_packed(chain, None)?;
        Ok(true)
    }

    /// On disk soon: a crash before leaves a blob that the next start sweeps, to be made again.
    fn remember_packed(&self, chain: &str, packed: Option<Packed>) -> Result<(), Error> {
        let mut state = self.state();
        if let Some(layer) = state.layers.get_mut(chain) {
            layer.packed = packed;
            self.metadata().later(Change::put(Kind::Layer, chain, &*layer)?);
        }
        Ok(())
    }
}
