//! Images as a build makes them: one layer upon another, kept for the next build, and in the end the image that was
//! asked for.

use std::collections::{BTreeSet, HashMap};
use std::fs::File;
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use skep_registry::Platform;

use super::archive::{Found, Member, Scratch};
use super::catalogue::State;
use super::config::{ConfigBlob, History, ImageConfig, RootfsBlob};
use super::inline_cache::InlineStep;
use super::layer::{Staged, chain_ids, digest_of, stage};
use super::pin::Held;
use super::recipe::{Announced, Recorder};
use super::reference::Reference;
use super::store::Images;
use crate::data_root::make_dir;
use crate::error::{Error, blocking};
use crate::metadata::{Change, Kind};

/// Bytes of a tar that holds nothing but its end mark.
const NOTHING: u64 = 1024;

/// An image that is done.
#[derive(Clone, Debug)]
pub(crate) struct Finished {
    /// Whatever that of the layers' first image was: layers are shared by what they hold.
    pub(crate) platform: Platform,
    pub(crate) config: ImageConfig,
    pub(crate) history: Vec<History>,
    pub(crate) author: String,
    /// RFC 3339.
    pub(crate) created: String,
    pub(crate) references: Vec<Reference>,
    /// The steps of the build, for others.
    pub(crate) inline_cache: Vec<InlineStep>,
}

impl Finished {
    /// The whole configuration, with the layers of another.
    fn upon(self, below: ConfigBlob) -> ConfigBlob {
        ConfigBlob {
            os: self.platform.os,
            architecture: self.platform.architecture,
            variant: self.platform.variant,
            created: self.created,
            author: self.author,
            comment: String::new(),
            config: self.config,
            history: self.history,
            inline_cache: self.inline_cache,
            ..below
        }
    }
}

impl Images {
    /// An image of the layers of `base` (an image ID; none = of none) and one more, which `write` writes as a tar. It is
    /// in no list, and is called after its layers alone. None = the layer would be empty.
    pub(crate) fn add_layer_blocking(
        &self,
        base: Option<&str>,
        write: impl FnOnce(&mut File) -> io::Result<()>,
    ) -> Result<Option<Held>, Error> {
        let scratch = Scratch::new(&self.temporary(), "layer")?;
        let Some(layer) = written(&scratch, write)? else { return Ok(None) };
        let _changing = self.changing().blocking_lock();
        let (below, mut layers) = self.below(base)?;
        let mut blob = bare(below);
        blob.rootfs.diff_ids.push(layer.staged.digest.clone());
        layers.push(layer);
        self.intermediate(blob, layers, &scratch, HashMap::new()).map(Some)
    }

    /// The same of a directory that becomes the layer's, on the same file system. `write` writes it as a tar to be hashed,
    /// and makes it what that unpacks to; it tells of each file beforehand.
    pub(crate) fn adopt_layer_blocking(
        &self,
        base: Option<&str>,
        upper: &Path,
        write: impl FnOnce(&Path, &mut dyn Write, &dyn Fn(&[u8], u64)) -> io::Result<()>,
    ) -> Result<Option<Held>, Error> {
        let scratch = Scratch::new(&self.temporary(), "layer")?;
        let dir = scratch.0.join("new");
        // As all layers' directories are: the way into them is shut further up.
        make_dir(&dir, 0o755)?;
        let (files, recipe) = (dir.join("diff"), dir.join("recipe"));
        std::fs::rename(upper, &files).map_err(Error::io("take over", upper))?;
        let announced = Announced::default();
        let mut recorder = Recorder::new(&recipe, &announced)?;
        let announce = |path: &[u8], bytes: u64| *announced.borrow_mut() = Some((path.to_vec(), bytes));
        write(&files, &mut recorder, &announce).map_err(Error::io("read the files of", upper))?;
        let made = recorder.finish().map_err(Error::io("write", &recipe))?;
        if made.staged.size <= NOTHING {
            return Ok(None);
        }
        let _changing = self.changing().blocking_lock();
        let (below, mut layers) = self.below(base)?;
        let mut blob = bare(below);
        blob.rootfs.diff_ids.push(made.staged.digest.clone());
        let chain = chain_ids(&blob.rootfs.diff_ids).pop().unwrap_or_default();
        let path = self.blob_path(&made.staged.digest);
        if self.state().layers.contains_key(&chain) && !path.exists() {
            // The same files are there, as another archive or after a crash that cut the recipe off.
            let there = self.recipe_path(&chain);
            std::fs::rename(&recipe, &there).map_err(Error::io("move into the store", &there))?;
            let mut state = self.state();
            if let Some(layer) = state.layers.get_mut(&chain) {
                layer.archive = Some(made.staged.size);
            }
            state.unsynced.layer(&chain);
        }
        layers.push(Member { staged: made.staged, path, recipe: true });
        let ready = HashMap::from([(chain, (dir, made.unpacked))]);
        self.intermediate(blob, layers, &scratch, ready).map(Some)
    }

    /// An image of an image's lowest `count` layers, or all that it has, and nothing else, which is in no list.
    pub(crate) fn bare_blocking(&self, of: &str, count: usize) -> Result<Held, Error> {
        let scratch = Scratch::new(&self.temporary(), "layers")?;
        let _changing = self.changing().blocking_lock();
        let (below, mut layers) = self.below(Some(of))?;
        let mut blob = bare(below);
        blob.rootfs.diff_ids.truncate(count);
        layers.truncate(count);
        self.intermediate(blob, layers, &scratch, HashMap::new())
    }

    /// Stores an image that is in no list. The caller holds `changing`, so it is held before anybody could prune it.
    fn intermediate(
        &self,
        blob: ConfigBlob,
        layers: Vec<Member>,
        scratch: &Scratch,
        ready: HashMap<String, (PathBuf, u64)>,
    ) -> Result<Held, Error> {
        let mut prepared = self.prepare_with(found(blob, layers, Vec::new())?, scratch, ready)?;
        prepared.stored.intermediate = true;
        self.publish(std::slice::from_ref(&prepared))?;
        self.keep(prepared.id())
    }

    /// The image of the layers of `base` (an image ID; none = of none) that was asked for; its ID.
    pub(crate) fn finish_blocking(&self, base: Option<&str>, done: Finished) -> Result<String, Error> {
        let scratch = Scratch::new(&self.temporary(), "image")?;
        let _changing = self.changing().blocking_lock();
        let (below, layers) = self.below(base)?;
        let references = done.references.clone();
        let prepared = self.prepare(found(done.upon(below), layers, references)?, &scratch)?;
        self.publish(std::slice::from_ref(&prepared))?;
        Ok(prepared.id().to_owned())
    }

    /// Whether an image is what [`Images::finish_blocking`] would make, but for the times that it tells of.
    pub(crate) fn is_finished_blocking(
        &self,
        id: &str,
        base: Option<&str>,
        mut done: Finished,
    ) -> Result<bool, Error> {
        let (there, _) = self.below(Some(id))?;
        if there.history.len() != done.history.len() {
            return Ok(false);
        }
        done.created = there.created;
        for (new, old) in done.history.iter_mut().zip(there.history) {
            new.created = old.created;
        }
        let (below, _) = self.below(base)?;
        Ok(digest_of(&encoded(&done.upon(below))?) == id)
    }

    /// Configuration and layers of an image.
    pub(super) fn below(&self, base: Option<&str>) -> Result<(ConfigBlob, Vec<Member>), Error> {
        let Some(id) = base else {
            let blob = ConfigBlob {
                architecture: Platform::host().architecture,
                os: "linux".into(),
                rootfs: RootfsBlob { kind: "layers".into(), diff_ids: Vec::new() },
                ..ConfigBlob::default()
            };
            return Ok((blob, Vec::new()));
        };
        let image = self.state().images.get(id).cloned();
        let image = image.ok_or(Error::NoSuchImage { reference: id.to_owned() })?;
        let path = self.blob_path(id);
        let bytes = std::fs::read(&path).map_err(Error::io("read", &path))?;
        let mut layers = Vec::new();
        for (digest, chain) in image.blobs.iter().zip(&image.image.chain_ids) {
            let (path, size) = (self.blob_path(digest), self.blob_size(digest, chain)?);
            layers.push(Member { staged: Staged { digest: digest.clone(), size }, path, recipe: false });
        }
        Ok((ConfigBlob::parse(&bytes, id)?, layers))
    }

    /// Removes what builds left that is not among `kept` and that nobody uses; the IDs, and the bytes of layers that
    /// went with them.
    pub(crate) async fn remove_intermediates(
        &self,
        kept: BTreeSet<String>,
    ) -> Result<(Vec<String>, u64), Error> {
        let _changing = self.changing().lock().await;
        let mut hidden = State::default();
        let (gone, before) = {
            let mut state = self.state();
            let used = |id: &str| {
                state.holders.values().any(|h| h.has(id)) || state.references.values().any(|r| r == id)
            };
            let gone: Vec<String> = state
                .images
                .iter()
                .filter(|(id, i)| i.intermediate && !kept.contains(*id) && !used(id))
                .map(|(id, _)| id.clone())
                .collect();
            hidden.images.extend(gone.iter().filter_map(|id| state.images.remove_entry(id)));
            hidden.tagged.extend(gone.iter().filter_map(|id| state.tagged.remove_entry(id)));
            (gone, state.layers.values().map(|l| l.size).sum::<u64>())
        };
        let changes =
            gone.iter().flat_map(|id| [Kind::Image, Kind::Tagged].map(|kind| Change::delete(kind, id)));
        self.commit_gone(hidden, changes.collect()).await?;
        self.collect().await?;
        let after = self.state().layers.values().map(|l| l.size).sum::<u64>();
        Ok((gone, before.saturating_sub(after)))
    }

    /// Names an image that is there anew.
    pub(crate) async fn name(&self, id: &str, references: &[Reference]) -> Result<(), Error> {
        for r in references {
            self.tag(id, &r.to_string()).await?;
        }
        Ok(())
    }

    /// The image of an ID, if it is there with all that it needs.
    pub(crate) fn has(&self, id: &str) -> bool {
        self.state().images.contains_key(id)
    }

    /// Chain ID and bytes of an image's topmost layer.
    pub(crate) fn topmost(&self, id: &str) -> Option<(String, u64)> {
        let state = self.state();
        let chain = state.images.get(id)?.image.chain_ids.last()?;
        Some((chain.clone(), state.layers.get(chain)?.size))
    }

    /// Does the blocking parts off the runtime.
    pub(crate) async fn finish(&self, base: Option<String>, done: Finished) -> Result<String, Error> {
        let images = self.clone();
        blocking(move || images.finish_blocking(base.as_deref(), done)).await
    }
}

/// What layers are for, and nothing else.
fn bare(of: ConfigBlob) -> ConfigBlob {
    ConfigBlob {
        architecture: of.architecture,
        variant: of.variant,
        os: of.os,
        rootfs: of.rootfs,
        ..ConfigBlob::default()
    }
}

/// A layer that `write` writes as a tar, set aside; none = it would be empty.
pub(super) fn written(
    scratch: &Scratch,
    write: impl FnOnce(&mut File) -> io::Result<()>,
) -> Result<Option<Member>, Error> {
    let path = scratch.0.join("layer");
    let mut file = File::create_new(&path).map_err(Error::io("create", &path))?;
    write(&mut file).map_err(Error::io("write the layer to", &path))?;
    let mut written = File::open(&path).map_err(Error::io("open", &path))?;
    let staged = stage(&mut written, None)?;
    Ok((staged.size > NOTHING).then_some(Member { staged, path, recipe: false }))
}

pub(super) fn found(
    config: ConfigBlob,
    layers: Vec<Member>,
    references: Vec<Reference>,
) -> Result<Found, Error> {
    let config_bytes = encoded(&config)?;
    Ok(Found { config, config_bytes, layers, references })
}

fn encoded(config: &ConfigBlob) -> Result<Vec<u8>, Error> {
    serde_json::to_vec(config).map_err(|e| Error::Invalid(format!("cannot encode the configuration: {e}")))
}
