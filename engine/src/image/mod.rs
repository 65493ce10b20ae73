//! Images: archives in and out, the content store, layers unpacked once, references.

mod archive;
mod catalogue;
mod changes;
mod commit;
mod compression;
mod config;
pub(crate) mod extract;
pub(crate) mod feed;
mod layer;
mod receive;
mod reference;
mod remove;
mod save;
mod store;
mod tar;
mod usage;

pub use config::{History, Image, ImageConfig};
pub use receive::LoadedImage;
pub use reference::Reference;
pub use store::{Images, Removed};
pub use usage::ImageUsage;

pub(crate) use catalogue::Holder;
pub(crate) use commit::NewLayer;
use layer::unused_name;
