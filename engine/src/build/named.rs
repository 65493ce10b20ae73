//! `--build-context`: what a build takes from beside its own context, by names. A name comes before stages and images that
//! are called so. <https://docs.docker.com/build/building/context/#named-contexts>

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use super::context::Context;
use super::fetch;
use super::git::Repository;
use crate::engine::Engine;
use crate::error::Error;

/// Begins the reference of an image.
const IMAGE: &str = "docker-image://";
/// Begins the path, in the context as it is sent, of what is a context of its own.
const SENT: &str = "sent:";

/// One of them.
pub(super) enum Named {
    /// An image, by its reference.
    Image(String),
    Files(Arc<Context>),
}

/// What was asked for by a name; images are called `NAME` and `NAME:latest`.
pub(super) fn of<'a, T>(contexts: &'a BTreeMap<String, T>, name: &str) -> Option<&'a T> {
    let lower = name.to_ascii_lowercase();
    contexts.get(&lower).or_else(|| contexts.get(lower.strip_suffix(":latest")?))
}

/// The image that one is, if it is one.
pub(super) fn image(value: &str) -> Option<&str> {
    value.strip_prefix(IMAGE)
}

/// Whether it comes with the context.
pub(super) fn is_sent(value: &str) -> bool {
    value.starts_with(SENT)
}

/// Gets those that are asked for; what was sent along is not in the context afterwards.
pub(super) async fn gather(
    engine: &Engine,
    asked: &BTreeMap<String, String>,
    context: &mut Context,
) -> Result<BTreeMap<String, Named>, Error> {
    let mut all = BTreeMap::new();
    for (name, value) in asked {
        let named = if let Some(reference) = image(value) {
            Named::Image(reference.to_owned())
        } else if let Some(path) = value.strip_prefix(SENT) {
            Named::Files(Arc::new(context.detach(&Path::new("/").join(path)).await?))
        } else if Repository::named(value).is_some() || fetch::is_url(value) {
            let file = value.rsplit('/').next().unwrap_or_default();
            Named::Files(Arc::new(Context::fetch(engine, value, file, false).await?))
        } else {
            return Err(Error::Invalid(format!(
                "the context {name} of a build cannot be {value:?}: want a directory, {IMAGE}REFERENCE, a URL or a repository"
            )));
        };
        all.insert(name.to_ascii_lowercase(), named);
    }
    Ok(all)
}
