//! How much room images take, and how much of it they share.

use std::collections::HashMap;

use super::store::Images;

/// The room of all images.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ImageUsage {
    /// Bytes of all layers, each counted once.
    pub layers: u64,
    /// By image ID: bytes of its layers that other images have too.
    pub shared: HashMap<String, u64>,
    /// By image ID: containers of it.
    pub containers: HashMap<String, usize>,
}

impl Images {
    /// Counts it up.
    pub fn usage(&self) -> ImageUsage {
        let state = self.state();
        let mut users: HashMap<&str, usize> = HashMap::new();
        for chain in state.images.values().flat_map(|i| &i.image.chain_ids) {
            *users.entry(chain).or_default() += 1;
        }
        let size = |chain: &String| state.layers.get(chain).map_or(0, |l| l.size);
        let mut usage =
            ImageUsage { layers: state.layers.values().map(|l| l.size).sum(), ..Default::default() };
        for image in state.images.values() {
            let shared =
                image.image.chain_ids.iter().filter(|c| users.get(c.as_str()).is_some_and(|n| *n > 1));
            usage.shared.insert(image.image.id.clone(), shared.map(size).sum());
        }
        for holder in state.holders.values() {
            *usage.containers.entry(holder.image_id.clone()).or_default() += 1;
        }
        usage
    }
}
