//! Keeps layers and blobs from being collected while a pull or a push needs them, and images while a build does.

use std::sync::atomic::{AtomicU64, Ordering};

use super::catalogue::Pinned;
use super::store::Images;
use crate::error::Error;

/// Holds as long as it lives.
#[derive(Debug)]
pub(super) struct Pin {
    images: Images,
    key: u64,
}

impl Images {
    /// Layers by chain ID and blobs by digest, those included that only will be there.
    pub(super) fn pin(&self, chain_ids: Vec<String>, blobs: Vec<String>) -> Pin {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        let key = NEXT.fetch_add(1, Ordering::Relaxed);
        self.state().pins.insert(key, Pinned { chain_ids, blobs });
        Pin { images: self.clone(), key }
    }
}

impl Drop for Pin {
    fn drop(&mut self) {
        self.images.state().pins.remove(&self.key);
    }
}

/// Holds an image, as a container does, as long as it lives.
#[derive(Debug)]
pub(crate) struct Held {
    images: Images,
    image: String,
    key: String,
}

impl Images {
    /// Keeps an image from being removed.
    pub(crate) fn keep(&self, asked: &str) -> Result<Held, Error> {
        let key = format!("build-{}", super::unused_name());
        let image = self.hold(asked, &key)?.id;
        Ok(Held { images: self.clone(), image, key })
    }
}

impl Held {
    /// The image's ID.
    pub(crate) fn image(&self) -> &str {
        &self.image
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        // It may have been removed meanwhile.
        if self.images.let_go(&self.key) {
            self.images.collect_later();
        }
    }
}

impl Images {
    /// Removes, in its own time, what nothing needs any more.
    pub(super) fn collect_later(&self) {
        // Without a runtime the daemon ends, and the next start sweeps.
        let Ok(runtime) = tokio::runtime::Handle::try_current() else { return };
        let images = self.clone();
        runtime.spawn(async move {
            let _changing = images.changing().lock().await;
            if let Err(e) = images.collect().await {
                tracing::warn!(error = %e, "layers that were in use are left to be swept at the next start");
            }
        });
    }
}
