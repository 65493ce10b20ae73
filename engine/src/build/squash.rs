//! `--squash`: all that a stage adds to what it begins with as one layer.

use std::collections::BTreeSet;
use std::io::{self, BufWriter, Write};
use std::path::{Path, PathBuf};

use nix::fcntl::OFlag;
use nix::sys::stat::SFlag;

use super::layer;
use super::shared::Shared;
use super::stage::Stage;
use crate::container::pack::{Hidden, Pack, Told, hidden};
use crate::error::{Error, blocking};
use crate::image::History;
use crate::runtime::resolve::Root;

/// What a stage began with.
#[derive(Clone, Debug, Default)]
pub(super) struct Beginning {
    /// The image that was named; none = nothing, or another stage.
    pub(super) id: Option<String>,
    /// The image of its layers; none = there are none.
    pub(super) image: Option<String>,
    /// Lines of history.
    history: usize,
}

impl Beginning {
    /// What a stage has at its beginning.
    pub(super) fn of(stage: &Stage) -> Self {
        Self {
            id: stage.base.id.clone().or_else(|| stage.image.clone()),
            image: stage.image.clone(),
            history: stage.history.len(),
        }
    }
}

/// The stage with all it added in one layer; its history is told as Docker tells it.
pub(super) async fn squashed(shared: &Shared, stage: &Stage) -> Result<Stage, Error> {
    let mut new = stage.clone();
    let begun = &stage.base;
    let lowers = shared.lowers(stage)?;
    let below = match &begun.image {
        None => Vec::new(),
        Some(_) => shared.lowers(&Stage { image: begun.image.clone(), ..Stage::default() })?,
    };
    let added = lowers[..lowers.len().saturating_sub(below.len())].to_vec();
    if added.len() > 1 {
        let (union, all, base) = (
            shared.context.scratch().await?,
            shared.context.scratch().await?,
            shared.context.scratch().await?,
        );
        let (images, image, latest) = (shared.engine.images().clone(), begun.image.clone(), shared.latest);
        let made = blocking(move || {
            let union = layer::files(added.clone(), &union)?;
            let all = layer::files(lowers, &all)?;
            let base = if below.is_empty() { None } else { Some(layer::files(below, &base)?) };
            let (all, base) = (all.root(), base.as_ref().map(|b| b.root()));
            images.add_layer_blocking(image.as_deref(), |file| {
                let gone = base.map(|base| gone(&added, all, base)).transpose()?.unwrap_or_default();
                let mut out = BufWriter::new(file);
                let mut pack = Pack::files(&mut out, None).told(Told { latest, ..Told::default() });
                pack.children(&union.root().open(Path::new("/"), OFlag::O_RDONLY, 0)?, None)?;
                for what in &gone {
                    pack.hide(what)?;
                }
                pack.finish()?;
                out.flush()
            })
        })
        .await?;
        new.image = made.as_ref().map(|held| held.image().to_owned()).or_else(|| begun.image.clone());
        if let Some(held) = made {
            shared.hold(held);
        } else {
            new.history.iter_mut().skip(begun.history).for_each(|h| h.empty_layer = true);
            return Ok(new);
        }
    }
    new.history.iter_mut().skip(begun.history).for_each(|h| h.empty_layer = true);
    if !added_any(stage) {
        return Ok(new);
    }
    let id = stage.image.clone().unwrap_or_default();
    let comment = match &begun.id {
        Some(parent) => format!("merge {id} to {parent}"),
        None => format!("create new from {id}"),
    };
    new.history.push(History { created: shared.now.clone(), comment, ..History::default() });
    Ok(new)
}

/// Whether a stage has layers of its own.
fn added_any(stage: &Stage) -> bool {
    stage.history.iter().skip(stage.base.history).any(|h| !h.empty_layer)
}

/// What the added layers hide of the base, and nothing of theirs shows again.
fn gone(added: &[PathBuf], all: &Root, base: &Root) -> io::Result<BTreeSet<Hidden>> {
    let mut found = BTreeSet::new();
    for layer in added {
        hidden(&std::fs::File::open(layer)?.into(), &mut found)?;
    }
    let kind = |root: &Root, path: &Path| {
        let opened = root.open(path, OFlag::O_PATH | OFlag::O_NOFOLLOW, 0).ok()?;
        let mode = nix::sys::stat::fstat(&opened).ok()?.st_mode;
        Some(SFlag::from_bits_truncate(mode) & SFlag::S_IFMT)
    };
    let mut out = BTreeSet::new();
    for what in found {
        let path = Path::new("/").join(what.path());
        let in_base = kind(base, &path);
        match kind(all, &path) {
            _ if in_base.is_none() => {}
            // It came again, without what was in it.
            Some(SFlag::S_IFDIR) if in_base == Some(SFlag::S_IFDIR) => drop(out.insert(what.as_content())),
            Some(_) => {}
            None => {
                // Where the directory above is gone, that says it.
                if path.parent().is_some_and(|p| kind(all, p) == Some(SFlag::S_IFDIR)) {
                    out.insert(what);
                }
            }
        }
    }
    Ok(out)
}
