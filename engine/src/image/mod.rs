//! Images: archives in and out, the content store, layers unpacked once, references.

mod archive;
mod attestations;
mod built;
mod catalogue;
pub(crate) mod changes;
mod commit;
mod compression;
mod config;
pub(crate) mod extract;
pub(crate) mod feed;
#[cfg(test)]
mod fuzz_tests;
mod growing;
mod inline_cache;
mod layer;
mod naming;
mod packed;
mod partial;
mod pin;
mod progress;
mod pull;
mod push;
mod receive;
mod recipe;
mod reference;
mod remove;
mod save;
mod share;
mod store;
pub(crate) mod tar;
mod transfer;
pub(crate) mod tree;
mod unsynced;
mod upload;
mod usage;
mod whole;

pub use config::{History, Image, ImageConfig};
pub use partial::{PIECE, Partial};
pub use progress::Progress;
pub use pull::{PullRequest, Pulled};
pub use push::PushRequest;
pub use receive::{ImportRequest, LoadedImage};
pub use reference::Reference;
pub use share::{LocatedImage, Makeup, Share};
pub use store::{Images, Removed};
pub use usage::ImageUsage;

pub(crate) use built::Finished;
pub(crate) use catalogue::Holder;
pub(crate) use commit::NewLayer;
pub(crate) use config::{is_rfc3339, rfc3339};
pub(crate) use inline_cache::InlineStep;
pub(crate) use layer::unused_name;
pub(crate) use pin::Held;
