//! The container engine of one host: images, layers, containers, their shims and logs.
//!
//! Knows nothing of the swarm nor of networks: whoever embeds it supplies a [`Networking`], which
//! hands over a prepared network namespace for containers that ask for one.

pub mod config;
mod container;
mod data_root;
mod engine;
mod error;
mod events;
mod host;
mod image;
mod logs;
mod metadata;
pub mod network;
pub mod runtime;
pub mod shim;

pub use config::*;
pub use container::{AttachOptions, Attached, Exit, WaitCondition};
pub use engine::{Engine, EngineOptions};
pub use error::Error;
pub use events::Event;
pub use host::HostInfo;
pub use image::{History, Image, ImageConfig, Images, LoadedImage, Reference, Removed, SavedArchive};
pub use logs::{LogFrame, LogOptions, StdStream};
pub use network::*;
pub use shim::shim_main;
