//! Keeps layers and blobs from being collected while a pull or a push needs them.

use std::sync::atomic::{AtomicU64, Ordering};

use super::catalogue::Pinned;
use super::store::Images;

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
