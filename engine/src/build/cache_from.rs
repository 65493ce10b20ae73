//! `--cache-from`: images whose builds, here or elsewhere, this one takes steps from. They carry what their steps are known
//! by ([`InlineStep`]); what is not here is pulled, once a step is not among what this host keeps. Nothing of it is needed:
//! what cannot be used is told, and the build goes on.

use std::collections::HashMap;

use futures::future::join_all;
use tokio::sync::OnceCell;

use super::shared::Shared;
use crate::error::{Error, blocking};
use crate::image::{Finished, Held, Image, InlineStep, Reference, is_rfc3339};

/// The images that a build names.
#[derive(Default)]
pub(super) struct CacheFrom {
    /// Those of use, in the order they were named in; looked at when the first is asked for something.
    opened: OnceCell<Vec<Source>>,
}

/// One of them.
struct Source {
    /// As the build has it.
    name: String,
    image: Image,
    steps: Vec<InlineStep>,
    /// Where in `steps`, by the key.
    by_key: HashMap<String, usize>,
    _held: Held,
}

/// What a step of one of them gave.
pub(super) struct Taken {
    /// The image of the layers up to it; none = it changed nothing.
    pub(super) image: Option<Held>,
    /// When it was made (RFC 3339).
    pub(super) created: String,
}

impl CacheFrom {
    /// What a step gave that is known by `key`, upon layers with the chain ID `below`. That the layers below are these is
    /// checked; that the step gave the one above is what the image says.
    pub(super) async fn find(&self, shared: &Shared, key: &str, below: &str) -> Option<Taken> {
        let sources = self.opened.get_or_init(|| open(shared)).await;
        for source in sources {
            let Some(step) = source.by_key.get(key).map(|at| &source.steps[*at]) else { continue };
            let Some(changed) = changed(&source.image.chain_ids, step.layers, below) else { continue };
            let image = match changed {
                false => None,
                true => {
                    let (images, id) = (shared.engine.images().clone(), source.image.id.clone());
                    let layers = step.layers;
                    match blocking(move || images.bare_blocking(&id, layers)).await {
                        Ok(held) => Some(held),
                        Err(e) => {
                            useless(shared, &source.name, &e).await;
                            continue;
                        }
                    }
                }
            };
            let said = source.image.history.get(step.history).map(|h| &h.created);
            // What is no time would be in the image that is made.
            let created = said.filter(|c| is_rfc3339(c)).unwrap_or(&shared.now).clone();
            return Some(Taken { image, created });
        }
        None
    }

    /// The image among those looked at that is what would be made of the layers of `base` now, but for the times that it
    /// tells of; its ID.
    pub(super) async fn result(
        &self,
        shared: &Shared,
        base: Option<&String>,
        done: &Finished,
    ) -> Option<String> {
        let images = shared.engine.images();
        for source in self.opened.get().into_iter().flatten().filter(|s| s.steps == done.inline_cache) {
            let (images, base, done) = (images.clone(), base.cloned(), done.clone());
            let id = source.image.id.clone();
            let same =
                blocking(move || Ok(images.is_finished_blocking(&id, base.as_deref(), done)?.then_some(id)));
            match same.await {
                Ok(None) => {}
                Ok(Some(id)) => return Some(id),
                Err(e) => useless(shared, &source.name, &e).await,
            }
        }
        None
    }
}

/// Whether a step has added the topmost of an image's lowest `layers` to what has the chain ID `below` (true), or nothing
/// (false); none = what is below it there is something else.
fn changed(chain_ids: &[String], layers: usize, below: &str) -> Option<bool> {
    // Of no layers, as a stage has it.
    let chain = |count: usize| match count.checked_sub(1) {
        None => Some(""),
        Some(top) => chain_ids.get(top).map(String::as_str),
    };
    if chain(layers)? == below {
        return Some(false);
    }
    (chain(layers.checked_sub(1)?)? == below).then_some(true)
}

async fn open(shared: &Shared) -> Vec<Source> {
    let opened = join_all(shared.request.cache_from.iter().map(|name| async move {
        let source = source(shared, name).await;
        match source {
            Ok(source) => Some(source),
            Err(e) => {
                useless(shared, name, &e).await;
                None
            }
        }
    }));
    opened.await.into_iter().flatten().collect()
}

async fn useless(shared: &Shared, name: &str, why: &Error) {
    // A stage that waits for its turn to speak would keep those before it waiting for this.
    let told = format!("[Warning] cache-from {name} is of no use, and the build goes on without it: {why}");
    shared.aside.line(told).await;
}

async fn source(shared: &Shared, name: &str) -> Result<Source, Error> {
    let images = shared.engine.images();
    let here = images.resolve(name).ok();
    let other = here.as_ref().filter(|i| !shared.builds_for(i) && !shared.request.pull);
    if let Some(Image { os, architecture, .. }) = other {
        // Its name would become that of the one that is pulled.
        return Err(Error::Invalid(format!(
            "the image that is here is of {os}/{architecture}; --pull asks for one of the platform that is built for"
        )));
    }
    let image = match (shared.base(name, None, &shared.aside).await, &here) {
        (Ok(image), _) => image,
        (Err(e), Some(image)) if shared.builds_for(image) => {
            let told = format!("[Warning] cache-from {name} is taken as it is here: {e}");
            shared.aside.line(told).await;
            image.clone()
        }
        (Err(e), _) => return Err(e),
    };
    let held = images.keep(&image.id)?;
    // Who names a cache gives away no name.
    if let (Some(before), Ok(reference)) = (&here, Reference::parse(name).map(Reference::or_latest))
        && before.id != image.id
        && before.references.contains(&reference.to_string())
    {
        images.also_called(&before.id, &reference).await?;
    }
    let (store, of) = (images.clone(), image.clone());
    let steps = blocking(move || store.inline_cache_blocking(&of)).await?;
    if steps.is_empty() {
        return Err(Error::Invalid(
            "the image says nothing of the steps it was made by; another builder made it, or it is squashed, \
             or no step of it makes a layer"
                .into(),
        ));
    }
    let mut by_key = HashMap::new();
    for (at, step) in steps.iter().enumerate() {
        by_key.entry(step.key.clone()).or_insert(at);
    }
    Ok(Source { name: name.to_owned(), image, steps, by_key, _held: held })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_step_is_taken_upon_the_layers_it_was_made_on_only() {
        let chain_ids = ["a", "b", "c"].map(str::to_owned);
        for (layers, below, wanted) in [
            (0, "", Some(false)),
            (0, "a", None),
            (1, "", Some(true)),
            (1, "a", Some(false)),
            (3, "b", Some(true)),
            (3, "c", Some(false)),
            (3, "a", None),
            (3, "", None),
            (4, "c", None),
            (usize::MAX, "c", None),
        ] {
            assert_eq!(changed(&chain_ids, layers, below), wanted, "{layers} on {below:?}");
        }
        assert_eq!(changed(&[], 0, ""), Some(false));
        assert_eq!(changed(&[], 1, ""), None);
    }
}
