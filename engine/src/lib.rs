//! The container engine of one host: images, layers, containers, their shims and logs.
//!
//! Knows nothing of the swarm nor of networks: whoever embeds it supplies a [`Networking`], which
//! hands over a prepared network namespace for containers that ask for one.

pub mod config;
mod data_root;
mod error;
mod events;
mod host;
mod image;
mod metadata;
pub mod network;
pub mod shim;

pub use config::*;
pub use error::Error;
pub use events::Event;
pub use host::HostInfo;
pub use image::{History, Image, ImageConfig, Images, LoadedImage, Reference, Removed, SavedArchive};
pub use network::*;
