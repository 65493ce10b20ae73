//! `--build-context`: what a build takes from beside its own context, by names. A name comes before stages and images that
//! are called so. <https://docs.docker.com/build/building/context/#named-contexts>

use std::collections::BTreeMap;
use std::io::{self, BufWriter, Write};
use std::path::Path;
use std::sync::Arc;

use skep_registry::Platform;

use super::context::Context;
use super::git::Repository;
use super::{BuildRequest, fetch};
use crate::container::pack::Pack;
use crate::engine::Engine;
use crate::error::{Error, blocking};
use crate::image::{Held, Images};

/// Begins the reference of an image.
const IMAGE: &str = "docker-image://";
/// Begins the path, in the context as it is sent, of what is a context of its own.
const SENT: &str = "sent:";
/// Begins the path, there too, of an OCI image layout with one image.
const LAYOUT: &str = "layout:";

/// One of them.
pub(super) enum Named {
    /// An image, by its reference.
    Image(String),
    /// An image of a layout, in no list.
    Layout(Held),
    Files(Arc<Context>),
}

/// What was asked for by a name; images are called `NAME` and `NAME:latest`.
pub(super) fn of<'a, T>(contexts: &'a BTreeMap<String, T>, name: &str) -> Option<&'a T> {
    let lower = name.to_ascii_lowercase();
    contexts.get(&lower).or_else(|| contexts.get(lower.strip_suffix(":latest")?))
}

/// Whether it comes with the context.
pub(super) fn is_sent(value: &str) -> bool {
    value.starts_with(SENT) || value.starts_with(LAYOUT)
}

/// Gets those that are asked for; what was sent along is not in the context afterwards.
pub(super) async fn gather(
    engine: &Engine,
    request: &BuildRequest,
    context: &mut Context,
) -> Result<BTreeMap<String, Named>, Error> {
    let mut all = BTreeMap::new();
    let platform = request.platform.as_ref();
    for (name, value) in &request.contexts {
        let named = if let Some(reference) = value.strip_prefix(IMAGE) {
            Named::Image(reference.to_owned())
        } else if let Some(path) = value.strip_prefix(SENT) {
            Named::Files(Arc::new(context.detach(&Path::new("/").join(path)).await?))
        } else if let Some(path) = value.strip_prefix(LAYOUT) {
            let files = context.detach(&Path::new("/").join(path)).await?;
            let (images, platform) = (engine.images().clone(), platform.cloned());
            let loaded = blocking(move || load(&images, &files, platform.as_ref())).await;
            Named::Layout(loaded.map_err(|e| Error::Invalid(format!("the context {name} of a build: {e}")))?)
        } else if Repository::named(value).is_some() || fetch::is_url(value) {
            Named::Files(Arc::new(Context::fetch_beside(engine, value, &request.secrets).await?))
        } else {
            return Err(Error::Invalid(format!(
                "the context {name} of a build cannot be {value:?}: want a directory, {IMAGE}REFERENCE, oci-layout://PATH, a URL or a repository"
            )));
        };
        all.insert(name.to_ascii_lowercase(), named);
    }
    Ok(all)
}

/// The image of a layout: one thread reads its files, this one takes them in.
fn load(images: &Images, layout: &Context, platform: Option<&Platform>) -> Result<Held, Error> {
    let (reader, writer) = io::pipe().map_err(Error::io("make a pipe for", "an image layout"))?;
    std::thread::scope(|scope| {
        let packing = scope.spawn(move || {
            let mut out = BufWriter::with_capacity(64 << 10, writer);
            let mut pack = Pack::files(&mut out, None);
            layout.files().pack_content(&mut pack, Path::new("/"))?;
            pack.finish()?;
            out.flush()
        });
        let loaded = images.load_hidden_blocking(reader, platform);
        let packed =
            packing.join().unwrap_or_else(|_| Err(io::Error::other("the reading thread has stopped")));
        // The reader's end explains a broken pipe of the other.
        let held = loaded?;
        packed.map_err(Error::io("read", "an image layout"))?;
        Ok(held)
    })
}
