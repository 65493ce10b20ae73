//! Images: archives in and out, the content store, layers unpacked once, references.

mod archive;
mod catalogue;
mod changes;
mod compression;
mod config;
mod extract;
mod feed;
mod layer;
mod receive;
mod reference;
mod remove;
mod save;
mod store;
mod tar;

pub use config::{History, Image, ImageConfig};
pub use receive::LoadedImage;
pub use reference::Reference;
pub use save::SavedArchive;
pub use store::{Images, Removed};

pub(crate) use catalogue::Holder;
use layer::unused_name;
