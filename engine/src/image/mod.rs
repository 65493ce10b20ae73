//! Images: archives in and out, the content store, layers unpacked once, references.

mod archive;
mod changes;
mod compression;
mod config;
mod extract;
mod layer;
mod reference;
mod remove;
mod save;
mod store;
mod tar;

pub use config::{History, Image, ImageConfig};
pub use reference::Reference;
pub use save::SavedArchive;
pub use store::{Images, LoadedImage, Removed};

use layer::unused_name;
pub(crate) use store::Holder;
